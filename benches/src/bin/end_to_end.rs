//! B6: from the intended sending of a batch to its last record at a consumer, in an open loop.
//!
//! Usage: `end_to_end HOST:PORT RATE SECONDS WARM_SECONDS [key=value]... -- COMMAND...`. RATE is in batches a second;
//! 0 finds what is acknowledged in a closed loop at most and takes 30 % of it. Batches have 10 records of 1 KB and go to
//! 16 partitions in turn over one connection; another one long-polls all of them. `key=value` are settings of the topic.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};
use tidemill_benches::broker::{self, Broker};
use tidemill_benches::stats::percentile;
use tidemill_benches::{kafka, load};
use tidemill_tests::raw;

const TOPIC: &str = "end-to-end";
const PARTITIONS: usize = 16;
const RECORDS: usize = 10;
const RECORD_BYTES: usize = 1024;
const IN_FLIGHT: usize = 32;
const SATURATION: Duration = Duration::from_secs(5);
const LOAD: f64 = 0.3;
const FETCH_BYTES: i32 = 4 << 20;
const WAIT_MS: i32 = 500;

fn main() -> ExitCode {
    tidemill_benches::finish(run())
}

fn run() -> Result<String, String> {
    let (args, command) = broker::arguments()?;
    let usage =
        "usage: end_to_end HOST:PORT RATE SECONDS WARM_SECONDS [key=value]... -- COMMAND...";
    let [address, rate, seconds, warm, configs @ ..] = args.as_slice() else {
        return Err(usage.to_owned());
    };
    let rate: f64 = rate.parse().map_err(|_| usage)?;
    let seconds: f64 = seconds.parse().map_err(|_| usage)?;
    let warm = Duration::from_secs(warm.parse().map_err(|_| usage)?);
    let (broker, _) = Broker::start(address, &command)?;
    load::create(&broker, TOPIC, PARTITIONS as i32, configs)?;
    load::serves(&broker, TOPIC, PARTITIONS as i32)?;
    let batch = load::batch(RECORDS, RECORD_BYTES);
    let requests: Vec<Vec<u8>> = (0..PARTITIONS)
        .map(|partition| raw::produce(TOPIC, partition as i32, &batch))
        .collect();
    let mut connection = broker.connect()?;
    let mut sent = load::closed_loop(&mut connection, TOPIC, &requests, IN_FLIGHT, |n, spent| {
        spent > warm && n % PARTITIONS == 0
    })?;
    let began = Instant::now();
    let found = load::closed_loop(&mut connection, TOPIC, &requests, IN_FLIGHT, |n, spent| {
        spent > SATURATION && n % PARTITIONS == 0
    })?;
    let saturation = found as f64 / began.elapsed().as_secs_f64();
    sent += found;
    let rate = if rate > 0.0 { rate } else { saturation * LOAD };
    let batches = (rate * seconds) as usize / PARTITIONS * PARTITIONS;
    let interval = Duration::from_secs_f64(1.0 / rate);
    let mut latencies = open_loop(&broker, &requests, sent / PARTITIONS, batches, interval)?;
    let mut at = |percent| (percentile(&mut latencies, percent) * 1e3).round() / 1e3;
    Ok(serde_json::json!({
        "saturation_batches_per_s": saturation.round(),
        "batches_per_s": rate.round(),
        "p50_ms": at(50.0),
        "p99_ms": at(99.0),
        "p999_ms": at(99.9),
        "max_ms": at(100.0),
    })
    .to_string())
}

/// Latencies in ms; each partition has `before` batches already.
fn open_loop(
    broker: &Broker,
    requests: &[Vec<u8>],
    before: usize,
    batches: usize,
    interval: Duration,
) -> Result<Vec<f64>, String> {
    let mut sending = broker.connect()?;
    let mut acknowledging = sending.split().map_err(|error| error.to_string())?;
    let began = Instant::now() + Duration::from_millis(50);
    let intended =
        move |number: usize| began + interval * u32::try_from(number).unwrap_or(u32::MAX);
    let mut reader = Reader::open(broker, before)?;
    let reading = std::thread::spawn(move || reader.read(batches, intended));
    let acknowledger = std::thread::spawn(move || {
        (0..batches).try_for_each(|_| load::acknowledged(&mut acknowledging, TOPIC))
    });
    for number in 0..batches {
        std::thread::sleep(intended(number).saturating_duration_since(Instant::now()));
        sending
            .send(&requests[number % PARTITIONS])
            .map_err(|error| format!("cannot send: {error}"))?;
    }
    acknowledger.join().map_err(|_| "a thread panicked")??;
    reading.join().map_err(|_| "a thread panicked")?
}

/// A consumer of all partitions.
struct Reader {
    connection: raw::Connection,
    next: Vec<i64>,
    first: i64,
}

impl Reader {
    fn open(broker: &Broker, before: usize) -> Result<Reader, String> {
        let first = (before * RECORDS) as i64;
        Ok(Reader {
            connection: broker.connect()?,
            next: vec![first; PARTITIONS],
            first,
        })
    }

    /// Reads `batches` batches; for each, how long after its intended sending it had come, in ms.
    fn read(
        &mut self,
        batches: usize,
        intended: impl Fn(usize) -> Instant,
    ) -> Result<Vec<f64>, String> {
        let mut latencies = Vec::with_capacity(batches);
        while latencies.len() < batches {
            let wanted: Vec<(i32, i64)> = (0..).zip(self.next.iter().copied()).collect();
            let request = kafka::fetch_from(TOPIC, &wanted, WAIT_MS, FETCH_BYTES);
            let answer = self.connection.call(&request);
            let answer = answer.map_err(|error| format!("Fetch is not answered: {error}"))?;
            let now = Instant::now();
            for part in kafka::fetched_from(&answer).ok_or("a Fetch answer cannot be read")? {
                if part.error != 0 {
                    return Err(format!("Fetch answers {}", part.error));
                }
                let at = usize::try_from(part.partition).unwrap_or(0);
                let end = part.next_offset.unwrap_or(self.next[at]);
                while self.next[at] < end {
                    let round = ((self.next[at] - self.first) / RECORDS as i64) as usize;
                    let late = now.saturating_duration_since(intended(round * PARTITIONS + at));
                    latencies.push(late.as_secs_f64() * 1e3);
                    self.next[at] += RECORDS as i64;
                }
            }
        }
        Ok(latencies)
    }
}
