//! The table against the message crate's encoder, for every version; and against rubbish.

mod admin;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

mod groups;

/// Random values that requests are made of.
#[derive(Debug, Clone)]
struct Seeds {
    texts: Vec<String>,
    numbers: Vec<i32>,
    tag: Vec<u8>,
}

impl Seeds {
    fn text(&self, i: usize) -> StrBytes {
        StrBytes::from_string(self.texts.get(i).cloned().unwrap_or_default())
    }
    fn texts(&self) -> Vec<StrBytes> {
        (0..self.texts.len()).map(|i| self.text(i)).collect()
    }
    fn number(&self) -> i32 {
        self.numbers.first().copied().unwrap_or(3)
    }
    fn names(&self) -> Vec<TopicName> {
        self.texts().into_iter().map(TopicName).collect()
    }
}

fn seeds() -> impl Strategy<Value = Seeds> {
    (
        vec("[a-zü]{0,150}", 0..4),
        vec(any::<i32>(), 0..5),
        vec(any::<u8>(), 0..200),
    )
        .prop_map(|(texts, numbers, tag)| Seeds {
            texts,
            numbers,
            tag,
        })
}

/// Calls `check` with every request of the table, encoded in `version`.
fn encoded(key: i16, version: i16, s: &Seeds) -> Bytes {
    let flexible = api::find(key).unwrap().flexible(version) == Flexible::Yes;
    let mut out = BytesMut::new();
    macro_rules! put {
        ($request:expr) => {{
            let mut request = $request;
            if flexible {
                request = request.with_unknown_tagged_field(9, Bytes::from(s.tag.clone()));
            }
            let version = crate::message::crate_version(key, version);
            request.encode(&mut out, version).unwrap();
        }};
    }
    match key {
        api::LIST_OFFSETS => put!(list_offsets(version, s)),
        api::METADATA => put!(metadata(version, s)),
        api::FIND_COORDINATOR => put!(find_coordinator(version, s)),
        api::API_VERSIONS if version >= 3 => {
            put!(
                ApiVersionsRequest::default()
                    .with_client_software_name(s.text(0))
                    .with_client_software_version(s.text(1))
            );
        }
        api::API_VERSIONS => put!(ApiVersionsRequest::default()),
        api::CREATE_TOPICS => put!(create_topics(s)),
        api::DELETE_TOPICS => put!(delete_topics(version, s)),
        api::DELETE_RECORDS => put!(delete_records(s)),
        api::INIT_PRODUCER_ID => put!(init_producer_id(version, s)),
        api::DESCRIBE_CONFIGS => put!(describe_configs(version, s)),
        api::JOIN_GROUP => put!(groups::join_group(version, s)),
        api::SYNC_GROUP => put!(groups::sync_group(version, s)),
        api::HEARTBEAT => put!(groups::heartbeat(version, s)),
        api::LEAVE_GROUP => put!(groups::leave_group(version, s)),
        api::DESCRIBE_GROUPS => put!(groups::describe_groups(version, s)),
        api::LIST_GROUPS => put!(groups::list_groups(version, s)),
        api::DELETE_GROUPS => put!(groups::delete_groups(s)),
        api::OFFSET_DELETE => groups::offset_delete(s).encode(&mut out, version).unwrap(),
        other => return admin::encoded(other, version, s),
    }
    out.freeze()
}

fn delete_records(s: &Seeds) -> DeleteRecordsRequest {
    let partition = |n: &i32| {
        DeleteRecordsPartition::default()
            .with_partition_index(*n)
            .with_offset(i64::from(*n) << 20)
    };
    let topic = |name| {
        DeleteRecordsTopic::default()
            .with_name(name)
            .with_partitions(s.numbers.iter().map(partition).collect())
    };
    DeleteRecordsRequest::default()
        .with_topics(s.names().into_iter().map(topic).collect())
        .with_timeout_ms(s.number())
}

