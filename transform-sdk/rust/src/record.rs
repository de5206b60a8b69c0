//! A record of the input, read in place.

use crate::new_record::NewRecord;
use crate::varint::take_varint;

/// A record of the input. Its parts are slices of the batch; copying one is cheap.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Headers<'a>,
    pub(crate) timestamp: i64,
    pub(crate) offset: i64,
    pub(crate) partition: u32,
}

impl<'a> Record<'a> {
    /// The key, if it has one.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value; none is a tombstone (in a compacted topic: delete this key).
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers, in order. A key may occur more than once.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }

    /// The value of the first header called `key`, if there is one and it is not null.
    pub fn header(&self, key: &str) -> Option<&'a [u8]> {
        self.headers
            .into_iter()
            .find(|h| h.key == key.as_bytes())?
            .value
    }

    /// Its timestamp, in ms since the Unix epoch.
    #[inline]
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    /// Its offset in its partition of the input topic.
    #[inline]
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The partition of the input topic that it came from.
    #[inline]
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// A record like this one (key, value, headers, timestamp), to be changed and written.
    #[inline]
    pub fn edit(&self) -> NewRecord<'a> {
        NewRecord::from(*self)
    }
}

/// A header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its key. Kafka means it to be UTF-8; a client may have sent anything.
    pub key: &'a [u8],
    /// Its value, if it has one.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, in order: an iterator. They were checked when the record was read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    pub(crate) count: u32,
    /// The encoded headers, without their count.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Headers still to come.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether none is to come.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Checks `count` headers that fill `bytes` to the end.
    pub(crate) fn checked(count: i32, bytes: &'a [u8]) -> Result<Headers<'a>, &'static str> {
        if count == 0 && bytes.is_empty() {
            return Ok(Headers::default());
        }
        let count =
            u32::try_from(count).map_err(|_| "a record has a negative number of headers")?;
        let mut rest = bytes;
        for _ in 0..count {
            take_header(&mut rest).ok_or("a header is malformed")?;
        }
        if !rest.is_empty() {
            return Err("bytes follow a record's last header");
        }
        Ok(Headers { count, bytes })
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.count = self.count.checked_sub(1)?;
        take_header(&mut self.bytes)
    }
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Option<Header<'a>> {
    let key = take_nullable(bytes)??;
    let value = take_nullable(bytes)?;
    Some(Header { key, value })
}

/// Takes bytes with their length in front; a length of -1 is null. The outer `None` means malformed.
#[inline]
pub(crate) fn take_nullable<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = take_varint(bytes)?;
    if len == -1 {
        return Some(None);
    }
    let (taken, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(Some(taken))
}
