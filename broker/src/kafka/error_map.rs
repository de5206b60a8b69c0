//! From the broker's errors to Kafka's codes. The one place that knows both.
//!
//! What is unclear becomes a retriable code. UNKNOWN_SERVER_ERROR (-1) is never answered to Produce: Java producers
//! reset their sequence on it and write duplicates (KAFKA-14034).

use tidemill_consensus::ProposeError;
use tidemill_controller::{ControllerError, Refusal};
use tidemill_groups::GroupError;
use tidemill_model::BatchError;
use tidemill_partition::producers::SequenceError;
use tidemill_partition::state::AppendRefused;
use tidemill_ring::{AppendError, DeleteError, ReadError};

use crate::topics::TopicError;

/// Kafka's error codes, as far as they are used (`org.apache.kafka.common.protocol.Errors`).
pub(super) mod code {
    pub(in super::super) const NONE: i16 = 0;
    pub(in super::super) const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub(in super::super) const CORRUPT_MESSAGE: i16 = 2;
    pub(in super::super) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub(in super::super) const LEADER_NOT_AVAILABLE: i16 = 5;
    pub(in super::super) const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub(in super::super) const REQUEST_TIMED_OUT: i16 = 7;
    pub(in super::super) const MESSAGE_TOO_LARGE: i16 = 10;
    pub(in super::super) const OFFSET_METADATA_TOO_LARGE: i16 = 12;
    pub(in super::super) const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub(in super::super) const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub(in super::super) const NOT_COORDINATOR: i16 = 16;
    pub(in super::super) const INVALID_TOPIC_EXCEPTION: i16 = 17;
    pub(in super::super) const NOT_ENOUGH_REPLICAS: i16 = 19;
    pub(in super::super) const INVALID_REQUIRED_ACKS: i16 = 21;
    pub(in super::super) const ILLEGAL_GENERATION: i16 = 22;
    pub(in super::super) const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
    pub(in super::super) const INVALID_GROUP_ID: i16 = 24;
    pub(in super::super) const UNKNOWN_MEMBER_ID: i16 = 25;
    pub(in super::super) const INVALID_SESSION_TIMEOUT: i16 = 26;
    pub(in super::super) const REBALANCE_IN_PROGRESS: i16 = 27;
    pub(in super::super) const INVALID_COMMIT_OFFSET_SIZE: i16 = 28;
    pub(in super::super) const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
    pub(in super::super) const INVALID_TIMESTAMP: i16 = 32;
    pub(in super::super) const UNSUPPORTED_VERSION: i16 = 35;
    pub(in super::super) const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub(in super::super) const INVALID_PARTITIONS: i16 = 37;
    pub(in super::super) const INVALID_REPLICATION_FACTOR: i16 = 38;
    pub(in super::super) const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
    pub(in super::super) const INVALID_CONFIG: i16 = 40;
    pub(in super::super) const INVALID_REQUEST: i16 = 42;
    pub(in super::super) const POLICY_VIOLATION: i16 = 44;
    pub(in super::super) const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub(in super::super) const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub(in super::super) const INVALID_TXN_STATE: i16 = 48;
    pub(in super::super) const KAFKA_STORAGE_ERROR: i16 = 56;
    pub(in super::super) const NON_EMPTY_GROUP: i16 = 68;
    pub(in super::super) const GROUP_ID_NOT_FOUND: i16 = 69;
    pub(in super::super) const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
    pub(in super::super) const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
    pub(in super::super) const FENCED_LEADER_EPOCH: i16 = 74;
    pub(in super::super) const UNKNOWN_LEADER_EPOCH: i16 = 75;
    pub(in super::super) const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
    pub(in super::super) const MEMBER_ID_REQUIRED: i16 = 79;
    pub(in super::super) const GROUP_MAX_SIZE_REACHED: i16 = 81;
    pub(in super::super) const FENCED_INSTANCE_ID: i16 = 82;
    pub(in super::super) const ELECTION_NOT_NEEDED: i16 = 84;
    pub(in super::super) const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;
    pub(in super::super) const INVALID_RECORD: i16 = 87;
    pub(in super::super) const UNKNOWN_TOPIC_ID: i16 = 100;
    pub(in super::super) const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;
    pub(in super::super) const MISMATCHED_ENDPOINT_TYPE: i16 = 114;
    pub(in super::super) const UNSUPPORTED_ENDPOINT_TYPE: i16 = 115;
}

