//! What a ring's checkpoint file holds: consensus' point, the state at exactly that point, which segments are valid how
//! far, and the batches that are in no segment because they are few (our answer to rules S5 and S7: a small tail costs
//! neither a sync of its own nor does it pin log files).

use std::path::PathBuf;

use bytes::{BufMut, Bytes};
use tidemill_model::{Batch, BatchHeader, PartitionId};
use tidemill_partition::codec::{DecodeError, Reader, put_count, put_partition};
use tidemill_partition::segment::SegmentMeta;
use tidemill_partition::tail::Held;
use tidemill_partition::{PartitionLog, StoredLog};

use crate::machine::Machine;
use crate::state::RingState;

/// Version of the file's content.
const VERSION: u8 = 2;
/// A partition with at least so many bytes in no segment is flushed to one.
pub(crate) const CARRY_BELOW_BYTES: u64 = 64 * 1024;
/// Most bytes of batches that one checkpoint carries; above it the largest tails are flushed. A segment costs some ms of syncing,
/// in which a disk writes a MB in one go: with 100,000 partitions of a record or two each, 8 MiB here meant minutes of syncs.
pub(crate) const CARRIED_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// A partition as a checkpoint sees it.
pub(crate) struct Place {
    pub(crate) id: PartitionId,
    pub(crate) log: PartitionLog,
    /// Offset after its last record at the checkpoint's point.
    pub(crate) end: i64,
    /// Batches to be carried; none when it is flushed.
    pub(crate) carried: Vec<Held>,
    /// Whether it is flushed.
    pub(crate) flush: bool,
    /// Whether what is carried stays charged to writers.
    pub(crate) charged: bool,
}

/// A ring at one point of its log.
pub(crate) struct Snapshot {
    state: Vec<u8>,
    /// Partitions that were dropped and whose folders may still be there.
    pub(crate) dropped: Vec<PartitionId>,
    pub(crate) places: Vec<Place>,
}

impl Place {
    /// Takes what is in no segment into the checkpoint; how many bytes that is.
    pub(crate) fn carry(&mut self) -> u64 {
        let tail = self.log.tail();
        self.carried = tail.unflushed(self.log.segments_end(), self.end);
        self.carried.iter().map(|h| h.batch.len() as u64).sum()
    }
}

impl Snapshot {
    /// Takes the snapshot: to be called together with `checkpoint_point`, with no `.await` between.
    pub(crate) fn take(machine: &Machine) -> Snapshot {
        let mut state = Vec::new();
        machine.state.encode(&mut state);
        let mut places = Vec::new();
        let mut tails = Vec::new();
        for (id, log) in &machine.logs {
            let Some(partition) = machine.state.partitions().get(id) else {
                continue;
            };
            log.trim(partition.removable_below());
            let bytes = log.unflushed_bytes();
            if bytes > 0 {
                tails.push((bytes, places.len()));
            }
            places.push(Place {
                id: *id,
                log: log.clone(),
                end: partition.high_watermark(),
                carried: Vec::new(),
                flush: false,
                charged: false,
            });
        }
        // The largest first, and in the order of partitions where they are equal.
        tails.sort_by_key(|(bytes, at)| (std::cmp::Reverse(*bytes), *at));
        let mut left: u64 = tails.iter().map(|(bytes, _)| bytes).sum();
        for (bytes, at) in tails {
            let place = &mut places[at];
            if bytes >= CARRY_BELOW_BYTES || left > CARRIED_BYTES_MAX {
                place.flush = true;
            } else {
                place.carry();
            }
            if place.flush {
                left -= bytes;
            }
        }
        Snapshot {
            state,
            dropped: machine.dropped.iter().copied().collect(),
            places,
        }
    }

