//! The state machine of one partition: a pure function of the commands applied to it. No I/O, no clock, no randomness;
//! time comes with each command.

mod encode;
#[cfg(test)]
mod tests;
pub mod transforms;

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_model::record::set_log_append_time;
use tidemill_model::{Batch, BatchHeader, Incarnation, Offset};

use crate::config::{PartitionConfig, SEGMENT_BYTES_MIN, TimestampType};
use crate::producers::{Admission, Producers, SequenceError};

pub use transforms::{
    AttachError, OutcomeRefused, Outgoing, ReceiveError, SeekRefused, SenderId, Standing, StartAt,
};

/// Leader epochs whose start offsets are remembered; the oldest makes room.
pub const EPOCHS_MAX: usize = 1024;

/// Why an append is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefused {
    /// An idempotent producer's sequence or epoch is wrong.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The header and the bytes contradict each other.
    #[error("malformed record batch")]
    Malformed,
    /// Transactional and control batches need a transaction coordinator, which this version lacks.
    #[error("transactions are not supported")]
    Transactional,
}

/// A batch that got its place.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The batch with base offset and leader epoch.
    pub batch: Batch,
    /// Whether it begins a new segment file.
    pub starts_segment: bool,
    /// What retention counts from, in ms: its largest timestamp, or the time of its append where it has none.
    pub time_ms: i64,
}

/// Why records cannot be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "offset {before} is not from 0 to {high_watermark}; records below an offset in that range can be deleted"
)]
pub struct DeleteOutOfRange {
    /// The offset below which records were to go.
    pub before: Offset,
    /// Offset after the last committed record.
    pub high_watermark: Offset,
}

/// The segment that takes appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveSegment {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// When that was appended, by the leader's clock, in ms.
    pub opened_ms: i64,
}

/// The largest timestamp in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxTimestamp {
    /// In ms.
    pub timestamp: i64,
    /// Base offset of the first batch whose header has it.
    pub batch_offset: Offset,
}

/// The state of one partition.
#[derive(Debug, Clone)]
pub struct PartitionState {
    config: PartitionConfig,
    epoch_base: i32,
    log_start: Offset,
    next_offset: Offset,
    /// Largest time any command brought; time in here never goes back.
    clock_ms: i64,
    /// (leader epoch, first offset appended in it), ascending in both.
    epochs: Vec<(i32, Offset)>,
    /// Bytes of the segment that takes appends; 0 when the next batch begins one.
    segment_fill: u64,
    segment: ActiveSegment,
    max_timestamp: Option<MaxTimestamp>,
    producers: Producers,
    transforms: BTreeMap<Incarnation, transforms::Attachment>,
    receivers: BTreeMap<SenderId, u64>,
}

impl PartitionState {
    /// A new, empty partition that begins at offset 0.
    pub fn new(config: PartitionConfig, epoch_base: i32) -> PartitionState {
        PartitionState {
            config,
            epoch_base,
            log_start: 0,
            next_offset: 0,
            clock_ms: 0,
            epochs: Vec::new(),
            segment_fill: 0,
            segment: ActiveSegment {
                base_offset: 0,
                opened_ms: 0,
            },
            max_timestamp: None,
            producers: Producers::default(),
            transforms: BTreeMap::new(),
            receivers: BTreeMap::new(),
        }
    }

    /// Its settings.
    pub fn config(&self) -> &PartitionConfig {
        &self.config
    }

    /// Changes its settings; batches already here keep what they got.
    pub fn configure(&mut self, config: PartitionConfig) {
        self.config = config;
    }

    /// First offset that can be read.
    pub fn log_start_offset(&self) -> Offset {
        self.log_start
    }

    /// Offset after the last applied batch.
    pub fn high_watermark(&self) -> Offset {
        self.next_offset
    }

    /// Offset below which no transaction is open. Without transactions: the high watermark.
    pub fn last_stable_offset(&self) -> Offset {
        self.next_offset
    }

    /// The segment that takes appends; `None` when the next batch begins one.
    pub fn active_segment(&self) -> Option<ActiveSegment> {
        (self.segment_fill > 0).then_some(self.segment)
    }

    /// Seals the segment that takes appends, if it is still the one that begins at `base_offset`: the next batch begins
    /// another one (rule S9).
    pub fn seal(&mut self, base_offset: Offset) {
        if self.segment.base_offset == base_offset {
            self.segment_fill = 0;
        }
    }

    /// Moves the log start up to `to`, at most to the high watermark; it never goes back (rule S9). Whether it moved.
    pub fn advance_start(&mut self, to: Offset) -> bool {
        let to = to.min(self.next_offset);
        if to <= self.log_start {
            return false;
        }
        self.log_start = to;
        if to == self.next_offset {
            // Nothing is left of the segment: it is closed, so that its file can go.
            self.segment_fill = 0;
        }
        let old = self.epochs.partition_point(|(_, start)| *start <= to);
        self.epochs.drain(..old.saturating_sub(1));
        true
    }

    /// Whether records below `before` can be deleted; -1 stands for the high watermark. Gives back where the log would
    /// start then.
    ///
    /// # Errors
    /// [`DeleteOutOfRange`].
    pub fn check_delete(&self, before: Offset) -> Result<Offset, DeleteOutOfRange> {
        match before {
            -1 => Ok(self.next_offset),
            0.. if before <= self.next_offset => Ok(before),
            _ => Err(DeleteOutOfRange {
                before,
                high_watermark: self.next_offset,
            }),
        }
    }

    /// Offset below which whole segments are not needed any more.
    pub fn removable_below(&self) -> Offset {
        match self.active_segment() {
            Some(active) => self.log_start.min(active.base_offset),
            None => self.log_start,
        }
    }

