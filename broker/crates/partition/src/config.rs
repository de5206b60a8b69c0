//! The settings of a partition that its state machine and its log depend on.

use bytes::BufMut;

use crate::codec::{DecodeError, Reader};

/// Smallest segment size; Kafka's own floor is lower, but a file per batch helps nobody.
pub const SEGMENT_BYTES_MIN: u32 = 16 * 1024;

/// Whose clock a record's timestamp comes from (`message.timestamp.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, at append.
    LogAppendTime,
}

/// Settings of a partition. They change by a command in the ring's log only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionConfig {
    /// Whose clock timestamps come from.
    pub timestamp_type: TimestampType,
    /// Largest segment file in bytes; a batch that is larger has a segment of its own.
    pub segment_bytes: u32,
    /// Largest batch a client may append, in bytes (`max.message.bytes`). Outputs of transforms are not held to it
    /// when they are applied: whoever makes them is (rule X5).
    pub max_message_bytes: u32,
    /// Age in ms at which the segment that takes appends is sealed (`segment.ms`).
    pub segment_ms: i64,
    /// How long a segment is kept after its newest record, in ms; -1 for ever (`retention.ms`).
    pub retention_ms: i64,
    /// Bytes of a partition above which its oldest segments go; -1 for no limit (`retention.bytes`).
    pub retention_bytes: i64,
    /// How far a client's timestamps may be ahead of the leader's clock, in ms (`message.timestamp.after.max.ms`, KIP-937).
    pub timestamp_after_max_ms: i64,
}

impl Default for PartitionConfig {
    /// Kafka's sizes, and nothing that depends on time: nothing is removed, whatever its timestamps.
    fn default() -> PartitionConfig {
        PartitionConfig {
            timestamp_type: TimestampType::CreateTime,
            segment_bytes: 256 * 1024 * 1024,
            max_message_bytes: 1_048_588,
            segment_ms: i64::MAX,
            retention_ms: -1,
            retention_bytes: -1,
            timestamp_after_max_ms: i64::MAX,
        }
    }
}

impl PartitionConfig {
    /// Appends the binary form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.timestamp_type {
            TimestampType::CreateTime => 0,
            TimestampType::LogAppendTime => 1,
        });
        out.put_u32(self.segment_bytes);
        out.put_u32(self.max_message_bytes);
        out.put_i64(self.segment_ms);
        out.put_i64(self.retention_ms);
        out.put_i64(self.retention_bytes);
        out.put_i64(self.timestamp_after_max_ms);
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(r: &mut Reader<'_>) -> Result<PartitionConfig, DecodeError> {
        Ok(PartitionConfig {
            timestamp_type: match r.u8()? {
                0 => TimestampType::CreateTime,
                1 => TimestampType::LogAppendTime,
                _ => return Err(DecodeError("unknown timestamp type")),
            },
            segment_bytes: r.u32()?,
            max_message_bytes: r.u32()?,
            segment_ms: r.i64()?,
            retention_ms: r.i64()?,
            retention_bytes: r.i64()?,
            timestamp_after_max_ms: r.i64()?,
        })
    }
}
