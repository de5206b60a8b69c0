//! CreateTopics.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use tidemill_controller::{Image, Topic, configs};
use tidemill_model::topic_name;
use tidemill_rt::task;
use tidemill_wire::WireError;
use uuid::Uuid;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::describe_configs::source_of;
use super::text;
use crate::shard::Shard;
use crate::topics::{self, NewTopic};

/// Topics looked at before other tasks have their turn.
const TOPICS_PER_TURN: usize = 256;

/// An error code and what it means.
type Refused = (i16, String);

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: CreateTopicsRequest = request.decode()?;
    Ok(Box::pin(async move { answer(request, body).await }))
}

async fn answer(request: Request, body: CreateTopicsRequest) -> Answer {
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for topic in &body.topics {
        if !seen.insert(topic.name.to_string()) {
            twice.insert(topic.name.to_string());
        }
    }
    let mut results = Vec::new();
    let mut taken = None;
    for (i, topic) in body.topics.into_iter().enumerate() {
        if i % TOPICS_PER_TURN == TOPICS_PER_TURN - 1 {
            task::yield_now().await;
        }
        let name = topic.name.clone();
        let made = if twice.contains(name.as_str()) {
            Err((
                code::INVALID_REQUEST,
                "the topic is named twice in this request".to_owned(),
            ))
        } else if body.validate_only {
            let taken = taken.get_or_insert_with(|| Taken::by(&request.shard.image()));
            validate(&request.shard, topic, taken)
        } else {
            create(&request.shard, topic).await
        };
        let result = CreatableTopicResult::default().with_name(name);
        results.push(match made {
            Ok(topic) => success(&request.shard.info.topic_defaults, result, &topic),
            Err((code, message)) => result
                .with_error_code(code)
                .with_error_message(Some(super::message(message)))
                .with_num_partitions(-1)
                .with_replication_factor(-1),
        });
    }
    request
        .answer(&CreateTopicsResponse::default().with_topics(results))
        .await
}

async fn create(shard: &Rc<Shard>, topic: CreatableTopic) -> Result<Arc<Topic>, Refused> {
    let new = convert(topic, shard.info.node.0)?;
    shard.create_topic(new).await.map_err(|e| refused(&e))
}

/// The topic as it would be made.
fn validate(
    shard: &Rc<Shard>,
    topic: CreatableTopic,
    taken: &Taken,
) -> Result<Arc<Topic>, Refused> {
    let new = convert(topic, shard.info.node.0)?;
    topics::check(&new).map_err(|e| refused(&e))?;
    taken.check(&new.name)?;
    let partitions = new
        .partitions
        .unwrap_or(shard.info.settings.topics.partitions);
    Ok(Arc::new(Topic {
        name: new.name,
        id: tidemill_model::TopicId::NONE,
        rings: vec![0; partitions as usize],
        replicas: new.replicas.unwrap_or(topics::REPLICAS_DEFAULT),
        configs: new.configs,
    }))
}

fn refused(e: &topics::TopicError) -> Refused {
    (error_map::topic(e), e.to_string())
}

/// Names that are taken, and those too like them: made once for a request, which may name very many.
struct Taken(BTreeMap<String, Arc<Topic>>);

impl Taken {
    fn by(image: &Image) -> Taken {
        let key = |t: &Arc<Topic>| (topic_name::collision_key(&t.name), t.clone());
        Taken(image.topics().map(key).collect())
    }

    fn check(&self, name: &str) -> Result<(), Refused> {
        let Some(other) = self.0.get(&topic_name::collision_key(name)) else {
            return Ok(());
        };
        let code = match other.name == name {
            true => code::TOPIC_ALREADY_EXISTS,
            false => code::INVALID_TOPIC_EXCEPTION,
        };
        Err((code, format!("topic '{}' already exists", other.name)))
    }
}

fn convert(topic: CreatableTopic, node: i32) -> Result<NewTopic, Refused> {
    let mut new = NewTopic::named(&topic.name);
    new.partitions = (topic.num_partitions != -1).then_some(topic.num_partitions);
    new.replicas = (topic.replication_factor != -1).then_some(topic.replication_factor);
    if !topic.assignments.is_empty() {
        if new.partitions.is_some() || new.replicas.is_some() {
            let message = "with assignments, partition count and replication factor must be -1";
            return Err((code::INVALID_REQUEST, message.to_owned()));
        }
        let indices: BTreeSet<i32> = topic
            .assignments
            .iter()
            .map(|a| a.partition_index)
            .collect();
        let dense = indices
            .iter()
            .copied()
            .eq(0..topic.assignments.len() as i32);
        let here = topic
            .assignments
            .iter()
            .all(|a| matches!(a.broker_ids[..], [id] if id.0 == node));
        if !dense || !here {
            let message = format!(
                "partitions must count up from 0 and be assigned to node {node}, the only one"
            );
            return Err((code::INVALID_REPLICA_ASSIGNMENT, message));
        }
        new.partitions = Some(topic.assignments.len() as i32);
        new.replicas = Some(1);
    }
    let mut configs = BTreeMap::new();
    for config in topic.configs {
        let Some(value) = config.value else {
            return Err((
                code::INVALID_CONFIG,
                format!("config '{}' has no value", config.name),
            ));
        };
        configs.insert(config.name.to_string(), value.to_string());
    }
    new.configs = configs;
    Ok(new)
}

fn success(
    defaults: &configs::Defaults,
    result: CreatableTopicResult,
    topic: &Topic,
) -> CreatableTopicResult {
    let config = |def: &configs::ConfigDef| {
        CreatableTopicConfigs::default()
            .with_name(text(def.name))
            .with_value(Some(text(defaults.value(&topic.configs, def.name))))
            .with_config_source(source_of(topic, defaults, def.name))
    };
    result
        .with_topic_id(Uuid::from_bytes(topic.id.0))
        .with_num_partitions(topic.partition_count())
        .with_replication_factor(topic.replicas)
        .with_configs(Some(configs::CONFIGS.iter().map(config).collect()))
}
