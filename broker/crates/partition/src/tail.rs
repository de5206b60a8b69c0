//! Recent batches in memory. Those not yet in segments are always here; those that are stay until the shard's cache
//! budget is exceeded, oldest first across partitions.
//!
//! Memory is charged by the allocation behind a batch (rule S13): [`compact`] copies small batches out of the larger
//! buffer they arrived in, so that a batch pins no more than it is charged for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use tidemill_model::{Batch, Offset};
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::oneshot;

/// Batches below this many bytes are copied out of the buffer they arrived in.
pub const COPY_BELOW_BYTES: usize = 16 * 1024;
/// What a held batch costs beside its bytes: header, queue places, reference counts.
pub const BATCH_OVERHEAD_BYTES: u64 = 192;
/// Callers that may wait for memory at once on one shard; each has a client's request in hand.
pub const WAITING_MAX: usize = 65_536;

/// `bytes` in an allocation of their own if they are small, else as they are.
pub fn compact(bytes: Bytes) -> Bytes {
    match bytes.len() < COPY_BELOW_BYTES {
        true => Bytes::copy_from_slice(&bytes),
        false => bytes,
    }
}

/// Memory budgets that the rings of one shard share. A cheap handle.
#[derive(Debug, Clone)]
pub struct ShardMemory(Rc<RefCell<Budgets>>);

/// How much memory a shard gives to batches.
#[derive(Debug, Clone, Copy)]
pub struct MemoryConfig {
    /// Bytes that client writes and outcomes may have in flight and not yet in a segment or checkpoint.
    pub unflushed_bytes: u64,
    /// Bytes on top of that for deliveries of other rings, so that two full shards do not wait for each other (X8).
    pub delivery_bytes: u64,
    /// Bytes of batches that are in segments and kept for readers.
    pub cache_bytes: u64,
}

impl Default for MemoryConfig {
    fn default() -> MemoryConfig {
        MemoryConfig {
            unflushed_bytes: 128 * 1024 * 1024,
            delivery_bytes: 32 * 1024 * 1024,
            cache_bytes: 128 * 1024 * 1024,
        }
    }
}

#[derive(Debug)]
struct Budgets {
    config: MemoryConfig,
    in_flight: u64,
    unflushed: u64,
    cached: u64,
    cache: VecDeque<Cached>,
    waiting: VecDeque<(u64, oneshot::Sender<Reservation>)>,
    /// A delivery found no room since memory was last given back.
    starved: bool,
    pressure: Notify,
    stats: MemoryStats,
}

#[derive(Debug)]
struct Cached {
    tail: Weak<RefCell<Inner>>,
    base_offset: Offset,
    bytes: u64,
}

/// Counters of a shard's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes proposed and not applied.
    pub in_flight_bytes: u64,
    /// Bytes applied, and neither in a segment nor in a checkpoint.
    pub unflushed_bytes: u64,
    /// Bytes kept for readers.
    pub cached_bytes: u64,
    /// How often a writer had to wait.
    pub waits_total: u64,
    /// How often a delivery found no room.
    pub deliveries_refused_total: u64,
    /// Batches that left the cache.
    pub evicted_total: u64,
}

/// Memory of a proposal until it is applied; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    memory: ShardMemory,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.0.borrow_mut().in_flight -= self.bytes;
        self.memory.grant();
    }
}

impl Budgets {
    fn fits(&self, bytes: u64, limit: u64) -> bool {
        let used = self.in_flight + self.unflushed;
        // What is larger than the whole budget runs alone instead of never.
        used == 0 || used + bytes <= limit
    }
}

impl ShardMemory {
    /// Budgets as configured, unused.
    pub fn new(config: MemoryConfig) -> ShardMemory {
        ShardMemory(Rc::new(RefCell::new(Budgets {
            config,
            in_flight: 0,
            unflushed: 0,
            cached: 0,
            cache: VecDeque::new(),
            waiting: VecDeque::new(),
            starved: false,
            pressure: Notify::new(),
            stats: MemoryStats::default(),
        })))
    }

    /// Notified when somebody wants memory that is not there: whoever can flush should.
    pub fn pressure(&self) -> Notify {
        self.0.borrow().pressure.clone()
    }

