//! OffsetForLeaderEpoch (KIP-320): where the records of a leader epoch end, so that a consumer sees whether what it read is
//! still there.

use std::collections::BTreeSet;

use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use tidemill_model::PartitionId;
use tidemill_ring::Ring;
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use crate::ask::{Question, ask};

/// Bytes of an answer for a topic or a partition, about.
const ENTRY_BYTES: usize = 48;
/// First version in which replicas say who they are; consumers say -1.
const REPLICAS_FROM: i16 = 3;

/// An epoch and its end; or an error code.
type Found = Result<(i32, i64), i16>;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: OffsetForLeaderEpochRequest = request.decode()?;
    Ok(Box::pin(async move { answer(&request, body).await }))
}

async fn answer(request: &Request, body: OffsetForLeaderEpochRequest) -> Answer {
    let shard = &request.shard;
    let asked: usize = body.topics.iter().map(|t| t.partitions.len()).sum();
    let names: usize = body
        .topics
        .iter()
        .map(|t| t.topic.len() + ENTRY_BYTES)
        .sum();
    let room = request.room(asked * ENTRY_BYTES + names).await;
    let replica = request.version >= REPLICAS_FROM && body.replica_id.0 >= 0;
    let image = shard.image();
    let mut seen = BTreeSet::new();
    let mut questions = Vec::new();
    let mut topics = Vec::with_capacity(body.topics.len());
    for (t, asked) in body.topics.into_iter().enumerate() {
        let topic = image.topic(&asked.topic);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for (p, asked) in asked.partitions.into_iter().enumerate() {
            let place =
                topic.and_then(|t| Some((t.ring(asked.partition)?, t.partition(asked.partition))));
            let mut error = code::UNKNOWN_TOPIC_OR_PARTITION;
            if replica {
                error = code::CLUSTER_AUTHORIZATION_FAILED;
            } else if let Some((ring, partition)) = place {
                error = code::NOT_LEADER_OR_FOLLOWER;
                if seen.insert(partition) {
                    questions.push(Question {
                        slot: (t, p),
                        ring,
                        partition,
                        asked: (asked.current_leader_epoch, asked.leader_epoch),
                    });
                } else {
                    error = code::INVALID_REQUEST;
                }
            }
            partitions.push(entry(&asked, Err(error)));
        }
        topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(asked.topic)
                .with_partitions(partitions),
        );
    }
    for ((t, p), found) in ask(shard, questions, look).await {
        let entry = &mut topics[t].partitions[p];
        put(entry, found);
    }
    request.answer_within(
        room,
        &OffsetForLeaderEpochResponse::default().with_topics(topics),
    )
}

fn look(ring: &Ring, partition: PartitionId, (known, epoch): (i32, i32)) -> Option<Found> {
    let view = ring.view(partition)?;
    if let Some(error) = error_map::leader_epoch(known, view.leader_epoch) {
        return Some(Err(error));
    }
    // An epoch that has not begun, or none at all, has no end.
    if epoch < 0 || epoch > view.leader_epoch {
        return Some(Ok((-1, -1)));
    }
    ring.epoch_end(partition, epoch).map(Ok)
}

fn entry(asked: &OffsetForLeaderPartition, found: Found) -> EpochEndOffset {
    let mut entry = EpochEndOffset::default().with_partition(asked.partition);
    put(&mut entry, found);
    entry
}

fn put(entry: &mut EpochEndOffset, found: Found) {
    let (epoch, end) = found.unwrap_or((-1, -1));
    entry.error_code = found.err().unwrap_or(code::NONE);
    entry.leader_epoch = epoch;
    entry.end_offset = end;
}
