//! Requests of consumer groups, made of random values.

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::Seeds;

fn group(s: &Seeds) -> GroupId {
    GroupId(s.text(0))
}

fn instance(s: &Seeds) -> Option<StrBytes> {
    s.numbers.is_empty().then(|| s.text(1))
}

pub(super) fn join_group(version: i16, s: &Seeds) -> JoinGroupRequest {
    let protocol = |name| {
        JoinGroupRequestProtocol::default()
            .with_name(name)
            .with_metadata(Bytes::from(s.tag.clone()))
    };
    let mut request = JoinGroupRequest::default()
        .with_group_id(group(s))
        .with_session_timeout_ms(s.number())
        .with_member_id(s.text(2))
        .with_protocol_type(s.text(1))
        .with_protocols(s.texts().into_iter().map(protocol).collect());
    if version >= 1 {
        request = request.with_rebalance_timeout_ms(s.number());
    }
    if version >= 5 {
        request = request.with_group_instance_id(instance(s));
    }
    if version >= 8 {
        request = request.with_reason(instance(s));
    }
    request
}

pub(super) fn sync_group(version: i16, s: &Seeds) -> SyncGroupRequest {
    let assignment = |member| {
        SyncGroupRequestAssignment::default()
            .with_member_id(member)
            .with_assignment(Bytes::from(s.tag.clone()))
    };
    let mut request = SyncGroupRequest::default()
        .with_group_id(group(s))
        .with_generation_id(s.number())
        .with_member_id(s.text(1))
        .with_assignments(s.texts().into_iter().map(assignment).collect());
    if version >= 3 {
        request = request.with_group_instance_id(instance(s));
    }
    if version >= 5 {
        request = request
            .with_protocol_type(instance(s))
            .with_protocol_name(Some(s.text(2)));
    }
    request
}

pub(super) fn heartbeat(version: i16, s: &Seeds) -> HeartbeatRequest {
    let request = HeartbeatRequest::default()
        .with_group_id(group(s))
        .with_generation_id(s.number())
        .with_member_id(s.text(1));
    if version >= 3 {
        request.with_group_instance_id(instance(s))
    } else {
        request
    }
}

pub(super) fn leave_group(version: i16, s: &Seeds) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(group(s));
    if version < 3 {
        return request.with_member_id(s.text(1));
    }
    let member = |id| {
        let member = MemberIdentity::default()
            .with_member_id(id)
            .with_group_instance_id(instance(s));
        if version >= 5 {
            member.with_reason(instance(s))
        } else {
            member
        }
    };
    request.with_members(s.texts().into_iter().map(member).collect())
}

pub(super) fn describe_groups(version: i16, s: &Seeds) -> DescribeGroupsRequest {
    let request =
        DescribeGroupsRequest::default().with_groups(s.texts().into_iter().map(GroupId).collect());
    if version >= 3 {
        request.with_include_authorized_operations(true)
    } else {
        request
    }
}

pub(super) fn list_groups(version: i16, s: &Seeds) -> ListGroupsRequest {
    let mut request = ListGroupsRequest::default();
    if version >= 4 {
        request = request.with_states_filter(s.texts());
    }
    if version >= 5 {
        request = request.with_types_filter(s.texts());
    }
    request
}

pub(super) fn delete_groups(s: &Seeds) -> DeleteGroupsRequest {
    DeleteGroupsRequest::default().with_groups_names(s.texts().into_iter().map(GroupId).collect())
}

pub(super) fn offset_delete(s: &Seeds) -> OffsetDeleteRequest {
    let partition = |n: &i32| OffsetDeleteRequestPartition::default().with_partition_index(*n);
    let topic = |name| {
        OffsetDeleteRequestTopic::default()
            .with_name(name)
            .with_partitions(s.numbers.iter().map(partition).collect())
    };
    OffsetDeleteRequest::default()
        .with_group_id(group(s))
        .with_topics(s.names().into_iter().map(topic).collect())
}
