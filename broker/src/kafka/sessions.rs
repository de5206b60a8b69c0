//! Fetch sessions (KIP-227): what a consumer fetches is remembered, so that its requests name only what has changed, and
//! answers only what is new.
//!
//! A session lives on the shard of the connection that made it, and its id says which shard that is. A request that comes
//! in on another shard finds no session and is answered FETCH_SESSION_ID_NOT_FOUND, after which clients make a new one:
//! they fetch over one connection as long as that lasts, so a session that followed them would be a cost without a use.
//!
//! A session has a queue of partitions to look at: those the client has moved in, those with records it has not read, and
//! those that have changed. All others are armed: the shard of each watches it and tells when it moves. So a fetch
//! costs what has changed, not what is fetched.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidemill_model::topic_name::NAME_CHARS_MAX;
use tidemill_model::{PartitionId, RingId, ShardId};
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::mailbox;
use tidemill_rt::rand;
use tidemill_rt::time::Instant;
use tidemill_wire::fetch::{FetchPartition, FetchRequest};
use tidemill_wire::{StrBytes, TopicRef};

use crate::metrics::{Counter, Sample};

/// Most partitions of a session; who fetches more names all of them each time.
const PARTITIONS_MAX: usize = 50_000;
/// Most partitions of all sessions of a shard; each takes about 400 bytes, and at most 650 with a
/// topic's name of its own, so 80 to 130 MB.
const CACHE_PARTITIONS_MAX: usize = 200_000;
/// A session that was not used for so long makes room for a new one, and one that is so old for a larger one (Kafka's
/// `MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS`).
const EVICT_AFTER: Duration = Duration::from_secs(120);
/// Partitions that were taken out and are kept because they may be armed, beyond as many as are fetched.
const INACTIVE_SPARE: usize = 1_000;

/// Where a partition is, and the name of its topic for the counters.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) ring: RingId,
    pub(crate) partition: PartitionId,
    pub(crate) topic: Arc<str>,
}

/// A partition of a session.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The topic as the client names it.
    pub(crate) topic: TopicRef,
    /// What the client wants of it.
    pub(crate) asked: FetchPartition,
    /// Another one whenever the client changes what it wants; no two entries have the same.
    pub(crate) stamp: usize,
    /// Whether it is fetched; one that was taken out stays as long as it may be armed.
    active: bool,
    /// Where it is, as far as that was looked up.
    pub(crate) place: Option<Place>,
    /// Its place in the queue.
    queued: Option<u64>,
    /// Whether its shard watches it.
    armed: bool,
    /// High watermark, last stable offset and log start as the client was told them last.
    pub(crate) told: Option<(i64, i64, i64)>,
}

/// The partitions of a session.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    entries: Vec<Entry>,
    by_name: BTreeMap<(TopicRef, i32), usize>,
    active: usize,
    queue: BTreeMap<u64, usize>,
    next_turn: u64,
    next_stamp: usize,
    /// Grows when entries get new places in the list.
    generation: u32,
}

