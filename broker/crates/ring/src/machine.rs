//! The state machine as consensus drives it: the pure state, and beside it the batches of every partition in memory.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tidemill_consensus::{AppliedAt, Reply, StateMachine};
use tidemill_model::{Command, PartitionId};
use tidemill_partition::tail::{Held, ShardMemory};
use tidemill_partition::{PartitionLog, PartitionState, StoredLog};
use tidemill_rt::chan::notify::Notify;

use crate::command::{Copying, Entry};
use crate::room::Rooms;
use crate::state::{Done, Effect, Refused, RingState};

/// What a proposal is answered with.
pub(crate) type Answer = Result<Vec<Done>, Refused>;

/// A ring's state and its partitions' batches.
pub(crate) struct Machine {
    pub(crate) state: RingState,
    pub(crate) logs: BTreeMap<PartitionId, PartitionLog>,
    /// Partitions whose folders go once a checkpoint no longer names them.
    pub(crate) dropped: BTreeSet<PartitionId>,
    /// How bodies come: shared with what was proposed, or read back with the log.
    pub(crate) copying: Copying,
    /// Index of the last entry applied.
    pub(crate) applied_index: u64,
    /// Bytes applied since the flusher last looked.
    pub(crate) fresh_bytes: u64,
    /// Bytes of applied entries that no tail holds, charged until a checkpoint covers them.
    pub(crate) loose_bytes: u64,
    pub(crate) refused_total: Cell<u64>,
    pub(crate) wake: Wake,
    memory: ShardMemory,
    partitions_dir: PathBuf,
}

/// Who is told of what was applied.
#[derive(Debug, Clone)]
pub(crate) struct Wake {
    /// Something was applied.
    pub(crate) dirty: Notify,
    /// Enough was applied for a flush.
    pub(crate) full: Notify,
    /// Bytes that are enough.
    pub(crate) flush_bytes: u64,
    /// Settings changed that retention follows.
    pub(crate) retention: Notify,
    /// The outbox changed.
    pub(crate) outbox: Notify,
    /// Bookkeeping of room in the outbox.
    pub(crate) rooms: Rooms,
}

impl Machine {
    pub(crate) fn new(partitions_dir: PathBuf, memory: ShardMemory, wake: Wake) -> Machine {
        Machine {
            state: RingState::new(),
            logs: BTreeMap::new(),
            dropped: BTreeSet::new(),
            copying: Copying::Small,
            applied_index: 0,
            fresh_bytes: 0,
            loose_bytes: 0,
            refused_total: Cell::new(0),
            wake,
            memory,
            partitions_dir,
        }
    }

    /// Where a partition's segments are.
    pub(crate) fn folder(&self, id: PartitionId) -> PathBuf {
        folder(&self.partitions_dir, id)
    }

    /// The log of a partition with the files that a checkpoint names; it is carried from now on.
    pub(crate) fn carry(&mut self, id: PartitionId, stored: StoredLog) -> PartitionLog {
        let log = PartitionLog::new(self.folder(id), stored, self.memory.clone());
        self.logs.insert(id, log.clone());
        log
    }

    /// State and log of a partition.
    pub(crate) fn partition(&self, id: PartitionId) -> Option<(&PartitionState, &PartitionLog)> {
        Some((self.state.partitions().get(&id)?, self.logs.get(&id)?))
    }

    fn follow_up(&mut self, effect: Effect) {
        match effect {
            Effect::Opened(id) => {
                self.carry(id, StoredLog::default());
            }
            Effect::Dropped(id) => {
                if let Some(log) = self.logs.remove(&id) {
                    log.changed().notify_all();
                }
                self.dropped.insert(id);
            }
            Effect::Appended(id, placed) => {
                let Some(log) = self.logs.get(&id) else {
                    return;
                };
                log.push(Held {
                    batch: placed.batch,
                    starts_segment: placed.starts_segment,
                    time_ms: placed.time_ms,
                });
                log.changed().notify_all();
            }
            Effect::Started(id) => {
                if let Some(log) = self.logs.get(&id) {
                    log.changed().notify_all();
                }
            }
            Effect::Configured(_) => self.wake.retention.notify_all(),
            Effect::OutboxChanged => {
                self.wake.rooms.set_used(self.state.outbox().bytes());
                self.wake.outbox.notify_all();
            }
        }
    }

    fn apply_command(&mut self, at: AppliedAt, command: &Command) -> Answer {
        let entry = Entry::decode(command, self.copying)?;
        let mut effects = Vec::new();
        let answer = self.state.apply(at, entry, &mut effects);
        effects
            .into_iter()
            .for_each(|effect| self.follow_up(effect));
        answer
    }
}

/// Where the segments of `id` are under `partitions_dir`.
pub(crate) fn folder(partitions_dir: &Path, id: PartitionId) -> PathBuf {
    partitions_dir.join(format!("{}-{}", id.topic, id.index))
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.memory.discharge(self.loose_bytes);
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, at: AppliedAt, command: &Command) -> Reply {
        let before = self.memory.unflushed_bytes();
        let answer = self.apply_command(at, command);
        let held = self.memory.unflushed_bytes().saturating_sub(before);
        let loose = (command.encoded_len() as u64).saturating_sub(held);
        self.memory.charge(loose);
        self.loose_bytes += loose;
        let refused = match &answer {
            Ok(done) => done.iter().map(Done::refused).sum(),
            Err(_) => 1,
        };
        self.refused_total.set(self.refused_total.get() + refused);
        self.applied_index = at.index;
        // Whatever an entry came to, it takes memory and log until the next checkpoint.
        self.fresh_bytes += command.encoded_len() as u64;
        self.wake.dirty.notify_all();
        if self.fresh_bytes >= self.wake.flush_bytes {
            self.wake.full.notify_all();
        }
        Box::new(answer)
    }
}
