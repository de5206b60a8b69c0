//! DeleteGroups: groups without members, with what they have committed.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};
use tidemill_wire::WireError;

use super::super::answers::Pending;
use super::super::dispatch::Request;
use super::super::error_map::{self, code};

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DeleteGroupsRequest = request.decode()?;
    Ok(Box::pin(async move {
        let mut results = Vec::with_capacity(body.groups_names.len());
        for id in body.groups_names {
            let name = id.0.to_string();
            let deleted = request
                .shard
                .at_coordinator(&id.0, move |coordinator| coordinator.delete(&name))
                .await;
            let deleted = deleted.await.and_then(|deleted| deleted);
            let code = deleted.map_or_else(error_map::group, |()| code::NONE);
            results.push(
                DeletableGroupResult::default()
                    .with_group_id(id)
                    .with_error_code(code),
            );
        }
        request
            .answer(&DeleteGroupsResponse::default().with_results(results))
            .await
    }))
}
