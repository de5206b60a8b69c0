//! JoinGroup: a member wants to be in a group. It is answered when all members have joined.

use std::sync::Arc;

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use tidemill_groups::GroupError;
use tidemill_groups::request::{ClientCan, Join, Joined, JoinedMember, NotJoined, Protocol};
use tidemill_rt::rand;
use tidemill_wire::WireError;
use uuid::Uuid;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map;
use super::text;

/// First version with a rebalance time-out of its own.
const REBALANCE_TIMEOUT_FROM: i16 = 1;
/// First version whose members come again with the id they were given (KIP-394).
const RETURN_WITH_ID_FROM: i16 = 4;
/// First version that tells the type of protocol, and may tell none.
const PROTOCOL_TYPE_FROM: i16 = 7;
/// First version whose leader may be told to leave the assignment as it is (KIP-814).
const SKIP_ASSIGNMENT_FROM: i16 = 9;
/// Bytes of an answer beside what is in it, and of a member, about.
const ANSWER_BYTES: usize = 256;
const MEMBER_BYTES: usize = 32;
/// Bytes of a client's name, or of its instance, that its member id begins with.
const PREFIX_BYTES_MAX: usize = 200;

pub(in super::super) async fn start(mut request: Request) -> Result<Pending, WireError> {
    let body: JoinGroupRequest = request.decode()?;
    let join = convert(&request, body);
    // It may wait for minutes: nothing of it may keep the frame.
    request.release();
    let group = join.group.clone();
    let (member, instance) = (join.member.clone(), join.instance.is_some());
    let joined = request
        .shard
        .at_coordinator(&group, move |coordinator| coordinator.join(join))
        .await;
    Ok(Box::pin(async move {
        let joined = joined
            .await
            .unwrap_or_else(|error| Err(NotJoined { error, member }));
        let joined = joined.map_err(|e| downgrade(e, request.version, instance));
        answer(&request, joined).await
    }))
}

/// FENCED_INSTANCE_ID is not known to members without instance.
fn downgrade(refused: NotJoined, version: i16, has_instance: bool) -> NotJoined {
    match refused.error {
        GroupError::FencedInstanceId if version < 5 || !has_instance => NotJoined {
            error: GroupError::UnknownMemberId,
            ..refused
        },
        _ => refused,
    }
}

fn convert(request: &Request, body: JoinGroupRequest) -> Join {
    let client_id = request.client_id();
    let instance: Option<Arc<str>> = body.group_instance_id.as_deref().map(Arc::from);
    let protocol =
        |p: &kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol| Protocol {
            name: (*p.name).into(),
            metadata: bytes::Bytes::copy_from_slice(&p.metadata),
        };
    let rebalance_ms = match request.version {
        ..REBALANCE_TIMEOUT_FROM => body.session_timeout_ms,
        _ => body.rebalance_timeout_ms,
    };
    Join {
        group: (*body.group_id.0).into(),
        member: (*body.member_id).into(),
        fresh_member: fresh_member(instance.as_deref().unwrap_or(&client_id)),
        instance,
        client_id: client_id.into(),
        client_host: request.client.host().into(),
        session_ms: body.session_timeout_ms,
        rebalance_ms,
        protocol_type: (*body.protocol_type).into(),
        protocols: body.protocols.iter().map(protocol).collect(),
        client: ClientCan {
            return_with_id: request.version >= RETURN_WITH_ID_FROM,
            skip_assignment: request.version >= SKIP_ASSIGNMENT_FROM,
        },
    }
}

/// An id as Kafka makes it: what the client calls itself, and something random.
fn fresh_member(prefix: &str) -> Arc<str> {
    let mut random = [0; 16];
    rand::fill(&mut random);
    let prefix = &prefix[..prefix.floor_char_boundary(PREFIX_BYTES_MAX)];
    let id = uuid::Builder::from_random_bytes(random).into_uuid();
    format!("{prefix}-{}", Uuid::hyphenated(id)).into()
}

async fn answer(request: &Request, joined: Result<Joined, NotJoined>) -> Answer {
    let bytes = match &joined {
        Ok(joined) => joined.members.iter().map(member_bytes).sum(),
        Err(_) => 0,
    };
    let room = request.room(ANSWER_BYTES + bytes).await;
    let nullable = request.version >= PROTOCOL_TYPE_FROM;
    let response = match joined {
        Err(refused) => JoinGroupResponse::default()
            .with_error_code(error_map::group(refused.error))
            .with_generation_id(-1)
            .with_protocol_name((!nullable).then(|| text("")))
            .with_member_id(text(&*refused.member)),
        Ok(joined) => {
            let response = JoinGroupResponse::default()
                .with_generation_id(joined.generation)
                .with_protocol_name(joined.protocol.map(|p| text(&*p)))
                .with_leader(text(&*joined.leader))
                .with_member_id(text(&*joined.member))
                .with_members(
                    joined
                        .members
                        .into_iter()
                        .map(|m| member(m, request.version))
                        .collect(),
                );
            let response = match nullable {
                true => response.with_protocol_type(joined.protocol_type.map(|t| text(&*t))),
                false => response,
            };
            match request.version >= SKIP_ASSIGNMENT_FROM {
                true => response.with_skip_assignment(joined.skip_assignment),
                false => response,
            }
        }
    };
    request.answer_within(room, &response)
}

fn member_bytes(member: &JoinedMember) -> usize {
    MEMBER_BYTES
        + member.id.len()
        + member.instance.as_ref().map_or(0, |i| i.len())
        + member.metadata.len()
}

fn member(member: JoinedMember, version: i16) -> JoinGroupResponseMember {
    let response = JoinGroupResponseMember::default()
        .with_member_id(text(&*member.id))
        .with_metadata(member.metadata);
    match version {
        5.. => response.with_group_instance_id(member.instance.map(|i| text(&*i))),
        _ => response,
    }
}
