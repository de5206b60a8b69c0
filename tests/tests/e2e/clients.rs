//! Unmodified clients, each producing and consuming: librdkafka from Rust, kcat, confluent-kafka.

use crate::kafka::{self, Load};
use std::io::Write;
use std::process::{Command, Stdio};
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, on_both_engines};

on_both_engines!(
    rdkafka_reads_back_what_it_produced_in_order,
    kcat_reads_back_what_it_produced_in_order,
    confluent_kafka_idempotent_reads_back_what_it_produced,
    every_compression_type_passes_through_untouched,
    unknown_topic_is_made_on_first_use,
);

/// Names and codec numbers of the compression types.
const CODECS: [(&str, u8); 5] = [
    ("none", 0),
    ("gzip", 1),
    ("snappy", 2),
    ("lz4", 3),
    ("zstd", 4),
];

fn rdkafka_reads_back_what_it_produced_in_order(engine: Engine) {
    const COUNT: usize = 5_000;
    let broker = Broker::start(engine);
    Cli::new(&broker).create_topic("t", 3);
    let mut load = Load::new(&broker.kafka(), &[]);
    for _ in 0..COUNT {
        assert!(load.produce("t"));
    }
    let reports = load.finish();
    assert_eq!(
        (reports.acknowledged.len(), reports.failed.len()),
        (COUNT, 0)
    );
    let seen = kafka::read_all(&broker.kafka(), "t", COUNT);
    assert_eq!(kafka::by_key(&seen).len(), COUNT);
    assert_eq!(seen.len(), COUNT);
    kafka::assert_dense("t", &seen);
}

fn kcat_reads_back_what_it_produced_in_order(engine: Engine) {
    let broker = Broker::start(engine);
    Cli::new(&broker).create_topic("t", 1);
    let lines: String = (0..1_000).map(|i| format!("key{i}:value {i}\n")).collect();
    let mut producer = kcat(&broker, &["-P", "-t", "t", "-K", ":", "-X", "acks=all"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("kcat is installed; `cargo xtask test` installs it");
    producer
        .stdin
        .take()
        .expect("standard input is piped")
        .write_all(lines.as_bytes())
        .expect("kcat reads");
    assert!(producer.wait().expect("kcat ends").success());
    let read = kcat(
        &broker,
        &[
            "-C",
            "-q",
            "-t",
            "t",
            "-o",
            "beginning",
            "-e",
            "-f",
            "%k:%s\n",
        ],
    )
    .output();
    let read = read.expect("kcat is installed");
    assert!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&read.stdout), lines);
    let listing = kcat(&broker, &["-L"]).output().expect("kcat is installed");
    assert!(String::from_utf8_lossy(&listing.stdout).contains("topic \"t\" with 1 partitions"));
}

fn kcat(broker: &Broker, args: &[&str]) -> Command {
    let mut command = Command::new("kcat");
    command.args(["-b", &broker.kafka()]).args(args);
    command
}

fn confluent_kafka_idempotent_reads_back_what_it_produced(engine: Engine) {
    let broker = Broker::start(engine);
    Cli::new(&broker).create_topic("t", 3);
    confluent_kafka(&broker, "t", "none");
}

/// Produces 2,000 records idempotently, reads them back and compares everything.
fn confluent_kafka(broker: &Broker, topic: &str, compression: &str) {
    let script = tidemill_tests::root().join("tests/python/roundtrip.py");
    let python = tidemill_tests::build_folder().join("../venv/bin/python");
    let output = Command::new(&python)
        .arg(script)
        .args([broker.kafka().as_str(), topic, "2000", compression])
        .output()
        .unwrap_or_else(|error| {
            panic!("{}: {error}; `cargo xtask test` makes it", python.display())
        });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success() && said.trim().ends_with("ok"),
        "{compression}: {said}"
    );
}

fn every_compression_type_passes_through_untouched(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    for (name, codec) in CODECS {
        cli.create_topic(name, 1);
        confluent_kafka(&broker, name, name);
        let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
        let answer = connection
            .call(&raw::fetch(name, 0, 0, 1_000, 1 << 20))
            .expect("fetch is answered");
        let fetched = raw::fetched(&answer).expect("a fetch answer");
        assert_eq!(fetched.error, 0);
        let codecs: Vec<u8> = fetched.batches.iter().map(|batch| batch.codec).collect();
        // librdkafka leaves a batch uncompressed where that is smaller; batches of many records never are.
        assert!(
            codecs.contains(&codec),
            "{name}: batches came back with codecs {codecs:?}"
        );
    }
}

fn unknown_topic_is_made_on_first_use(engine: Engine) {
    let broker = Broker::start(engine);
    let mut load = Load::new(&broker.kafka(), &[]);
    assert!(load.produce("never-seen"));
    assert_eq!(load.finish().acknowledged.len(), 1);
    assert_eq!(kafka::read_all(&broker.kafka(), "never-seen", 1).len(), 1);
}
