//! `transform consume`: reads records from a topic.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::following;
use crate::Context;
use crate::admin::{Admin, segment, typed};
use crate::error::CliResult;

/// Where a reading begins that does not say it.
const LATEST: &str = "latest";
/// Records asked for at once.
const PAGE: u64 = 1_000;
/// How long the broker may hold a question back until there is a record, milliseconds.
const WAIT_MS: u64 = 10_000;
/// The same where the end of the topic is to be reached.
const STALL_WAIT_MS: u64 = 200;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The topic to read
    topic: String,
    /// Where to begin: earliest, latest (what is written from now on), @TIME (@2026-11-27T10:00:00Z, @2h for two hours ago, or
    /// ms since 1970), +N (records after the oldest of each partition) or -N (before its end)
    #[arg(long, value_name = "POSITION", default_value = LATEST, allow_hyphen_values = true)]
    from: String,
    /// End after so many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// End when all is read that was there at the start
    #[arg(long)]
    exit_at_end: bool,
}

#[derive(Debug, Deserialize)]
struct Page {
    records: Vec<Value>,
    next: BTreeMap<i32, i64>,
    #[serde(default)]
    unreadable: Vec<Unreadable>,
}

#[derive(Debug, Deserialize)]
struct Unreadable {
    partition: i32,
    offset: i64,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Topic {
    partitions: Vec<Partition>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    index: i32,
    high_watermark: i64,
}

/// Prints records as they come, `KEY<tab>VALUE`, or the value alone where there is no key.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let admin = context.admin()?;
    let topic = segment(&arguments.topic);
    let ends = if arguments.exit_at_end {
        Some(ends(&admin, &topic)?)
    } else {
        None
    };
    if arguments.from == LATEST && io::stderr().is_terminal() && !arguments.exit_at_end {
        tell!(
            "waiting for new records of {}; --from earliest shows what is there",
            arguments.topic
        );
    }
    let mut left = arguments.max.unwrap_or(u64::MAX);
    let mut positions = BTreeMap::new();
    let path = format!("/v1/topics/{topic}/records/read");
    let mut answered = false;
    let mut idle = false;
    while left > 0 {
        let wait_ms = match (answered, ends.is_some()) {
            (false, _) => 0,
            (true, false) => WAIT_MS,
            // What is there already comes at once; the wait only keeps a stall from spinning.
            (true, true) => {
                if idle {
                    STALL_WAIT_MS
                } else {
                    0
                }
            }
        };
        let question = question(&arguments.from, &positions, left.min(PAGE), wait_ms);
        let page: Page = typed(&following(answered, || admin.post(&path, &question))?)?;
        answered = true;
        idle = page.records.is_empty() && page.unreadable.is_empty();
        left = left.saturating_sub(page.records.len() as u64);
        for record in &page.records {
            if ends.as_ref().is_none_or(|ends| before_end(record, ends)) {
                print(record, context)?;
            }
        }
        context.output.flush()?;
        for skipped in &page.unreadable {
            tell!(
                "partition {}, offset {} cannot be shown: {}",
                skipped.partition,
                skipped.offset,
                skipped.message
            );
        }
        if ends.as_ref().is_some_and(|ends| reached(&page.next, ends)) {
            break;
        }
        positions = page.next;
    }
    Ok(())
}

/// What the broker is asked. Positions are in the body: with many partitions they would be too long for an address.
fn question(from: &str, positions: &BTreeMap<i32, i64>, max: u64, wait_ms: u64) -> Value {
    json!({ "from": from, "positions": positions, "max": max, "wait_ms": wait_ms })
}

fn ends(admin: &Admin, topic: &str) -> CliResult<BTreeMap<i32, i64>> {
    let topic: Topic = typed(&admin.get(&format!("/v1/topics/{topic}"))?)?;
    Ok(topic
        .partitions
        .into_iter()
        .map(|partition| (partition.index, partition.high_watermark))
        .collect())
}

fn reached(next: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, i64>) -> bool {
    ends.iter()
        .all(|(partition, end)| next.get(partition).is_some_and(|next| next >= end) || *end == 0)
}

fn before_end(record: &Value, ends: &BTreeMap<i32, i64>) -> bool {
    let partition = record["partition"]
        .as_i64()
        .and_then(|partition| i32::try_from(partition).ok());
    let end = partition
        .and_then(|partition| ends.get(&partition))
        .copied()
        .unwrap_or(0);
    record["offset"].as_i64().is_some_and(|offset| offset < end)
}

fn print(record: &Value, context: &mut Context) -> CliResult {
    if context.output.is_json() {
        return context.output.json_line(record);
    }
    let value = text(record, "value", "value_base64").unwrap_or("(no value)".into());
    match text(record, "key", "key_base64") {
        Some(key) => context.output.foreign_line(&format!("{key}\t{value}")),
        None => context.output.foreign_line(&value),
    }
}

/// Text as it is; what is not text, as base64, and said to be so.
fn text<'a>(record: &'a Value, name: &str, base64_name: &str) -> Option<Cow<'a, str>> {
    let bytes = || Some(format!("base64:{}", record[base64_name].as_str()?).into());
    record[name].as_str().map(Cow::from).or_else(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_is_reached_when_every_partition_is_read() {
        let ends = BTreeMap::from([(0, 5), (1, 0), (2, 3)]);
        assert!(!reached(&BTreeMap::from([(0, 5), (2, 2)]), &ends));
        assert!(reached(&BTreeMap::from([(0, 6), (2, 3)]), &ends));
    }

    #[test]
    fn bytes_are_told_from_text() {
        let record = json!({"key": "AP8=", "value_base64": "AP8="});
        let shown = |name| text(&record, name, &format!("{name}_base64"));
        assert_eq!(shown("key").as_deref(), Some("AP8="));
        assert_eq!(shown("value").as_deref(), Some("base64:AP8="));
        assert_eq!(shown("other"), None);
    }

    #[test]
    fn positions_of_many_partitions_are_asked_for_whole() {
        let positions: BTreeMap<i32, i64> = (0..100_000).map(|p| (p, 1 << 40)).collect();
        let asked = question("latest", &positions, 5, 0);
        assert_eq!(asked["positions"]["99999"], json!(1_i64 << 40));
        assert!(asked.to_string().len() < 4 << 20);
    }

    #[test]
    fn records_written_since_the_start_are_not_before_the_end() {
        let ends = BTreeMap::from([(0, 5)]);
        assert!(before_end(&json!({"partition": 0, "offset": 4}), &ends));
        assert!(!before_end(&json!({"partition": 0, "offset": 5}), &ends));
        assert!(!before_end(&json!({"partition": 1, "offset": 0}), &ends));
    }
}
