//! Partitions, segments, indexes and records.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tidemill_model::{Batch, PartitionId, batch, compression, record};
use tidemill_partition::inspect::{index_file, whole_segment};
use tidemill_partition::segment::{READ_CHUNK_BYTES, Scan, SegmentError, SegmentMeta, load_index};
use tidemill_ring::inspect::{PartitionSummary, Removals, RingSummary};
use tidemill_rt::fs;

use super::InspectArgs;
use super::checkpoints::Names;
use super::report::{Field, Report};

/// What of batches is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Nothing,
    Batches,
    Records,
}

/// What is known where the partitions of a ring are looked at.
pub(super) struct Look<'a> {
    /// The folder of their folders.
    pub(super) partitions: PathBuf,
    /// Names of topics.
    pub(super) names: Option<&'a Names>,
    /// What the ring's log does away with.
    pub(super) removals: Option<&'a Removals>,
    /// What was asked for.
    pub(super) args: &'a InspectArgs,
}

impl Look<'_> {
    /// Whether a segment was done away with after the checkpoint: its files go at any time.
    fn is_removed(&self, summary: &RingSummary, id: PartitionId, meta: &SegmentMeta) -> bool {
        let at = summary.point.index;
        self.removals
            .is_some_and(|removals| removals.covers(id, meta.next_offset, at))
    }
}

/// Every partition of a ring: what its checkpoint says, and its segments as far as they are valid.
pub(super) async fn of_ring(summary: &RingSummary, look: &Look<'_>, report: &mut Report) {
    let show = match (look.args.records, look.args.details) {
        (true, _) => Show::Records,
        (false, true) => Show::Batches,
        (false, false) => Show::Nothing,
    };
    for partition in &summary.partitions {
        let id = partition.id;
        let topic = look.names.and_then(|names| names.get(&id.topic));
        say_partition(partition, topic.map(String::as_str), report);
        let folder = look.partitions.join(format!("{}-{}", id.topic, id.index));
        usable(&folder, report).await;
        for meta in &partition.segments {
            // What was refused stands in the log too: a file that is there is looked at, whatever the log says.
            let missing = async || !fs::exists(&meta.path(&folder)).await.unwrap_or(true);
            if look.is_removed(summary, id, meta) && missing().await {
                say_removed(&folder, meta, report);
                continue;
            }
            segment(&folder, meta, show, report).await;
            checked_index(&folder, meta, report).await;
        }
        // They lie in the checkpoint, whose checksum was right.
        for batch in &partition.carried {
            if show != Show::Nothing {
                say_batch(batch, None, report);
            }
            if show == Show::Records {
                say_records(&folder, batch, None, report);
            }
        }
    }
}

/// A partition whose folder cannot be written is set aside while a broker runs; what it has taken is in the checkpoint.
async fn usable(folder: &Path, report: &mut Report) {
    match fs::list_dir(folder).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let message = format!(
                "the folder of the partition cannot be read: {e}. The partition is set aside: it refuses records, and those \
                 it has taken since are in the checkpoint"
            );
            report.problem(3, folder, None, message);
        }
        _ => {}
    }
}

fn say_removed(folder: &Path, meta: &SegmentMeta, report: &mut Report) {
    let path = meta.path(folder).display().to_string();
    let fields = [
        ("path", json!(path)),
        ("base_offset", json!(meta.base_offset)),
        ("next_offset", json!(meta.next_offset)),
        // Its records were deleted after the checkpoint, or their time was over; the next start knows it from the log.
        ("removed", json!(true)),
    ];
    report.say(3, "segment", fields);
}

fn say_partition(partition: &PartitionSummary, topic: Option<&str>, report: &mut Report) {
    let carried_bytes: usize = partition.carried.iter().map(Batch::len).sum();
    let transforms: Vec<Value> = partition
        .transforms
        .iter()
        .map(|(incarnation, offset)| json!({"incarnation": incarnation.0, "offset": offset}))
        .collect();
    report.say(
        2,
        "partition",
        [
            ("topic", json!(topic)),
            ("topic_id", json!(partition.id.topic.to_string())),
            ("partition", json!(partition.id.index)),
            ("log_start_offset", json!(partition.log_start_offset)),
            ("high_watermark", json!(partition.high_watermark)),
            ("segments", json!(partition.segments.len())),
            ("carried_bytes", json!(carried_bytes)),
            ("producers", json!(partition.producers)),
            ("transforms", json!(transforms)),
        ],
    );
}

/// The index of a segment against the checksum in the checkpoint. A damaged one is made anew at start, so it is no damage.
async fn checked_index(folder: &Path, meta: &SegmentMeta, report: &mut Report) {
    let path = meta.index_path(folder);
    let there = fs::exists(&path).await.unwrap_or(false);
    match load_index(folder, meta).await {
        Ok(entries) => report.say(
            3,
            "index",
            [
                ("path", json!(path.display().to_string())),
                ("there", json!(there)),
                ("entries", json!(entries.len())),
            ],
        ),
        Err(error) => told(3, &path, error, report),
    }
}

