//! One coordinator at work: what it is asked comes in, what it decides is done.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tidemill_groups::coordinator::NewCommit;
use tidemill_groups::request::{Join, Joined, NotJoined, Sync, Synced, Who, Write};
use tidemill_groups::{Budget, Coordinator, Effect, GroupError, Settings, Ticket};
use tidemill_model::{Offset, PartitionId, TopicId};
use tidemill_ring::Ring;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::oneshot;
use tidemill_rt::task::{self, Queue};

use super::{now, writer};
use crate::shard::Shard;

/// Bytes of records that may wait while old commits are searched for.
const SWEEP_BYTES_MAX: usize = 1 << 20;

/// Bytes that a write takes in memory beside its records, about.
const WRITE_MEMORY_BYTES: usize = 256;

/// A write that waits for its turn, and who waits for it.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) write: Write,
    /// Bytes it takes in the log, about.
    pub(super) bytes: usize,
    /// Its part of the budget.
    pub(super) _memory: Memory,
    pub(super) done: Option<oneshot::Sender<Result<(), GroupError>>>,
}

/// What a write takes of the groups' memory, until it has landed or was given up.
#[derive(Debug)]
pub(super) struct Memory {
    budget: Budget,
    bytes: i64,
}

impl Memory {
    fn new(budget: &Budget, bytes: usize) -> Memory {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        budget.change_waiting(bytes);
        Memory {
            budget: budget.clone(),
            bytes,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.budget.change_waiting(-self.bytes);
    }
}

/// A partition of `__consumer_offsets` and its coordinator. Lives on the shard of that partition.
#[derive(Debug)]
pub(crate) struct Coordination {
    pub(super) ring: Ring,
    pub(super) partition: PartitionId,
    pub(crate) machine: RefCell<Coordinator>,
    shard: Weak<Shard>,
    made_of: (Settings, Budget),
    loaded: Cell<bool>,
    joins: RefCell<BTreeMap<Ticket, oneshot::Sender<Result<Joined, NotJoined>>>>,
    syncs: RefCell<BTreeMap<Ticket, oneshot::Sender<Result<Synced, GroupError>>>>,
    pub(super) queue: RefCell<VecDeque<Queued>>,
    waiting_bytes: Cell<usize>,
    /// There is something to write, or to look at.
    pub(super) work: Notify,
    pub(super) sweep: Cell<bool>,
}

/// What becomes of each of several offsets, in order.
pub(crate) type Each = Result<Vec<Result<(), GroupError>>, GroupError>;

impl Coordination {
    /// Starts a coordinator: it reads its log, then serves until the shard stops.
    pub(super) fn start(
        shard: &Rc<Shard>,
        ring: Ring,
        partition: PartitionId,
        made_of: (Settings, Budget),
    ) -> Rc<Coordination> {
        let coordination = Rc::new(Coordination {
            ring,
            partition,
            machine: RefCell::new(Coordinator::new(made_of.0, made_of.1.clone())),
            shard: Rc::downgrade(shard),
            made_of,
            loaded: Cell::new(false),
            joins: RefCell::default(),
            syncs: RefCell::default(),
            queue: RefCell::default(),
            waiting_bytes: Cell::new(0),
            work: Notify::new(),
            sweep: Cell::new(false),
        });
        drop(task::spawn(
            Queue::Kafka,
            writer::run(shard.clone(), coordination.clone()),
        ));
        coordination
    }

    /// Whether it has read its log.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.get()
    }

    /// It has read its log, of which a new machine was made.
    pub(super) fn serve(&self, shard: &Shard) {
        let effects = self.machine.borrow_mut().loaded(now());
        self.act(effects);
        self.loaded.set(true);
        self.sweep.set(true);
        shard.groups.changed.notify_all();
    }

    /// Forgets everything, to be read again: it is not known what the log holds, or the shard stops.
    pub(super) fn step_down(&self) {
        self.loaded.set(false);
        let effects = self.machine.borrow_mut().resign(now());
        self.act(effects);
        let queued = std::mem::take(&mut *self.queue.borrow_mut());
        for queued in queued {
            if let Some(done) = queued.done {
                let _ = done.send(Err(GroupError::NotCoordinator));
            }
        }
        self.waiting_bytes.set(0);
        self.joins.borrow_mut().clear();
        self.syncs.borrow_mut().clear();
        let (settings, budget) = self.made_of.clone();
        *self.machine.borrow_mut() = Coordinator::new(settings, budget);
    }

