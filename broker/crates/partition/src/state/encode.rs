//! The stored form of a partition's state.

use std::collections::BTreeMap;

use bytes::BufMut;

use super::transforms::{Attachment, SenderId};
use super::{MaxTimestamp, PartitionState};
use crate::codec::{DecodeError, Reader, put_count, put_partition};
use crate::config::PartitionConfig;
use crate::producers::Producers;

/// Version of the stored form.
const VERSION: u8 = 3;
/// The version before, in which no transform had been moved by a seek.
const VERSION_WITHOUT_SEEKS: u8 = 2;

impl PartitionState {
    /// Appends the stored form. Equal states that came from equal commands have equal forms.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        self.config.encode(out);
        out.put_i32(self.epoch_base);
        out.put_i64(self.log_start);
        out.put_i64(self.next_offset);
        out.put_i64(self.clock_ms);
        out.put_u64(self.segment_fill);
        out.put_i64(self.segment.base_offset);
        out.put_i64(self.segment.opened_ms);
        let max = self.max_timestamp.unwrap_or(MaxTimestamp {
            timestamp: 0,
            batch_offset: -1,
        });
        out.put_i64(max.timestamp);
        out.put_i64(max.batch_offset);
        put_count(out, self.epochs.len());
        for (epoch, start) in &self.epochs {
            out.put_i32(*epoch);
            out.put_i64(*start);
        }
        self.producers.encode(out);
        put_count(out, self.transforms.len());
        for (incarnation, attachment) in &self.transforms {
            out.put_u64(incarnation.0);
            attachment.encode(out);
        }
        put_count(out, self.receivers.len());
        for (sender, last) in &self.receivers {
            sender.encode(out);
            out.put_u64(*last);
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(r: &mut Reader<'_>) -> Result<PartitionState, DecodeError> {
        let version = r.u8()?;
        if !matches!(version, VERSION | VERSION_WITHOUT_SEEKS) {
            return Err(DecodeError("unknown version of a partition's state"));
        }
        let mut this = PartitionState::new(PartitionConfig::decode(r)?, r.i32()?);
        this.log_start = r.i64()?;
        this.next_offset = r.i64()?;
        this.clock_ms = r.i64()?;
        this.segment_fill = r.u64()?;
        this.segment.base_offset = r.i64()?;
        this.segment.opened_ms = r.i64()?;
        let max = MaxTimestamp {
            timestamp: r.i64()?,
            batch_offset: r.i64()?,
        };
        this.max_timestamp = (max.batch_offset >= 0).then_some(max);
        for _ in 0..r.count(12)? {
            this.epochs.push((r.i32()?, r.i64()?));
        }
        this.producers = Producers::decode(r)?;
        for _ in 0..r.count(21)? {
            this.transforms
                .insert(r.incarnation()?, Attachment::decode(r, version)?);
        }
        for _ in 0..r.count(36)? {
            this.receivers.insert(SenderId::decode(r)?, r.u64()?);
        }
        Ok(this)
    }
}

impl SenderId {
    /// Appends the binary form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.incarnation.0);
        put_partition(out, self.input);
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(r: &mut Reader<'_>) -> Result<SenderId, DecodeError> {
        Ok(SenderId {
            incarnation: r.incarnation()?,
            input: r.partition()?,
        })
    }
}

impl Attachment {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64(self.progress);
        out.put_u32(self.moves);
        out.put_u8(u8::from(self.detached));
        put_count(out, self.sent.len());
        for (to, last) in &self.sent {
            put_partition(out, *to);
            out.put_u64(*last);
        }
    }

    fn decode(r: &mut Reader<'_>, version: u8) -> Result<Attachment, DecodeError> {
        let mut this = Attachment {
            progress: r.i64()?,
            moves: match version {
                VERSION_WITHOUT_SEEKS => 0,
                _ => r.u32()?,
            },
            detached: r.u8()? != 0,
            sent: BTreeMap::new(),
        };
        for _ in 0..r.count(28)? {
            this.sent.insert(r.partition()?, r.u64()?);
        }
        Ok(this)
    }
}
