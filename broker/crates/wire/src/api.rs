//! The table of the APIs that are served: keys, names, versions. ApiVersions answers from it.

use crate::bounded::Flexible;
use crate::write::Writer;

/// Produce.
pub const PRODUCE: i16 = 0;
/// Fetch.
pub const FETCH: i16 = 1;
/// ListOffsets.
pub const LIST_OFFSETS: i16 = 2;
/// Metadata.
pub const METADATA: i16 = 3;
/// OffsetCommit.
pub const OFFSET_COMMIT: i16 = 8;
/// OffsetFetch.
pub const OFFSET_FETCH: i16 = 9;
/// FindCoordinator.
pub const FIND_COORDINATOR: i16 = 10;
/// JoinGroup.
pub const JOIN_GROUP: i16 = 11;
/// Heartbeat.
pub const HEARTBEAT: i16 = 12;
/// LeaveGroup.
pub const LEAVE_GROUP: i16 = 13;
/// SyncGroup.
pub const SYNC_GROUP: i16 = 14;
/// DescribeGroups.
pub const DESCRIBE_GROUPS: i16 = 15;
/// ListGroups.
pub const LIST_GROUPS: i16 = 16;
/// ApiVersions.
pub const API_VERSIONS: i16 = 18;
/// CreateTopics.
pub const CREATE_TOPICS: i16 = 19;
/// DeleteTopics.
pub const DELETE_TOPICS: i16 = 20;
/// DeleteRecords.
pub const DELETE_RECORDS: i16 = 21;
/// InitProducerId.
pub const INIT_PRODUCER_ID: i16 = 22;
/// OffsetForLeaderEpoch.
pub const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
/// DescribeConfigs.
pub const DESCRIBE_CONFIGS: i16 = 32;
/// AlterConfigs.
pub const ALTER_CONFIGS: i16 = 33;
/// DescribeLogDirs.
pub const DESCRIBE_LOG_DIRS: i16 = 35;
/// CreatePartitions.
pub const CREATE_PARTITIONS: i16 = 37;
/// DeleteGroups.
pub const DELETE_GROUPS: i16 = 42;
/// ElectLeaders.
pub const ELECT_LEADERS: i16 = 43;
/// IncrementalAlterConfigs.
pub const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
/// ListPartitionReassignments.
pub const LIST_PARTITION_REASSIGNMENTS: i16 = 46;
/// OffsetDelete.
pub const OFFSET_DELETE: i16 = 47;
/// DescribeCluster.
pub const DESCRIBE_CLUSTER: i16 = 60;
/// DescribeProducers.
pub const DESCRIBE_PRODUCERS: i16 = 61;
/// ListConfigResources.
pub const LIST_CONFIG_RESOURCES: i16 = 74;
/// DescribeTopicPartitions.
pub const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;

/// First version of ApiVersions whose body is flexible.
const API_VERSIONS_FLEXIBLE: i16 = 3;

/// Of an API that has no flexible version.
const NEVER_FLEXIBLE: i16 = i16::MAX;

/// An API that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// Its key.
    pub key: i16,
    /// Kafka's name for it.
    pub name: &'static str,
    /// Oldest version served.
    pub min: i16,
    /// Newest version served.
    pub max: i16,
    /// First version with compact lengths and tagged fields.
    pub flexible_from: i16,
}

const fn api(key: i16, name: &'static str, versions: (i16, i16), flexible_from: i16) -> Api {
    Api {
        key,
        name,
        min: versions.0,
        max: versions.1,
        flexible_from,
    }
}

/// Every API that is served, by key. Minima are those of Kafka 4 (KIP-896), except for Produce: librdkafka before
/// 2.11.1 stops compressing when version 0 is not advertised (KAFKA-18659). Versions 0 to 2 are answered with an error.
pub const APIS: &[Api] = &[
    api(PRODUCE, "Produce", (0, 13), 9),
    api(FETCH, "Fetch", (4, 18), 12),
    api(LIST_OFFSETS, "ListOffsets", (1, 11), 6),
    api(METADATA, "Metadata", (0, 13), 9),
    api(OFFSET_COMMIT, "OffsetCommit", (2, 10), 8),
    api(OFFSET_FETCH, "OffsetFetch", (1, 10), 6),
    api(FIND_COORDINATOR, "FindCoordinator", (0, 6), 3),
    api(JOIN_GROUP, "JoinGroup", (0, 9), 6),
    api(HEARTBEAT, "Heartbeat", (0, 4), 4),
    api(LEAVE_GROUP, "LeaveGroup", (0, 5), 4),
    api(SYNC_GROUP, "SyncGroup", (0, 5), 4),
    api(DESCRIBE_GROUPS, "DescribeGroups", (0, 6), 5),
    api(LIST_GROUPS, "ListGroups", (0, 5), 3),
    api(API_VERSIONS, "ApiVersions", (0, 4), API_VERSIONS_FLEXIBLE),
    api(CREATE_TOPICS, "CreateTopics", (2, 7), 5),
    api(DELETE_TOPICS, "DeleteTopics", (1, 6), 4),
    api(DELETE_RECORDS, "DeleteRecords", (0, 2), 2),
    api(INIT_PRODUCER_ID, "InitProducerId", (0, 5), 2),
    api(OFFSET_FOR_LEADER_EPOCH, "OffsetForLeaderEpoch", (2, 4), 4),
    api(DESCRIBE_CONFIGS, "DescribeConfigs", (1, 4), 4),
    api(ALTER_CONFIGS, "AlterConfigs", (0, 2), 2),
    api(DESCRIBE_LOG_DIRS, "DescribeLogDirs", (1, 5), 2),
    api(CREATE_PARTITIONS, "CreatePartitions", (0, 3), 2),
    api(ELECT_LEADERS, "ElectLeaders", (0, 2), 2),
    api(
        INCREMENTAL_ALTER_CONFIGS,
        "IncrementalAlterConfigs",
        (0, 1),
        1,
    ),
    api(
        LIST_PARTITION_REASSIGNMENTS,
        "ListPartitionReassignments",
        (0, 0),
        0,
    ),
    api(DESCRIBE_CLUSTER, "DescribeCluster", (0, 2), 0),
    api(DESCRIBE_PRODUCERS, "DescribeProducers", (0, 0), 0),
    api(LIST_CONFIG_RESOURCES, "ListConfigResources", (0, 1), 0),
    api(
        DESCRIBE_TOPIC_PARTITIONS,
        "DescribeTopicPartitions",
        (0, 0),
        0,
    ),
    api(DELETE_GROUPS, "DeleteGroups", (0, 2), 2),
    api(OFFSET_DELETE, "OffsetDelete", (0, 0), NEVER_FLEXIBLE),
];

