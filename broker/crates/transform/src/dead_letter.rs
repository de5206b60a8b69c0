//! Records handed on by the broker itself: dead letters, and records passed through unchanged.

use tidemill_model::Offset;
use tidemill_model::record::{BatchBuilder, NewRecord, RecordRef};
use tidemill_wasm_host::OutputBatch;

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

fn single(output: u32, record: NewRecord<'_>) -> OutputBatch {
    let mut builder = BatchBuilder::new();
    builder.append(record);
    OutputBatch {
        output,
        records: 1,
        batch: builder.build(),
    }
}

fn headers<'a>(record: &RecordRef<'a>) -> Vec<(&'a [u8], Option<&'a [u8]>)> {
    record.headers.filter_map(Result::ok).collect()
}

/// The record as it came, for `output`.
pub fn pass_through(output: u32, record: &RecordRef<'_>, timestamp: i64) -> OutputBatch {
    single(
        output,
        NewRecord {
            timestamp,
            key: record.key,
            value: record.value,
            headers: &headers(record),
        },
    )
}

/// The record with headers that say what happened: key, value and headers are kept, the new ones come last.
pub fn dead_letter(
    output: u32,
    record: Option<&RecordRef<'_>>,
    raw: &[u8],
    timestamp: i64,
    origin: Origin<'_>,
    error: &str,
) -> OutputBatch {
    let version = origin.version.to_string();
    let partition = origin.partition.to_string();
    let offset = origin.offset.to_string();
    let mut all = record.map(headers).unwrap_or_default();
    all.extend([
        (&b"tidemill.error"[..], Some(error.as_bytes())),
        (b"tidemill.transform", Some(origin.transform.as_bytes())),
        (b"tidemill.version", Some(version.as_bytes())),
        (b"tidemill.input.topic", Some(origin.topic.as_bytes())),
        (b"tidemill.input.partition", Some(partition.as_bytes())),
        (b"tidemill.input.offset", Some(offset.as_bytes())),
    ]);
    single(
        output,
        NewRecord {
            timestamp,
            key: record.and_then(|r| r.key),
            value: record.map_or(Some(raw), |r| r.value),
            headers: &all,
        },
    )
}
