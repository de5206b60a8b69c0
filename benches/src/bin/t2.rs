//! T2: from the append of input to the visibility of its output, in an open loop at 30 % of saturation.
//!
//! One broker on core 0 with one shard, one partition in, one out, the masking transform between them. First a
//! closed loop finds how many records a second come out at most; then rounds at 30 % of that, with fixed
//! intended start times, so that a stall counts for every batch it delays. A batch's latency ends when a
//! long-polling Fetch of the output has brought its last record.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidemill_benches::stats::percentile;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, modules};

const RECORDS_PER_BATCH: usize = 100;
const IN_FLIGHT: usize = 4;
const SATURATION: Duration = Duration::from_secs(5);
const ROUND: Duration = Duration::from_secs(10);
const ROUNDS: usize = 5;
const LOAD: f64 = 0.3;
const FETCH_BYTES: i32 = 4 << 20;
/// How long the last output may take.
const DRAIN: Duration = Duration::from_secs(60);

fn main() {
    let broker = Options::new(Engine::Auto).shards(1).cpu(0).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    cli.deploy(&modules::mask(), "mask", "in", "out");
    let request = raw::produce("in", 0, &json_batch());
    let (mut sent, saturation) = saturate(&broker, &request);
    println!("saturation: {saturation:.0} records/s");
    let interval = Duration::from_secs_f64(RECORDS_PER_BATCH as f64 / (saturation * LOAD));
    println!(
        "open loop: a batch of {RECORDS_PER_BATCH} records every {:.2} ms",
        millis(interval)
    );
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let mut latencies = round(&broker, &request, sent, interval);
        sent += (latencies.len() * RECORDS_PER_BATCH) as i64;
        let at = |samples: &mut [f64], percent| (percentile(samples, percent) * 1e3).round() / 1e3;
        let (p50, p99, max) = (
            at(&mut latencies, 50.0),
            at(&mut latencies, 99.0),
            at(&mut latencies, 100.0),
        );
        println!(
            "round {number}: {} batches, p50 {p50} ms, p99 {p99} ms, max {max} ms",
            latencies.len()
        );
        rounds.push(serde_json::json!({"p50_ms": p50, "p99_ms": p99, "max_ms": max}));
    }
    println!(
        "{}",
        serde_json::json!({"saturation_records_per_s": saturation.round(), "rounds": rounds})
    );
}

/// 100 records with a JSON value of 163 bytes.
fn json_batch() -> Vec<u8> {
    let values: Vec<(String, String)> = (0..RECORDS_PER_BATCH)
        .map(|i| {
            let start = format!(
                r#"{{"id":1{i:05},"email":"person{i:05}@example.com","country":"DE","note":""#
            );
            let padding = "x".repeat(163 - start.len() - 2);
            (format!("key-{i:05}"), format!("{start}{padding}\"}}"))
        })
        .collect();
    let records: Vec<(&[u8], &[u8])> = values
        .iter()
        .map(|(key, value)| (key.as_bytes(), value.as_bytes()))
        .collect();
    raw::batch(&records, raw::now_ms())
}

/// Produces with a few requests in flight, then waits for the last output; records sent, and records a second.
fn saturate(broker: &Broker, request: &[u8]) -> (i64, f64) {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let began = Instant::now();
    let mut batches = 0;
    for _ in 0..IN_FLIGHT {
        connection.send(request).expect("the broker reads");
    }
    while began.elapsed() < SATURATION {
        acknowledged(&mut connection);
        connection.send(request).expect("the broker reads");
        batches += 1;
    }
    for _ in 0..IN_FLIGHT {
        acknowledged(&mut connection);
        batches += 1;
    }
    let records = i64::from(batches) * RECORDS_PER_BATCH as i64;
    let mut output = Output::open(broker, 0);
    while output.next < records {
        assert!(
            began.elapsed() < SATURATION + DRAIN,
            "only {} of {records} records came out",
            output.next
        );
        output.fetch();
    }
    (records, records as f64 / began.elapsed().as_secs_f64())
}

fn acknowledged(connection: &mut Connection) {
    let answer = connection.receive().expect("produce is answered");
    let (error, _) = raw::produced(&answer, "in").expect("a produce answer");
    assert_eq!(error, 0, "produce was refused");
}

/// One open-loop round beginning at an offset; the latency of every batch in ms.
fn round(broker: &Broker, request: &[u8], first: i64, interval: Duration) -> Vec<f64> {
    let mut sending = Connection::open(&broker.kafka()).expect("the broker listens");
    let mut acknowledging = sending.split().expect("a socket can be cloned");
    let batches = (ROUND.as_secs_f64() / interval.as_secs_f64()) as usize;
    let arrivals = Arc::new(Mutex::new(Vec::<(i64, Instant)>::new()));
    let end = first + (batches * RECORDS_PER_BATCH) as i64;
    let reached = Arc::new(AtomicI64::new(first));
    let reading = {
        let (arrivals, reached) = (Arc::clone(&arrivals), Arc::clone(&reached));
        let mut output = Output::open(broker, first);
        std::thread::spawn(move || {
            while output.next < end {
                output.fetch();
                let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
                arrivals.push((output.next, Instant::now()));
                reached.store(output.next, Ordering::Relaxed);
            }
        })
    };
    let acknowledger =
        std::thread::spawn(move || (0..batches).for_each(|_| acknowledged(&mut acknowledging)));
    let began = Instant::now() + Duration::from_millis(50);
    for number in 0..batches {
        let intended = began + interval * u32::try_from(number).expect("a round has few batches");
        std::thread::sleep(intended.saturating_duration_since(Instant::now()));
        sending.send(request).expect("the broker reads");
    }
    acknowledger.join().expect("every batch is acknowledged");
    let drained = tidemill_tests::wait::until(DRAIN, || reached.load(Ordering::Relaxed) >= end);
    assert!(drained, "output is missing");
    reading.join().expect("the reader ends at the last record");
    let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    latencies(&arrivals, first, began, interval, batches)
}

/// For each batch, when its last record had come, less when it should have been sent.
fn latencies(
    arrivals: &[(i64, Instant)],
    first: i64,
    began: Instant,
    interval: Duration,
    batches: usize,
) -> Vec<f64> {
    let mut arrivals = arrivals.iter().peekable();
    (0..batches)
        .filter_map(|number| {
            let last = first + ((number + 1) * RECORDS_PER_BATCH) as i64;
            while arrivals.next_if(|(next, _)| *next < last).is_some() {}
            let intended = began + interval * u32::try_from(number).ok()?;
            arrivals
                .peek()
                .map(|(_, at)| millis(at.saturating_duration_since(intended)))
        })
        .collect()
}

/// The output partition, read with long polls.
struct Output {
    connection: Connection,
    next: i64,
}

impl Output {
    fn open(broker: &Broker, next: i64) -> Output {
        Output {
            connection: Connection::open(&broker.kafka()).expect("the broker listens"),
            next,
        }
    }

    fn fetch(&mut self) {
        let request = raw::fetch("out", 0, self.next, 500, FETCH_BYTES);
        let answer = self.connection.call(&request).expect("fetch is answered");
        let fetched = raw::fetched(&answer).expect("a fetch answer");
        assert_eq!(fetched.error, 0, "fetch was refused");
        if let Some(last) = fetched.batches.last() {
            self.next = last.last_offset + 1;
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
