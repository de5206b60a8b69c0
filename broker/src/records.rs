//! Records through the admin API: what `transform produce` and `transform consume` do.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tidemill_controller::{StartPosition, Topic};
use tidemill_model::batch::{Compression, UNCOMPRESSED_BYTES_MAX};
use tidemill_model::record::{BatchBuilder, NewRecord as BatchRecord, RecordRef, Records};
use tidemill_model::{Batch, BatchError, BatchHeader, Offset, RingId, compression, topic_name};
use tidemill_ring::{Isolation, PartitionView, ReadError, Ring};
use tidemill_rt::{rand, task, time};

use crate::admin::ApiError;
use crate::admin::records::{NewRecord, ReadQuery, ReadRecord, ReadRecords, Unreadable};
use crate::admin::types::{OffsetRange, Produced};
use crate::ask::{Question, ask};
use crate::shard::Shard;
use crate::topics::{TopicError, now_ms};
use crate::transforms::positions;

/// How often waiting readers look again, at the most, and how much longer they wait than a look at all partitions took.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_FACTOR: u32 = 10;
/// Bytes a batch made for the admin API may reach before the next begins.
const BATCH_BYTES: usize = 512 << 10;
/// Most bytes that the headers of a record weigh where it is read back, whatever else was asked for.
const RECORD_HEADERS_BYTES_MAX: usize = 8 << 20;
/// Batches that a shard unpacks at once for the admin API: each may need [`UNCOMPRESSED_BYTES_MAX`] and its records.
pub(crate) const UNPACKING_MAX: u64 = 2;

/// The error a client of the admin API sees for a missing topic.
pub(crate) fn topic_not_found(name: &str) -> ApiError {
    let message = match topic_name::is_internal(name) {
        true => format!(
            "topic '{name}' does not exist yet; the broker makes it itself when it needs it"
        ),
        false => format!(
            "topic '{name}' does not exist; see `transform topic list`, or make it: `transform topic create {name}`"
        ),
    };
    ApiError::not_found("topic_not_found", message)
}

/// The same for a client that wants it gone.
pub(crate) fn nothing_to_delete(name: &str) -> ApiError {
    if topic_name::is_internal(name) {
        return api_error(TopicError::Internal(name.to_owned()));
    }
    let message = format!(
        "topic '{name}' does not exist, so there is nothing to delete; see `transform topic list`"
    );
    ApiError::not_found("topic_not_found", message)
}

