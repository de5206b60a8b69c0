//! The handle on a ring: opening, writing, reading.

mod bulk;
mod gather;
mod line;
mod open;
mod transforms;
mod view;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tidemill_consensus::{Group, GroupStats, Leadership, Proposal, ProposeError};
use tidemill_model::batch::{Compression, HEADER_BYTES};
use tidemill_model::record::Records;
use tidemill_model::{BatchHeader, Command, NodeId, Offset, PartitionId, RingId};
use tidemill_partition::tail::{
    BATCH_OVERHEAD_BYTES, MemoryStats, Reservation, ShardMemory, compact,
};
use tidemill_partition::{PartitionConfig, TimestampType};
use tidemill_rt::chan::turn::Turn;
use tidemill_rt::chan::{oneshot, watch};
use tidemill_rt::task::{self, JoinHandle, Queue};
use tidemill_rt::time;
use tidemill_shardlog::Space;

use crate::command::{Body, Entry, Op};
use crate::error::{AppendError, ChangeError, DeleteError, RingError};
use crate::machine::{Answer, Machine, Wake};
use crate::state::{Done, Refused};
use crate::sweep::{self, Sweeper};
use crate::{flush, retention};

use gather::Gathering;
use line::{Line, Waiting};
pub use transforms::{Delivered, Delivery, Outcome, OutcomeApplied};
pub use view::PartitionView;

/// Bytes that may wait in the outbox of a ring, by default.
pub const OUTBOX_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes applied after which batches are flushed, by default. Each flush costs some syncs and a checkpoint whatever its size. They are written
/// past the page cache a piece at a time, so that the write-ahead log's syncs, which wait behind them on the same
/// disk, wait for one piece and not for all.
pub const FLUSH_BYTES: u64 = 16 * 1024 * 1024;
/// Time after which they are flushed in any case, by default.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two looks for segments that have had their time, by default.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(5);

/// How a ring is opened.
#[derive(Clone)]
pub struct RingConfig {
    /// The ring.
    pub ring: RingId,
    /// This node.
    pub node: NodeId,
    /// Folder of the shard; checkpoints are in `rings/`, segments in `partitions/` under it.
    pub shard_dir: PathBuf,
    /// Memory budgets, shared by the rings of the shard.
    pub memory: ShardMemory,
    /// Bytes that may wait in the outbox (rule X8).
    pub outbox_bytes: u64,
    /// Bytes applied after which batches are flushed and a checkpoint is written.
    pub flush_bytes: u64,
    /// Time after which that happens in any case, if anything was applied.
    pub flush_interval: Duration,
    /// How often retention looks at the partitions, beside when settings change.
    pub retention_interval: Duration,
    /// Called when the process has to end because it is not known what the disk holds (rule S10).
    pub fatal: Rc<dyn Fn(&RingError)>,
}

impl std::fmt::Debug for RingConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "RingConfig(ring {}, {})",
            self.ring,
            self.shard_dir.display()
        )
    }
}

impl RingConfig {
    /// A ring with the default budgets.
    pub fn new(
        ring: RingId,
        node: NodeId,
        shard_dir: PathBuf,
        memory: ShardMemory,
        fatal: Rc<dyn Fn(&RingError)>,
    ) -> RingConfig {
        RingConfig {
            ring,
            node,
            shard_dir,
            memory,
            outbox_bytes: OUTBOX_BYTES,
            flush_bytes: FLUSH_BYTES,
            flush_interval: FLUSH_INTERVAL,
            retention_interval: RETENTION_INTERVAL,
            fatal,
        }
    }
}

/// A batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its first offset; of a repeated batch, the one it got first.
    pub base_offset: Offset,
    /// The append time it got, in ms; -1 where the producer's timestamps count.
    pub log_append_time_ms: i64,
    /// First offset of the partition.
    pub log_start_offset: Offset,
    /// Whether it was there before.
    pub duplicate: bool,
}

/// Records of a refused batch that are named, at most. Where more are to blame none is: clients take the whole batch's error for
/// each of its records then.
pub const RECORDS_NAMED_MAX: usize = 1_000;

