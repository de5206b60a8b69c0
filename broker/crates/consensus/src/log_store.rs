//! openraft's log on the shard's write-ahead log.
//!
//! Entries stay in memory from append until purge, so that applying and replication never read the disk; what is
//! durable goes to the [`ShardLog`], together with the entries of the shard's other rings. The shard log numbers
//! entries from 1 where openraft numbers them from 0, so that "void everything above 0" can void the first one too.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, RaftLogReader};
use tidemill_model::RingId;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::oneshot;
use tidemill_shardlog::{Frame, RecoveredRing, ShardLog};

use crate::error::{ConsensusError, Malformed};
use crate::types::{
    Entry, LogId, TypeConfig, Vote, decode_entry, decode_log_id, decode_vote, encode_entry,
    encode_log_id, encode_vote,
};

/// Most bytes of commands that one read for replication returns, unless its first entry alone is larger.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A ring's log; clones are handles on the same log.
#[derive(Clone)]
pub(crate) struct LogStore(Rc<Inner>);

struct Inner {
    ring: RingId,
    log: ShardLog,
    state: RefCell<State>,
    flushed: Rc<Flushed>,
}

#[derive(Default)]
struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: VecDeque<Entry>,
}

/// How far the log is durable.
#[derive(Default)]
struct Flushed {
    /// Entries below this index are durable.
    next: Cell<u64>,
    /// Raised by every truncation: a flush that began before one says nothing about the entries written after it.
    truncations: Cell<u64>,
    moved: Notify,
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogStore(ring {})", self.0.ring)
    }
}

impl State {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|e| e.log_id.index())
    }

    /// The index the next entry must have; `None` when any will do (nothing is known of the log).
    fn next(&self) -> Option<u64> {
        let last = self.entries.back().map(|e| e.log_id).or(self.purged);
        last.map(|id| id.index() + 1)
    }

    /// Where `range` lies in `entries`.
    fn positions(&self, range: &impl RangeBounds<u64>) -> std::ops::Range<usize> {
        let Some(first) = self.first() else {
            return 0..0;
        };
        let start = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        let position =
            |index: u64| (index.saturating_sub(first)).min(self.entries.len() as u64) as usize;
        let (start, end) = (position(start), position(end));
        start..end.max(start)
    }
}

impl LogStore {
    /// The log of `ring` as the shard log recovered it; `checkpoint` is the log id of the loaded checkpoint.
    ///
    /// # Errors
    /// [`ConsensusError::Unreadable`] for frames that are not ours, [`ConsensusError::Missing`] when entries between
    /// the checkpoint (or what was purged) and the end of the log are not there.
    pub(crate) fn recover(
        ring: RingId,
        log: ShardLog,
        recovered: RecoveredRing,
        checkpoint: Option<LogId>,
    ) -> Result<LogStore, ConsensusError> {
        let state = recovered_state(ring, recovered)?;
        check_complete(ring, &state, checkpoint)?;
        let flushed = Rc::new(Flushed::default());
        flushed.next.set(state.next().unwrap_or(0));
        Ok(LogStore(Rc::new(Inner {
            ring,
            log,
            state: RefCell::new(state),
            flushed,
        })))
    }

    /// Whether nothing was ever written: a ring on its first start.
    pub(crate) fn is_pristine(&self) -> bool {
        let state = self.0.state.borrow();
        state.vote.is_none() && state.next().is_none()
    }

    /// Waits until entry `index` is durable. Never returns when the shard log fails: that ends the process.
    pub(crate) async fn durable(&self, index: u64) {
        let flushed = &self.0.flushed;
        while flushed.next.get() <= index {
            flushed.moved.notified().await;
        }
    }

