//! B11: one record at a time to many partitions in turn, from many connections.
//!
//! Usage: `small HOST:PORT SECONDS WARM_SECONDS [key=value]... -- COMMAND...`. 64 connections with one request in flight
//! each, every request one record of 1 KB for the next of 1,000 partitions. `key=value` are settings of the topic.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tidemill_benches::broker::{self, Broker};
use tidemill_benches::load;
use tidemill_tests::raw;

const TOPIC: &str = "small";
const PARTITIONS: i32 = 1_000;
const CONNECTIONS: usize = 64;
const RECORD_BYTES: usize = 1024;

fn main() -> ExitCode {
    tidemill_benches::finish(run())
}

fn run() -> Result<String, String> {
    let (args, command) = broker::arguments()?;
    let usage = "usage: small HOST:PORT SECONDS WARM_SECONDS [key=value]... -- COMMAND...";
    let [address, seconds, warm, configs @ ..] = args.as_slice() else {
        return Err(usage.to_owned());
    };
    let seconds = Duration::from_secs(seconds.parse().map_err(|_| usage)?);
    let warm = Duration::from_secs(warm.parse().map_err(|_| usage)?);
    let (broker, _) = Broker::start(address, &command)?;
    load::create(&broker, TOPIC, PARTITIONS, configs)?;
    load::serves(&broker, TOPIC, PARTITIONS)?;
    let batch = load::batch(1, RECORD_BYTES);
    let requests: Vec<Vec<u8>> = (0..PARTITIONS)
        .map(|partition| raw::produce(TOPIC, partition, &batch))
        .collect();
    let requests = Arc::new(requests);
    drive(&broker, &requests, warm)?;
    let cpu = broker.cpu_seconds();
    let count = drive(&broker, &requests, seconds)?;
    let cpu = broker.cpu_seconds() - cpu;
    Ok(serde_json::json!({
        "requests_per_s": (count as f64 / seconds.as_secs_f64()).round(),
        "cpu_us_per_request": (cpu / count as f64 * 1e8).round() / 1e2,
    })
    .to_string())
}

/// Drives all connections for so long; requests that were acknowledged.
fn drive(broker: &Broker, requests: &Arc<Vec<Vec<u8>>>, time: Duration) -> Result<usize, String> {
    let mut threads = Vec::new();
    for number in 0..CONNECTIONS {
        let mut connection = broker.connect()?;
        let requests = Arc::clone(requests);
        threads.push(std::thread::spawn(move || {
            // Each begins elsewhere, so that all partitions take turns at all times.
            let from = number * requests.len() / CONNECTIONS;
            let turned: Vec<Vec<u8>> = requests[from..]
                .iter()
                .chain(&requests[..from])
                .cloned()
                .collect();
            load::closed_loop(&mut connection, TOPIC, &turned, 1, |_, spent| spent > time)
        }));
    }
    let mut count = 0;
    for thread in threads {
        count += thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(count)
}
