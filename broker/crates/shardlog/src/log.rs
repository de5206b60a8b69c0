//! The log while it is written: a queue of frames, one group at a time on its way to the disk, callbacks in order.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::RingId;
use tidemill_rt::buf::BLOCK_BYTES;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::oneshot;
use tidemill_rt::fs;
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time::{self, Instant};

use crate::aside;
use crate::catalog::{Catalog, Mark};
use crate::error::LogError;
use crate::files::{self, OpenFile, Spare};
use crate::format::{
    FILE_HEADER_BYTES, FRAME_DATA_MAX, FileHeader, Frame, GROUP_HEADER_BYTES, GroupHeader,
    copy_salted, salted_crc_parts,
};
use crate::recover::recover;
use crate::space::Space;
use crate::track::{RecoveredRing, Tail};

/// Size of a log file unless the configuration says otherwise: 64 MiB.
pub const DEFAULT_FILE_BYTES: u64 = 64 << 20;
/// Bytes of a group unless the configuration says otherwise: 1 MiB.
pub const DEFAULT_GROUP_BYTES_MAX: usize = 1 << 20;
/// Bytes of a file when the disk has no room for one of the usual size: 1 MiB.
const SMALL_FILE_BYTES: u64 = 1 << 20;
/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(500);
/// Most bytes handed to one write; a larger group goes out in several before its sync.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// How a log is kept.
#[derive(Clone)]
pub struct LogConfig {
    /// Its directory, made if missing.
    pub dir: PathBuf,
    /// Bytes of a file; a group larger than that gets a larger file.
    pub file_bytes: u64,
    /// Bytes after which a group takes no further frame. One frame may be larger.
    pub group_bytes_max: usize,
    /// Called once, when a write or sync failed or a frame was out of order; it ends the process (rule S10).
    /// No callback of an append runs after it.
    pub fatal: Rc<dyn Fn(&LogError)>,
}

impl LogConfig {
    /// Default sizes, in `dir`.
    pub fn new(dir: PathBuf, fatal: Rc<dyn Fn(&LogError)>) -> LogConfig {
        LogConfig {
            dir,
            file_bytes: DEFAULT_FILE_BYTES,
            group_bytes_max: DEFAULT_GROUP_BYTES_MAX,
            fatal,
        }
    }
}

impl std::fmt::Debug for LogConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogConfig({})", self.dir.display())
    }
}

/// Counters of a log since it was opened, and its size now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes of frames made durable.
    pub appended_bytes: u64,
    /// Bytes written, block padding and headers included.
    pub written_bytes: u64,
    /// Groups made durable.
    pub groups: u64,
    /// `fdatasync` calls for groups.
    pub syncs: u64,
    /// Nanoseconds spent writing and syncing groups.
    pub write_nanos: u64,
    /// Files now.
    pub files: u64,
    /// Bytes of disk they take.
    pub disk_bytes: u64,
    /// Bytes waiting to be written. Bounded by the budgets of those who append; the log itself refuses nothing.
    pub queued_bytes: u64,
    /// Files taken out of the sequence.
    pub removed_files: u64,
    /// Of these, files that were kept to be written again.
    pub recycled_files: u64,
    /// Bytes of entries written once more because their file was about to go.
    pub carried_bytes: u64,
    /// How often a write had to wait because the disk had no room at all.
    pub full_waits: u64,
    /// How often a group had to wait for the next file.
    pub file_waits: u64,
}

enum Item {
    Frame(RingId, Frame),
    Done(Box<dyn FnOnce()>),
}

/// What goes out together.
struct Group {
    parts: Vec<Bytes>,
    payload_len: u64,
    marks: Vec<(RingId, Mark)>,
    done: Vec<Box<dyn FnOnce()>>,
}

#[derive(Default)]
pub(crate) struct State {
    queue: VecDeque<Item>,
    pub(crate) stats: LogStats,
    tails: BTreeMap<RingId, Tail>,
    pub(crate) votes: BTreeMap<RingId, Bytes>,
    pub(crate) purges: BTreeMap<RingId, (u64, Bytes)>,
    pub(crate) catalog: Catalog,
    /// While entries are carried forward: per ring, the index above which they were voided meanwhile.
    pub(crate) voided: Option<BTreeMap<RingId, u64>>,
    /// Bytes left in the file that is written.
    pub(crate) room_left: u64,
    pub(crate) spare: Option<Spare>,
    /// The file during which a spare could not be made; it is not tried again for every group.
    spare_failed_at: Option<u64>,
    next_group: u64,
}

