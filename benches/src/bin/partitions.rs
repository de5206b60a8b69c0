//! B9 and B10: what many partitions cost: to make them, to have them idle, to start with them.
//!
//! Usage: `partitions HOST:PORT COUNT SECONDS -- COMMAND...`. The broker that COMMAND starts has an empty data
//! directory. It first does a little of everything, so that what it allocates once is not charged to partitions.
//! Partitions come in topics of at most 10,000; each gets a record of 100 bytes, then nothing happens: after a time in
//! which everything is written to disk, CPU time is counted for SECONDS, and once more while one partition of them
//! takes a record every tenth of a second. Works with any Kafka broker.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};
use tidemill_benches::broker::{self, Broker};
use tidemill_benches::{kafka, load};
use tidemill_tests::raw;

/// Most partitions of a topic.
const TOPIC_PARTITIONS: i32 = 10_000;
/// Partitions in one Produce request.
const REQUEST_PARTITIONS: usize = 250;
/// Requests in flight.
const IN_FLIGHT: usize = 4;
/// Time after the last record until CPU is counted.
const SETTLE: Duration = Duration::from_secs(25);
/// Requests before memory is first looked at.
const WARM_UP_REQUESTS: usize = 2_000;
/// Pause between records to the one partition that is not idle.
const TRICKLE: Duration = Duration::from_millis(100);
/// Pause before partitions that were not ready are tried again.
const PAUSE: Duration = Duration::from_millis(10);
/// When to give up.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    tidemill_benches::finish(run())
}

fn run() -> Result<String, String> {
    let (args, command) = broker::arguments()?;
    let usage = "usage: partitions HOST:PORT COUNT SECONDS -- COMMAND...";
    let [address, count, seconds] = args.as_slice() else {
        return Err(usage.to_owned());
    };
    let count: i32 = count.parse().map_err(|_| usage)?;
    let idle = Duration::from_secs(seconds.parse().map_err(|_| usage)?);
    let (mut broker, _) = Broker::start(address, &command)?;
    warm_up(&broker)?;
    std::thread::sleep(SETTLE);
    let empty = broker.resident_bytes();
    let began = Instant::now();
    let mut created = Duration::ZERO;
    for (number, first) in (0..count).step_by(TOPIC_PARTITIONS as usize).enumerate() {
        let (topic, partitions) = (
            format!("many-{number}"),
            TOPIC_PARTITIONS.min(count - first),
        );
        let making = Instant::now();
        load::create(&broker, &topic, partitions, &[])?;
        created += making.elapsed();
        fill(&broker, &topic, partitions, began)?;
    }
    let taken = began.elapsed();
    std::thread::sleep(SETTLE);
    let idle_cpu = cpu_percent(&broker, idle, || std::thread::sleep(idle));
    let resident = broker.resident_bytes();
    let trickle_cpu = trickle(&broker, idle)?;
    let restarted = broker.restart()?;
    std::thread::sleep(Duration::from_secs(2));
    let each = |bytes: u64| bytes.saturating_sub(empty) / u64::from(count.unsigned_abs());
    Ok(serde_json::json!({
        "partitions": count,
        "created_s": seconds_of(created),
        "taken_s": seconds_of(taken),
        "idle_cpu_percent": idle_cpu,
        "trickle_cpu_percent": trickle_cpu,
        "bytes_each": each(resident),
        "restart_s": seconds_of(restarted),
        "bytes_each_restarted": each(broker.resident_bytes()),
    })
    .to_string())
}

fn warm_up(broker: &Broker) -> Result<(), String> {
    load::create(broker, "warm", 1, &[])?;
    fill(broker, "warm", 1, Instant::now())?;
    let request = kafka::produce_to(
        "warm",
        &[0],
        &raw::batch(&[(b"", &[b'x'; 100])], raw::now_ms()),
    );
    let mut connection = broker.connect()?;
    for _ in 0..WARM_UP_REQUESTS {
        let answer = connection.call(&request);
        answer.map_err(|error| format!("Produce is not answered: {error}"))?;
    }
    Ok(())
}

/// CPU time of the broker while `work` runs, in percent of one core.
fn cpu_percent(broker: &Broker, time: Duration, work: impl FnOnce()) -> f64 {
    let before = broker.cpu_seconds();
    work();
    let share = (broker.cpu_seconds() - before) / time.as_secs_f64();
    (share * 1e5).round() / 1e3
}

/// CPU time while one partition takes a record now and then, in percent of one core.
fn trickle(broker: &Broker, time: Duration) -> Result<f64, String> {
    let request = kafka::produce_to(
        "warm",
        &[0],
        &raw::batch(&[(b"", &[b'x'; 100])], raw::now_ms()),
    );
    let mut connection = broker.connect()?;
    let mut result = Ok(());
    let cpu = cpu_percent(broker, time, || {
        let end = Instant::now() + time;
        while Instant::now() < end && result.is_ok() {
            result = connection.call(&request).map(drop);
            std::thread::sleep(TRICKLE);
        }
    });
    result.map_err(|error| format!("Produce is not answered: {error}"))?;
    Ok(cpu)
}

/// One record for each partition; those that do not take it yet are tried again.
fn fill(broker: &Broker, topic: &str, partitions: i32, began: Instant) -> Result<(), String> {
    let batch = raw::batch(&[(b"", &[b'x'; 100])], raw::now_ms());
    let mut connection = broker.connect()?;
    let mut left: Vec<i32> = (0..partitions).collect();
    while !left.is_empty() {
        if began.elapsed() > LIMIT {
            return Err(format!(
                "{} partitions of {topic} take no record",
                left.len()
            ));
        }
        let parts: Vec<&[i32]> = left.chunks(REQUEST_PARTITIONS).collect();
        let mut refused = Vec::new();
        for some in parts.chunks(IN_FLIGHT) {
            for part in some {
                let sent = connection.send(&kafka::produce_to(topic, part, &batch));
                sent.map_err(|error| format!("cannot send: {error}"))?;
            }
            for _ in some {
                let answer = connection.receive();
                let answer = answer.map_err(|error| format!("Produce is not answered: {error}"))?;
                let codes = kafka::produced_to(&answer).ok_or("an answer cannot be read")?;
                refused.extend(codes.iter().filter(|(_, code)| *code != 0).map(|(p, _)| *p));
            }
        }
        if !refused.is_empty() {
            std::thread::sleep(PAUSE);
        }
        left = refused;
    }
    Ok(())
}

fn seconds_of(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}
