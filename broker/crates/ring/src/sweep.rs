//! Removes files that nothing needs any more: segments below the log start, folders of dropped partitions. A little at a time,
//! beside everything else, and never what a durable checkpoint still names.
//!
//! What is to go stands in checkpoints until it is gone, so a restart finishes what was begun.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tidemill_model::{Offset, PartitionId};
use tidemill_partition::PartitionLog;
use tidemill_partition::segment::SegmentMeta;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::semaphore::Semaphore;
use tidemill_rt::fs::{self, File, OpenMode};
use tidemill_rt::{task, time};

use crate::ring::Shared;

/// Files removed, or cut, before the flusher and other tasks have their turn.
const FILES_AT_ONCE: usize = 16;
/// A larger segment is cut shorter by so many bytes at a time before it goes: file systems take long for large files.
const CUT_BYTES: u64 = 64 * 1024 * 1024;
/// Folders removed before their parent is synced.
const FOLDERS_UNSYNCED_MAX: usize = 256;
/// Pause after something could not be removed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is to be removed.
pub(crate) struct Sweeper {
    /// Segments below the log starts; bounded by how many files there are.
    segments: RefCell<BTreeMap<PartitionId, (PartitionLog, Vec<Offset>)>>,
    /// Dropped partitions.
    folders: RefCell<BTreeSet<PartitionId>>,
    more: Notify,
    /// Held by whoever writes or removes files of partitions: a folder may be made anew while it is removed.
    gate: Semaphore,
    removed: Cell<u64>,
    failures: Cell<u64>,
}

impl Sweeper {
    pub(crate) fn new() -> Sweeper {
        Sweeper {
            segments: RefCell::default(),
            folders: RefCell::default(),
            more: Notify::new(),
            gate: Semaphore::new(1),
            removed: Cell::new(0),
            failures: Cell::new(0),
        }
    }

    /// Takes over segments that no checkpoint names any more.
    pub(crate) fn take_segments(&self, id: PartitionId, log: &PartitionLog) {
        let leaving = log.leaving();
        if !leaving.is_empty() {
            let job = (log.clone(), leaving);
            self.segments.borrow_mut().insert(id, job);
            self.more.notify_all();
        }
    }

    /// Takes over the folders of dropped partitions that no checkpoint names any more.
    pub(crate) fn take_folders(&self, ids: impl IntoIterator<Item = PartitionId>) {
        self.folders.borrow_mut().extend(ids);
        self.more.notify_all();
    }

    /// Wakes the sweeper, so that it sees that the ring stops.
    pub(crate) fn wake(&self) {
        self.more.notify_all();
    }

    /// Excludes the sweeper while files of partitions are written.
    pub(crate) fn gate(&self) -> &Semaphore {
        &self.gate
    }

    /// Partitions that have something to be removed.
    pub(crate) fn waiting(&self) -> usize {
        self.segments.borrow().len() + self.folders.borrow().len()
    }

    /// Segment files and folders removed since the start.
    pub(crate) fn removed_total(&self) -> u64 {
        self.removed.get()
    }

    /// Removals that failed and are tried again.
    pub(crate) fn failures_total(&self) -> u64 {
        self.failures.get()
    }

    fn is_idle(&self) -> bool {
        self.waiting() == 0
    }
}

/// Removes until the ring stops.
pub(crate) async fn run(ring: Rc<Shared>) {
    while !ring.stopped.get() {
        let more = ring.sweeper.more.notified();
        if ring.sweeper.is_idle() {
            more.await;
            continue;
        }
        if let Err(error) = sweep(&ring).await
            && !ring.stopped.get()
        {
            let failures = &ring.sweeper.failures;
            failures.set(failures.get() + 1);
            tracing::warn!(ring = %ring.config.ring, %error, "old files cannot be removed; trying again");
            time::sleep(RETRY_AFTER).await;
        }
    }
}

