//! FindCoordinator: which node looks after a group or a transactional id. With one node it is this one.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::code;
use super::text;

/// First version that asks for several keys.
const BATCHED_FROM: i16 = 4;
/// Bytes of an answer for a key, beside the key and the host, about.
const COORDINATOR_BYTES: usize = 128;
/// Key types: consumer groups and transactional ids.
const KEY_TYPES: std::ops::RangeInclusive<i8> = 0..=1;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: FindCoordinatorRequest = request.decode()?;
    Ok(Box::pin(async move { answer(&request, body).await }))
}

async fn answer(request: &Request, body: FindCoordinatorRequest) -> Answer {
    let keys: usize = body.coordinator_keys.iter().map(|key| key.len()).sum();
    let each = COORDINATOR_BYTES + request.shard.info.advertised.host.len();
    let room = request
        .room(keys + body.coordinator_keys.len() * each + each)
        .await;
    let known = KEY_TYPES.contains(&body.key_type);
    let one = |key: StrBytes| coordinator(request, key, known);
    let response = if request.version >= BATCHED_FROM {
        FindCoordinatorResponse::default()
            .with_coordinators(body.coordinator_keys.into_iter().map(one).collect())
    } else {
        let found = one(body.key);
        FindCoordinatorResponse::default()
            .with_error_code(found.error_code)
            .with_error_message(found.error_message)
            .with_node_id(found.node_id)
            .with_host(found.host)
            .with_port(found.port)
    };
    request.answer_within(room, &response)
}

fn coordinator(request: &Request, key: StrBytes, known: bool) -> Coordinator {
    let info = &request.shard.info;
    if !known {
        return Coordinator::default()
            .with_key(key)
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(code::INVALID_REQUEST)
            .with_error_message(Some(text(
                "coordinators exist for groups (0) and transactional ids (1)",
            )));
    }
    Coordinator::default()
        .with_key(key)
        .with_node_id(BrokerId(info.node.0))
        .with_host(text(info.advertised.host.clone()))
        .with_port(i32::from(info.advertised.port))
}