impl Shard {
    /// Writes records to a topic, made if missing, and waits until they are durable.
    pub(crate) async fn produce_records(
        self: &Rc<Shard>,
        topic: &str,
        records: Vec<NewRecord>,
    ) -> Result<Produced, ApiError> {
        if topic_name::is_internal(topic) {
            return Err(api_error(TopicError::Internal(topic.to_owned())));
        }
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
        let defaults = &self.info.topic_defaults;
        let limit = defaults.integer(&topic.configs, "max.message.bytes") as usize;
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
        let deadline = time::Instant::now() + Duration::from_millis(query.wait_ms);
        let mut positions = self.start_positions(&topic, &query).await?;
        loop {
            let mut found = ReadRecords::default();
            let (mut records_left, mut bytes_left) = (query.max, query.max_bytes);
            let began = time::Instant::now();
            let standings = self.standings(&topic).await?;
            let took = began.elapsed();
            for (index, standing) in (0..).zip(standings) {
                if records_left == 0 || bytes_left == 0 {
                    break;
                }
                let from = positions[&index];
                if standing.has_nothing_at(from) {
                    continue;
                }
                let run = self.read_partition(&topic, index, from, bytes_left).await?;
                let mut next = run.next;
                bytes_left = bytes_left.saturating_sub(run.unreadable.len() * UNREADABLE_BYTES);
                found.unreadable.extend(run.unreadable);
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
            if !found.is_empty() || time::Instant::now() >= deadline || self.is_ending() {
                found.next = positions;
                return Ok(found);
            }
            // Partitions of several shards cannot be waited for together cheaply; people read this way, programs fetch.
            let left = deadline.since(time::Instant::now());
            time::sleep(LOOK.max(took * LOOK_FACTOR).min(left)).await;
        }
    }

    async fn start_positions(
        self: &Rc<Shard>,
        topic: &Arc<Topic>,
        query: &ReadQuery,
    ) -> Result<BTreeMap<i32, Offset>, ApiError> {
        let from = positions::reading(&query.from, now_ms())
            .map_err(|message| ApiError::bad_request("invalid_position", message))?;
        let mut starts = BTreeMap::new();
        for (index, standing) in (0..).zip(self.standings(topic).await?) {
            let start = match (query.positions.get(&index), from) {
                (Some(position), _) => *position,
                (None, StartPosition::Earliest) => standing.log_start_offset,
                (None, StartPosition::Latest) => standing.last_stable_offset,
                (None, from) => self.resolved(topic, index, from).await?,
            };
            starts.insert(index, start);
        }
        Ok(starts)
    }

    /// The offset that `from` is in a partition of `topic` now.
    async fn resolved(
        self: &Rc<Shard>,
        topic: &Topic,
        index: i32,
        from: StartPosition,
    ) -> Result<Offset, ApiError> {
        let partition = topic.partition(index);
        let not_open = || self.not_open(topic, index);
        let (ring, shard) = self.locate(partition).ok_or_else(not_open)?;
        let look = self.on(shard, move |shard| async move {
            let ring = shard.ring(ring)?.clone();
            Some(positions::resolve(&ring, partition, from).await)
        });
        let found = look.await.map_err(gone)?.ok_or_else(not_open)?;
        found.map_err(|e| ApiError::internal(format!("partition {index}: {e}")))
    }

    /// Where each partition of `topic` stands, in order: one question for each shard.
    pub(crate) async fn standings(
        self: &Rc<Shard>,
        topic: &Topic,
    ) -> Result<Vec<Standing>, ApiError> {
        let question = |(p, ring): (usize, &u32)| Question {
            slot: (0, p),
            ring: RingId(*ring),
            partition: topic.partition(p as i32),
            asked: (),
        };
        let questions = topic.rings.iter().enumerate().map(question).collect();
        let mut standings = vec![None; topic.rings.len()];
        let look = |ring: &Ring, partition, ()| ring.view(partition).map(Standing::of);
        for ((_, p), standing) in ask(self, questions, look).await {
            standings[p] = Some(standing);
        }
        let found = |(p, standing): (usize, Option<Standing>)| {
            standing.ok_or_else(|| self.not_open(topic, p as i32))
        };
        standings.into_iter().enumerate().map(found).collect()
    }

    /// Why a partition of `topic`, which was there a moment ago, is not open: the topic was deleted, or the partition comes soon.
    fn not_open(&self, topic: &Topic, index: i32) -> ApiError {
        let name = &topic.name;
        match self.image().topic_by_id(topic.id) {
            None => ApiError::not_found("topic_not_found", format!("topic '{name}' was deleted")),
            Some(_) => ApiError::unavailable(
                "partition_not_open",
                format!(
                    "partition {index} of topic '{name}' is not open yet; try again in a moment"
                ),
            ),
        }
    }

    /// Records of one partition from `from` on, about `max_bytes` of them.
    ///
    /// # Errors
    /// Where the partition cannot be read.
    pub(crate) async fn read_partition(
        self: &Rc<Shard>,
        topic: &Arc<Topic>,
        index: i32,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Run, ApiError> {
        let partition = topic.partition(index);
        let (ring, shard) = self
            .locate(partition)
            .ok_or_else(|| self.not_open(topic, index))?;
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
                return Ok(Run::at(from.clamp(log_start_offset, high_watermark)));
            }
            Err(ReadError::UnknownPartition) => return Err(self.not_open(topic, index)),
            Err(e) => return Err(ApiError::internal(format!("partition {index}: {e}"))),
        };
        // Uncompressed, records may be many times what was read: few readings at once, and on a helper thread.
        let _turn = self.unpacking.acquire(1).await;
        let unpacking = move || Run::of(index, from, &read.batches, max_bytes);
        Ok(task::blocking(unpacking).await)
    }
}

