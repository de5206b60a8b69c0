//! Kafka's messages: bounded reading of whatever a client sends, and writing of what it gets back.
//!
//! Produce and Fetch are decoded and encoded here by hand, so that record batches are moved and never copied or
//! parsed; so are OffsetCommit and OffsetFetch, whose newest version the crate lacks. The other APIs use the `kafka-protocol` crate, whose decoder trusts lengths: [`message::decode`] walks every
//! body with a bounded reader first.

#![forbid(unsafe_code)]

pub mod api;
pub mod bounded;
pub mod fetch;
pub mod frame;
pub mod header;
pub mod log_dirs;
pub mod message;
pub mod offset_commit;
pub mod offset_fetch;
pub mod produce;
pub mod schema;
pub mod write;

pub use bounded::WireError;
pub use kafka_protocol::protocol::StrBytes;

use tidemill_model::TopicId;

/// How a request names a topic: by name, or (Produce and Fetch from version 13 on) by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef {
    /// By name.
    Name(StrBytes),
    /// By id.
    Id(TopicId),
}

/// The leader of a partition, told to a client that asked another node (KIP-951).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentLeader {
    /// Its node id, -1 when unknown.
    pub leader_id: i32,
    /// Its epoch, -1 when unknown.
    pub leader_epoch: i32,
}

/// Where a node listens for clients (KIP-951).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// Its node id.
    pub node_id: i32,
    /// Its host name or address.
    pub host: StrBytes,
    /// Its port.
    pub port: i32,
}
