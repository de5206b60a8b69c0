//! Heartbeat: a member says that it is there, and hears whether to join again.

use std::future::ready;

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use tidemill_groups::GroupError;
use tidemill_wire::WireError;

use super::super::answers::Pending;
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::who;

pub(in super::super) async fn start(request: Request) -> Result<Pending, WireError> {
    let body: HeartbeatRequest = request.decode()?;
    let who = who(&body.member_id, body.group_instance_id.as_ref());
    let (group, generation) = (body.group_id.0.to_string(), body.generation_id);
    let beat = request
        .shard
        .at_coordinator(&body.group_id.0, move |coordinator| {
            ready(coordinator.heartbeat(&group, &who, generation))
        })
        .await;
    Ok(Box::pin(async move {
        let code = told(beat.await.and_then(|beat| beat));
        request
            .answer(&HeartbeatResponse::default().with_error_code(code))
            .await
    }))
}

/// The answer's code.
fn told(beat: Result<(), GroupError>) -> i16 {
    match beat {
        // As Kafka: a member is not out while its group is being loaded, and some clients give up at any other answer.
        Ok(()) | Err(GroupError::CoordinatorLoadInProgress) => code::NONE,
        Err(error) => error_map::group(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_is_not_out_while_its_group_is_being_loaded() {
        assert_eq!(told(Err(GroupError::CoordinatorLoadInProgress)), code::NONE);
        let moved = told(Err(GroupError::NotCoordinator));
        assert_eq!(moved, code::NOT_COORDINATOR);
        let out = told(Err(GroupError::UnknownMemberId));
        assert_eq!(out, code::UNKNOWN_MEMBER_ID);
    }
}
