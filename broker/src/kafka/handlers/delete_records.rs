//! DeleteRecords: moves the start of partitions' logs, for good.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::messages::delete_records_request::DeleteRecordsTopic;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use tidemill_controller::Topic;
use tidemill_model::{Offset, PartitionId, RingId, ShardId, topic_name};
use tidemill_rt::time;
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use crate::shard::Shard;

/// Bytes of an answer for a topic or a partition, about.
const ENTRY_BYTES: usize = 64;
/// Longest a request waits for its answer, whatever the client says.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Partitions of a request that a ring is asked to change at once: fewer than it takes proposals.
const AT_ONCE: usize = 256;

/// What is asked for one partition, and its place in the answer.
#[derive(Debug, Clone, Copy)]
struct Query {
    slot: (usize, usize),
    ring: RingId,
    partition: PartitionId,
    before: Offset,
}

/// Where the log starts now, or an error code.
type Deleted = Result<Offset, i16>;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DeleteRecordsRequest = request.decode()?;
    Ok(Box::pin(async move { answer(request, body).await }))
}

async fn answer(request: Request, body: DeleteRecordsRequest) -> Answer {
    let asked: usize = body.topics.iter().map(|t| t.partitions.len()).sum();
    let room = (asked + body.topics.len()) * ENTRY_BYTES;
    let room = request.room(room).await;
    let wait = Duration::from_millis(body.timeout_ms.max(1) as u64).min(TIMEOUT_MAX);
    let mut queries = BTreeMap::new();
    let (mut seen, mut topics) = (BTreeSet::new(), Vec::with_capacity(body.topics.len()));
    for (t, asked) in body.topics.into_iter().enumerate() {
        topics.push(sort(&request, (t, asked), &mut seen, &mut queries));
    }
    let work = queries.into_iter().map(|(target, queries)| {
        let shard = &request.shard;
        shard.on(target, move |shard| async move {
            delete_all(&shard, queries).await
        })
    });
    // What has no answer by then stays "timed out"; it may still happen.
    let deleted = time::timeout(wait, join_all(work)).await;
    for ((t, p), deleted) in deleted.into_iter().flatten().flatten().flatten() {
        let result: &mut DeleteRecordsPartitionResult = &mut topics[t].partitions[p];
        match deleted {
            Ok(start) => {
                result.low_watermark = start;
                result.error_code = code::NONE;
            }
            Err(code) => result.error_code = code,
        }
    }
    request.answer_within(room, &DeleteRecordsResponse::default().with_topics(topics))
}

/// The answer for a topic with an error in every place, and what to ask to replace those errors.
fn sort(
    request: &Request,
    (t, asked): (usize, DeleteRecordsTopic),
    seen: &mut BTreeSet<PartitionId>,
    queries: &mut BTreeMap<ShardId, Vec<Query>>,
) -> DeleteRecordsTopicResult {
    let image = request.shard.image();
    let topic = image.topic(&asked.name);
    let mut partitions = Vec::with_capacity(asked.partitions.len());
    for (p, asked) in asked.partitions.iter().enumerate() {
        let found = topic.ok_or(code::UNKNOWN_TOPIC_OR_PARTITION);
        let place = found.and_then(|topic| place(topic, asked.partition_index));
        let error = match place {
            Ok((_, partition)) if !seen.insert(partition) => code::INVALID_REQUEST,
            Ok((ring, partition)) => {
                let shard = ring.shard(request.shard.info.shards);
                queries.entry(shard).or_default().push(Query {
                    slot: (t, p),
                    ring,
                    partition,
                    before: asked.offset,
                });
                code::REQUEST_TIMED_OUT
            }
            Err(error) => error,
        };
        partitions.push(
            DeleteRecordsPartitionResult::default()
                .with_partition_index(asked.partition_index)
                .with_low_watermark(-1)
                .with_error_code(error),
        );
    }
    DeleteRecordsTopicResult::default()
        .with_name(asked.name)
        .with_partitions(partitions)
}

/// Where a partition is whose records a client may delete.
fn place(topic: &Topic, index: i32) -> Result<(RingId, PartitionId), i16> {
    if topic_name::is_internal(&topic.name) {
        // Groups and transactions would forget what was committed.
        return Err(code::INVALID_TOPIC_EXCEPTION);
    }
    if !tidemill_controller::configs::deletes(&topic.configs) {
        return Err(code::POLICY_VIOLATION);
    }
    let ring = topic.ring(index).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?;
    Ok((ring, topic.partition(index)))
}

/// Deletes records of partitions of this shard.
async fn delete_all(shard: &Rc<Shard>, queries: Vec<Query>) -> Vec<((usize, usize), Deleted)> {
    let mut out = Vec::with_capacity(queries.len());
    for some in queries.chunks(AT_ONCE) {
        let deleted = some
            .iter()
            .map(|q| async move { (q.slot, delete(shard, *q).await) });
        out.extend(join_all(deleted).await);
    }
    out
}

async fn delete(shard: &Rc<Shard>, q: Query) -> Deleted {
    let ring = shard.ring(q.ring).ok_or(code::NOT_LEADER_OR_FOLLOWER)?;
    let deleted = ring.delete_records(q.partition, q.before).await;
    deleted.map_err(|e| error_map::delete(&e))
}
