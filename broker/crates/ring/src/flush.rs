//! The flusher of a ring: writes committed batches to segments, and checkpoints. One task; nobody else writes files here.

use std::rc::Rc;
use std::time::Duration;

use tidemill_consensus::CheckpointPoint;
use tidemill_partition::log::Unsynced;
use tidemill_partition::segment::SegmentError;
use tidemill_rt::time::Instant;
use tidemill_rt::{task, time};
use tidemill_shardlog::checkpoint as file;

use crate::checkpoint::{self, Place, Snapshot};
use crate::error::RingError;
use crate::ring::Shared;

/// Pause after a flush that failed, for example because the disk is full.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Bytes of data to be written for each byte of a checkpoint.
const DATA_PER_CHECKPOINT_BYTE: u64 = 8;
/// Most bytes applied before a round is due, however large checkpoints are.
const FLUSH_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Segments written and not yet synced, which are open files, at a time.
const UNSYNCED_MAX: usize = 256;
/// Partitions settled between two yields to other tasks of the shard.
const SETTLE_AT_ONCE: usize = 256;

/// Bytes of batches that a checkpoint carries because the disk has no room for their segments; above it the ring waits for the disk.
const CARRIED_INSTEAD_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Why a round did not end well.
enum RoundError {
    /// Nothing is lost; it is tried again.
    Retry(RingError),
    /// As [`RoundError::Retry`]: the disk has no room.
    Full(RingError),
    /// What the disk holds is not known any more (rule S10).
    Fatal(RingError),
}

/// Flushes until the ring closes.
pub(crate) async fn run(ring: Rc<Shared>) {
    let mut deadline = None;
    while !ring.closing.get() {
        let (dirty, full) = {
            let machine = ring.machine.borrow();
            let wanted = machine.fresh_bytes > 0 && ring.config.memory.is_wanted();
            let full = machine.fresh_bytes >= flush_at(&ring);
            (
                machine.applied_index > ring.checkpointed.get(),
                wanted || full,
            )
        };
        if !dirty {
            deadline = None;
            ring.wake.dirty.notified().await;
            continue;
        }
        let due = *deadline.get_or_insert_with(|| Instant::now() + ring.config.flush_interval);
        if !full && Instant::now() < due {
            // Whichever comes first: enough bytes, somebody short of memory, or the end of the interval.
            let _ = time::timeout_at(due, ring.wake.full.notified()).await;
            continue;
        }
        deadline = None;
        if !round(&ring).await && !ring.closing.get() {
            time::sleep(RETRY_AFTER).await;
            // What was to be written still is, also when nothing more is applied because memory is full of it.
            deadline = Some(Instant::now());
        }
    }
}

/// Bytes applied after which a round is due: more where the state of many partitions makes checkpoints large, so that they stay
/// a small part of what is written.
fn flush_at(ring: &Shared) -> u64 {
    let amortised = ring.checkpoint_bytes.get() * DATA_PER_CHECKPOINT_BYTE;
    let most = FLUSH_BYTES_MAX.max(ring.config.flush_bytes);
    amortised.clamp(ring.config.flush_bytes, most)
}

/// One flush and checkpoint; `false` when it failed and is to be tried again.
pub(crate) async fn round(ring: &Rc<Shared>) -> bool {
    match try_round(ring).await {
        Ok(()) => true,
        Err(RoundError::Retry(e) | RoundError::Full(e)) => {
            ring.checkpoint_failures
                .set(ring.checkpoint_failures.get() + 1);
            tracing::warn!(ring = %ring.config.ring, error = %e, "flush failed; it is tried again");
            false
        }
        Err(RoundError::Fatal(e)) => {
            tracing::error!(ring = %ring.config.ring, error = %e, "flush failed for good");
            ring.closing.set(true);
            (ring.config.fatal)(&e);
            false
        }
    }
}

async fn try_round(ring: &Rc<Shared>) -> Result<(), RoundError> {
    // Point and state are of the same entry: nothing is awaited between.
    let (point, mut snapshot, loose) = {
        let mut machine = ring.machine.borrow_mut();
        machine.fresh_bytes = 0;
        let point = ring.group.checkpoint_point();
        (point, Snapshot::take(&machine), machine.loose_bytes)
    };
    let written = write(ring, &point, &mut snapshot).await;
    if let Err(RoundError::Full(_)) = &written {
        // No checkpoint will name these files less, as long as there is no room for it; removing them makes room. A restart with the
        // checkpoint that still names them replays the entries that did away with them, and opens none before.
        ring.group.durable(point.index).await;
        hand_over(ring, &snapshot);
    }
    written?;
    for (i, place) in snapshot.places.iter().enumerate() {
        let flushed = place.log.segments_end();
        let carried = if place.charged { flushed } else { place.end };
        place.log.tail().settle(flushed, carried);
        if i % SETTLE_AT_ONCE == SETTLE_AT_ONCE - 1 {
            task::yield_now().await;
        }
    }
    ring.checkpointed.set(point.index);
    ring.checkpoints.set(ring.checkpoints.get() + 1);
    let told = ring.group.checkpoint_written(point).await;
    told.map_err(|e| RoundError::Retry(e.into()))?;
    ring.machine.borrow_mut().loose_bytes -= loose;
    ring.config.memory.discharge(loose);
    hand_over(ring, &snapshot);
    Ok(())
}

