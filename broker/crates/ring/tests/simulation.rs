//! Two rings on one simulated machine that crashes: nothing acknowledged is lost, nothing is doubled, every outcome
//! takes effect exactly once, the outbox is delivered exactly once and in order.
//!
//! `cargo xtask sim --only rings` runs as many seeds as are wanted.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use common::{batch, numbers};
use tidemill_model::record::Producer;
use tidemill_model::{Incarnation, PartitionId};
use tidemill_ring::{Delivery, Isolation, Outcome, OutcomeError, PartitionConfig, Ring, StartAt};
use tidemill_rt::sim::{Sim, Stopped, for_seeds};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::{rand, time};
use tidemill_shardlog::ShardLog;

const LIFE: Incarnation = Incarnation(3);
const RECORDS_PER_SESSION: u64 = 24;

fn id(topic: u8) -> PartitionId {
    common::partition(topic, 0)
}

/// The input, an output beside it, an output in the other ring.
const TOPICS: (u8, u8, u8) = (1, 2, 3);

/// What the clients know; it survives crashes.
#[derive(Default)]
struct World {
    next_value: u64,
    /// Offsets of acknowledged values.
    acked: BTreeMap<u64, i64>,
    next_sequence: i32,
    /// A batch of the idempotent producer without an answer: sent again until it has one.
    pending: Option<u64>,
}

struct Node {
    log: ShardLog,
    here: Ring,
    there: Ring,
}

async fn start() -> Node {
    let (log, mut rings) = common::start_rings(256 * 1024, 2, |config| {
        config.flush_bytes = 80 * 1024;
        config.flush_interval = Duration::from_millis(50);
        config.outbox_bytes = 256 * 1024;
    })
    .await;
    let there = rings.pop().expect("two");
    let here = rings.pop().expect("two");
    let config = PartitionConfig {
        segment_bytes: 40_000,
        ..PartitionConfig::default()
    };
    for (ring, topic) in [(&here, TOPICS.0), (&here, TOPICS.1), (&there, TOPICS.2)] {
        ring.open_partition(id(topic), config, 0)
            .await
            .expect("opens");
    }
    there.register_sender(LIFE).await.expect("registered");
    here.attach(id(TOPICS.0), LIFE, StartAt::Earliest)
        .await
        .expect("attached");
    Node { log, here, there }
}

async fn produce(ring: Ring, world: Rc<RefCell<World>>, idempotent: bool) {
    for _ in 0..RECORDS_PER_SESSION / 2 {
        let (number, producer) = {
            let mut w = world.borrow_mut();
            let again = w.pending.filter(|_| idempotent);
            let number = again.unwrap_or_else(|| {
                w.next_value += 1;
                w.next_value
            });
            let producer = Producer {
                id: 9,
                epoch: 0,
                base_sequence: w.next_sequence,
            };
            if idempotent {
                w.pending = Some(number);
            }
            (number, idempotent.then_some(producer))
        };
        let (header, bytes) = batch(&[number], 0, producer);
        let appended = ring
            .append(id(TOPICS.0), header, bytes, time::unix_ms())
            .await;
        let appended = appended.expect("nothing is refused here");
        {
            let mut w = world.borrow_mut();
            w.acked.insert(number, appended.base_offset);
            if idempotent {
                w.pending = None;
                w.next_sequence += 1;
            }
        }
        time::sleep(Duration::from_millis(rand::below(8))).await;
    }
}

