//! What a ring's checkpoint holds, for those who look at files.

use bytes::Bytes;
use tidemill_consensus::inspect::{Point, point};
use tidemill_model::{Batch, Incarnation, Offset, PartitionId};
use tidemill_partition::PartitionLog;
use tidemill_partition::codec::DecodeError;
use tidemill_partition::segment::SegmentMeta;
use tidemill_rt::chan::notify::Notify;

use crate::checkpoint;
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
