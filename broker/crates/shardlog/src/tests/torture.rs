//! Thousands of seeds of appends, truncations, purges, crashes and restarts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::RingId;
use tidemill_rt::sim::{Sim, Stopped};
use tidemill_rt::{task, time};

use super::model;
use super::small_config;
use crate::{Frame, LogConfig, RecoveredRing, ShardLog};

const SEEDS: u64 = 1_200;
const ROUNDS: u64 = 4;
const RINGS: u64 = 3;

/// Everything ever appended, and how much of it was acknowledged.
#[derive(Default)]
struct History {
    frames: RefCell<Vec<(RingId, Frame)>>,
    acknowledged: Cell<usize>,
    /// Frames already gone through a recovery, with the state they led to.
    settled: RefCell<BTreeMap<RingId, RecoveredRing>>,
}

/// Runs `scenario` for `count` seeds, for as many as `TIDEMILL_SEEDS` says, or for the one in `TIDEMILL_SEED`; a failure says how to run
/// it again.
fn for_seeds(test: &str, count: u64, scenario: impl Fn(u64)) {
    let given = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("seeds are numbers"))
    };
    let seeds = match given("TIDEMILL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..given("TIDEMILL_SEEDS").unwrap_or(count),
    };
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| scenario(seed));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("replay: TIDEMILL_SEED={seed} cargo test -p tidemill-shardlog {test}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn random_bytes(sim: &Sim) -> Bytes {
    let len = match sim.below(40) {
        0 => sim.below(100_000),
        1..4 => sim.below(10_000),
        _ => sim.below(200),
    };
    Bytes::from(vec![sim.below(256) as u8; len as usize])
}

/// A frame that may come next for a ring in this state.
fn random_frame(sim: &Sim, ring: &RecoveredRing) -> Frame {
    let floor = ring.purged.as_ref().map_or(0, |p| p.0);
    let last = ring.entries.keys().last().copied().unwrap_or(floor);
    match sim.below(12) {
        0 => Frame::Vote {
            data: random_bytes(sim),
        },
        1 => Frame::Truncate {
            after: floor + sim.below(last - floor + 1),
        },
        2 | 3 => Frame::Purge {
            upto: floor + sim.below(last - floor + 1),
            data: random_bytes(sim),
        },
        _ => Frame::Entry {
            index: last + 1,
            data: vec![random_bytes(sim), random_bytes(sim)],
        },
    }
}

/// Holds what was recovered against every state that the crash may have left: the state after some number of frames,
/// at least all acknowledged ones. That frames of all rings share one order makes "no holes" part of it.
fn settle(history: &History, recovered: &BTreeMap<RingId, RecoveredRing>) {
    let mut frames = history.frames.borrow_mut();
    let mut state = history.settled.borrow().clone();
    let mut found = None;
    for taken in 0..=frames.len() {
        if taken > 0 {
            let (ring, frame) = &frames[taken - 1];
            model::step(state.entry(*ring).or_default(), frame);
        }
        // A ring of which nothing is left need not be remembered.
        let left = state
            .iter()
            .filter(|(_, r)| **r != RecoveredRing::default());
        if taken >= history.acknowledged.get() && left.eq(recovered.iter()) {
            found = Some(state.clone());
        }
    }
    let Some(found) = found else {
        panic!(
            "recovered state is none of the {} possible ones ({} frames acknowledged)",
            frames.len() + 1 - history.acknowledged.get(),
            history.acknowledged.get()
        );
    };
    *history.settled.borrow_mut() = found;
    frames.clear();
    history.acknowledged.set(0);
}

fn append_some(sim: &Sim, log: &ShardLog, history: &Rc<History>) {
    let ring = RingId(sim.below(RINGS) as u32);
    let mut frames = Vec::new();
    let mut state = history
        .settled
        .borrow()
        .get(&ring)
        .cloned()
        .unwrap_or_default();
    let mut all = history.frames.borrow_mut();
    for (_, frame) in all.iter().filter(|(r, _)| *r == ring) {
        model::step(&mut state, frame);
    }
    for _ in 0..1 + sim.below(3) {
        let frame = random_frame(sim, &state);
        model::step(&mut state, &frame);
        frames.push(frame.clone());
        all.push((ring, frame));
    }
    let upto = all.len();
    let history = history.clone();
    let done = move || {
        assert!(history.acknowledged.get() < upto, "callbacks run in order");
        history.acknowledged.set(upto);
    };
    log.append(ring, frames, Box::new(done));
}

