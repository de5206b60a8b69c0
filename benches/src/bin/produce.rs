//! B3, B4, B5, B7: Produce load on a broker, and the processor time that takes.
//!
//! Usage: `produce HOST:PORT [name=value]... -- COMMAND...` starts the broker; without `-- COMMAND...` but with `pid=N` it
//! loads one that runs, with a topic of its own. Names: `topic`, `partitions`, `connections`, `in-flight`, `records`, `record-bytes`, `seconds`, `warm-up`
//! (seconds), `rate` (requests/s, open loop), `flush-messages` (a topic setting of Kafka), `exists` (1: the topic is not made).
//! Works with any Kafka broker.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use tidemill_benches::broker::{self, Broker};
use tidemill_benches::saturate::{self, Load, Outcome, Session};

/// What is measured.
struct Plan {
    load: Load,
    seconds: f64,
    warm_up: f64,
    flush_messages: Option<String>,
    exists: bool,
    pid: Option<u32>,
    command: Vec<String>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    tidemill_benches::finish(plan(&args).and_then(|plan| measure(&plan)))
}

fn plan(args: &[String]) -> Result<Plan, String> {
    let usage = "usage: produce HOST:PORT [name=value]... [-- COMMAND...]";
    let (address, rest) = args.split_first().ok_or(usage)?;
    let (settings, command) = match rest.iter().position(|word| word == "--") {
        Some(at) => (&rest[..at], rest[at + 1..].to_vec()),
        None => (rest, Vec::new()),
    };
    let mut plan = Plan {
        load: Load {
            address: address.clone(),
            topic: "load".to_owned(),
            partitions: 1,
            connections: 2,
            in_flight: 5,
            records: 120,
            record_bytes: 1024,
            rate: None,
        },
        seconds: 5.0,
        warm_up: 2.0,
        flush_messages: None,
        exists: false,
        pid: None,
        command,
    };
    for setting in settings {
        set(&mut plan, setting)?;
    }
    Ok(plan)
}

fn set(plan: &mut Plan, setting: &str) -> Result<(), String> {
    let (name, value) = setting
        .split_once('=')
        .ok_or_else(|| format!("`{setting}` is not name=value"))?;
    fn number<T: std::str::FromStr>(setting: &str, value: &str) -> Result<T, String> {
        value
            .parse()
            .map_err(|_| format!("`{setting}`: {value} is not a number that fits"))
    }
    let load = &mut plan.load;
    match name {
        "topic" => value.clone_into(&mut load.topic),
        "partitions" => load.partitions = number(setting, value)?,
        "connections" => load.connections = number(setting, value)?,
        "in-flight" => load.in_flight = number(setting, value)?,
        "records" => load.records = number(setting, value)?,
        "record-bytes" => load.record_bytes = number(setting, value)?,
        "rate" => load.rate = Some(number(setting, value)?),
        "seconds" => plan.seconds = number(setting, value)?,
        "warm-up" => plan.warm_up = number(setting, value)?,
        "flush-messages" => plan.flush_messages = Some(value.to_owned()),
        "exists" => plan.exists = value == "1",
        "pid" => plan.pid = Some(number(setting, value)?),
        _ => return Err(format!("there is no setting `{name}`")),
    }
    Ok(())
}

fn measure(plan: &Plan) -> Result<String, String> {
    let load = &plan.load;
    let said = |e: saturate::LoadError| e.to_string();
    let started = match plan.command.is_empty() {
        true => None,
        false => Some(Broker::start(&load.address, &plan.command)?.0),
    };
    let seconds = || match (&started, plan.pid) {
        (Some(broker), _) => Some(broker.cpu_seconds()),
        (None, pid) => pid.map(broker::cpu_seconds),
    };
    if !plan.exists {
        let flush = plan.flush_messages.iter();
        let settings: Vec<_> = flush
            .map(|n| ("flush.messages".to_owned(), n.clone()))
            .collect();
        saturate::create_topic(&load.address, &load.topic, load.partitions, &settings)
            .map_err(said)?;
    }
    let mut session = Session::open(load).map_err(|e| e.to_string())?;
    session
        .run(Duration::from_secs_f64(plan.warm_up))
        .map_err(said)?;
    let (before, own) = (seconds(), broker::cpu_seconds(std::process::id()));
    let outcome = session
        .run(Duration::from_secs_f64(plan.seconds))
        .map_err(said)?;
    let (after, own_after) = (seconds(), broker::cpu_seconds(std::process::id()));
    if !plan.exists {
        saturate::delete_topic(&load.address, &load.topic).map_err(|e| e.to_string())?;
    }
    let cpu = before.zip(after).map(|(before, after)| after - before);
    Ok(report(outcome, cpu, own_after - own))
}

/// The figures, for people and then as JSON.
fn report(mut outcome: Outcome, cpu: Option<f64>, own: f64) -> String {
    let elapsed = outcome.elapsed.as_secs_f64();
    outcome.latencies_us.sort_unstable();
    let latencies = &outcome.latencies_us;
    let quantile = |q: f64| {
        let rank = (q * latencies.len() as f64).ceil() as usize;
        let at = rank.clamp(1, latencies.len().max(1)) - 1;
        latencies.get(at).map_or(0.0, |us| f64::from(*us) / 1_000.0)
    };
    let figures = serde_json::json!({
        "requests": outcome.requests,
        "requests_per_s": outcome.requests as f64 / elapsed,
        "mb_per_s": outcome.bytes as f64 / elapsed / 1e6,
        "broker_cpu": cpu.map(|cpu| cpu / elapsed),
        "cpu_s_per_gb": cpu.map(|cpu| cpu / (outcome.bytes as f64 / 1e9)),
        "cpu_us_per_request": cpu.map(|cpu| cpu * 1e6 / outcome.requests as f64),
        "client_cpu": own / elapsed,
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "p999_ms": quantile(0.999),
        "max_ms": quantile(1.0),
    });
    format!(
        "{:.0} requests/s, {:.1} MB/s, broker {:.0} % of a core ({:.2} CPU s/GB), client {:.0} %, p50 {:.2} ms, p99 {:.2} ms\n{figures}",
        outcome.requests as f64 / elapsed,
        outcome.bytes as f64 / elapsed / 1e6,
        cpu.map_or(f64::NAN, |cpu| cpu / elapsed * 100.0),
        cpu.map_or(f64::NAN, |cpu| cpu / (outcome.bytes as f64 / 1e9)),
        own / elapsed * 100.0,
        quantile(0.5),
        quantile(0.99),
    )
}
