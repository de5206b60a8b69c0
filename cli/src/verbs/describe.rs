//! `transform describe`: all about one transform.

use std::collections::BTreeMap;

use clap::Args;
use serde::Deserialize;

use crate::Context;
use crate::admin::{segment, typed};
use crate::error::CliResult;
use crate::output::{self, Table};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name
    name: String,
}

#[derive(Debug, Deserialize)]
struct Transform {
    name: String,
    version: u32,
    #[serde(default)]
    content_of: Option<u32>,
    state: String,
    input: String,
    outputs: Vec<String>,
    lag: i64,
    records_in: u64,
    records_out: u64,
    failed: u64,
    last_error: Option<String>,
    module: String,
    env: BTreeMap<String, String>,
    limits: Limits,
    on_error: String,
    dead_letter: Option<String>,
    attempts: u32,
    #[serde(default)]
    compression: Option<String>,
    #[serde(default)]
    secrets: Vec<String>,
    weight: u32,
    partition_by: String,
    #[serde(default)]
    notes: Vec<String>,
    partitions: Vec<Partition>,
}

#[derive(Debug, Deserialize)]
struct Limits {
    time_ms: Option<u64>,
    memory_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    partition: i32,
    state: String,
    position: i64,
    high_watermark: i64,
    lag: i64,
    last_error: Option<String>,
}

/// Prints it.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let answer = context
        .admin()?
        .get(&format!("/v1/transforms/{}", segment(&arguments.name)))?;
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    let transform: Transform = typed(&answer)?;
    for (name, value) in facts(&transform) {
        context.output.say(&format!(
            "{:<14}{}",
            format!("{name}:"),
            output::printable(&value)
        ))?;
    }
    context.output.say("")?;
    let mut table = Table::new(&[
        "PARTITION",
        "STATE",
        "POSITION",
        "HIGH WATERMARK",
        "LAG",
        "LAST ERROR",
    ]);
    for partition in transform.partitions {
        table.row([
            partition.partition.to_string(),
            partition.state,
            partition.position.to_string(),
            partition.high_watermark.to_string(),
            partition.lag.to_string(),
            partition.last_error.unwrap_or_default(),
        ]);
    }
    context.output.table(&table)
}

fn facts(transform: &Transform) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("name", transform.name.clone()),
        ("version", version(transform)),
        ("state", transform.state.clone()),
        ("input", transform.input.clone()),
        ("outputs", transform.outputs.join(", ")),
        ("module", transform.module.clone()),
        (
            "records",
            format!("{} in, {} out", transform.records_in, transform.records_out),
        ),
        ("failed", transform.failed.to_string()),
        ("lag", transform.lag.to_string()),
        ("on error", policy(transform)),
        ("limits", limits(&transform.limits)),
        ("weight", transform.weight.to_string()),
        (
            "compression",
            transform
                .compression
                .clone()
                .unwrap_or_else(|| "as each output topic says".to_owned()),
        ),
        ("partition by", placing(&transform.partition_by)),
    ];
    facts.extend(
        transform
            .env
            .iter()
            .map(|(key, value)| ("env", format!("{key}={value}"))),
    );
    facts.extend(
        transform
            .secrets
            .iter()
            .map(|name| ("secret", name.clone())),
    );
    facts.extend(transform.notes.iter().map(|note| ("note", note.clone())));
    facts.extend(
        transform
            .last_error
            .iter()
            .map(|error| ("last error", error.clone())),
    );
    facts
}

fn version(transform: &Transform) -> String {
    match transform.content_of {
        Some(of) => format!("{}, with the content of version {of}", transform.version),
        None => transform.version.to_string(),
    }
}

/// Where records go whose partition the function does not choose.
fn placing(partition_by: &str) -> String {
    match partition_by {
        "input" => "input (the partition with the number of the one it came from)".to_owned(),
        "key" => "key (where Kafka's clients would put it)".to_owned(),
        other => other.to_owned(),
    }
}

fn policy(transform: &Transform) -> String {
    let topic = transform
        .dead_letter
        .as_ref()
        .map(|topic| format!(" to {topic}"))
        .unwrap_or_default();
    format!(
        "{}{topic}, after {}",
        transform.on_error,
        output::count(u64::from(transform.attempts), "attempt")
    )
}

fn limits(limits: &Limits) -> String {
    let time = limits.time_ms.map_or("default time".to_owned(), |ms| {
        format!("{ms} ms of CPU time")
    });
    let memory = limits
        .memory_bytes
        .map_or("default memory".to_owned(), |bytes| {
            format!("{} MiB of memory", bytes >> 20)
        });
    format!("{time} a call, {memory}")
}
