//! A node under everything at once, for as long as asked: producers of every compression type, idempotent ones among them,
//! consumers (in groups where the broker has them), transforms that stay and transforms that come and go, topics made and
//! deleted, connections opened and closed, a consumer that is slow. Nothing may be lost or doubled, and memory, descriptors
//! and disk may not grow.
//!
//! `soak MINUTES uring|epoll REPORT`

#![forbid(unsafe_code)]

mod churn;
mod clients;
mod http;
mod raw_load;
mod report;
mod watch;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidemill_tests::{Broker, Engine, Options, modules};

/// Between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Problems that are told.
const PROBLEMS_MAX: usize = 50;
/// Topics keep what is at most so old, so that the disk comes to rest.
const RETENTION_MS: u32 = 60_000;
/// Small, so that there are many.
const SEGMENT_BYTES: u32 = 1 << 20;

/// What all parts of the load share.
#[derive(Debug)]
pub(crate) struct Shared {
    kafka: String,
    admin: String,
    stop: AtomicBool,
    problems: Mutex<Vec<String>>,
    /// Things done, to show that the load was one.
    pub(crate) connections: AtomicU64,
    pub(crate) topics: AtomicU64,
    pub(crate) deployments: AtomicU64,
}

impl Shared {
    /// Whether to go on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Notes that something is wrong.
    pub(crate) fn problem(&self, text: String) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < PROBLEMS_MAX {
            eprintln!("soak: {text}");
            problems.push(text);
        }
    }

    fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.clone()
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [minutes, engine, path] = args.as_slice() else {
        eprintln!("usage: soak MINUTES uring|epoll REPORT");
        return ExitCode::FAILURE;
    };
    let engine = match engine.as_str() {
        "uring" => Engine::Uring,
        "epoll" => Engine::Epoll,
        _ => Engine::Auto,
    };
    let minutes = minutes.parse().unwrap_or(5.0);
    let outcome = soak(minutes, engine);
    let text = report::render(&outcome);
    println!("{text}");
    if let Err(error) = std::fs::write(path, &text) {
        eprintln!("cannot write {path}: {error}");
        return ExitCode::FAILURE;
    }
    match outcome.holds() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Runs the load for so many minutes and judges it.
fn soak(minutes: f64, engine: Engine) -> report::Outcome {
    // Full after a minute, so that what still grows then is no cache.
    let settings = "[memory]\ncache = \"16 MiB\"\n";
    let mut broker = Options::new(engine).settings(settings).start();
    let shared = Arc::new(Shared {
        kafka: broker.kafka(),
        admin: broker.admin(),
        stop: AtomicBool::new(false),
        problems: Mutex::default(),
        connections: AtomicU64::new(0),
        topics: AtomicU64::new(0),
        deployments: AtomicU64::new(0),
    });
    let module = modules::mask();
    let retained = clients::make_topics(&shared);
    let groups = clients::has_groups(&shared.kafka);
    churn::deploy(&shared, &broker, &module, "masking", raw_load::INPUT);
    let python = clients::Python::start(&shared, groups);
    let load = start_load(&shared, &broker, &module);
    let samples = sample(&broker, &shared, Duration::from_secs_f64(minutes * 60.0));
    shared.stop.store(true, Ordering::Relaxed);
    let tally = python.finish(&shared);
    for (name, thread) in load {
        if thread.join().is_err() {
            shared.problem(format!("{name} panicked"));
        }
    }
    if !broker.running() {
        shared.problem("the broker ended".to_owned());
    }
    for line in broker.log().lines().filter(|line| line.contains("ERROR")) {
        shared.problem(format!("the broker logged {line}"));
    }
    // They are told already.
    broker.expect_error("");
    if !broker.stop().success() {
        shared.problem("the broker did not stop cleanly".to_owned());
    }
    report::Outcome {
        engine: engine.name(),
        minutes,
        retained,
        groups,
        samples,
        tally,
        counts: [
            ("connections opened and closed", &shared.connections),
            ("topics made and deleted", &shared.topics),
            ("transforms deployed and deleted", &shared.deployments),
        ]
        .map(|(what, count)| (what, count.load(Ordering::Relaxed))),
        problems: shared.problems(),
    }
}

type Load = Vec<(&'static str, JoinHandle<()>)>;

fn start_load(shared: &Arc<Shared>, broker: &Broker, module: &std::path::Path) -> Load {
    let spawn = |run: fn(&Arc<Shared>)| {
        let shared = shared.clone();
        std::thread::spawn(move || run(&shared))
    };
    let mut load = vec![
        ("the raw producer and its readers", spawn(raw_load::run)),
        ("the slow consumer", spawn(raw_load::read_slowly)),
        ("opening connections", spawn(churn::connections)),
        ("making topics", spawn(churn::topics)),
    ];
    let (cli, module) = (tidemill_tests::cli::Cli::new(broker), module.to_owned());
    let shared = shared.clone();
    let deploying = std::thread::spawn(move || churn::transforms(&shared, &cli, &module));
    load.push(("deploying transforms", deploying));
    load
}

fn sample(broker: &Broker, shared: &Shared, time: Duration) -> Vec<watch::Sample> {
    let began = Instant::now();
    let mut samples: Vec<watch::Sample> = Vec::new();
    while began.elapsed() < time {
        let due = SAMPLE_EVERY * (samples.len() as u32 + 1);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        match watch::Sample::take(broker, began.elapsed(), samples.last()) {
            Some(sample) => {
                eprintln!("soak: {sample}");
                samples.push(sample);
            }
            None => {
                shared.problem("the broker does not answer /metrics".to_owned());
                break;
            }
        }
    }
    samples
}
