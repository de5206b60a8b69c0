//! Removes files that nothing needs any more: segments below the log start, folders of dropped partitions. A little at a time,
//! beside everything else, and never what a durable checkpoint still names: except on a disk that has no room for the next one.
//! Then what the durable log has done away with goes before it.
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

    /// Takes back segments that could not be removed: those that were handed over, and no others. What has fallen below the
    /// log start since then is named by the checkpoint on disk until the next one is durable.
    fn give_back(&self, id: PartitionId, log: PartitionLog, bases: &[Offset]) {
        let there: BTreeSet<Offset> = log.leaving().into_iter().collect();
        let left: Vec<Offset> = bases
            .iter()
            .copied()
            .filter(|b| there.contains(b))
            .collect();
        if !left.is_empty() {
            // A later checkpoint may have handed them over once more by now, with others.
            let mut segments = self.segments.borrow_mut();
            segments.entry(id).or_insert((log, left));
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
        if sweep(&ring).await > 0 && !ring.stopped.get() {
            time::sleep(RETRY_AFTER).await;
        }
    }
}

/// Tries everything that is to be removed once: what cannot be does not keep the others waiting. How much failed.
async fn sweep(ring: &Rc<Shared>) -> usize {
    let mut failed = 0;
    let partitions: Vec<PartitionId> = ring.sweeper.segments.borrow().keys().copied().collect();
    for id in partitions {
        let job = ring.sweeper.segments.borrow_mut().remove(&id);
        let Some((log, bases)) = job else { continue };
        if let Err(error) = remove_segments(ring, id, &log, &bases).await {
            ring.sweeper.give_back(id, log, &bases);
            failed += note_failure(ring, &error);
        }
        if ring.stopped.get() {
            return failed;
        }
    }
    let folders: Vec<PartitionId> = ring.sweeper.folders.borrow().iter().copied().collect();
    for some in folders.chunks(FOLDERS_UNSYNCED_MAX) {
        failed += sweep_folders(ring, some).await;
        if ring.stopped.get() {
            return failed;
        }
    }
    failed
}

/// Counts and tells one failure, unless it is that the ring stops.
fn note_failure(ring: &Shared, error: &io::Error) -> usize {
    if ring.stopped.get() {
        return 0;
    }
    let failures = &ring.sweeper.failures;
    failures.set(failures.get() + 1);
    tracing::warn!(ring = %ring.config.ring, %error, "old files cannot be removed; trying again");
    1
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
    let removed = remove_files(ring, &mut files, open).await;
    let still_there = |base: &Offset| of(base).iter().any(|path| files.contains(path));
    let gone: Vec<Offset> = bases.iter().copied().filter(|b| !still_there(b)).collect();
    if fs::exists(log.dir()).await? {
        fs::sync_dir(log.dir()).await?;
    }
    log.left(&gone);
    count(ring, gone.len());
    removed
}

/// Removes `files`, the last first, a few at a time, while `wanted` says so. Those that cannot be removed stay in `files`.
///
/// # Errors
/// The first, after all were tried.
async fn remove_files(
    ring: &Shared,
    files: &mut Vec<PathBuf>,
    wanted: impl Fn() -> bool,
) -> io::Result<()> {
    let (mut stay, mut result) = (Vec::new(), Ok(()));
    while !files.is_empty() && !ring.stopped.get() {
        let turn = ring.sweeper.gate.acquire(1).await;
        if !wanted() {
            files.clear();
            return Ok(());
        }
        for _ in 0..FILES_AT_ONCE {
            let Some(path) = files.last() else { break };
            match remove_or_cut(path).await {
                Ok(false) => {}
                Ok(true) => drop(files.pop()),
                Err(e) => {
                    result = result.and(Err(named(path, &e)));
                    stay.extend(files.pop());
                }
            }
        }
        drop(turn);
        task::yield_now().await;
    }
    if !files.is_empty() {
        result = Err(io::Error::other("the ring stops"));
    }
    files.append(&mut stay);
    result
}

/// An error that says which file it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Removes a file, or cuts a large one shorter; whether it is gone.
async fn remove_or_cut(path: &Path) -> io::Result<bool> {
    let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let is_folder = |e: &io::Error| e.kind() == io::ErrorKind::IsADirectory;
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
            Err(e) if is_folder(&e) => {}
            Err(e) => return Err(e),
        }
    }
    match fs::remove_file(path).await {
        // Whoever made it, it is in a folder that goes.
        Err(e) if is_folder(&e) => fs::remove_dir_all(path).await.map(|()| true),
        Err(e) if !missing(&e) => Err(e),
        _ => Ok(true),
    }
}

/// Removes some folders of dropped partitions. How many could not be.
async fn sweep_folders(ring: &Rc<Shared>, some: &[PartitionId]) -> usize {
    let (mut gone, mut failed) = (Vec::new(), 0);
    for id in some {
        match remove_folder(ring, *id).await {
            Ok(()) => gone.push(*id),
            Err(error) => failed += note_failure(ring, &error),
        }
        if ring.stopped.get() {
            return failed;
        }
    }
    if gone.is_empty() {
        return failed;
    }
    let partitions = ring.config.shard_dir.join("partitions");
    if let Err(error) = fs::sync_dir(&partitions).await {
        return failed + note_failure(ring, &named(&partitions, &error));
    }
    for id in &gone {
        ring.sweeper.folders.borrow_mut().remove(id);
        ring.machine.borrow_mut().dropped.remove(id);
    }
    count(ring, gone.len());
    failed
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
        true => fs::remove_dir_all(&folder)
            .await
            .map_err(|e| named(&folder, &e)),
        false => Ok(()),
    }
}

fn count(ring: &Shared, removed: usize) {
    let total = &ring.sweeper.removed;
    total.set(total.get() + removed as u64);
}
