//! T6: how long a Produce takes beside a transform that burns CPU on the same shard, and without it.
//!
//! One broker on core 0 with one shard. Single records of 1 KB are produced in an open loop with fixed intended start times, in rounds with and
//! without the transform, in turn. It has a backlog that it never gets through: each record costs it 50 ms of CPU time.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};
use tidemill_benches::load;
use tidemill_benches::stats::percentile;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, modules};

/// Requests a second.
const RATE: u32 = 500;
const ROUND: Duration = Duration::from_secs(8);
const ROUNDS: usize = 5;
const RECORD_BYTES: usize = 1024;
/// Records that wait for the transform; more than it gets through in all rounds.
const BACKLOG: usize = 20_000;

const BURN: &str = "use tidemill_sdk::{Output, Record, Result};

/// Burns CPU time for 50 ms.
#[tidemill_sdk::transform]
pub fn burn(record: Record<'_>, output: &mut Output) -> Result<()> {
    let began = std::time::Instant::now();
    while began.elapsed().as_millis() < 50 {}
    output.forward(&record)
}
";

fn main() {
    let module = modules::build("burn", Some(BURN));
    let broker = Options::new(Engine::Auto).shards(1).cpu(0).start();
    let cli = Cli::new(&broker);
    cli.create_topic("plain", 1);
    cli.create_topic("in", 1);
    backlog(&broker);
    let file = module.to_string_lossy();
    cli.ok(&[
        "deploy", "--module", &file, "--name", "burn", "--input", "in", "--output", "out",
        "--from", "earliest",
    ]);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for number in 1..=ROUNDS {
        cli.ok(&["pause", "burn"]);
        without.push(round(&broker, "without", number));
        cli.ok(&["resume", "burn"]);
        with.push(round(&broker, "with", number));
    }
    let burnt = broker.metric("tidemill_transform_cpu_seconds_total", "");
    println!("the transform took {burnt:.1} s of CPU time");
    let (without, with) = (percentile(&mut without, 50.0), percentile(&mut with, 50.0));
    println!(
        "{}",
        serde_json::json!({ "p99_ms_without": without, "p99_ms_with": with, "ratio": with / without, "burnt_s": burnt })
    );
}

fn backlog(broker: &Broker) {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let request = raw::produce("in", 0, &load::batch(BACKLOG / 20, 10));
    for _ in 0..20 {
        connection.send(&request).expect("the broker reads");
        load::acknowledged(&mut connection, "in").expect("it is taken");
    }
}

/// One open-loop round; p99 in ms.
fn round(broker: &Broker, name: &str, number: usize) -> f64 {
    let mut sending = Connection::open(&broker.kafka()).expect("the broker listens");
    let mut acknowledging = sending.split().expect("a socket can be cloned");
    let request = raw::produce("plain", 0, &load::batch(1, RECORD_BYTES));
    let interval = Duration::from_secs(1) / RATE;
    let requests = (ROUND.as_secs_f64() / interval.as_secs_f64()) as u32;
    let began = Instant::now() + Duration::from_millis(50);
    let acknowledger = std::thread::spawn(move || {
        let latency = |number: u32| {
            load::acknowledged(&mut acknowledging, "plain").expect("it is taken");
            let intended = began + interval * number;
            Instant::now()
                .saturating_duration_since(intended)
                .as_secs_f64()
                * 1e3
        };
        (0..requests).map(latency).collect::<Vec<f64>>()
    });
    for number in 0..requests {
        let intended = began + interval * number;
        std::thread::sleep(intended.saturating_duration_since(Instant::now()));
        sending.send(&request).expect("the broker reads");
    }
    let mut latencies = acknowledger.join().expect("every request is acknowledged");
    let (p50, p99, max) = (
        percentile(&mut latencies, 50.0),
        percentile(&mut latencies, 99.0),
        percentile(&mut latencies, 100.0),
    );
    println!("round {number} {name} it: p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms");
    p99
}