/// Copies input to both outputs until `end` is reached.
async fn process(ring: &Ring, end: impl Fn() -> Option<i64>) {
    loop {
        let first = ring.progress(id(TOPICS.0), LIFE).expect("attached");
        if end() == Some(first) {
            return;
        }
        let max = rand::below(30_000) as usize;
        let read = ring
            .read(id(TOPICS.0), first, max, Isolation::ReadCommitted)
            .await
            .expect("readable");
        let Some(last) = read.batches.last() else {
            time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let next = last.header.next_offset();
        let read: Vec<u64> = read.batches.iter().flat_map(numbers).collect();
        let (_, output) = batch(&read, 0, None);
        let _room = ring.outbox_room(output.len() as u64 + 4096).await;
        let outcome = || Outcome {
            input: id(TOPICS.0),
            incarnation: LIFE,
            moves: 0,
            version: 1,
            first,
            next,
            outputs: vec![
                (id(TOPICS.1), output.clone()),
                (id(TOPICS.2), output.clone()),
            ],
        };
        let done = ring.propose_outcome(outcome());
        // A second processor that decides the same range must come to nothing.
        let rival = (rand::below(4) == 0).then(|| ring.propose_outcome(outcome()));
        done.await.expect("it stands there");
        if let Some(rival) = rival {
            assert_eq!(rival.await, Err(OutcomeError::Stale { stands_at: next }));
        }
    }
}

async fn deliver(here: Ring, there: Ring) {
    loop {
        let changed = here.outbox_changed().notified();
        for (to, items) in here.outbox_heads(3) {
            let mut arrived = None;
            for item in items {
                let delivery = Delivery {
                    sender: item.sender,
                    sequence: item.sequence,
                    previous: item.previous,
                    batches: item.batches,
                };
                match there.deliver(to, delivery).await {
                    Ok(_) => arrived = Some((to, item.ticket)),
                    Err(tidemill_ring::DeliverError::Busy) => break,
                    Err(e) => panic!("{e}"),
                }
            }
            // Now and then the news is lost, and everything is delivered once more.
            if rand::below(4) > 0 {
                let _ = here.outbox_arrived(arrived.into_iter().collect()).await;
            }
        }
        let _ = time::timeout(Duration::from_millis(5), changed).await;
    }
}

async fn session(world: Rc<RefCell<World>>) {
    let node = start().await;
    task::spawn(
        Queue::Background,
        deliver(node.here.clone(), node.there.clone()),
    );
    let plain = task::spawn(
        Queue::Kafka,
        produce(node.here.clone(), world.clone(), false),
    );
    let idempotent = task::spawn(Queue::Kafka, produce(node.here.clone(), world, true));
    let (done, ring) = (Rc::new(RefCell::new(false)), node.here.clone());
    let flag = done.clone();
    let end = {
        let ring = ring.clone();
        move || {
            flag.borrow()
                .then(|| ring.view(id(TOPICS.0)).expect("open").high_watermark)
        }
    };
    let processing = task::spawn(Queue::Kafka, async move { process(&ring, end).await });
    plain.await.expect("no panic");
    idempotent.await.expect("no panic");
    *done.borrow_mut() = true;
    processing.await.expect("no panic");
    while node.here.stats().outbox_items > 0 {
        time::sleep(Duration::from_millis(1)).await;
    }
    if rand::below(2) == 0 {
        node.here.shutdown().await;
        node.there.shutdown().await;
        node.log.close().await;
    }
}

async fn read_all(ring: &Ring, id: PartitionId) -> Vec<u64> {
    let (mut from, mut out) = (0, Vec::new());
    while from < ring.view(id).expect("open").high_watermark {
        let max = rand::below(50_000) as usize;
        let read = ring
            .read(id, from, max, Isolation::ReadUncommitted)
            .await
            .expect("readable");
        for b in &read.batches {
            assert_eq!(b.header.base_offset, from, "offsets are dense");
            from = b.header.next_offset();
        }
        out.extend(read.batches.iter().flat_map(numbers));
    }
    out
}

async fn verify(world: Rc<RefCell<World>>) {
    let node = start().await;
    task::spawn(
        Queue::Background,
        deliver(node.here.clone(), node.there.clone()),
    );
    let ring = node.here.clone();
    let end = node.here.view(id(TOPICS.0)).expect("open").high_watermark;
    process(&ring, || Some(end)).await;
    while node.here.stats().outbox_items > 0 {
        time::sleep(Duration::from_millis(1)).await;
    }
    let input = read_all(&node.here, id(TOPICS.0)).await;
    let mut found = BTreeMap::new();
    for (offset, number) in input.iter().enumerate() {
        let before = found.insert(*number, offset as i64);
        assert_eq!(before, None, "{number} is there twice");
    }
    for (number, offset) in &world.borrow().acked {
        assert_eq!(
            found.get(number),
            Some(offset),
            "acknowledged {number} is where it was said to be"
        );
    }
    let near = read_all(&node.here, id(TOPICS.1)).await;
    let far = read_all(&node.there, id(TOPICS.2)).await;
    assert!(
        near == input,
        "output in the same ring: {} records of {}",
        near.len(),
        input.len()
    );
    assert!(
        far == input,
        "output in the other ring: {} records of {}",
        far.len(),
        input.len()
    );
}

/// Runs one seed; gives back how often it crashed.
fn run(seed: u64) -> u64 {
    let sim = Sim::new(seed);
    let world = Rc::new(RefCell::new(World::default()));
    let mut crashes = 0;
    for _ in 0..1 + sim.below(3) {
        match sim.run_until_crash(6000, session(world.clone())) {
            Ok(()) => sim.kill(),
            Err(Stopped::Crashed { .. }) => crashes += 1,
            Err(e) => panic!("{e}"),
        }
    }
    let verified = sim.block_on(verify(world));
    verified.unwrap_or_else(|e| panic!("{e}"));
    crashes
}

#[test]
fn s4_s5_x2_x3_x4_crashes_lose_nothing_and_double_nothing() {
    let mut crashes = 0;
    let count = for_seeds("rings", 1000, |seed| crashes += run(seed));
    let many = count >= 100;
    eprintln!("{crashes} crashes");
    assert!(!many || crashes >= 10, "the simulation hardly ever crashes");
}

fn write(ring: &Ring, number: u64, sequence: i32) -> impl Future<Output = i64> + use<> {
    let producer = Producer {
        id: 9,
        epoch: 0,
        base_sequence: sequence,
    };
    let (header, bytes) = batch(&[number], 0, Some(producer));
    let appended = ring.append(id(TOPICS.0), header, bytes, time::unix_ms());
    async move { appended.await.expect("appended").base_offset }
}

#[test]
fn s5_small_tail_lives_in_the_checkpoint_and_needs_no_segment() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        sim.block_on(async {
            let node = start().await;
            for i in 0..3 {
                assert_eq!(write(&node.here, 1000, i).await, i64::from(i));
            }
            assert!(node.here.checkpoint_now().await);
            let other_ring = node.there.checkpoint_now().await;
            assert!(other_ring, "it shares the memory");
            assert_eq!(node.here.stats().memory.unflushed_bytes, 0);
        })
        .expect("ends");
        let files = sim.disk().files();
        assert!(
            !files
                .iter()
                .any(|f| f.extension().is_some_and(|e| e == "segment"))
        );
        sim.crash();
        sim.block_on(async {
            let node = start().await;
            assert_eq!(read_all(&node.here, id(TOPICS.0)).await, vec![1000; 3]);
            // The producer's memory is in the checkpoint, too.
            assert_eq!(write(&node.here, 1000, 2).await, 2);
            assert_eq!(write(&node.here, 1000, 3).await, 3);
        })
        .expect("ends");
    }
}

