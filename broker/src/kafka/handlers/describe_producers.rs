//! DescribeProducers (KIP-664): the idempotent producers that partitions remember.

use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, ProducerId, TopicName,
};
use tidemill_model::PartitionId;
use tidemill_ring::{ActiveProducer, Ring};
use tidemill_rt::time;
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::code;
use super::named_twice;
use crate::ask::{Question, ask};

/// Bytes of an answer for a partition or a producer, about.
const ENTRY_BYTES: usize = 64;
/// Most producers in one answer: what one partition remembers. Partitions beyond are answered with an error that says so.
const PRODUCERS_MAX: usize = 65_536;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DescribeProducersRequest = request.decode()?;
    Ok(Box::pin(async move { answer(&request, body).await }))
}

async fn answer(request: &Request, body: DescribeProducersRequest) -> Answer {
    let shard = &request.shard;
    let named = body.topics.iter().flat_map(|t| {
        let name = &t.name;
        t.partition_indexes.iter().map(move |p| (name.clone(), *p))
    });
    let twice = named_twice(named);
    let image = shard.image();
    let mut questions = Vec::new();
    let mut topics = Vec::with_capacity(body.topics.len());
    for (t, asked) in body.topics.into_iter().enumerate() {
        let topic = image.topic(&asked.name);
        let mut partitions = Vec::with_capacity(asked.partition_indexes.len());
        for (p, index) in asked.partition_indexes.into_iter().enumerate() {
            let place = topic.and_then(|t| Some((t.ring(index)?, t.partition(index))));
            let mut error = code::UNKNOWN_TOPIC_OR_PARTITION;
            if twice.contains(&(asked.name.clone(), index)) {
                error = code::INVALID_REQUEST;
            } else if let Some((ring, partition)) = place {
                error = code::NOT_LEADER_OR_FOLLOWER;
                questions.push(Question {
                    slot: (t, p),
                    ring,
                    partition,
                    asked: (),
                });
            }
            let partition = PartitionResponse::default()
                .with_partition_index(index)
                .with_error_code(error);
            partitions.push(partition);
        }
        topics.push(topic_response(asked.name, partitions));
    }
    let counts = ask(shard, clone(&questions), |ring, id, ()| {
        Some(ring.producers(id, time::unix_ms())?.len())
    });
    let most: usize = counts.await.into_iter().map(|(_, n)| n).sum();
    let partitions: usize = topics.iter().map(|t| t.partitions.len()).sum();
    let room = request
        .room((most.min(PRODUCERS_MAX) + partitions) * ENTRY_BYTES)
        .await;
    let mut left = PRODUCERS_MAX;
    for question in questions {
        // One after the other, so that no more is held than will be answered.
        for ((t, p), producers) in ask(shard, vec![question], look).await {
            let partition = &mut topics[t].partitions[p];
            if producers.len() > left {
                partition.error_code = code::INVALID_REQUEST;
                let message = format!(
                    "an answer has at most {PRODUCERS_MAX} producers; ask for fewer partitions"
                );
                partition.error_message = Some(super::message(message));
                continue;
            }
            left -= producers.len();
            partition.error_code = code::NONE;
            partition.active_producers = producers.iter().map(state).collect();
        }
    }
    request.answer_within(
        room,
        &DescribeProducersResponse::default().with_topics(topics),
    )
}

fn clone(questions: &[Question<()>]) -> Vec<Question<()>> {
    let copy = |q: &Question<()>| Question {
        slot: q.slot,
        ring: q.ring,
        partition: q.partition,
        asked: (),
    };
    questions.iter().map(copy).collect()
}

fn look(ring: &Ring, partition: PartitionId, (): ()) -> Option<Vec<ActiveProducer>> {
    ring.producers(partition, time::unix_ms())
}

fn topic_response(name: TopicName, partitions: Vec<PartitionResponse>) -> TopicResponse {
    TopicResponse::default()
        .with_name(name)
        .with_partitions(partitions)
}

fn state(p: &ActiveProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(p.producer_id))
        .with_producer_epoch(i32::from(p.epoch))
        .with_last_sequence(p.last_sequence)
        .with_last_timestamp(p.last_ms)
        // Without transactions there is no coordinator, and nothing is open.
        .with_coordinator_epoch(-1)
        .with_current_txn_start_offset(-1)
}