    /// Whether somebody wants memory that is not there.
    pub fn is_wanted(&self) -> bool {
        let b = self.0.borrow();
        b.starved || !b.waiting.is_empty()
    }

    /// Memory for a write, if it is free and nobody waits for it.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut b = self.0.borrow_mut();
        let free = b.waiting.is_empty() && b.fits(bytes, b.config.unflushed_bytes);
        free.then(|| self.take(&mut b, bytes))
    }

    /// Memory for a write, first come, first served. `None` when [`WAITING_MAX`] wait already.
    pub async fn reserve(&self, bytes: u64) -> Option<Reservation> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Some(reservation);
        }
        let rx = {
            let mut b = self.0.borrow_mut();
            if b.waiting.len() >= WAITING_MAX {
                return None;
            }
            let (tx, rx) = oneshot::channel();
            b.waiting.push_back((bytes, tx));
            b.stats.waits_total += 1;
            b.pressure.notify_all();
            rx
        };
        rx.await.ok()
    }

    /// Memory for a delivery of another ring: never waits, has a reserve of its own (rule X8). `None` means busy.
    pub fn try_reserve_delivery(&self, bytes: u64) -> Option<Reservation> {
        let mut b = self.0.borrow_mut();
        if b.fits(bytes, b.config.unflushed_bytes + b.config.delivery_bytes) {
            return Some(self.take(&mut b, bytes));
        }
        b.stats.deliveries_refused_total += 1;
        b.starved = true;
        b.pressure.notify_all();
        None
    }

    fn take(&self, b: &mut Budgets, bytes: u64) -> Reservation {
        b.in_flight += bytes;
        Reservation {
            memory: self.clone(),
            bytes,
        }
    }

    fn grant(&self) {
        loop {
            let (reservation, tx) = {
                let mut b = self.0.borrow_mut();
                match b.waiting.front() {
                    Some((bytes, _)) if b.fits(*bytes, b.config.unflushed_bytes) => {}
                    _ => return,
                }
                let Some((bytes, tx)) = b.waiting.pop_front() else {
                    return;
                };
                if tx.is_closed() {
                    continue;
                }
                (self.take(&mut b, bytes), tx)
            };
            // A waiter that is gone drops the reservation, which comes back through here.
            let _ = tx.send(reservation);
        }
    }

    fn charge(&self, bytes: u64) {
        self.0.borrow_mut().unflushed += bytes;
    }

    fn discharge(&self, bytes: u64) {
        {
            let mut b = self.0.borrow_mut();
            b.unflushed -= bytes;
            b.starved = false;
        }
        self.grant();
    }

    fn cache(&self, entries: Vec<Cached>) {
        let mut evicted = Vec::new();
        {
            let mut b = self.0.borrow_mut();
            b.cached += entries.iter().map(|e| e.bytes).sum::<u64>();
            b.cache.extend(entries);
            while b.cached > b.config.cache_bytes {
                let Some(entry) = b.cache.pop_front() else {
                    break;
                };
                b.cached -= entry.bytes;
                b.stats.evicted_total += 1;
                evicted.push(entry);
            }
        }
        for entry in evicted {
            if let Some(tail) = entry.tail.upgrade() {
                tail.borrow_mut().evict(entry.base_offset);
            }
        }
    }

    /// The counters now.
    pub fn stats(&self) -> MemoryStats {
        let b = self.0.borrow();
        MemoryStats {
            in_flight_bytes: b.in_flight,
            unflushed_bytes: b.unflushed,
            cached_bytes: b.cached,
            ..b.stats
        }
    }
}

/// A batch in memory.
#[derive(Debug, Clone)]
pub struct Held {
    /// The batch.
    pub batch: Batch,
    /// Whether it begins a new segment file.
    pub starts_segment: bool,
}

fn cost(batch: &Batch) -> u64 {
    batch.len() as u64 + BATCH_OVERHEAD_BYTES
}

/// Batches in order: the first `flushed` are in segments, those up to `carried` in segments or a checkpoint, the rest
/// is charged as unflushed.
#[derive(Debug)]
struct Inner {
    batches: VecDeque<Held>,
    flushed: usize,
    carried: usize,
    memory: ShardMemory,
}