    /// Records that wait to be written.
    pub(crate) fn waiting_writes(&self) -> usize {
        self.queue
            .borrow()
            .iter()
            .map(|q| q.write.records.len())
            .sum()
    }

    /// Looks for commits of topics that are gone, soon.
    pub(super) fn sweep_now(&self) {
        self.machine.borrow_mut().sweep_from_start();
        self.sweep.set(true);
        self.work.notify_all();
    }

    /// Does what was decided.
    pub(super) fn act(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                // Whoever does not wait any more has gone away.
                Effect::Join(ticket, answer) => {
                    let waiting = self.joins.borrow_mut().remove(&ticket);
                    let _ = waiting.map(|tx| tx.send(answer));
                }
                Effect::Sync(ticket, answer) => {
                    let waiting = self.syncs.borrow_mut().remove(&ticket);
                    let _ = waiting.map(|tx| tx.send(answer));
                }
                Effect::Write(write) => self.enqueue(write, None),
            }
        }
        // Timers may have changed, too.
        self.work.notify_all();
    }

    /// A write that takes its part of the budget until it is dropped.
    pub(super) fn queued(
        &self,
        write: Write,
        done: Option<oneshot::Sender<Result<(), GroupError>>>,
    ) -> Queued {
        let memory: usize = write.records.iter().map(|r| r.memory()).sum();
        Queued {
            bytes: write.records.iter().map(|r| r.bytes()).sum(),
            _memory: Memory::new(&self.made_of.1, WRITE_MEMORY_BYTES + memory),
            write,
            done,
        }
    }

    fn enqueue(&self, write: Write, done: Option<oneshot::Sender<Result<(), GroupError>>>) {
        let queued = self.queued(write, done);
        self.waiting_bytes
            .set(self.waiting_bytes.get() + queued.bytes);
        self.queue.borrow_mut().push_back(queued);
        self.work.notify_all();
    }

    /// Takes the next write out of the queue, to be appended.
    pub(super) fn dequeue(&self) -> Option<Queued> {
        let queued = self.queue.borrow_mut().pop_front()?;
        self.waiting_bytes
            .set(self.waiting_bytes.get().saturating_sub(queued.bytes));
        Some(queued)
    }

    /// Whether so little waits to be written that old commits may be searched for.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting_bytes.get() <= SWEEP_BYTES_MAX
    }

    fn has_room(&self) -> Result<(), GroupError> {
        if self.made_of.1.admits_write() {
            return Ok(());
        }
        if let Some(shard) = self.shard.upgrade() {
            shard.groups.counters.writes_refused.add(1);
        }
        Err(GroupError::CoordinatorNotAvailable)
    }

    fn ticket(&self) -> Ticket {
        self.shard
            .upgrade()
            .map_or(Ticket(u64::MAX), |shard| shard.groups.ticket())
    }

    /// Writes and waits until it is durable. In line when this returns.
    fn write(&self, write: Option<Write>) -> impl Future<Output = Result<(), GroupError>> + use<> {
        let waiting = write.map(|write| {
            let (tx, rx) = oneshot::channel();
            self.enqueue(write, Some(tx));
            rx
        });
        async move {
            match waiting {
                None => Ok(()),
                Some(rx) => rx.await.unwrap_or(Err(GroupError::NotCoordinator)),
            }
        }
    }

    /// JoinGroup; answered when everybody has joined.
    pub(crate) fn join(
        &self,
        join: Join,
    ) -> impl Future<Output = Result<Joined, NotJoined>> + use<> {
        let (tx, rx) = oneshot::channel();
        let (ticket, member) = (self.ticket(), join.member.clone());
        match self.has_room() {
            Ok(()) => {
                self.joins.borrow_mut().insert(ticket, tx);
                let effects = self.machine.borrow_mut().join(join, ticket, now());
                self.act(effects);
            }
            // A static member that comes back has its whole group written.
            Err(error) => {
                let member = member.clone();
                let _ = tx.send(Err(NotJoined { error, member }));
            }
        }
        async move {
            let error = GroupError::NotCoordinator;
            rx.await.unwrap_or(Err(NotJoined { error, member }))
        }
    }

    /// SyncGroup; answered when the leader's assignments are durable.
    pub(crate) fn sync(
        &self,
        sync: Sync,
    ) -> impl Future<Output = Result<Synced, GroupError>> + use<> {
        let (tx, rx) = oneshot::channel();
        let ticket = self.ticket();
        match self.has_room() {
            Ok(()) => {
                self.syncs.borrow_mut().insert(ticket, tx);
                let effects = self.machine.borrow_mut().sync(sync, ticket, now());
                self.act(effects);
            }
            Err(error) => drop(tx.send(Err(error))),
        }
        async move { rx.await.unwrap_or(Err(GroupError::NotCoordinator)) }
    }

    /// Heartbeat.
    pub(crate) fn heartbeat(
        &self,
        group: &str,
        who: &Who,
        generation: i32,
    ) -> Result<(), GroupError> {
        let beat = self
            .machine
            .borrow_mut()
            .heartbeat(group, who, generation, now());
        self.work.notify_all();
        beat
    }

    /// LeaveGroup.
    pub(crate) fn leave(&self, group: &str, members: &[Who]) -> Each {
        let (left, effects) = self.machine.borrow_mut().leave(group, members, now())?;
        self.act(effects);
        Ok(left)
    }

    /// OffsetCommit; answered when it is durable.
    pub(crate) fn commit(
        &self,
        group: &str,
        who: &Who,
        generation: i32,
        commits: Vec<NewCommit>,
    ) -> impl Future<Output = Each> + use<> {
        let decided = self.has_room().and_then(|()| {
            self.machine
                .borrow_mut()
                .commit(group, who, generation, commits, now())
        });
        self.each(decided)
    }

    /// OffsetDelete; answered when it is durable.
    pub(crate) fn delete_offsets(
        &self,
        group: &str,
        places: &[(Arc<str>, i32)],
    ) -> impl Future<Output = Each> + use<> {
        let decided = self
            .has_room()
            .and_then(|()| self.machine.borrow_mut().delete_offsets(group, places));
        self.each(decided)
    }

    #[allow(
        clippy::type_complexity,
        reason = "what the machine returns, handed on"
    )]
    fn each(
        &self,
        decided: Result<(Vec<Result<(), GroupError>>, Option<Write>), GroupError>,
    ) -> impl Future<Output = Each> + use<> {
        let waiting = decided.map(|(results, write)| (results, self.write(write)));
        async move {
            let (results, written) = waiting?;
            written.await?;
            Ok(results)
        }
    }

    /// DeleteGroups, one of them; answered when it is durable.
    pub(crate) fn delete(
        &self,
        group: &str,
    ) -> impl Future<Output = Result<(), GroupError>> + use<> {
        let decided = self
            .has_room()
            .and_then(|()| self.machine.borrow_mut().delete(group, now()));
        let waiting = decided.map(|writes| {
            let each = writes.into_iter().map(|write| self.write(Some(write)));
            each.collect::<Vec<_>>()
        });
        async move {
            for written in waiting? {
                written.await?;
            }
            Ok(())
        }
    }

    /// What a group has committed of `places`, or of all partitions, if it takes at most `most` bytes; else how many it takes.
    pub(crate) fn fetch(
        &self,
        group: &str,
        places: Option<&[(Arc<str>, i32)]>,
        most: usize,
    ) -> Findings {
        let machine = self.machine.borrow();
        let store = machine.store();
        let found = || {
            let all = places.is_none().then(|| store.commits_of(group));
            let some = places.into_iter().flatten();
            let some = some.filter_map(|(t, p)| Some((&**t, *p, store.commit(group, t, *p)?)));
            all.into_iter().flatten().chain(some)
        };
        let each = found().map(|(topic, _, c)| Fetched::BYTES + topic.len() + c.metadata.len());
        let bytes = each.sum();
        if bytes > most {
            return Findings::Larger(bytes);
        }
        let fetched = found().map(|(topic, partition, c)| Fetched {
            topic: topic.into(),
            topic_id: c.topic_id,
            partition,
            offset: c.offset,
            leader_epoch: c.leader_epoch,
            metadata: c.metadata.clone(),
        });
        Findings::All(fetched.collect(), bytes)
    }
}

/// What a group has committed, if it is not more than was asked for.
#[derive(Debug)]
pub(crate) enum Findings {
    /// All of it, and its bytes, about.
    All(Vec<Fetched>, usize),
    /// More than that: so many bytes, about.
    Larger(usize),
}

/// What a group has committed of a partition.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: i32,
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

impl Fetched {
    /// Bytes of one beside its texts, about, in an answer too.
    const BYTES: usize = 128;
}
