//! The life of a node's storage: three rings with six partitions on one shard log, small files, appends, retention by time and by
//! bytes, DeleteRecords, a disk that is full now and then, kills and power cuts. What was acknowledged is there once, where it was said
//! to be, unless the log starts above it; offsets are dense; a log never begins earlier than it was seen to, begins where retention
//! or a client wanted it, and nothing below that is served; and however full the disk was, everything goes on when there is room.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use common::{batch, numbers, partition};
use tidemill_model::{Offset, PartitionId, RingId};
use tidemill_ring::{AppendError, DeleteError, Isolation, PartitionConfig, ReadError, Ring};
use tidemill_rt::sim::{Sim, SimDisk, Stopped, for_seeds};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::{rand, time};
use tidemill_shardlog::{LogError, RecoveredRing, ShardLog, SpaceConfig};

const RINGS: u32 = 3;
const PARTITIONS_PER_RING: i32 = 2;
const CLIENTS: u64 = 4;
const BATCHES_PER_CLIENT: u64 = 20;
const LOG_FILE_BYTES: u64 = 64 << 10;
const RESERVE_BYTES: u64 = 600 << 10;
const SEGMENT_BYTES: u32 = 30_000;
const RETENTION_MS: i64 = 150;
const RETENTION_BYTES: i64 = 50_000;
const RETENTION_INTERVAL: Duration = Duration::from_millis(7);
/// More than a batch of a client takes, in bytes.
const BATCH_BYTES_MAX: u64 = 30_000;
/// Steps within which a life is cut short, if it is.
const CRASH_WITHIN: u64 = 9_000;
/// How long the disk is full at most, in ms.
const FULL_MS_MAX: u64 = 5_000;

/// An acknowledged record.
#[derive(Clone, Copy)]
struct Acked {
    offset: Offset,
    timestamp: i64,
}

/// What the clients know of one life of a partition.
#[derive(Default)]
struct Known {
    /// Acknowledged values.
    acked: BTreeMap<u64, Acked>,
    /// The latest beginning of its log that anybody saw.
    start: Offset,
    /// The highest offset that records were deleted below for a client.
    deleted: Offset,
    /// What clients wanted records deleted below and have no answer to.
    asked: Vec<Offset>,
}

impl Known {
    fn answered(&mut self, before: Offset) {
        let at = self.asked.iter().position(|asked| *asked == before);
        self.asked.swap_remove(at.expect("it was asked"));
    }

    /// A log begins at `start`, and a client may have wanted that, with `before`.
    fn note_deleted(&mut self, before: Offset, start: Offset) {
        let to = if before == -1 { start } else { before };
        if to <= start {
            self.deleted = self.deleted.max(to);
        }
    }
}

#[derive(Default)]
struct World {
    next_value: Cell<u64>,
    partitions: RefCell<BTreeMap<PartitionId, Known>>,
    seen: RefCell<Seen>,
}

/// What a seed came across.
#[derive(Debug, Default)]
struct Seen {
    crashes: u64,
    refused: u64,
    stalled: u64,
    /// Records were deleted for a client.
    deleted: u64,
    /// A restart found a log that retention had moved on.
    retained: u64,
}

impl World {
    fn known<T>(&self, id: PartitionId, f: impl FnOnce(&mut Known) -> T) -> T {
        f(self.partitions.borrow_mut().entry(id).or_default())
    }

    /// Somebody who began to look when `before` was known was told where the log begins; answers may overtake each other.
    fn note_start(&self, id: PartitionId, before: Offset, start: Offset) {
        assert!(start >= before, "{id} began at {before}, now at {start}");
        self.known(id, |known| known.start = known.start.max(start));
    }

    fn start(&self, id: PartitionId) -> Offset {
        self.known(id, |known| known.start)
    }
}

/// Two partitions keep everything, of the others two lose what is old, two what is too much; one of each kind is in the silent ring
/// or beside one that keeps.
fn settings(id: PartitionId) -> PartitionConfig {
    let (by_time, by_bytes) = match (id.topic.0[0], id.index) {
        (1, 0) | (2, 0) => (false, false),
        (1, _) => (true, false),
        (2, _) => (false, true),
        (_, 0) => (true, true),
        _ => (true, false),
    };
    PartitionConfig {
        segment_bytes: SEGMENT_BYTES,
        retention_ms: if by_time { RETENTION_MS } else { -1 },
        retention_bytes: if by_bytes { RETENTION_BYTES } else { -1 },
        ..PartitionConfig::default()
    }
}