/// The places of the records whose timestamps are above `latest`, in ms. Records are looked at because the batch is refused; what
/// it takes to look into a compressed one is not spent on that.
fn records_after(header: &BatchHeader, batch: &[u8], latest: i64) -> Vec<i32> {
    if header.compression() != Ok(Compression::None) {
        return Vec::new();
    }
    let mut places = Vec::new();
    for (place, record) in (0..).zip(Records::new(&batch[HEADER_BYTES..], header.record_count)) {
        let Ok(record) = record else { break };
        if header.base_timestamp.saturating_add(record.timestamp_delta) > latest {
            if places.len() == RECORDS_NAMED_MAX {
                return Vec::new();
            }
            places.push(place);
        }
    }
    places
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy)]
pub struct RingStats {
    /// Partitions open.
    pub partitions: usize,
    /// Entries refused by the state machine.
    pub refused_total: u64,
    /// Bytes that wait in the outbox.
    pub outbox_bytes: u64,
    /// Items that wait in the outbox.
    pub outbox_items: usize,
    /// How often a processor had to wait for room in the outbox.
    pub outbox_waits_total: u64,
    /// Records dropped from the outbox because their partition is gone.
    pub outbox_dropped_records_total: u64,
    /// Writes that wait for memory.
    pub writes_waiting: usize,
    /// Writes that left that line because nobody waited for them any more.
    pub writes_given_up_total: u64,
    /// Idempotent producers forgotten because a partition had too many.
    pub producers_evicted_total: u64,
    /// Checkpoints written since the start.
    pub checkpoints_total: u64,
    /// Flushes and checkpoints that failed since the start.
    pub checkpoint_failures_total: u64,
    /// Segments that could not be written; their batches stayed in checkpoints.
    pub segment_failures_total: u64,
    /// Partitions set aside: their files cannot be written, and they refuse records until they can.
    pub partitions_set_aside: usize,
    /// Damage found in segments, by reads and writes.
    pub segment_damage_total: u64,
    /// Segment files and folders of partitions removed since the start.
    pub files_removed_total: u64,
    /// Removals that failed and are tried again.
    pub removal_failures_total: u64,
    /// Partitions that have files to be removed.
    pub removals_waiting: usize,
    /// Bytes of the last checkpoint.
    pub checkpoint_bytes: u64,
    /// Memory of the whole shard.
    pub memory: MemoryStats,
    /// Consensus.
    pub group: GroupStats,
}

pub(crate) struct Shared {
    pub(crate) config: RingConfig,
    pub(crate) group: Group,
    pub(crate) machine: Rc<RefCell<Machine>>,
    pub(crate) wake: Wake,
    pub(crate) closing: Cell<bool>,
    /// Index of the last checkpoint.
    pub(crate) checkpointed: Cell<u64>,
    pub(crate) checkpoints: Cell<u64>,
    pub(crate) checkpoint_failures: Cell<u64>,
    pub(crate) segment_failures: Cell<u64>,
    pub(crate) segment_damage: Cell<u64>,
    pub(crate) checkpoint_bytes: Cell<u64>,
    pub(crate) sweeper: Sweeper,
    /// Set when the ring is shut down.
    pub(crate) stopped: Cell<bool>,
    leadership: watch::Receiver<Leadership>,
    space: Space,
    line: RefCell<Line>,
    gathering: RefCell<Gathering>,
    flusher: RefCell<Option<JoinHandle<()>>>,
    /// Retention and the sweeper.
    helpers: RefCell<Vec<JoinHandle<()>>>,
}

impl Shared {
    /// Proposes a command that holds its memory until it is applied or given up; what was gathered goes first.
    pub(crate) fn propose(
        self: &Rc<Self>,
        command: Command,
        reservation: Option<Reservation>,
    ) -> Proposal {
        gather::propose_gathered(self);
        let held = reservation.map(|r| Box::new(r) as Box<dyn Any>);
        self.group.propose_holding(command, held)
    }

    /// Whether a partition refuses records because its files cannot be written.
    pub(crate) fn is_set_aside(&self, id: PartitionId) -> bool {
        let machine = self.machine.borrow();
        machine.logs.get(&id).is_some_and(|log| log.is_set_aside())
    }

    /// Whether this node leads the ring.
    pub(crate) fn leadership(&self) -> Leadership {
        *self.leadership.borrow()
    }
}

/// A ring. A cheap handle on its shard.
#[derive(Clone)]
pub struct Ring(Rc<Shared>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({})", self.0.config.ring)
    }
}

/// The one thing an entry of one operation did.
fn only(done: Vec<Done>) -> Done {
    done.into_iter().next().unwrap_or(Done::Ok)
}

pub(crate) async fn answer(proposal: Proposal) -> Result<Vec<Done>, ChangeError> {
    let reply = proposal.await?;
    let answer = reply
        .downcast::<Answer>()
        .expect("the machine of a ring answers so");
    Ok((*answer)?)
}