/// The session would have too many partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Partitions {
    /// Those of a request that makes a session; `None` when there are too many, or none.
    pub(crate) fn of(body: &FetchRequest) -> Option<Partitions> {
        let mut partitions = Partitions::default();
        partitions.update(body).ok()?;
        (partitions.active > 0).then_some(partitions)
    }

    /// Takes in what a request adds, changes and takes out.
    pub(crate) fn update(&mut self, body: &FetchRequest) -> Result<(), TooMany> {
        for topic in &body.topics {
            // There is no such topic: whoever asks for it is told so each time, but not remembered.
            if matches!(&topic.topic, TopicRef::Name(name) if name.len() > NAME_CHARS_MAX) {
                return Err(TooMany);
            }
            // A copy: a name as it came keeps the request's frame.
            let name = owned(&topic.topic);
            for asked in &topic.partitions {
                self.put(&name, *asked)?;
            }
        }
        for topic in &body.forgotten {
            for index in &topic.partitions {
                self.forget(&(topic.topic.clone(), *index));
            }
        }
        if self.entries.len() > 2 * self.active + INACTIVE_SPARE {
            self.compact();
        }
        Ok(())
    }

    fn put(&mut self, topic: &TopicRef, asked: FetchPartition) -> Result<(), TooMany> {
        let key = (topic.clone(), asked.index);
        let at = match self.by_name.get(&key) {
            Some(at) => *at,
            None => {
                let at = self.entries.len();
                self.by_name.insert(key, at);
                self.entries.push(Entry {
                    topic: topic.clone(),
                    asked,
                    stamp: 0,
                    active: false,
                    place: None,
                    queued: None,
                    armed: false,
                    told: None,
                });
                at
            }
        };
        self.next_stamp += 1;
        let entry = &mut self.entries[at];
        entry.asked = asked;
        entry.stamp = self.next_stamp;
        if !entry.active {
            entry.active = true;
            // Who takes it in anew knows nothing of it.
            entry.told = None;
            self.active += 1;
        }
        self.enqueue(at);
        if self.active > PARTITIONS_MAX {
            return Err(TooMany);
        }
        Ok(())
    }

    fn forget(&mut self, key: &(TopicRef, i32)) {
        let Some(at) = self.by_name.get(key).copied() else {
            return;
        };
        self.dequeue(at);
        if std::mem::replace(&mut self.entries[at].active, false) {
            self.active -= 1;
        }
    }

    /// Drops what is not fetched. Everything else is looked at once more, and armed anew.
    fn compact(&mut self) {
        self.generation += 1;
        self.by_name.clear();
        self.queue.clear();
        self.entries.retain(|e| e.active);
        for (at, entry) in self.entries.iter_mut().enumerate() {
            entry.queued = None;
            entry.armed = false;
            let key = (entry.topic.clone(), entry.asked.index);
            self.by_name.insert(key, at);
        }
        (0..self.entries.len()).for_each(|at| self.enqueue(at));
    }

    /// Puts a partition into the queue, if it is not there.
    fn enqueue(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        if entry.active && entry.queued.is_none() {
            entry.queued = Some(self.next_turn);
            self.queue.insert(self.next_turn, at);
            self.next_turn += 1;
        }
    }

    /// Takes a partition out of the queue.
    pub(crate) fn dequeue(&mut self, at: usize) {
        if let Some(turn) = self.entries[at].queued.take() {
            self.queue.remove(&turn);
        }
    }

    /// Lets the others have their turn first.
    pub(crate) fn requeue(&mut self, at: usize) {
        self.dequeue(at);
        self.enqueue(at);
    }

    /// What is to be looked at, in turn.
    pub(crate) fn queued(&self) -> Vec<usize> {
        self.queue.values().copied().collect()
    }

    /// A partition, unless the client has changed what it wants of it since `stamp`.
    pub(crate) fn entry(&mut self, (at, stamp): (usize, usize)) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(at)?;
        (entry.active && entry.stamp == stamp).then_some(entry)
    }

    /// The number of a partition.
    pub(crate) fn find(&self, topic: &TopicRef, index: i32) -> Option<usize> {
        self.by_name.get(&(topic.clone(), index)).copied()
    }

    /// A partition by its number.
    pub(crate) fn at(&mut self, at: usize) -> &mut Entry {
        &mut self.entries[at]
    }

    /// Notes that a partition is watched from now on; `false` when it was.
    pub(crate) fn arm(&mut self, at: usize) -> bool {
        !std::mem::replace(&mut self.entries[at].armed, true)
    }

    /// Partitions of `generation` have moved. Whether one of them is fetched.
    fn fired(&mut self, generation: u32, slots: &[u32]) -> bool {
        if generation != self.generation {
            return false;
        }
        for slot in slots {
            let at = *slot as usize;
            self.entries[at].armed = false;
            self.enqueue(at);
        }
        !self.queue.is_empty()
    }

    /// Which numbering of partitions is in force.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Partitions that are fetched.
    pub(crate) fn len(&self) -> usize {
        self.active
    }

    /// Partitions that take memory.
    fn held(&self) -> usize {
        self.entries.len()
    }
}

