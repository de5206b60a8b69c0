//! Thousands of seeds of appends, truncations, purges, crashes and restarts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::RingId;
use tidemill_rt::sim::{Sim, Stopped, for_seeds};
use tidemill_rt::{task, time};

use super::model;
use super::small_config;
use crate::{Frame, LogConfig, RecoveredRing, ShardLog};

const SEEDS: u64 = 1_200;
const ROUNDS: u64 = 4;
const RINGS: u64 = 3;
/// Steps of one seed, far above what any takes: what runs in circles fails.
const STEPS_MAX: u64 = 200_000;

/// Everything ever appended, and how much of it was acknowledged.
#[derive(Default)]
struct History {
    frames: RefCell<Vec<(RingId, Frame)>>,
    acknowledged: Cell<usize>,
    /// Frames already gone through a recovery, with the state they led to.
    settled: RefCell<BTreeMap<RingId, RecoveredRing>>,
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
    let mut state = state_of(history, ring);
    for _ in 0..1 + sim.below(3) {
        let frame = random_frame(sim, &state);
        model::step(&mut state, &frame);
        frames.push(frame);
    }
    append(log, history, ring, frames);
}

/// The state of a ring once everything appended is in it.
fn state_of(history: &History, ring: RingId) -> RecoveredRing {
    let settled = history.settled.borrow();
    let mut state = settled.get(&ring).cloned().unwrap_or_default();
    let all = history.frames.borrow();
    for (_, frame) in all.iter().filter(|(r, _)| *r == ring) {
        model::step(&mut state, frame);
    }
    state
}

fn append(log: &ShardLog, history: &Rc<History>, ring: RingId, frames: Vec<Frame>) {
    let mut all = history.frames.borrow_mut();
    all.extend(frames.iter().map(|frame| (ring, frame.clone())));
    let upto = all.len();
    drop(all);
    let history = history.clone();
    let done = move || {
        assert!(history.acknowledged.get() < upto, "callbacks run in order");
        history.acknowledged.set(upto);
    };
    log.append(ring, frames, Box::new(done));
}

/// How a log is written.
#[derive(Clone, Copy)]
enum Load {
    /// Anything by any ring.
    Any,
    /// One ring writes little and purges nothing, another much that it purges at once: entries are carried forward.
    OneSilent,
}

/// One append of a load with a silent ring.
fn append_beside_a_silent_ring(sim: &Sim, log: &ShardLog, history: &Rc<History>) {
    if sim.below(6) == 0 {
        let ring = RingId(0);
        let state = state_of(history, ring);
        let last = state.entries.keys().last().copied().unwrap_or(0);
        let after = last.saturating_sub(sim.below(3));
        let index = after + 1;
        let data = vec![Bytes::from(vec![
            sim.below(256) as u8;
            sim.below(60) as usize
        ])];
        append(
            log,
            history,
            ring,
            vec![Frame::Truncate { after }, Frame::Entry { index, data }],
        );
        return;
    }
    let ring = RingId(1);
    let state = state_of(history, ring);
    let floor = state.purged.as_ref().map_or(0, |p| p.0);
    let index = state.entries.keys().last().copied().unwrap_or(floor) + 1;
    let data = vec![Bytes::from(vec![7; 2_000 + sim.below(4_000) as usize])];
    let purge = Frame::Purge {
        upto: index,
        data: Bytes::from_static(b"p"),
    };
    append(
        log,
        history,
        ring,
        vec![Frame::Entry { index, data }, purge],
    );
}

async fn one_life(sim: &Sim, config: LogConfig, history: Rc<History>, load: Load) -> ShardLog {
    let (log, recovered) = ShardLog::open(config).await.expect("it opens");
    settle(&history, &recovered);
    let appends = match load {
        Load::Any => sim.below(30),
        Load::OneSilent => sim.below(80),
    };
    for _ in 0..appends {
        match load {
            Load::Any => append_some(sim, &log, &history),
            Load::OneSilent => append_beside_a_silent_ring(sim, &log, &history),
        }
        match sim.below(6) {
            0 => log.barrier().await,
            1 => time::sleep(Duration::from_micros(sim.below(400))).await,
            2 | 3 => task::yield_now().await,
            _ => {}
        }
    }
    log
}

/// Gives back how many bytes were carried forward in lives that ended well.
fn crash_and_restart(seed: u64, load: Load) -> u64 {
    let carried = Cell::new(0);
    let sim = Sim::new(seed);
    sim.set_steps_max(STEPS_MAX);
    let history = Rc::new(History::default());
    let (config, failures) = small_config(4096 * (2 + seed % 15));
    for _ in 0..ROUNDS {
        let life = one_life(&sim, config.clone(), history.clone(), load);
        match sim.below(4) {
            0 => {
                let life = async {
                    let log = life.await;
                    log.barrier().await;
                    log.close().await;
                    carried.set(carried.get() + log.stats().carried_bytes);
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
    carried.get()
}

#[test]
fn crashes_and_restarts_lose_nothing_acknowledged() {
    for_seeds("shardlog-crashes", SEEDS, |seed| {
        crash_and_restart(seed, Load::Any);
    });
}

#[test]
fn s5_carried_copies_bring_nothing_void_back_and_lose_nothing() {
    let carried = Cell::new(0);
    let count = for_seeds("shardlog-carried", SEEDS, |seed| {
        carried.set(carried.get() + crash_and_restart(seed, Load::OneSilent))
    });
    assert!(
        count < 100 || carried.get() > 0,
        "nothing was carried forward"
    );
}

/// Fills a log, each append by itself durable, then damages one byte that the log itself knows to be durable.
fn flip_durable_byte(seed: u64) {
    let sim = Sim::new(seed);
    sim.set_steps_max(STEPS_MAX);
    let history = Rc::new(History::default());
    let (config, _) = small_config(4096 * (4 + seed % 10));
    let fill = async {
        let log = one_life(&sim, config.clone(), history.clone(), Load::Any).await;
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
    for_seeds("shardlog-damage", 400, flip_durable_byte);
}

#[test]
fn s7_large_votes_of_several_rings_are_not_carried_round_and_round() {
    // Seeds at which each carried vote filled a file of its own, so that the next one was the oldest, for ever.
    for seed in [574, 1502] {
        flip_durable_byte(seed);
    }
}
