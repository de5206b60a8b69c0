//! Records through the admin API: what `transform produce` and `transform consume` do.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tidemill_controller::Topic;
use tidemill_model::batch::Compression;
use tidemill_model::record::{BatchBuilder, NewRecord as BatchRecord, Records};
use tidemill_model::{Batch, BatchError, BatchHeader, Offset, PartitionId, compression};
use tidemill_ring::{Isolation, ReadError};
use tidemill_rt::{rand, task, time};

use crate::admin::ApiError;
use crate::admin::records::{NewRecord, ReadQuery, ReadRecord, ReadRecords, partition_for_key};
use crate::admin::types::{OffsetRange, Produced, StartFrom};
use crate::shard::Shard;
use crate::topics::{TopicError, now_ms};

/// Bytes a batch made for the admin API may reach before the next begins.
const BATCH_BYTES: usize = 512 << 10;
/// Largest uncompressed record section read back, in bytes.
const SECTION_BYTES_MAX: usize = 100 << 20;

/// The error a client of the admin API sees for a missing topic.
pub(crate) fn topic_not_found(name: &str) -> ApiError {
    let message = format!("topic '{name}' does not exist; see: transform topic list");
    ApiError::not_found("topic_not_found", message)
}

impl Shard {
    /// Writes records to a topic, made if missing, and waits until they are durable.
    pub(crate) async fn produce_records(
        self: &Rc<Shard>,
        topic: &str,
        records: Vec<NewRecord>,
    ) -> Result<Produced, ApiError> {
        let topic = self.topic_or_create(topic).await.map_err(api_error)?;
        let mut by_partition: BTreeMap<i32, Vec<NewRecord>> = BTreeMap::new();
        let sticky = rand::below(topic.rings.len() as u64) as i32;
        for record in records {
            let partition = choose(&topic, &record, sticky)?;
            by_partition.entry(partition).or_default().push(record);
        }
        let pending = by_partition.into_iter().map(|(index, records)| {
            let (shard, topic) = (self.clone(), topic.clone());
            async move { (index, shard.produce_partition(&topic, index, records).await) }
        });
        let mut produced = Produced::default();
        for (index, result) in join_all(pending).await {
            let range = result?;
            produced.written += (range.last - range.first + 1) as u64;
            produced.partitions.insert(index, range);
        }
        Ok(produced)
    }

    async fn produce_partition(
        self: &Rc<Shard>,
        topic: &Arc<Topic>,
        index: i32,
        records: Vec<NewRecord>,
    ) -> Result<OffsetRange, ApiError> {
        let limit =
            tidemill_controller::configs::integer(&topic.configs, "max.message.bytes") as usize;
        let batches = build_batches(&records, limit)?;
        let partition = topic.partition(index);
        let (ring, shard) = self
            .locate(partition)
            .ok_or_else(|| topic_not_found(&topic.name))?;
        let name = topic.name.clone();
        let appended = self.on(shard, move |shard| async move {
            let counters = shard.metrics.topic(&name);
            let mut range: Option<OffsetRange> = None;
            for (header, batch) in batches {
                let ring = shard.ring(ring).ok_or("its ring is not here")?;
                let bytes = batch.len() as u64;
                let done = ring
                    .append(partition, header, batch, now_ms())
                    .await
                    .map_err(|e| e.to_string())?;
                counters.records_in.add(header.record_count as u64);
                counters.bytes_in.add(bytes);
                let last = done.base_offset + i64::from(header.last_offset_delta);
                let first = range.map_or(done.base_offset, |r| r.first);
                range = Some(OffsetRange { first, last });
            }
            range.ok_or_else(|| "nothing to write".to_owned())
        });
        let appended: Result<OffsetRange, String> = appended.await.map_err(gone)?;
        appended.map_err(|e| {
            let message = format!(
                "partition {index} did not take the records: {e}; some may have been written"
            );
            ApiError::unavailable("not_written", message)
        })
    }