pub(crate) struct Inner {
    pub(crate) config: LogConfig,
    pub(crate) state: RefCell<State>,
    file: RefCell<Option<OpenFile>>,
    writing: Cell<bool>,
    failed: Cell<bool>,
    /// Whether the spare's name is in use: one is made, kept from an old file, or becomes the next file.
    pub(crate) making_spare: Cell<bool>,
    pub(crate) removing: Cell<bool>,
    /// Set for good by [`ShardLog::close`]: nothing begins in the background any more.
    pub(crate) closing: Cell<bool>,
    /// Notified when a background task of the log ends.
    pub(crate) idle: Notify,
    /// Bytes written after which `grew` is notified.
    watermark: Cell<u64>,
    grew: Notify,
    space: Space,
}

/// A handle on the log of a shard. Clones mean the same log; it lives on its shard's thread.
#[derive(Clone)]
pub struct ShardLog(pub(crate) Rc<Inner>);

impl std::fmt::Debug for ShardLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShardLog({})", self.0.config.dir.display())
    }
}

impl ShardLog {
    /// Whether there is a log in `dir`: it has a file at least as soon as it was opened once.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub async fn is_in(dir: &Path) -> Result<bool, LogError> {
        match fs::list_dir(dir).await {
            Ok(names) => Ok(names.iter().any(|n| files::sequence_of(n).is_some())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(LogError::io("list", dir)(e)),
        }
    }

    /// Reads what is there, drops a torn tail, and begins a new file.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] and [`LogError::Missing`] when acknowledged data is damaged: the node must not start.
    /// [`LogError::Io`] as the operating system says.
    pub async fn open(
        config: LogConfig,
    ) -> Result<(ShardLog, BTreeMap<RingId, RecoveredRing>), LogError> {
        files::make_dir(&config.dir).await?;
        files::remove_spare(&config.dir).await?;
        let recovered = recover(&config.dir).await?;
        let (newest, end) = recovered.end.unwrap_or((0, 0));
        if let Some(torn) = &recovered.torn {
            aside::keep(&config.dir, torn).await;
        }
        let file = first_file(&config, newest, end).await?;
        let mut state = State {
            catalog: recovered.catalog,
            next_group: recovered.next_group.max(1),
            room_left: file.bytes - file.position,
            ..State::default()
        };
        state.catalog.add_file(file.header.sequence, file.bytes);
        if newest > 0 {
            cut(&config.dir, newest, end).await?;
            state.catalog.resize_file(newest, end);
        }
        let mut rings = BTreeMap::new();
        for (ring, replay) in recovered.rings {
            state.tails.insert(ring, replay.tail);
            if let Some(vote) = &replay.ring.vote {
                state.votes.insert(ring, vote.clone());
            }
            if let Some(purged) = &replay.ring.purged {
                state.purges.insert(ring, purged.clone());
            }
            // A ring of which nothing is left is none: the file with its last frame may go at any time.
            if replay.ring != RecoveredRing::default() {
                rings.insert(ring, replay.ring);
            }
        }
        let log = ShardLog(Rc::new(Inner {
            config,
            state: RefCell::new(state),
            file: RefCell::new(Some(file)),
            writing: Cell::new(false),
            failed: Cell::new(false),
            making_spare: Cell::new(false),
            removing: Cell::new(false),
            closing: Cell::new(false),
            idle: Notify::new(),
            watermark: Cell::new(u64::MAX),
            grew: Notify::new(),
            space: Space::default(),
        }));
        log.remove_files();
        Ok((log, rings))
    }

