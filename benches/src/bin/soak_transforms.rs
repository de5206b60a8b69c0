//! Transforms as people treat them who deploy many times a day: deployed anew, rolled back, paused, resumed, deleted, at random, under load,
//! with the broker killed now and then. What comes out must be what went in, each record once and in order, and memory may not grow.
//!
//! `soak_transforms MINUTES uring|epoll REPORT`

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tidemill_benches::stats::percentile;
use tidemill_tests::cli::{Cli, Ran};
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, modules, wait};

const PARTITIONS: i32 = 4;
const RECORDS_PER_BATCH: u64 = 20;
/// Between two batches of a partition.
const BATCH_EVERY: Duration = Duration::from_millis(20);
/// Between two things that are done to transforms.
const ACT_EVERY: Duration = Duration::from_millis(700);
/// Between two kills of the broker.
const KILL_EVERY: Duration = Duration::from_secs(45);
/// How long the output may take to have all of the input at the end.
const DRAIN: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);
const FETCH_BYTES: i32 = 1 << 20;
/// Resident memory before the kills of the last third, of the middle third's, at most.
const GROWTH_MAX: f64 = 1.15;
/// Kills in a third from which on that says something: how much a broker has come to have depends on when the kill came.
const KILLS_MIN: usize = 5;

/// What all threads share.
struct Shared {
    broker: RwLock<Broker>,
    kafka: String,
    stop: AtomicBool,
    drained: AtomicBool,
    sent: AtomicU64,
    checked: AtomicU64,
    problems: Mutex<Vec<String>>,
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn problem(&self, text: String) {
        eprintln!("soak: {text}");
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.push(text);
    }