fn list_offsets(version: i16, s: &Seeds) -> ListOffsetsRequest {
    let partition = |n: &i32| {
        let p = ListOffsetsPartition::default()
            .with_partition_index(*n)
            .with_timestamp(i64::from(*n) << 20);
        if version >= 4 {
            p.with_current_leader_epoch(*n)
        } else {
            p
        }
    };
    let topic = |name| {
        ListOffsetsTopic::default()
            .with_name(name)
            .with_partitions(s.numbers.iter().map(partition).collect())
    };
    let request =
        ListOffsetsRequest::default().with_topics(s.names().into_iter().map(topic).collect());
    if version >= 10 {
        request.with_timeout_ms(s.number())
    } else {
        request
    }
}

fn metadata(version: i16, s: &Seeds) -> MetadataRequest {
    let topic = |name: TopicName| {
        let t = MetadataRequestTopic::default().with_name(Some(name));
        if version >= 10 {
            t.with_topic_id(uuid::Uuid::from_u128(s.number() as u128))
        } else {
            t
        }
    };
    let topics: Vec<_> = s.names().into_iter().map(topic).collect();
    let all = version >= 1 && s.numbers.is_empty();
    MetadataRequest::default().with_topics(if all { None } else { Some(topics) })
}

fn find_coordinator(version: i16, s: &Seeds) -> FindCoordinatorRequest {
    match version {
        4.. => FindCoordinatorRequest::default()
            .with_key_type(1)
            .with_coordinator_keys(s.texts()),
        1.. => FindCoordinatorRequest::default()
            .with_key_type(1)
            .with_key(s.text(0)),
        _ => FindCoordinatorRequest::default().with_key(s.text(0)),
    }
}

fn create_topics(s: &Seeds) -> CreateTopicsRequest {
    let assignment = |n: &i32| {
        let brokers = s.numbers.iter().map(|n| BrokerId(*n)).collect();
        CreatableReplicaAssignment::default()
            .with_partition_index(*n)
            .with_broker_ids(brokers)
    };
    let config = |name: StrBytes| {
        let value = name.len().is_multiple_of(2).then(|| name.clone());
        CreatableTopicConfig::default()
            .with_name(name)
            .with_value(value)
    };
    let topic = |name| {
        CreatableTopic::default()
            .with_name(name)
            .with_assignments(s.numbers.iter().map(assignment).collect())
            .with_configs(s.texts().into_iter().map(config).collect())
    };
    CreateTopicsRequest::default()
        .with_topics(s.names().into_iter().map(topic).collect())
        .with_timeout_ms(s.number())
}

fn delete_topics(version: i16, s: &Seeds) -> DeleteTopicsRequest {
    if version < 6 {
        return DeleteTopicsRequest::default().with_topic_names(s.names());
    }
    let state = |name| DeleteTopicState::default().with_name(Some(name));
    DeleteTopicsRequest::default().with_topics(s.names().into_iter().map(state).collect())
}

fn init_producer_id(version: i16, s: &Seeds) -> InitProducerIdRequest {
    let id = (!s.texts.is_empty()).then(|| TransactionalId(s.text(0)));
    let request = InitProducerIdRequest::default()
        .with_transactional_id(id)
        .with_transaction_timeout_ms(s.number());
    match version {
        3.. => request
            .with_producer_id(ProducerId(i64::from(s.number())))
            .with_producer_epoch(4),
        _ => request,
    }
}

fn describe_configs(version: i16, s: &Seeds) -> DescribeConfigsRequest {
    let resource = |name: StrBytes| {
        let keys = (!s.numbers.is_empty()).then(|| s.texts());
        DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(name)
            .with_configuration_keys(keys)
    };
    let request = DescribeConfigsRequest::default()
        .with_resources(s.texts().into_iter().map(resource).collect());
    if version >= 3 {
        request.with_include_documentation(true)
    } else {
        request
    }
}

fn table() -> impl Iterator<Item = (i16, i16)> {
    let walked = api::APIS.iter().filter(|api| fields(api.key).is_some());
    walked.flat_map(|api| (api.min..=api.max).map(|version| (api.key, version)))
}