impl Inner {
    fn evict(&mut self, base_offset: Offset) {
        let front = self.batches.front().map(|h| h.batch.header.base_offset);
        if self.flushed > 0 && front == Some(base_offset) {
            self.batches.pop_front();
            self.flushed -= 1;
            self.carried -= 1;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let charged: u64 = self
            .batches
            .iter()
            .skip(self.carried)
            .map(|h| cost(&h.batch))
            .sum();
        self.memory.discharge(charged);
    }
}

/// The batches of one partition that are in memory.
#[derive(Debug)]
pub struct Tail(Rc<RefCell<Inner>>);

impl Tail {
    /// Nothing yet.
    pub fn new(memory: ShardMemory) -> Tail {
        Tail(Rc::new(RefCell::new(Inner {
            batches: VecDeque::new(),
            flushed: 0,
            carried: 0,
            memory,
        })))
    }

    /// Adds the next batch, charged as unflushed.
    pub fn push(&self, held: Held) {
        let mut inner = self.0.borrow_mut();
        inner.memory.charge(cost(&held.batch));
        inner.batches.push_back(held);
    }

    /// Batches from the one that holds `from` on, until they have `max_bytes` bytes; at least one. `None` when that
    /// batch is not in memory. Only batches that end at or below `limit`.
    pub fn read(&self, from: Offset, limit: Offset, max_bytes: usize) -> Option<Vec<Batch>> {
        let inner = self.0.borrow();
        let at = inner
            .batches
            .partition_point(|h| h.batch.header.next_offset() <= from);
        if inner.batches.get(at)?.batch.header.base_offset > from {
            return None;
        }
        let (mut out, mut bytes) = (Vec::new(), 0);
        for held in inner.batches.range(at..) {
            bytes += held.batch.len();
            let below = held.batch.header.next_offset() <= limit;
            if !below || (bytes > max_bytes && !out.is_empty()) {
                break;
            }
            out.push(held.batch.clone());
        }
        Some(out)
    }

    /// Batches from offset `from` on that are in no segment yet and end at or below `upto`.
    pub fn unflushed(&self, from: Offset, upto: Offset) -> Vec<Held> {
        let inner = self.0.borrow();
        let wanted = inner.batches.range(inner.flushed..);
        let wanted = wanted
            .filter(|h| h.batch.header.base_offset >= from && h.batch.header.next_offset() <= upto);
        wanted.cloned().collect()
    }

    /// Bytes from offset `from` on that are in no segment yet.
    pub fn unflushed_bytes(&self, from: Offset) -> u64 {
        let inner = self.0.borrow();
        let wanted = inner.batches.range(inner.flushed..);
        let wanted = wanted.filter(|h| h.batch.header.base_offset >= from);
        wanted.map(|h| h.batch.len() as u64).sum()
    }

    /// Says that a durable checkpoint was written: batches below `flushed` are in segments, those below `carried` are
    /// in segments or in the checkpoint. Their memory goes back to writers.
    pub fn settle(&self, flushed: Offset, carried: Offset) {
        let (memory, entries, freed) = {
            let mut inner = self.0.borrow_mut();
            let mut entries = Vec::new();
            while let Some(held) = inner.batches.get(inner.flushed) {
                if held.batch.header.next_offset() > flushed {
                    break;
                }
                entries.push(Cached {
                    tail: Rc::downgrade(&self.0),
                    base_offset: held.batch.header.base_offset,
                    bytes: cost(&held.batch),
                });
                inner.flushed += 1;
            }
            let mut freed = 0;
            let end = carried.max(flushed);
            while let Some(held) = inner.batches.get(inner.carried) {
                if held.batch.header.next_offset() > end {
                    break;
                }
                freed += cost(&held.batch);
                inner.carried += 1;
            }
            (inner.memory.clone(), entries, freed)
        };
        memory.discharge(freed);
        memory.cache(entries);
    }

    /// Batches in memory.
    pub fn len(&self) -> usize {
        self.0.borrow().batches.len()
    }

    /// Whether no batch is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