fn owned(topic: &TopicRef) -> TopicRef {
    match topic {
        TopicRef::Name(name) => TopicRef::Name(StrBytes::from_string(name.to_string())),
        TopicRef::Id(id) => TopicRef::Id(*id),
    }
}

/// A partition, and where its high watermark and last stable offset stood when it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) ring: RingId,
    pub(crate) partition: PartitionId,
    pub(crate) stood: (i64, i64),
}

/// Partitions to watch, by their numbers in the session, on their shard.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) generation: u32,
    pub(crate) arm: Vec<(u32, Seen)>,
}

/// A session. Lives on its shard.
pub(crate) struct Session {
    /// Its id, above 0.
    pub(crate) id: i32,
    /// Whether the client names topics by id (version 13 and later).
    pub(crate) by_id: bool,
    /// Notified when a partition that is watched has moved.
    pub(crate) woken: Notify,
    pub(crate) partitions: RefCell<Partitions>,
    pub(crate) watchers: RefCell<BTreeMap<ShardId, mailbox::Sender<Watch>>>,
    epoch: Cell<i32>,
    made: Instant,
    used: Cell<Instant>,
    /// Partitions that were counted for it.
    counted: Cell<usize>,
}

impl Session {
    /// Partitions have moved.
    pub(crate) fn fired(&self, generation: u32, slots: &[u32]) {
        if self.partitions.borrow_mut().fired(generation, slots) {
            self.woken.notify_all();
        }
    }
}

/// What a request says of sessions, and what is to be done.
pub(crate) enum Plan {
    /// Everything asked for is in the request, and no session is wanted.
    Whole,
    /// Everything asked for is in the request, and a session is wanted.
    New,
    /// The request changes a session and asks for what is new in it.
    Next(Rc<Session>),
    /// It cannot be served, for this Kafka error code.
    Refused(Fault),
}

/// What is wrong with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is none of this id here.
    NotFound,
    /// The request is not the next one.
    Epoch,
    /// The session names topics in the other way.
    TopicIds,
}

/// The sessions of a shard.
pub(crate) struct FetchSessions {
    shard: ShardId,
    shards: u16,
    slots: usize,
    by_id: RefCell<BTreeMap<i32, Rc<Session>>>,
    partitions: Cell<usize>,
    /// Sessions that made room for others.
    evicted: Counter,
    /// Sessions that were wanted and not made, because there were too many.
    refused: Counter,
}

/// The epoch of a request that makes a session, and of one that wants none.
const FIRST: i32 = 0;
const NONE: i32 = -1;

impl std::fmt::Debug for FetchSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FetchSessions({})", self.len())
    }
}

impl FetchSessions {
    /// None yet, of the `slots` that all shards have together.
    pub(crate) fn new(shard: ShardId, shards: u16, slots: usize) -> FetchSessions {
        let shards = shards.max(1);
        FetchSessions {
            shard,
            shards,
            slots: slots.div_ceil(usize::from(shards)),
            by_id: RefCell::default(),
            partitions: Cell::new(0),
            evicted: Counter::default(),
            refused: Counter::default(),
        }
    }

    /// Adds its samples to `out`.
    pub(crate) fn collect(&self, out: &mut Vec<Sample>) {
        for (family, value) in [
            ("tidemill_fetch_sessions", self.len() as u64),
            (
                "tidemill_fetch_session_partitions",
                self.partitions.get() as u64,
            ),
            ("tidemill_fetch_sessions_evicted_total", self.evicted.get()),
            ("tidemill_fetch_sessions_refused_total", self.refused.get()),
        ] {
            out.push(Sample::plain(family, Vec::new(), value as f64));
        }
    }

    /// Sessions there are.
    fn len(&self) -> usize {
        self.by_id.borrow().len()
    }