    /// The index of the last entry, if there is one.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.0.state.borrow().next().map(|next| next - 1)
    }

    /// Up to where the log is purged.
    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.0.state.borrow().purged.map(|id| id.index())
    }

    /// Entries held in memory.
    pub(crate) fn entries_in_memory(&self) -> usize {
        self.0.state.borrow().entries.len()
    }

    fn read(&self, range: &impl RangeBounds<u64>, bytes_max: usize) -> Vec<Entry> {
        let state = self.0.state.borrow();
        let mut bytes = 0_usize;
        let mut out = Vec::new();
        for entry in state.entries.range(state.positions(range)) {
            bytes = bytes.saturating_add(command_bytes(entry));
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        out
    }

    /// Keeps `entry` in memory and makes its frame.
    fn take(&self, entry: Entry) -> io::Result<Frame> {
        let index = entry.log_id.index();
        let mut state = self.0.state.borrow_mut();
        if let Some(next) = state.next()
            && !state.entries.is_empty()
            && next != index
        {
            let message = format!(
                "ring {}: entry {index} was appended where {next} is due",
                self.0.ring
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let data = encode_entry(&entry);
        state.entries.push_back(entry);
        Ok(Frame::Entry {
            index: index + 1,
            data,
        })
    }

    fn write(&self, frame: Frame) {
        self.0.log.append(self.0.ring, vec![frame], Box::new(|| {}));
    }
}

/// Completes openraft's callback, with an error when it is dropped because the shard log died.
struct FlushGuard {
    callback: Option<IOFlushed<TypeConfig>>,
    flushed: Rc<Flushed>,
    truncations: u64,
    next: u64,
}

impl FlushGuard {
    fn done(mut self) {
        if self.truncations == self.flushed.truncations.get() && self.next > self.flushed.next.get()
        {
            self.flushed.next.set(self.next);
            self.flushed.moved.notify_all();
        }
        if let Some(callback) = self.callback.take() {
            callback.io_completed(Ok(()));
        }
    }
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            callback.io_completed(Err(log_gone()));
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(&range, usize::MAX))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.state.borrow().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(&(start..end), READ_BYTES_MAX))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.0.state.borrow();
        Ok(LogState {
            last_purged_log_id: state.purged,
            last_log_id: state.entries.back().map(|e| e.log_id).or(state.purged),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (tx, rx) = oneshot::channel();
        let frame = Frame::Vote {
            data: encode_vote(vote),
        };
        let done = Box::new(move || {
            let _ = tx.send(());
        });
        self.0.log.append(self.0.ring, vec![frame], done);
        rx.await.map_err(|_| log_gone())?;
        self.0.state.borrow_mut().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry>,
    {
        let mut guard = FlushGuard {
            callback: Some(callback),
            flushed: self.0.flushed.clone(),
            truncations: self.0.flushed.truncations.get(),
            next: 0,
        };
        let frames = entries
            .into_iter()
            .map(|e| self.take(e))
            .collect::<io::Result<Vec<_>>>()?;
        guard.next = self.0.state.borrow().next().unwrap_or(0);
        self.0
            .log
            .append(self.0.ring, frames, Box::new(move || guard.done()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let keep = last.map_or(0, |id| id.index() + 1);
        {
            let mut state = self.0.state.borrow_mut();
            let kept = state.positions(&(0..keep)).end;
            state.entries.truncate(kept);
        }
        let flushed = &self.0.flushed;
        flushed.truncations.set(flushed.truncations.get() + 1);
        flushed.next.set(flushed.next.get().min(keep));
        self.write(Frame::Truncate { after: keep });
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut state = self.0.state.borrow_mut();
            if state
                .purged
                .is_some_and(|purged| purged.index() >= upto.index())
            {
                return Ok(());
            }
            let gone = state.positions(&(0..=upto.index())).end;
            state.entries.drain(..gone);
            state.purged = Some(upto);
        }
        self.write(Frame::Purge {
            upto: upto.index() + 1,
            data: encode_log_id(&upto),
        });
        Ok(())
    }
}

fn command_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(data) => data.0.encoded_len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

fn log_gone() -> io::Error {
    io::Error::other("the shard's log has stopped")
}

fn recovered_state(ring: RingId, recovered: RecoveredRing) -> Result<State, ConsensusError> {
    let unreadable =
        |what: String| move |source: Malformed| ConsensusError::Unreadable { ring, what, source };
    let purged = recovered
        .purged
        .map(|(_, data)| decode_log_id(data))
        .transpose()
        .map_err(unreadable("what was purged".to_owned()))?;
    let vote = recovered
        .vote
        .map(decode_vote)
        .transpose()
        .map_err(unreadable("the vote".to_owned()))?;
    Ok(State {
        vote,
        purged,
        entries: recovered_entries(ring, recovered.entries, purged)?,
    })
}

fn recovered_entries(
    ring: RingId,
    frames: BTreeMap<u64, Bytes>,
    purged: Option<LogId>,
) -> Result<VecDeque<Entry>, ConsensusError> {
    let first = purged.map_or(0, |id| id.index() + 1);
    let mut entries = VecDeque::with_capacity(frames.len());
    for (shard_index, data) in frames {
        let Some(index) = shard_index.checked_sub(1).filter(|i| *i >= first) else {
            continue;
        };
        let entry = decode_entry(index, data).map_err(|source| ConsensusError::Unreadable {
            ring,
            what: format!("log entry {index}"),
            source,
        })?;
        entries.push_back(entry);
    }
    Ok(entries)
}

/// Every index from the checkpoint (or the purge point) to the end must be there.
fn check_complete(
    ring: RingId,
    state: &State,
    checkpoint: Option<LogId>,
) -> Result<(), ConsensusError> {
    let missing = |index: u64| Err(ConsensusError::Missing { ring, index });
    let after = |id: Option<LogId>| id.map_or(0, |id| id.index() + 1);
    let covered = after(checkpoint).max(after(state.purged));
    if after(state.purged) > after(checkpoint) {
        return missing(after(checkpoint));
    }
    let mut due = state.first().unwrap_or(after(state.purged));
    if due > covered {
        return missing(covered);
    }
    for entry in &state.entries {
        if entry.log_id.index() != due {
            return missing(due);
        }
        due += 1;
    }
    if due < covered || (due == 0 && state.vote.is_some()) {
        return missing(due);
    }
    Ok(())
}