struct Node {
    log: ShardLog,
    rings: Vec<Ring>,
}

/// Opens the log; a disk without any room is made larger as an operator would.
async fn open_log(disk: &SimDisk) -> (ShardLog, BTreeMap<RingId, RecoveredRing>) {
    loop {
        match common::open_log(LOG_FILE_BYTES).await {
            Ok(opened) => return opened,
            Err(e) if e.is_full() || matches!(e, LogError::Io { .. }) => disk.set_capacity(None),
            Err(e) => panic!("{e}"),
        }
    }
}

async fn start(disk: &SimDisk) -> Node {
    let (log, recovered) = open_log(disk).await;
    let watch = SpaceConfig {
        path: PathBuf::from("/data"),
        reserve_bytes: RESERVE_BYTES,
    };
    log.watch_space(watch).await;
    let rings = common::open_rings(&log, recovered, RINGS, |config| {
        config.flush_bytes = 40 * 1024;
        config.flush_interval = Duration::from_millis(40 * u64::from(config.ring.0));
        config.retention_interval = RETENTION_INTERVAL;
    })
    .await;
    let node = Node { log, rings };
    node.open_partitions().await;
    node
}

impl Node {
    fn ring(&self, id: PartitionId) -> &Ring {
        &self.rings[usize::from(id.topic.0[0]) - 1]
    }

    async fn open_partitions(&self) {
        for id in partitions() {
            let opened = self.ring(id).open_partition(id, settings(id), 0).await;
            opened.expect("it opens");
        }
    }
}

fn partitions() -> impl Iterator<Item = PartitionId> {
    let of = |ring| (0..PARTITIONS_PER_RING).map(move |index| partition(ring as u8, index));
    (1..=RINGS).flat_map(of)
}

/// One client: each batch goes to one partition and is given up when its answer is lost with the node; now and then it deletes.
async fn client(node: Rc<Node>, world: Rc<World>) {
    for _ in 0..BATCHES_PER_CLIENT {
        // The first ring is the silent one.
        let ring = if rand::below(20) == 0 {
            1
        } else {
            2 + rand::below(2) as u8
        };
        let id = partition(ring, rand::below(PARTITIONS_PER_RING as u64) as i32);
        produce(&node, &world, id).await;
        if rand::below(8) == 0 {
            delete(&node, &world, id).await;
        }
        time::sleep(Duration::from_millis(rand::below(12))).await;
    }
}

async fn produce(node: &Node, world: &World, id: PartitionId) {
    let first = world.next_value.get() + 1;
    let count = [1, 1, 1, 3][rand::below(4) as usize];
    let some: Vec<u64> = (first..first + count).collect();
    world.next_value.set(first + count - 1);
    let timestamp = time::unix_ms();
    let base = loop {
        let (header, bytes) = batch(&some, timestamp, None);
        let append = node.ring(id).append(id, header, bytes, time::unix_ms());
        match append.await {
            Ok(appended) => break appended.base_offset,
            Err(AppendError::DiskFull) => {
                world.seen.borrow_mut().refused += 1;
                time::sleep(Duration::from_millis(100)).await;
            }
            Err(e) => panic!("{e}"),
        }
    };
    world.known(id, |known| {
        for (number, offset) in some.into_iter().zip(base..) {
            known.acked.insert(number, Acked { offset, timestamp });
        }
    });
}

