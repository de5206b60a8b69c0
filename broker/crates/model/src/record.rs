//! Records inside an uncompressed record section: reading them in place, checking them, making batches of them.
//!
//! A section is what follows a batch's header. A producer or a guest wrote it, so no length in it is trusted, and
//! nothing is allocated by one.

mod build;
#[cfg(test)]
mod tests;

pub use build::{
    BatchBuilder, NewRecord, Producer, SplitBatch, SplitError, batch_from_section, compress_batch,
    set_log_append_time, split_section, split_section_by,
};

use crate::batch::BatchError;
use crate::varint::{read_varint, read_varlong};

/// A record in place.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// Unused by Kafka so far.
    pub attributes: i8,
    /// Its timestamp minus the batch's base timestamp, in ms.
    pub timestamp_delta: i64,
    /// Its offset minus the batch's base offset.
    pub offset_delta: i32,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
    /// Everything from the key's length on, as it lies in the section.
    body: &'a [u8],
}

/// The headers of a record: an iterator over key and value, in order, duplicates kept (KIP-82).
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    left: i32,
}

impl<'a> Headers<'a> {
    /// Headers that are still to come, as the record claims.
    pub fn len(&self) -> usize {
        self.left.max(0) as usize
    }

    /// Whether none is to come.
    pub fn is_empty(&self) -> bool {
        self.left <= 0
    }

    /// The encoded headers, without their count.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<(&'a [u8], Option<&'a [u8]>), BatchError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            if self.bytes.is_empty() {
                return None;
            }
            self.bytes = &[];
            return Some(Err(BatchError::Record("bytes follow its last header")));
        }
        self.left -= 1;
        let mut reader = Reader(self.bytes);
        let header = reader.header();
        match header {
            Ok(_) => self.bytes = reader.0,
            Err(_) => {
                *self = Headers {
                    bytes: &[],
                    left: 0,
                }
            }
        }
        Some(header)
    }
}

/// Iterates over the records of a section. After the first error it ends.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: i32,
}

impl<'a> Records<'a> {
    /// The records of `section`, of which its batch's header says that there are `count`. Bytes left after them are
    /// an error, given as last item; so is a negative count.
    pub fn new(section: &'a [u8], count: i32) -> Records<'a> {
        Records {
            rest: section,
            left: count,
        }
    }

    /// Bytes of the section that are still to be read.
    pub fn bytes_left(&self) -> usize {
        self.rest.len()
    }

    fn fail(&mut self, error: BatchError) -> Option<Result<RecordRef<'a>, BatchError>> {
        *self = Records { rest: &[], left: 0 };
        Some(Err(error))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return match (self.left, self.rest.is_empty()) {
                (0, true) => None,
                (0, false) => self.fail(BatchError::Record("bytes follow the last record")),
                _ => self.fail(BatchError::Record("negative record count")),
            };
        }
        let mut reader = Reader(self.rest);
        match reader.record() {
            Ok(record) => {
                self.rest = reader.0;
                self.left -= 1;
                Some(Ok(record))
            }
            Err(e) => self.fail(e),
        }
    }
}

/// What a walk over a section found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionInfo {
    /// Smallest timestamp delta, in ms.
    pub min_timestamp_delta: i64,
    /// Largest timestamp delta, in ms.
    pub max_timestamp_delta: i64,
    /// Offset delta of the first record with that largest timestamp.
    pub max_timestamp_at: i32,
    /// Records without a key (compacted topics refuse them).
    pub without_key: i32,
    /// Bytes of the largest record with its length.
    pub largest_record_bytes: usize,
}

/// Walks a whole section strictly: `count` records (at least one) with offset deltas 0, 1, 2 and so on, headers that
/// fill their record, not a byte unused. For what a guest returned, before anything else looks at it.
///
/// # Errors
/// [`BatchError::Record`] says what is wrong with the first bad record.
pub fn check_section(section: &[u8], count: i32) -> Result<SectionInfo, BatchError> {
    if count < 1 {
        return Err(BatchError::Count {
            count,
            last_offset_delta: count.saturating_sub(1),
        });
    }
    let mut info = SectionInfo {
        min_timestamp_delta: i64::MAX,
        max_timestamp_delta: i64::MIN,
        max_timestamp_at: 0,
        without_key: 0,
        largest_record_bytes: 0,
    };
    let mut reader = Reader(section);
    for expected in 0..count {
        let before = reader.0.len();
        let record = reader.record()?;
        if record.offset_delta != expected {
            return Err(BatchError::Record("offset deltas do not count up from 0"));
        }
        for header in record.headers {
            header?;
        }
        info.min_timestamp_delta = info.min_timestamp_delta.min(record.timestamp_delta);
        if record.timestamp_delta > info.max_timestamp_delta || expected == 0 {
            info.max_timestamp_delta = record.timestamp_delta;
            info.max_timestamp_at = expected;
        }
        info.without_key += i32::from(record.key.is_none());
        info.largest_record_bytes = info.largest_record_bytes.max(before - reader.0.len());
    }
    if !reader.0.is_empty() {
        return Err(BatchError::Record("bytes follow the last record"));
    }
    Ok(info)
}

/// A cursor that checks every length against what is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn record(&mut self) -> Result<RecordRef<'a>, BatchError> {
        let len = self.varint("its length is cut or too long")?;
        let len = usize::try_from(len).map_err(|_| BatchError::Record("its length is negative"))?;
        let mut inner = Reader(self.take(len, "it is longer than its section")?);
        let attributes = inner.take(1, "it has no attributes")?[0] as i8;
        let (timestamp_delta, used) = read_varlong(inner.0)
            .map_err(|_| BatchError::Record("its timestamp is cut or too long"))?;
        inner.0 = &inner.0[used..];
        let offset_delta = inner.varint("its offset is cut or too long")?;
        let body = inner.0;
        let key = inner.nullable("its key is longer than the record")?;
        let value = inner.nullable("its value is longer than the record")?;
        let count = inner.varint("its header count is cut or too long")?;
        // A header is at least two bytes: the lengths of its key and value.
        let fits = usize::try_from(count).is_ok_and(|n| n <= inner.0.len() / 2);
        if !fits {
            return Err(BatchError::Record("its header count does not fit"));
        }
        if count == 0 && !inner.0.is_empty() {
            return Err(BatchError::Record("bytes follow its last header"));
        }
        let headers = Headers {
            bytes: inner.0,
            left: count,
        };
        Ok(RecordRef {
            attributes,
            timestamp_delta,
            offset_delta,
            key,
            value,
            headers,
            body,
        })
    }

    fn header(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>), BatchError> {
        let key = self.nullable("a header's key is longer than the record")?;
        let key = key.ok_or(BatchError::Record("a header has no key"))?;
        let value = self.nullable("a header's value is longer than the record")?;
        Ok((key, value))
    }

    fn varint(&mut self, what: &'static str) -> Result<i32, BatchError> {
        let (value, used) = read_varint(self.0).map_err(|_| BatchError::Record(what))?;
        self.0 = &self.0[used..];
        Ok(value)
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(BatchError::Record(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn nullable(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, BatchError> {
        match self.varint(what)? {
            -1 => Ok(None),
            len => {
                let len =
                    usize::try_from(len).map_err(|_| BatchError::Record("a length below -1"))?;
                self.take(len, what).map(Some)
            }
        }
    }
}