    /// Decides what a request is, and changes the session it belongs to.
    pub(crate) fn plan(&self, body: &FetchRequest, by_id: bool) -> Plan {
        let (id, epoch) = (body.session_id, body.session_epoch);
        if epoch == FIRST || epoch == NONE {
            self.remove(id);
            return match epoch {
                FIRST => Plan::New,
                _ => Plan::Whole,
            };
        }
        let Some(session) = self.by_id.borrow().get(&id).cloned() else {
            return Plan::Refused(Fault::NotFound);
        };
        if session.epoch.get() != epoch {
            return Plan::Refused(Fault::Epoch);
        }
        if session.by_id != by_id {
            return Plan::Refused(Fault::TopicIds);
        }
        let updated = session.partitions.borrow_mut().update(body);
        self.count(&session);
        if updated.is_err() || self.partitions.get() > CACHE_PARTITIONS_MAX {
            self.remove(id);
            self.refused.add(1);
            return Plan::Refused(Fault::NotFound);
        }
        if session.partitions.borrow().len() == 0 {
            // Nothing is left to fetch, as in Kafka: the session ends, and the answer is empty.
            self.remove(id);
            return Plan::Whole;
        }
        session.epoch.set(next_epoch(epoch));
        session.used.set(Instant::now());
        Plan::Next(session)
    }

    /// Keeps a session; `None` when there is no room.
    pub(crate) fn insert(&self, partitions: Partitions, by_id: bool) -> Option<Rc<Session>> {
        if !self.make_room(partitions.len()) {
            self.refused.add(1);
            return None;
        }
        let now = Instant::now();
        let session = Rc::new(Session {
            id: self.free_id(),
            by_id,
            woken: Notify::new(),
            partitions: RefCell::new(partitions),
            watchers: RefCell::default(),
            epoch: Cell::new(next_epoch(FIRST)),
            made: now,
            used: Cell::new(now),
            counted: Cell::new(0),
        });
        self.count(&session);
        self.by_id.borrow_mut().insert(session.id, session.clone());
        Some(session)
    }

    fn count(&self, session: &Session) {
        let held = session.partitions.borrow().held();
        let before = session.counted.replace(held);
        self.partitions.set(self.partitions.get() + held - before);
    }

    fn remove(&self, id: i32) {
        if let Some(session) = self.by_id.borrow_mut().remove(&id) {
            self.partitions
                .set(self.partitions.get() - session.counted.replace(0));
        }
    }

    /// Makes room for a session of `size` partitions, by Kafka's rules: one that was not used for long goes first, else the
    /// smallest of those that are old, if it is smaller than the new one.
    fn make_room(&self, size: usize) -> bool {
        if self.slots == 0 {
            return false;
        }
        let full =
            || self.len() >= self.slots || self.partitions.get() + size > CACHE_PARTITIONS_MAX;
        while full() {
            let Some(id) = self.evictable(size) else {
                return false;
            };
            self.remove(id);
            self.evicted.add(1);
        }
        true
    }

    fn evictable(&self, size: usize) -> Option<i32> {
        let sessions = self.by_id.borrow();
        let idle = sessions.values().min_by_key(|s| s.used.get());
        if let Some(idle) = idle.filter(|s| s.used.get().elapsed() > EVICT_AFTER) {
            return Some(idle.id);
        }
        let old = sessions.values().filter(|s| s.made.elapsed() > EVICT_AFTER);
        let smallest = old.min_by_key(|s| s.partitions.borrow().len())?;
        let smaller = smallest.partitions.borrow().len() < size;
        smaller.then_some(smallest.id)
    }

    /// An id that no session has and that says which shard it is of. Random, so that nobody meets another's by chance.
    fn free_id(&self) -> i32 {
        let shards = i32::from(self.shards);
        loop {
            let turn = rand::below((i32::MAX / shards - 1) as u64) as i32 + 1;
            let id = turn * shards + i32::from(self.shard.0);
            // The largest one may not fit; it is above 0 in any case.
            if id > 0 && !self.by_id.borrow().contains_key(&id) {
                return id;
            }
        }
    }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests;
