//! How a restart after `kill -9` grows: with what is not in segments yet, not with the data.
//!
//! Usage: `restart HOST:PORT MEGABYTES... -- COMMAND...`. COMMAND starts a broker with an empty data directory that makes topics by
//! itself. For each figure, so many megabytes (batches of 1 MB, four in flight) are added to what is there, the broker is killed at
//! the last acknowledgement, and started again; twice more it is killed and started with nothing added. Time is from `exec` to the
//! first acknowledged produce.

#![forbid(unsafe_code)]

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tidemill_benches::broker;
use tidemill_tests::raw::{self, Connection};

/// When to give up on a broker.
const LIMIT: Duration = Duration::from_secs(120);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(1);
/// Bytes of a record's value; one record a batch.
const VALUE_BYTES: usize = 1_000_000;
/// Requests in flight.
const IN_FLIGHT: u64 = 4;
const TOPIC: &str = "data";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let (arguments, command) = broker::arguments()?;
    let [address, sizes @ ..] = arguments.as_slice() else {
        return Err("usage: restart HOST:PORT MEGABYTES... -- COMMAND...".to_owned());
    };
    let (mut child, _) = start(&command, address)?;
    let result = measure(&mut child, &command, address, sizes);
    let _ = child.kill();
    let _ = child.wait();
    println!("{}", serde_json::json!({ "restarts": result? }));
    Ok(())
}

fn measure(
    child: &mut Child,
    command: &[String],
    address: &str,
    sizes: &[String],
) -> Result<Vec<serde_json::Value>, String> {
    let (mut total, mut found) = (0, Vec::new());
    for size in sizes {
        let megabytes: u64 = size.parse().map_err(|_| format!("'{size}' is no number"))?;
        let took = fill(address, megabytes)?;
        total += megabytes;
        let mut restarts = Vec::new();
        for _ in 0..3 {
            child
                .kill()
                .map_err(|e| format!("it cannot be killed: {e}"))?;
            let _ = child.wait();
            let (next, first_ack) = start(command, address)?;
            *child = next;
            restarts.push((first_ack.as_secs_f64() * 1e4).round() / 10.0);
        }
        println!(
            "{total} MB of data, the last {megabytes} MB in {:.1} s: first acknowledgement after {restarts:?} ms",
            took.as_secs_f64()
        );
        found.push(serde_json::json!({ "megabytes": total, "first_ack_ms": restarts }));
    }
    Ok(found)
}

/// Starts the broker; how long until it acknowledged a record.
fn start(command: &[String], address: &str) -> Result<(Child, Duration), String> {
    let (program, words) = command.split_first().ok_or("no command was given")?;
    let batch = raw::batch(&[(b"", &[b'x'; 100])], raw::now_ms());
    let (metadata, produce) = (raw::metadata(TOPIC), raw::produce(TOPIC, 0, &batch));
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    while began.elapsed() < LIMIT {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the broker ended: {status}"));
        }
        if let Ok(mut connection) = Connection::open(address)
            && connection.call(&metadata).is_ok()
            && let Ok(answer) = connection.call(&produce)
            && raw::produced(&answer, TOPIC).is_some_and(|(error, _)| error == 0)
        {
            return Ok((child, began.elapsed()));
        }
        std::thread::sleep(PAUSE);
    }
    let _ = child.kill();
    Err(format!("no acknowledgement within {LIMIT:?}"))
}

/// Adds `megabytes`; returns when all are acknowledged.
fn fill(address: &str, megabytes: u64) -> Result<Duration, String> {
    let lost = |error: std::io::Error| format!("the connection broke: {error}");
    let mut connection = Connection::open(address).map_err(lost)?;
    let request = raw::produce(
        TOPIC,
        0,
        &raw::batch(&[(b"", &vec![7; VALUE_BYTES])], raw::now_ms()),
    );
    let began = Instant::now();
    let mut sent = 0;
    for acknowledged in 0..megabytes {
        while sent < megabytes && sent < acknowledged + IN_FLIGHT {
            connection.send(&request).map_err(lost)?;
            sent += 1;
        }
        let answer = connection.receive().map_err(lost)?;
        match raw::produced(&answer, TOPIC) {
            Some((0, _)) => {}
            other => return Err(format!("a batch was refused: {other:?}")),
        }
    }
    Ok(began.elapsed())
}
