//! FetchRequest and FetchResponse, versions 4 to 18. A response is a list of parts that share the batches' memory.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use tidemill_model::Batch;

use crate::bounded::{Flexible, Reader, WireError, shared_text};
use crate::produce::{current_leader, endpoints};
use crate::write::Writer;
use crate::{CurrentLeader, NodeEndpoint, TopicRef};

const FLEXIBLE_FROM: i16 = 12;
const TOPIC_IDS_FROM: i16 = 13;
const VERSIONS: std::ops::RangeInclusive<i16> = 4..=18;
/// An empty compact name, no partitions, no tagged fields.
const TOPIC_BYTES_MIN: usize = 3;
/// Index, offset, size: what every version has.
const PARTITION_BYTES_MIN: usize = 16;

/// A FetchRequest.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchRequest {
    /// -1 for consumers; anything else claims to be a replica (in version 15 and later a tagged field).
    pub replica_id: i32,
    /// How long to wait for `min_bytes`, in ms.
    pub max_wait_ms: i32,
    /// Bytes that end the wait.
    pub min_bytes: i32,
    /// Most bytes of records in the answer, except that a first batch is always given whole.
    pub max_bytes: i32,
    /// 0 read uncommitted, 1 read committed.
    pub isolation_level: i8,
    /// Fetch session (KIP-227), 0 for none.
    pub session_id: i32,
    /// Epoch in the session: 0 opens one, -1 wants none.
    pub session_epoch: i32,
    /// What to fetch.
    pub topics: Vec<FetchTopic>,
    /// What to take out of the session.
    pub forgotten: Vec<ForgottenTopic>,
    /// Where the consumer runs.
    pub rack_id: StrBytes,
}

/// The part of a FetchRequest for one topic.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchTopic {
    /// The topic.
    pub topic: TopicRef,
    /// Its partitions.
    pub partitions: Vec<FetchPartition>,
}

/// The part of a FetchRequest for one partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FetchPartition {
    /// The partition's index.
    pub index: i32,
    /// The leader epoch the client knows, -1 for none.
    pub current_leader_epoch: i32,
    /// Where to read.
    pub fetch_offset: i64,
    /// Epoch of the last record the client has, -1 for none (truncation detection).
    pub last_fetched_epoch: i32,
    /// Most bytes for this partition, except that a first batch is given whole.
    pub max_bytes: i32,
}

/// Partitions that leave a session.
#[derive(Debug, Clone, PartialEq)]
pub struct ForgottenTopic {
    /// The topic.
    pub topic: TopicRef,
    /// Its partitions.
    pub partitions: Vec<i32>,
}

/// Reads the body of a FetchRequest, which lies in `frame` from `at` on.
///
/// # Errors
/// [`WireError`].
pub fn decode(frame: &Bytes, at: usize, version: i16) -> Result<FetchRequest, WireError> {
    if !VERSIONS.contains(&version) {
        return Err(WireError::Version {
            api: crate::api::FETCH,
            version,
        });
    }
    let f = Flexible::of(version, FLEXIBLE_FROM);
    let mut r = Reader::new(frame.get(at..).ok_or(WireError::Truncated("the body"))?);
    let mut request = FetchRequest {
        replica_id: if version <= 14 {
            r.i32("the replica id")?
        } else {
            -1
        },
        max_wait_ms: r.i32("the longest wait")?,
        min_bytes: r.i32("the least bytes")?,
        max_bytes: r.i32("the most bytes")?,
        isolation_level: r.i8("the isolation level")?,
        session_id: if version >= 7 {
            r.i32("the session id")?
        } else {
            0
        },
        session_epoch: if version >= 7 {
            r.i32("the session epoch")?
        } else {
            -1
        },
        topics: Vec::new(),
        forgotten: Vec::new(),
        rack_id: StrBytes::new(),
    };
    request.topics = r.array(f, TOPIC_BYTES_MIN, "topics", |r| {
        let topic = topic(r, frame, version)?;
        let partitions = r.array(f, PARTITION_BYTES_MIN, "partitions", |r| {
            partition(r, version)
        })?;
        r.skip_tagged(f)?;
        Ok(FetchTopic { topic, partitions })
    })?;
    if version >= 7 {
        request.forgotten = r.array(f, TOPIC_BYTES_MIN, "forgotten topics", |r| {
            let topic = topic(r, frame, version)?;
            let partitions = r.array(f, 4, "forgotten partitions", |r| r.i32("a partition"))?;
            r.skip_tagged(f)?;
            Ok(ForgottenTopic { topic, partitions })
        })?;
    }
    if version >= 11 {
        request.rack_id = shared_text(frame, r.string(f, "the rack id")?);
    }
    let replica_id = &mut request.replica_id;
    r.tagged(f, |tag, value| match tag {
        // ReplicaState: id and epoch.
        1 if version >= 15 => Reader::new(value)
            .i32("the replica id")
            .map(|id| *replica_id = id),
        _ => Ok(()),
    })?;
    Ok(request)
}

