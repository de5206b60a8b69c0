//! Unmodified clients, each producing with every compression, reading back what it wrote, listing and describing topics:
//! librdkafka from Rust, kcat, confluent-kafka, aiokafka, franz-go, and Java's clients and tools.

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
    rdkafka_and_kcat_read_back_every_compression,
    aiokafka_reads_back_every_compression_and_manages_topics,
    franz_go_reads_back_every_compression_and_manages_topics,
    franz_go_group_shares_and_resumes,
    java_clients_and_tools_do_what_they_do_with_kafka,
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
    python(broker, "confluent.py", &[topic, "2000", compression]);
}

/// Runs a script of `tests/clients/python` with the broker's address and `args`.
fn python(broker: &Broker, script: &str, args: &[&str]) {
    let python = tidemill_tests::build_folder().join("../venv/bin/python");
    let folder = tidemill_tests::root().join("tests/clients/python");
    says_ok(
        Command::new(python)
            .arg(folder.join(script))
            .arg(broker.kafka())
            .args(args),
    );
}

/// Runs a client to its end; its last word must be "ok".
fn says_ok(client: &mut Command) {
    let output = client
        .output()
        .unwrap_or_else(|error| panic!("{client:?}: {error}; `cargo xtask test` makes it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", text(&output.stderr), text(&output.stdout));
    assert!(
        output.status.success() && said.trim().ends_with("ok"),
        "{client:?}: {said}"
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

fn rdkafka_and_kcat_read_back_every_compression(engine: Engine) {
    const COUNT: usize = 500;
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    let lines: String = (0..COUNT)
        .map(|i| format!("key{i}:{}\n", "v".repeat(i)))
        .collect();
    for (codec, _) in CODECS {
        let (of_rust, of_kcat) = (format!("rust-{codec}"), format!("kcat-{codec}"));
        cli.create_topic(&of_rust, 3);
        cli.create_topic(&of_kcat, 1);
        rdkafka(&broker, &of_rust, codec, COUNT);
        let mut producer = kcat(&broker, &["-P", "-z", codec, "-t", &of_kcat, "-K:"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("kcat is installed");
        let mut stdin = producer.stdin.take().expect("standard input is piped");
        stdin.write_all(lines.as_bytes()).expect("kcat reads");
        drop(stdin);
        assert!(producer.wait().expect("kcat ends").success());
        let args = [
            "-C",
            "-q",
            "-t",
            &of_kcat,
            "-o",
            "beginning",
            "-e",
            "-f",
            "%k:%s\n",
        ];
        let read = kcat(&broker, &args).output().expect("kcat is installed");
        assert_eq!(String::from_utf8_lossy(&read.stdout), lines, "{codec}");
    }
    let listing = kcat(&broker, &["-L"]).output().expect("kcat is installed");
    let listing = String::from_utf8_lossy(&listing.stdout);
    assert!(
        listing.contains("topic \"rust-lz4\" with 3 partitions"),
        "{listing}"
    );
}

/// Produces with librdkafka from Rust, and reads it back to the byte.
fn rdkafka(broker: &Broker, topic: &str, codec: &str, count: usize) {
    let load = Load::new(&broker.kafka(), &[("compression.codec", codec)]);
    (0..count).for_each(|n| assert!(load.send(topic, &n.to_string(), &value(n))));
    assert_eq!(load.finish().acknowledged.len(), count, "{codec}");
    let seen = kafka::read_all(&broker.kafka(), topic, count);
    assert_eq!(kafka::by_key(&seen).len(), count, "{codec}");
    kafka::assert_dense(topic, &seen);
    for record in &seen {
        let number = record.key.parse().expect("keys are numbers");
        assert_eq!(record.value, value(number), "{codec}: value of {number}");
    }
    assert_eq!(seen.len(), count, "{codec}");
}

/// Up to 2 KiB of every byte there is; the first half compresses.
fn value(number: usize) -> Vec<u8> {
    let length = number * 37 % 2_048;
    let mut state = number as u64 + 1;
    let mut any = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length)
        .map(|at| if at < length / 2 { 0x80 } else { any() })
        .collect()
}

fn aiokafka_reads_back_every_compression_and_manages_topics(engine: Engine) {
    let broker = Broker::start(engine);
    python(&broker, "aio.py", &[]);
}

fn franz_go_reads_back_every_compression_and_manages_topics(engine: Engine) {
    let broker = Broker::start(engine);
    let program = tidemill_tests::build_folder().join("../clients/go/clients");
    says_ok(Command::new(program).arg(broker.kafka()));
}

/// Three members share the work, one leaves, offsets are committed, the next goes on from there.
fn franz_go_group_shares_and_resumes(engine: Engine) {
    let broker = Broker::start(engine);
    let program = tidemill_tests::build_folder().join("../clients/go/clients");
    says_ok(Command::new(program).arg(broker.kafka()).arg("groups"));
}

/// One JVM for all of it: it takes longer to start than what it does.
fn java_clients_and_tools_do_what_they_do_with_kafka(engine: Engine) {
    let broker = Broker::start(engine);
    let folder = tidemill_tests::build_folder().join("../clients/java");
    let class_path = format!("{0}/classes:{0}/libs/*", folder.display());
    says_ok(
        Command::new("java")
            // Quick to start rather than quick to run.
            .args([
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-Xmx256m",
                "-cp",
            ])
            .args([class_path.as_str(), "Checks", &broker.kafka()]),
    );
}
