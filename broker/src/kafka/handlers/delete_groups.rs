//! DeleteGroups: groups without members, with what they have committed.

use futures_util::future::join_all;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse, GroupId};
use tidemill_groups::GroupError;
use tidemill_wire::WireError;

use super::super::answers::Pending;
use super::super::dispatch::Request;
use super::super::error_map::{self, code};

/// Groups that are deleted together, so that they share batches and syncs; the next ones come after them.
const AT_ONCE: usize = 1_000;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DeleteGroupsRequest = request.decode()?;
    Ok(Box::pin(async move {
        let mut results = Vec::with_capacity(body.groups_names.len());
        for ids in body.groups_names.chunks(AT_ONCE) {
            let deleted = delete(&request, ids).await;
            results.extend(ids.iter().zip(deleted).map(|(id, deleted)| {
                DeletableGroupResult::default()
                    .with_group_id(id.clone())
                    .with_error_code(deleted.map_or_else(error_map::group, |()| code::NONE))
            }));
        }
        request
            .answer(&DeleteGroupsResponse::default().with_results(results))
            .await
    }))
}

/// Deletes groups; what became of each, in order.
async fn delete(request: &Request, ids: &[GroupId]) -> Vec<Result<(), GroupError>> {
    let mut deletions = Vec::with_capacity(ids.len());
    for id in ids {
        let name = id.0.to_string();
        let deletion = request
            .shard
            .at_coordinator(&id.0, move |coordinator| coordinator.delete(&name))
            .await;
        deletions.push(deletion);
    }
    let deleted = join_all(deletions).await;
    deleted.into_iter().map(|d| d.and_then(|d| d)).collect()
}