async fn sweep(ring: &Rc<Shared>) -> io::Result<()> {
    let segments = ring.sweeper.segments.borrow_mut().pop_first();
    if let Some((id, (log, bases))) = segments {
        let removed = remove_segments(ring, id, &log, &bases).await;
        if removed.is_err() {
            // A later checkpoint may have handed over more of them by now.
            ring.sweeper.take_segments(id, &log);
        }
        return removed;
    }
    sweep_folders(ring).await
}

async fn remove_segments(
    ring: &Shared,
    id: PartitionId,
    log: &PartitionLog,
    bases: &[Offset],
) -> io::Result<()> {
    let of = |base: &Offset| {
        let meta = SegmentMeta::new(*base);
        [meta.path(log.dir()), meta.index_path(log.dir())]
    };
    let mut files: Vec<PathBuf> = bases.iter().rev().flat_map(of).collect();
    // Dropped and opened anew, the partition has files of the same names that are another log's.
    let open = || {
        ring.machine
            .borrow()
            .logs
            .get(&id)
            .is_some_and(|l| l.is(log))
    };
    remove_files(ring, &mut files, open).await?;
    if fs::exists(log.dir()).await? {
        fs::sync_dir(log.dir()).await?;
    }
    log.left(bases);
    count(ring, bases.len());
    Ok(())
}

/// Removes the last of `files` first, a few at a time, while `wanted` says so.
async fn remove_files(
    ring: &Shared,
    files: &mut Vec<PathBuf>,
    wanted: impl Fn() -> bool,
) -> io::Result<()> {
    while !files.is_empty() && !ring.stopped.get() {
        let turn = ring.sweeper.gate.acquire(1).await;
        if !wanted() {
            files.clear();
            return Ok(());
        }
        for _ in 0..FILES_AT_ONCE {
            let Some(path) = files.last() else { break };
            if remove_or_cut(path).await? {
                files.pop();
            }
        }
        drop(turn);
        task::yield_now().await;
    }
    match files.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other("the ring stops")),
    }
}

/// Removes a file, or cuts a large one shorter; whether it is gone.
async fn remove_or_cut(path: &Path) -> io::Result<bool> {
    let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    if path.extension().is_some_and(|e| e == "segment") {
        match File::open(path, OpenMode::ReadWrite).await {
            Ok(file) => {
                let len = file.len().await?;
                if len > CUT_BYTES {
                    file.set_len(len - CUT_BYTES).await?;
                    return Ok(false);
                }
            }
            Err(e) if missing(&e) => return Ok(true),
            Err(e) => return Err(e),
        }
    }
    match fs::remove_file(path).await {
        Err(e) if !missing(&e) => Err(e),
        _ => Ok(true),
    }
}

/// Removes some folders of dropped partitions.
async fn sweep_folders(ring: &Rc<Shared>) -> io::Result<()> {
    let some: Vec<PartitionId> = {
        let folders = ring.sweeper.folders.borrow();
        folders.iter().take(FOLDERS_UNSYNCED_MAX).copied().collect()
    };
    for id in &some {
        remove_folder(ring, *id).await?;
    }
    fs::sync_dir(&ring.config.shard_dir.join("partitions")).await?;
    for id in &some {
        ring.sweeper.folders.borrow_mut().remove(id);
        ring.machine.borrow_mut().dropped.remove(id);
    }
    count(ring, some.len());
    Ok(())
}

async fn remove_folder(ring: &Rc<Shared>, id: PartitionId) -> io::Result<()> {
    let folder = ring.machine.borrow().folder(id);
    // Opened anew, its new log clears the folder before the first write.
    let closed = || !ring.machine.borrow().logs.contains_key(&id);
    if !fs::exists(&folder).await? {
        return Ok(());
    }
    let names = fs::list_dir(&folder).await?;
    let mut files: Vec<PathBuf> = names.iter().rev().map(|name| folder.join(name)).collect();
    remove_files(ring, &mut files, closed).await?;
    let _turn = ring.sweeper.gate.acquire(1).await;
    match closed() {
        true => fs::remove_dir_all(&folder).await,
        false => Ok(()),
    }
}

fn count(ring: &Shared, removed: usize) {
    let total = &ring.sweeper.removed;
    total.set(total.get() + removed as u64);
}