/// Deletes records from the front of a partition: as far as some record, all, or more than there are. Works on a full disk.
async fn delete(node: &Node, world: &World, id: PartitionId) {
    let ring = node.ring(id);
    let view = ring.view(id).expect("it is open");
    let before = match rand::below(4) {
        0 => -1,
        1 => view.high_watermark + 1 + rand::below(100) as i64,
        _ => view.log_start_offset + rand::below(12) as i64,
    };
    world.known(id, |known| known.asked.push(before));
    let began = world.start(id);
    let answer = ring.delete_records(id, before).await;
    world.known(id, |known| known.answered(before));
    match answer {
        Ok(start) => {
            assert!(start >= before.max(view.log_start_offset));
            world.note_start(id, began, start);
            world.known(id, |known| known.note_deleted(before, start));
            world.seen.borrow_mut().deleted += 1;
            refuses_below(ring, id, start).await;
        }
        Err(DeleteError::OutOfRange(_)) => assert!(before > view.high_watermark),
        Err(e) => panic!("{e}"),
    }
}

/// Nothing below the start of a log is served.
async fn refuses_below(ring: &Ring, id: PartitionId, start: Offset) {
    if start > 0 {
        let below = rand::below(start as u64) as i64;
        let read = ring.read(id, below, 1, Isolation::ReadUncommitted).await;
        assert!(
            matches!(read, Err(ReadError::OffsetOutOfRange { log_start_offset, .. }) if log_start_offset >= start),
            "{id} begins at {start}; {below} was served"
        );
    }
}

/// Fills the disk now and then, sometimes to the last byte, and makes room again.
async fn fill_disk(disk: SimDisk) {
    loop {
        time::sleep(Duration::from_millis(rand::below(300))).await;
        let left = match rand::below(3) {
            0 => 0,
            1 => rand::below(LOG_FILE_BYTES),
            _ => rand::below(RESERVE_BYTES),
        };
        disk.set_capacity(Some(disk.used() + left));
        time::sleep(Duration::from_millis(1 + rand::below(FULL_MS_MAX))).await;
        disk.set_capacity(None);
    }
}

async fn life(disk: SimDisk, world: Rc<World>) {
    task::spawn(Queue::Background, fill_disk(disk.clone()));
    let node = Rc::new(start(&disk).await);
    verify(&node, &world).await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| task::spawn(Queue::Kafka, client(node.clone(), world.clone())))
        .collect();
    for client in clients {
        client.await.expect("no panic");
    }
    let stats = node.log.stats();
    world.seen.borrow_mut().stalled += stats.full_waits;
    if rand::below(2) == 0 {
        for ring in &node.rings {
            ring.shutdown().await;
        }
        node.log.close().await;
    }
}

/// Holds what is there against what the clients were told.
async fn verify(node: &Node, world: &World) {
    for id in partitions() {
        let ring = node.ring(id);
        while !verify_one(ring, world, id).await {}
        refuses_below(ring, id, world.start(id)).await;
    }
}

/// What a partition holds: offsets of values, and the bytes of their batches.
#[derive(Default)]
struct Found {
    offsets: BTreeMap<u64, Offset>,
    bytes: u64,
}

/// Whether a partition could be held against what is known of it; not if retention came between.
async fn verify_one(ring: &Ring, world: &World, id: PartitionId) -> bool {
    let view = ring.view(id).expect("it is open");
    let start = view.log_start_offset;
    world.note_start(id, world.start(id), start);
    let Some(found) = read_all(ring, id, start).await else {
        return false;
    };
    world.known(id, |known| {
        for before in std::mem::take(&mut known.asked) {
            known.note_deleted(before, start);
        }
        for (number, acked) in &known.acked {
            if acked.offset >= start {
                let there = found.offsets.get(number);
                assert_eq!(there, Some(&acked.offset), "acknowledged {number} of {id}");
            }
        }
        if start > known.deleted {
            retained_as_set(id, known, start, found.bytes);
            world.seen.borrow_mut().retained += 1;
        }
    });
    true
}

/// Reads a partition from `start` to its end; nothing if that is no more where its log begins.
async fn read_all(ring: &Ring, id: PartitionId, start: Offset) -> Option<Found> {
    let mut found = Found::default();
    let mut from = start;
    while from < ring.view(id).expect("it is open").high_watermark {
        let max = rand::below(50_000) as usize;
        let read = ring.read(id, from, max, Isolation::ReadUncommitted).await;
        let read = match read {
            Err(ReadError::OffsetOutOfRange { .. }) => return None,
            read => read.expect("it is readable"),
        };
        for b in &read.batches {
            // The log may begin within a batch.
            let dense = b.header.base_offset == from
                || from == start && (b.header.base_offset..b.header.next_offset()).contains(&from);
            assert!(dense, "{id}: {:?} comes at {from}", b.header);
            from = b.header.next_offset();
            found.bytes += b.len() as u64;
            for (number, offset) in numbers(b).into_iter().zip(b.header.base_offset..) {
                let before = found.offsets.insert(number, offset);
                assert_eq!(before, None, "{number} is there twice");
            }
        }
    }
    Some(found)
}

