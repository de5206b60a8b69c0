//! What transforms log: in the topic `__transform_logs`, limited, and read back with `transform logs`.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidemill_tests::broker::Options;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, modules, on_both_engines, wait};

on_both_engines!(
    lines_are_records_that_kafka_clients_read_and_survive_the_broker_and_their_transform,
    lines_are_chosen_by_level_time_number_and_partition,
    reader_who_follows_gets_what_comes,
    flood_costs_its_own_transform_lines_and_nobody_else,
    failing_record_is_told_once_for_each_attempt,
    log_topic_is_nobodys_input_or_output,
);

/// How long output may take to appear on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "__transform_logs";

fn talks() -> PathBuf {
    let source = tidemill_tests::root().join("tests/modules/talks.rs");
    let source = std::fs::read_to_string(source).expect("the module's source is there");
    modules::build("talks", Some(&source))
}

/// A broker with a transform `talks` that reads `in`, of one partition, and writes `out`.
fn start(options: Options) -> (Broker, Cli) {
    let broker = options.start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    cli.deploy(&talks(), "talks", "in", "out");
    (broker, cli)
}

fn produce(cli: &Cli, topic: &str, lines: &str) {
    let ran = cli.run_with_input(&["produce", topic], lines);
    assert!(ran.ok, "{}", ran.text());
}

fn wait_for_output(cli: &Cli, topic: &str, records: i64) {
    let there = || {
        let described = cli.json(&["topic", "describe", topic]);
        let partitions = described["partitions"].as_array().cloned();
        let marks = partitions.unwrap_or_default();
        let marks = marks.iter().filter_map(|p| p["high_watermark"].as_i64());
        marks.sum::<i64>()
    };
    assert!(wait::until(LIMIT, || there() >= records), "{}", there());
}

/// The lines as the command line prints them for scripts.
fn lines(cli: &Cli, args: &[&str]) -> Vec<Value> {
    let args = [&["logs"], args].concat();
    match cli.json(&args) {
        Value::Array(lines) => lines,
        one => vec![one],
    }
}

fn messages(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .filter_map(|line| line["message"].as_str())
        .collect()
}

/// Keys and values of the whole topic, read by librdkafka.
fn records(broker: &Broker, count: usize) -> Vec<(String, Value)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.kafka())
        .set("group.id", "readers-of-logs")
        .create()
        .expect("a consumer can be made");
    let metadata = consumer
        .fetch_metadata(Some(TOPIC), Timeout::After(LIMIT))
        .expect("the broker answers");
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        all.add_partition_offset(TOPIC, partition.id(), Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&all).expect("partitions can be assigned");
    let (mut read, until) = (Vec::new(), Instant::now() + LIMIT);
    while read.len() < count && Instant::now() < until {
        let Some(Ok(message)) = consumer.poll(Timeout::After(Duration::from_millis(200))) else {
            continue;
        };
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        let value = serde_json::from_slice(message.payload().unwrap_or_default());
        read.push((key, value.expect("values are JSON")));
    }
    read
}

fn attribute<'a>(record: &'a Value, name: &str) -> &'a Value {
    let attributes = record["attributes"].as_array().expect("attributes");
    let found = attributes.iter().find(|a| a["key"] == name);
    &found.unwrap_or_else(|| panic!("no {name}: {record}"))["value"]
}

