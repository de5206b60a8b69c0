//! One file per API: converts in, calls the broker, converts out.

pub(super) mod api_versions;
pub(super) mod create_topics;
pub(super) mod delete_topics;
pub(super) mod describe_configs;
pub(super) mod fetch;
pub(super) mod find_coordinator;
pub(super) mod init_producer_id;
pub(super) mod list_offsets;
pub(super) mod metadata;
pub(super) mod produce;

use std::sync::Arc;

use kafka_protocol::protocol::StrBytes;
use tidemill_controller::{Image, Topic};
use tidemill_wire::TopicRef;

use super::error_map::code;

/// A text for the message crate.
fn text(s: impl Into<String>) -> StrBytes {
    StrBytes::from_string(s.into())
}

/// The topic a request means, or the error code for it.
fn find_topic<'a>(image: &'a Image, topic: &TopicRef) -> Result<&'a Arc<Topic>, i16> {
    match topic {
        TopicRef::Name(name) => image.topic(name).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION),
        TopicRef::Id(id) => image.topic_by_id(*id).ok_or(code::UNKNOWN_TOPIC_ID),
    }
}
