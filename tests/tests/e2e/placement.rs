//! Which partition output goes to, and how it is compressed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::{CreatePartitionsRequest, TopicName};
use tidemill_model::partitioner::partition_for_key;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, modules, on_both_engines, wait};

use crate::messages::{Messages, text};

on_both_engines!(
    output_by_key_goes_where_a_producer_puts_the_same_keys,
    record_passed_through_goes_where_its_key_says_like_the_others,
    output_is_compressed_as_the_deployment_says,
    output_that_gets_partitions_while_it_is_written_loses_nothing_and_goes_by_the_new_count,
);

const LIMIT: Duration = Duration::from_secs(60);
const RECORDS: usize = 500;
const PARTITIONS: u32 = 7;

fn produce(cli: &Cli, topic: &str) {
    produce_values(cli, topic, |n| {
        format!("{{\"n\":{n},\"email\":\"someone@example.com\"}}")
    });
}

fn produce_values(cli: &Cli, topic: &str, value: impl Fn(usize) -> String) {
    produce_range(cli, topic, 0..RECORDS, value);
}

fn produce_range(cli: &Cli, topic: &str, numbers: Range<usize>, value: impl Fn(usize) -> String) {
    let line = |n: usize| format!("key-{n}:{}\n", value(n));
    let lines: String = numbers.map(line).collect();
    let ran = cli.run_with_input(&["produce", topic, "--key-separator", ":"], &lines);
    assert!(ran.ok, "{}", ran.text());
}

/// The partition of each key.
fn placed(cli: &Cli, topic: &str) -> BTreeMap<String, i64> {
    let read = cli.ok(&[
        "--output-format",
        "json",
        "consume",
        topic,
        "--from",
        "earliest",
        "--exit-at-end",
    ]);
    let records = read.lines().map(|line| {
        let record: serde_json::Value = serde_json::from_str(line).expect("a record a line");
        let key = record["key"].as_str().expect("it has a key").to_owned();
        (
            key,
            record["partition"].as_i64().expect("it has a partition"),
        )
    });
    records.collect()
}

fn written(cli: &Cli, topic: &str) -> i64 {
    let described = cli.json(&["topic", "describe", topic]);
    let partitions = described["partitions"].as_array().expect("partitions");
    partitions
        .iter()
        .filter_map(|p| p["high_watermark"].as_i64())
        .sum()
}

fn deploy(cli: &Cli, arguments: &[&str]) {
    let module = modules::mask();
    let module = module.to_string_lossy();
    let mut all = vec![
        "deploy", "--module", &module, "--input", "in", "--from", "earliest",
    ];
    all.extend(arguments);
    cli.ok(&all);
}

/// Inputs and outputs lie in several rings: what leaves the input's ring goes through its outbox.
fn output_by_key_goes_where_a_producer_puts_the_same_keys(engine: Engine) {
    let broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    for topic in ["by-key", "by-input", "reference"] {
        cli.create_topic(topic, PARTITIONS);
    }
    produce(&cli, "in");
    produce(&cli, "reference");
    deploy(
        &cli,
        &[
            "--name",
            "keyed",
            "--output",
            "by-key",
            "--partition-by",
            "key",
        ],
    );
    deploy(&cli, &["--name", "plain", "--output", "by-input"]);
    let all = |topic| written(&cli, topic) == RECORDS as i64;
    assert!(wait::until(LIMIT, || all("by-key") && all("by-input")));
    let reference = placed(&cli, "reference");
    assert_eq!(reference.len(), RECORDS);
    assert_eq!(placed(&cli, "by-key"), reference);
    let input = placed(&cli, "in");
    assert_eq!(placed(&cli, "by-input"), input);
}

/// The function writes half of the records and the broker the other half: those of one key must meet.
fn record_passed_through_goes_where_its_key_says_like_the_others(engine: Engine) {
    let broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    for topic in ["by-key", "by-input", "reference"] {
        cli.create_topic(topic, PARTITIONS);
    }
    for topic in ["in", "reference"] {
        produce_values(&cli, topic, |n| match n % 2 {
            0 => format!("{{\"n\":{n}}}"),
            _ => format!("no JSON {n}"),
        });
    }
    for (name, by) in [("by-key", "key"), ("by-input", "input")] {
        let mut arguments = vec!["--name", name, "--output", name, "--partition-by", by];
        arguments.extend(["--on-error", "pass-through"]);
        deploy(&cli, &arguments);
    }
    let all = |topic| written(&cli, topic) == RECORDS as i64;
    assert!(wait::until(LIMIT, || all("by-key") && all("by-input")));
    assert_eq!(placed(&cli, "by-key"), placed(&cli, "reference"));
    assert_eq!(placed(&cli, "by-input"), placed(&cli, "in"));
}

