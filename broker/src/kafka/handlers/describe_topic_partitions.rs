//! DescribeTopicPartitions (KIP-966): partitions of topics by name, page by page. Never makes a topic.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};
use tidemill_controller::Topic;
use tidemill_model::topic_name;
use tidemill_wire::WireError;
use uuid::Uuid;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::code;
use super::text;
use crate::ask::{Question, ask};

/// Most partitions of an answer: Kafka's default of `max.request.partition.size.limit`.
const PARTITIONS_MAX: usize = 2_000;
/// Bytes of an answer for a topic beside its name, and for a partition, about.
const TOPIC_BYTES: usize = 64;
const PARTITION_BYTES: usize = 80;

/// A topic of the answer: the partitions from `first` to `end`, or an error.
struct Page {
    name: String,
    topic: Result<Arc<Topic>, i16>,
    first: i32,
    end: i32,
}

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DescribeTopicPartitionsRequest = request.decode()?;
    Ok(Box::pin(async move { answer(&request, body).await }))
}

async fn answer(request: &Request, body: DescribeTopicPartitionsRequest) -> Answer {
    let (pages, next) = paginate(request, &body);
    let bytes =
        |p: &Page| TOPIC_BYTES + p.name.len() + (p.end - p.first) as usize * PARTITION_BYTES;
    let room = request.room(pages.iter().map(bytes).sum()).await;
    let mut questions = Vec::new();
    let mut topics = Vec::with_capacity(pages.len());
    for (t, page) in pages.into_iter().enumerate() {
        if let Ok(topic) = &page.topic {
            for (p, index) in (page.first..page.end).enumerate() {
                questions.extend(topic.ring(index).map(|ring| Question {
                    slot: (t, p),
                    ring,
                    partition: topic.partition(index),
                    asked: (),
                }));
            }
        }
        topics.push(describe(page, BrokerId(request.shard.info.node.0)));
    }
    let epochs = ask(&request.shard, questions, |ring, id, ()| {
        Some(ring.view(id)?.leader_epoch)
    });
    for ((t, p), epoch) in epochs.await {
        let partition = &mut topics[t].partitions[p];
        partition.error_code = code::NONE;
        partition.leader_id = BrokerId(request.shard.info.node.0);
        partition.leader_epoch = epoch;
    }
    let response = DescribeTopicPartitionsResponse::default()
        .with_topics(topics)
        .with_next_cursor(next);
    request.answer_within(room, &response)
}

/// What goes into this answer, and where the next one begins. Topics are in the order of their names.
fn paginate(
    request: &Request,
    body: &DescribeTopicPartitionsRequest,
) -> (Vec<Page>, Option<Cursor>) {
    let image = request.shard.image();
    let named: BTreeSet<String> = match body.topics.is_empty() {
        true => image.topics().map(|t| t.name.clone()).collect(),
        false => body.topics.iter().map(|t| t.name.to_string()).collect(),
    };
    let (from, from_partition) = match &body.cursor {
        None => (String::new(), 0),
        Some(cursor) => (cursor.topic_name.to_string(), cursor.partition_index.max(0)),
    };
    let mut left = (body.response_partition_limit.max(1) as usize).min(PARTITIONS_MAX);
    let mut pages = Vec::new();
    for name in named.range(from.clone()..) {
        if left == 0 {
            return (pages, Some(cursor(name, 0)));
        }
        let Some(topic) = image.topic(name) else {
            let error = match topic_name::check(name) {
                Ok(()) => code::UNKNOWN_TOPIC_OR_PARTITION,
                Err(_) => code::INVALID_TOPIC_EXCEPTION,
            };
            // It takes a place in the answer like a partition.
            left -= 1;
            pages.push(Page {
                name: name.clone(),
                topic: Err(error),
                first: 0,
                end: 0,
            });
            continue;
        };
        let count = topic.partition_count();
        let first = if *name == from {
            from_partition.min(count)
        } else {
            0
        };
        let end = first + (count - first).min(left as i32);
        left -= (end - first) as usize;
        pages.push(Page {
            name: name.clone(),
            topic: Ok(topic.clone()),
            first,
            end,
        });
        if end < count {
            return (pages, Some(cursor(name, end)));
        }
    }
    (pages, None)
}

fn cursor(name: &str, partition: i32) -> Cursor {
    Cursor::default()
        .with_topic_name(TopicName(text(name)))
        .with_partition_index(partition)
}

/// A topic with its partitions, none of which has a leader yet.
fn describe(page: Page, node: BrokerId) -> DescribeTopicPartitionsResponseTopic {
    let described = DescribeTopicPartitionsResponseTopic::default()
        .with_is_internal(topic_name::is_internal(&page.name))
        .with_name(Some(TopicName(text(page.name))));
    let topic = match page.topic {
        Ok(topic) => topic,
        Err(code) => return described.with_error_code(code),
    };
    let partitions = (page.first..page.end).map(|index| {
        DescribeTopicPartitionsResponsePartition::default()
            .with_error_code(code::LEADER_NOT_AVAILABLE)
            .with_partition_index(index)
            .with_leader_id(BrokerId(-1))
            .with_replica_nodes(vec![node])
            .with_isr_nodes(vec![node])
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
    });
    described
        .with_topic_id(Uuid::from_bytes(topic.id.0))
        .with_partitions(partitions.collect())
}