/// A batch that a producer sent and that is none.
pub(super) fn batch(error: &BatchError) -> i16 {
    match error {
        BatchError::Truncated | BatchError::Crc => code::CORRUPT_MESSAGE,
        BatchError::Compression(_) => code::UNSUPPORTED_COMPRESSION_TYPE,
        BatchError::TrailingBytes
        | BatchError::Magic(_)
        | BatchError::Count { .. }
        | BatchError::TooMany { .. }
        | BatchError::Producer { .. }
        | BatchError::Record(_) => code::INVALID_RECORD,
    }
}

/// An append that failed.
pub(super) fn append(error: &AppendError) -> i16 {
    match error {
        // The topic was there when the request was looked at: its partition is about to open, or has just gone.
        AppendError::UnknownPartition => code::NOT_LEADER_OR_FOLLOWER,
        AppendError::TooLarge { .. } => code::MESSAGE_TOO_LARGE,
        // Clients take it for "not written" and try again until their delivery time-out: the Java client, librdkafka, franz-go
        // and Sarama among them. No other code says so and names the reason.
        AppendError::DiskFull | AppendError::SetAside => code::KAFKA_STORAGE_ERROR,
        AppendError::Timestamp { .. } => code::INVALID_TIMESTAMP,
        AppendError::Refused(refused) => match refused {
            AppendRefused::Sequence(SequenceError::OutOfOrderSequence { .. }) => {
                code::OUT_OF_ORDER_SEQUENCE_NUMBER
            }
            AppendRefused::Sequence(SequenceError::InvalidProducerEpoch { .. }) => {
                code::INVALID_PRODUCER_EPOCH
            }
            AppendRefused::Malformed => code::INVALID_RECORD,
            AppendRefused::Transactional => code::INVALID_TXN_STATE,
        },
        AppendError::Propose(ProposeError::Busy) => code::NOT_ENOUGH_REPLICAS,
        AppendError::Propose(ProposeError::Unknown) => code::REQUEST_TIMED_OUT,
        AppendError::Propose(ProposeError::NotLeader { .. } | ProposeError::Stopped) => {
            code::NOT_LEADER_OR_FOLLOWER
        }
    }
}

/// A read that failed.
pub(super) fn read(error: &ReadError) -> i16 {
    match error {
        ReadError::UnknownPartition => code::NOT_LEADER_OR_FOLLOWER,
        ReadError::OffsetOutOfRange { .. } => code::OFFSET_OUT_OF_RANGE,
        ReadError::Segment(_) => code::KAFKA_STORAGE_ERROR,
    }
}

/// Records that were not deleted.
pub(super) fn delete(error: &DeleteError) -> i16 {
    match error {
        DeleteError::UnknownPartition => code::NOT_LEADER_OR_FOLLOWER,
        DeleteError::OutOfRange(_) => code::OFFSET_OUT_OF_RANGE,
        DeleteError::Propose(ProposeError::NotLeader { .. } | ProposeError::Stopped) => {
            code::NOT_LEADER_OR_FOLLOWER
        }
        DeleteError::Propose(ProposeError::Busy | ProposeError::Unknown) => code::REQUEST_TIMED_OUT,
    }
}

