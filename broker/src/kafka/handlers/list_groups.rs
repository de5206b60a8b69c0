//! ListGroups: every group there is, perhaps only those in some states.

use std::collections::BTreeSet;

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use tidemill_groups::coordinator::Listed;
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::code;
use super::text;

/// First version that tells the state.
const STATE_FROM: i16 = 4;
/// First version that tells the type.
const TYPE_FROM: i16 = 5;
/// The type of all groups there are here (KIP-848 calls the others "consumer").
const CLASSIC: &str = "classic";

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: ListGroupsRequest = request.decode()?;
    Ok(Box::pin(async move { answer(&request, &body).await }))
}

async fn answer(request: &Request, body: &ListGroupsRequest) -> Answer {
    let lower = |s: &str| s.to_lowercase();
    let states: BTreeSet<String> = body.states_filter.iter().map(|s| lower(s)).collect();
    let types: BTreeSet<String> = body.types_filter.iter().map(|t| lower(t)).collect();
    let wanted = types.is_empty() || types.contains(CLASSIC);
    // How large it is, before anything is copied.
    request.turn().await;
    let sizes = request.shard.handle.on_all(|shard| async move {
        let all = shard.groups.all();
        let sizes = all.iter().map(|c| c.machine.borrow().list_bytes());
        sizes.sum::<usize>()
    });
    let bytes = sizes.await.map_or(0, |sizes| sizes.iter().sum::<usize>());
    let room = request.room(bytes.saturating_mul(2)).await;
    let listed = request.shard.handle.on_all(|shard| async move {
        let all = shard.groups.all();
        let loading = all.iter().any(|c| !c.is_loaded());
        let groups = all
            .iter()
            .flat_map(|c| c.machine.borrow().list())
            .collect::<Vec<_>>();
        (loading, groups)
    });
    let (mut groups, mut error_code) = (Vec::new(), code::NONE);
    match listed.await {
        Err(_) => error_code = code::COORDINATOR_NOT_AVAILABLE,
        Ok(shards) => {
            for (loading, listed) in shards {
                if loading {
                    error_code = code::COORDINATOR_LOAD_IN_PROGRESS;
                }
                let fits = |g: &Listed| {
                    wanted && (states.is_empty() || states.contains(&lower(g.state.name())))
                };
                groups.extend(listed.into_iter().filter(fits));
            }
        }
    }
    let groups = groups
        .into_iter()
        .map(|g| convert(&g, request.version))
        .collect();
    let response = ListGroupsResponse::default()
        .with_error_code(error_code)
        .with_groups(groups);
    request.answer_within(room, &response)
}

fn convert(group: &Listed, version: i16) -> ListedGroup {
    let mut listed = ListedGroup::default()
        .with_group_id(GroupId(text(&*group.group)))
        .with_protocol_type(text(&*group.protocol_type));
    if version >= STATE_FROM {
        listed = listed.with_group_state(text(group.state.name()));
    }
    if version >= TYPE_FROM {
        listed = listed.with_group_type(text(CLASSIC));
    }
    listed
}