fn lines_are_records_that_kafka_clients_read_and_survive_the_broker_and_their_transform(
    engine: Engine,
) {
    let (mut broker, cli) = start(Options::new(engine));
    produce(&cli, "in", "info first\n");
    wait_for_output(&cli, "out", 1);
    produce(&cli, "in", "warn second\nsteer\nstdout third\n");
    wait_for_output(&cli, "out", 4);
    let shown = lines(&cli, &["talks"]);
    let steered = "before\u{1b}[2Jafter";
    let mut sorted = messages(&shown);
    sorted.sort_unstable();
    assert_eq!(sorted, [steered, "first", "second", "third"]);
    assert_eq!(
        (&shown[0]["offset"], &shown[0]["version"]),
        (&0.into(), &1.into())
    );
    let read = records(&broker, 4);
    assert!(read.iter().all(|(key, _)| key == "talks"), "{read:?}");
    for ((_, record), line) in read.iter().zip(&shown) {
        assert_eq!(record["body"]["stringValue"], line["message"]);
        assert_eq!(attribute(record, "transform_version")["intValue"], "1");
        assert_eq!(attribute(record, "topic")["stringValue"], "in");
        assert_eq!(attribute(record, "partition")["intValue"], "0");
        let nanos: u64 = record["timeUnixNano"]
            .as_str()
            .and_then(|t| t.parse().ok())
            .expect("a time");
        assert_eq!(Some(nanos / 1_000_000), line["timestamp"].as_u64());
    }
    assert_eq!(read[0].1["severityNumber"], 9);
    // What was read was written: a crash leaves it there, and so does the end of the transform.
    broker.kill9();
    broker.restart();
    assert_eq!(lines(&cli, &["talks"]), shown);
    cli.ok(&["delete", "talks"]);
    assert_eq!(lines(&cli, &["talks"]), shown);
    assert!(cli.refused(&["logs", "nobody"]).contains("nobody"));
    // A clean end loses nothing.
    cli.deploy(&talks(), "again", "in", "out");
    produce(&cli, "in", "info last words\n");
    wait_for_output(&cli, "out", 5);
    broker.stop();
    broker.restart();
    assert_eq!(messages(&lines(&cli, &["again"])), ["last words"]);
}

fn lines_are_chosen_by_level_time_number_and_partition(engine: Engine) {
    let (broker, cli) = start(Options::new(engine));
    produce(&cli, "in", "debug d\ninfo i\nwarn w\nerror e\n");
    wait_for_output(&cli, "out", 4);
    let of = |args: &[&str]| -> Vec<String> {
        let lines = lines(&cli, &[&["talks"], args].concat());
        messages(&lines).into_iter().map(str::to_owned).collect()
    };
    assert_eq!(of(&[]), ["d", "i", "w", "e"]);
    assert_eq!(of(&["--level", "warn"]), ["w", "e"]);
    assert_eq!(of(&["--tail", "1"]), ["e"]);
    assert_eq!(of(&["--level", "info", "--tail", "2"]), ["w", "e"]);
    assert_eq!(of(&["--since", "1h"]), ["d", "i", "w", "e"]);
    assert_eq!(of(&["--since", "1h", "--tail", "3"]), ["i", "w", "e"]);
    assert_eq!(of(&["--since", "@4102444800000"]), Vec::<String>::new());
    assert_eq!(of(&["--partition", "0"]).len(), 4);
    assert_eq!(of(&["--partition", "1"]), Vec::<String>::new());
    let said = cli.refused(&["logs", "talks", "--since", "yesterday"]);
    assert!(said.contains("10m"), "the forms are named: {said}");
    let shown = cli.ok(&["logs", "talks", "--tail", "1"]);
    assert!(
        shown.contains("error v1 p0") && shown.trim_end().ends_with(" e"),
        "{shown}"
    );
    // No line was asked for: that says nothing about what there is.
    assert_eq!(cli.ok(&["logs", "talks", "--tail", "0"]), "");
    let shown = cli.ok(&["logs", "talks", "--partition", "1"]);
    assert!(
        shown.contains("logged nothing that was asked for"),
        "{shown}"
    );
    assert!(broker.metric("tidemill_transform_log_lines_total", "talks") >= 4.0);
}