/// A topic that was not made or deleted.
pub(super) fn topic(error: &TopicError) -> i16 {
    match error {
        TopicError::Name(_) | TopicError::Internal(_) => code::INVALID_TOPIC_EXCEPTION,
        TopicError::Partitions(_) | TopicError::NotMore { .. } => code::INVALID_PARTITIONS,
        TopicError::Replicas(_) => code::INVALID_REPLICATION_FACTOR,
        TopicError::Config(_) | TopicError::ConfigChange(_) => code::INVALID_CONFIG,
        TopicError::DiskFull => code::KAFKA_STORAGE_ERROR,
        TopicError::Controller(ControllerError::Refused(refusal)) => match refusal {
            Refusal::TopicInUse { .. } => code::POLICY_VIOLATION,
            Refusal::TopicExists(_) => code::TOPIC_ALREADY_EXISTS,
            Refusal::TopicCollides(..) => code::INVALID_TOPIC_EXCEPTION,
            Refusal::NoSuchTopic(_) => code::UNKNOWN_TOPIC_OR_PARTITION,
            Refusal::PartitionsChanged { .. } => code::INVALID_PARTITIONS,
            _ => code::POLICY_VIOLATION,
        },
        TopicError::Controller(_) | TopicError::Ring(_) | TopicError::Gone(_) => {
            code::REQUEST_TIMED_OUT
        }
    }
}

/// What a group refused.
pub(super) fn group(error: GroupError) -> i16 {
    match error {
        GroupError::CoordinatorNotAvailable => code::COORDINATOR_NOT_AVAILABLE,
        GroupError::CoordinatorLoadInProgress => code::COORDINATOR_LOAD_IN_PROGRESS,
        GroupError::NotCoordinator => code::NOT_COORDINATOR,
        GroupError::InvalidGroupId => code::INVALID_GROUP_ID,
        GroupError::IllegalGeneration => code::ILLEGAL_GENERATION,
        GroupError::InconsistentGroupProtocol => code::INCONSISTENT_GROUP_PROTOCOL,
        GroupError::UnknownMemberId => code::UNKNOWN_MEMBER_ID,
        GroupError::InvalidSessionTimeout => code::INVALID_SESSION_TIMEOUT,
        GroupError::RebalanceInProgress => code::REBALANCE_IN_PROGRESS,
        GroupError::MemberIdRequired => code::MEMBER_ID_REQUIRED,
        GroupError::GroupMaxSizeReached => code::GROUP_MAX_SIZE_REACHED,
        GroupError::FencedInstanceId => code::FENCED_INSTANCE_ID,
        GroupError::NonEmptyGroup => code::NON_EMPTY_GROUP,
        GroupError::GroupIdNotFound => code::GROUP_ID_NOT_FOUND,
        GroupError::GroupSubscribedToTopic => code::GROUP_SUBSCRIBED_TO_TOPIC,
        GroupError::OffsetMetadataTooLarge => code::OFFSET_METADATA_TOO_LARGE,
        GroupError::CommitTooLarge => code::INVALID_COMMIT_OFFSET_SIZE,
        GroupError::NoRoom => code::POLICY_VIOLATION,
    }
}

/// What is wrong with the leader epoch a client knows, if anything (KIP-320).
pub(super) fn leader_epoch(known_by_client: i32, current: i32) -> Option<i16> {
    match known_by_client {
        -1 => None,
        epoch if epoch < current => Some(code::FENCED_LEADER_EPOCH),
        epoch if epoch > current => Some(code::UNKNOWN_LEADER_EPOCH),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_epochs_are_compared_as_kip_320_says() {
        assert_eq!(leader_epoch(-1, 5), None);
        assert_eq!(leader_epoch(5, 5), None);
        assert_eq!(leader_epoch(4, 5), Some(code::FENCED_LEADER_EPOCH));
        assert_eq!(leader_epoch(6, 5), Some(code::UNKNOWN_LEADER_EPOCH));
    }

    #[test]
    fn produce_is_never_answered_unknown_server_error() {
        let errors = [
            AppendError::UnknownPartition,
            AppendError::TooLarge {
                bytes: 1,
                max_bytes: 0,
            },
            AppendError::DiskFull,
            AppendError::SetAside,
            AppendError::Refused(AppendRefused::Malformed),
            AppendError::Refused(AppendRefused::Transactional),
            AppendError::Propose(ProposeError::Busy),
            AppendError::Propose(ProposeError::Unknown),
            AppendError::Propose(ProposeError::Stopped),
            AppendError::Propose(ProposeError::NotLeader { leader: None }),
        ];
        assert!(errors.iter().all(|e| append(e) > 0));
    }
}
