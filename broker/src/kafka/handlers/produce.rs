//! Produce: checks batches, hands them to their rings in order, answers when they are durable.
//!
//! [`start`] returns when every batch of the request is queued at its ring, or on its way to the shard of its ring in
//! the order of requests; the answers are awaited afterwards, many requests at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, LocalBoxFuture, join_all};
use tidemill_controller::{Image, Topic};
use tidemill_model::batch::Compression;
use tidemill_model::{BatchHeader, PartitionId, RingId, ShardId, topic_name};
use tidemill_ring::{AppendError, Appended};
use tidemill_rt::time::{self, Instant};
use tidemill_wire::produce::{
    PartitionProduce, PartitionProduced, ProduceRequest, ProduceResponse, TopicProduce,
    TopicProduced, decode,
};
use tidemill_wire::{TopicRef, WireError};

use super::super::answers::{Answer, Body, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::super::memory::SMALL_ANSWER_BYTES_MAX;
use super::find_topic;
use crate::shard::Shard;
use crate::topics::now_ms;

/// Oldest version with record batches of magic 2; older ones are only advertised.
const RECORD_BATCHES_FROM: i16 = 3;
/// First version that may carry zstd (KIP-110).
const ZSTD_FROM: i16 = 7;
/// Attributes of a batch that producers set: compression, timestamp type, transactional, control (KIP-98). The broker alone
/// marks delete horizons (KIP-534); what the other bits are to mean is not known yet.
const PRODUCER_ATTRIBUTES: i16 = 0x3f;
/// Longest a request waits for its answer, whatever the client says.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Bytes of an answer for a partition, and for a topic beside its name, at most.
const PARTITION_ANSWER_BYTES: usize = 48;
const TOPIC_ANSWER_BYTES: usize = 24;
/// Memory for a partition while its request is under way: as it was asked, and its place in the answer ...
const PARTITION_BYTES: usize = 256;
/// ... and for its batch, beside the bytes of that, on the way through the ring and the log.
const BATCH_BYTES: usize = 1280;

/// A place in the response: topic and partition, by index.
type Slot = (usize, usize);
/// An error code and what it means.
type Refused = (i16, Option<String>);
type AppendResult = Result<Appended, AppendError>;

/// Batches that went to one shard.
struct Sent {
    slots: Vec<Slot>,
    /// What became of them, `None` when it stopped. Of those of which it is not known in time there is nothing.
    results: LocalBoxFuture<'static, Option<Vec<(Slot, AppendResult)>>>,
}

/// A checked batch and where it goes.
struct Job {
    slot: Slot,
    ring: RingId,
    partition: PartitionId,
    topic: String,
    header: BatchHeader,
    batch: Bytes,
}

pub(in super::super) async fn start(mut request: Request) -> Result<Pending, WireError> {
    let body = decode(&request.frame, request.body_at, request.version)?;
    let cost = Cost::of(&body);
    if cost.answer > SMALL_ANSWER_BYTES_MAX as usize
        && let Err(late) = request.turn_to_start().await
    {
        return Ok(Box::pin(ready(late)));
    }
    if cost.memory > 0 {
        request.grow(cost.memory).await;
    }
    let mut response = ProduceResponse::default();
    let mut said = Said::default();
    let mut jobs: BTreeMap<ShardId, Vec<Job>> = BTreeMap::new();
    let image = request.shard.image();
    let refused = refuse_all(&request, &body);
    for (t, topic) in body.topics.into_iter().enumerate() {
        let mut produced = sort_topic(&request, &image, (t, topic), refused.as_ref(), &mut jobs);
        said.once(&mut produced.partitions);
        response.topics.push(produced);
    }
    let wait = Duration::from_millis(body.timeout_ms.max(1) as u64).min(TIMEOUT_MAX);
    let deadline = Instant::now() + wait;
    let mut sent = Vec::new();
    for (shard, jobs) in jobs {
        sent.push(queue(&request.shard, shard, jobs, deadline).await);
    }
    Ok(Box::pin(async move {
        fill(&mut response, sent, deadline).await;
        let mut said = Said::default();
        for topic in &mut response.topics {
            said.once(&mut topic.partitions);
        }
        answer(&request, response, body.acks, cost.answer).await
    }))
}

/// What a request takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    /// Of memory, beside its frame and one batch.
    memory: usize,
    /// Of its answer, at most.
    answer: usize,
}

impl Cost {
    fn of(body: &ProduceRequest) -> Cost {
        let (mut partitions, mut batches, mut answer) = (0, 0, 0);
        for topic in &body.topics {
            partitions += topic.partitions.len();
            batches += topic
                .partitions
                .iter()
                .filter(|p| p.records.is_some())
                .count();
            answer += TOPIC_ANSWER_BYTES;
            if let TopicRef::Name(name) = &topic.topic {
                answer += name.len();
            }
        }
        Cost {
            memory: partitions.saturating_sub(1) * PARTITION_BYTES
                + usize::saturating_sub(batches, 1) * BATCH_BYTES,
            answer: answer + partitions * PARTITION_ANSWER_BYTES,
        }
    }
}

