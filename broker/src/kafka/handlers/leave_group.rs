//! LeaveGroup: members leave, by id or, static ones, by instance.

use std::future::ready;

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use tidemill_groups::GroupError;
use tidemill_groups::request::Who;
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::who;

/// First version that names several members.
const BATCHED_FROM: i16 = 3;

pub(in super::super) async fn start(request: Request) -> Result<Pending, WireError> {
    let mut body: LeaveGroupRequest = request.decode()?;
    if request.version < BATCHED_FROM {
        body.members = vec![MemberIdentity::default().with_member_id(body.member_id.clone())];
    }
    let group = body.group_id.0.to_string();
    let named = body.members.iter();
    let members: Vec<Who> = named
        .map(|m| who(&m.member_id, m.group_instance_id.as_ref()))
        .collect();
    let left = request
        .shard
        .at_coordinator(&body.group_id.0, move |coordinator| {
            ready(coordinator.leave(&group, &members))
        })
        .await;
    Ok(Box::pin(async move {
        let left = left.await.and_then(|left| left);
        answer(&request, &body.members, left).await
    }))
}

async fn answer(
    request: &Request,
    members: &[MemberIdentity],
    left: Result<Vec<Result<(), GroupError>>, GroupError>,
) -> Answer {
    let response = LeaveGroupResponse::default();
    let code_of =
        |left: &Result<(), GroupError>| left.map_or_else(error_map::group, |()| code::NONE);
    let response = match left {
        Err(error) => response.with_error_code(error_map::group(error)),
        Ok(left) if request.version < BATCHED_FROM => {
            response.with_error_code(left.first().map_or(code::NONE, code_of))
        }
        Ok(left) => {
            let each = members.iter().zip(&left).map(|(member, left)| {
                MemberResponse::default()
                    .with_member_id(member.member_id.clone())
                    .with_group_instance_id(member.group_instance_id.clone())
                    .with_error_code(code_of(left))
            });
            response.with_members(each.collect())
        }
    };
    request.answer(&response).await
}
