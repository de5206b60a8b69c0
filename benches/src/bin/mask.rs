//! T3 and T4: masking a topic with a transform, and with a client that consumes, masks and produces.
//!
//! Usage: `mask OPPONENT RECORDS ROUNDS`. One broker on both cores, a backlog of RECORDS records with JSON values of 1 KB in
//! two partitions. In turn a transform drains it into a topic of its own, and the program OPPONENT (see
//! `benches/opponent`) does the same work from outside, on the same cores. Counted are the seconds until the last output
//! is committed, and the CPU time of everybody who takes part.

#![forbid(unsafe_code)]

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use tidemill_benches::broker::cpu_seconds;
use tidemill_benches::kafka;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, modules};

const INPUT: &str = "in";
const PARTITIONS: i32 = 2;
const RECORDS_PER_BATCH: usize = 100;
const VALUE_BYTES: usize = 1024;
const IN_FLIGHT: usize = 8;
/// How long the backlog may take to be written, and a round to end.
const SETTLE: Duration = Duration::from_secs(12);
const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(5);

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
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: mask OPPONENT RECORDS ROUNDS";
    let [opponent, records, rounds] = args.as_slice() else {
        return Err(usage.to_owned());
    };
    let records: usize = records.parse().map_err(|_| usage)?;
    let rounds: usize = rounds.parse().map_err(|_| usage)?;
    let broker = Options::new(Engine::Auto).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic(INPUT, PARTITIONS as u32);
    let batch = json_batch();
    let batches = records / RECORDS_PER_BATCH / PARTITIONS as usize;
    let records = batches * RECORDS_PER_BATCH * PARTITIONS as usize;
    let gigabytes = (batches * PARTITIONS as usize * batch.len()) as f64 / 1e9;
    fill(&broker, &batch, batches)?;
    std::thread::sleep(SETTLE);
    let mut measured = Vec::new();
    for round in 1..=rounds {
        let transform = transform(&broker, &cli, round, batches)?;
        std::thread::sleep(SETTLE);
        let client = client(&broker, &cli, opponent, round, records)?;
        std::thread::sleep(SETTLE);
        for (name, ran) in [("transform", &transform), ("client", &client)] {
            println!(
                "round {round}: {name} {:.0} records/s, {:.2} CPU seconds per GB",
                records as f64 / ran.seconds,
                ran.cpu / gigabytes
            );
        }
        measured.push(serde_json::json!({
            "transform_records_per_s": records as f64 / transform.seconds,
            "transform_cpu_s_per_gb": transform.cpu / gigabytes,
            "client_records_per_s": records as f64 / client.seconds,
            "client_cpu_s_per_gb": client.cpu / gigabytes,
        }));
    }
    println!("{}", serde_json::json!({ "rounds": measured }));
    Ok(())
}

/// Time from the start to the last output, and CPU time of all who took part.
struct Ran {
    seconds: f64,
    cpu: f64,
}

/// Deploys the transform at the start of the backlog and waits for the last output.
fn transform(broker: &Broker, cli: &Cli, round: usize, batches: usize) -> Result<Ran, String> {
    let (name, output) = (format!("mask-{round}"), format!("masked-{round}"));
    // The output topic is made by deploying, beside the input, as it is for users.
    let module = modules::mask();
    let (cpu, began) = (cpu_seconds(broker.pid()), Instant::now());
    let file = module.to_string_lossy();
    cli.ok(&[
        "deploy", "--module", &file, "--name", &name, "--input", INPUT, "--output", &output,
        "--from", "earliest",
    ]);
    let end = (batches * RECORDS_PER_BATCH) as i64;
    let mut connection = Connection::open(&broker.kafka()).map_err(|e| e.to_string())?;
    for partition in 0..PARTITIONS {
        while high_watermark(&mut connection, &output, partition)? < end {
            if began.elapsed() > LIMIT {
                return Err("the transform does not drain the backlog".to_owned());
            }
            std::thread::sleep(PAUSE);
        }
    }
    let ran = Ran {
        seconds: began.elapsed().as_secs_f64(),
        cpu: cpu_seconds(broker.pid()) - cpu,
    };
    cli.ok(&["delete", &name]);
    Ok(ran)
}

fn high_watermark(connection: &mut Connection, topic: &str, partition: i32) -> Result<i64, String> {
    let answer = connection
        .call(&kafka::list_end(topic, partition))
        .map_err(|error| format!("ListOffsets is not answered: {error}"))?;
    kafka::listed_end(&answer, topic).ok_or_else(|| "ListOffsets answers an error".to_owned())
}

fn client(
    broker: &Broker,
    cli: &Cli,
    opponent: &str,
    round: usize,
    records: usize,
) -> Result<Ran, String> {
    let output = format!("copied-{round}");
    cli.create_topic(&output, PARTITIONS as u32);
    let cpu = cpu_seconds(broker.pid());
    let address = broker.kafka();
    let (partitions, count) = (PARTITIONS.to_string(), records.to_string());
    let ran = Command::new(opponent)
        .args([address.as_str(), INPUT, &partitions, &output, &count])
        .output()
        .map_err(|error| format!("cannot run {opponent}: {error}"))?;
    let cpu = cpu_seconds(broker.pid()) - cpu;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let json: serde_json::Value = serde_json::from_str(said.trim()).map_err(|_| {
        format!(
            "{opponent} failed: {said}{}",
            String::from_utf8_lossy(&ran.stderr)
        )
    })?;
    let number = |name: &str| {
        json[name]
            .as_f64()
            .ok_or(format!("{opponent} reports no {name}"))
    };
    Ok(Ran {
        seconds: number("seconds")?,
        cpu: cpu + number("cpu_s")?,
    })
}

fn fill(broker: &Broker, batch: &[u8], batches: usize) -> Result<(), String> {
    let requests: Vec<Vec<u8>> = (0..PARTITIONS)
        .map(|partition| raw::produce(INPUT, partition, batch))
        .collect();
    let all = batches * PARTITIONS as usize;
    let mut connection = Connection::open(&broker.kafka()).map_err(|e| e.to_string())?;
    tidemill_benches::load::closed_loop(&mut connection, INPUT, &requests, IN_FLIGHT, |n, _| {
        n >= all
    })
    .map(drop)
}

/// Records with an `email` and a note that fills the value.
fn json_batch() -> Vec<u8> {
    let values: Vec<(String, String)> = (0..RECORDS_PER_BATCH)
        .map(|i| {
            let start = format!(
                r#"{{"id":1{i:05},"email":"person{i:05}@example.com","country":"DE","note":""#
            );
            let padding = "x".repeat(VALUE_BYTES - start.len() - 2);
            (format!("key-{i:05}"), format!("{start}{padding}\"}}"))
        })
        .collect();
    let records: Vec<(&[u8], &[u8])> = values
        .iter()
        .map(|(key, value)| (key.as_bytes(), value.as_bytes()))
        .collect();
    raw::batch(&records, raw::now_ms())
}
