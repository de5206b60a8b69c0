//! The life of a node's storage: three rings with six partitions on one shard log, small files, appends, dropped partitions, a disk
//! that is full now and then, kills and power cuts. What was acknowledged is there once, where it was said to be; offsets are dense; a
//! log never begins earlier than before; and however full the disk was, everything goes on when there is room.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::record::{BatchBuilder, NewRecord, Records};
use tidemill_model::{BatchHeader, NodeId, PartitionId, RingId, TopicId};
use tidemill_ring::{
    AppendError, Isolation, MemoryConfig, PartitionConfig, Ring, RingConfig, ShardMemory,
};
use tidemill_rt::sim::{Sim, SimDisk, Stopped, for_seeds};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::{rand, time};
use tidemill_shardlog::{LogConfig, LogError, RecoveredRing, ShardLog, SpaceConfig};

const RINGS: u32 = 3;
const PARTITIONS_PER_RING: i32 = 2;
const CLIENTS: u64 = 4;
const RECORDS_PER_CLIENT: u64 = 20;
const LOG_FILE_BYTES: u64 = 64 << 10;
const RESERVE_BYTES: u64 = 600 << 10;
/// Steps within which a life is cut short, if it is.
const CRASH_WITHIN: u64 = 9_000;
/// How long the disk is full at most, in ms.
const FULL_MS_MAX: u64 = 5_000;

/// What the clients know of one life of a partition.
#[derive(Default)]
struct Known {
    /// Offsets of acknowledged values.
    acked: BTreeMap<u64, i64>,
    /// Where its log began at the last look.
    start: i64,
}

#[derive(Default)]
struct World {
    next_value: Cell<u64>,
    partitions: RefCell<BTreeMap<PartitionId, Known>>,
    refused: Cell<u64>,
    stalled: Cell<u64>,
}

impl World {
    fn note_acked(&self, id: PartitionId, number: u64, offset: i64) {
        let mut partitions = self.partitions.borrow_mut();
        let known = partitions.entry(id).or_default();
        known.acked.insert(number, offset);
    }
}

/// Partition `index` of the topic that lives in `ring`.
fn partition(ring: u32, index: i32) -> PartitionId {
    PartitionId {
        topic: TopicId([ring as u8; 16]),
        index,
    }
}

fn value(number: u64) -> Vec<u8> {
    let mut v = vec![number as u8; 8 + (number as usize * 7919) % 7000];
    v[..8].copy_from_slice(&number.to_be_bytes());
    v
}

fn batch(number: u64) -> (BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new();
    builder.append(NewRecord {
        timestamp: 0,
        key: None,
        value: Some(&value(number)),
        headers: &[],
    });
    let bytes = builder.build();
    let header = BatchHeader::validate(&bytes).expect("well formed");
    (header, bytes)
}

struct Node {
    log: ShardLog,
    rings: Vec<Ring>,
}

/// Opens the log; a disk without any room is made larger as an operator would.
async fn open_log(disk: &SimDisk) -> (ShardLog, BTreeMap<RingId, RecoveredRing>) {
    let config = LogConfig {
        file_bytes: LOG_FILE_BYTES,
        ..LogConfig::new(
            PathBuf::from("/data/shard-0/log"),
            Rc::new(|e| panic!("{e}")),
        )
    };
    loop {
        match ShardLog::open(config.clone()).await {
            Ok(opened) => return opened,
            Err(e) if e.is_full() || matches!(e, LogError::Io { .. }) => disk.set_capacity(None),
            Err(e) => panic!("{e}"),
        }
    }
}

async fn start(disk: &SimDisk) -> Node {
    let (log, mut recovered) = open_log(disk).await;
    let watch = SpaceConfig {
        path: PathBuf::from("/data"),
        reserve_bytes: RESERVE_BYTES,
    };
    log.watch_space(watch).await;
    let memory = ShardMemory::new(MemoryConfig {
        unflushed_bytes: 96 * 1024,
        delivery_bytes: 32 * 1024,
        cache_bytes: 16 * 1024,
    });
    let mut rings = Vec::new();
    for ring in 1..=RINGS {
        let ring = RingId(ring);
        let config = RingConfig {
            flush_bytes: 40 * 1024,
            flush_interval: Duration::from_millis(40 * u64::from(ring.0)),
            ..RingConfig::new(
                ring,
                NodeId(1),
                PathBuf::from("/data/shard-0"),
                memory.clone(),
                Rc::new(|e| panic!("{e}")),
            )
        };
        let found = recovered.remove(&ring).unwrap_or_default();
        let opened = Ring::open(config, log.clone(), found).await;
        rings.push(opened.expect("the ring is sound"));
    }
    let node = Node { log, rings };
    node.open_partitions().await;
    node
}

