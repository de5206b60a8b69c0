//! Metadata: brokers, topics, partitions and their leaders; makes topics that are asked for and missing.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use tidemill_controller::Topic;
use tidemill_model::{RingId, TopicId, topic_name};
use tidemill_rt::task;
use tidemill_wire::{WireError, api, message};
use uuid::Uuid;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::text;
use crate::ask::{PARTITIONS_PER_TURN, Question, ask};
use crate::shard::{NodeInfo, Shard};

/// First version in which an empty list means no topics (before: all).
const EMPTY_IS_NONE_FROM: i16 = 1;

/// Topics that one request may have made; the others are there to be asked for again.
const TOPICS_MADE_MAX: usize = 100;
/// Bytes of an answer for a topic beside its name, and for a partition, about.
const TOPIC_BYTES: usize = 64;
const PARTITION_BYTES: usize = 64;

/// In place of the leader epoch of a partition that is not open.
const NOT_OPEN: i32 = -1;

/// What is said about one topic.
enum Found {
    Topic(Arc<Topic>),
    Error {
        name: Option<TopicName>,
        id: TopicId,
        code: i16,
    },
}

impl Found {
    /// How many topics and partitions it is.
    fn parts(&self) -> usize {
        match self {
            Found::Topic(topic) => 1 + topic.rings.len(),
            Found::Error { .. } => 1,
        }
    }

    fn answer_bytes(&self) -> usize {
        match self {
            Found::Topic(topic) => {
                TOPIC_BYTES + topic.name.len() + topic.rings.len() * PARTITION_BYTES
            }
            Found::Error { name, .. } => TOPIC_BYTES + name.as_ref().map_or(0, |n| n.len()),
        }
    }
}

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: MetadataRequest = request.decode()?;
    Ok(Box::pin(async move { answer(request, body).await }))
}

async fn answer(mut request: Request, body: MetadataRequest) -> Answer {
    let shard = &request.shard;
    let all = match &body.topics {
        None => true,
        Some(topics) => topics.is_empty() && request.version < EMPTY_IS_NONE_FROM,
    };
    let mut found = Vec::new();
    if all {
        found.extend(shard.image().topics().cloned().map(Found::Topic));
    } else {
        // A topic that is named many times is described once, so that a small request has no vast answer.
        let mut seen = BTreeSet::new();
        let auto_create = shard.info.settings.topics.auto_create;
        let mut may_create = if body.allow_auto_topic_creation && auto_create {
            TOPICS_MADE_MAX
        } else {
            0
        };
        for topic in body.topics.into_iter().flatten() {
            if !seen.insert((
                topic.name.clone().map(|n| n.to_string()),
                *topic.topic_id.as_bytes(),
            )) {
                continue;
            }
            found.push(find(shard, topic, &mut may_create).await);
        }
    }
    request.release();
    let shard = &request.shard;
    let room = request
        .room(found.iter().map(Found::answer_bytes).sum())
        .await;
    let large = found.iter().map(Found::parts).sum::<usize>() > PARTITIONS_PER_TURN;
    // What is made of one answer takes several times its room, so that only one large one is made at a time.
    let _turn = match large {
        true => Some(shard.metadata_turn.acquire(1).await),
        false => None,
    };
    let epochs = leader_epochs(shard, &found).await;
    let (info, version) = (shard.info.clone(), request.version);
    let make = move || {
        message::encode(
            &response(&info, found, epochs),
            message::crate_version(api::METADATA, version),
        )
    };
    // It may take as long as many requests do.
    let made = match large {
        true => task::blocking(make).await,
        false => make(),
    };
    request.answer_made(room, made)
}

fn response(info: &NodeInfo, found: Vec<Found>, epochs: Vec<Vec<i32>>) -> MetadataResponse {
    let node = BrokerId(info.node.0);
    let broker = MetadataResponseBroker::default()
        .with_node_id(node)
        .with_host(text(info.advertised.host.clone()))
        .with_port(i32::from(info.advertised.port));
    let topics = found.into_iter().zip(epochs);
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(text(info.cluster_id.clone())))
        .with_controller_id(node)
        .with_topics(
            topics
                .map(|(f, epochs)| describe(f, node, &epochs))
                .collect(),
        )
}

