//! DeleteTopics, by name or (version 6) by id.

use std::rc::Rc;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use tidemill_model::TopicId;
use tidemill_wire::WireError;
use uuid::Uuid;

use super::super::answers::Pending;
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::text;
use crate::shard::Shard;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DeleteTopicsRequest = request.decode()?;
    Ok(Box::pin(async move {
        let named = |name| DeleteTopicState::default().with_name(Some(name));
        let topics = body
            .topics
            .into_iter()
            .chain(body.topic_names.into_iter().map(named));
        let mut responses = Vec::new();
        for topic in topics {
            responses.push(delete(&request.shard, topic).await);
        }
        request
            .answer(&DeleteTopicsResponse::default().with_responses(responses))
            .await
    }))
}

async fn delete(shard: &Rc<Shard>, state: DeleteTopicState) -> DeletableTopicResult {
    let result = DeletableTopicResult::default()
        .with_name(state.name.clone())
        .with_topic_id(state.topic_id);
    let image = shard.image();
    let topic = match &state.name {
        Some(_) if !state.topic_id.is_nil() => {
            let message = "name a topic by name or by id, not by both";
            return result
                .with_error_code(code::INVALID_REQUEST)
                .with_error_message(Some(super::message(message)));
        }
        Some(name) => image.topic(name).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION),
        None => image
            .topic_by_id(TopicId(*state.topic_id.as_bytes()))
            .ok_or(code::UNKNOWN_TOPIC_ID),
    };
    let topic = match topic {
        Ok(topic) => topic.clone(),
        Err(error) => return result.with_error_code(error),
    };
    let result = result
        .with_name(Some(kafka_protocol::messages::TopicName(text(
            topic.name.clone(),
        ))))
        .with_topic_id(Uuid::from_bytes(topic.id.0));
    match shard.delete_topic(topic.id).await {
        Ok(()) => result,
        Err(e) => result
            .with_error_code(error_map::topic(&e))
            .with_error_message(Some(super::message(e.to_string()))),
    }
}
