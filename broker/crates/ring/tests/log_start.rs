//! The life of a partition's log on a simulated machine that crashes: rule S9. Where it starts and where its segments end are
//! entries of the ring; the start never goes back; what lies behind it stays whole; files go, all of them, and only then.
//!
//! `TIDEMILL_SEED=n` runs one seed, `TIDEMILL_SEEDS=n` that many.

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use common::{batch, numbers};
use tidemill_model::{Offset, PartitionId};
use tidemill_ring::{DeleteError, Isolation, PartitionConfig, ReadError, Ring};
use tidemill_rt::sim::{Sim, Stopped};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::{rand, time};
use tidemill_shardlog::ShardLog;

/// Writes of a session.
const WRITES: u64 = 40;

fn id(topic: u8) -> PartitionId {
    common::partition(topic, 0)
}

/// What the clients know; it survives crashes.
#[derive(Default)]
struct World {
    next_value: u64,
    /// Offsets of acknowledged values, by partition.
    acked: BTreeMap<PartitionId, BTreeMap<u64, Offset>>,
    /// The highest log start that a client was told.
    told: BTreeMap<PartitionId, Offset>,
    /// Partitions of deleted topics.
    dropped: BTreeSet<PartitionId>,
    /// The partition that may be dropped next.
    newest: u8,
}

/// Small segments; what is kept differs from one draw to the next.
fn settings() -> PartitionConfig {
    PartitionConfig {
        segment_bytes: 20_000,
        segment_ms: [20, 200, i64::MAX][rand::below(3) as usize],
        retention_ms: [-1, 40, 150][rand::below(3) as usize],
        retention_bytes: [-1, 0, 50_000][rand::below(3) as usize],
        ..PartitionConfig::default()
    }
}

struct Node {
    log: ShardLog,
    ring: Ring,
}

async fn start() -> Node {
    let (log, mut rings) = common::start_rings(256 * 1024, 1, |config| {
        config.flush_bytes = 60 * 1024;
        config.flush_interval = Duration::from_millis(30);
        config.retention_interval = Duration::from_millis(7);
    })
    .await;
    let ring = rings.remove(0);
    Node { log, ring }
}

type Shared = Rc<RefCell<World>>;

fn told(world: &Shared, partition: PartitionId, start: Offset) {
    let mut w = world.borrow_mut();
    let before = w.told.entry(partition).or_insert(0);
    assert!(
        start >= *before,
        "the log of {partition} started at {before}, now at {start}"
    );
    *before = start;
}

async fn write(ring: &Ring, world: &Shared, partition: PartitionId) {
    let number = {
        let mut w = world.borrow_mut();
        w.next_value += 1;
        w.next_value
    };
    // Now and then a producer has no time, or one of its own.
    let now = time::unix_ms();
    let timestamp = [now, now, -1, now + 60][rand::below(4) as usize];
    let (header, bytes) = batch(&[number], timestamp, None);
    let appended = ring.append(partition, header, bytes, now).await;
    let Ok(appended) = appended else {
        assert!(world.borrow().dropped.contains(&partition));
        return;
    };
    let mut w = world.borrow_mut();
    let of = w.acked.entry(partition).or_default();
    of.insert(number, appended.base_offset);
}

/// Deletes records from the front of a partition.
async fn delete(ring: &Ring, world: &Shared, partition: PartitionId) {
    let Some(view) = ring.view(partition) else {
        return;
    };
    let before = match rand::below(4) {
        0 => -1,
        1 => view.high_watermark + 1 + rand::below(100) as i64,
        _ => view.log_start_offset + rand::below(12) as i64,
    };
    match ring.delete_records(partition, before).await {
        Ok(start) => {
            assert!(start >= before.max(view.log_start_offset));
            told(world, partition, start);
        }
        Err(DeleteError::OutOfRange(_)) => assert!(before > view.high_watermark),
        Err(DeleteError::UnknownPartition) => {}
        Err(e) => panic!("{e}"),
    }
}

/// Reads a partition from somewhere to its end: dense, whole, or refused because it went.
async fn read(ring: Ring, world: Shared, partition: PartitionId) {
    let Some(view) = ring.view(partition) else {
        return;
    };
    let length = (view.high_watermark - view.log_start_offset) as u64;
    let mut from = view.log_start_offset + rand::below(length + 1) as i64;
    loop {
        let max = rand::below(30_000) as usize;
        let read = ring
            .read(partition, from, max, Isolation::ReadUncommitted)
            .await;
        let read = match read {
            Ok(read) => read,
            Err(ReadError::OffsetOutOfRange {
                log_start_offset, ..
            }) => {
                assert!(log_start_offset > from, "{from} is there");
                return;
            }
            Err(ReadError::UnknownPartition) => return,
            Err(e) => panic!("{e}"),
        };
        told(&world, partition, read.log_start_offset);
        for batch in &read.batches {
            assert_eq!(batch.header.base_offset, from, "offsets are dense");
            numbers(batch);
            from = batch.header.next_offset();
        }
        let timestamp = time::unix_ms() - rand::below(100) as i64;
        match ring.offset_for_timestamp(partition, timestamp).await {
            Ok(Some((offset, found))) => {
                assert!(found >= timestamp && offset >= read.log_start_offset);
            }
            Ok(None) | Err(ReadError::UnknownPartition) => {}
            Err(e) => panic!("{e}"),
        }
        if from >= read.high_watermark {
            return;
        }
        task::yield_now().await;
    }
}