async fn one_life(sim: &Sim, config: LogConfig, history: Rc<History>) -> ShardLog {
    let (log, recovered) = ShardLog::open(config).await.expect("it opens");
    settle(&history, &recovered);
    for _ in 0..sim.below(30) {
        append_some(sim, &log, &history);
        match sim.below(6) {
            0 => log.barrier().await,
            1 => time::sleep(Duration::from_micros(sim.below(400))).await,
            2 | 3 => task::yield_now().await,
            _ => {}
        }
    }
    log
}

fn crash_and_restart(seed: u64) {
    let sim = Sim::new(seed);
    let history = Rc::new(History::default());
    let (config, failures) = small_config(4096 * (2 + seed % 15));
    for _ in 0..ROUNDS {
        let life = one_life(&sim, config.clone(), history.clone());
        match sim.below(4) {
            0 => {
                let life = async {
                    let log = life.await;
                    log.barrier().await;
                    log.close().await;
                };
                sim.block_on(life).expect("it ends");
                assert_eq!(history.acknowledged.get(), history.frames.borrow().len());
            }
            1 => {
                drop(sim.block_on(life).expect("it ends"));
                sim.kill();
            }
            _ => {
                let disk_steps = 1 + sim.below(90);
                sim.crash_after_disk_steps(disk_steps);
                match sim.block_on(life) {
                    Ok(log) => drop(log),
                    Err(Stopped::Crashed { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
                sim.crash();
            }
        }
    }
    let check = async {
        let (log, recovered) = ShardLog::open(config).await.expect("it opens");
        settle(&history, &recovered);
        assert!(log.stats().files > 0);
    };
    sim.block_on(check).expect("it ends");
    assert_eq!(*failures.borrow(), Vec::<String>::new());
}

#[test]
fn crashes_and_restarts_lose_nothing_acknowledged() {
    for_seeds(
        "crashes_and_restarts_lose_nothing_acknowledged",
        SEEDS,
        crash_and_restart,
    );
}

/// Fills a log, each append by itself durable, then damages one byte that the log itself knows to be durable.
fn flip_durable_byte(seed: u64) {
    let sim = Sim::new(seed);
    let history = Rc::new(History::default());
    let (config, _) = small_config(4096 * (4 + seed % 10));
    let fill = async {
        let log = one_life(&sim, config.clone(), history.clone()).await;
        append_some(&sim, &log, &history);
        log.barrier().await;
        log.close().await;
    };
    sim.block_on(fill).expect("it ends");
    sim.kill();
    let disk = sim.disk();
    let files = disk.files();
    let logs: Vec<_> = files
        .iter()
        .filter(|f| f.extension() == Some("log".as_ref()))
        .collect();
    let (newest, older) = logs.split_last().expect("there is a log");
    // The closing group is the last block written: everything in front of it is known to be durable.
    let written = |f: &std::path::Path| {
        let bytes = disk.read(f).expect("it is there");
        bytes
            .iter()
            .rposition(|b| *b != 0)
            .expect("it has a header") as u64
            / 4096
            * 4096
    };
    let mut places: Vec<_> = older
        .iter()
        .map(|f| ((*f).clone(), written(f) + 4096))
        .collect();
    places.push(((*newest).clone(), written(newest)));
    let (file, below) = places.swap_remove(sim.below(places.len() as u64) as usize);
    let position = sim.below(below);
    disk.flip_bytes(&file, position, 1).expect("it is there");
    let reopened = sim.block_on(ShardLog::open(config)).expect("it ends");
    let error = reopened.expect_err("damage is reported").to_string();
    assert!(error.contains("corrupt"), "{error}");
    assert!(error.contains(&*file.to_string_lossy()), "{error}");
    assert!(error.contains("position"), "{error}");
}

#[test]
fn byte_flipped_below_durable_position_is_corruption() {
    for_seeds(
        "byte_flipped_below_durable_position_is_corruption",
        400,
        flip_durable_byte,
    );
}