    /// The leader epoch in which the record at `offset` was appended, if it is still remembered.
    pub fn epoch_at(&self, offset: Offset) -> Option<i32> {
        let at = self.epochs.partition_point(|(_, start)| *start <= offset);
        self.epochs.get(at.checked_sub(1)?).map(|(epoch, _)| *epoch)
    }

    /// The Kafka leader epoch in Raft term `term`: the term plus this partition's base (rule R10).
    pub fn leader_epoch(&self, term: u64) -> i32 {
        let term = i32::try_from(term).unwrap_or(i32::MAX);
        self.epoch_base.saturating_add(term)
    }

    /// The largest timestamp appended.
    pub fn max_timestamp(&self) -> Option<MaxTimestamp> {
        self.max_timestamp
    }

    /// Forgets a producer to make room for those of other partitions; whether it did. See [`Producers::make_room`].
    pub fn forget_a_producer(&mut self) -> bool {
        self.producers.make_room()
    }

    /// Its idempotent producers.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// The largest leader epoch not above `epoch` in which something was appended, and the offset after its last
    /// record. Before the first such epoch: `epoch` itself, which ends where that one begins, as in Kafka's
    /// `LeaderEpochFileCache`; a consumer would take anything else for lost records.
    pub fn epoch_end(&self, epoch: i32) -> (i32, Offset) {
        let at = self.epochs.partition_point(|(e, _)| *e <= epoch);
        let floor = at.checked_sub(1).and_then(|at| self.epochs.get(at));
        let end = self
            .epochs
            .get(at)
            .map_or(self.next_offset, |(_, start)| *start);
        (floor.map_or(epoch, |(found, _)| *found), end)
    }

    /// Decides about a client's batch without changing anything. `len` is the number of its bytes.
    ///
    /// # Errors
    /// [`AppendRefused`].
    pub fn check_append(
        &self,
        header: &BatchHeader,
        len: usize,
        now_ms: i64,
    ) -> Result<Admission, AppendRefused> {
        check_shape(header, len)?;
        if header.is_transactional() || header.is_control() {
            return Err(AppendRefused::Transactional);
        }
        if header.producer_id < 0 {
            return Ok(Admission::New);
        }
        Ok(self.producers.check(header, now_ms.max(self.clock_ms))?)
    }

    /// Appends a client's batch that [`PartitionState::check_append`] admitted as new.
    pub fn append(
        &mut self,
        header: BatchHeader,
        bytes: Bytes,
        leader_epoch: i32,
        now_ms: i64,
    ) -> Placed {
        let placed = self.place(header, bytes, leader_epoch, now_ms);
        if header.producer_id >= 0 {
            let time = match placed.batch.header.is_log_append_time() {
                true => placed.batch.header.max_timestamp,
                false => -1,
            };
            self.producers.appended(
                &header,
                placed.batch.header.base_offset,
                time,
                self.clock_ms,
            );
        }
        placed
    }

    /// Appends a batch without looking at its producer: an output of a transform.
    pub fn place(
        &mut self,
        header: BatchHeader,
        bytes: Bytes,
        leader_epoch: i32,
        now_ms: i64,
    ) -> Placed {
        self.clock_ms = self.clock_ms.max(now_ms);
        let (mut header, bytes) = match self.config.timestamp_type {
            TimestampType::CreateTime => (header, bytes),
            TimestampType::LogAppendTime => {
                let bytes = set_log_append_time(&bytes, now_ms);
                let header =
                    BatchHeader::parse(&bytes).expect("the header was parsed before it got a time");
                (header, bytes)
            }
        };
        header.base_offset = self.next_offset;
        header.leader_epoch = leader_epoch;
        self.note_epoch(leader_epoch);
        let newer = self
            .max_timestamp
            .is_none_or(|m| header.max_timestamp > m.timestamp);
        if newer {
            self.max_timestamp = Some(MaxTimestamp {
                timestamp: header.max_timestamp,
                batch_offset: header.base_offset,
            });
        }
        let len = bytes.len() as u64;
        let limit = u64::from(self.config.segment_bytes.max(SEGMENT_BYTES_MIN));
        let starts_segment = self.segment_fill == 0 || self.segment_fill + len > limit;
        if starts_segment {
            self.segment_fill = 0;
            self.segment = ActiveSegment {
                base_offset: header.base_offset,
                opened_ms: now_ms,
            };
        }
        self.segment_fill += len;
        self.next_offset = header.next_offset();
        let time_ms = match header.max_timestamp {
            0.. => header.max_timestamp,
            _ => now_ms,
        };
        Placed {
            batch: Batch { header, bytes },
            starts_segment,
            time_ms,
        }
    }

    fn note_epoch(&mut self, epoch: i32) {
        if self.epochs.last().is_some_and(|(last, _)| *last >= epoch) {
            return;
        }
        if self.epochs.len() == EPOCHS_MAX {
            self.epochs.remove(0);
        }
        self.epochs.push((epoch, self.next_offset));
    }
}

/// Checks that header and length describe one batch of at least one record, all that `apply` relies on.
///
/// # Errors
/// [`AppendRefused::Malformed`].
pub fn check_shape(header: &BatchHeader, len: usize) -> Result<(), AppendRefused> {
    let counts = header.record_count >= 1 && header.last_offset_delta == header.record_count - 1;
    let producer =
        header.producer_id < 0 || (header.producer_epoch >= 0 && header.base_sequence >= 0);
    if header.batch_length < 0 || header.total_bytes() != len || !counts || !producer {
        return Err(AppendRefused::Malformed);
    }
    Ok(())
}
