//! The life of a partition's log: retention, deleted records, deleted topics, and what clients and transforms see of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, TopicName};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, modules, on_both_engines, wait};

use crate::messages::{Messages, text};

on_both_engines!(
    retention_by_size_removes_segments_while_a_client_reads,
    retention_by_time_removes_all_that_is_old_and_nothing_else,
    records_deleted_by_a_client_stay_deleted_over_a_crash,
    input_that_was_deleted_before_it_was_read_is_counted,
    files_of_a_deleted_topic_go_also_when_the_broker_is_killed_meanwhile,
    timestamps_far_ahead_are_refused,
    records_with_timestamps_far_ahead_are_named,
);

/// How long things may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(90);
const MIB: usize = 1 << 20;
/// Kafka's error codes.
const OFFSET_OUT_OF_RANGE: i16 = 1;
const INVALID_TIMESTAMP: i16 = 32;

fn create(cli: &Cli, topic: &str, configs: &[&str]) {
    let mut args = vec!["topic", "create", topic, "--partitions", "1"];
    for config in configs {
        args.extend(["--config", config]);
    }
    cli.ok(&args);
}

/// Produces `count` batches of one record of 256 KiB each.
fn fill(broker: &Broker, topic: &str, count: usize, timestamp_ms: i64) {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let value = vec![7; MIB / 4];
    for _ in 0..count {
        let batch = raw::batch(&[(b"k", &value)], timestamp_ms);
        let answer = connection.call(&raw::produce(topic, 0, &batch));
        let answer = answer.expect("produce is answered");
        assert_eq!(raw::produced(&answer, topic).map(|p| p.0), Some(0));
    }
}

/// First offset of the topic's only partition, and the offset after its last record.
fn bounds(cli: &Cli, topic: &str) -> (i64, i64) {
    let described = cli.json(&["topic", "describe", topic]);
    let partition = &described["partitions"][0];
    let number = |field: &str| partition[field].as_i64().expect("a number");
    (number("log_start_offset"), number("high_watermark"))
}

fn fetch_error(broker: &Broker, topic: &str, offset: i64) -> i16 {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let answer = connection.call(&raw::fetch(topic, 0, offset, 0, 1 << 20));
    raw::fetched(&answer.expect("answered"))
        .expect("a fetch answer")
        .error
}

/// Bytes and number of the segment files of all partitions.
fn segments(broker: &Broker) -> (u64, usize) {
    fn visit(folder: &Path, found: &mut (u64, usize)) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|e| e == "segment") {
                found.0 += entry.metadata().map_or(0, |m| m.len());
                found.1 += 1;
            }
        }
    }
    let mut found = (0, 0);
    visit(&broker.data(), &mut found);
    found
}

fn retention_by_size_removes_segments_while_a_client_reads(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    create(
        &cli,
        "t",
        &["segment.bytes=1048576", "retention.bytes=3145728"],
    );
    fill(&broker, "t", 96, raw::now_ms());
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.kafka())
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", "1024")
        .set("fetch.message.max.bytes", "1048576")
        .set("fetch.max.bytes", "1048576")
        .set("message.max.bytes", "1048576")
        .create()
        .expect("a consumer can be made");
    let mut assignment = TopicPartitionList::new();
    let added = assignment.add_partition_offset("t", 0, Offset::Beginning);
    added.expect("an offset can be set");
    consumer.assign(&assignment).expect("it can be assigned");
    let (mut last, mut read, deadline) = (-1, 0, Instant::now() + LIMIT);
    while last < 95 {
        assert!(Instant::now() < deadline, "read up to {last}");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                assert!(message.offset() > last, "offsets go back");
                last = message.offset();
                read += 1;
            }
            Some(Err(error)) => panic!("consuming: {error}"),
            None => {}
        }
        // It stands still until its place is removed under its feet, and reads to the end all the same.
        let moved = read != 1 || wait::until(LIMIT, || bounds(&cli, "t").0 >= 80);
        assert!(moved, "{:?}", bounds(&cli, "t"));
    }
    assert!(read < 96, "nothing was removed before it was read");
    let (start, end) = bounds(&cli, "t");
    assert!(end == 96 && end - start >= 3 * 4 - 1, "{start} to {end}");
    assert_eq!(fetch_error(&broker, "t", start - 1), OFFSET_OUT_OF_RANGE);
    assert_eq!(fetch_error(&broker, "t", start), 0);
    let few = wait::until(LIMIT, || segments(&broker).0 <= 5 * MIB as u64);
    assert!(few, "there are {:?} segments", segments(&broker));
    broker.kill9();
    broker.restart();
    assert!(bounds(&cli, "t").0 >= start, "the log start went back");
    assert_eq!(bounds(&cli, "t").1, 96);
}