    /// The file's content, once everything to be flushed is in segments.
    pub(crate) fn encode(&self, point: &Bytes) -> Vec<Bytes> {
        let mut head = Vec::with_capacity(self.state.len() + 64 * self.places.len() + 256);
        head.put_u8(VERSION);
        put_count(&mut head, point.len());
        head.put_slice(point);
        put_count(&mut head, self.state.len());
        head.put_slice(&self.state);
        put_count(&mut head, self.dropped.len());
        self.dropped
            .iter()
            .for_each(|id| put_partition(&mut head, *id));
        put_count(&mut head, self.places.len());
        let mut tails = Vec::new();
        for place in &self.places {
            put_partition(&mut head, place.id);
            head.put_i64(place.log.floor());
            let leaving = place.log.leaving();
            put_count(&mut head, leaving.len());
            leaving.iter().for_each(|base| head.put_i64(*base));
            let segments = place.log.segments();
            put_count(&mut head, segments.len());
            segments.iter().for_each(|s| s.encode(&mut head));
            put_count(&mut head, place.carried.len());
            for held in &place.carried {
                head.put_u8(u8::from(held.starts_segment));
                head.put_i64(held.time_ms);
                put_count(&mut head, held.batch.len());
                tails.push(Bytes::copy_from_slice(&held.batch.first_bytes()));
                tails.push(held.batch.rest());
            }
        }
        let mut parts = vec![
            Bytes::copy_from_slice(&(head.len() as u64).to_be_bytes()),
            Bytes::from(head),
        ];
        parts.extend(tails);
        parts
    }
}

/// Puts what a checkpoint file holds into an empty machine; gives back consensus' point.
pub(crate) fn load(file: &Bytes, machine: &mut Machine) -> Result<Bytes, DecodeError> {
    let mut r = Reader::new(file);
    let head_len = usize::try_from(r.u64()?).map_err(|_| DecodeError("a length is too large"))?;
    let mut head = Reader::new(r.bytes(head_len)?);
    let mut tails = r;
    if head.u8()? != VERSION {
        return Err(DecodeError("unknown version of a ring's checkpoint"));
    }
    let len = head.u32()? as usize;
    let point = Bytes::copy_from_slice(head.bytes(len)?);
    let len = head.u32()? as usize;
    let mut state = Reader::new(head.bytes(len)?);
    machine.state = RingState::decode(&mut state)?;
    state.finish()?;
    for _ in 0..head.count(20)? {
        machine.dropped.insert(head.partition()?);
    }
    for _ in 0..head.count(40)? {
        load_place(&mut head, &mut tails, machine)?;
    }
    head.finish()?;
    tails.finish()?;
    match machine.state.partitions().keys().eq(machine.logs.keys()) {
        true => Ok(point),
        false => Err(DecodeError(
            "its state and its segments are of different partitions",
        )),
    }
}

fn load_place(
    head: &mut Reader<'_>,
    tails: &mut Reader<'_>,
    machine: &mut Machine,
) -> Result<(), DecodeError> {
    let id = head.partition()?;
    let mut stored = StoredLog {
        floor: head.i64()?,
        ..StoredLog::default()
    };
    for _ in 0..head.count(8)? {
        stored.leaving.push(head.i64()?);
    }
    for _ in 0..head.count(49)? {
        stored.segments.push(SegmentMeta::decode(head)?);
    }
    let log = machine.carry(id, stored);
    let (mut end, mut bytes) = (log.segments_end(), 0);
    for _ in 0..head.count(13)? {
        let starts_segment = head.u8()? != 0;
        let time_ms = head.i64()?;
        let len = head.u32()? as usize;
        // Copied: a slice would pin the whole file's content (rule S13).
        let batch = Bytes::copy_from_slice(tails.bytes(len)?);
        let header =
            BatchHeader::parse(&batch).map_err(|_| DecodeError("a carried batch is none"))?;
        if header.base_offset != end || header.total_bytes() != len {
            return Err(DecodeError("a carried batch is out of place"));
        }
        end = header.next_offset();
        bytes += len;
        let batch = Batch {
            header,
            bytes: batch,
        };
        log.push(Held {
            batch,
            starts_segment,
            time_ms,
        });
    }
    let partition = machine.state.partitions().get(&id);
    if partition.is_none_or(|p| p.high_watermark() != end) {
        return Err(DecodeError("batches are missing below the high watermark"));
    }
    if bytes > 0 {
        log.tail().settle(log.segments_end(), end);
    }
    Ok(())
}

/// Where a ring's checkpoint is.
pub(crate) fn path(shard_dir: &std::path::Path, ring: tidemill_model::RingId) -> PathBuf {
    shard_dir.join("rings").join(format!("{ring}.checkpoint"))
}