fn topic(r: &mut Reader<'_>, frame: &Bytes, version: i16) -> Result<TopicRef, WireError> {
    if version >= TOPIC_IDS_FROM {
        return Ok(TopicRef::Id(r.topic_id("a topic id")?));
    }
    let f = Flexible::of(version, FLEXIBLE_FROM);
    Ok(TopicRef::Name(shared_text(
        frame,
        r.string(f, "a topic name")?,
    )))
}

fn partition(r: &mut Reader<'_>, version: i16) -> Result<FetchPartition, WireError> {
    let index = r.i32("a partition")?;
    let current_leader_epoch = if version >= 9 {
        r.i32("the leader epoch")?
    } else {
        -1
    };
    let fetch_offset = r.i64("the fetch offset")?;
    let last_fetched_epoch = if version >= 12 {
        r.i32("the last fetched epoch")?
    } else {
        -1
    };
    if version >= 5 {
        // The log start offset of a follower.
        r.i64("the log start offset")?;
    }
    let max_bytes = r.i32("the most bytes of a partition")?;
    r.skip_tagged(Flexible::of(version, FLEXIBLE_FROM))?;
    Ok(FetchPartition {
        index,
        current_leader_epoch,
        fetch_offset,
        last_fetched_epoch,
        max_bytes,
    })
}

/// A FetchResponse.
#[derive(Debug, Clone, Default)]
pub struct FetchResponse {
    /// How long the client should keep quiet, in ms.
    pub throttle_time_ms: i32,
    /// An error of the whole request, 0 for none.
    pub error_code: i16,
    /// The session, 0 for none.
    pub session_id: i32,
    /// What was read.
    pub topics: Vec<FetchedTopic>,
    /// Where the leaders named in `topics` listen (version 16 and later).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// The part of a FetchResponse for one topic.
#[derive(Debug, Clone)]
pub struct FetchedTopic {
    /// The topic as the request named it.
    pub topic: TopicRef,
    /// Its partitions.
    pub partitions: Vec<FetchedPartition>,
}

/// A transaction whose records a reader of committed data must drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset in the partition.
    pub first_offset: i64,
}

/// The part of a FetchResponse for one partition.
#[derive(Debug, Clone)]
pub struct FetchedPartition {
    /// The partition's index.
    pub index: i32,
    /// A Kafka error code, 0 for none.
    pub error_code: i16,
    /// The high watermark, -1 on error.
    pub high_watermark: i64,
    /// The last stable offset, -1 on error.
    pub last_stable_offset: i64,
    /// Where the log starts, -1 on error.
    pub log_start_offset: i64,
    /// Aborted transactions, for readers of committed data.
    pub aborted: Option<Vec<AbortedTransaction>>,
    /// Whole batches, in order.
    pub batches: Vec<Batch>,
    /// Where the client's log leaves the leader's: epoch and its end offset.
    pub diverging: Option<(i32, i64)>,
    /// Who leads the partition, when the client asked the wrong node.
    pub current_leader: Option<CurrentLeader>,
}

impl FetchedPartition {
    /// An error.
    pub fn error(index: i32, error_code: i16) -> FetchedPartition {
        FetchedPartition {
            index,
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted: None,
            batches: Vec::new(),
            diverging: None,
            current_leader: None,
        }
    }
}

impl FetchResponse {
    /// The body in `version`, in parts that share the batches' memory.
    pub fn encode(&self, version: i16) -> Vec<Bytes> {
        let mut w = Writer::new(Flexible::of(version, FLEXIBLE_FROM));
        w.i32(self.throttle_time_ms);
        if version >= 7 {
            w.i16(self.error_code);
            w.i32(self.session_id);
        }
        w.count(self.topics.len());
        for topic in &self.topics {
            w.topic(&topic.topic);
            w.count(topic.partitions.len());
            for partition in &topic.partitions {
                partition.encode(&mut w, version);
            }
            w.no_tags();
        }
        let nodes = match version {
            16.. if !self.node_endpoints.is_empty() => vec![(0, endpoints(&self.node_endpoints))],
            _ => Vec::new(),
        };
        w.tags(&nodes);
        w.into_parts()
    }
}

impl FetchedPartition {
    fn encode(&self, w: &mut Writer, version: i16) {
        w.i32(self.index);
        w.i16(self.error_code);
        w.i64(self.high_watermark);
        w.i64(self.last_stable_offset);
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        match &self.aborted {
            None => w.null(),
            Some(aborted) => {
                w.count(aborted.len());
                for transaction in aborted {
                    w.i64(transaction.producer_id);
                    w.i64(transaction.first_offset);
                    w.no_tags();
                }
            }
        }
        if version >= 11 {
            // No preferred replica: every read is served where it is asked.
            w.i32(-1);
        }
        w.batches(&self.batches);
        let mut tags = Vec::new();
        if let Some((epoch, end_offset)) = self.diverging {
            let mut field = Writer::new(Flexible::Yes);
            field.i32(epoch);
            field.i64(end_offset);
            field.no_tags();
            tags.push((0, field.into_bytes()));
        }
        if let Some(leader) = self.current_leader {
            tags.push((1, current_leader(leader)));
        }
        w.tags(&tags);
    }
}

#[cfg(test)]
mod tests;
