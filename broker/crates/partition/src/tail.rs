//! Recent batches in memory. Those not yet in segments are always here; those that are stay until the shard's cache
//! budget is exceeded, oldest first across partitions.
//!
//! Memory is charged by the allocation behind a batch (rule S13): [`compact`] copies small batches out of the larger
//! buffer they arrived in, so that a batch pins no more than it is charged for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::{Batch, Offset};
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::oneshot;
use tidemill_rt::chan::semaphore::{Permit, Semaphore};
use tidemill_rt::chan::turn::Turn;
use tidemill_rt::time::Instant;

/// Batches below this many bytes are copied out of the buffer they arrived in.
pub const COPY_BELOW_BYTES: usize = 16 * 1024;
/// What a held batch costs beside its bytes: header, queue places, reference counts.
pub const BATCH_OVERHEAD_BYTES: u64 = 192;
/// Callers that may wait for memory at once on one shard; each has a client's request in hand.
pub const WAITING_MAX: usize = 65_536;
/// Segments that are read at the same time on a shard; each is an open file. Helper threads read far fewer at once.
const READS_AT_ONCE: u64 = 64;
/// How long memory is kept free for a delivery that found none. Its sender tries again much sooner; one that does not has
/// found another way.
const HOLD_BACK: Duration = Duration::from_secs(1);

/// `bytes` in an allocation of their own if they are small, else as they are.
pub fn compact(bytes: Bytes) -> Bytes {
    match bytes.len() < COPY_BELOW_BYTES {
        true => Bytes::copy_from_slice(&bytes),
        false => bytes,
    }
}

/// Memory budgets that the rings of one shard share. A cheap handle.
#[derive(Debug, Clone)]
pub struct ShardMemory(Rc<RefCell<Budgets>>, Semaphore);

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
    /// The largest delivery that found no room, in bytes, and when it was last refused.
    refused: Option<(u64, Instant)>,
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

    /// Bytes kept free for a delivery that was refused. Without that, writers would take whatever comes free, and one that is
    /// larger than the reserve for deliveries would never be let in. At most half of the writers' share is kept from them,
    /// so that they go on even when that delivery never comes back.
    fn held_back(&self) -> u64 {
        let most = self.config.delivery_bytes + self.config.unflushed_bytes / 2;
        match self.refused {
            Some((bytes, at)) if at.elapsed() < HOLD_BACK => bytes.min(most),
            _ => 0,
        }
    }

    /// Memory in use up to which a write is let in.
    fn write_limit(&self) -> u64 {
        let all = self.config.unflushed_bytes + self.config.delivery_bytes;
        self.config.unflushed_bytes.min(all - self.held_back())
    }

    /// Memory in use up to which a delivery is let in: smaller ones do not overtake one that was refused either.
    fn delivery_limit(&self, bytes: u64) -> u64 {
        let all = self.config.unflushed_bytes + self.config.delivery_bytes;
        match self.refused {
            Some((refused, _)) if refused > bytes => all - self.held_back(),
            _ => all,
        }
    }
}

impl ShardMemory {
    /// Budgets as configured, unused.
    pub fn new(config: MemoryConfig) -> ShardMemory {
        let budgets = Rc::new(RefCell::new(Budgets {
            config,
            in_flight: 0,
            unflushed: 0,
            cached: 0,
            cache: VecDeque::new(),
            waiting: VecDeque::new(),
            starved: false,
            refused: None,
            pressure: Notify::new(),
            stats: MemoryStats::default(),
        }));
        ShardMemory(budgets, Semaphore::new(READS_AT_ONCE))
    }

    /// A turn to read a segment, which takes an open file and a buffer; first come, first served.
    pub(crate) async fn read_turn(&self) -> Permit {
        self.1.acquire(1).await
    }

    /// The budgets.
    pub fn config(&self) -> MemoryConfig {
        self.0.borrow().config
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
        let free = b.waiting.is_empty() && b.fits(bytes, b.write_limit());
        free.then(|| self.take(&mut b, bytes))
    }

