//! Requests of tools and admin clients.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_topic_partitions_request::Cursor;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::*;
use kafka_protocol::messages::{
    alter_configs_request, describe_producers_request, describe_topic_partitions_request,
    elect_leaders_request, incremental_alter_configs_request, list_partition_reassignments_request,
};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::Seeds;
use crate::api;
use crate::bounded::Flexible;
use crate::log_dirs;

/// The version in which the message crate writes and reads this one.
fn layout(key: i16, version: i16) -> i16 {
    match key {
        api::DESCRIBE_LOG_DIRS => version.min(log_dirs::MESSAGES_MAX),
        _ => version,
    }
}

pub(super) fn encoded(key: i16, version: i16, s: &Seeds) -> Bytes {
    let flexible = api::find(key).unwrap().flexible(version) == Flexible::Yes;
    let mut out = BytesMut::new();
    macro_rules! put {
        ($request:expr) => {{
            let mut request = $request;
            if flexible {
                request = request.with_unknown_tagged_field(9, Bytes::from(s.tag.clone()));
            }
            request.encode(&mut out, layout(key, version)).unwrap();
        }};
    }
    match key {
        api::OFFSET_FOR_LEADER_EPOCH => put!(offset_for_leader_epoch(s)),
        api::ALTER_CONFIGS => put!(alter_configs(s)),
        api::INCREMENTAL_ALTER_CONFIGS => put!(incremental_alter_configs(s)),
        api::DESCRIBE_LOG_DIRS => put!(describe_log_dirs(s)),
        api::CREATE_PARTITIONS => put!(create_partitions(s)),
        api::ELECT_LEADERS => put!(elect_leaders(s)),
        api::LIST_PARTITION_REASSIGNMENTS => put!(list_partition_reassignments(s)),
        api::DESCRIBE_CLUSTER => {
            put!(DescribeClusterRequest::default().with_include_cluster_authorized_operations(true))
        }
        api::DESCRIBE_PRODUCERS => put!(describe_producers(s)),
        api::LIST_CONFIG_RESOURCES => put!(list_config_resources(version, s)),
        api::DESCRIBE_TOPIC_PARTITIONS => put!(describe_topic_partitions(s)),
        other => panic!("no request for API {other}"),
    }
    out.freeze()
}

pub(super) fn decode(key: i16, version: i16, body: &mut Bytes) {
    let version = layout(key, version);
    match key {
        api::OFFSET_FOR_LEADER_EPOCH => drop(OffsetForLeaderEpochRequest::decode(body, version)),
        api::ALTER_CONFIGS => drop(AlterConfigsRequest::decode(body, version)),
        api::INCREMENTAL_ALTER_CONFIGS => {
            drop(IncrementalAlterConfigsRequest::decode(body, version));
        }
        api::DESCRIBE_LOG_DIRS => drop(DescribeLogDirsRequest::decode(body, version)),
        api::CREATE_PARTITIONS => drop(CreatePartitionsRequest::decode(body, version)),
        api::ELECT_LEADERS => drop(ElectLeadersRequest::decode(body, version)),
        api::LIST_PARTITION_REASSIGNMENTS => {
            drop(ListPartitionReassignmentsRequest::decode(body, version));
        }
        api::DESCRIBE_CLUSTER => drop(DescribeClusterRequest::decode(body, version)),
        api::DESCRIBE_PRODUCERS => drop(DescribeProducersRequest::decode(body, version)),
        api::LIST_CONFIG_RESOURCES => drop(ListConfigResourcesRequest::decode(body, version)),
        api::DESCRIBE_TOPIC_PARTITIONS => {
            drop(DescribeTopicPartitionsRequest::decode(body, version));
        }
        other => panic!("no request for API {other}"),
    }
}

fn offset_for_leader_epoch(s: &Seeds) -> OffsetForLeaderEpochRequest {
    let partition = |n: &i32| {
        OffsetForLeaderPartition::default()
            .with_partition(*n)
            .with_current_leader_epoch(*n)
            .with_leader_epoch(*n)
    };
    let topic = |name| {
        OffsetForLeaderTopic::default()
            .with_topic(name)
            .with_partitions(s.numbers.iter().map(partition).collect())
    };
    OffsetForLeaderEpochRequest::default().with_topics(s.names().into_iter().map(topic).collect())
}