    /// Queues `frames` of `ring` behind everything queued before; `done` runs once they are durable, after the
    /// callbacks of everything queued before. After a failure nothing is written and no callback runs.
    pub fn append(&self, ring: RingId, frames: Vec<Frame>, done: Box<dyn FnOnce()>) {
        if let Err(e) = self.0.check(ring, &frames) {
            self.0.fail(&e);
        }
        let mut state = self.0.state.borrow_mut();
        for frame in frames {
            state.stats.queued_bytes += frame.encoded_len() as u64;
            state.queue.push_back(Item::Frame(ring, frame));
        }
        state.queue.push_back(Item::Done(done));
        drop(state);
        self.start_writing();
    }

    fn start_writing(&self) {
        if !self.0.writing.get() && !self.0.failed.get() {
            self.0.writing.set(true);
            drop(task::spawn(Queue::Raft, self.clone().write_queue()));
        }
    }

    /// Waits until everything appended before the call is durable. Never ends after a failure.
    pub async fn barrier(&self) {
        let (tx, rx) = oneshot::channel();
        let done = move || {
            let _ = tx.send(());
        };
        self.append(RingId(0), Vec::new(), Box::new(done));
        if rx.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until `written_bytes` of [`ShardLog::stats`] is at least `bytes`.
    pub async fn written_past(&self, bytes: u64) {
        loop {
            let grew = self.0.grew.notified();
            if self.0.state.borrow().stats.written_bytes >= bytes {
                return;
            }
            self.0.watermark.set(self.0.watermark.get().min(bytes));
            grew.await;
        }
    }

    /// Whether the disk has room for writes of clients.
    pub fn space(&self) -> &Space {
        &self.0.space
    }

    /// Counters and sizes.
    pub fn stats(&self) -> LogStats {
        let state = self.0.state.borrow();
        LogStats {
            files: state.catalog.count(),
            disk_bytes: state.catalog.bytes(),
            ..state.stats
        }
    }

    /// Waits for everything appended, then writes an empty group: it says that all before it was durable,
    /// so that after a clean end no damage passes for a torn tail. Nothing may be appended afterwards.
    /// Returns at once after a failure.
    pub async fn close(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.0.failed.get() {
                return;
            }
            if !self.0.writing.get() && !self.0.making_spare.get() && !self.0.removing.get() {
                break;
            }
            idle.await;
        }
        let empty = Group {
            parts: Vec::new(),
            payload_len: 0,
            marks: Vec::new(),
            done: Vec::new(),
        };
        if self.0.closing.replace(true) {
            return;
        }
        self.0.writing.set(true);
        if let Err(e) = self.write_group(&empty).await {
            self.0.fail(&e);
            return;
        }
        let file = self.0.file.borrow_mut().take();
        if let Some(file) = file
            && let Err(error) = file.file.close().await
        {
            tracing::warn!(%error, "a write-ahead log file did not close cleanly; its content is durable");
        }
    }

    async fn write_queue(self) {
        while let Some(group) = self.0.take_group() {
            if !group.marks.is_empty()
                && let Err(e) = self.write_group(&group).await
            {
                self.0.fail(&e);
                // Callbacks are not even dropped: whoever would take that for an answer gets none.
                std::mem::forget(group);
                return;
            }
            if self.0.failed.get() {
                std::mem::forget(group);
                return;
            }
            let purged = group
                .marks
                .iter()
                .any(|(_, m)| matches!(m, Mark::Purge { .. }));
            for done in group.done {
                done();
            }
            if purged {
                self.remove_files();
            }
        }
        self.0.writing.set(false);
        self.0.idle.notify_all();
    }

    /// Writes one group, in the next file if this one has no room. It is durable when this returns.
    async fn write_group(&self, group: &Group) -> Result<(), LogError> {
        let inner = &*self.0;
        let started = Instant::now();
        let total = GroupHeader::total_len(group.payload_len)
            .expect("frames are bounded, so their sum is far below u64::MAX");
        let mut file = self.file_with_room(total).await?;
        let header = GroupHeader {
            number: inner.state.borrow().next_group,
            payload_len: group.payload_len,
            payload_crc: 0,
            frames: group.marks.len() as u32,
            // One group is written at a time: all before it is durable.
            durable: (file.header.sequence, file.position),
        };
        let mut stalled = Stalled::default();
        while let Err(e) = write_parts(&file, header, &group.parts, total).await {
            // A file system that reserves nothing (or breaks its word) is full. What was written of the group counts for nothing
            // until all of it is, and is written over.
            stalled.wait(self, e).await?;
        }
        stalled.ended(self);
        file.position += total;
        self.note_written(&file, group, (total, started));
        let half_full = file.position > file.bytes / 2;
        let sequence = file.header.sequence;
        *inner.file.borrow_mut() = Some(file);
        let state = inner.state.borrow();
        let wants_spare =
            half_full && state.spare.is_none() && state.spare_failed_at != Some(sequence);
        drop(state);
        if wants_spare {
            self.prepare_spare(sequence);
        }
        Ok(())
    }