fn reader_who_follows_gets_what_comes(engine: Engine) {
    use std::io::{BufRead, BufReader};
    let (mut broker, cli) = start(Options::new(engine));
    let mut reader = std::process::Command::new(tidemill_tests::program("transform"))
        .args([
            "--admin",
            &broker.admin(),
            "logs",
            "talks",
            "--follow",
            "--level",
            "info",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the command line can be started");
    let mut output = BufReader::new(reader.stdout.take().expect("piped"));
    // Before the topic is there, and after; and when the broker was away.
    for (text, said, away) in [
        ("info one", "one", false),
        ("debug no\ninfo two", "two", false),
        ("info three", "three", true),
    ] {
        if away {
            broker.stop();
            broker.restart();
        }
        produce(&cli, "in", &format!("{text}\n"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the reader goes on");
        assert!(line.trim_end().ends_with(said), "{line}");
    }
    // Who only waits does not hold up the broker's end.
    assert!(broker.stop().success());
    assert!(!broker.log().contains("were cut off"), "{}", broker.log());
    let _ = reader.kill();
    reader.wait().expect("it was ours");
}

fn flood_costs_its_own_transform_lines_and_nobody_else(engine: Engine) {
    let settings = "[transforms]\nlog_rate = 1\nlog_burst = 100\n";
    let (broker, cli) = start(Options::new(engine).settings(settings));
    cli.create_topic("calm-in", 1);
    cli.deploy(&talks(), "calm", "calm-in", "calm-out");
    // Each in a call of its own: of one call 64 lines are kept, whatever the rate.
    for n in 1..=10 {
        produce(&cli, "in", "flood\n");
        wait_for_output(&cli, "out", n);
    }
    produce(&cli, "calm-in", &"info calm\n".repeat(20));
    wait_for_output(&cli, "out", 10);
    wait_for_output(&cli, "calm-out", 20);
    assert_eq!(messages(&lines(&cli, &["calm"])), ["calm"; 20]);
    let dropped = || broker.metric("tidemill_transform_log_dropped_total", "reason=\"rate\"");
    assert!(dropped() > 0.0);
    // Each line is either there or among those that are told to be missing.
    let accounted = || {
        let lines = lines(&cli, &["talks"]);
        let told = messages(&lines)
            .into_iter()
            .filter(|m| m.contains("dropped: "));
        let told: usize = told
            .filter_map(|m| m.split_once(' ')?.0.parse::<usize>().ok())
            .sum();
        let kept = messages(&lines)
            .iter()
            .filter(|m| m.contains("of a flood"))
            .count();
        assert!(kept < 400, "{kept}");
        kept + told
    };
    assert!(wait::until(LIMIT, || accounted() == 400), "{}", accounted());
}

fn failing_record_is_told_once_for_each_attempt(engine: Engine) {
    let (_broker, cli) = start(Options::new(engine));
    produce(&cli, "in", "refuse\n");
    let told = || lines(&cli, &["talks", "--level", "error"]);
    assert!(wait::until(LIMIT, || told().len() >= 3), "{:?}", told());
    for line in told() {
        let message = line["message"].as_str().unwrap_or_default();
        assert!(
            message.contains("it was refused") && message.contains("trying again"),
            "one line says both: {message}"
        );
        assert_eq!(
            (&line["offset"], &line["source"]),
            (&0.into(), &"broker".into())
        );
    }
    cli.create_topic("panic-in", 1);
    cli.deploy(&talks(), "panics", "panic-in", "panic-out");
    produce(&cli, "panic-in", "panic\n");
    let all = || lines(&cli, &["panics"]);
    assert!(wait::until(LIMIT, || all().len() >= 3), "{:?}", all());
    for line in all() {
        let message = line["message"].as_str().unwrap_or_default();
        assert!(
            !message.trim().is_empty() && !message.contains("RUST_BACKTRACE"),
            "{message:?}"
        );
    }
    assert!(
        messages(&all())
            .iter()
            .any(|m| m.contains("it was too much"))
    );
}

fn log_topic_is_nobodys_input_or_output(engine: Engine) {
    let (_broker, cli) = start(Options::new(engine));
    produce(&cli, "in", "info made\n");
    wait_for_output(&cli, "out", 1);
    assert_eq!(messages(&lines(&cli, &["talks"])), ["made"]);
    let module = talks();
    let module = module.to_string_lossy();
    let deploy = |input: &str, output: &str| {
        cli.refused(&[
            "deploy", "--module", &module, "--name", "loop", "--input", input, "--output", output,
        ])
    };
    assert!(deploy(TOPIC, "elsewhere").contains("its own input"));
    assert!(deploy("in", TOPIC).contains("keeps for itself"));
    assert!(!cli.run_with_input(&["produce", TOPIC], "x\n").ok);
    assert!(
        cli.refused(&["topic", "delete", TOPIC])
            .contains("keeps for itself")
    );
}
