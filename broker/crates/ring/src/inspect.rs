//! What a ring's checkpoint holds, for those who look at files.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_consensus::inspect::{Point, point};
use tidemill_model::{Batch, Command, Incarnation, Offset, PartitionId};
use tidemill_partition::PartitionLog;
use tidemill_partition::codec::DecodeError;
use tidemill_partition::segment::SegmentMeta;
use tidemill_rt::chan::notify::Notify;

use crate::checkpoint;
use crate::command::{Copying, Entry, Op};
use crate::machine::{Machine, Wake};
use crate::ring::OUTBOX_BYTES;
use crate::room::Rooms;
use crate::{MemoryConfig, ShardMemory};

/// A ring at the point of its checkpoint.
#[derive(Debug, Clone)]
pub struct RingSummary {
    /// The point.
    pub point: Point,
    /// Its partitions.
    pub partitions: Vec<PartitionSummary>,
    /// Deliveries that wait in the outbox.
    pub outbox_items: usize,
    /// Bytes of them.
    pub outbox_bytes: u64,
    /// Partitions whose folders were still to be removed.
    pub dropped: Vec<PartitionId>,
}

/// A partition at the point of its ring's checkpoint.
#[derive(Debug, Clone)]
pub struct PartitionSummary {
    /// The partition.
    pub id: PartitionId,
    /// First offset.
    pub log_start_offset: Offset,
    /// Offset after the last record.
    pub high_watermark: Offset,
    /// Idempotent producers it remembers.
    pub producers: usize,
    /// Transforms attached to it, and where each stands.
    pub transforms: Vec<(Incarnation, Offset)>,
    /// Its segments, and how far each is valid.
    pub segments: Vec<SegmentMeta>,
    /// Batches that the checkpoint carries because they are in no segment.
    pub carried: Vec<Batch>,
}

/// What the entries of a ring's log do away with: on a disk without room for a checkpoint its files go before one says so (ADR 10).
/// Entries count that may not be committed: with one node all are.
#[derive(Debug, Default)]
pub struct Removals(BTreeMap<PartitionId, Removal>);

#[derive(Debug, Default)]
struct Removal {
    /// Offset below which records are gone.
    below: Offset,
    /// The last entry that did away with all there was.
    all_at: Option<u64>,
}

impl Removals {
    /// Takes in the command of the entry with this index. What is no command of a ring says nothing.
    pub fn note(&mut self, index: u64, command: &Command) {
        let Ok(entry) = Entry::decode(command, Copying::Never) else {
            return;
        };
        for (id, op) in entry.ops {
            match op {
                Op::Drop | Op::DeleteRecords { before: -1 } => {
                    self.0.entry(id).or_default().all_at = Some(index);
                }
                Op::AdvanceStart { to: below } | Op::DeleteRecords { before: below } => {
                    let removal = self.0.entry(id).or_default();
                    removal.below = removal.below.max(below);
                }
                _ => {}
            }
        }
    }

    /// Whether a segment that ends before `next_offset`, named by a checkpoint of entry `checkpoint`, was done away with after it.
    pub fn covers(&self, id: PartitionId, next_offset: Offset, checkpoint: u64) -> bool {
        self.0.get(&id).is_some_and(|removal| {
            next_offset <= removal.below || removal.all_at.is_some_and(|at| at > checkpoint)
        })
    }
}

fn carried(log: &PartitionLog, end: Offset) -> Vec<Batch> {
    let held = log.tail().unflushed(log.segments_end(), end);
    held.into_iter().map(|h| h.batch).collect()
}

/// Reads the content of a ring's checkpoint file, as a start does.
///
/// # Errors
/// [`DecodeError`] for anything else.
pub fn checkpoint_content(content: &Bytes) -> Result<RingSummary, DecodeError> {
    let wake = Wake {
        dirty: Notify::new(),
        full: Notify::new(),
        flush_bytes: u64::MAX,
        outbox: Notify::new(),
        retention: Notify::new(),
        rooms: Rooms::new(OUTBOX_BYTES),
    };
    let memory = ShardMemory::new(MemoryConfig::default());
    let mut machine = Machine::new(std::path::PathBuf::new(), memory, wake);
    let encoded = checkpoint::load(content, &mut machine)?;
    let state = &machine.state;
    let partitions = state.partitions().iter().filter_map(|(id, partition)| {
        let log = machine.logs.get(id)?;
        Some(PartitionSummary {
            id: *id,
            log_start_offset: partition.log_start_offset(),
            high_watermark: partition.high_watermark(),
            producers: partition.producers().len(),
            transforms: partition.attached().collect(),
            segments: log.segments(),
            carried: carried(log, partition.high_watermark()),
        })
    });
    Ok(RingSummary {
        point: point(encoded).map_err(|e| DecodeError(e.0))?,
        partitions: partitions.collect(),
        outbox_items: state.outbox().items(),
        outbox_bytes: state.outbox().bytes(),
        dropped: machine.dropped.iter().copied().collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn segments_that_later_entries_did_away_with_are_told_from_others() {
        let id = |topic| PartitionId {
            topic: tidemill_model::TopicId([topic; 16]),
            index: 0,
        };
        let mut removals = Removals::default();
        let mut note = |index, topic, op| {
            removals.note(index, &Entry::one(1, id(topic), op).into_command());
        };
        note(5, 1, Op::AdvanceStart { to: 30 });
        note(6, 1, Op::AdvanceStart { to: 20 });
        note(7, 2, Op::Drop);
        note(8, 3, Op::DeleteRecords { before: -1 });
        note(9, 4, Op::Seal { base_offset: 50 });
        assert!(removals.covers(id(1), 30, 4) && !removals.covers(id(1), 31, 4));
        assert!(removals.covers(id(2), 99, 6) && removals.covers(id(3), 99, 7));
        // Before the checkpoint: what it names came after.
        assert!(!removals.covers(id(2), 99, 7) && !removals.covers(id(3), 99, 8));
        assert!(!removals.covers(id(4), 1, 0) && !removals.covers(id(5), 1, 0));
    }

    proptest! {
        #[test]
        fn any_content_is_read_or_refused(content in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = checkpoint_content(&Bytes::from(content));
        }

        #[test]
        fn head_of_any_length_with_any_state_is_read_or_refused(
            claimed in any::<u64>(), counts in proptest::collection::vec(any::<u32>(), 0..40),
        ) {
            let mut content = claimed.to_be_bytes().to_vec();
            content.push(1);
            counts.iter().for_each(|n| content.extend_from_slice(&n.to_be_bytes()));
            let _ = checkpoint_content(&Bytes::from(content.clone()));
            let head = (content.len() - 8) as u64;
            content[..8].copy_from_slice(&head.to_be_bytes());
            let _ = checkpoint_content(&Bytes::from(content));
        }
    }
}
