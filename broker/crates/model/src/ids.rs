//! Ids and offsets.

use std::fmt;
use std::str::FromStr;

/// A Kafka offset: the index of a record in its partition. Byte positions in files are never called offsets.
pub type Offset = i64;

/// A broker of the cluster (Kafka's node id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i32);

/// A shard of a node: one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A ring: a Raft group and the partitions it carries. Ring 0 is the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId(pub u32);

impl RingId {
    /// The ring of the controller.
    pub const CONTROLLER: RingId = RingId(0);

    /// The shard that runs this ring on every node of `shards` shards: a pure function of both.
    pub fn shard(self, shards: u16) -> ShardId {
        ShardId((self.0 % u32::from(shards.max(1))) as u16)
    }
}

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One life of a deployed transform: the controller log index of the deploy that made it (rule X7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A topic's id, a UUID; a topic deleted and made anew is another topic (rule X11).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// The id that Kafka uses for "none".
    pub const NONE: TopicId = TopicId([0; 16]);

    /// A version 4 UUID (RFC 9562) of 16 random bytes.
    pub fn from_random(mut bytes: [u8; 16]) -> TopicId {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        TopicId(bytes)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, b) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a topic id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a topic id is 32 hexadecimal digits, with or without dashes")]
pub struct ParseTopicIdError;

impl FromStr for TopicId {
    type Err = ParseTopicIdError;
    fn from_str(s: &str) -> Result<TopicId, ParseTopicIdError> {
        let mut bytes = [0; 16];
        let mut digits = s.bytes().filter(|b| *b != b'-');
        for byte in &mut bytes {
            let mut nibble = || {
                let d = digits.next().ok_or(ParseTopicIdError)?;
                (d as char).to_digit(16).ok_or(ParseTopicIdError)
            };
            *byte = (nibble()? << 4 | nibble()?) as u8;
        }
        match digits.next() {
            None => Ok(TopicId(bytes)),
            Some(_) => Err(ParseTopicIdError),
        }
    }
}

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// Its topic.
    pub topic: TopicId,
    /// Its index in the topic.
    pub index: i32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_id_round_trips_through_text() {
        let id = TopicId::from_random([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("xyz".parse::<TopicId>(), Err(ParseTopicIdError));
        assert_eq!(format!("{id}0").parse::<TopicId>(), Err(ParseTopicIdError));
    }

    #[test]
    fn ring_shard_is_a_pure_function_of_id_and_count() {
        assert_eq!(RingId(0).shard(2), ShardId(0));
        assert_eq!(RingId(3).shard(2), ShardId(1));
    }
}
