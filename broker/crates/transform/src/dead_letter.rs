//! Records handed on by the broker itself: dead letters, and records passed through unchanged.

use tidemill_model::Offset;
use tidemill_model::partitioner::partition_for_key;
use tidemill_model::record::{BatchBuilder, NewRecord, RecordRef};
use tidemill_wasm_host::{Destination, OutputBatch};

/// Largest record or unreadable batch that is handed on, in bytes.
pub const HANDED_ON_BYTES_MAX: usize = 16 << 20;

/// Who says that a record is dead, and where it came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The transform.
    pub transform: &'a str,
    /// Its version.
    pub version: u32,
    /// The input topic.
    pub topic: &'a str,
    /// The input partition.
    pub partition: i32,
    /// The record's offset there.
    pub offset: Offset,
}

fn single(output: u32, to: Destination, record: NewRecord<'_>) -> OutputBatch {
    let mut builder = BatchBuilder::new();
    builder.append(record);
    OutputBatch {
        output,
        to,
        records: 1,
        batch: builder.build(),
    }
}

type Headers<'a> = Vec<(&'a [u8], Option<&'a [u8]>)>;

/// The headers of a record, and whether that is all of them: those after a malformed one cannot be read.
fn headers<'a>(record: &RecordRef<'a>) -> (Headers<'a>, bool) {
    let mut all = Vec::new();
    for header in record.headers {
        match header {
            Ok(header) => all.push(header),
            Err(_) => return (all, false),
        }
    }
    (all, true)
}

/// The record as it came, for `output`: where its key says, if that has `by_key` partitions among which keys choose, otherwise by
/// the input. `None` when that cannot be done: its headers are malformed, or it is larger than `bytes_max`.
pub fn pass_through(
    (output, by_key): (u32, Option<u32>),
    record: &RecordRef<'_>,
    timestamp: i64,
    bytes_max: usize,
) -> Option<OutputBatch> {
    let (headers, true) = headers(record) else {
        return None;
    };
    if bytes(record) > bytes_max {
        return None;
    }
    let to = match (by_key, record.key) {
        (Some(partitions), Some(key)) => {
            let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
            Destination::Partition(partition_for_key(key, partitions))
        }
        _ => Destination::ByInput,
    };
    let record = NewRecord {
        timestamp,
        key: record.key,
        value: record.value,
        headers: &headers,
    };
    Some(single(output, to, record))
}

/// What died.
#[derive(Debug, Clone, Copy)]
pub enum Dead<'a> {
    /// A record.
    Record(&'a RecordRef<'a>),
    /// What stands after the header of a batch whose records cannot be told apart.
    Batch(&'a [u8]),
}

/// The record with headers that say what happened: key, value and headers are kept, the new ones come last. Of something
/// larger than `bytes_max` only the new headers are kept, and the error says so.
pub fn dead_letter(
    output: u32,
    dead: Dead<'_>,
    timestamp: i64,
    origin: Origin<'_>,
    error: &str,
    bytes_max: usize,
) -> OutputBatch {
    let (key, value, size, (mut all, all_headers)) = match dead {
        Dead::Record(record) => (record.key, record.value, bytes(record), headers(record)),
        Dead::Batch(raw) => (None, Some(raw), raw.len(), (Vec::new(), true)),
    };
    let mut error = error.to_owned();
    if !all_headers {
        error.push_str(" (its headers are malformed; those after the fault are left out)");
    }
    let too_large = size > bytes_max;
    if too_large {
        error.push_str(&format!(" (its {size} bytes are too many to be kept)"));
        all.clear();
    }
    let version = origin.version.to_string();
    let partition = origin.partition.to_string();
    let offset = origin.offset.to_string();
    all.extend([
        (&b"tidemill.error"[..], Some(error.as_bytes())),
        (b"tidemill.transform", Some(origin.transform.as_bytes())),
        (b"tidemill.version", Some(version.as_bytes())),
        (b"tidemill.input.topic", Some(origin.topic.as_bytes())),
        (b"tidemill.input.partition", Some(partition.as_bytes())),
        (b"tidemill.input.offset", Some(offset.as_bytes())),
    ]);
    let record = NewRecord {
        timestamp,
        key: key.filter(|_| !too_large),
        value: value.filter(|_| !too_large),
        headers: &all,
    };
    single(output, Destination::ByInput, record)
}

fn bytes(record: &RecordRef<'_>) -> usize {
    let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    len(record.key) + len(record.value) + record.headers.raw().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(key: Option<&[u8]>, by_key: Option<u32>) -> OutputBatch {
        let mut builder = BatchBuilder::new();
        builder.append(NewRecord {
            timestamp: 7,
            key,
            value: Some(b"as it came"),
            headers: &[],
        });
        let batch = builder.build();
        let section = &batch[tidemill_model::batch::HEADER_BYTES..];
        let record = tidemill_model::record::Records::new(section, 1).next();
        let record = record.expect("it has one").expect("it is well formed");
        pass_through((0, by_key), &record, 7, 1 << 20).expect("it is small")
    }

    #[test]
    fn record_passed_through_goes_where_its_key_says_if_nobody_else_says_it() {
        for key in [&b"a"[..], b"b", b"customer-17"] {
            let to = Destination::Partition(partition_for_key(key, 12));
            assert_eq!(passed(Some(key), Some(12)).to, to);
            assert_eq!(passed(Some(key), None).to, Destination::ByInput);
        }
        assert_eq!(passed(None, Some(12)).to, Destination::ByInput);
    }
}