async fn session(world: Shared) {
    let node = start().await;
    let ring = &node.ring;
    let newest = world.borrow().newest;
    for topic in [0, newest.max(1)] {
        if !world.borrow().dropped.contains(&id(topic)) {
            let opened = ring.open_partition(id(topic), settings(), 0).await;
            opened.expect("opens");
        }
    }
    world.borrow_mut().newest = newest.max(1);
    for _ in 0..WRITES {
        let newest = world.borrow().newest;
        let partition = id([0, newest][rand::below(2) as usize]);
        write(ring, &world, partition).await;
        match rand::below(12) {
            0 => delete(ring, &world, partition).await,
            1 => drop(task::spawn(
                Queue::Kafka,
                read(ring.clone(), world.clone(), partition),
            )),
            2 => {
                let changed = ring.configure(partition, settings()).await;
                changed.expect("it is open");
            }
            3 if rand::below(3) == 0 => replace(ring, &world).await,
            _ => time::sleep(Duration::from_millis(rand::below(20))).await,
        }
    }
    if rand::below(2) == 0 {
        ring.shutdown().await;
        node.log.close().await;
    }
}

/// Deletes the newest topic and makes another one.
async fn replace(ring: &Ring, world: &Shared) {
    let (old, new) = {
        let mut w = world.borrow_mut();
        let old = id(w.newest);
        w.newest += 1;
        w.dropped.insert(old);
        (old, id(w.newest))
    };
    ring.drop_partition(old).await.expect("dropped");
    ring.open_partition(new, settings(), 0)
        .await
        .expect("opens");
}

/// Everything that is to be there is; what is to go goes.
async fn verify(world: Shared) {
    let node = start().await;
    let ring = &node.ring;
    let dropped = world.borrow().dropped.clone();
    for partition in dropped {
        // The controller drops it again when a crash came between.
        ring.drop_partition(partition).await.expect("dropped");
    }
    for partition in ring.partitions() {
        let keep = PartitionConfig {
            segment_bytes: 20_000,
            ..PartitionConfig::default()
        };
        ring.configure(partition, keep).await.expect("it is open");
        check(ring, &world, partition).await;
    }
    common::remove_old_files(ring).await;
}

async fn check(ring: &Ring, world: &Shared, partition: PartitionId) {
    let view = ring.view(partition).expect("open");
    told(world, partition, view.log_start_offset);
    let mut found = BTreeMap::new();
    let mut from = view.log_start_offset;
    while from < view.high_watermark {
        let read = ring.read(partition, from, 1 << 20, Isolation::ReadUncommitted);
        for batch in read.await.expect("readable").batches {
            assert_eq!(batch.header.base_offset, from, "offsets are dense");
            let number = numbers(&batch)[0];
            assert_eq!(found.insert(number, from), None, "{number} is there twice");
            from = batch.header.next_offset();
        }
    }
    let acked = world.borrow().acked.get(&partition).cloned();
    for (number, offset) in acked.unwrap_or_default() {
        if offset >= view.log_start_offset {
            assert_eq!(found.get(&number), Some(&offset), "acknowledged {number}");
        }
    }
    if view.log_start_offset > 0 {
        let below = view.log_start_offset - 1;
        let read = ring
            .read(partition, below, 1, Isolation::ReadUncommitted)
            .await;
        assert!(matches!(read, Err(ReadError::OffsetOutOfRange { .. })));
    }
}

/// Runs one seed; gives back how often it crashed, and how many log starts moved.
fn run(seed: u64) -> (u64, u64) {
    let sim = Sim::new(seed);
    let world = Shared::default();
    let mut crashes = 0;
    for _ in 0..1 + sim.below(4) {
        match sim.run_until_crash(5000, session(world.clone())) {
            Ok(()) => sim.kill(),
            Err(Stopped::Crashed { .. }) => crashes += 1,
            Err(e) => panic!("{e}"),
        }
    }
    let verified = sim.block_on(verify(world.clone()));
    verified.unwrap_or_else(|e| panic!("{e}"));
    let w = world.borrow();
    for (partition, start) in &w.told {
        let files = common::segment_files(&sim, *partition);
        match w.dropped.contains(partition) {
            true => assert_eq!(files, Vec::<Offset>::new(), "{partition} was dropped"),
            // The second of these would begin where the first one ends.
            false => assert!(
                files.iter().filter(|base| *base <= start).count() <= 1,
                "{partition} starts at {start}, there are segments {files:?}"
            ),
        }
    }
    (
        crashes,
        w.told.values().filter(|start| **start > 0).count() as u64,
    )
}

#[test]
fn s9_log_start_never_goes_back_and_files_behind_it_go() {
    let number = |name| {
        let v: String = std::env::var(name).ok()?;
        v.parse::<u64>().ok()
    };
    let seeds = match number("TIDEMILL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TIDEMILL_SEEDS").unwrap_or(500),
    };
    let (mut crashes, mut moved, many) = (0, 0, seeds.clone().count() >= 100);
    for seed in seeds {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok((c, m)) => {
                crashes += c;
                moved += m;
            }
            Err(panic) => {
                eprintln!("replay: TIDEMILL_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{crashes} crashes, {moved} log starts moved");
    assert!(
        !many || crashes >= 10 && moved >= 100,
        "hardly anything happens"
    );
}
