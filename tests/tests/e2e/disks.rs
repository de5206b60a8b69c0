//! Disks that are full and disks that fail: the node refuses writes and serves reads, goes on by itself when there is room (rule S11),
//! and ends with a clear message when a sync failed (rule S10).

use crate::kafka::{self, Load};
use crate::messages::{Messages, text};
use crate::operations::inspect;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    CreatePartitionsRequest, IncrementalAlterConfigsRequest, TopicName,
};
use std::process::Command;
use std::time::Duration;
use tidemill_tests::cli::Cli;
use tidemill_tests::disk::failing_syncs;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, TestFolder, modules, on_both_engines, wait};

on_both_engines!(
    s11_full_disk_refuses_writes_serves_reads_and_goes_on_by_itself_after_a_deletion,
    s11_lowered_retention_frees_a_full_disk,
    s11_disk_that_others_fill_to_the_last_byte_ends_nothing_and_loses_nothing,
    s11_deletion_frees_a_disk_that_others_have_filled_to_the_last_byte,
    process_without_descriptors_left_waits_and_loses_nothing,
    s10_failed_sync_ends_the_process_with_a_message_and_a_status_of_its_own,
);

/// Twice the reserve of one shard and some more.
const DISK_BYTES: u64 = 560 << 20;
/// `KAFKA_STORAGE_ERROR`: clients try again.
const STORAGE_ERROR: i16 = 56;
/// `EX_IOERR`: the status with which a broker ends whose disk failed.
const DISK_FAILED: i32 = 74;
/// How long a change of the disk may take to be noticed, and a deletion to give room.
const NOTICE_LIMIT: Duration = Duration::from_secs(60);

fn metric(broker: &Broker, name: &str) -> Option<f64> {
    let (_, text) = broker.get("/metrics")?;
    let line = text.lines().find(|l| l.split(' ').next() == Some(name))?;
    line.split(' ').nth(1)?.parse().ok()
}

fn is_full(broker: &Broker) -> bool {
    metric(broker, "tidemill_disk_full") == Some(1.0)
}

/// Gives a topic so many partitions; the error.
fn grow(broker: &Broker, topic: &str, count: i32) -> i16 {
    let topic = CreatePartitionsTopic::default()
        .with_name(TopicName(text(topic)))
        .with_count(count)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let answer = Messages::open(&broker.kafka()).call(3, &request);
    answer.results[0].error_code
}

/// Sets a setting of a topic; the error.
fn set(broker: &Broker, topic: &str, name: &str, value: &str) -> i16 {
    let config = AlterableConfig::default()
        .with_name(text(name))
        .with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(topic))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = Messages::open(&broker.kafka()).call(1, &request);
    answer.responses[0].error_code
}

/// Produces batches of about 900 KB to partition 0, which holds `from` of them, until one is refused; how many it holds then, and
/// the error.
fn fill(broker: &Broker, topic: &str, from: i64) -> (i64, i16) {
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    let value = vec![7; 900_000];
    for number in from..from + 2_000 {
        let key = format!("k{number}");
        let batch = raw::batch(&[(key.as_bytes(), &value)], raw::now_ms());
        let answer = connection.call(&raw::produce(topic, 0, &batch));
        let answer = answer.expect("it answers");
        let (error, offset) = raw::produced(&answer, topic).expect("it is an answer");
        if error != 0 {
            return (number, error);
        }
        assert_eq!(offset, number);
    }
    panic!("nothing was refused");
}

/// As [`fill`], until the disk is still full when everything is flushed, which gives room in the log.
fn fill_for_good(broker: &Broker, topic: &str, from: i64) -> (i64, i16) {
    let mut taken = from;
    loop {
        let (now, error) = fill(broker, topic, taken);
        taken = now;
        let flushed = || metric(broker, "tidemill_unflushed_bytes") == Some(0.0);
        assert!(wait::until(NOTICE_LIMIT, flushed), "{}", broker.log());
        let (now, _) = fill(broker, topic, taken);
        if now == taken {
            return (taken, error);
        }
        taken = now;
    }
}

/// How often the log says that the disk is full, and that it has room again.
fn told(broker: &Broker) -> (usize, usize) {
    let log = broker.log();
    let count = |level: &str, text: &str| {
        let lines = log.lines();
        lines
            .filter(|l| l.contains(level) && l.contains(text))
            .count()
    };
    (
        count("WARN", "the disk is full"),
        count("INFO", "the disk has room again"),
    )
}

/// Offset after the last record of partition 0.
fn end_of(broker: &Broker, topic: &str) -> i64 {
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    let answer = connection.call(&raw::fetch(topic, 0, 0, 0, 1 << 20));
    let fetched = raw::fetched(&answer.expect("it answers")).expect("it is an answer");
    fetched.high_watermark
}

