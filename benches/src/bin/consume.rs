//! B8: how fast records are consumed, and what that costs the broker.
//!
//! Usage: `consume HOST:PORT MEGABYTES -- COMMAND...`. Four partitions are filled with records of 1 KB in batches of 120
//! and read by two connections, two partitions each, with Fetch requests for up to 1 MB a partition. Tail: what was
//! written last, 16 MB of each partition, again and again. Catch-up: everything from the start, after the broker was
//! started anew; once to warm up, once that counts.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};
use tidemill_benches::broker::{self, Broker};
use tidemill_benches::{kafka, load};
use tidemill_tests::raw;

const TOPIC: &str = "consume";
const PARTITIONS: i32 = 4;
const READERS: i32 = 2;
const RECORDS: usize = 120;
const RECORD_BYTES: usize = 1024;
const IN_FLIGHT: usize = 8;
const TAIL_BYTES: usize = 16 << 20;
const TAIL_PASSES: usize = 40;
/// The same as a warm-up, and how long what was produced may take to be written.
const WARM_PASSES: usize = 10;
const SETTLE: Duration = Duration::from_secs(12);
const PARTITION_BYTES: i32 = 1 << 20;
const FETCH_BYTES: i32 = 4 << 20;

fn main() -> ExitCode {
    tidemill_benches::finish(run())
}

fn run() -> Result<String, String> {
    let (args, command) = broker::arguments()?;
    let usage = "usage: consume HOST:PORT MEGABYTES -- COMMAND...";
    let [address, megabytes] = args.as_slice() else {
        return Err(usage.to_owned());
    };
    let megabytes: usize = megabytes.parse().map_err(|_| usage)?;
    let (mut broker, _) = Broker::start(address, &command)?;
    load::create(&broker, TOPIC, PARTITIONS, &[])?;
    load::serves(&broker, TOPIC, PARTITIONS)?;
    let batch = load::batch(RECORDS, RECORD_BYTES);
    let requests: Vec<Vec<u8>> = (0..PARTITIONS)
        .map(|partition| raw::produce(TOPIC, partition, &batch))
        .collect();
    let each = (megabytes << 20) / batch.len() / PARTITIONS as usize;
    let all = each * PARTITIONS as usize;
    let mut connection = broker.connect()?;
    load::closed_loop(&mut connection, TOPIC, &requests, IN_FLIGHT, |n, _| {
        n >= all
    })?;
    std::thread::sleep(SETTLE);
    let end = (each * RECORDS) as i64;
    let tail = end - (TAIL_BYTES / batch.len() * RECORDS) as i64;
    read(&broker, tail, end, WARM_PASSES)?;
    let tail = read(&broker, tail, end, TAIL_PASSES)?;
    broker.restart()?;
    load::serves(&broker, TOPIC, PARTITIONS)?;
    read(&broker, 0, end, 1)?;
    broker.restart()?;
    load::serves(&broker, TOPIC, PARTITIONS)?;
    let catch_up = read(&broker, 0, end, 1)?;
    Ok(serde_json::json!({
        "tail_mb_per_s": tail.mb_per_s,
        "tail_cpu_s_per_gb": tail.cpu_s_per_gb,
        "catch_up_mb_per_s": catch_up.mb_per_s,
        "catch_up_cpu_s_per_gb": catch_up.cpu_s_per_gb,
    })
    .to_string())
}

struct Speed {
    mb_per_s: f64,
    cpu_s_per_gb: f64,
}

/// Reads every partition from `first` to `end`, `passes` times, on all connections at once.
fn read(broker: &Broker, first: i64, end: i64, passes: usize) -> Result<Speed, String> {
    let (cpu, began) = (broker.cpu_seconds(), Instant::now());
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let address = broker.address().to_owned();
            std::thread::spawn(move || {
                (0..passes).try_fold(0, |sum, _| Ok(sum + pass(&address, reader, first, end)?))
            })
        })
        .collect();
    let mut bytes = 0;
    for reader in readers {
        let read: Result<usize, String> = reader.join().map_err(|_| "a thread panicked")?;
        bytes += read?;
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), broker.cpu_seconds() - cpu);
    let gigabytes = bytes as f64 / 1e9;
    Ok(Speed {
        mb_per_s: (gigabytes * 1e3 / seconds).round(),
        cpu_s_per_gb: (cpu / gigabytes * 1e3).round() / 1e3,
    })
}

/// Reads the partitions of one connection once; how many bytes of batches came.
fn pass(address: &str, reader: i32, first: i64, end: i64) -> Result<usize, String> {
    let open = raw::Connection::open(address);
    let mut connection = open.map_err(|error| format!("cannot connect: {error}"))?;
    let mut next: Vec<(i32, i64)> = (0..PARTITIONS)
        .filter(|partition| partition % READERS == reader)
        .map(|partition| (partition, first))
        .collect();
    let mut bytes = 0;
    while !next.is_empty() {
        let request = kafka::fetch_up_to(TOPIC, &next, (500, FETCH_BYTES, PARTITION_BYTES));
        let answer = connection.call(&request);
        let answer = answer.map_err(|error| format!("Fetch is not answered: {error}"))?;
        for part in kafka::fetched_from(&answer).ok_or("a Fetch answer cannot be read")? {
            if part.error != 0 {
                return Err(format!("Fetch answers {}", part.error));
            }
            bytes += part.bytes;
            for (partition, offset) in &mut next {
                if *partition == part.partition {
                    *offset = part.next_offset.unwrap_or(*offset);
                }
            }
        }
        next.retain(|(_, offset)| *offset < end);
    }
    Ok(bytes)
}