/// Looks a topic up, and makes it where it is missing and `may_create` more may be made.
async fn find(shard: &Rc<Shard>, topic: MetadataRequestTopic, may_create: &mut usize) -> Found {
    let id = TopicId(*topic.topic_id.as_bytes());
    let Some(name) = topic.name else {
        return match shard.image().topic_by_id(id) {
            Some(topic) => Found::Topic(topic.clone()),
            None => Found::Error {
                name: None,
                id,
                code: code::UNKNOWN_TOPIC_ID,
            },
        };
    };
    if let Some(topic) = shard.image().topic(&name) {
        return Found::Topic(topic.clone());
    }
    let error = |code| Found::Error {
        // A copy: the name as it came keeps the request's frame.
        name: Some(TopicName(text(name.to_string()))),
        id: TopicId::NONE,
        code,
    };
    if topic_name::check(&name).is_err() {
        return error(code::INVALID_TOPIC_EXCEPTION);
    }
    if *may_create == 0 {
        // Clients take this for "not yet" and ask again.
        return error(code::UNKNOWN_TOPIC_OR_PARTITION);
    }
    *may_create -= 1;
    match shard.topic_or_create(&name).await {
        Ok(topic) => Found::Topic(topic),
        Err(e) => error(error_map::topic(&e)),
    }
}

/// The leader epochs of the partitions of each topic, asked of their shards; [`NOT_OPEN`] for one that is not open.
async fn leader_epochs(shard: &Rc<Shard>, found: &[Found]) -> Vec<Vec<i32>> {
    let mut epochs = Vec::with_capacity(found.len());
    let mut questions = Vec::new();
    for (t, found) in found.iter().enumerate() {
        let Found::Topic(topic) = found else {
            epochs.push(Vec::new());
            continue;
        };
        epochs.push(vec![NOT_OPEN; topic.rings.len()]);
        for (p, ring) in topic.rings.iter().enumerate() {
            if questions.len() % PARTITIONS_PER_TURN == PARTITIONS_PER_TURN - 1 {
                task::yield_now().await;
            }
            questions.push(Question {
                slot: (t, p),
                ring: RingId(*ring),
                partition: topic.partition(p as i32),
                asked: (),
            });
        }
    }
    let answered = ask(shard, questions, |ring, id, ()| {
        Some(ring.view(id)?.leader_epoch)
    });
    for (i, ((t, p), epoch)) in answered.await.into_iter().enumerate() {
        if i % PARTITIONS_PER_TURN == PARTITIONS_PER_TURN - 1 {
            task::yield_now().await;
        }
        epochs[t][p] = epoch;
    }
    epochs
}

fn describe(found: Found, node: BrokerId, epochs: &[i32]) -> MetadataResponseTopic {
    let topic = match found {
        Found::Topic(topic) => topic,
        Found::Error { name, id, code } => {
            return MetadataResponseTopic::default()
                .with_error_code(code)
                .with_name(name)
                .with_topic_id(Uuid::from_bytes(id.0));
        }
    };
    let partitions = (0..).zip(epochs).map(|(index, epoch)| {
        let p = MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_replica_nodes(vec![node])
            .with_isr_nodes(vec![node]);
        match *epoch {
            NOT_OPEN => p
                .with_leader_id(BrokerId(-1))
                .with_error_code(code::LEADER_NOT_AVAILABLE),
            epoch => p.with_leader_id(node).with_leader_epoch(epoch),
        }
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(topic.name.clone()))))
        .with_topic_id(Uuid::from_bytes(topic.id.0))
        .with_is_internal(topic_name::is_internal(&topic.name))
        .with_partitions(partitions.collect())
}