/// The record at an offset is there.
fn assert_readable(broker: &Broker, topic: &str, offset: i64) {
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    let answer = connection.call(&raw::fetch(topic, 0, offset, 1_000, 2 << 20));
    let fetched = raw::fetched(&answer.expect("it answers")).expect("it is an answer");
    assert_eq!(fetched.error, 0);
    assert_eq!(fetched.batches.first().map(|b| b.base_offset), Some(offset));
}

fn s11_full_disk_refuses_writes_serves_reads_and_goes_on_by_itself_after_a_deletion(
    engine: Engine,
) {
    let mut broker = Options::new(engine)
        .shards(1)
        .disk_bytes(DISK_BYTES)
        .start();
    broker.expect_error("the disk is full");
    let cli = Cli::new(&broker);
    for topic in ["fill", "small"] {
        cli.create_topic(topic, 1);
    }
    cli.deploy(&modules::mask(), "mask", "small", "masked");
    cli.ok(&["pause", "mask"]);
    let mut before = Load::new(&broker.kafka(), &[]);
    (0..20).for_each(|_| assert!(before.produce("small")));
    assert_eq!(before.finish().acknowledged.len(), 20);

    let (taken, error) = fill_for_good(&broker, "fill", 0);
    assert_eq!(error, STORAGE_ERROR);
    assert!(is_full(&broker));
    let (status, health) = broker.get("/health").expect("it answers");
    assert!(
        status == 200 && health.contains("the disk is full"),
        "{health}"
    );
    assert!(cli.refused(&["topic", "create", "more"]).contains("full"));
    assert_eq!(grow(&broker, "small", 2), STORAGE_ERROR);
    // Outcomes wait, and reads go on.
    cli.ok(&["resume", "mask"]);
    assert_readable(&broker, "fill", 0);
    assert_readable(&broker, "fill", taken - 1);
    assert_eq!(end_of(&broker, "masked"), 0, "the outcome waits");

    // Also after a restart, which gives back what the log had reserved: outcomes would find room at first.
    cli.ok(&["pause", "mask"]);
    broker.kill9();
    broker.restart();
    assert_readable(&broker, "fill", taken - 1);
    let (taken, error) = fill_for_good(&broker, "fill", taken);
    assert_eq!(error, STORAGE_ERROR);
    assert!(is_full(&broker));
    assert_readable(&broker, "fill", taken - 1);
    Cli::new(&broker).ok(&["resume", "mask"]);
    assert_eq!(fill(&broker, "small", 20), (20, STORAGE_ERROR));
    assert_eq!(end_of(&broker, "masked"), 0, "the outcome waits");

    // A client that keeps trying is served as soon as a deletion has made room.
    let mut waiting = Load::new(&broker.kafka(), &[("message.timeout.ms", "120000")]);
    assert!(waiting.produce("small"));
    Cli::new(&broker).ok(&["topic", "delete", "fill"]);
    assert!(
        wait::until(NOTICE_LIMIT, || !is_full(&broker)),
        "a deletion gave no room"
    );
    let reports = waiting.finish();
    assert!(reports.failed.is_empty(), "{:?}", reports.failed);
    assert_eq!(kafka::read_all(&broker.kafka(), "masked", 21).len(), 21);
    // Once for each change: one life ended full, the other did not.
    let as_changed = || matches!(told(&broker), (full, room) if full >= 2 && full == room + 1);
    assert!(wait::until(NOTICE_LIMIT, as_changed), "{}", broker.log());
}

fn s11_lowered_retention_frees_a_full_disk(engine: Engine) {
    let broker = Options::new(engine)
        .shards(1)
        .disk_bytes(DISK_BYTES)
        .start();
    let cli = Cli::new(&broker);
    cli.ok(&["topic", "create", "t", "--config", "segment.bytes=16777216"]);
    let (taken, error) = fill_for_good(&broker, "t", 0);
    assert_eq!(error, STORAGE_ERROR);
    assert_eq!(grow(&broker, "t", 2), STORAGE_ERROR);
    assert_eq!(set(&broker, "t", "retention.bytes", "50000000"), 0);
    let freed = wait::until(NOTICE_LIMIT, || !is_full(&broker));
    assert!(freed, "{}", broker.log());
    assert_eq!(grow(&broker, "t", 2), 0);
    assert_readable(&broker, "t", taken - 1);
}

