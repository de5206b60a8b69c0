//! B1 and B2: from `exec` of a broker to its first acknowledged `acks=all` produce, and memory when idle.
//!
//! Usage: `startup HOST:PORT TOPIC IDLE_SECONDS -- COMMAND...`. The topic exists in the broker's data, or the
//! broker makes topics by itself. Works with any Kafka broker.

#![forbid(unsafe_code)]

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tidemill_tests::raw::{self, Connection};

/// When to give up on a broker.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, topic, idle, dashes, command @ ..] = args.as_slice() else {
        eprintln!("usage: startup HOST:PORT TOPIC IDLE_SECONDS -- COMMAND...");
        return ExitCode::FAILURE;
    };
    let idle = Duration::from_secs(idle.parse().unwrap_or(0));
    let Some((program, words)) = command.split_first().filter(|_| dashes == "--") else {
        eprintln!("a command is missing after --");
        return ExitCode::FAILURE;
    };
    let began = Instant::now();
    let spawned = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            eprintln!("cannot start {program}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = measure(&mut child, address, topic, began, idle);
    end(&mut child);
    tidemill_benches::finish(result)
}

fn measure(
    child: &mut Child,
    address: &str,
    topic: &str,
    began: Instant,
    idle: Duration,
) -> Result<String, String> {
    let batch = raw::batch(&[(b"", &[b'x'; 100])], raw::now_ms());
    let (metadata, produce) = (raw::metadata(topic), raw::produce(topic, 0, &batch));
    let mut first_connect = None;
    while began.elapsed() < LIMIT {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the broker ended: {status}"));
        }
        if let Ok(mut connection) = Connection::open(address) {
            first_connect.get_or_insert(began.elapsed());
            if let Some(acknowledged) =
                first_ack(&mut connection, &metadata, &produce, topic, began)
            {
                std::thread::sleep(idle);
                let memory = tidemill_tests::broker::resident_bytes(child.id());
                return Ok(serde_json::json!({
                    "first_connect_ms": millis(first_connect.unwrap_or_default()),
                    "first_ack_ms": millis(acknowledged),
                    "resident_mb": memory as f64 / 1e6,
                })
                .to_string());
            }
        }
        std::thread::sleep(PAUSE);
    }
    Err(format!("no acknowledgement within {LIMIT:?}"))
}

/// Asks again on one connection until the partition takes the record; `None` when the connection breaks.
fn first_ack(
    connection: &mut Connection,
    metadata: &[u8],
    produce: &[u8],
    topic: &str,
    began: Instant,
) -> Option<Duration> {
    while began.elapsed() < LIMIT {
        connection.call(metadata).ok()?;
        let answer = connection.call(produce).ok()?;
        if raw::produced(&answer, topic).is_some_and(|(error, _)| error == 0) {
            return Some(began.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    None
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// SIGTERM, so that the data directory is left as a clean stop leaves it; then SIGKILL.
fn end(child: &mut Child) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", child.id())])
        .status();
    let ended = tidemill_tests::wait::until(Duration::from_secs(20), || {
        matches!(child.try_wait(), Ok(Some(_)))
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
}
