//! The records of `__consumer_offsets`, in Kafka's own format (`OffsetCommitKey` and `Value`, `GroupMetadataKey` and
//! `Value` of `group-coordinator/src/main/resources/common/message`), so that tools that read that topic keep working.
//!
//! Written are the versions that every tool knows: 1 and 3 of commits, 3 of groups; read are all there are. A commit
//! carries the id of its topic in a record header, which tools pass over: a topic that was deleted and made anew is
//! another one.

use bytes::Bytes;
use tidemill_model::TopicId;
use tidemill_model::varint::read_u32;

use crate::store::{Commit, GroupRecord, MemberRecord};

/// Name of the record header with the id of the topic.
pub const TOPIC_ID_HEADER: &[u8] = b"tidemill.topic-id";

/// Bytes of a text: what the form that is written can say.
const TEXT_BYTES_MAX: usize = i16::MAX as usize;

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// What a group has committed of a partition.
    Offset {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// A group's generation, members and assignments.
    Group {
        /// The group.
        group: String,
    },
}

/// Why bytes are no record of `__consumer_offsets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// They end too early.
    #[error("it ends too early")]
    Truncated,
    /// A length that cannot be.
    #[error("it has an impossible length")]
    Length,
    /// A text that is not UTF-8.
    #[error("a text in it is not UTF-8")]
    Utf8,
    /// A version that is not known.
    #[error("its version {0} is not known")]
    Version(i16),
}

impl Key {
    /// The key as it is written.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Key::Offset {
                group,
                topic,
                partition,
            } => {
                put_i16(&mut out, 1);
                put_text(&mut out, Some(group));
                put_text(&mut out, Some(topic));
                put_i32(&mut out, *partition);
            }
            Key::Group { group } => {
                put_i16(&mut out, 2);
                put_text(&mut out, Some(group));
            }
        }
        out
    }

    /// Reads a key; `None` for kinds of records that are not of classic groups (KIP-848 and later), which say nothing here.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn decode(bytes: &[u8]) -> Result<Option<Key>, CodecError> {
        let mut r = Reader::new(bytes);
        let key = match r.i16()? {
            0 | 1 => Key::Offset {
                group: r.text()?,
                topic: r.text()?,
                partition: r.i32()?,
            },
            2 => Key::Group { group: r.text()? },
            _ => return Ok(None),
        };
        Ok(Some(key))
    }
}

/// The value of a commit as it is written.
pub fn encode_commit(commit: &Commit) -> Vec<u8> {
    let mut out = Vec::new();
    match commit.expire_ms {
        None => {
            put_i16(&mut out, 3);
            put_i64(&mut out, commit.offset);
            put_i32(&mut out, commit.leader_epoch);
            put_text(&mut out, Some(&commit.metadata));
            put_i64(&mut out, commit.commit_ms);
        }
        // The only version that has an expiry of its own (OffsetCommit up to version 4).
        Some(expire_ms) => {
            put_i16(&mut out, 1);
            put_i64(&mut out, commit.offset);
            put_text(&mut out, Some(&commit.metadata));
            put_i64(&mut out, commit.commit_ms);
            put_i64(&mut out, expire_ms);
        }
    }
    out
}

/// Bytes of [`encode_commit`].
pub(crate) fn commit_bytes(commit: &Commit) -> usize {
    let fixed = match commit.expire_ms {
        None => 2 + 8 + 4 + 2 + 8,
        Some(_) => 2 + 8 + 2 + 8 + 8,
    };
    fixed + commit.metadata.len()
}

/// Reads the value of a commit. The topic's id comes from the record's headers, if it is not in the value.
///
/// # Errors
/// [`CodecError`].
pub fn decode_commit(bytes: &[u8], topic_id: TopicId) -> Result<Commit, CodecError> {
    let mut r = Reader::new(bytes);
    let version = r.i16()?;
    if !(0..=4).contains(&version) {
        return Err(CodecError::Version(version));
    }
    r.flexible = version >= 4;
    let mut commit = Commit {
        topic_id,
        offset: r.i64()?,
        leader_epoch: if version >= 3 { r.i32()? } else { -1 },
        metadata: r.text()?,
        commit_ms: r.i64()?,
        expire_ms: None,
    };
    if version == 1 {
        commit.expire_ms = Some(r.i64()?).filter(|ms| *ms >= 0);
    }
    if version >= 4 {
        for _ in 0..r.unsigned()? {
            let (tag, len) = (r.unsigned()?, r.unsigned()? as usize);
            let value = r.take(len)?;
            if let (0, Ok(id)) = (tag, value.try_into()) {
                commit.topic_id = TopicId(id);
            }
        }
    }
    Ok(commit)
}

/// The value of a group's record as it is written.
pub fn encode_group(group: &GroupRecord) -> Vec<u8> {
    let mut out = Vec::new();
    put_i16(&mut out, 3);
    put_text(&mut out, Some(&group.protocol_type));
    put_i32(&mut out, group.generation);
    put_text(&mut out, group.protocol.as_deref());
    put_text(&mut out, group.leader.as_deref());
    put_i64(&mut out, group.since_ms);
    put_i32(&mut out, group.members.len() as i32);
    for member in &group.members {
        put_text(&mut out, Some(&member.id));
        put_text(&mut out, member.instance.as_deref());
        put_text(&mut out, Some(&member.client_id));
        put_text(&mut out, Some(&member.client_host));
        put_i32(&mut out, member.rebalance_ms);
        put_i32(&mut out, member.session_ms);
        put_bytes(&mut out, &member.subscription);
        put_bytes(&mut out, &member.assignment);
    }
    out
}