fn s11_disk_that_others_fill_to_the_last_byte_ends_nothing_and_loses_nothing(engine: Engine) {
    let mut broker = Options::new(engine)
        .shards(1)
        .disk_bytes(DISK_BYTES)
        .start();
    broker.expect_error("nothing can be written until there is room");
    Cli::new(&broker).create_topic("t", 1);
    let mut load = Load::new(&broker.kafka(), &[]);
    (0..100).for_each(|_| assert!(load.produce("t")));
    let acknowledged = load.finish().acknowledged;
    assert_eq!(acknowledged.len(), 100);

    let foreign = broker.disk().expect("it has its own").fill();
    assert!(wait::until(NOTICE_LIMIT, || is_full(&broker)));
    assert_eq!(fill(&broker, "t", 100), (100, STORAGE_ERROR));
    assert_readable(&broker, "t", 0);
    // Not a byte is left, and it starts all the same.
    for _ in 0..2 {
        broker.kill9();
        broker.restart();
        assert_readable(&broker, "t", 0);
    }
    let failures = metric(&broker, "tidemill_checkpoint_failures_total");
    assert!(failures.is_some(), "it is counted");

    std::fs::remove_file(foreign).expect("it is there");
    assert!(wait::until(NOTICE_LIMIT, || !is_full(&broker)));
    let mut more = Load::new(&broker.kafka(), &[]);
    (0..100).for_each(|_| assert!(more.produce("t")));
    assert_eq!(more.finish().acknowledged.len(), 100);
    let records = kafka::read_all(&broker.kafka(), "t", 200);
    kafka::assert_dense("t", &records);
    assert_eq!(records.len(), 200);
    assert!(broker.stop().success());
    broker.restart();
}

fn topic_id(cli: &Cli, topic: &str) -> String {
    let described = cli.json(&["topic", "describe", topic]);
    described["id"]
        .as_str()
        .expect("a topic has one")
        .to_owned()
}

/// Whether the first partition of a topic has segment files.
fn segments_in(broker: &Broker, topic_id: &str) -> bool {
    let folder = format!("shard-0/partitions/{topic_id}-0");
    let files = std::fs::read_dir(broker.data().join(folder));
    let mut paths = files
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| file.path());
    paths.any(|path| path.extension().is_some_and(|e| e == "segment"))
}

fn s11_deletion_frees_a_disk_that_others_have_filled_to_the_last_byte(engine: Engine) {
    const RECORDS: i64 = 60;
    let mut broker = Options::new(engine)
        .shards(1)
        .disk_bytes(DISK_BYTES)
        .start();
    let cli = Cli::new(&broker);
    for topic in ["large", "small", "kept"] {
        cli.create_topic(topic, 1);
    }
    let mut load = Load::new(&broker.kafka(), &[]);
    (0..100).for_each(|_| assert!(load.produce("small")));
    assert_eq!(load.finish().acknowledged.len(), 100);
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    let value = vec![7; 900_000];
    let places = (0..RECORDS).map(|offset| ("large", offset));
    for (topic, offset) in places.chain([("kept", 0)]) {
        let batch = raw::batch(&[(b"k".as_slice(), &value)], raw::now_ms());
        let answer = connection.call(&raw::produce(topic, 0, &batch));
        let produced = raw::produced(&answer.expect("it answers"), topic);
        assert_eq!(produced, Some((0, offset)));
    }
    let flushed = || metric(&broker, "tidemill_unflushed_bytes") == Some(0.0);
    assert!(wait::until(NOTICE_LIMIT, flushed), "{}", broker.log());

    let _foreign = broker.disk().expect("it has its own").fill();
    assert!(wait::until(NOTICE_LIMIT, || is_full(&broker)));
    let (large, kept) = (topic_id(&cli, "large"), topic_id(&cli, "kept"));
    cli.ok(&["topic", "delete", "large"]);
    let gone = || !segments_in(&broker, &large);
    assert!(wait::until(NOTICE_LIMIT, gone), "{}", broker.log());
    broker.kill9();
    // Files that the log has done away with are no damage, any other that is missing is. The next checkpoint, a second later, names them
    // no more.
    let (code, said) = inspect(&broker.data(), &[]);
    assert_eq!(code, Some(0), "{said}");
    let named = said.contains(&format!("topic_id={large}"));
    assert_eq!(named, said.contains("removed=true"), "{said}");
    let folder = broker.data().join(format!("shard-0/partitions/{kept}-0"));
    let elsewhere = folder.with_extension("elsewhere");
    std::fs::rename(&folder, &elsewhere).expect("it is there");
    let (code, said) = inspect(&broker.data(), &[]);
    assert!(code == Some(1) && said.contains("DAMAGED"), "{said}");
    std::fs::rename(&elsewhere, &folder).expect("it was there");
    broker.restart();
    let records = kafka::read_all(&broker.kafka(), "small", 100);
    kafka::assert_dense("small", &records);
    assert_eq!(records.len(), 100);
}

