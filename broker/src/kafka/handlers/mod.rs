//! One file per API: converts in, calls the broker, converts out.

pub(super) mod alter_configs;
pub(super) mod api_versions;
mod broker_settings;
pub(super) mod create_partitions;
pub(super) mod create_topics;
pub(super) mod delete_groups;
pub(super) mod delete_records;
pub(super) mod delete_topics;
pub(super) mod describe_cluster;
pub(super) mod describe_configs;
pub(super) mod describe_groups;
pub(super) mod describe_log_dirs;
pub(super) mod describe_producers;
pub(super) mod describe_topic_partitions;
pub(super) mod elect_leaders;
pub(super) mod fetch;
pub(super) mod find_coordinator;
pub(super) mod heartbeat;
pub(super) mod init_producer_id;
pub(super) mod join_group;
pub(super) mod leave_group;
pub(super) mod list_config_resources;
pub(super) mod list_groups;
pub(super) mod list_offsets;
pub(super) mod metadata;
pub(super) mod offset_commit;
pub(super) mod offset_delete;
pub(super) mod offset_fetch;
pub(super) mod offset_for_leader_epoch;
pub(super) mod produce;
pub(super) mod sync_group;

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::protocol::StrBytes;
use tidemill_controller::{Image, Topic};
use tidemill_groups::request::Who;
use tidemill_wire::TopicRef;

use super::error_map::code;
use crate::topic_changes::Mode;

/// Bytes of what an error means, at most.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Bytes of an answer that tells of many groups, about: no more of them are told once it is so large. Far below what clients
/// take (librdkafka's `receive.message.max.bytes` is 100 MB).
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Kafka's types of resources that have settings (`ConfigResource.Type`).
mod resource {
    pub(super) const TOPIC: i8 = 2;
    pub(super) const BROKER: i8 = 4;
    pub(super) const BROKER_LOGGER: i8 = 8;
    pub(super) const CLIENT_METRICS: i8 = 16;
    pub(super) const GROUP: i8 = 32;
}

/// What a group is told of whoever asks.
fn who(member: &str, instance: Option<&StrBytes>) -> Who {
    Who {
        member: member.into(),
        instance: instance.map(|i| (**i).into()),
    }
}

/// A text for the message crate.
fn text(s: impl Into<String>) -> StrBytes {
    StrBytes::from_string(s.into())
}

/// What an error means, for the message crate. It may say what the client said: without a limit it could be longer than any
/// answer can say.
fn message(s: impl Into<String>) -> StrBytes {
    let mut s = s.into();
    s.truncate(s.floor_char_boundary(MESSAGE_BYTES_MAX));
    text(s)
}

/// The topic a request means, or the error code for it.
fn find_topic<'a>(image: &'a Image, topic: &TopicRef) -> Result<&'a Arc<Topic>, i16> {
    match topic {
        TopicRef::Name(name) => image.topic(name).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION),
        TopicRef::Id(id) => image.topic_by_id(*id).ok_or(code::UNKNOWN_TOPIC_ID),
    }
}

/// What a request wants done that may only want to know whether it could be done.
fn mode(validate_only: bool) -> Mode {
    match validate_only {
        true => Mode::Check,
        false => Mode::Apply,
    }
}

/// What is named more than once.
fn named_twice<T: Ord + Clone>(names: impl Iterator<Item = T>) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for name in names {
        if !seen.insert(name.clone()) {
            twice.insert(name);
        }
    }
    twice
}