/// Decodes with the message crate, which must not be given anything that was not walked.
fn decode_after_walk(key: i16, version: i16, body: &Bytes) {
    if walk(key, version, body).is_err() {
        return;
    }
    let mut body = body.clone();
    match key {
        api::LIST_OFFSETS => drop(ListOffsetsRequest::decode(&mut body, version)),
        api::METADATA => drop(MetadataRequest::decode(&mut body, version)),
        api::FIND_COORDINATOR => drop(FindCoordinatorRequest::decode(&mut body, version)),
        api::API_VERSIONS => drop(ApiVersionsRequest::decode(&mut body, version)),
        api::CREATE_TOPICS => drop(CreateTopicsRequest::decode(&mut body, version)),
        api::DELETE_TOPICS => drop(DeleteTopicsRequest::decode(&mut body, version)),
        api::DELETE_RECORDS => drop(DeleteRecordsRequest::decode(&mut body, version)),
        api::INIT_PRODUCER_ID => drop(InitProducerIdRequest::decode(&mut body, version)),
        api::JOIN_GROUP => drop(JoinGroupRequest::decode(&mut body, version)),
        api::SYNC_GROUP => drop(SyncGroupRequest::decode(&mut body, version)),
        api::HEARTBEAT => drop(HeartbeatRequest::decode(&mut body, version)),
        api::LEAVE_GROUP => drop(LeaveGroupRequest::decode(&mut body, version)),
        api::DESCRIBE_GROUPS => drop(DescribeGroupsRequest::decode(&mut body, version)),
        api::LIST_GROUPS => drop(ListGroupsRequest::decode(&mut body, version)),
        api::DELETE_GROUPS => drop(DeleteGroupsRequest::decode(&mut body, version)),
        api::OFFSET_DELETE => drop(OffsetDeleteRequest::decode(&mut body, version)),
        api::DESCRIBE_CONFIGS => drop(DescribeConfigsRequest::decode(&mut body, version)),
        _ => admin::decode(key, version, &mut body),
    }
}

#[test]
fn every_api_is_in_the_table_or_has_its_own_codec() {
    for api in api::APIS {
        let own = matches!(
            api.key,
            api::PRODUCE | api::FETCH | api::OFFSET_COMMIT | api::OFFSET_FETCH
        );
        assert_ne!(fields(api.key).is_some(), own, "{}", api.name);
    }
}

#[test]
fn a_body_that_claims_two_billion_elements_is_refused() {
    for (key, version) in table() {
        for claim in [
            &[0x7f, 0xff, 0xff, 0xff][..],
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
        ] {
            let mut body = vec![0; 8];
            body.splice(0..0, claim.iter().copied());
            let _ = walk(key, version, &body);
        }
    }
    assert!(walk(api::METADATA, 1, &[0x7f, 0xff, 0xff, 0xff, 0, 0]).is_err());
    assert!(walk(api::METADATA, 12, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]).is_err());
}

proptest! {
    #[test]
    fn the_table_is_what_the_message_crate_writes(s in seeds(), cut: usize) {
        for (key, version) in table() {
            let body = encoded(key, version, &s);
            prop_assert_eq!(walk(key, version, &body), Ok(body.len()), "API {} version {}", key, version);
            if !body.is_empty() {
                prop_assert!(walk(key, version, &body[..cut % body.len()]).is_err());
            }
        }
    }

    #[test]
    fn damaged_requests_never_panic(s in seeds(), at: usize, with: [u8; 4]) {
        for (key, version) in table() {
            let mut body = encoded(key, version, &s).to_vec();
            let len = body.len().max(1);
            for (i, b) in with.into_iter().enumerate() {
                if let Some(slot) = body.get_mut((at.wrapping_add(i)) % len) { *slot = b; }
            }
            decode_after_walk(key, version, &Bytes::from(body));
        }
    }

    #[test]
    fn rubbish_never_panics(body in vec(any::<u8>(), 0..100)) {
        let body = Bytes::from(body);
        for (key, version) in table() {
            decode_after_walk(key, version, &body);
        }
    }
}