/// Writes the segments and the checkpoint.
async fn write(
    ring: &Rc<Shared>,
    point: &CheckpointPoint,
    snapshot: &mut Snapshot,
) -> Result<(), RoundError> {
    write_segments(ring, point.index, snapshot).await?;
    let path = checkpoint::path(&ring.config.shard_dir, ring.config.ring);
    let parts = snapshot.encode(&point.encoded);
    ring.checkpoint_bytes
        .set(parts.iter().map(|p| p.len() as u64).sum());
    let written = file::write(&path, parts).await;
    // The old or the new checkpoint is there, whole; both are right until the log is purged.
    written.map_err(|e| {
        let error = RingError::Checkpoint {
            ring: ring.config.ring,
            path,
            message: e.to_string(),
        };
        match e.is_full() {
            true => RoundError::Full(error),
            false => RoundError::Retry(error),
        }
    })
}

/// Gives what the checkpoint no longer names to the sweeper.
fn hand_over(ring: &Shared, snapshot: &Snapshot) {
    for place in &snapshot.places {
        ring.sweeper.take_segments(place.id, &place.log);
    }
    ring.sweeper.take_folders(snapshot.dropped.iter().copied());
}

/// Writes and syncs what is to be flushed. A partition whose segment cannot be written does not stop the others: its batches travel
/// in the checkpoint, and are tried again in the next round. What waits for room on the disk does so as far as the checkpoint has
/// room for it. A partition whose files fail for a reason of their own is set aside: it takes no more until they can be written.
async fn write_segments(
    ring: &Rc<Shared>,
    index: u64,
    snapshot: &mut Snapshot,
) -> Result<(), RoundError> {
    let _turn = ring.sweeper.gate().acquire(1).await;
    let mut unsynced = Unsynced::default();
    let (mut waiting, mut aside) = (0, 0);
    for place in &mut snapshot.places {
        let flushed = match place.flush {
            true => place.log.flush(place.end, &mut unsynced).await,
            false => Ok(None),
        };
        match flushed {
            Ok(damage) => {
                let was_aside = place.log.set_aside(false);
                note_written(ring, place, was_aside, damage.as_ref());
            }
            Err(error) if error.is_shortage() => {
                waiting += place.carry();
                if waiting > CARRIED_INSTEAD_BYTES_MAX {
                    // What was written stays open until it is synced: kept for the next try, a disk or a process that is short
                    // of something would only get shorter.
                    sync(ring, index, unsynced).await?;
                    return Err(match error.is_full() {
                        true => RoundError::Full(error.into()),
                        false => RoundError::Retry(error.into()),
                    });
                }
                ring.segment_failures.set(ring.segment_failures.get() + 1);
                tracing::warn!(
                    ring = %ring.config.ring, partition = %place.id, %error,
                    "a segment cannot be written; its batches stay in the checkpoint for now"
                );
            }
            Err(error) => {
                aside += place.carry();
                // More than writers may have at once is not given back to them.
                place.charged = aside > ring.config.memory.config().unflushed_bytes;
                set_aside(ring, place, &error);
            }
        }
        if unsynced.len() >= UNSYNCED_MAX {
            sync(ring, index, std::mem::take(&mut unsynced)).await?;
        }
    }
    sync(ring, index, unsynced).await
}

fn note_written(ring: &Shared, place: &Place, was_aside: bool, damage: Option<&SegmentError>) {
    if was_aside {
        place.log.changed().notify_all();
        tracing::info!(
            ring = %ring.config.ring, partition = %place.id, "the partition can be written again and takes records"
        );
    }
    if let Some(error) = damage {
        ring.segment_damage.set(ring.segment_damage.get() + 1);
        tracing::error!(
            ring = %ring.config.ring, partition = %place.id, %error,
            "a segment cannot be written on; what follows is written to a new one"
        );
    }
}

fn set_aside(ring: &Shared, place: &Place, error: &SegmentError) {
    ring.segment_failures.set(ring.segment_failures.get() + 1);
    if !place.log.set_aside(true) {
        tracing::error!(
            ring = %ring.config.ring, partition = %place.id, %error,
            "the partition cannot be written: it refuses records until it can; what it has taken stays in the checkpoint"
        );
    }
}

/// Rule S4: neither segments nor the checkpoint may be durable before the log is.
async fn sync(ring: &Rc<Shared>, index: u64, unsynced: Unsynced) -> Result<(), RoundError> {
    ring.group.durable(index).await;
    unsynced
        .sync()
        .await
        .map_err(|e| RoundError::Fatal(e.into()))
}