/// A segment file by itself; every byte of it is taken for valid.
pub(super) async fn file(path: &Path, records: bool, report: &mut Report) {
    match whole_segment(path).await {
        Ok(Some((folder, meta))) => {
            let show = if records {
                Show::Records
            } else {
                Show::Batches
            };
            segment(&folder, &meta, show, report).await;
        }
        Ok(None) => {
            let message =
                "a segment is named by the offset of its first record, this is not".to_owned();
            report.problem(0, path, None, message);
        }
        Err(error) => told(0, path, error, report),
    }
}

/// An index file by itself.
pub(super) async fn index(path: &Path, details: bool, report: &mut Report) {
    let (mut count, mut last, mut order) = (0u64, None, true);
    let read = index_file(path, &mut |entry| {
        order &= last
            .is_none_or(|(offset, position)| offset < entry.offset && position < entry.position);
        last = Some((entry.offset, entry.position));
        count += 1;
        if details {
            report.say(
                1,
                "entry",
                [
                    ("offset", json!(entry.offset)),
                    ("position", json!(entry.position)),
                    ("max_timestamp_ms", json!(entry.max_timestamp)),
                ],
            );
        }
    })
    .await;
    match read {
        Ok(left_over) => {
            report.say(
                0,
                "index",
                [
                    ("path", json!(path.display().to_string())),
                    ("entries", json!(count)),
                ],
            );
            if left_over > 0 || !order {
                let message =
                    "entries are cut or out of order; a start makes the index anew".to_owned();
                report.problem(0, path, None, message);
            }
        }
        Err(error) => told(0, path, error, report),
    }
}

async fn segment(folder: &Path, meta: &SegmentMeta, show: Show, report: &mut Report) {
    let path = meta.path(folder);
    let (mut batches, mut records, mut next) = (0u64, 0i64, meta.base_offset);
    let scanned = async {
        let mut scan = Scan::open(folder, meta, None, READ_CHUNK_BYTES).await?;
        loop {
            let position = scan.position();
            let Some(batch) = scan.next().await? else {
                return Ok(());
            };
            batches += 1;
            records += i64::from(batch.header.record_count);
            next = batch.header.next_offset();
            if show != Show::Nothing {
                say_batch(&batch, Some(position), report);
            }
            if show == Show::Records {
                say_records(&path, &batch, Some(position), report);
            }
        }
    };
    let result: Result<(), SegmentError> = scanned.await;
    report.say(
        3,
        "segment",
        [
            ("path", json!(path.display().to_string())),
            ("base_offset", json!(meta.base_offset)),
            ("next_offset", json!(next)),
            ("bytes", json!(meta.bytes)),
            ("batches", json!(batches)),
            ("records", json!(records)),
        ],
    );
    if let Err(error) = result {
        told(3, &path, error, report);
    }
}

fn told(depth: usize, path: &Path, error: SegmentError, report: &mut Report) {
    match error {
        SegmentError::Damaged {
            path,
            position,
            reason,
        } => report.problem(depth, &path, Some(position), reason),
        SegmentError::Io { error, .. } => report.problem(depth, path, None, error.to_string()),
    }
}

fn say_batch(batch: &Batch, position: Option<u64>, report: &mut Report) {
    let h = &batch.header;
    let codec = h
        .compression()
        .map_or("unknown".to_owned(), |c| format!("{c:?}").to_lowercase());
    report.say(
        4,
        "batch",
        [
            ("position", json!(position)),
            ("base_offset", json!(h.base_offset)),
            ("records", json!(h.record_count)),
            ("bytes", json!(batch.len())),
            ("leader_epoch", json!(h.leader_epoch)),
            ("base_timestamp_ms", json!(h.base_timestamp)),
            ("max_timestamp_ms", json!(h.max_timestamp)),
            ("compression", json!(codec)),
            ("producer_id", json!(h.producer_id)),
            ("producer_epoch", json!(h.producer_epoch)),
            ("base_sequence", json!(h.base_sequence)),
            ("transactional", json!(h.is_transactional())),
            ("control", json!(h.is_control())),
            ("crc", json!("ok")),
        ],
    );
}

fn say_records(path: &Path, batch: &Batch, position: Option<u64>, report: &mut Report) {
    if let Err(message) = try_records(batch, report) {
        report.problem(5, path, position, message);
    }
}

fn try_records(batch: &Batch, report: &mut Report) -> Result<(), String> {
    let h = &batch.header;
    let codec = h.compression().map_err(|e| e.to_string())?;
    let section = batch.bytes.slice(batch::HEADER_BYTES..);
    let section = compression::decompress(codec, &section, batch::UNCOMPRESSED_BYTES_MAX)
        .map_err(|e| e.to_string())?;
    for record in record::Records::new(&section, h.record_count) {
        let record = record.map_err(|e| e.to_string())?;
        let mut headers = Vec::new();
        for header in record.headers {
            let (key, value) = header.map_err(|e| e.to_string())?;
            headers.push(json!({"key": words(key), "value": value.map(words)}));
        }
        let fields: [Field; 5] = [
            (
                "offset",
                json!(h.base_offset.saturating_add(i64::from(record.offset_delta))),
            ),
            (
                "timestamp_ms",
                json!(h.base_timestamp.saturating_add(record.timestamp_delta)),
            ),
            ("key", json!(record.key.map(words))),
            ("value", json!(record.value.map(words))),
            ("headers", json!(headers)),
        ];
        report.say(5, "record", fields);
    }
    Ok(())
}

/// Bytes as text; what is no UTF-8 is replaced.
fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