fn retention_by_time_removes_all_that_is_old_and_nothing_else(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    create(
        &cli,
        "t",
        &["segment.bytes=1048576", "retention.ms=3600000"],
    );
    let now = raw::now_ms();
    fill(&broker, "t", 8, now - 4_000_000);
    fill(&broker, "t", 4, now);
    // Held back by what is before it.
    fill(&broker, "t", 4, now - 4_000_000);
    // Small: never in a segment file.
    create(&cli, "small", &["retention.ms=1000"]);
    let ran = cli.run_with_input(&["produce", "small"], "one\ntwo\n");
    assert!(ran.ok, "{}", ran.text());
    let old = wait::until(LIMIT, || {
        let (start, end) = bounds(&cli, "t");
        let small = bounds(&cli, "small");
        // A segment of 1 MiB takes three batches of 256 KiB and their headers.
        (start, end) == (6, 16) && small == (2, 2)
    });
    assert!(old, "{:?} {:?}", bounds(&cli, "t"), bounds(&cli, "small"));
    assert_eq!(fetch_error(&broker, "small", 0), OFFSET_OUT_OF_RANGE);
    broker.kill9();
    broker.restart();
    assert_eq!(
        (bounds(&cli, "t"), bounds(&cli, "small")),
        ((6, 16), (2, 2))
    );
    // It goes on where it was.
    let ran = cli.run_with_input(&["produce", "small"], "three\n");
    assert!(ran.ok, "{}", ran.text());
    assert_eq!(bounds(&cli, "small").1, 3);
}

/// Runs a script of the folder `python` with confluent-kafka; it says "ok" at the end.
fn python(script: &str, args: &[&str]) {
    let script = tidemill_tests::root().join("tests/python").join(script);
    let python = tidemill_tests::build_folder().join("../venv/bin/python");
    let output = Command::new(python).arg(script).args(args).output();
    let output = output.expect("`cargo xtask test` makes the environment");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success() && said.trim().ends_with("ok"),
        "{said}"
    );
}

fn records_deleted_by_a_client_stay_deleted_over_a_crash(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    create(&cli, "t", &[]);
    python("delete_records.py", &[&broker.kafka(), "t"]);
    assert_eq!(bounds(&cli, "t"), (22, 30));
    broker.kill9();
    broker.restart();
    assert_eq!(bounds(&cli, "t"), (22, 30));
    assert_eq!(fetch_error(&broker, "t", 21), OFFSET_OUT_OF_RANGE);
    assert_eq!(fetch_error(&broker, "t", 22), 0);
}