fn codecs(broker: &Broker, topic: &str) -> Vec<u8> {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let request = raw::fetch(topic, 0, 0, 1_000, 4 << 20);
    let answer = connection.call(&request).expect("fetch is answered");
    let fetched = raw::fetched(&answer).expect("a fetch answer");
    let mut codecs: Vec<u8> = fetched.batches.iter().map(|b| b.codec).collect();
    codecs.dedup();
    codecs
}

fn output_is_compressed_as_the_deployment_says(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    produce(&cli, "in");
    for (name, codec) in [
        ("none", 0),
        ("gzip", 1),
        ("snappy", 2),
        ("lz4", 3),
        ("zstd", 4),
    ] {
        deploy(
            &cli,
            &["--name", name, "--output", name, "--compression", name],
        );
        assert!(wait::until(LIMIT, || written(&cli, name) == RECORDS as i64));
        assert_eq!(codecs(&broker, name), [codec], "{name}");
        assert_eq!(placed(&cli, name).len(), RECORDS, "{name}");
    }
}

/// Partitions of an output before and after it is widened, and of the input.
const FEW: i32 = 2;
const MANY: i32 = 5;
const INPUTS: u32 = 6;
const WIDENED: [&str; 2] = ["by-key", "by-input"];

fn widen(broker: &Broker) {
    let topics = WIDENED.map(|topic| {
        CreatePartitionsTopic::default()
            .with_name(TopicName(text(topic)))
            .with_count(MANY)
            .with_assignments(None)
    });
    let request = CreatePartitionsRequest::default()
        .with_topics(topics.into())
        .with_timeout_ms(30_000);
    let results = Messages::open(&broker.kafka()).call(3, &request).results;
    assert!(results.iter().all(|r| r.error_code == 0), "{results:?}");
}

/// Waits until all records before number `count` are written to both, none of them twice.
fn all_written(cli: &Cli, count: usize) {
    for topic in WIDENED {
        let all = wait::until(LIMIT, || written(cli, topic) == count as i64);
        let written = written(cli, topic);
        assert!(
            all,
            "{written} of {count} in {topic}: {}",
            cli.ok(&["list"])
        );
        assert_eq!(
            placed(cli, topic).len(),
            count,
            "{topic}: some are there twice"
        );
    }
}

/// Those of `numbers` that are not where they should be, with outputs of so many partitions.
fn misplaced(cli: &Cli, numbers: Range<usize>, partitions: i32) -> Vec<String> {
    let (keyed, plain, input) = (
        placed(cli, "by-key"),
        placed(cli, "by-input"),
        placed(cli, "in"),
    );
    let keys = numbers.map(|n| format!("key-{n}"));
    keys.filter(|key| {
        let by_key = i64::from(partition_for_key(key.as_bytes(), partitions));
        keyed[key] != by_key || plain[key] != input[key] % i64::from(partitions)
    })
    .collect()
}

fn output_that_gets_partitions_while_it_is_written_loses_nothing_and_goes_by_the_new_count(
    engine: Engine,
) {
    let broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", INPUTS);
    WIDENED
        .iter()
        .for_each(|topic| cli.create_topic(topic, FEW as u32));
    for (name, by) in [("by-key", "key"), ("by-input", "input")] {
        deploy(
            &cli,
            &["--name", name, "--output", name, "--partition-by", by],
        );
    }
    let value = |n: usize| format!("{{\"n\":{n}}}");
    let mut next = RECORDS;
    produce_range(&cli, "in", 0..next, value);
    all_written(&cli, next);
    assert_eq!(misplaced(&cli, 0..next, FEW), [""; 0]);

    let widened = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut next = RECORDS;
            // One more after it is widened.
            loop {
                let last = widened.load(Ordering::Acquire);
                produce_range(&cli, "in", next..next + 50, value);
                next += 50;
                if last {
                    return next;
                }
            }
        });
        widen(&broker);
        widened.store(true, Ordering::Release);
        next = load.join().expect("the load goes on");
    });
    all_written(&cli, next);

    // The function is told the new count a moment later. From then on nothing goes by the old one.
    let told = wait::until(LIMIT, || {
        produce_range(&cli, "in", next..next + 50, value);
        next += 50;
        all_written(&cli, next);
        misplaced(&cli, next - 50..next, MANY).is_empty()
    });
    assert!(told, "{:?}", misplaced(&cli, next - 50..next, MANY));
    produce_range(&cli, "in", next..next + RECORDS, value);
    all_written(&cli, next + RECORDS);
    assert_eq!(misplaced(&cli, next..next + RECORDS, MANY), [""; 0]);
}
