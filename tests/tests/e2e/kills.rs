//! `kill -9` in the middle of producing and transforming: nothing acknowledged is lost, nothing comes out twice.

use crate::kafka::{self, Load, Seen};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, modules, on_both_engines, wait};

on_both_engines!(
    twenty_kills_lose_nothing_and_double_nothing,
    sigterm_in_the_middle_of_producing_ends_cleanly_and_keeps_everything,
);

const KILLS: usize = 20;
/// Acknowledged records between two kills: from 200 up to 200 + 63 * 25.
const ACKS_MIN: usize = 200;
const ACKS_STEP: usize = 25;
/// How long the next acknowledgements may take after a restart.
const PROGRESS_LIMIT: Duration = Duration::from_secs(30);

/// Two transforms read one input. `near` is made for its transform, so its partitions lie in the input's
/// rings; `far` has another number of partitions, so partition 0 and partition 3 of the input, which share
/// an output partition, cannot both be in that partition's ring, and some of it goes through the outbox.
fn twenty_kills_lose_nothing_and_double_nothing(engine: Engine) {
    let module = modules::mask();
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 4);
    cli.create_topic("far", 3);
    cli.deploy(&module, "mask-near", "in", "near");
    cli.deploy(&module, "mask-far", "in", "far");
    let producing = Producing::start(&broker, "in");
    let mut random = Random::new();
    for kill in 0..KILLS {
        let goal = producing.acknowledged() + ACKS_MIN + ACKS_STEP * random.below(64);
        let grew = wait::until(PROGRESS_LIMIT, || producing.acknowledged() >= goal);
        assert!(
            grew,
            "after {kill} kills: {} of {goal} acknowledged",
            producing.acknowledged()
        );
        broker.kill9();
        broker.restart();
    }
    let reports = producing.finish();
    assert!(reports.failed.is_empty(), "{:?}", reports.failed.first());
    let input = kafka::read_all(&broker.kafka(), "in", reports.acknowledged.len());
    assert_once(
        "in",
        &input,
        reports.acknowledged.iter().map(String::as_str),
    );
    for output in ["near", "far"] {
        let records = kafka::read_all(&broker.kafka(), output, input.len());
        assert_once(
            output,
            &records,
            input.iter().map(|record| record.key.as_str()),
        );
        assert!(
            records.iter().all(|record| !record.says("somebody")),
            "{output}: not masked"
        );
    }
    assert!(broker.stop().success());
}

fn sigterm_in_the_middle_of_producing_ends_cleanly_and_keeps_everything(engine: Engine) {
    let mut broker = Broker::start(engine);
    Cli::new(&broker).create_topic("in", 4);
    let producing = Producing::start(&broker, "in");
    for _ in 0..3 {
        let goal = producing.acknowledged() + 500;
        assert!(wait::until(PROGRESS_LIMIT, || producing.acknowledged() >= goal));
        assert!(broker.stop().success(), "{}", broker.log());
        broker.restart();
    }
    let reports = producing.finish();
    let input = kafka::read_all(&broker.kafka(), "in", reports.acknowledged.len());
    assert_once(
        "in",
        &input,
        reports.acknowledged.iter().map(String::as_str),
    );
}

/// Each of the keys is there once, and no other; offsets are dense.
fn assert_once<'a>(topic: &str, records: &[Seen], keys: impl Iterator<Item = &'a str>) {
    let counts = kafka::by_key(records);
    let doubled: Vec<_> = counts
        .iter()
        .filter(|(_, count)| **count > 1)
        .take(5)
        .collect();
    assert!(doubled.is_empty(), "{topic}: doubled {doubled:?}");
    let keys: std::collections::BTreeSet<&str> = keys.collect();
    let lost: Vec<_> = keys
        .iter()
        .filter(|key| !counts.contains_key(*key))
        .take(5)
        .collect();
    assert!(
        lost.is_empty(),
        "{topic}: {} of {} records; lost {lost:?}",
        records.len(),
        keys.len()
    );
    assert_eq!(
        counts.len(),
        keys.len(),
        "{topic}: records that nobody wrote"
    );
    kafka::assert_dense(topic, records);
}

/// A thread that produces at a steady pace until it is told to finish.
struct Producing {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<kafka::Reports>,
}

impl Producing {
    fn start(broker: &Broker, topic: &'static str) -> Producing {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut load = Load::new(&broker.kafka(), &[]);
        let thread = {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..20 {
                        load.produce(topic);
                    }
                    acknowledged.store(load.acknowledged(), Ordering::Relaxed);
                    // The pace of the load, 4,000 records/s at most; no condition waits for it.
                    std::thread::sleep(Duration::from_millis(5));
                }
                load.finish()
            })
        };
        Producing {
            stop,
            acknowledged,
            thread,
        }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn finish(self) -> kafka::Reports {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the producer does not panic")
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014), seeded with the time; the seed is printed.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.map_or(1, |since| since.as_nanos() as u64);
        println!("seed {seed}");
        Random(seed)
    }

    fn below(&mut self, limit: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit) as usize
    }
}