/// Retention moved the beginning to `start`: what went is old, or what is left is as much as is to be kept.
fn retained_as_set(id: PartitionId, known: &Known, start: Offset, bytes_left: u64) {
    let config = settings(id);
    let too_much = config.retention_bytes >= 0 && bytes_left >= config.retention_bytes as u64;
    let old = |acked: &Acked| {
        let went = (known.deleted..start).contains(&acked.offset);
        !went || time::unix_ms() - acked.timestamp > config.retention_ms
    };
    let too_old = config.retention_ms >= 0 && known.acked.values().all(old);
    assert!(
        too_much || too_old,
        "{id} begins at {start}, {bytes_left} bytes are left; clients deleted up to {}",
        known.deleted
    );
}

/// In the end retention has its way, and files behind the beginnings are gone.
async fn settle(node: &Node) {
    time::sleep(Duration::from_millis(RETENTION_MS as u64 + 1)).await;
    for ring in &node.rings {
        ring.retention_now().await;
        common::remove_old_files(ring).await;
    }
    for id in partitions() {
        let (ring, config) = (node.ring(id), settings(id));
        let view = ring.view(id).expect("it is open");
        if config.retention_ms >= 0 {
            assert_eq!(
                view.log_start_offset, view.high_watermark,
                "all of {id} is old"
            );
        } else if config.retention_bytes >= 0 {
            let most = RETENTION_BYTES as u64 + u64::from(SEGMENT_BYTES) + BATCH_BYTES_MAX;
            let stored = ring.stored_bytes(id).expect("it is open");
            assert!(stored < most, "{id} holds {stored} bytes");
        }
    }
}

/// At most one file of a partition begins at or below the beginning of its log: the second would begin where the first one ends.
fn files_are_gone(sim: &Sim, world: &World) {
    for (id, known) in world.partitions.borrow().iter() {
        let files = common::segment_files(sim, *id);
        let behind = files.iter().filter(|base| **base <= known.start).count();
        assert!(
            behind <= 1,
            "{id} begins at {}, there are {files:?}",
            known.start
        );
    }
}

fn run(seed: u64, seen: &mut Seen) {
    let sim = Sim::new(seed);
    sim.set_steps_max(3_000_000);
    let world = Rc::new(World::default());
    for _ in 0..2 + sim.below(3) {
        match sim.run_until_crash(CRASH_WITHIN, life(sim.disk(), world.clone())) {
            Ok(()) => match sim.below(2) {
                0 => sim.kill(),
                _ => sim.crash(),
            },
            Err(Stopped::Crashed { .. }) => seen.crashes += 1,
            Err(e) => panic!("{e}"),
        }
    }
    sim.disk().set_capacity(None);
    let end = sim.block_on(async {
        let node = start(&sim.disk()).await;
        verify(&node, &world).await;
        settle(&node).await;
        verify(&node, &world).await;
        assert!(!node.log.space().is_full());
    });
    end.unwrap_or_else(|e| panic!("{e}"));
    files_are_gone(&sim, &world);
    let of_seed = world.seen.borrow();
    seen.refused += of_seed.refused;
    seen.stalled += of_seed.stalled;
    seen.deleted += of_seed.deleted;
    seen.retained += of_seed.retained;
}

#[test]
fn s4_s5_s6_s9_s11_storage_of_a_node_lives_through_crashes_and_full_disks() {
    let mut seen = Seen::default();
    let count = for_seeds("life", 500, |seed| run(seed, &mut seen));
    let met = seen.crashes > count / 2
        && seen.refused > count
        && seen.stalled > count
        && seen.deleted > count
        && seen.retained > count;
    assert!(count < 100 || met, "hardly anything happened: {seen:?}");
}
