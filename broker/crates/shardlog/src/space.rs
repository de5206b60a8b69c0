//! Room on the disk: client writes and outcomes stop while less than a reserve is free (rule S11).
//!
//! What goes on then needs disk too: votes, checkpoints, segments of what was acknowledged before, and the entries that say what
//! may be deleted. The reserve is for them.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tidemill_rt::chan::notify::Notify;
use tidemill_rt::task::{self, Queue};
use tidemill_rt::{fs, time};

use crate::log::{DEFAULT_FILE_BYTES, ShardLog};

/// How often free disk is looked at when nothing is written.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes written to the log after which it is looked at earlier.
const LOOK_AFTER_BYTES: u64 = 16 << 20;
/// Writes begin again when the reserve and this part of it more are free: 1/8, so that it does not flutter.
const SLACK_PART: u64 = 8;
/// What one shard may still have to write when client writes stop: two log files, and segments and checkpoints for what waits in memory.
const RESERVE_PER_SHARD_BYTES: u64 = 4 * DEFAULT_FILE_BYTES;

/// Bytes of disk that a node of `shards` shards keeps free unless it is told otherwise.
pub fn reserve_bytes(shards: u16) -> u64 {
    RESERVE_PER_SHARD_BYTES * u64::from(shards)
}

/// How free disk is watched.
#[derive(Debug, Clone)]
pub struct SpaceConfig {
    /// A path on the file system.
    pub path: PathBuf,
    /// Bytes kept free of client writes.
    pub reserve_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    full: Cell<bool>,
    /// The system refused a write, whatever it says is free (a quota), and none has succeeded since.
    denied: Cell<bool>,
    available: Cell<Option<u64>>,
    reserve: Cell<u64>,
    refused: Cell<u64>,
    changed: Notify,
}

/// What is known of the room on a shard's disk. Clones mean the same; they live on the shard's thread.
#[derive(Debug, Clone, Default)]
pub struct Space(Rc<State>);

impl Space {
    /// Whether client writes and outcomes must stop.
    pub fn is_full(&self) -> bool {
        self.0.full.get()
    }

    /// Whether the system refused the last write: nothing at all can be written, also what the reserve is for.
    pub fn is_denied(&self) -> bool {
        self.0.denied.get()
    }

    /// Waits until they may go on.
    pub async fn room(&self) {
        if self.is_full() {
            self.changed_from(true).await;
        }
    }

    /// Waits until [`Space::is_full`] is not `full` any more, and says what it is.
    pub async fn changed_from(&self, full: bool) -> bool {
        loop {
            let changed = self.0.changed.notified();
            if self.is_full() != full {
                return !full;
            }
            changed.await;
        }
    }

    /// Bytes that were free at the last look; nothing before the first.
    pub fn available(&self) -> Option<u64> {
        self.0.available.get()
    }

    /// Bytes kept free of client writes; 0 when nobody watches.
    pub fn reserve(&self) -> u64 {
        self.0.reserve.get()
    }

    /// Counts a write that was refused because the disk is full.
    pub fn count_refused(&self) {
        self.0.refused.set(self.0.refused.get() + 1);
    }

    /// Writes refused so far.
    pub fn refused_total(&self) -> u64 {
        self.0.refused.get()
    }

    /// A write found the disk full before the watch did.
    pub(crate) fn set_full(&self) {
        // Without a watch nobody would take it back.
        if self.0.reserve.get() > 0 {
            self.0.denied.set(true);
            self.set(true);
        }
    }

    /// What was refused was written after all: from now on what is free counts again.
    pub(crate) fn not_denied(&self) {
        self.0.denied.set(false);
    }

    /// Takes in how much is free.
    fn note(&self, available: u64) {
        self.0.available.set(Some(available));
        let (reserve, was) = (self.0.reserve.get(), self.0.full.get());
        let enough = reserve.saturating_add(if was { reserve / SLACK_PART } else { 0 });
        self.set(self.0.denied.get() || available < enough);
    }

    fn set(&self, full: bool) {
        if self.0.full.replace(full) != full {
            self.0.changed.notify_all();
        }
    }
}

impl ShardLog {
    /// Looks at free disk now and from now on, until the log is closed.
    pub async fn watch_space(&self, config: SpaceConfig) {
        self.space().0.reserve.set(config.reserve_bytes);
        look(self, &config).await;
        let log = self.clone();
        drop(task::spawn(Queue::Background, async move {
            while !log.0.closing.get() {
                let written = log.stats().written_bytes + LOOK_AFTER_BYTES;
                let _ = time::timeout(LOOK_EVERY, log.written_past(written)).await;
                look(&log, &config).await;
            }
        }));
    }
}

async fn look(log: &ShardLog, config: &SpaceConfig) {
    match fs::space(&config.path).await {
        Ok(space) => log
            .space()
            .note(u64::try_from(space.usable_bytes).unwrap_or(0)),
        Err(error) => {
            tracing::debug!(%error, path = %config.path.display(), "free disk cannot be measured");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s11_writes_stop_below_the_reserve_and_begin_again_with_some_more_than_it() {
        let space = Space::default();
        space.0.reserve.set(800);
        space.note(800);
        assert!(!space.is_full());
        space.note(799);
        assert!(space.is_full());
        space.note(899);
        assert!(space.is_full(), "it would flutter");
        space.note(900);
        assert!(!space.is_full());
    }

    #[test]
    fn refusal_by_the_system_holds_until_a_write_succeeds_whatever_is_free() {
        let space = Space::default();
        space.0.reserve.set(800);
        space.note(5_000);
        space.set_full();
        space.note(5_000);
        assert!(space.is_full(), "a quota is not seen in what is free");
        assert!(space.is_denied());
        space.not_denied();
        assert!(!space.is_denied());
        space.note(5_000);
        assert!(!space.is_full());
    }
}
