//! OffsetCommit: a group notes how far it has read. Answered when that is durable.

use std::sync::Arc;

use bytes::Bytes;
use tidemill_controller::Topic;
use tidemill_groups::GroupError;
use tidemill_groups::coordinator::NewCommit;
use tidemill_wire::WireError;
use tidemill_wire::offset_commit::{PartitionCommit, TopicCommitted, decode, encode};

use super::super::answers::{Answer, Body, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::{find_topic, who};
use crate::topics::now_ms;

/// A place in the answer: topic and partition, by index.
type Slot = (usize, usize);

pub(in super::super) async fn start(mut request: Request) -> Result<Pending, WireError> {
    let body = decode(&request.frame, request.body_at, request.version)?;
    let image = request.shard.image();
    let expire_ms = (body.retention_ms >= 0).then(|| now_ms().saturating_add(body.retention_ms));
    let (mut topics, mut slots, mut commits) = (Vec::new(), Vec::<Slot>::new(), Vec::new());
    for (t, named) in body.topics.into_iter().enumerate() {
        let found = find_topic(&image, &named.topic);
        let mut partitions = Vec::with_capacity(named.partitions.len());
        for (p, partition) in named.partitions.into_iter().enumerate() {
            partitions.push((partition.index, code::NONE));
            match found {
                Ok(topic) if topic.ring(partition.index).is_some() => {
                    slots.push((t, p));
                    commits.push(convert(topic, &partition, expire_ms));
                }
                Ok(_) => partitions[p].1 = code::UNKNOWN_TOPIC_OR_PARTITION,
                Err(code) => partitions[p].1 = code,
            }
        }
        topics.push(TopicCommitted {
            topic: named.topic,
            partitions,
        });
    }
    let who = who(&body.member, body.instance.as_ref());
    let (group, generation) = (body.group.to_string(), body.generation);
    let committed = request
        .shard
        .at_coordinator(&body.group, move |coordinator| {
            coordinator.commit(&group, &who, generation, commits)
        })
        .await;
    Ok(Box::pin(async move {
        let committed = committed.await.and_then(|each| each);
        fill(&mut topics, &slots, committed);
        // No more than the request, which is started in its turn where that is large.
        let answer = encode(&topics, request.version);
        let room = request.room(answer.len()).await;
        request.release();
        Answer::Body(Body::within(room, vec![Bytes::from(answer)]))
    }))
}

fn convert(topic: &Arc<Topic>, partition: &PartitionCommit, expire_ms: Option<i64>) -> NewCommit {
    NewCommit {
        topic: topic.name.as_str().into(),
        topic_id: topic.id,
        partition: partition.index,
        offset: partition.offset,
        leader_epoch: partition.leader_epoch,
        metadata: partition.metadata.as_deref().unwrap_or_default().to_owned(),
        expire_ms,
    }
}

fn fill(
    topics: &mut [TopicCommitted],
    slots: &[Slot],
    committed: Result<Vec<Result<(), GroupError>>, GroupError>,
) {
    for (i, (t, p)) in slots.iter().enumerate() {
        let result = match &committed {
            Ok(each) => each
                .get(i)
                .copied()
                .unwrap_or(Err(GroupError::CoordinatorNotAvailable)),
            Err(error) => Err(*error),
        };
        topics[*t].partitions[*p].1 = result.map_or_else(error_map::group, |()| code::NONE);
    }
}
