//! OffsetCommit, versions 2 to 10. From version 10 on topics are named by id (KIP-848).

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use crate::bounded::{Reader, WireError, shared_text};
use crate::write::Writer;
use crate::{TopicRef, api};

/// First version that names topics by id.
pub const TOPIC_IDS_FROM: i16 = 10;

/// An OffsetCommit request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommitRequest {
    /// The group.
    pub group: StrBytes,
    /// The generation, or the member's epoch; -1 for consumers that use no group.
    pub generation: i32,
    /// The member; empty for consumers that use no group.
    pub member: StrBytes,
    /// Its instance.
    pub instance: Option<StrBytes>,
    /// How long the offsets are to be kept, in ms (versions 2 to 4); -1 for as long as the broker keeps them.
    pub retention_ms: i64,
    /// What is committed.
    pub topics: Vec<TopicCommit>,
}

/// What is committed of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCommit {
    /// The topic.
    pub topic: TopicRef,
    /// Its partitions.
    pub partitions: Vec<PartitionCommit>,
}

/// What is committed of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionCommit {
    /// The partition.
    pub index: i32,
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if not known.
    pub leader_epoch: i32,
    /// What the client writes with it.
    pub metadata: Option<StrBytes>,
}

/// Decodes a request body that lies in `frame` from `at` on. Texts share the frame's memory.
///
/// # Errors
/// [`WireError`].
pub fn decode(frame: &Bytes, at: usize, version: i16) -> Result<OffsetCommitRequest, WireError> {
    let unserved = WireError::Version {
        api: api::OFFSET_COMMIT,
        version,
    };
    let api = api::find(api::OFFSET_COMMIT)
        .filter(|api| api.serves(version))
        .ok_or(unserved)?;
    let flexible = api.flexible(version);
    let mut r = Reader::new(frame.get(at..).ok_or(WireError::Truncated("the body"))?);
    let text = |t: &str| shared_text(frame, t);
    let group = text(r.string(flexible, "the group id")?);
    let generation = r.i32("the generation")?;
    let member = text(r.string(flexible, "the member id")?);
    let instance = if version >= 7 {
        r.nullable_string(flexible, "the group instance id")?
            .map(text)
    } else {
        None
    };
    let retention_ms = if version <= 4 {
        r.i64("the retention time")?
    } else {
        -1
    };
    let topics = r.array(flexible, 3, "topics", |r| {
        let topic = if version >= TOPIC_IDS_FROM {
            TopicRef::Id(r.topic_id("a topic id")?)
        } else {
            TopicRef::Name(text(r.string(flexible, "a topic name")?))
        };
        let partitions = r.array(flexible, 13, "partitions", |r| {
            let partition = PartitionCommit {
                index: r.i32("a partition")?,
                offset: r.i64("an offset")?,
                leader_epoch: if version >= 6 {
                    r.i32("a leader epoch")?
                } else {
                    -1
                },
                metadata: r.nullable_string(flexible, "commit metadata")?.map(text),
            };
            r.skip_tagged(flexible)?;
            Ok(partition)
        })?;
        r.skip_tagged(flexible)?;
        Ok(TopicCommit { topic, partitions })
    });
    let topics = topics?;
    r.skip_tagged(flexible)?;
    Ok(OffsetCommitRequest {
        group,
        generation,
        member,
        instance,
        retention_ms,
        topics,
    })
}

/// What became of a topic's commits: partition and error code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCommitted {
    /// The topic, as it was named.
    pub topic: TopicRef,
    /// Its partitions with their error codes.
    pub partitions: Vec<(i32, i16)>,
}

/// Encodes a response body.
pub fn encode(topics: &[TopicCommitted], version: i16) -> Vec<u8> {
    let flexible = api::find(api::OFFSET_COMMIT)
        .map_or(crate::bounded::Flexible::No, |api| api.flexible(version));
    let mut w = Writer::new(flexible);
    if version >= 3 {
        w.i32(0);
    }
    w.count(topics.len());
    for topic in topics {
        w.topic(&topic.topic);
        w.count(topic.partitions.len());
        for (index, code) in &topic.partitions {
            w.i32(*index);
            w.i16(*code);
            w.no_tags();
        }
        w.no_tags();
    }
    w.no_tags();
    w.into_bytes()
}

#[cfg(test)]
mod tests;
