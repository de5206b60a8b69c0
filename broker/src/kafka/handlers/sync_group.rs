//! SyncGroup: a member asks for its assignment, the leader brings everybody's.

use std::sync::Arc;

use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use tidemill_groups::GroupError;
use tidemill_groups::request::Sync;
use tidemill_wire::WireError;

use super::super::answers::Pending;
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::{text, who};

/// First version that tells type and name of the protocol.
const PROTOCOL_FROM: i16 = 5;
/// Bytes of an answer beside the assignment, about.
const ANSWER_BYTES: usize = 128;

pub(in super::super) async fn start(mut request: Request) -> Result<Pending, WireError> {
    let body: SyncGroupRequest = request.decode()?;
    let group: Arc<str> = (*body.group_id.0).into();
    let assignments = body.assignments.iter();
    let sync = Sync {
        group: group.clone(),
        generation: body.generation_id,
        who: who(&body.member_id, body.group_instance_id.as_ref()),
        protocol_type: body.protocol_type.as_deref().map(Arc::from),
        protocol: body.protocol_name.as_deref().map(Arc::from),
        assignments: assignments
            .map(|a| {
                (
                    (*a.member_id).into(),
                    bytes::Bytes::copy_from_slice(&a.assignment),
                )
            })
            .collect(),
    };
    // It may wait for long: nothing of it may keep the frame.
    drop(body);
    request.release();
    let synced = request
        .shard
        .at_coordinator(&group, move |coordinator| coordinator.sync(sync))
        .await;
    Ok(Box::pin(async move {
        let response = SyncGroupResponse::default();
        match synced.await.and_then(|synced| synced) {
            Err(error) => {
                let response = response.with_error_code(refusal(error));
                request.answer(&response).await
            }
            Ok(synced) => {
                let room = request.room(ANSWER_BYTES + synced.assignment.len()).await;
                let mut response = response.with_assignment(synced.assignment);
                if request.version >= PROTOCOL_FROM {
                    response = response
                        .with_protocol_type(synced.protocol_type.map(|t| text(&*t)))
                        .with_protocol_name(synced.protocol.map(|p| text(&*p)));
                }
                request.answer_within(room, &response)
            }
        }
    }))
}

/// The code of an answer without assignment.
fn refusal(error: GroupError) -> i16 {
    match error {
        // As Kafka while the group is being loaded: the member joins again, and waits with that.
        GroupError::CoordinatorLoadInProgress => code::REBALANCE_IN_PROGRESS,
        error => error_map::group(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_that_asks_while_its_group_is_being_loaded_joins_again() {
        let loading = refusal(GroupError::CoordinatorLoadInProgress);
        assert_eq!(loading, code::REBALANCE_IN_PROGRESS);
        let moved = refusal(GroupError::NotCoordinator);
        assert_eq!(moved, code::NOT_COORDINATOR);
    }
}