    fn note_written(&self, file: &OpenFile, group: &Group, (total, started): (u64, Instant)) {
        let mut state = self.0.state.borrow_mut();
        state.next_group += 1;
        state.stats.groups += 1;
        state.stats.syncs += 1;
        state.stats.appended_bytes += group.payload_len;
        state.stats.written_bytes += total;
        state.stats.write_nanos += started.elapsed().as_nanos() as u64;
        state.room_left = file.bytes - file.position;
        for (ring, mark) in &group.marks {
            state.catalog.note(file.header.sequence, *ring, *mark);
        }
        let written = state.stats.written_bytes;
        drop(state);
        if written >= self.0.watermark.get() {
            self.0.watermark.set(u64::MAX);
            self.0.grew.notify_all();
        }
    }

    /// The open file, or the next one when a group of `total` bytes does not fit into the rest.
    async fn file_with_room(&self, total: u64) -> Result<OpenFile, LogError> {
        let inner = &*self.0;
        let file = inner.file.borrow_mut().take();
        let file = file.expect("one task writes at a time and puts the file back");
        if file.position + total <= file.bytes {
            return Ok(file);
        }
        while inner.making_spare.get() {
            inner.state.borrow_mut().stats.file_waits += 1;
            inner.idle.notified().await;
        }
        // The spare's name is this file's until it has its own.
        inner.making_spare.set(true);
        let (sequence, end) = (file.header.sequence, file.position);
        let closed = file.file.close().await;
        closed.map_err(LogError::io("close", &file.path))?;
        let next = self.next_file(sequence, end, total).await?;
        inner.making_spare.set(false);
        inner.idle.notify_all();
        let mut state = inner.state.borrow_mut();
        state.catalog.add_file(next.header.sequence, next.bytes);
        state.room_left = next.bytes - next.position;
        drop(state);
        self.remove_files();
        Ok(next)
    }

    /// Makes the next file; waits for room when the disk has none at all. Nothing is acknowledged meanwhile.
    async fn next_file(&self, sequence: u64, end: u64, total: u64) -> Result<OpenFile, LogError> {
        let mut stalled = Stalled::default();
        loop {
            let spare = self.0.state.borrow_mut().spare.take();
            match begin_file(&self.0.config, sequence, end, spare, total).await {
                Ok(file) => {
                    stalled.ended(self);
                    return Ok(file);
                }
                Err(e) => stalled.wait(self, e).await?,
            }
        }
    }

    /// Reserves disk for the next file beside the writing of this one.
    fn prepare_spare(&self, current: u64) {
        if self.0.closing.get() || self.0.making_spare.replace(true) {
            return;
        }
        let log = self.clone();
        let make = async move {
            let config = &log.0.config;
            match files::make_spare(&config.dir, config.file_bytes).await {
                Ok(spare) => log.0.state.borrow_mut().spare = Some(spare),
                // The group that needs the file tries again, and fails aloud if it must.
                Err(error) => {
                    tracing::warn!(%error, "the next log file could not be prepared");
                    log.0.state.borrow_mut().spare_failed_at = Some(current);
                    if let Err(error) = files::remove_spare(&config.dir).await {
                        tracing::warn!(%error, "its half-made file stays until the next start");
                    }
                }
            }
            log.0.making_spare.set(false);
            log.0.idle.notify_all();
        };
        drop(task::spawn(Queue::Background, make));
    }
}