/// The value of a metric with this label, added up.
fn metric(broker: &Broker, name: &str, label: &str) -> f64 {
    let (_, metrics) = broker.get("/metrics").expect("metrics are answered");
    let wanted = metrics.lines();
    let wanted = wanted.filter(|line| line.starts_with(name) && line.contains(label));
    wanted
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn input_that_was_deleted_before_it_was_read_is_counted(engine: Engine) {
    let broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    create(&cli, "in", &["segment.bytes=1048576"]);
    cli.deploy(&modules::mask(), "mask", "in", "out");
    let lines = |from, to| {
        (from..to)
            .map(|n| format!("{{\"n\":{n},\"email\":\"a@b\"}}\n"))
            .collect::<String>()
    };
    let produce = |lines: String| assert!(cli.run_with_input(&["produce", "in"], &lines).ok);
    produce(lines(0, 20));
    assert!(wait::until(LIMIT, || bounds(&cli, "out").1 == 20));
    cli.ok(&["pause", "mask"]);
    let described = || -> Value { cli.json(&["describe", "mask"]) };
    assert!(wait::until(LIMIT, || described()["state"] == "paused"));
    produce(lines(20, 50));
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let answer = connection.call(&raw::delete_records("in", 0, 45));
    assert!(answer.is_ok());
    assert!(wait::until(LIMIT, || bounds(&cli, "in").0 == 45));
    cli.ok(&["resume", "mask"]);
    let done = wait::until(LIMIT, || bounds(&cli, "out").1 == 25);
    assert!(done, "{:?} {}", bounds(&cli, "out"), described());
    let missed = metric(&broker, "tidemill_transform_records_failed_total", "missed");
    assert_eq!(missed, 25.0);
    let said = cli.ok(&["logs", "mask"]);
    assert!(said.contains("records missed: 25"), "{said}");
}

fn files_of_a_deleted_topic_go_also_when_the_broker_is_killed_meanwhile(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    for topic in ["a", "b"] {
        create(&cli, topic, &["segment.bytes=1048576"]);
        fill(&broker, topic, 40, raw::now_ms());
    }
    assert!(wait::until(LIMIT, || segments(&broker).1 >= 10));
    cli.ok(&["topic", "delete", "a"]);
    broker.kill9();
    broker.restart();
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    // Whatever else happens, the other topic takes records.
    let batch = raw::batch(&[(b"k", b"v")], raw::now_ms());
    let answer = connection
        .call(&raw::produce("b", 0, &batch))
        .expect("answered");
    assert_eq!(raw::produced(&answer, "b").map(|p| p.0), Some(0));
    let gone = wait::until(LIMIT, || folders(&broker) == 1);
    assert!(gone, "{} folders", folders(&broker));
    assert_eq!(bounds(&cli, "b"), (0, 41));
    assert_eq!(fetch_error(&broker, "b", 0), 0);
}

/// Folders of partitions.
fn folders(broker: &Broker) -> usize {
    let shards = std::fs::read_dir(broker.data()).expect("the data folder is there");
    let of = |shard: std::fs::DirEntry| std::fs::read_dir(shard.path().join("partitions")).ok();
    shards.flatten().filter_map(of).map(Iterator::count).sum()
}

fn timestamps_far_ahead_are_refused(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    create(&cli, "t", &[]);
    create(
        &cli,
        "wide",
        &["message.timestamp.after.max.ms=9223372036854775807"],
    );
    create(&cli, "own", &["message.timestamp.type=LogAppendTime"]);
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let ahead = raw::now_ms() + 3_600_000;
    let asked = [
        ("t", ahead + 60_000),
        ("t", ahead - 60_000),
        ("wide", i64::MAX),
        ("own", i64::MAX),
    ];
    let mut codes = BTreeMap::new();
    for (topic, timestamp) in asked {
        let batch = raw::batch(&[(b"k", b"v")], timestamp);
        let answer = connection
            .call(&raw::produce(topic, 0, &batch))
            .expect("answered");
        let code = raw::produced(&answer, topic).map(|p| p.0);
        codes.entry(topic).or_insert_with(Vec::new).push(code);
    }
    assert_eq!(codes["t"], [Some(INVALID_TIMESTAMP), Some(0)]);
    assert_eq!(
        (&codes["wide"], &codes["own"]),
        (&vec![Some(0)], &vec![Some(0)])
    );
}

/// A Produce answer names the records of a batch that are to blame (KIP-467); where they are too many all are told the same.
fn records_with_timestamps_far_ahead_are_named(engine: Engine) {
    let broker = Broker::start(engine);
    create(&Cli::new(&broker), "t", &[]);
    let mut messages = Messages::open(&broker.kafka());
    let mut named = |version: i16, count: usize, ahead: fn(usize) -> bool| {
        let record = |place| {
            let late = if ahead(place) { 7_200_000 } else { 0 };
            (raw::now_ms() + late, &b""[..], &b"v"[..])
        };
        let records: Vec<_> = (0..count).map(record).collect();
        let batch = Bytes::from(raw::batch_of_times(&records));
        let partition = PartitionProduceData::default().with_records(Some(batch));
        let topic = TopicProduceData::default()
            .with_name(TopicName(text("t")))
            .with_partition_data(vec![partition]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        let answer = messages.call(version, &request);
        let told = &answer.responses[0].partition_responses[0];
        assert_eq!(told.error_code, INVALID_TIMESTAMP);
        let places = told.record_errors.iter().map(|e| e.batch_index);
        (places.collect::<Vec<i32>>(), told.error_message.is_some())
    };
    let some = |place| place == 1 || place == 4;
    assert_eq!(named(7, 6, some), (vec![], false));
    assert_eq!(named(8, 6, some), (vec![1, 4], true));
    assert_eq!(named(9, 6, some), (vec![1, 4], true));
    assert_eq!(named(9, 1_000, |_| true).0.len(), 1_000);
    assert!(named(9, 1_001, |_| true).0.is_empty());
    assert_eq!(bounds(&Cli::new(&broker), "t"), (0, 0));
}
