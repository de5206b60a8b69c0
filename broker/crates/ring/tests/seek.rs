//! Rule X2 under seeks: outcomes proposed before a seek come to nothing after it, also one that begins where the transform was
//! moved to; from there on everything comes out once, whatever crashes.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::{batch, numbers};
use tidemill_model::{Incarnation, PartitionId};
use tidemill_ring::{Isolation, Outcome, PartitionConfig, Ring, StartAt};
use tidemill_rt::sim::{Sim, Stopped, for_seeds};
use tidemill_rt::{rand, time};
use tidemill_shardlog::ShardLog;

const LIFE: Incarnation = Incarnation(3);
const RECORDS: i64 = 40;
/// Added to the numbers that come out for each seek that their processor knows.
const PER_SEEK: u64 = 1_000;

fn input() -> PartitionId {
    common::partition(1, 0)
}

fn output() -> PartitionId {
    common::partition(2, 0)
}

async fn start() -> (Ring, ShardLog) {
    let (log, mut rings) = common::start_rings(256 * 1024, 1, |config| {
        config.flush_bytes = 8 * 1024;
        config.flush_interval = Duration::from_millis(20);
    })
    .await;
    let ring = rings.pop().expect("one");
    for id in [input(), output()] {
        let config = PartitionConfig::default();
        ring.open_partition(id, config, 0).await.expect("opens");
    }
    let attached = ring.attach(input(), LIFE, StartAt::Earliest).await;
    attached.expect("attached");
    (ring, log)
}

/// Proposes outcomes of one record, several under way at once, until `stop` of them or the end.
async fn process(ring: &Ring, mut stop: usize) {
    while stop > 0 {
        let from = ring.standing(input(), LIFE).expect("attached");
        let end = ring.view(input()).expect("open").high_watermark;
        let mut under_way = Vec::new();
        for first in (from.position..end).take(stop.min(4)) {
            let number = first as u64 + PER_SEEK * u64::from(from.moves);
            let (_, bytes) = batch(&[number], 0, None);
            under_way.push(ring.propose_outcome(Outcome {
                input: input(),
                incarnation: LIFE,
                moves: from.moves,
                version: 1,
                first,
                next: first + 1,
                outputs: vec![(output(), bytes)],
            }));
        }
        if under_way.is_empty() {
            return;
        }
        stop -= under_way.len();
        if rand::below(3) == 0 {
            // Nobody waits for them any more; they are in the line all the same.
            return drop(under_way);
        }
        for done in under_way {
            // Refused, where a seek came in between.
            let _ = done.await;
        }
    }
}

/// Where the last seek that was answered moved it to, and how many there were; the one under way may count as well.
#[derive(Default, Clone, Copy)]
struct Known {
    answered: Option<(u32, i64)>,
}

async fn session(known: Rc<RefCell<Known>>) {
    let (ring, _log) = start().await;
    while ring.view(input()).expect("open").high_watermark < RECORDS {
        let (header, bytes) = batch(&[1], 0, None);
        let written = ring.append(input(), header, bytes, time::unix_ms()).await;
        written.expect("written");
    }
    for _ in 0..6 {
        process(&ring, rand::below(12) as usize).await;
        let moves = ring.standing(input(), LIFE).expect("attached").moves;
        let to = rand::below(RECORDS as u64) as i64;
        let moved = ring.seek(input(), LIFE, (moves, to)).await.expect("moved");
        assert_eq!(moved, to);
        known.borrow_mut().answered = Some((moves + 1, to));
    }
}

async fn verify(known: Rc<RefCell<Known>>) {
    let (ring, _log) = start().await;
    let standing = ring.standing(input(), LIFE).expect("attached");
    if let Some((moves, _)) = known.borrow().answered {
        assert!(standing.moves >= moves, "an answered seek is kept");
    }
    let end = ring.view(input()).expect("open").high_watermark;
    while ring.progress(input(), LIFE).expect("attached") < end {
        process(&ring, usize::MAX).await;
        // What nobody waits for any more is in the line still.
        ring.settle().await.expect("settles");
    }
    let (mut from, mut all) = (0, Vec::new());
    while from < ring.view(output()).expect("open").high_watermark {
        let read = ring.read(output(), from, 1 << 20, Isolation::ReadUncommitted);
        let read = read.await.expect("readable");
        from = read.batches.last().expect("some").header.next_offset();
        all.extend(read.batches.iter().flat_map(numbers));
    }
    let seeks: Vec<u64> = all.iter().map(|n| n / PER_SEEK).collect();
    assert!(
        seeks.is_sorted(),
        "nothing of before a seek comes after it: {all:?}"
    );
    for run in all.chunk_by(|a, b| a / PER_SEEK == b / PER_SEEK) {
        let steps = run.windows(2).all(|two| two[1] == two[0] + 1);
        assert!(steps, "from a seek on each comes out once: {run:?}");
    }
    if let Some((moves, to)) = known.borrow().answered
        && standing.moves == moves
    {
        let since: Vec<u64> = all
            .iter()
            .filter(|n| *n / PER_SEEK == u64::from(moves))
            .map(|n| n % PER_SEEK)
            .collect();
        let wanted: Vec<u64> = (to as u64..RECORDS as u64).collect();
        let whole = ring.view(input()).expect("open").high_watermark == RECORDS;
        assert!(!whole || since == wanted, "from {to} on: {since:?}");
    }
}

fn run(seed: u64) -> u64 {
    let sim = Sim::new(seed);
    let known = Rc::new(RefCell::new(Known::default()));
    let mut crashes = 0;
    for _ in 0..1 + sim.below(2) {
        match sim.run_until_crash(2000, session(known.clone())) {
            Ok(()) => sim.kill(),
            Err(Stopped::Crashed { .. }) => crashes += 1,
            Err(e) => panic!("{e}"),
        }
    }
    let verified = sim.block_on(verify(known));
    verified.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    crashes
}

#[test]
fn x2_outcomes_of_before_a_seek_come_to_nothing_whatever_crashes() {
    let mut crashes = 0;
    let count = for_seeds("seeks", 300, |seed| crashes += run(seed));
    assert!(
        count < 100 || crashes >= 10,
        "the simulation hardly ever crashes"
    );
}