/// Which errors an answer has explained: the sentence stands where an error comes first. Repeated for each of very many
/// partitions it would make a vast answer to a small request.
#[derive(Default)]
struct Said(BTreeSet<i16>);

impl Said {
    fn once(&mut self, partitions: &mut [PartitionProduced]) {
        for partition in partitions {
            if partition.error_message.is_some() && !self.0.insert(partition.error_code) {
                partition.error_message = None;
            }
        }
    }
}

/// Why nothing of the request is taken, if so.
fn refuse_all(request: &Request, body: &ProduceRequest) -> Option<Refused> {
    if request.version < RECORD_BATCHES_FROM {
        let message = format!(
            "Produce before version {RECORD_BATCHES_FROM} is not served; upgrade the client"
        );
        return Some((code::UNSUPPORTED_VERSION, Some(message)));
    }
    if !(-1..=1).contains(&body.acks) {
        return Some((code::INVALID_REQUIRED_ACKS, None));
    }
    let message = || Some("transactions are not supported yet".to_owned());
    body.transactional_id
        .as_ref()
        .map(|_| (code::INVALID_TXN_STATE, message()))
}

/// Checks the batches for one topic; good ones become jobs, whose places in the answer hold an error until theirs comes.
fn sort_topic(
    request: &Request,
    image: &Image,
    (t, topic): (usize, TopicProduce),
    refused: Option<&Refused>,
    jobs: &mut BTreeMap<ShardId, Vec<Job>>,
) -> TopicProduced {
    let TopicProduce { topic, partitions } = topic;
    let found = find_topic(image, &topic).map_err(|code| (code, None));
    let found = match found {
        Ok(topic) if topic_name::is_internal(&topic.name) => Err((
            code::INVALID_TOPIC_EXCEPTION,
            Some(format!("only the broker writes to '{}'", topic.name)),
        )),
        found => found,
    };
    let mut produced = Vec::with_capacity(partitions.len());
    for (p, partition) in partitions.into_iter().enumerate() {
        let index = partition.index;
        let checked = match (refused, &found) {
            (Some(refused), _) | (None, Err(refused)) => Err(refused.clone()),
            (None, Ok(topic)) => {
                let defaults = &request.shard.info.topic_defaults;
                let limit = defaults.integer(&topic.configs, "max.message.bytes");
                let place = (topic.as_ref(), (t, p));
                check(request.version, place, partition, limit)
                    .map(|job| unpin(job, &request.frame))
            }
        };
        let placeholder = match checked {
            Ok(job) => {
                jobs.entry(job.ring.shard(request.shard.info.shards))
                    .or_default()
                    .push(job);
                (code::REQUEST_TIMED_OUT, None)
            }
            Err(refused) => {
                if let Ok(topic) = &found {
                    request.shard.metrics.topic(&topic.name).rejected.add(1);
                }
                refused
            }
        };
        produced.push(PartitionProduced::error(
            index,
            placeholder.0,
            placeholder.1,
        ));
    }
    TopicProduced {
        topic,
        partitions: produced,
    }
}

/// A batch that is the smaller part of its frame is copied out, so that keeping it does not keep the frame (rule S13).
fn unpin(mut job: Job, frame: &Bytes) -> Job {
    if job.batch.len() < frame.len() / 2 {
        job.batch = Bytes::copy_from_slice(&job.batch);
    }
    job
}

/// Everything that can be known about a batch without its partition. Its topic takes batches of up to `limit` bytes.
fn check(
    version: i16,
    (topic, slot): (&Topic, Slot),
    partition: PartitionProduce,
    limit: i64,
) -> Result<Job, Refused> {
    let id = topic.partition(partition.index);
    let ring = topic
        .ring(partition.index)
        .ok_or((code::UNKNOWN_TOPIC_OR_PARTITION, None))?;
    let said = |code, message: &str| (code, Some(message.to_owned()));
    let batch = partition.records.filter(|b| !b.is_empty());
    let batch = batch.ok_or_else(|| {
        said(
            code::INVALID_RECORD,
            "a Produce request has one record batch per partition",
        )
    })?;
    if batch.len() as i64 > limit {
        let message = format!(
            "the batch has {} bytes, max.message.bytes is {limit}",
            batch.len()
        );
        return Err((code::MESSAGE_TOO_LARGE, Some(message)));
    }
    let header =
        BatchHeader::validate(&batch).map_err(|e| (error_map::batch(&e), Some(e.to_string())))?;
    if header.is_control() {
        return Err(said(
            code::INVALID_RECORD,
            "clients cannot write control batches",
        ));
    }
    if header.is_log_append_time() {
        return Err(said(
            code::INVALID_TIMESTAMP,
            "producers cannot say that the broker gave the timestamps",
        ));
    }
    if header.attributes & !PRODUCER_ATTRIBUTES != 0 {
        return Err(said(
            code::INVALID_RECORD,
            "the batch has attributes that no producer sets",
        ));
    }
    if version < ZSTD_FROM && header.compression() == Ok(Compression::Zstd) {
        return Err(said(
            code::UNSUPPORTED_COMPRESSION_TYPE,
            "zstd needs Produce version 7",
        ));
    }
    Ok(Job {
        slot,
        ring,
        partition: id,
        topic: topic.name.clone(),
        header,
        batch,
    })
}

