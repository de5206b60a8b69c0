//! ProduceRequest and ProduceResponse, versions 0 to 13. Records stay in the frame's memory, unparsed.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use crate::bounded::{Flexible, Reader, WireError, shared_text};
use crate::write::Writer;
use crate::{CurrentLeader, NodeEndpoint, TopicRef};

const FLEXIBLE_FROM: i16 = 9;
const TOPIC_IDS_FROM: i16 = 13;
const VERSION_MAX: i16 = 13;
/// An empty compact name, no partitions, no tagged fields.
const TOPIC_BYTES_MIN: usize = 3;
/// Index, null records, no tagged fields.
const PARTITION_BYTES_MIN: usize = 6;

/// A ProduceRequest.
#[derive(Debug, Clone, PartialEq)]
pub struct ProduceRequest {
    /// The transactional id of a transactional producer.
    pub transactional_id: Option<StrBytes>,
    /// -1 for all in-sync replicas, 1 for the leader, 0 for no answer. Not checked here.
    pub acks: i16,
    /// How long the client waits, in ms.
    pub timeout_ms: i32,
    /// What it wants written.
    pub topics: Vec<TopicProduce>,
}

/// The part of a ProduceRequest for one topic.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicProduce {
    /// The topic.
    pub topic: TopicRef,
    /// Its partitions.
    pub partitions: Vec<PartitionProduce>,
}

/// The part of a ProduceRequest for one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionProduce {
    /// The partition's index.
    pub index: i32,
    /// Its records, unchecked; they share the frame's memory.
    pub records: Option<Bytes>,
}

/// Reads the body of a ProduceRequest, which lies in `frame` from `at` on.
///
/// # Errors
/// [`WireError`].
pub fn decode(frame: &Bytes, at: usize, version: i16) -> Result<ProduceRequest, WireError> {
    if !(0..=VERSION_MAX).contains(&version) {
        return Err(WireError::Version {
            api: crate::api::PRODUCE,
            version,
        });
    }
    let f = Flexible::of(version, FLEXIBLE_FROM);
    let mut r = Reader::new(frame.get(at..).ok_or(WireError::Truncated("the body"))?);
    let transactional_id = match version {
        3.. => r.nullable_string(f, "the transactional id")?,
        _ => None,
    };
    let acks = r.i16("acks")?;
    let timeout_ms = r.i32("the timeout")?;
    let topics = r.array(f, TOPIC_BYTES_MIN, "topics", |r| {
        let topic = match version {
            TOPIC_IDS_FROM.. => TopicRef::Id(r.topic_id("a topic id")?),
            _ => TopicRef::Name(shared_text(frame, r.string(f, "a topic name")?)),
        };
        let partitions = r.array(f, PARTITION_BYTES_MIN, "partitions", |r| {
            let index = r.i32("a partition")?;
            let records = r.nullable_bytes(f, "records")?.map(|b| frame.slice_ref(b));
            r.skip_tagged(f)?;
            Ok(PartitionProduce { index, records })
        });
        let topic = TopicProduce {
            topic,
            partitions: partitions?,
        };
        r.skip_tagged(f)?;
        Ok(topic)
    })?;
    r.skip_tagged(f)?;
    let transactional_id = transactional_id.map(|t| shared_text(frame, t));
    Ok(ProduceRequest {
        transactional_id,
        acks,
        timeout_ms,
        topics,
    })
}

/// A ProduceResponse.
#[derive(Debug, Clone, Default)]
pub struct ProduceResponse {
    /// What became of it, in the order of the request.
    pub topics: Vec<TopicProduced>,
    /// How long the client should keep quiet, in ms.
    pub throttle_time_ms: i32,
    /// Where the leaders named in `topics` listen (version 10 and later).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// The part of a ProduceResponse for one topic.
#[derive(Debug, Clone)]
pub struct TopicProduced {
    /// The topic as the request named it.
    pub topic: TopicRef,
    /// Its partitions.
    pub partitions: Vec<PartitionProduced>,
}

/// The part of a ProduceResponse for one partition.
#[derive(Debug, Clone)]
pub struct PartitionProduced {
    /// The partition's index.
    pub index: i32,
    /// A Kafka error code, 0 for none.
    pub error_code: i16,
    /// Offset of the first record, -1 on error.
    pub base_offset: i64,
    /// The append time when the topic uses it, else -1; in ms.
    pub log_append_time_ms: i64,
    /// Where the partition's log starts, -1 when unknown.
    pub log_start_offset: i64,
    /// Records (by their place in the batch) that made the broker refuse the batch.
    pub record_errors: Vec<(i32, Option<String>)>,
    /// What the error means.
    pub error_message: Option<String>,
    /// Who leads the partition, when the client asked the wrong node.
    pub current_leader: Option<CurrentLeader>,
}

impl PartitionProduced {
    /// An error with its message.
    pub fn error(index: i32, error_code: i16, error_message: Option<String>) -> PartitionProduced {
        PartitionProduced {
            index,
            error_code,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message,
            current_leader: None,
        }
    }
}

impl ProduceResponse {
    /// The body in `version`; what that version does not know is left out.
    pub fn encode(&self, version: i16) -> Vec<u8> {
        let f = Flexible::of(version, FLEXIBLE_FROM);
        let mut w = Writer::new(f);
        w.count(self.topics.len());
        for topic in &self.topics {
            w.topic(&topic.topic);
            w.count(topic.partitions.len());
            for partition in &topic.partitions {
                partition.encode(&mut w, version);
            }
            w.no_tags();
        }
        if version >= 1 {
            w.i32(self.throttle_time_ms);
        }
        let endpoints = match version {
            10.. if !self.node_endpoints.is_empty() => vec![(0, endpoints(&self.node_endpoints))],
            _ => Vec::new(),
        };
        w.tags(&endpoints);
        w.into_bytes()
    }
}

impl PartitionProduced {
    fn encode(&self, w: &mut Writer, version: i16) {
        w.i32(self.index);
        w.i16(self.error_code);
        w.i64(self.base_offset);
        if version >= 2 {
            w.i64(self.log_append_time_ms);
        }
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        if version >= 8 {
            w.count(self.record_errors.len());
            for (index, message) in &self.record_errors {
                w.i32(*index);
                w.string(message.as_deref());
                w.no_tags();
            }
            w.string(self.error_message.as_deref());
        }
        let leader = match self.current_leader {
            Some(leader) if version >= 10 => vec![(0, current_leader(leader))],
            _ => Vec::new(),
        };
        w.tags(&leader);
    }
}

/// A tagged field that names a leader.
pub(crate) fn current_leader(leader: CurrentLeader) -> Vec<u8> {
    let mut w = Writer::new(Flexible::Yes);
    w.i32(leader.leader_id);
    w.i32(leader.leader_epoch);
    w.no_tags();
    w.into_bytes()
}

/// A tagged field that says where nodes listen.
pub(crate) fn endpoints(nodes: &[NodeEndpoint]) -> Vec<u8> {
    let mut w = Writer::new(Flexible::Yes);
    w.count(nodes.len());
    for node in nodes {
        w.i32(node.node_id);
        w.string(Some(&node.host));
        w.i32(node.port);
        w.string(None);
        w.no_tags();
    }
    w.into_bytes()
}

#[cfg(test)]
mod tests;