/// Sets how many descriptors the running broker may have, as an operator can; returns what it was.
fn limit_descriptors(broker: &Broker, to: &str) -> String {
    let prlimit = |arguments: &[&str]| {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &broker.pid().to_string()]);
        let said = command
            .args(arguments)
            .output()
            .expect("util-linux is there");
        assert!(said.status.success(), "{said:?}");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    };
    let before = prlimit(&["--nofile", "--noheadings", "--output", "SOFT"]);
    prlimit(&[&format!("--nofile={to}:")]);
    before
}

/// The number that the next descriptor of the process gets.
fn lowest_free_descriptor(broker: &Broker) -> u32 {
    let folder = format!("/proc/{}/fd", broker.pid());
    let open = std::fs::read_dir(folder).expect("it runs");
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let open: std::collections::BTreeSet<u32> = numbers.collect();
    (0..).find(|n| !open.contains(n)).expect("there is one")
}

fn process_without_descriptors_left_waits_and_loses_nothing(engine: Engine) {
    const BATCHES: i64 = 60;
    let settings = "[storage]\nlog_file_size = '4 MiB'\nflush_interval = '100 ms'\n";
    let mut broker = Options::new(engine).shards(1).settings(settings).start();
    broker.expect_error("Too many open files");
    let cli = Cli::new(&broker);
    cli.create_topic("t", 1);
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    // Served once before there are none, so that the connection itself needs nothing any more.
    let mut produce = move |offset: i64| {
        let batch = raw::batch(&[(b"k".as_slice(), &[7; 200_000])], raw::now_ms());
        let answer = connection.call(&raw::produce("t", 0, &batch));
        let produced = raw::produced(&answer.expect("it answers"), "t");
        assert_eq!(produced, Some((0, offset)));
    };
    produce(0);
    let before = limit_descriptors(&broker, &lowest_free_descriptor(&broker).to_string());
    let producing = std::thread::spawn(move || (1..BATCHES).for_each(produce));
    let short = || broker.log().contains("Too many open files");
    assert!(wait::until(NOTICE_LIMIT, short), "{}", broker.log());
    // Some rounds of trying again, whatever is tried.
    let tries = |broker: &Broker| broker.log().matches("Too many open files").count();
    let first = tries(&broker);
    assert!(wait::until(NOTICE_LIMIT, || tries(&broker) >= first + 2
        || producing.is_finished()));
    assert!(broker.running(), "{}", broker.log());
    limit_descriptors(&broker, &before);
    producing.join().expect("everything was taken");
    assert_eq!(end_of(&broker, "t"), BATCHES);
    assert!(wait::until(NOTICE_LIMIT, || broker.healthy()));
    broker.kill9();
    broker.restart();
    assert_eq!(end_of(&broker, "t"), BATCHES);
    for offset in 0..BATCHES {
        assert_readable(&broker, "t", offset);
    }
}

fn s10_failed_sync_ends_the_process_with_a_message_and_a_status_of_its_own(engine: Engine) {
    let folder = TestFolder::new("syncs");
    let trigger = folder.path().join("fail");
    let env = failing_syncs(folder.path(), &trigger);
    let mut broker = Options::new(engine).shards(1).env(env).start();
    broker.expect_error("cannot sync");
    broker.expect_error("flush failed for good");
    broker.expect_error("the write-ahead log failed");
    Cli::new(&broker).create_topic("t", 1);
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    let value = vec![7; 900_000];
    let batch = raw::batch(&[(b"k".as_slice(), &value)], raw::now_ms());
    let answer = connection
        .call(&raw::produce("t", 0, &batch))
        .expect("it answers");
    assert_eq!(raw::produced(&answer, "t"), Some((0, 0)));
    std::fs::write(&trigger, "").expect("it can be made");
    // On epoll the sync of the log fails at once. On io_uring that one goes past libc, and the first sync of a segment fails.
    let mut acknowledged = 1;
    for _ in 0..30 {
        match connection.call(&raw::produce("t", 0, &batch)) {
            Ok(answer) => {
                let expected = Some((0, acknowledged));
                assert_eq!(raw::produced(&answer, "t"), expected);
                acknowledged += 1;
            }
            Err(_) => break,
        }
    }
    let status = broker.ended();
    assert_eq!(status.code(), Some(DISK_FAILED), "{status:?}");
    let log = broker.log();
    assert!(
        log.contains("the disk failed") && log.contains("cannot sync"),
        "{log}"
    );
    std::fs::remove_file(&trigger).expect("it was made");
    broker.restart();
    for offset in 0..acknowledged {
        assert_readable(&broker, "t", offset);
    }
}
