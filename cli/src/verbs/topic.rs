//! `transform topic`: creates, lists, describes and deletes topics.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Read as _};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{once, pair};
use crate::Context;
use crate::admin::{segment, typed};
use crate::error::{CliError, CliResult};
use crate::output::{self, Table};
use crate::progress::Progress;

/// Bytes of an answer to a question that are read.
const ANSWER_MAX: u64 = 100;

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a topic
    Create(Create),
    /// List the topics
    List(List),
    /// Show a topic's partitions and configuration
    Describe(Named),
    /// Delete a topic and all its records; on a terminal it asks first where a transform reads or writes it
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The topic's name
    name: String,
    /// Number of partitions [default: the broker's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Replicas of each partition [default: the broker's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replicas: Option<i16>,
    /// A setting of the topic, by Kafka's name; may be given several times
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = pair)]
    configs: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The broker's own topics too
    #[arg(long)]
    internal: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The topic's name
    name: String,
    /// Do not ask
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The topic's name
    name: String,
}

#[derive(Debug, Deserialize)]
struct Transforms {
    transforms: Vec<Transform>,
}

#[derive(Debug, Deserialize)]
struct Transform {
    name: String,
    input: String,
    outputs: Vec<String>,
    #[serde(default)]
    dead_letter: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Topics {
    topics: Vec<Topic>,
}

#[derive(Debug, Deserialize)]
struct Topic {
    name: String,
    id: String,
    partitions: i64,
    replicas: i64,
    internal: bool,
}

#[derive(Debug, Deserialize)]
struct Detail {
    name: String,
    id: String,
    configs: BTreeMap<String, String>,
    partitions: Vec<Partition>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    index: i32,
    ring: u32,
    shard: u16,
    leader: i32,
    log_start_offset: i64,
    high_watermark: i64,
    bytes: u64,
}

/// Does it.
pub(crate) fn run(verb: &Verb, context: &mut Context) -> CliResult {
    match verb {
        Verb::Create(arguments) => create(arguments, context),
        Verb::List(arguments) => list(arguments, context),
        Verb::Describe(arguments) => describe(&arguments.name, context),
        Verb::Delete(arguments) => delete(arguments, context),
    }
}

fn create(arguments: &Create, context: &mut Context) -> CliResult {
    once("--config", &arguments.configs)?;
    let configs: BTreeMap<_, _> = arguments.configs.iter().cloned().collect();
    let mut request = json!({ "name": arguments.name, "configs": configs });
    if let Some(partitions) = arguments.partitions {
        request["partitions"] = json!(partitions);
    }
    if let Some(replicas) = arguments.replicas {
        request["replicas"] = json!(replicas);
    }
    let answer = {
        let _progress = Progress::start(format!("creating {}", arguments.name));
        context.admin()?.post("/v1/topics", &request)?
    };
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    let topic: Topic = typed(&answer)?;
    let partitions = output::count(topic.partitions.unsigned_abs(), "partition");
    let replicas = output::count(topic.replicas.unsigned_abs(), "replica");
    context.output.say(&format!(
        "created {} with {partitions} of {replicas}",
        topic.name
    ))
}

fn list(arguments: &List, context: &mut Context) -> CliResult {
    let mut answer = context.admin()?.get("/v1/topics")?;
    if let Some(topics) = answer["topics"]
        .as_array_mut()
        .filter(|_| !arguments.internal)
    {
        topics.retain(|topic| topic["internal"] != Value::Bool(true));
    }
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    let topics = typed::<Topics>(&answer)?.topics;
    if topics.is_empty() {
        return context
            .output
            .say("no topics; create one with `transform topic create NAME`");
    }
    let mut table = Table::new(&["NAME", "PARTITIONS", "REPLICAS", "ID"]);
    for topic in topics {
        let name = if topic.internal {
            format!("{} (internal)", topic.name)
        } else {
            topic.name
        };
        table.row([
            name,
            topic.partitions.to_string(),
            topic.replicas.to_string(),
            topic.id,
        ]);
    }
    context.output.table(&table)
}

fn describe(name: &str, context: &mut Context) -> CliResult {
    let answer = context
        .admin()?
        .get(&format!("/v1/topics/{}", segment(name)))?;
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    let topic: Detail = typed(&answer)?;
    context
        .output
        .say(&format!("name:  {}\nid:    {}\n", topic.name, topic.id))?;
    let mut table = Table::new(&[
        "PARTITION",
        "LEADER",
        "RING",
        "SHARD",
        "LOG START",
        "HIGH WATERMARK",
        "SIZE",
    ]);
    for partition in topic.partitions {
        table.row([
            partition.index.to_string(),
            partition.leader.to_string(),
            partition.ring.to_string(),
            partition.shard.to_string(),
            partition.log_start_offset.to_string(),
            partition.high_watermark.to_string(),
            output::size(partition.bytes),
        ]);
    }
    context.output.table(&table)?;
    if topic.configs.is_empty() {
        return Ok(());
    }
    context.output.say("")?;
    let mut table = Table::new(&["SETTING", "VALUE"]);
    for (key, value) in topic.configs {
        table.row([key, value]);
    }
    context.output.table(&table)
}

fn delete(arguments: &Delete, context: &mut Context) -> CliResult {
    let name = &arguments.name;
    let admin = context.admin()?;
    let transforms: Transforms = typed(&admin.get("/v1/transforms")?)?;
    let uses = uses(&transforms.transforms, name);
    if !uses.is_empty() {
        tell!("{}", uses.join("\n"));
        let asks = io::stdin().is_terminal() && io::stderr().is_terminal();
        if asks && !arguments.force && !confirmed(name, &mut io::stdin().lock())? {
            return Err(CliError::said(format!("the topic {name} stays")));
        }
    }
    let answer = {
        let _progress = Progress::start(format!("deleting {name}"));
        admin.delete(&format!("/v1/topics/{}", segment(name)))?
    };
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    context.output.say(&format!("deleted the topic {name}"))
}

/// What transforms do with a topic, a line for each.
fn uses(transforms: &[Transform], topic: &str) -> Vec<String> {
    let line = |transform: &Transform| {
        let writes = transform.outputs.iter().any(|output| output == topic);
        let dead_letters = transform.dead_letter.as_deref() == Some(topic);
        let does = match (transform.input == topic, writes || dead_letters) {
            (true, _) => "reads",
            (false, true) => "writes to",
            (false, false) => return None,
        };
        Some(format!(
            "the transform {} {does} {topic}: it stands still without it",
            transform.name
        ))
    };
    transforms.iter().filter_map(line).collect()
}

/// Whether whoever sits there says yes.
fn confirmed(topic: &str, answers: &mut dyn BufRead) -> CliResult<bool> {
    output::to_stderr(format_args!("delete {topic} all the same? [y/N] "));
    let mut answer = String::new();
    let read = answers.take(ANSWER_MAX).read_line(&mut answer);
    read.map_err(|error| CliError::said(format!("cannot read the answer: {error}")))?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_that_read_or_write_a_topic_are_named() {
        let transform = |name: &str, input: &str, output: &str, dead: Option<&str>| Transform {
            name: name.to_owned(),
            input: input.to_owned(),
            outputs: vec![output.to_owned()],
            dead_letter: dead.map(str::to_owned),
        };
        let all = [
            transform("a", "t", "u", None),
            transform("b", "u", "t", None),
            transform("c", "u", "v", Some("t")),
            transform("d", "u", "v", None),
        ];
        let lines = uses(&all, "t");
        assert_eq!(lines.len(), 3, "{lines:?}");
        for (line, start) in lines
            .iter()
            .zip(["a reads t", "b writes to t", "c writes to t"])
        {
            assert!(line.contains(&format!("transform {start}")), "{line}");
        }
    }

    #[test]
    fn only_yes_is_yes() {
        for (said, yes) in [
            ("y\n", true),
            ("Yes\n", true),
            ("n\n", false),
            ("\n", false),
            ("", false),
            ("yellow\n", false),
        ] {
            let answer = confirmed("t", &mut said.as_bytes()).expect("it can be read");
            assert_eq!(answer, yes, "{said:?}");
        }
    }
}