fn alter_configs(s: &Seeds) -> AlterConfigsRequest {
    use alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let config = |name| AlterableConfig::default().with_name(name).with_value(None);
    let resource = |name| {
        AlterConfigsResource::default()
            .with_resource_name(name)
            .with_configs(s.texts().into_iter().map(config).collect())
    };
    AlterConfigsRequest::default().with_resources(s.texts().into_iter().map(resource).collect())
}

fn incremental_alter_configs(s: &Seeds) -> IncrementalAlterConfigsRequest {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let config = |name: kafka_protocol::protocol::StrBytes| {
        AlterableConfig::default()
            .with_name(name.clone())
            .with_config_operation(2)
            .with_value(Some(name))
    };
    let resource = |name| {
        AlterConfigsResource::default()
            .with_resource_name(name)
            .with_configs(s.texts().into_iter().map(config).collect())
    };
    IncrementalAlterConfigsRequest::default()
        .with_resources(s.texts().into_iter().map(resource).collect())
}

fn describe_log_dirs(s: &Seeds) -> DescribeLogDirsRequest {
    let topic = |name| {
        DescribableLogDirTopic::default()
            .with_topic(name)
            .with_partitions(s.numbers.clone())
    };
    let topics: Vec<_> = s.names().into_iter().map(topic).collect();
    DescribeLogDirsRequest::default().with_topics((!topics.is_empty()).then_some(topics))
}

fn create_partitions(s: &Seeds) -> CreatePartitionsRequest {
    let brokers = s.numbers.iter().map(|n| BrokerId(*n)).collect();
    let assignment = CreatePartitionsAssignment::default().with_broker_ids(brokers);
    let topic = |name: TopicName| {
        let assignments = vec![assignment.clone(); s.numbers.len()];
        let some = name.len().is_multiple_of(2);
        CreatePartitionsTopic::default()
            .with_name(name)
            .with_count(s.number())
            .with_assignments(some.then_some(assignments))
    };
    CreatePartitionsRequest::default()
        .with_topics(s.names().into_iter().map(topic).collect())
        .with_timeout_ms(s.number())
}

fn elect_leaders(s: &Seeds) -> ElectLeadersRequest {
    let topic = |name| {
        elect_leaders_request::TopicPartitions::default()
            .with_topic(name)
            .with_partitions(s.numbers.clone())
    };
    let topics: Vec<_> = s.names().into_iter().map(topic).collect();
    ElectLeadersRequest::default().with_topic_partitions((!topics.is_empty()).then_some(topics))
}

fn list_partition_reassignments(s: &Seeds) -> ListPartitionReassignmentsRequest {
    let topic = |name| {
        list_partition_reassignments_request::ListPartitionReassignmentsTopics::default()
            .with_name(name)
            .with_partition_indexes(s.numbers.clone())
    };
    let topics: Vec<_> = s.names().into_iter().map(topic).collect();
    ListPartitionReassignmentsRequest::default().with_topics((!topics.is_empty()).then_some(topics))
}

fn describe_producers(s: &Seeds) -> DescribeProducersRequest {
    let topic = |name| {
        describe_producers_request::TopicRequest::default()
            .with_name(name)
            .with_partition_indexes(s.numbers.clone())
    };
    DescribeProducersRequest::default().with_topics(s.names().into_iter().map(topic).collect())
}

fn list_config_resources(version: i16, s: &Seeds) -> ListConfigResourcesRequest {
    let types = s.numbers.iter().map(|n| *n as i8).collect();
    match version {
        0 => ListConfigResourcesRequest::default(),
        _ => ListConfigResourcesRequest::default().with_resource_types(types),
    }
}

fn describe_topic_partitions(s: &Seeds) -> DescribeTopicPartitionsRequest {
    let topic = |name| describe_topic_partitions_request::TopicRequest::default().with_name(name);
    let cursor = Cursor::default().with_topic_name(TopicName(s.text(0)));
    DescribeTopicPartitionsRequest::default()
        .with_topics(s.names().into_iter().map(topic).collect())
        .with_cursor((!s.numbers.is_empty()).then_some(cursor))
}