    /// A connection, as soon as the broker is there.
    fn connect(&self) -> Option<Connection> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Ok(connection) = Connection::open(&self.kafka) {
                return Some(connection);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.problem("the broker does not come back".to_owned());
        None
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [minutes, engine, path] = args.as_slice() else {
        eprintln!("usage: soak_transforms MINUTES uring|epoll REPORT");
        return ExitCode::FAILURE;
    };
    let engine = if engine == "epoll" {
        Engine::Epoll
    } else {
        Engine::Uring
    };
    let minutes: f64 = minutes.parse().unwrap_or(5.0);
    let (text, holds) = soak(Duration::from_secs_f64(minutes * 60.0), engine);
    println!("{text}");
    if let Err(error) = std::fs::write(path, &text) {
        eprintln!("cannot write {path}: {error}");
        return ExitCode::FAILURE;
    }
    if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn soak(time: Duration, engine: Engine) -> (String, bool) {
    let broker = Options::new(engine)
        .shards(2)
        .settings("[memory]\ncache = \"16 MiB\"\n")
        .start();
    let cli = Cli::new(&broker);
    cli.ok(&[
        "topic",
        "create",
        "in",
        "--partitions",
        "4",
        "--config",
        "retention.ms=600000",
        "--config",
        "segment.bytes=1048576",
    ]);
    let module = modules::mask();
    deploy(&cli, &module, "steady", "out", &[]);
    let shared = Arc::new(Shared {
        kafka: broker.kafka(),
        broker: RwLock::new(broker),
        stop: AtomicBool::new(false),
        drained: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        checked: AtomicU64::new(0),
        problems: Mutex::default(),
    });
    let threads: Vec<_> = (0..PARTITIONS)
        .flat_map(|partition| {
            let (producing, comparing) = (shared.clone(), shared.clone());
            [
                std::thread::spawn(move || produce(&producing, partition)),
                std::thread::spawn(move || compare(&comparing, partition)),
            ]
        })
        .collect();
    let mut acts = Acts::default();
    let memory = act(&shared, &cli, &module, time, &mut acts);
    shared.stop.store(true, Ordering::Relaxed);
    cli.ok(&["resume", "steady"]);
    let all = || shared.checked.load(Ordering::Relaxed) >= shared.sent.load(Ordering::Relaxed);
    if !wait::until(DRAIN, all) {
        let (checked, sent) = (&shared.checked, &shared.sent);
        shared.problem(format!("of {sent:?} records {checked:?} came out"));
    }
    shared.drained.store(true, Ordering::Relaxed);
    for thread in threads {
        if thread.join().is_err() {
            shared.problem("a thread panicked".to_owned());
        }
    }
    report(&shared, time, engine, (&acts, &memory))
}

/// Things done, to show that the load was one.
#[derive(Debug, Default)]
struct Acts {
    deploys: u64,
    rollbacks: u64,
    pauses: u64,
    passing: u64,
    kills: u64,
}

fn deploy(cli: &Cli, module: &Path, name: &str, output: &str, more: &[&str]) -> Ran {
    let module = module.to_string_lossy();
    let mut all = vec![
        "deploy", "--module", &module, "--name", name, "--input", "in", "--output", output,
    ];
    all.extend(more);
    cli.run(&all)
}

/// Does things to transforms until `time` is over; resident memory before each kill, in bytes.
fn act(shared: &Shared, cli: &Cli, module: &Path, time: Duration, acts: &mut Acts) -> Vec<f64> {
    let began = Instant::now();
    let mut killed = Instant::now();
    let mut memory = Vec::new();
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    let mut passing: Option<String> = None;
    while began.elapsed() < time {
        if killed.elapsed() >= KILL_EVERY {
            let mut broker = shared
                .broker
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            memory.push(broker.resident_bytes() as f64);
            broker.kill9();
            broker.restart();
            acts.kills += 1;
            killed = Instant::now();
        }
        // Marsaglia's xorshift, 13 7 17.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let ran = match dice % 8 {
            0 | 1 => {
                acts.deploys += 1;
                let (weight, variable) = (1 + dice / 8 % 9, format!("TURN={}", acts.deploys));
                let more = ["--weight", &weight.to_string(), "--env", &variable];
                deploy(cli, module, "steady", "out", &more)
            }
            2 if acts.deploys > 1 => {
                acts.rollbacks += 1;
                cli.run(&["rollback", "steady"])
            }
            3 => {
                acts.pauses += 1;
                cli.run(&["pause", "steady"])
            }
            4..=6 => cli.run(&["resume", "steady"]),
            _ => pass(cli, module, &mut passing, acts),
        };
        if !ran.ok {
            shared.problem(ran.text());
        }
        std::thread::sleep(ACT_EVERY);
    }
    memory
}

/// Deletes the transform that is passing, with what it wrote, or deploys one.
fn pass(cli: &Cli, module: &Path, passing: &mut Option<String>, acts: &mut Acts) -> Ran {
    if let Some(name) = passing.take() {
        let deleted = cli.run(&["delete", &name]);
        if !deleted.ok {
            return deleted;
        }
        return cli.run(&["topic", "delete", &format!("of-{name}")]);
    }
    acts.passing += 1;
    let name = format!("passing-{}", acts.passing);
    let ran = deploy(
        cli,
        module,
        &name,
        &format!("of-{name}"),
        &["--from", "earliest"],
    );
    *passing = Some(name);
    ran
}

/// Produces numbered records to a partition. What the broker did not answer may be there or not: the check reads the input.
fn produce(shared: &Shared, partition: i32) {
    let mut number = 0_u64;
    let Some(mut connection) = shared.connect() else {
        return;
    };
    while shared.goes_on() {
        let values: Vec<(String, String)> = (number..number + RECORDS_PER_BATCH)
            .map(|n| {
                (
                    format!("{partition}"),
                    format!(r#"{{"n":{n},"email":"a@b.example"}}"#),
                )
            })
            .collect();
        let records: Vec<(&[u8], &[u8])> = values
            .iter()
            .map(|(k, v)| (k.as_bytes(), v.as_bytes()))
            .collect();
        let batch = raw::batch(&records, raw::now_ms());
        number += RECORDS_PER_BATCH;
        let answer = connection.call(&raw::produce("in", partition, &batch));
        if answer.is_err() {
            match shared.connect() {
                Some(again) => connection = again,
                None => return,
            }
        }
        std::thread::sleep(BATCH_EVERY);
    }
}

/// The records of one partition of a topic, in order.
struct Log {
    topic: &'static str,
    partition: i32,
    next: i64,
    end: i64,
    numbers: std::collections::VecDeque<u64>,
}

impl Log {
    fn new(topic: &'static str, partition: i32) -> Log {
        Log {
            topic,
            partition,
            next: 0,
            end: 0,
            numbers: std::collections::VecDeque::new(),
        }
    }

    /// Reads on, waiting a moment for more.
    fn read(&mut self, connection: &mut Connection) -> std::io::Result<()> {
        let request = raw::fetch(self.topic, self.partition, self.next, 100, FETCH_BYTES);
        let answer = connection.call(&request)?;
        let fetched = raw::fetched(&answer).ok_or(std::io::ErrorKind::InvalidData)?;
        if fetched.error != 0 {
            std::thread::sleep(Duration::from_millis(100));
            return Ok(());
        }
        self.end = fetched.high_watermark;
        for batch in fetched.batches {
            self.next = batch.last_offset + 1;
            self.numbers.extend(numbers(&batch.bytes));
        }
        Ok(())
    }
}

/// The numbers in the records of a batch: what stands between `"n":` and a comma.
fn numbers(batch: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(batch);
    let after = text.split("\"n\":").skip(1);
    let digits = after.map(|rest| rest.split(',').next().unwrap_or_default());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}

/// Compares a partition of the output with the same one of the input, record by record, until all has been compared.
fn compare(shared: &Shared, partition: i32) {
    let (mut input, mut output) = (Log::new("in", partition), Log::new("out", partition));
    let (mut sent, mut checked) = (0, 0);
    let Some(mut connection) = shared.connect() else {
        return;
    };
    let mut last = false;
    while !last {
        // Once more after all has come, so that nothing is left of what was read of one side only.
        last = shared.drained.load(Ordering::Relaxed);
        let read = input
            .read(&mut connection)
            .and_then(|()| output.read(&mut connection));
        if read.is_err() {
            match shared.connect() {
                Some(again) => connection = again,
                None => return,
            }
            continue;
        }
        shared
            .sent
            .fetch_add((input.end - sent).max(0) as u64, Ordering::Relaxed);
        sent = sent.max(input.end);
        while let (Some(put_in), Some(came_out)) = (input.numbers.front(), output.numbers.front()) {
            if put_in != came_out {
                let text = format!(
                    "partition {partition}, record {checked}: {put_in} went in, {came_out} came out"
                );
                return shared.problem(text);
            }
            input.numbers.pop_front();
            output.numbers.pop_front();
            checked += 1;
            shared.checked.fetch_add(1, Ordering::Relaxed);
        }
    }
    if !output.numbers.is_empty() {
        let more = output.numbers.len();
        shared.problem(format!(
            "partition {partition}: {more} records came out that did not go in"
        ));
    }
}

fn report(
    shared: &Shared,
    time: Duration,
    engine: Engine,
    (acts, memory): (&Acts, &[f64]),
) -> (String, bool) {
    let third = memory.len() / 3;
    let median = |part: &[f64]| percentile(&mut part.to_vec(), 50.0) / f64::from(1 << 20);
    let flat = third < KILLS_MIN || {
        let (middle, last) = (&memory[third..2 * third], &memory[2 * third..]);
        median(last) <= median(middle) * GROWTH_MAX
    };
    let problems = shared
        .problems
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let checked = shared.checked.load(Ordering::Relaxed);
    let holds = problems.is_empty() && flat && checked > 0;
    let mut text = format!(
        "# Soak of transforms\n\n`cargo xtask soak --transforms --minutes {:.0} --runtime {}`: **{}**\n\n\
         {checked} records went in and came out, compared one by one and in order; {} deployments and {} rollbacks of the same \
         transform, {} pauses, {} other transforms deployed and deleted with their topics, {} kills of the broker.\n",
        time.as_secs_f64() / 60.0,
        engine.name(),
        if holds { "holds" } else { "falls short" },
        acts.deploys,
        acts.rollbacks,
        acts.pauses,
        acts.passing,
        acts.kills,
    );
    if third > 0 {
        let (middle, last) = (
            median(&memory[third..2 * third]),
            median(&memory[2 * third..]),
        );
        let _ = writeln!(
            text,
            "\nResident before a kill: {middle:.0} MiB in the middle third, {last:.0} MiB in the last."
        );
    }
    for problem in problems.iter() {
        let _ = writeln!(text, "\n* {}", problem.trim());
    }
    (text, holds)
}
