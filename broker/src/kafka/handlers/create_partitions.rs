//! CreatePartitions: more partitions for topics that exist.

use std::collections::BTreeSet;
use std::rc::Rc;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::named_twice;
use crate::shard::Shard;
use crate::topic_changes::Mode;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: CreatePartitionsRequest = request.decode()?;
    Ok(Box::pin(async move { answer(&request, body).await }))
}

async fn answer(request: &Request, body: CreatePartitionsRequest) -> Answer {
    let twice = named_twice(body.topics.iter().map(|t| t.name.to_string()));
    let mode = super::mode(body.validate_only);
    let mut answered = BTreeSet::new();
    let mut results = Vec::new();
    for topic in body.topics {
        let name = topic.name.clone();
        let grown = if !answered.insert(name.clone()) {
            continue;
        } else if twice.contains(name.as_str()) {
            let message = "the topic is named twice in this request";
            Err((code::INVALID_REQUEST, message.to_owned()))
        } else {
            grow(&request.shard, &topic, mode).await
        };
        let result = CreatePartitionsTopicResult::default().with_name(name);
        results.push(match grown {
            Ok(()) => result,
            Err((code, message)) => result
                .with_error_code(code)
                .with_error_message(Some(super::message(message))),
        });
    }
    request
        .answer(&CreatePartitionsResponse::default().with_results(results))
        .await
}

async fn grow(
    shard: &Rc<Shard>,
    topic: &CreatePartitionsTopic,
    mode: Mode,
) -> Result<(), (i16, String)> {
    let grow = |mode| async move {
        let grown = shard.grow_topic(topic.name.to_string(), topic.count, mode);
        let refused = |e| (error_map::topic(&e), e.to_string());
        grown.await.map_err(refused)
    };
    if topic.assignments.is_some() {
        // What is wrong with the count is said first, as Kafka does.
        grow(Mode::Check).await?;
        check_assignments(shard, topic)?;
    }
    grow(mode).await
}

/// New partitions can be assigned to this node only.
fn check_assignments(
    shard: &Rc<Shard>,
    topic: &CreatePartitionsTopic,
) -> Result<(), (i16, String)> {
    let Some(assignments) = &topic.assignments else {
        return Ok(());
    };
    let has = shard
        .image()
        .topic(&topic.name)
        .map_or(0, |t| t.partition_count());
    let (more, node) = (topic.count - has, shard.info.node.0);
    let here = |ids: &[kafka_protocol::messages::BrokerId]| matches!(ids, [id] if id.0 == node);
    if assignments.len() as i64 == i64::from(more)
        && assignments.iter().all(|a| here(&a.broker_ids))
    {
        return Ok(());
    }
    let message = format!(
        "{more} partitions would be added: each needs an assignment, and to node {node}, the only one"
    );
    Err((code::INVALID_REPLICA_ASSIGNMENT, message))
}