/// Reads the value of a group's record.
///
/// # Errors
/// [`CodecError`].
pub fn decode_group(bytes: &Bytes) -> Result<GroupRecord, CodecError> {
    let mut r = Reader::new(bytes);
    let version = r.i16()?;
    if !(0..=4).contains(&version) {
        return Err(CodecError::Version(version));
    }
    r.flexible = version >= 4;
    let mut group = GroupRecord {
        protocol_type: r.text()?,
        generation: r.i32()?,
        protocol: r.nullable_text()?,
        leader: r.nullable_text()?,
        since_ms: if version >= 2 { r.i64()? } else { -1 },
        members: Vec::new(),
    };
    for _ in 0..r.count()? {
        let member = r.member(version, bytes)?;
        group.members.push(member);
    }
    Ok(group)
}

/// The topics that a member of a consumer group subscribes to: the beginning of `ConsumerProtocolSubscription`, the same
/// in all versions. `None` for what is no such subscription.
pub fn subscribed_topics(subscription: &[u8]) -> Option<Vec<String>> {
    let mut r = Reader::new(subscription);
    r.i16().ok().filter(|version| *version >= 0)?;
    let count = r.count().ok()?;
    (0..count).map(|_| r.text().ok()).collect()
}

fn put_i16(out: &mut Vec<u8>, value: i16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Texts come from requests, whose texts have at most `i16::MAX` bytes; ids that are made here are cut to fit.
fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => put_i16(out, -1),
        Some(text) => {
            let len =
                i16::try_from(text.len()).expect("a text of a request is no longer than this");
            put_i16(out, len);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = i32::try_from(bytes.len()).expect("a request is smaller than this");
    put_i32(out, len);
    out.extend_from_slice(bytes);
}

/// A cursor that believes no length. A record may have been written by another program and copied here.
struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    fn new(rest: &'a [u8]) -> Reader<'a> {
        Reader {
            rest,
            flexible: false,
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn i16(&mut self) -> Result<i16, CodecError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, CodecError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, CodecError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn unsigned(&mut self) -> Result<u32, CodecError> {
        let (value, used) = read_u32(self.rest).map_err(|_| CodecError::Length)?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    fn length(
        &mut self,
        signed: impl FnOnce(&mut Self) -> Result<i64, CodecError>,
    ) -> Result<Option<usize>, CodecError> {
        let length = match self.flexible {
            true => i64::from(self.unsigned()?) - 1,
            false => signed(self)?,
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length)
                .map(Some)
                .map_err(|_| CodecError::Length),
        }
    }

    fn nullable_text(&mut self) -> Result<Option<String>, CodecError> {
        let Some(len) = self.length(|r| r.i16().map(i64::from))? else {
            return Ok(None);
        };
        // The flexible form could say longer ones, which could not be written again.
        if len > TEXT_BYTES_MAX {
            return Err(CodecError::Length);
        }
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| CodecError::Utf8)?;
        Ok(Some(text.to_owned()))
    }

    fn text(&mut self) -> Result<String, CodecError> {
        self.nullable_text()?.ok_or(CodecError::Length)
    }

    /// A count of elements; each has a byte at least, so that nothing is made for what is not there.
    fn count(&mut self) -> Result<usize, CodecError> {
        let count = self.length(|r| r.i32().map(i64::from))?.unwrap_or(0);
        match count <= self.rest.len() {
            true => Ok(count),
            false => Err(CodecError::Truncated),
        }
    }

    fn bytes(&mut self, whole: &Bytes) -> Result<Bytes, CodecError> {
        let len = self
            .length(|r| r.i32().map(i64::from))?
            .ok_or(CodecError::Length)?;
        Ok(whole.slice_ref(self.take(len)?))
    }

    fn member(&mut self, version: i16, whole: &Bytes) -> Result<MemberRecord, CodecError> {
        let id = self.text()?;
        let instance = if version >= 3 {
            self.nullable_text()?
        } else {
            None
        };
        let (client_id, client_host) = (self.text()?, self.text()?);
        let rebalance_ms = if version >= 1 {
            Some(self.i32()?)
        } else {
            None
        };
        let session_ms = self.i32()?;
        let (subscription, assignment) = (self.bytes(whole)?, self.bytes(whole)?);
        if self.flexible {
            self.skip_tags()?;
        }
        Ok(MemberRecord {
            id,
            instance,
            client_id,
            client_host,
            rebalance_ms: rebalance_ms.unwrap_or(session_ms),
            session_ms,
            subscription,
            assignment,
        })
    }

    fn skip_tags(&mut self) -> Result<(), CodecError> {
        for _ in 0..self.unsigned()? {
            self.unsigned()?;
            let len = self.unsigned()? as usize;
            self.take(len)?;
        }
        Ok(())
    }
}