impl Ring {
    /// Its id.
    pub fn id(&self) -> RingId {
        self.0.config.ring
    }

    /// Opens a partition; one that is open stays as it is. `epoch_base` is what its leader epochs count from.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn open_partition(
        &self,
        id: PartitionId,
        config: PartitionConfig,
        epoch_base: i32,
    ) -> Result<(), ChangeError> {
        let op = Op::Open { config, epoch_base };
        self.change(id, op).await.map(|_| ())
    }

    /// Drops a partition with its records; one that is not open is no error.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn drop_partition(&self, id: PartitionId) -> Result<(), ChangeError> {
        self.change(id, Op::Drop).await.map(|_| ())
    }

    /// Changes the settings of a partition.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn configure(
        &self,
        id: PartitionId,
        config: PartitionConfig,
    ) -> Result<(), ChangeError> {
        self.change(id, Op::Configure { config }).await.map(|_| ())
    }

    /// Deletes the records below `before`, -1 for all there are now; where the log starts then. Nothing happens where it
    /// starts there or later already.
    ///
    /// # Errors
    /// [`DeleteError`].
    pub async fn delete_records(
        &self,
        id: PartitionId,
        before: Offset,
    ) -> Result<Offset, DeleteError> {
        match self.change(id, Op::DeleteRecords { before }).await? {
            Done::Starts(offset) => Ok(offset),
            _ => Err(DeleteError::UnknownPartition),
        }
    }

    /// Appends one batch of a client, checked by the caller ([`BatchHeader::validate`]). It is queued at this call, in call
    /// order, also when memory has to be waited for. `now_ms` is the leader's clock, in ms since the Unix epoch.
    ///
    /// # Errors
    /// When awaited: [`AppendError`].
    pub fn append(
        &self,
        id: PartitionId,
        header: BatchHeader,
        batch: Bytes,
        now_ms: i64,
    ) -> impl Future<Output = Result<Appended, AppendError>> + use<> {
        let submitted = self.admit(id, &header, &batch, now_ms).map(|()| {
            let bytes = compact(batch);
            self.submit_append(id, Body { header, bytes }, now_ms)
        });
        async move {
            match submitted?.await? {
                Done::Appended {
                    base_offset,
                    log_append_time_ms,
                    log_start_offset,
                    duplicate,
                } => Ok(Appended {
                    base_offset,
                    log_append_time_ms,
                    log_start_offset,
                    duplicate,
                }),
                _ => Err(AppendError::UnknownPartition),
            }
        }
    }

    /// Gathers a small batch with others, and proposes any other by itself.
    fn submit_append(
        &self,
        id: PartitionId,
        batch: Body,
        now_ms: i64,
    ) -> impl Future<Output = Result<Done, ChangeError>> + use<> {
        let cost = batch.bytes.len() as u64 + BATCH_OVERHEAD_BYTES;
        let submitted = match self.reserve(cost) {
            Some(held) if gather::is_small(&batch) => {
                Ok(gather::append(&self.0, (id, batch), now_ms, held))
            }
            held => {
                let entry = Entry::one(now_ms, id, Op::Append { batch });
                Err(self.submit_holding(held, entry, cost))
            }
        };
        async move {
            match submitted {
                Ok(gathered) => gathered.await.unwrap_or(Err(ProposeError::Stopped.into())),
                Err(alone) => alone.await.map(only),
            }
        }
    }

    fn admit(
        &self,
        id: PartitionId,
        header: &BatchHeader,
        batch: &Bytes,
        now_ms: i64,
    ) -> Result<(), AppendError> {
        if self.0.space.is_full() {
            self.0.space.count_refused();
            return Err(AppendError::DiskFull);
        }
        let machine = self.0.machine.borrow();
        let (partition, log) = machine.partition(id).ok_or(AppendError::UnknownPartition)?;
        if log.is_set_aside() {
            return Err(AppendError::SetAside);
        }
        let config = partition.config();
        let latest = now_ms.saturating_add(config.timestamp_after_max_ms);
        let its_own = config.timestamp_type == TimestampType::CreateTime;
        if its_own && header.max_timestamp > latest {
            return Err(AppendError::Timestamp {
                timestamp: header.max_timestamp,
                after_max_ms: config.timestamp_after_max_ms,
                records: records_after(header, batch, latest),
            });
        }
        let (bytes, max_bytes) = (batch.len(), config.max_message_bytes);
        match bytes <= max_bytes as usize {
            true => Ok(()),
            false => Err(AppendError::TooLarge { bytes, max_bytes }),
        }
    }

    /// Waits until everything that was proposed or gathered before this call is applied, or will never be: also what nobody
    /// waits for any more. It stands behind all of that in the ring's log, and asks for nothing.
    ///
    /// # Errors
    /// [`ChangeError`]: what was before it may still land.
    pub async fn settle(&self) -> Result<(), ChangeError> {
        let nothing = Entry {
            now_ms: time::unix_ms(),
            ops: Vec::new(),
        };
        self.propose(nothing, None).await.map(drop)
    }

    /// Proposes a change that takes no memory worth counting.
    fn change(
        &self,
        id: PartitionId,
        op: Op,
    ) -> impl Future<Output = Result<Done, ChangeError>> + use<> {
        let answer = self.propose(Entry::one(time::unix_ms(), id, op), None);
        async move { answer.await.map(only) }
    }

    fn propose(
        &self,
        entry: Entry,
        reservation: Option<Reservation>,
    ) -> impl Future<Output = Result<Vec<Done>, ChangeError>> + use<> {
        answer(self.0.propose(entry.into_command(), reservation))
    }

    /// Memory for a write that may be proposed at once: nobody waits for some.
    fn reserve(&self, bytes: u64) -> Option<Reservation> {
        match self.0.line.borrow().is_empty() {
            true => self.0.config.memory.try_reserve(bytes),
            false => None,
        }
    }

    /// Proposes a write as soon as there is memory for it, in call order.
    fn submit(
        &self,
        entry: Entry,
        bytes: u64,
    ) -> impl Future<Output = Result<Vec<Done>, ChangeError>> + use<> {
        self.submit_holding(self.reserve(bytes), entry, bytes)
    }

    /// Proposes a write with the memory `held`, or once there are `bytes` of it, in call order.
    fn submit_holding(
        &self,
        held: Option<Reservation>,
        entry: Entry,
        bytes: u64,
    ) -> impl Future<Output = Result<Vec<Done>, ChangeError>> + use<> {
        let to = match entry.ops.first() {
            Some((id, Op::Append { .. })) => Some(*id),
            _ => None,
        };
        let command = entry.into_command();
        let submitted = match held {
            Some(reservation) => Ok(self.0.propose(command, Some(reservation))),
            None => Err(self.wait_for_memory(to, bytes, command)),
        };
        async move {
            let proposal = match submitted {
                Ok(now) => now,
                Err(later) => later.await?,
            };
            answer(proposal).await
        }
    }

    /// Puts a write in line for memory. Whoever drops what this returns has left the line, and nothing is written.
    fn wait_for_memory(
        &self,
        to: Option<PartitionId>,
        bytes: u64,
        command: Command,
    ) -> impl Future<Output = Result<Proposal, ProposeError>> + use<> {
        let (tx, rx) = oneshot::channel();
        let write = Waiting {
            to,
            bytes,
            command,
            tx,
        };
        let place = self.0.line.borrow_mut().join(write);
        let waiting = place.map(|place| {
            if self.0.line.borrow_mut().wants_attendant() {
                task::spawn(Queue::Raft, propose_waiting(self.0.clone()));
            }
            let ring = self.0.clone();
            Turn::new(rx, move || line::leave(&ring, place))
        });
        async move {
            match waiting {
                Some(waiting) => waiting.await.unwrap_or(Err(ProposeError::Stopped)),
                None => Err(ProposeError::Busy),
            }
        }
    }

    /// Waits while the disk has no room for what transforms put out (rule S11): to be awaited before one runs.
    pub async fn disk_room(&self) {
        self.0.space.room().await;
    }

    /// Numbers for the metrics.
    pub fn stats(&self) -> RingStats {
        let machine = self.0.machine.borrow();
        let outbox = machine.state.outbox();
        let partitions = machine.state.partitions();
        RingStats {
            partitions: partitions.len(),
            refused_total: machine.refused_total.get(),
            outbox_bytes: outbox.bytes(),
            outbox_items: outbox.items(),
            outbox_waits_total: self.0.wake.rooms.waits_total(),
            outbox_dropped_records_total: outbox.dropped_records(),
            writes_waiting: self.0.line.borrow().len(),
            writes_given_up_total: self.0.line.borrow().given_up_total(),
            producers_evicted_total: partitions
                .values()
                .map(|p| p.producers().evicted_total())
                .sum(),
            checkpoints_total: self.0.checkpoints.get(),
            checkpoint_failures_total: self.0.checkpoint_failures.get(),
            segment_failures_total: self.0.segment_failures.get(),
            partitions_set_aside: machine.logs.values().filter(|l| l.is_set_aside()).count(),
            segment_damage_total: self.0.segment_damage.get(),
            files_removed_total: self.0.sweeper.removed_total(),
            removal_failures_total: self.0.sweeper.failures_total(),
            removals_waiting: self.0.sweeper.waiting(),
            checkpoint_bytes: self.0.checkpoint_bytes.get(),
            memory: self.0.config.memory.stats(),
            group: self.0.group.stats(),
        }
    }

    /// Whether there was nothing of it on disk when it was opened: its first start, or everything of it is lost.
    pub fn began_empty(&self) -> bool {
        self.0.group.began_empty()
    }

    /// Writes a checkpoint now, for tests and tools. `false` when it failed.
    pub async fn checkpoint_now(&self) -> bool {
        let _turn = self.pause_flusher().await;
        let written = flush::round(&self.0).await;
        self.start_flusher();
        written
    }

    /// Looks for segments that have had their time now, for tests and tools.
    pub async fn retention_now(&self) {
        retention::look(&self.0).await;
    }

    fn start_helpers(&self) {
        let retention = task::spawn(Queue::Background, retention::run(self.0.clone()));
        let sweeper = task::spawn(Queue::Background, sweep::run(self.0.clone()));
        self.0.helpers.borrow_mut().extend([retention, sweeper]);
    }

    async fn stop_helpers(&self) {
        self.0.stopped.set(true);
        self.0.wake.retention.notify_all();
        self.0.sweeper.wake();
        let helpers = std::mem::take(&mut *self.0.helpers.borrow_mut());
        for helper in helpers {
            let _ = helper.await;
        }
    }

    async fn pause_flusher(&self) {
        self.0.closing.set(true);
        self.0.wake.full.notify_all();
        self.0.wake.dirty.notify_all();
        let flusher = self.0.flusher.borrow_mut().take();
        if let Some(flusher) = flusher {
            let _ = flusher.await;
        }
    }

    fn start_flusher(&self) {
        self.0.closing.set(false);
        let flusher = task::spawn(Queue::Background, flush::run(self.0.clone()));
        *self.0.flusher.borrow_mut() = Some(flusher);
    }

    /// Stops the ring after a last checkpoint, so that the next start has nothing to replay. Writes that wait are answered
    /// with [`ProposeError::Stopped`].
    pub async fn shutdown(&self) {
        self.stop_helpers().await;
        self.pause_flusher().await;
        let waiting = self.0.line.borrow_mut().clear();
        drop(waiting);
        let dirty = self.0.machine.borrow().applied_index > self.0.checkpointed.get();
        if dirty {
            flush::round(&self.0).await;
        }
        self.0.group.shutdown().await;
    }
}