/// Where a partition stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// First offset that can be read.
    pub(crate) log_start_offset: Offset,
    /// Offset after the last committed record.
    pub(crate) high_watermark: Offset,
    /// Offset below which no transaction is open.
    pub(crate) last_stable_offset: Offset,
    /// Bytes of its batches.
    pub(crate) bytes: u64,
}

impl Standing {
    fn of(view: PartitionView) -> Standing {
        Standing {
            log_start_offset: view.log_start_offset,
            high_watermark: view.high_watermark,
            last_stable_offset: view.last_stable_offset,
            bytes: view.bytes,
        }
    }

    /// Whether a reader at `from` can only wait; one that is out of range has to move.
    fn has_nothing_at(&self, from: Offset) -> bool {
        (self.last_stable_offset..=self.high_watermark).contains(&from)
            && from >= self.log_start_offset
    }
}

/// Records of one partition, as far as they were read.
pub(crate) struct Run {
    /// The records.
    pub(crate) records: Vec<ReadRecord>,
    unreadable: Vec<Unreadable>,
    /// Where to go on.
    pub(crate) next: Offset,
    from: Offset,
    /// What they weigh.
    pub(crate) bytes: usize,
}

impl Run {
    fn at(from: Offset) -> Run {
        Run {
            records: Vec::new(),
            unreadable: Vec::new(),
            next: from,
            from,
            bytes: 0,
        }
    }

    /// The records of `batches`, until there are `max_bytes` bytes.
    fn of(index: i32, from: Offset, batches: &[Batch], max_bytes: usize) -> Run {
        let mut run = Run::at(from);
        for batch in batches {
            if run.bytes >= max_bytes {
                break;
            }
            if batch.header.is_control() {
                run.next = batch.header.next_offset();
            } else {
                run.unpack(index, batch, max_bytes);
            }
        }
        run
    }

    /// Takes the records of `batch` out, until there are `max_bytes` bytes; `next` says where to go on. What cannot be
    /// read is noted and passed over: nobody would get beyond it otherwise.
    fn unpack(&mut self, index: i32, batch: &Batch, max_bytes: usize) {
        if let Err((offset, message)) = self.records_of(index, batch, max_bytes) {
            let first = offset.max(self.from);
            self.unreadable.push(Unreadable {
                partition: index,
                offset: first,
                message,
            });
            self.bytes += UNREADABLE_BYTES;
            self.next = batch.header.next_offset();
        }
    }

    /// As [`Run::unpack`]; an error is the offset from which on the batch cannot be read, and why.
    fn records_of(
        &mut self,
        index: i32,
        batch: &Batch,
        max_bytes: usize,
    ) -> Result<(), (Offset, String)> {
        let header = &batch.header;
        let mut offset = header.base_offset;
        let section = plain_section(batch).map_err(|e| (offset, e))?;
        let mut last = -1;
        for record in Records::new(&section, header.record_count) {
            let record = record.map_err(|e| (offset, e.to_string()))?;
            let delta = record.offset_delta;
            // One that points elsewhere would lead a reader back, or past records of other batches.
            if delta <= last || delta > header.last_offset_delta {
                let message = format!("offset delta {delta} of a record is out of order");
                let at = (last + 1).min(header.last_offset_delta);
                return Err((header.base_offset + i64::from(at), message));
            }
            last = delta;
            offset = header.base_offset + i64::from(delta);
            if offset < self.from {
                continue;
            }
            if self.bytes >= max_bytes {
                self.next = offset;
                return Ok(());
            }
            if weight_in_place(&record) > max_bytes.max(RECORD_HEADERS_BYTES_MAX) {
                self.unreadable.push(Unreadable {
                    partition: index,
                    offset,
                    message: format!("its {} headers are too many to show", record.headers.len()),
                });
                self.bytes += UNREADABLE_BYTES;
                continue;
            }
            let record = owned(index, header, &record).map_err(|e| (offset, e.to_string()))?;
            self.bytes += weight(&record);
            self.records.push(record);
            // Where the batch breaks off, reading is past this one.
            offset += 1;
        }
        self.next = header.next_offset();
        Ok(())
    }
}

