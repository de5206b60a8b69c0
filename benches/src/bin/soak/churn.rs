//! What comes and goes: connections, topics, transforms.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidemill_tests::Broker;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection, Header, api};

use crate::{Shared, http};

/// Connections opened in a second.
const CONNECTIONS_PER_SECOND: u32 = 100;
/// A topic is made, written to and deleted this often.
const TOPIC_EVERY: Duration = Duration::from_secs(2);
/// A transform is deployed and deleted this often.
const TRANSFORM_EVERY: Duration = Duration::from_secs(15);
/// Input of the transforms that come and go.
const PASSING_INPUT: &str = crate::raw_load::INPUT;

/// Sleeps what is left of `every` since `began`, in steps short enough to end with the load.
fn rest(shared: &Shared, began: Instant, every: Duration) {
    while shared.goes_on() && began.elapsed() < every {
        std::thread::sleep(Duration::from_millis(50).min(every.saturating_sub(began.elapsed())));
    }
}

/// Opens connections: some say nothing, some begin a request, some ask and read, some ask and leave.
pub(crate) fn connections(shared: &Arc<Shared>) {
    let ask = raw::frame(api::API_VERSIONS, 0, Header::Plain, &[]);
    let pause = Duration::from_secs(1) / CONNECTIONS_PER_SECOND;
    for turn in 0u64.. {
        let began = Instant::now();
        if !shared.goes_on() {
            return;
        }
        let result = match turn % 4 {
            0 => TcpStream::connect(&shared.kafka).map(drop),
            1 => TcpStream::connect(&shared.kafka).and_then(|mut s| s.write_all(&ask[..6])),
            2 => Connection::open(&shared.kafka).and_then(|mut c| c.call(&ask).map(drop)),
            _ => TcpStream::connect(&shared.kafka).and_then(|mut s| s.write_all(&ask)),
        };
        match result {
            Ok(()) => drop(shared.connections.fetch_add(1, Ordering::Relaxed)),
            Err(error) => shared.problem(format!("connection {turn}: {error}")),
        }
        std::thread::sleep(pause.saturating_sub(began.elapsed()));
    }
}

/// Makes topics, writes to them and deletes them.
pub(crate) fn topics(shared: &Arc<Shared>) {
    let batch = raw::batch(&[(b"k", &[b'v'; 10_000])], raw::now_ms());
    for turn in 0u64.. {
        let began = Instant::now();
        if !shared.goes_on() {
            return;
        }
        let name = format!("churn-{turn}");
        match one_topic(shared, &name, &batch) {
            Ok(()) => drop(shared.topics.fetch_add(1, Ordering::Relaxed)),
            Err(error) => shared.problem(format!("topic {name}: {error}")),
        }
        rest(shared, began, TOPIC_EVERY);
    }
}

fn one_topic(shared: &Shared, name: &str, batch: &[u8]) -> Result<(), String> {
    let said = |e: std::io::Error| e.to_string();
    let body = format!("{{\"name\":\"{name}\",\"partitions\":4}}");
    let (status, answer) =
        http::request(&shared.admin, "POST", "/v1/topics", &body).map_err(said)?;
    if status >= 300 {
        return Err(format!("making it is answered {status} {answer}"));
    }
    let mut connection = Connection::open(&shared.kafka).map_err(said)?;
    for partition in 0..4 {
        let answer = connection.call(&raw::produce(name, partition, batch));
        match raw::produced(&answer.map_err(said)?, name) {
            Some((0, 0)) => {}
            other => return Err(format!("writing to it is answered {other:?}")),
        }
    }
    let path = format!("/v1/topics/{name}");
    let (status, answer) = http::request(&shared.admin, "DELETE", &path, "").map_err(said)?;
    match status {
        200..300 => Ok(()),
        _ => Err(format!("deleting it is answered {status} {answer}")),
    }
}

/// Deploys a transform that stays.
pub(crate) fn deploy(shared: &Shared, broker: &Broker, module: &Path, name: &str, input: &str) {
    let cli = Cli::new(broker);
    let output = format!("soak-{name}");
    let module = module.to_string_lossy();
    let ran = cli.run(&[
        "deploy", "--module", &module, "--name", name, "--input", input, "--output", &output,
        "--from", "earliest",
    ]);
    if !ran.ok {
        shared.problem(format!("deploying {name}: {}", ran.text()));
    }
}

/// Deploys and deletes transforms.
pub(crate) fn transforms(shared: &Arc<Shared>, cli: &Cli, module: &Path) {
    let module = module.to_string_lossy();
    for turn in 0u64.. {
        let began = Instant::now();
        if !shared.goes_on() {
            return;
        }
        let name = format!("passing-{}", turn % 3);
        let deployed = cli.run(&[
            "deploy",
            "--module",
            &module,
            "--name",
            &name,
            "--input",
            PASSING_INPUT,
            "--output",
            "soak-passing",
        ]);
        rest(shared, began, TRANSFORM_EVERY / 2);
        let deleted = cli.run(&["delete", &name]);
        for ran in [deployed, deleted] {
            if !ran.ok {
                shared.problem(format!("transform {name}: {}", ran.text()));
            }
        }
        shared.deployments.fetch_add(1, Ordering::Relaxed);
        rest(shared, began, TRANSFORM_EVERY);
    }
}