    /// Memory for a write, first come, first served. `None` when [`WAITING_MAX`] wait already.
    pub async fn reserve(&self, bytes: u64) -> Option<Reservation> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Some(reservation);
        }
        let waiting = {
            let mut b = self.0.borrow_mut();
            if b.waiting.len() >= WAITING_MAX {
                return None;
            }
            let (tx, rx) = oneshot::channel();
            b.waiting.push_back((bytes, tx));
            b.stats.waits_total += 1;
            b.pressure.notify_all();
            Turn::new(rx, || self.grant())
        };
        waiting.await
    }

    /// Memory for a delivery of another ring: never waits, has a reserve of its own (rule X8). `None` means busy.
    pub fn try_reserve_delivery(&self, bytes: u64) -> Option<Reservation> {
        let mut b = self.0.borrow_mut();
        if b.fits(bytes, b.delivery_limit(bytes)) {
            if b.refused.is_some_and(|(refused, _)| refused <= bytes) {
                b.refused = None;
            }
            return Some(self.take(&mut b, bytes));
        }
        b.stats.deliveries_refused_total += 1;
        b.starved = true;
        let larger_is_kept_for =
            |(refused, at): (u64, Instant)| refused > bytes && at.elapsed() < HOLD_BACK;
        if !b.refused.is_some_and(larger_is_kept_for) {
            b.refused = Some((bytes, Instant::now()));
        }
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
                // Those who gave up are passed over before anything is asked of their size: it is nobody's any more.
                while b.waiting.front().is_some_and(|(_, tx)| tx.is_closed()) {
                    b.waiting.pop_front();
                }
                let limit = b.write_limit();
                if !b
                    .waiting
                    .front()
                    .is_some_and(|(bytes, _)| b.fits(*bytes, limit))
                {
                    return;
                }
                let Some((bytes, tx)) = b.waiting.pop_front() else {
                    return;
                };
                (self.take(&mut b, bytes), tx)
            };
            // A waiter that is gone drops the reservation, which comes back through here.
            let _ = tx.send(reservation);
        }
    }

    /// Charges `bytes` of an applied entry that no tail holds (it was refused, repeated, or went to an outbox): the entry stays
    /// in memory until a checkpoint lets the log go. To be given back with [`ShardMemory::discharge`].
    pub fn charge(&self, bytes: u64) {
        self.0.borrow_mut().unflushed += bytes;
    }

    /// Gives back what was charged, to whoever waits for memory.
    pub fn discharge(&self, bytes: u64) {
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

    /// Bytes applied, and neither in a segment nor in a checkpoint.
    pub fn unflushed_bytes(&self) -> u64 {
        self.0.borrow().unflushed
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
    /// What retention counts from, in ms: its largest timestamp, or the time of its append where it has none.
    pub time_ms: i64,
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

    /// The budgets it is charged to.
    pub fn memory(&self) -> ShardMemory {
        self.0.borrow().memory.clone()
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
        let mut bytes = 0;
        self.each_unflushed(from, |held| bytes += held.batch.len() as u64);
        bytes
    }

    /// Shows `see` the batches from offset `from` on that are in no segment yet, in order.
    pub fn each_unflushed(&self, from: Offset, see: impl FnMut(&Held)) {
        let inner = self.0.borrow();
        let wanted = inner.batches.range(inner.flushed..);
        wanted
            .filter(|h| h.batch.header.base_offset >= from)
            .for_each(see);
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use tidemill_rt::sim::Sim;
    use tidemill_rt::time;

    use super::*;

    fn memory() -> ShardMemory {
        ShardMemory::new(MemoryConfig {
            unflushed_bytes: 100,
            delivery_bytes: 20,
            cache_bytes: 0,
        })
    }

    fn now<T>(future: &mut Pin<Box<impl Future<Output = T>>>) -> Option<T> {
        match future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn writer_that_gives_up_lets_those_behind_it_have_their_turn() {
        Sim::new(1)
            .block_on(async {
                let memory = memory();
                let held = memory.try_reserve(50);
                let mut large = Box::pin(memory.reserve(80));
                let mut small = Box::pin(memory.reserve(40));
                assert!(now(&mut large).is_none() && now(&mut small).is_none());
                drop(large);
                assert!(now(&mut small).flatten().is_some());
                drop(held);
            })
            .expect("ends");
    }

    #[test]
    fn x8_delivery_above_the_reserve_is_let_in_although_writers_take_what_comes_free() {
        Sim::new(1)
            .block_on(async {
                let memory = memory();
                let mut held: VecDeque<Reservation> =
                    (0..10).filter_map(|_| memory.try_reserve(10)).collect();
                assert_eq!(held.len(), 10);
                let mut tries = 0;
                while memory.try_reserve_delivery(50).is_none() {
                    tries += 1;
                    assert!(tries < 10, "it never finds room");
                    // A writer waits for whatever is given back next.
                    let mut writer = Box::pin(memory.reserve(10));
                    assert!(now(&mut writer).is_none());
                    held.pop_front();
                    held.extend(now(&mut writer).flatten());
                }
            })
            .expect("ends");
    }

    #[test]
    fn memory_kept_for_a_delivery_that_never_comes_back_is_the_writers_again() {
        Sim::new(1)
            .block_on(async {
                let memory = memory();
                let held = memory.try_reserve(80);
                assert!(memory.try_reserve_delivery(70).is_none());
                assert!(memory.try_reserve(10).is_none(), "it is kept free");
                time::sleep(HOLD_BACK).await;
                assert!(memory.try_reserve(10).is_some());
                drop(held);
            })
            .expect("ends");
    }
}
