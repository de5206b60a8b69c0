//! ListOffsets: first, last, and by timestamp, exact to the record.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse, TopicName};
use tidemill_controller::Topic;
use tidemill_model::{PartitionId, RingId, ShardId};
use tidemill_ring::ReadError;
use tidemill_rt::task;
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use crate::shard::Shard;

/// Bytes of an answer for a topic or a partition, about.
const ENTRY_BYTES: usize = 64;
/// Timestamps that mean places, and the first version that has them.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: (i64, i16) = (-3, 7);
const EARLIEST_LOCAL: (i64, i16) = (-4, 8);
const LATEST_TIERED: (i64, i16) = (-5, 9);
const EARLIEST_PENDING_UPLOAD: (i64, i16) = (-6, 11);
/// First version that carries leader epochs.
const EPOCHS_FROM: i16 = 4;

/// What is asked of one partition.
#[derive(Debug, Clone, Copy)]
struct Query {
    slot: (usize, usize),
    ring: RingId,
    partition: PartitionId,
    timestamp: i64,
    known_epoch: i32,
    committed: bool,
    version: i16,
}

/// An answer: offset, timestamp, leader epoch; or an error code.
type Listed = Result<(i64, i64, i32), i16>;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: ListOffsetsRequest = request.decode()?;
    Ok(Box::pin(async move { answer(request, body).await }))
}

async fn answer(request: Request, body: ListOffsetsRequest) -> Answer {
    let shard = &request.shard;
    let image = shard.image();
    let asked: usize = body.topics.iter().map(|t| t.partitions.len()).sum();
    let room = request
        .room((asked + body.topics.len()) * ENTRY_BYTES)
        .await;
    let twice = named_twice(&body);
    let mut queries: BTreeMap<ShardId, Vec<Query>> = BTreeMap::new();
    let mut topics = Vec::new();
    for (t, asked) in body.topics.into_iter().enumerate() {
        let topic = image.topic(&asked.name);
        let asked_name = asked.name.clone();
        let mut partitions = Vec::new();
        for (p, asked) in asked.partitions.into_iter().enumerate() {
            let index = asked.partition_index;
            let found =
                topic.and_then(|topic| Some((topic.ring(index)?, Topic::partition(topic, index))));
            let mut code = code::UNKNOWN_TOPIC_OR_PARTITION;
            if twice.contains(&(asked_name.clone(), index)) {
                code = code::INVALID_REQUEST;
            } else if let Some((ring, partition)) = found {
                code = code::NOT_LEADER_OR_FOLLOWER;
                queries
                    .entry(ring.shard(shard.info.shards))
                    .or_default()
                    .push(Query {
                        slot: (t, p),
                        ring,
                        partition,
                        timestamp: asked.timestamp,
                        known_epoch: asked.current_leader_epoch,
                        committed: body.isolation_level == 1,
                        version: request.version,
                    });
            }
            partitions.push(
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(index)
                    .with_error_code(code)
                    .with_offset(-1)
                    .with_timestamp(-1),
            );
        }
        topics.push(
            ListOffsetsTopicResponse::default()
                .with_name(asked.name)
                .with_partitions(partitions),
        );
    }
    for (target, queries) in queries {
        let listed = shard.on(target, move |shard| async move {
            list_all(&shard, queries).await
        });
        for ((t, p), listed) in listed.await.unwrap_or_default() {
            put(&mut topics[t].partitions[p], listed, request.version);
        }
    }
    request.answer_within(room, &ListOffsetsResponse::default().with_topics(topics))
}

/// Partitions that the request names more than once: like Kafka's brokers, this one looks at none of them.
fn named_twice(body: &ListOffsetsRequest) -> BTreeSet<(TopicName, i32)> {
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for topic in &body.topics {
        for partition in &topic.partitions {
            let named = (topic.name.clone(), partition.partition_index);
            if !seen.insert(named.clone()) {
                twice.insert(named);
            }
        }
    }
    twice
}

fn put(response: &mut ListOffsetsPartitionResponse, listed: Listed, version: i16) {
    match listed {
        Err(code) => response.error_code = code,
        Ok((offset, timestamp, epoch)) => {
            response.error_code = code::NONE;
            response.offset = offset;
            response.timestamp = timestamp;
            if version >= EPOCHS_FROM {
                response.leader_epoch = epoch;
            }
        }
    }
}

async fn list_all(shard: &Rc<Shard>, queries: Vec<Query>) -> Vec<((usize, usize), Listed)> {
    let mut out = Vec::with_capacity(queries.len());
    for query in queries {
        task::yield_now().await;
        out.push((query.slot, list(shard, query).await));
    }
    out
}

async fn list(shard: &Rc<Shard>, q: Query) -> Listed {
    let ring = shard
        .ring(q.ring)
        .ok_or(code::NOT_LEADER_OR_FOLLOWER)?
        .clone();
    let view = ring.view(q.partition).ok_or(code::NOT_LEADER_OR_FOLLOWER)?;
    if let Some(code) = error_map::leader_epoch(q.known_epoch, view.leader_epoch) {
        return Err(code);
    }
    let failed = |e: ReadError| error_map::read(&e);
    let since = |(_, from): (i64, i16)| q.version >= from;
    let found = match q.timestamp {
        LATEST if q.committed => Some((view.last_stable_offset, -1)),
        LATEST => Some((view.high_watermark, -1)),
        EARLIEST => Some((view.log_start_offset, -1)),
        t if t == MAX_TIMESTAMP.0 && since(MAX_TIMESTAMP) => {
            ring.max_timestamp(q.partition).await.map_err(failed)?
        }
        // Everything is local: there is no tiered storage.
        t if t == EARLIEST_LOCAL.0 && since(EARLIEST_LOCAL) => Some((view.log_start_offset, -1)),
        t if t == LATEST_TIERED.0 && since(LATEST_TIERED) => None,
        t if t == EARLIEST_PENDING_UPLOAD.0 && since(EARLIEST_PENDING_UPLOAD) => None,
        t if t >= 0 => ring
            .offset_for_timestamp(q.partition, t)
            .await
            .map_err(failed)?,
        _ => return Err(code::UNSUPPORTED_VERSION),
    };
    let (offset, timestamp) = found.unwrap_or((-1, -1));
    Ok((
        offset,
        timestamp,
        if found.is_some() {
            view.leader_epoch
        } else {
            -1
        },
    ))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};

    use super::super::text;
    use super::*;

    #[test]
    fn partition_named_twice_is_found_whatever_its_timestamps() {
        let asked = |index, timestamp| {
            ListOffsetsPartition::default()
                .with_partition_index(index)
                .with_timestamp(timestamp)
        };
        let topic = |name: &str, partitions| {
            ListOffsetsTopic::default()
                .with_name(TopicName(text(name)))
                .with_partitions(partitions)
        };
        let body = ListOffsetsRequest::default().with_topics(vec![
            topic("a", vec![asked(0, 1), asked(1, 1), asked(0, 2)]),
            topic("b", vec![asked(1, 1)]),
            topic("b", vec![asked(1, 5), asked(2, 5)]),
        ]);
        let twice = named_twice(&body);
        let named = |name: &str, index| (TopicName(text(name)), index);
        assert_eq!(twice, BTreeSet::from([named("a", 0), named("b", 1)]));
    }
}