/// Queues batches at their rings, which are on `target`. When this returns they are in line there. Nobody waits for them
/// after `deadline`.
async fn queue(shard: &Rc<Shard>, target: ShardId, jobs: Vec<Job>, deadline: Instant) -> Sent {
    let slots = jobs.iter().map(|j| j.slot).collect();
    let results: LocalBoxFuture<'static, _> = if target == shard.id {
        let appends = append_all(shard, jobs);
        Box::pin(async move { Some(appends.await) })
    } else {
        // What still waits for memory there by then would stand in the way of what is sent again.
        let append = move |shard| time::timeout_at(deadline, append_all(&shard, jobs));
        match shard.handle.submit(target, append).await {
            Ok(results) => Box::pin(async move { Some(results.await.ok()?.unwrap_or_default()) }),
            Err(_) => Box::pin(ready(None)),
        }
    };
    Sent { slots, results }
}

/// Proposes every batch at the call, in order; the future gives the results. Runs on the shard of their rings.
fn append_all(
    shard: &Rc<Shard>,
    jobs: Vec<Job>,
) -> impl Future<Output = Vec<(Slot, AppendResult)>> + use<> {
    let shard = shard.clone();
    let now = now_ms();
    let mut appends = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (records, bytes) = (job.header.record_count as u64, job.batch.len() as u64);
        let append = match shard.ring(job.ring) {
            Some(ring) => Either::Left(ring.append(job.partition, job.header, job.batch, now)),
            None => Either::Right(ready(Err(AppendError::UnknownPartition))),
        };
        let counters = shard.metrics.topic(&job.topic);
        appends.push(async move {
            let result = append.await;
            match &result {
                // It was counted when it came first.
                Ok(appended) if appended.duplicate => {}
                Ok(_) => {
                    counters.records_in.add(records);
                    counters.bytes_in.add(bytes);
                }
                Err(_) => counters.rejected.add(1),
            }
            (job.slot, result)
        });
    }
    join_all(appends)
}

/// Puts results into the response, until `deadline`; what has none by then stays "timed out".
async fn fill(response: &mut ProduceResponse, sent: Vec<Sent>, deadline: Instant) {
    if sent.is_empty() {
        return;
    }
    let (slots, results): (Vec<_>, Vec<_>) = sent.into_iter().map(|s| (s.slots, s.results)).unzip();
    let Ok(results) = time::timeout_at(deadline, join_all(results)).await else {
        return;
    };
    let stopped = slots.into_iter().zip(&results);
    for (t, p) in stopped.filter(|(_, r)| r.is_none()).flat_map(|(s, _)| s) {
        response.topics[t].partitions[p].error_code = code::NOT_LEADER_OR_FOLLOWER;
    }
    for ((t, p), result) in results.into_iter().flatten().flatten() {
        let produced = &mut response.topics[t].partitions[p];
        match result {
            Ok(appended) => {
                produced.error_code = code::NONE;
                produced.base_offset = appended.base_offset;
                produced.log_append_time_ms = appended.log_append_time_ms;
                produced.log_start_offset = appended.log_start_offset;
            }
            Err(e) => {
                produced.error_code = error_map::append(&e);
                produced.error_message = Some(e.to_string());
                // Their own messages would repeat the batch's.
                let records = e.records().iter().map(|place| (*place, None));
                produced.record_errors = records.collect();
            }
        }
    }
}

async fn answer(request: &Request, response: ProduceResponse, acks: i16, bytes: usize) -> Answer {
    if acks != 0 {
        let room = request.room(bytes).await;
        let body = Bytes::from(response.encode(request.version));
        return Answer::Body(Body::within(room, vec![body]));
    }
    // Nobody reads an answer: closing is the only way to say that something went wrong.
    let failed = |t: &TopicProduced| {
        t.partitions
            .iter()
            .find(|p| p.error_code != code::NONE)
            .cloned()
    };
    match response
        .topics
        .iter()
        .find_map(|t| failed(t).map(|p| (t.topic.clone(), p)))
    {
        None => Answer::Nothing,
        Some((topic, p)) => {
            let name = match topic {
                TopicRef::Name(name) => name.to_string(),
                TopicRef::Id(id) => id.to_string(),
            };
            Answer::Close(format!(
                "Produce with acks=0 to {name}/{} failed with error {}",
                p.index, p.error_code
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_of_an_error_stands_in_an_answer_once() {
        let refused = |code| PartitionProduced::error(0, code, Some("why".to_owned()));
        let mut partitions = vec![refused(1), refused(2), refused(1)];
        let mut said = Said::default();
        said.once(&mut partitions);
        said.once(&mut partitions[1..2]);
        let explained: Vec<bool> = partitions
            .iter()
            .map(|p| p.error_message.is_some())
            .collect();
        assert_eq!(explained, [true, false, false]);
        assert!(partitions.iter().all(|p| p.error_code != code::NONE));
    }
}
