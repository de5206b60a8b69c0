//! DescribeGroups: who is in groups and what each reads.

use std::collections::BTreeSet;
use std::future::ready;

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use tidemill_groups::coordinator::{Coordinator, Described, DescribedMember};
use tidemill_groups::{GroupError, State};
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::{ANSWER_BYTES_MAX, text};

/// First version that tells instances.
const INSTANCE_FROM: i16 = 4;
/// First version in which a group that is not there is an error, with a message (KIP-1043).
const NOT_FOUND_FROM: i16 = 6;
/// Bytes of an answer for a group beside its name and members, about.
const GROUP_BYTES: usize = 128;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DescribeGroupsRequest = request.decode()?;
    Ok(Box::pin(async move { answer(&request, body).await }))
}

async fn answer(request: &Request, body: DescribeGroupsRequest) -> Answer {
    request.turn().await;
    // A group that is named many times is described once, so that a small request has no vast answer. How large it is is asked
    // before anything is copied.
    let (mut seen, mut asked, mut bytes) = (BTreeSet::new(), Vec::new(), 0_usize);
    for id in body.groups {
        if !seen.insert(id.0.to_string()) {
            continue;
        }
        let size = match bytes < ANSWER_BYTES_MAX {
            true => of_group(request, &id, |machine, id| machine.describe_bytes(id)).await,
            // To be asked for once more, with fewer others.
            false => Err(GroupError::CoordinatorNotAvailable),
        };
        bytes += GROUP_BYTES + id.0.len() + size.as_ref().map_or(0, |size| *size);
        asked.push((id, size));
    }
    let room = request.room(bytes).await;
    let mut groups = Vec::with_capacity(asked.len());
    for (id, size) in asked {
        let described = match size {
            Ok(_) => of_group(request, &id, |machine, id| machine.describe(id)).await,
            Err(error) => Err(error),
        };
        groups.push(convert(id, described, request.version));
    }
    let response = DescribeGroupsResponse::default().with_groups(groups);
    request.answer_within(room, &response)
}

async fn of_group<T: Send + 'static>(
    request: &Request,
    id: &GroupId,
    find: impl FnOnce(&Coordinator, &str) -> T + Send + 'static,
) -> Result<T, GroupError> {
    let name = id.0.to_string();
    let found = request
        .shard
        .at_coordinator(&id.0, move |coordinator| {
            ready(find(&coordinator.machine.borrow(), &name))
        })
        .await;
    found.await
}

fn convert(
    id: GroupId,
    described: Result<Option<Described>, GroupError>,
    version: i16,
) -> DescribedGroup {
    let group = DescribedGroup::default().with_group_id(id.clone());
    match described {
        Err(error) => group.with_error_code(error_map::group(error)),
        Ok(None) => {
            let group = group.with_group_state(text(State::Dead.name()));
            match version >= NOT_FOUND_FROM {
                false => group,
                true => group
                    .with_error_code(code::GROUP_ID_NOT_FOUND)
                    .with_error_message(Some(super::message(format!(
                        "Group {} not found.",
                        &*id.0
                    )))),
            }
        }
        Ok(Some(described)) => group
            .with_group_state(text(described.state.name()))
            .with_protocol_type(text(&*described.protocol_type))
            .with_protocol_data(text(&*described.protocol))
            .with_members(
                described
                    .members
                    .into_iter()
                    .map(|m| member(m, version))
                    .collect(),
            ),
    }
}

fn member(member: DescribedMember, version: i16) -> DescribedGroupMember {
    let described = DescribedGroupMember::default()
        .with_member_id(text(&*member.id))
        .with_client_id(text(&*member.client_id))
        .with_client_host(text(&*member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment);
    match version {
        INSTANCE_FROM.. => described.with_group_instance_id(member.instance.map(|i| text(&*i))),
        _ => described,
    }
}