/// The API of `key`, if it is served.
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key == key)
}

impl Api {
    /// Whether `version` is served.
    pub fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// Whether `version` is flexible.
    pub fn flexible(&self, version: i16) -> Flexible {
        Flexible::of(version, self.flexible_from)
    }

    /// Whether the response header of `version` has tagged fields. Never for ApiVersions: a client reads that answer
    /// before it knows what the broker speaks (KIP-511).
    pub fn response_header_flexible(&self, version: i16) -> Flexible {
        if self.key == API_VERSIONS {
            Flexible::No
        } else {
            self.flexible(version)
        }
    }
}

/// The body of an ApiVersions response. A version that is not served is answered in the layout of version 0.
pub fn api_versions_body(version: i16, error_code: i16) -> Vec<u8> {
    let version = if find(API_VERSIONS).is_some_and(|api| api.serves(version)) {
        version
    } else {
        0
    };
    let flexible = Flexible::of(version, API_VERSIONS_FLEXIBLE);
    let mut w = Writer::new(flexible);
    w.i16(error_code);
    w.count(APIS.len());
    for api in APIS {
        w.i16(api.key);
        w.i16(api.min);
        w.i16(api.max);
        w.no_tags();
    }
    if version >= 1 {
        w.i32(0);
    }
    w.no_tags();
    w.into_bytes()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::messages::{ApiKey, ApiVersionsResponse};
    use kafka_protocol::protocol::Decodable;

    use super::*;

    #[test]
    fn the_table_agrees_with_the_message_crate() {
        for api in APIS {
            let key = ApiKey::try_from(api.key).unwrap();
            let range = key.valid_versions();
            // Version 6 of InitProducerId is marked unstable in Kafka 4.3.
            let newest = match api.key {
                INIT_PRODUCER_ID => 5,
                // The crate lacks version 10.
                OFFSET_COMMIT | OFFSET_FETCH => 10,
                // The crate is one version behind.
                DESCRIBE_LOG_DIRS => range.max + 1,
                // Kafka 4.2 has one more than the crate, of the same layout.
                LIST_OFFSETS => range.max + 1,
                _ => range.max,
            };
            assert_eq!(api.max, newest, "{}", api.name);
            assert_eq!(
                if api.key == PRODUCE { 3 } else { api.min },
                range.min,
                "{}",
                api.name
            );
            for version in range.min..=api.max.min(range.max) {
                let flexible = api.flexible(version) == Flexible::Yes;
                assert_eq!(
                    key.request_header_version(version) == 2,
                    flexible,
                    "{}",
                    api.name
                );
                let flexible = api.response_header_flexible(version) == Flexible::Yes;
                assert_eq!(
                    key.response_header_version(version) == 1,
                    flexible,
                    "{}",
                    api.name
                );
            }
        }
    }

    #[test]
    fn api_versions_is_what_the_message_crate_reads() {
        for version in 0..=4 {
            let mut body = Bytes::from(api_versions_body(version, 0));
            let response = ApiVersionsResponse::decode(&mut body, version).unwrap();
            assert!(body.is_empty());
            assert_eq!(response.api_keys.len(), APIS.len());
            assert_eq!(
                (
                    response.api_keys[0].min_version,
                    response.api_keys[0].max_version
                ),
                (0, 13)
            );
        }
    }

    #[test]
    fn an_unknown_version_is_answered_in_the_layout_of_version_0() {
        let mut body = Bytes::from(api_versions_body(99, 35));
        let response = ApiVersionsResponse::decode(&mut body, 0).unwrap();
        assert!(body.is_empty());
        assert_eq!(response.error_code, 35);
        assert!(response.api_keys.iter().any(|k| k.api_key == API_VERSIONS));
    }
}