impl Inner {
    /// Checks that `frames` follow what the ring has appended, and remembers its votes and purges.
    fn check(&self, ring: RingId, frames: &[Frame]) -> Result<(), LogError> {
        if frames.is_empty() {
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let tail = state.tails.entry(ring).or_default();
        for frame in frames {
            let bytes = frame.data_len();
            if bytes > FRAME_DATA_MAX {
                let max = FRAME_DATA_MAX;
                return Err(LogError::TooLarge { ring, bytes, max });
            }
            match frame {
                Frame::Entry { index, .. } => {
                    let index = *index;
                    tail.entry(index).map_err(|expected| LogError::OutOfOrder {
                        ring,
                        index,
                        expected,
                    })?;
                }
                // A copy of what was appended before.
                Frame::Carried { .. } => {}
                Frame::Truncate { after } => {
                    tail.truncate(*after);
                    if let Some(voided) = &mut state.voided {
                        let above = voided.entry(ring).or_insert(*after);
                        *above = (*above).min(*after);
                    }
                }
                Frame::Vote { data } => {
                    state.votes.insert(ring, data.clone());
                }
                Frame::Purge { upto, data } => {
                    tail.purge(*upto);
                    let newer = state.purges.get(&ring).is_none_or(|p| p.0 <= *upto);
                    if newer {
                        state.purges.insert(ring, (*upto, data.clone()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The next frames and callbacks, up to the size of a group; at least one frame if there is any.
    fn take_group(&self) -> Option<Group> {
        let mut state = self.state.borrow_mut();
        if self.failed.get() || state.queue.is_empty() {
            return None;
        }
        let mut group = Group {
            parts: Vec::new(),
            payload_len: 0,
            marks: Vec::new(),
            done: Vec::new(),
        };
        while let Some(item) = state.queue.pop_front() {
            match item {
                Item::Done(done) => group.done.push(done),
                Item::Frame(ring, frame) => {
                    let len = frame.encoded_len() as u64;
                    let full = group.payload_len + len > self.config.group_bytes_max as u64;
                    if full && group.payload_len > 0 {
                        state.queue.push_front(Item::Frame(ring, frame));
                        break;
                    }
                    state.stats.queued_bytes -= len;
                    group.payload_len += len;
                    group.marks.push((ring, Mark::of(&frame)));
                    frame.encode(ring, &mut group.parts);
                }
            }
        }
        Some(group)
    }

    /// Reports the first failure (rule S10).
    pub(crate) fn fail(&self, error: &LogError) {
        if !self.failed.replace(true) {
            tracing::error!(%error, "the write-ahead log failed");
            (self.config.fatal)(error);
        }
        self.idle.notify_all();
    }
}

/// A write that waits for room on the disk, or for descriptors.
#[derive(Default)]
pub(crate) struct Stalled(bool);

impl Stalled {
    /// Waits a while after an error that says that the disk is full, or that the process is short of descriptors, and says so once.
    ///
    /// # Errors
    /// Any other error is given back.
    pub(crate) async fn wait(&mut self, log: &ShardLog, error: LogError) -> Result<(), LogError> {
        if !error.is_shortage() {
            return Err(error);
        }
        match error.is_full() {
            true => {
                log.0.space.set_full();
                log.0.state.borrow_mut().stats.full_waits += 1;
                if !self.0 {
                    tracing::error!(%error, "nothing can be written until there is room again; reads go on");
                }
            }
            false if !self.0 => {
                tracing::error!(
                    %error, "nothing can be written until the process may open files again; raise its limit of open files"
                );
            }
            false => {}
        }
        self.0 = true;
        time::sleep(FULL_RETRY).await;
        Ok(())
    }

    /// What could not be done was done.
    pub(crate) fn ended(&self, log: &ShardLog) {
        if self.0 {
            log.0.space.not_denied();
            tracing::info!("the write-ahead log goes on");
        }
    }
}

/// Bytes of a file that has to hold a group of `total` bytes.
pub(crate) fn file_bytes(config: &LogConfig, total: u64) -> u64 {
    config
        .file_bytes
        .next_multiple_of(BLOCK_BYTES as u64)
        .max(FILE_HEADER_BYTES + BLOCK_BYTES as u64)
        .max(FILE_HEADER_BYTES + total)
}

/// Makes the next file of the sequence, at least large enough for a group of `total` bytes. When the disk has no room for a file of
/// the usual size, a small one goes on with what there is.
async fn begin_file(
    config: &LogConfig,
    predecessor: u64,
    predecessor_end: u64,
    spare: Option<Spare>,
    total: u64,
) -> Result<OpenFile, LogError> {
    let bytes = file_bytes(config, total);
    let spare = match spare.filter(|spare| spare.bytes >= FILE_HEADER_BYTES + total) {
        Some(spare) => spare,
        None => {
            files::remove_spare(&config.dir).await?;
            match files::make_spare(&config.dir, bytes).await {
                Err(e) if e.is_full() => {
                    files::remove_spare(&config.dir).await?;
                    let small = (FILE_HEADER_BYTES + total).max(SMALL_FILE_BYTES).min(bytes);
                    files::make_spare(&config.dir, small).await?
                }
                made => made?,
            }
        }
    };
    let header = FileHeader {
        sequence: predecessor + 1,
        generation: tidemill_rt::rand::u64(),
        predecessor,
        predecessor_end,
    };
    files::commission(&config.dir, spare, header).await
}

/// Makes the file that a start begins with. On a full disk, what is reserved behind the end of the newest file is given back
/// first: what stands there was never acknowledged.
async fn first_file(config: &LogConfig, newest: u64, end: u64) -> Result<OpenFile, LogError> {
    match begin_file(config, newest, end, None, 0).await {
        Err(e) if e.is_full() && newest > 0 => {
            cut(&config.dir, newest, end).await?;
            begin_file(config, newest, end, None, 0).await
        }
        begun => begun,
    }
}

/// Writes a group, padded with zeros to `total` bytes; `header` gets its checksum here.
async fn write_parts(
    file: &OpenFile,
    mut header: GroupHeader,
    parts: &[Bytes],
    total: u64,
) -> Result<(), LogError> {
    let generation = file.header.generation;
    if total > WRITE_BYTES_MAX as u64 {
        header.payload_crc = salted_crc_parts(generation, parts);
        let head = Bytes::copy_from_slice(&header.encode(generation));
        return write_pieces(file, &head, parts, total).await;
    }
    let mut buf = file.file.alloc(total as usize);
    let (head, payload) = buf.split_at_mut(GROUP_HEADER_BYTES);
    header.payload_crc = copy_salted(generation, parts, payload);
    head.copy_from_slice(&header.encode(generation));
    let result = file.file.write_at(buf, file.position).await;
    result.map_err(LogError::io("write", &file.path))
}

/// Writes a large group's header and parts, padded with zeros to `total` bytes, in pieces of a bounded size.
async fn write_pieces(
    file: &OpenFile,
    head: &Bytes,
    parts: &[Bytes],
    total: u64,
) -> Result<(), LogError> {
    debug_assert_eq!(head.len(), GROUP_HEADER_BYTES);
    let mut sources = std::iter::once(head).chain(parts).cloned();
    let mut source = Bytes::new();
    let mut written = 0;
    while written < total {
        let len = (total - written).min(WRITE_BYTES_MAX as u64) as usize;
        let mut buf = file.file.alloc(len);
        let mut filled = 0;
        while filled < len {
            if source.is_empty() {
                match sources.next() {
                    Some(next) => source = next,
                    None => break,
                }
            }
            let piece = source.split_to(source.len().min(len - filled));
            buf[filled..filled + piece.len()].copy_from_slice(&piece);
            filled += piece.len();
        }
        buf[filled..].fill(0);
        let at = file.position + written;
        let result = file.file.write_at(buf, at).await;
        result.map_err(LogError::io("write", &file.path))?;
        written += len as u64;
    }
    Ok(())
}

/// Gives back the disk reserved behind the valid end of a file that is never written again.
async fn cut(dir: &Path, sequence: u64, end: u64) -> Result<(), LogError> {
    let path = files::path_of(dir, sequence);
    let file = fs::File::open(&path, fs::OpenMode::ReadWrite)
        .await
        .map_err(LogError::io("open", &path))?;
    file.set_len(end).await.map_err(LogError::io("cut", &path))
}