    /// Reads records of a topic from positions or ends, waiting a little when there are none.
    pub(crate) async fn read_records(
        self: &Rc<Shard>,
        topic: &str,
        query: ReadQuery,
    ) -> Result<ReadRecords, ApiError> {
        let topic = self
            .image()
            .topic(topic)
            .cloned()
            .ok_or_else(|| topic_not_found(topic))?;
        let deadline = time::Instant::now() + std::time::Duration::from_millis(query.wait_ms);
        let mut positions = self.start_positions(&topic, &query).await?;
        loop {
            let mut found = ReadRecords::default();
            let (mut records_left, mut bytes_left) = (query.max, query.max_bytes);
            for index in 0..topic.partition_count() {
                if records_left == 0 || bytes_left == 0 {
                    break;
                }
                let from = positions[&index];
                let run = self.read_partition(&topic, index, from, bytes_left).await?;
                let mut next = run.next;
                for record in run.records {
                    if records_left == 0 {
                        next = record.offset;
                        break;
                    }
                    records_left -= 1;
                    bytes_left = bytes_left.saturating_sub(weight(&record));
                    found.records.push(record);
                }
                positions.insert(index, next);
            }
            if !found.records.is_empty() || time::Instant::now() >= deadline || self.is_stopping() {
                found.next = positions;
                return Ok(found);
            }
            // Partitions of several shards cannot be waited for together cheaply; people read this way, programs fetch.
            time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn start_positions(
        self: &Rc<Shard>,
        topic: &Arc<Topic>,
        query: &ReadQuery,
    ) -> Result<BTreeMap<i32, Offset>, ApiError> {
        let mut positions = BTreeMap::new();
        for index in 0..topic.partition_count() {
            let position = match query.positions.get(&index) {
                Some(position) => *position,
                None => {
                    let view = self.partition_view(topic.partition(index)).await?;
                    match query.from {
                        StartFrom::Earliest => view.log_start_offset,
                        StartFrom::Latest => view.last_stable_offset,
                    }
                }
            };
            positions.insert(index, position);
        }
        Ok(positions)
    }

    /// What is known of a partition, from whatever shard it is on.
    pub(crate) async fn partition_view(
        self: &Rc<Shard>,
        partition: PartitionId,
    ) -> Result<tidemill_ring::PartitionView, ApiError> {
        let missing = || {
            ApiError::not_found(
                "partition_not_found",
                format!("partition {partition} does not exist"),
            )
        };
        let (ring, shard) = self.locate(partition).ok_or_else(missing)?;
        let view = self.on(shard, move |shard| async move {
            shard.ring(ring).and_then(|ring| ring.view(partition))
        });
        view.await.map_err(gone)?.ok_or_else(missing)
    }

    async fn read_partition(
        self: &Rc<Shard>,
        topic: &Arc<Topic>,
        index: i32,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Run, ApiError> {
        let partition = topic.partition(index);
        let (ring, shard) = self
            .locate(partition)
            .ok_or_else(|| topic_not_found(&topic.name))?;
        let read = self.on(shard, move |shard| async move {
            let ring = shard.ring(ring).ok_or(ReadError::UnknownPartition)?.clone();
            ring.read(partition, from, max_bytes.max(1), Isolation::ReadCommitted)
                .await
        });
        let read = match read.await.map_err(gone)? {
            Ok(read) => read,
            Err(ReadError::OffsetOutOfRange {
                log_start_offset,
                high_watermark,
                ..
            }) => {
                let next = from.clamp(log_start_offset, high_watermark);
                return Ok(Run {
                    records: Vec::new(),
                    next,
                    from,
                    bytes: 0,
                });
            }
            Err(e) => return Err(ApiError::internal(format!("partition {index}: {e}"))),
        };
        let mut run = Run {
            records: Vec::new(),
            next: from,
            from,
            bytes: 0,
        };
        for batch in &read.batches {
            run.next = batch.header.next_offset();
            if batch.header.is_control() {
                continue;
            }
            let section = plain_section(index, batch).await?;
            if let Some(next) = unpack(index, batch, &section, &mut run.room(max_bytes))? {
                run.next = next;
                break;
            }
        }
        Ok(run)
    }
}

/// Records of one partition, as far as they were read.
struct Run {
    records: Vec<ReadRecord>,
    next: Offset,
    from: Offset,
    bytes: usize,
}

/// Where records go, and how many bytes of them there may be in all.
struct Room<'a> {
    run: &'a mut Run,
    max_bytes: usize,
}

impl Run {
    fn room(&mut self, max_bytes: usize) -> Room<'_> {
        Room {
            run: self,
            max_bytes,
        }
    }
}

fn weight(record: &ReadRecord) -> usize {
    let of = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
    64 + of(&record.key) + of(&record.value)
}

fn choose(topic: &Topic, record: &NewRecord, sticky: i32) -> Result<i32, ApiError> {
    match (record.partition, &record.key) {
        (Some(p), _) if (0..topic.partition_count()).contains(&p) => Ok(p),
        (Some(p), _) => {
            let message = format!(
                "topic '{}' has no partition {p}, only 0 to {}",
                topic.name,
                topic.partition_count() - 1
            );
            Err(ApiError::bad_request("unknown_partition", message))
        }
        (None, Some(key)) => Ok(partition_for_key(key, topic.partition_count())),
        (None, None) => Ok(sticky),
    }
}

fn build_batches(
    records: &[NewRecord],
    limit: usize,
) -> Result<Vec<(BatchHeader, Bytes)>, ApiError> {
    let now = now_ms();
    let mut out = Vec::new();
    let mut builder = BatchBuilder::new();
    let mut flush = |builder: BatchBuilder| -> Result<(), ApiError> {
        let batch = builder.build();
        if batch.len() > limit {
            let message = format!(
                "a record of {} bytes is larger than the topic's max.message.bytes, {limit}",
                batch.len()
            );
            return Err(ApiError::new(413, "record_too_large", message));
        }
        let header =
            BatchHeader::validate(&batch).map_err(|e| ApiError::internal(e.to_string()))?;
        out.push((header, batch));
        Ok(())
    };
    for record in records {
        let size =
            record.value.as_ref().map_or(0, Bytes::len) + record.key.as_ref().map_or(0, Bytes::len);
        if !builder.is_empty() && builder.bytes() + size + 128 > BATCH_BYTES.min(limit) {
            flush(std::mem::take(&mut builder))?;
        }
        let headers: Vec<(&[u8], Option<&[u8]>)> = record
            .headers
            .iter()
            .map(|(k, v)| (k.as_bytes(), v.as_deref()))
            .collect();
        builder.append(BatchRecord {
            timestamp: now,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        });
    }
    if !builder.is_empty() {
        flush(builder)?;
    }
    Ok(out)
}

fn damaged(index: i32, batch: &Batch, e: &dyn std::fmt::Display) -> ApiError {
    let offset = batch.header.base_offset;
    ApiError::internal(format!("partition {index}, offset {offset}: {e}"))
}

/// The record section of `batch`, uncompressed on a helper thread: that may take long.
async fn plain_section(index: i32, batch: &Batch) -> Result<Bytes, ApiError> {
    let codec = batch.header.compression();
    let codec = codec.map_err(|e| damaged(index, batch, &e))?;
    let section = batch.bytes.slice(tidemill_model::batch::HEADER_BYTES..);
    if codec == Compression::None {
        return Ok(section);
    }
    let unpacking = move || compression::decompress(codec, &section, SECTION_BYTES_MAX);
    let plain = task::blocking(unpacking).await;
    plain
        .map(Bytes::from)
        .map_err(|e| damaged(index, batch, &e))
}

/// Takes the records of `section` out until there are enough; the offset to go on from is given then.
fn unpack(
    index: i32,
    batch: &Batch,
    section: &Bytes,
    room: &mut Room<'_>,
) -> Result<Option<Offset>, ApiError> {
    let damaged = |e: BatchError| damaged(index, batch, &e);
    for record in Records::new(section, batch.header.record_count) {
        let record = record.map_err(damaged)?;
        let offset = batch.header.base_offset + i64::from(record.offset_delta);
        if offset < room.run.from {
            continue;
        }
        if room.run.bytes >= room.max_bytes {
            return Ok(Some(offset));
        }
        let owned = |b: Option<&[u8]>| b.map(Bytes::copy_from_slice);
        let mut headers = Vec::new();
        for header in record.headers {
            let (key, value) = header.map_err(damaged)?;
            headers.push((String::from_utf8_lossy(key).into_owned(), owned(value)));
        }
        let record = ReadRecord {
            partition: index,
            offset,
            timestamp: if batch.header.is_log_append_time() {
                batch.header.max_timestamp
            } else {
                batch
                    .header
                    .base_timestamp
                    .saturating_add(record.timestamp_delta)
            },
            key: owned(record.key),
            value: owned(record.value),
            headers,
        };
        room.run.bytes += weight(&record);
        room.run.records.push(record);
    }
    Ok(None)
}

/// A stopped shard, as the admin API says it.
pub(crate) fn gone(e: crate::shard::ShardGone) -> ApiError {
    ApiError::unavailable("shutting_down", e.to_string())
}

/// A topic error, as the admin API says it.
pub(crate) fn api_error(e: TopicError) -> ApiError {
    use tidemill_controller::{ControllerError, Refusal};
    let message = e.to_string();
    match e {
        TopicError::Name(_) => ApiError::bad_request("invalid_topic_name", message),
        TopicError::Internal(_) => ApiError::bad_request("internal_topic", message),
        TopicError::Partitions(_) => ApiError::bad_request("invalid_partitions", message),
        TopicError::Replicas(_) => ApiError::bad_request("invalid_replicas", message),
        TopicError::Config(_) => ApiError::bad_request("invalid_config", message),
        TopicError::Controller(ControllerError::Refused(refusal)) => match refusal {
            Refusal::TopicInUse { .. } => ApiError::conflict("topic_in_use", message),
            Refusal::TopicExists(_) => ApiError::conflict("topic_exists", message),
            Refusal::TopicCollides(..) => ApiError::conflict("topic_collides", message),
            Refusal::NoSuchTopic(_) => ApiError::not_found("topic_not_found", message),
            Refusal::NoSuchTransform(_) => ApiError::not_found("transform_not_found", message),
            Refusal::Deleting(_) => ApiError::conflict("transform_deleting", message),
            Refusal::InputChanged { .. } => ApiError::conflict("input_changed", message),
            Refusal::Cycle(_) => ApiError::conflict("cycle", message),
            Refusal::Outputs(_) => ApiError::bad_request("invalid_outputs", message),
            Refusal::Limit(_) => ApiError::conflict("limit", message),
        },
        TopicError::Controller(_) | TopicError::Ring(_) => {
            ApiError::unavailable("unavailable", message)
        }
        TopicError::Gone(e) => gone(e),
    }
}