/// What a batch or record that cannot be read counts for, in bytes: finding that out may have cost much.
const UNREADABLE_BYTES: usize = 512 << 10;
/// Bytes a record weighs beside what is in it, and each of its headers.
const RECORD_OVERHEAD_BYTES: usize = 64;
const HEADER_OVERHEAD_BYTES: usize = 64;

fn weight(record: &ReadRecord) -> usize {
    let of = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
    let headers = record
        .headers
        .iter()
        .map(|(name, value)| HEADER_OVERHEAD_BYTES + name.len() + of(value));
    RECORD_OVERHEAD_BYTES + of(&record.key) + of(&record.value) + headers.sum::<usize>()
}

/// What the headers of a record would weigh once they are taken out. Each may be two bytes in the batch.
fn weight_in_place(record: &RecordRef<'_>) -> usize {
    record.headers.raw().len() + record.headers.len().saturating_mul(HEADER_OVERHEAD_BYTES)
}

/// A record on its own.
fn owned(
    partition: i32,
    header: &BatchHeader,
    record: &RecordRef<'_>,
) -> Result<ReadRecord, BatchError> {
    let copy = |b: Option<&[u8]>| b.map(Bytes::copy_from_slice);
    let mut headers = Vec::new();
    for entry in record.headers {
        let (key, value) = entry?;
        headers.push((String::from_utf8_lossy(key).into_owned(), copy(value)));
    }
    Ok(ReadRecord {
        partition,
        offset: header.base_offset + i64::from(record.offset_delta),
        timestamp: if header.is_log_append_time() {
            header.max_timestamp
        } else {
            header.base_timestamp.saturating_add(record.timestamp_delta)
        },
        key: copy(record.key),
        value: copy(record.value),
        headers,
    })
}

/// The record section of `batch`, uncompressed, which may take long.
fn plain_section(batch: &Batch) -> Result<Bytes, String> {
    let codec = batch.header.compression().map_err(|e| e.to_string())?;
    let section = batch.bytes.slice(tidemill_model::batch::HEADER_BYTES..);
    if codec == Compression::None {
        return Ok(section);
    }
    let plain = compression::decompress(codec, &section, UNCOMPRESSED_BYTES_MAX);
    plain.map(Bytes::from).map_err(|e| e.to_string())
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
        (None, Some(key)) => Ok(tidemill_model::partitioner::partition_for_key(
            key,
            topic.partition_count(),
        )),
        (None, None) => Ok(sticky),
    }
}