impl Node {
    fn ring(&self, id: PartitionId) -> &Ring {
        &self.rings[usize::from(id.topic.0[0]) - 1]
    }

    async fn open_partitions(&self) {
        let config = PartitionConfig {
            segment_bytes: 30_000,
            ..PartitionConfig::default()
        };
        for ring in 1..=RINGS {
            for index in 0..PARTITIONS_PER_RING {
                let id = partition(ring, index);
                let opened = self.ring(id).open_partition(id, config, 0).await;
                opened.expect("it opens");
            }
        }
    }
}

/// One client: each value goes to one partition and is given up when its answer is lost with the node.
async fn produce(node: Rc<Node>, world: Rc<World>) {
    for _ in 0..RECORDS_PER_CLIENT {
        let number = world.next_value.get() + 1;
        world.next_value.set(number);
        // The first ring is the silent one.
        let ring = if rand::below(20) == 0 {
            1
        } else {
            2 + rand::below(2) as u32
        };
        let id = partition(ring, rand::below(PARTITIONS_PER_RING as u64) as i32);
        let appended = loop {
            let (header, bytes) = batch(number);
            let append = node.ring(id).append(id, header, bytes, time::unix_ms());
            match append.await {
                Ok(appended) => break appended,
                Err(AppendError::DiskFull) => {
                    world.refused.set(world.refused.get() + 1);
                    time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => panic!("{e}"),
            }
        };
        world.note_acked(id, number, appended.base_offset);
        time::sleep(Duration::from_millis(rand::below(12))).await;
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
        .map(|_| task::spawn(Queue::Kafka, produce(node.clone(), world.clone())))
        .collect();
    for client in clients {
        client.await.expect("no panic");
    }
    let stats = node.log.stats();
    world.stalled.set(world.stalled.get() + stats.full_waits);
    if rand::below(2) == 0 {
        for ring in &node.rings {
            ring.shutdown().await;
        }
        node.log.close().await;
    }
}

/// Holds what is there against what the clients were told.
async fn verify(node: &Node, world: &World) {
    let ids: Vec<_> = world.partitions.borrow().keys().copied().collect();
    for id in ids {
        let ring = node.ring(id);
        let view = ring.view(id).expect("it is open");
        let acked = {
            let mut partitions = world.partitions.borrow_mut();
            let known = partitions.entry(id).or_default();
            let start = view.log_start_offset;
            assert!(start >= known.start, "the log start went back");
            known.start = start;
            known.acked.clone()
        };
        let mut found = BTreeMap::new();
        let mut from = view.log_start_offset;
        while from < view.high_watermark {
            let max = rand::below(50_000) as usize;
            let read = ring.read(id, from, max, Isolation::ReadUncommitted).await;
            for b in &read.expect("it is readable").batches {
                assert_eq!(b.header.base_offset, from, "offsets are dense");
                from = b.header.next_offset();
                for record in Records::new(&b.bytes[HEADER_BYTES..], b.header.record_count) {
                    let record = record.expect("it is whole");
                    let v = record.value.expect("it has a value");
                    let number = u64::from_be_bytes(v[..8].try_into().expect("8 bytes"));
                    assert_eq!(v, value(number), "the record is whole");
                    let before = found.insert(number, b.header.base_offset);
                    assert_eq!(before, None, "{number} is there twice");
                }
            }
        }
        for (number, offset) in &acked {
            if *offset >= view.log_start_offset {
                assert_eq!(found.get(number), Some(offset), "acknowledged {number}");
            }
        }
    }
}

/// What a seed came across.
#[derive(Debug, Default)]
struct Seen {
    crashes: u64,
    refused: u64,
    stalled: u64,
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
        assert!(!node.log.space().is_full());
    });
    end.unwrap_or_else(|e| panic!("{e}"));
    seen.refused += world.refused.get();
    seen.stalled += world.stalled.get();
}

#[test]
fn s4_s5_s6_s11_storage_of_a_node_lives_through_crashes_and_full_disks() {
    let mut seen = Seen::default();
    let count = for_seeds("life", 300, |seed| run(seed, &mut seen));
    let met = seen.crashes > count / 2 && seen.refused > count && seen.stalled > count;
    assert!(count < 100 || met, "hardly anything happened: {seen:?}");
}
