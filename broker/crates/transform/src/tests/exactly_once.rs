//! Whatever fails, and in whatever order: every record comes out once, in order.

use std::rc::Rc;
use std::time::Duration;

use tidemill_model::Offset;
use tidemill_model::batch::Compression;
use tidemill_rt::task::{self, Queue};
use tidemill_rt::{rand, time};

use super::world::{Faults, MAIN, Running, THIRDS, World, chance, config, simulate, start};
use crate::{Control, OnError, Stopped};

const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

/// Appends batches now and then, until there are `records`.
async fn feed(world: Rc<World>, records: i64) {
    while world.log.end.get() < records {
        let from = world.log.end.get();
        let count = 1 + rand::below(30) as i64;
        let value = |at: Offset| {
            if chance(100) {
                format!("quiet:{at}")
            } else {
                at.to_string()
            }
        };
        let values: Vec<String> = (from..from + count).map(value).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        world.append_with(&values, CODECS[rand::below(5) as usize]);
        if chance(600) {
            time::sleep(Duration::from_millis(rand::below(60))).await;
        }
    }
}

/// What `output` has to hold in the end.
fn expected(world: &World, output: u32) -> Vec<String> {
    let mut all = Vec::new();
    for batch in world.log.batches.borrow().iter() {
        let header = &batch.header;
        let bits = header.compression().unwrap();
        let section = &batch.bytes[tidemill_model::batch::HEADER_BYTES..];
        let plain = match bits {
            Compression::None => section.to_vec(),
            codec => tidemill_model::compression::decompress(codec, section, 1 << 20).unwrap(),
        };
        let records = tidemill_model::record::Records::new(&plain, header.record_count);
        for (n, record) in records.enumerate() {
            let offset = header.base_offset + n as i64;
            let value = String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap();
            let quiet = value.starts_with("quiet");
            match output {
                MAIN if !quiet => all.push(format!("main {value}")),
                THIRDS if !quiet && offset % 3 == 0 => all.push(format!("third {value}")),
                _ => {}
            }
        }
    }
    all
}

fn check(world: &World, seed: u64) {
    let mut at = 0;
    for (first, next) in world.decided.borrow().iter() {
        assert_eq!(*first, at, "seed {seed}: ranges follow each other");
        at = *next;
    }
    for output in [MAIN, THIRDS] {
        assert_eq!(
            world.values(output),
            expected(world, output),
            "seed {seed}, output {output}"
        );
    }
    assert_eq!(
        world.room.available(),
        world.room.total(),
        "seed {seed}: all room was given back"
    );
}

/// Does to a processor what deployments, pauses and the end of a shard do.
async fn disturb(world: &Rc<World>, mut running: Running) -> Running {
    time::sleep(Duration::from_millis(rand::below(80))).await;
    match rand::below(4) {
        0 => {
            running.kill().await;
            running = start(world, config(OnError::Fail));
        }
        1 => {
            assert_eq!(running.stop().await, Stopped::Told);
            running = start(world, config(OnError::Fail));
        }
        2 => {
            running.control.send(Control::Pause).unwrap();
            time::sleep(Duration::from_millis(rand::below(50))).await;
            running.control.send(Control::Run).unwrap();
        }
        _ => {}
    }
    running
}

async fn settle(world: Rc<World>, running: Running) {
    world.faults.set(Faults::default());
    world.all_decided().await;
    assert_eq!(running.stop().await, Stopped::Told);
}

#[test]
fn x2_every_record_comes_out_once_and_in_order_whatever_fails() {
    for seed in 0..300 {
        simulate(seed, |world| async move {
            world.faults.set(Faults {
                trap: rand::below(300),
                busy: rand::below(200),
                read: rand::below(100),
                lost: rand::below(200),
                denied: rand::below(200),
                denied_early: rand::below(200),
            });
            let fed = task::spawn(Queue::Kafka, feed(world.clone(), 400));
            let mut running = start(&world, config(OnError::Fail));
            for _ in 0..12 {
                running = disturb(&world, running).await;
            }
            fed.await.unwrap();
            settle(world.clone(), running).await;
            check(&world, seed);
        });
    }
}

#[test]
fn x2_processors_of_one_transform_at_the_same_time_double_nothing() {
    for seed in 0..100 {
        simulate(seed, |world| async move {
            let fed = task::spawn(Queue::Kafka, feed(world.clone(), 200));
            let one = start(&world, config(OnError::Fail));
            let other = start(&world, config(OnError::Fail));
            fed.await.unwrap();
            world.all_decided().await;
            assert_eq!(one.stop().await, Stopped::Told);
            assert_eq!(other.stop().await, Stopped::Told);
            check(&world, seed);
        });
    }
}

#[test]
fn x2_outcome_that_took_effect_although_it_was_denied_is_not_repeated() {
    for (seed, early) in [(1, 0), (2, 1000)] {
        simulate(seed, |world| async move {
            world.faults.set(Faults {
                denied: 1000 - early,
                denied_early: early,
                ..Faults::default()
            });
            world.append(&["1", "2", "3"]);
            let running = start(&world, config(OnError::Fail));
            world.all_decided().await;
            settle(world.clone(), running).await;
            check(&world, seed);
        });
    }
}

#[test]
fn x2_processor_that_dies_between_call_and_proposal_leaves_nothing_behind() {
    simulate(3, |world| async move {
        world.append(&["1", "2", "3"]);
        world.call_time.set(Duration::from_secs(5));
        let called = world.called.notified();
        let running = start(&world, config(OnError::Fail));
        called.await;
        running.kill().await;
        assert_eq!((world.proposals.get(), world.values(MAIN).len()), (0, 0));
        let running = start(&world, config(OnError::Fail));
        world.all_decided().await;
        settle(world.clone(), running).await;
        check(&world, 3);
    });
}

#[test]
fn x2_processor_that_dies_after_its_proposal_is_followed_by_one_that_finds_it_decided() {
    simulate(4, |world| async move {
        world.frozen.set(true);
        world.append(&["1", "2", "3"]);
        let running = start(&world, config(OnError::Fail));
        while world.proposals.get() == 0 {
            time::sleep(Duration::from_millis(1)).await;
        }
        running.kill().await;
        // The next one begins where the transform stands, and hears later that it does not stand there any more.
        let running = start(&world, config(OnError::Fail));
        while world.proposals.get() == 1 {
            time::sleep(Duration::from_millis(1)).await;
        }
        world.thaw();
        world.all_decided().await;
        settle(world.clone(), running).await;
        check(&world, 4);
        assert_eq!(world.decided.borrow().len(), 1);
    });
}

#[test]
fn counters_count_what_was_decided_once_although_it_ran_often() {
    simulate(5, |world| async move {
        world.faults.set(Faults {
            lost: 700,
            ..Faults::default()
        });
        let values: Vec<String> = (0..50).map(|v| v.to_string()).collect();
        for value in &values {
            world.append(&[value]);
        }
        let running = start(&world, config(OnError::Fail));
        world.all_decided().await;
        let stats = running.stats.clone();
        settle(world.clone(), running).await;
        assert!(stats.calls.get() > 1);
        assert_eq!(stats.records_in.get(), 50);
        assert_eq!(stats.out.borrow()[MAIN as usize].0, 50);
        check(&world, 5);
    });
}