/// Bytes of a record to be written, about.
fn size(record: &NewRecord) -> usize {
    let of = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter();
    let headers = headers.map(|(name, value)| name.len() + of(value) + 10);
    of(&record.key) + of(&record.value) + headers.sum::<usize>()
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
        let size = size(record);
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
        TopicError::NotMore { .. } => ApiError::bad_request("invalid_partitions", message),
        TopicError::Config(_) | TopicError::ConfigChange(_) => {
            ApiError::bad_request("invalid_config", message)
        }
        TopicError::DiskFull => ApiError::unavailable("disk_full", message),
        TopicError::Controller(ControllerError::Refused(refusal)) => match refusal {
            Refusal::TopicInUse { .. } => ApiError::conflict("topic_in_use", message),
            Refusal::TopicExists(_) => ApiError::conflict("topic_exists", message),
            Refusal::PartitionsChanged { .. } => ApiError::conflict("partitions_changed", message),
            Refusal::TopicCollides(..) => ApiError::conflict("topic_collides", message),
            Refusal::NoSuchTopic(_) => ApiError::not_found("topic_not_found", message),
            Refusal::NoSuchTransform(_) => ApiError::not_found("transform_not_found", message),
            Refusal::Deleting(_) => ApiError::conflict("transform_deleting", message),
            Refusal::InputChanged { .. } => ApiError::conflict("input_changed", message),
            Refusal::Cycle(_) | Refusal::OwnInput { .. } => ApiError::conflict("cycle", message),
            Refusal::Outputs(_) => ApiError::bad_request("invalid_outputs", message),
            Refusal::Limit(_) => ApiError::conflict("limit", message),
        },
        TopicError::Controller(_) | TopicError::Ring(_) => {
            ApiError::unavailable("unavailable", message)
        }
        TopicError::Gone(e) => gone(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base_offset: Offset, records: &[BatchRecord<'_>]) -> Batch {
        let mut builder = BatchBuilder::new();
        for record in records {
            builder.append(*record);
        }
        let bytes = builder.build();
        let mut header = BatchHeader::validate(&bytes).unwrap();
        header.base_offset = base_offset;
        Batch { header, bytes }
    }

    fn record<'a>(headers: &'a [(&'a [u8], Option<&'a [u8]>)]) -> BatchRecord<'a> {
        BatchRecord {
            timestamp: 1,
            key: None,
            value: Some(b"value"),
            headers,
        }
    }

    #[test]
    fn headers_count_towards_the_bytes_of_a_reading() {
        let headers: Vec<(&[u8], Option<&[u8]>)> = vec![(b"", None); 100];
        let batch = batch(7, &vec![record(&headers); 10]);
        let mut run = Run::at(7);
        run.unpack(0, &batch, 10_000);
        // A record weighs 64 and five bytes, and 64 for each header.
        assert_eq!((run.records.len(), run.next), (2, 9));
    }

    #[test]
    fn record_with_too_many_headers_is_passed_over() {
        let many = RECORD_HEADERS_BYTES_MAX / HEADER_OVERHEAD_BYTES + 1;
        let headers: Vec<(&[u8], Option<&[u8]>)> = vec![(b"", None); many];
        let batch = batch(3, &[record(&[]), record(&headers), record(&[])]);
        let mut run = Run::at(3);
        run.unpack(0, &batch, 1 << 20);
        let read: Vec<Offset> = run.records.iter().map(|r| r.offset).collect();
        assert_eq!((read, run.next), (vec![3, 5], 6));
        assert_eq!(run.unreadable[0].offset, 4);
    }

    #[test]
    fn offsets_that_do_not_ascend_within_their_batch_lead_no_reader_astray() {
        let good = batch(5, &[record(&[]), record(&[])]);
        // A record begins with its length (one zigzag byte), attributes and timestamp; its offset delta follows.
        let first = tidemill_model::batch::HEADER_BYTES;
        let second = first + 1 + usize::from(good.bytes[first] / 2);
        for (deltas, read) in [
            ([1, 0], vec![6]),
            ([0, 0], vec![5]),
            ([0, 5], vec![5]),
            ([9, 9], vec![]),
        ] {
            let mut bytes = good.bytes.to_vec();
            (bytes[first + 3], bytes[second + 3]) = (2 * deltas[0], 2 * deltas[1]);
            let bad = Batch {
                bytes: Bytes::from(bytes),
                ..good.clone()
            };
            let mut run = Run::at(5);
            run.unpack(0, &bad, 1 << 20);
            let offsets: Vec<Offset> = run.records.iter().map(|r| r.offset).collect();
            assert_eq!((offsets, run.next), (read, 7), "{deltas:?}");
            assert!((5..7).contains(&run.unreadable[0].offset));
        }
    }

    #[test]
    fn batch_that_cannot_be_read_is_noted_and_passed_over() {
        let mut broken = batch(5, &[record(&[]), record(&[])]);
        let mut bytes = broken.bytes.to_vec();
        // Nothing of the second record is as it was.
        let half = bytes.len() - 10;
        bytes[half..].fill(0xff);
        broken.bytes = Bytes::from(bytes);
        let mut run = Run::at(5);
        run.unpack(2, &broken, 1 << 20);
        assert_eq!((run.records.len(), run.next), (1, 7));
        let noted = &run.unreadable[0];
        assert_eq!((noted.partition, noted.offset), (2, 6));
        let mut garbage = broken;
        garbage.header.attributes |= 4;
        let mut run = Run::at(5);
        run.unpack(2, &garbage, 1 << 20);
        assert_eq!((run.records.len(), run.next), (0, 7));
        assert!(
            run.unreadable[0].message.contains("Zstd"),
            "{:?}",
            run.unreadable
        );
    }
}