/// What `future` comes to, or nothing when `end` is ready first.
async fn unless<T>(
    end: impl Future<Output = ()> + Unpin,
    future: impl Future<Output = T>,
) -> Option<T> {
    let (mut end, mut future) = (end, pin!(future));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Pin::new(&mut end).poll(cx).map(|()| None),
    })
    .await
}

/// Proposes what waits for memory, first come, first served, until nothing waits.
async fn propose_waiting(ring: Rc<Shared>) {
    loop {
        let Some((place, bytes, left)) = ring.line.borrow_mut().first() else {
            return;
        };
        let reserved = unless(left, ring.config.memory.reserve(bytes)).await;
        // Otherwise nobody waits for it any more, and nothing was written; or the ring was shut down.
        let Some(reservation) = reserved else {
            continue;
        };
        let Some(waiting) = ring.line.borrow_mut().take(place) else {
            continue;
        };
        // What waits for a partition that was set aside meanwhile would fill the memory that others wait for.
        let aside = waiting.to.is_some_and(|to| ring.is_set_aside(to));
        let proposed = match reservation.filter(|_| !aside) {
            Some(reservation) => Ok(ring.propose(waiting.command, Some(reservation))),
            None => Err(ProposeError::Busy),
        };
        let _ = waiting.tx.send(proposed);
    }
}

impl From<Refused> for AppendError {
    fn from(refused: Refused) -> AppendError {
        AppendError::from(ChangeError::Refused(refused))
    }
}
