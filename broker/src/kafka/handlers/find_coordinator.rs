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
/// The key type of consumer groups, and that of transactional ids.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// An error code and what it means.
type Refused = (i16, &'static str);

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
    let response = if request.version >= BATCHED_FROM {
        let mut coordinators = Vec::with_capacity(body.coordinator_keys.len());
        for key in body.coordinator_keys {
            coordinators.push(coordinator(request, key, body.key_type).await);
        }
        FindCoordinatorResponse::default().with_coordinators(coordinators)
    } else {
        let found = coordinator(request, body.key, body.key_type).await;
        FindCoordinatorResponse::default()
            .with_error_code(found.error_code)
            .with_error_message(found.error_message)
            .with_node_id(found.node_id)
            .with_host(found.host)
            .with_port(found.port)
    };
    request.answer_within(room, &response)
}

async fn coordinator(request: &Request, key: StrBytes, key_type: i8) -> Coordinator {
    let info = &request.shard.info;
    let found = Coordinator::default().with_key(key.clone());
    match check(request, &key, key_type).await {
        Ok(()) => found
            .with_node_id(BrokerId(info.node.0))
            .with_host(text(info.advertised.host.clone()))
            .with_port(i32::from(info.advertised.port)),
        Err((code, message)) => found
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(code)
            .with_error_message(Some(super::message(message))),
    }
}

/// Makes sure that a group's coordinator is at work.
async fn check(request: &Request, key: &str, key_type: i8) -> Result<(), Refused> {
    match key_type {
        GROUP => match request.shard.find_coordinator(key, request.at).await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "consumer groups have no topic yet");
                let message = "consumer groups cannot be kept yet; try again";
                Err((code::COORDINATOR_NOT_AVAILABLE, message))
            }
        },
        // Whoever asks is told at InitProducerId that there are no transactions yet.
        TRANSACTION => Ok(()),
        _ => {
            let message = "coordinators exist for groups (0) and transactional ids (1)";
            Err((code::INVALID_REQUEST, message))
        }
    }
}