#[test]
fn appends_keep_call_order_while_they_wait_for_memory() {
    for seed in 0..20 {
        Sim::new(seed)
            .block_on(async {
                let node = start().await;
                let all: Vec<_> = (0..80)
                    .map(|i| write(&node.here, 1 + i as u64, i))
                    .collect();
                assert!(node.here.stats().writes_waiting > 0);
                for (i, appended) in all.into_iter().enumerate() {
                    assert_eq!(appended.await, i as i64);
                }
                assert!(
                    node.here.stats().checkpoints_total > 0,
                    "memory came back by flushing"
                );
            })
            .expect("ends");
    }
}

#[test]
fn appends_that_nobody_waits_for_leave_the_line_for_memory_at_once() {
    for seed in 0..20 {
        Sim::new(seed)
            .block_on(async {
                let node = start().await;
                let mut all: Vec<_> = (0..80)
                    .map(|i| write(&node.here, 1 + i as u64, i))
                    .collect();
                let waiting = node.here.stats().writes_waiting;
                assert!(waiting > 1);
                let in_line = all.split_off(80 - waiting);
                drop(in_line);
                let stats = node.here.stats();
                assert_eq!(
                    (stats.writes_waiting, stats.writes_given_up_total),
                    (0, waiting as u64)
                );
                // Those that come now are the next in line, and nothing of the others is written.
                let next = write(&node.here, 1000, (80 - waiting) as i32);
                for (i, appended) in all.into_iter().enumerate() {
                    assert_eq!(appended.await, i as i64);
                }
                assert_eq!(next.await, 80 - waiting as i64);
            })
            .expect("ends");
    }
}

#[test]
fn what_nobody_waits_for_any_more_is_there_once_the_ring_has_settled() {
    for seed in 0..20 {
        Sim::new(seed)
            .block_on(async {
                let node = start().await;
                let written = || node.here.view(id(TOPICS.0)).map(|v| v.high_watermark);
                let dropped: Vec<_> = (0..8).map(|i| write(&node.here, 1 + i as u64, i)).collect();
                let under_way = 8 - node.here.stats().writes_waiting as i64;
                drop(dropped);
                assert_eq!(written(), Some(0), "they are still on their way");
                node.here.settle().await.expect("it leads");
                assert_eq!(written(), Some(under_way));
                time::sleep(Duration::from_secs(1)).await;
                assert_eq!(written(), Some(under_way), "nothing lands later");
            })
            .expect("ends");
    }
}

#[test]
fn x8_outbox_room_is_bounded_and_first_come_first_served() {
    Sim::new(1)
        .block_on(async {
            let node = start().await;
            let first = node.here.outbox_room(200 * 1024).await;
            let ring = node.here.clone();
            let second = task::spawn(
                Queue::Kafka,
                async move { ring.outbox_room(100 * 1024).await },
            );
            task::yield_now().await;
            let wait = Duration::from_millis(10);
            assert!(
                time::timeout(wait, node.here.outbox_room(1)).await.is_err(),
                "nobody overtakes"
            );
            drop(first);
            let second = second.await.expect("no panic");
            assert_eq!(node.here.stats().outbox_waits_total, 2);
            drop(second);
        })
        .expect("ends");
}

#[test]
fn dropped_partition_is_gone_after_a_restart_and_its_folder_too() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        sim.block_on(async {
            let node = start().await;
            for i in 0..30 {
                write(&node.here, 1 + i as u64, i).await;
            }
            node.here.checkpoint_now().await;
            node.here
                .drop_partition(id(TOPICS.0))
                .await
                .expect("dropped");
            node.here.checkpoint_now().await;
            while node.here.stats().removals_waiting > 0 {
                time::sleep(Duration::from_millis(1)).await;
            }
        })
        .expect("ends");
        let folder = format!("/data/shard-0/partitions/{}-0", id(TOPICS.0).topic);
        assert!(!sim.disk().files().iter().any(|f| f.starts_with(&folder)));
        sim.crash();
        sim.block_on(async {
            let node = start().await;
            assert_eq!(
                node.here.view(id(TOPICS.0)).map(|v| v.high_watermark),
                Some(0),
                "opened anew"
            );
        })
        .expect("ends");
    }
}
