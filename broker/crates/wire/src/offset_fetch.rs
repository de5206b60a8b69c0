//! OffsetFetch, versions 1 to 10: of one group, from version 8 on of several. From version 10 on topics are named by id.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use crate::bounded::{Flexible, Reader, WireError, shared_text};
use crate::write::Writer;
use crate::{TopicRef, api};

/// First version that asks for several groups.
pub const GROUPS_FROM: i16 = 8;
/// First version that names topics by id.
pub const TOPIC_IDS_FROM: i16 = 10;

/// An OffsetFetch request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetFetchRequest {
    /// What is asked of each group; one before version 8.
    pub groups: Vec<GroupFetch>,
    /// Whether offsets of open transactions are to be waited for (KIP-447).
    pub require_stable: bool,
}

/// Topics, each with partitions.
pub type TopicPartitions = Vec<(TopicRef, Vec<i32>)>;

/// What is asked of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFetch {
    /// The group.
    pub group: StrBytes,
    /// The member that asks (KIP-848).
    pub member: Option<StrBytes>,
    /// Its epoch, -1 if none is said.
    pub member_epoch: i32,
    /// Topics with their partitions; nothing for all that were committed.
    pub topics: Option<TopicPartitions>,
}

/// Decodes a request body that lies in `frame` from `at` on. Texts share the frame's memory.
///
/// # Errors
/// [`WireError`].
pub fn decode(frame: &Bytes, at: usize, version: i16) -> Result<OffsetFetchRequest, WireError> {
    let unserved = WireError::Version {
        api: api::OFFSET_FETCH,
        version,
    };
    let api = api::find(api::OFFSET_FETCH)
        .filter(|api| api.serves(version))
        .ok_or(unserved)?;
    let of = Layout {
        frame,
        version,
        flexible: api.flexible(version),
    };
    let mut r = Reader::new(frame.get(at..).ok_or(WireError::Truncated("the body"))?);
    let groups = if version >= GROUPS_FROM {
        r.array(of.flexible, 3, "groups", |r| of.group(r))?
    } else {
        vec![GroupFetch {
            group: of.text(r.string(of.flexible, "the group id")?),
            member: None,
            member_epoch: -1,
            topics: of.topics(&mut r)?,
        }]
    };
    let require_stable = version >= 7 && r.boolean("require stable")?;
    r.skip_tagged(of.flexible)?;
    Ok(OffsetFetchRequest {
        groups,
        require_stable,
    })
}

struct Layout<'a> {
    frame: &'a Bytes,
    version: i16,
    flexible: Flexible,
}

impl Layout<'_> {
    fn text(&self, text: &str) -> StrBytes {
        shared_text(self.frame, text)
    }

    fn group(&self, r: &mut Reader<'_>) -> Result<GroupFetch, WireError> {
        let group = self.text(r.string(self.flexible, "a group id")?);
        let (mut member, mut member_epoch) = (None, -1);
        if self.version >= 9 {
            member = r
                .nullable_string(self.flexible, "the member id")?
                .map(|t| self.text(t));
            member_epoch = r.i32("the member epoch")?;
        }
        let topics = self.topics(r)?;
        r.skip_tagged(self.flexible)?;
        Ok(GroupFetch {
            group,
            member,
            member_epoch,
            topics,
        })
    }

    fn topics(&self, r: &mut Reader<'_>) -> Result<Option<TopicPartitions>, WireError> {
        let Some(count) = r.nullable_count(self.flexible, 3, "topics")? else {
            return match self.version {
                ..2 => Err(WireError::Null("topics")),
                _ => Ok(None),
            };
        };
        let topic = |r: &mut Reader<'_>| {
            let topic = if self.version >= TOPIC_IDS_FROM {
                TopicRef::Id(r.topic_id("a topic id")?)
            } else {
                TopicRef::Name(self.text(r.string(self.flexible, "a topic name")?))
            };
            let partitions = r.array(self.flexible, 4, "partitions", |r| r.i32("a partition"))?;
            r.skip_tagged(self.flexible)?;
            Ok((topic, partitions))
        };
        (0..count)
            .map(|_| topic(r))
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// What a group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFetched {
    /// The group.
    pub group: StrBytes,
    /// What is wrong with the question.
    pub error_code: i16,
    /// By topic, as it was named.
    pub topics: Vec<(TopicRef, Vec<PartitionFetched>)>,
}

/// What a group has committed of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFetched {
    /// The partition.
    pub index: i32,
    /// The next offset to read, -1 if nothing was committed.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if not known.
    pub leader_epoch: i32,
    /// What the client wrote with it.
    pub metadata: String,
    /// What is wrong with the partition.
    pub error_code: i16,
}

/// Encodes a response body; before version 8 of the first group alone.
pub fn encode(groups: &[GroupFetched], version: i16) -> Vec<u8> {
    let flexible = api::find(api::OFFSET_FETCH).map_or(Flexible::No, |api| api.flexible(version));
    let mut w = Writer::new(flexible);
    if version >= 3 {
        w.i32(0);
    }
    if version >= GROUPS_FROM {
        w.count(groups.len());
        for group in groups {
            w.string(Some(&group.group));
            put_topics(&mut w, &group.topics, version);
            w.i16(group.error_code);
            w.no_tags();
        }
    } else if let Some(group) = groups.first() {
        put_topics(&mut w, &group.topics, version);
        if version >= 2 {
            w.i16(group.error_code);
        }
    }
    w.no_tags();
    w.into_bytes()
}

fn put_topics(w: &mut Writer, topics: &[(TopicRef, Vec<PartitionFetched>)], version: i16) {
    w.count(topics.len());
    for (topic, partitions) in topics {
        w.topic(topic);
        w.count(partitions.len());
        for partition in partitions {
            w.i32(partition.index);
            w.i64(partition.offset);
            if version >= 5 {
                w.i32(partition.leader_epoch);
            }
            w.string(Some(&partition.metadata));
            w.i16(partition.error_code);
            w.no_tags();
        }
        w.no_tags();
    }
}

#[cfg(test)]
mod tests;
