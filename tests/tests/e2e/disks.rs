//! Disks that are full and disks that fail: the node refuses writes and serves reads, goes on by itself when there is room (rule S11),
//! and ends with a clear message when a sync failed (rule S10).

use crate::kafka::{self, Load};
use std::time::Duration;
use tidemill_tests::cli::Cli;
use tidemill_tests::disk::failing_syncs;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, TestFolder, modules, on_both_engines, wait};

on_both_engines!(
    s11_full_disk_refuses_writes_serves_reads_and_goes_on_by_itself_after_a_deletion,
    s11_disk_that_others_fill_to_the_last_byte_ends_nothing_and_loses_nothing,
    s11_deletion_frees_a_disk_that_others_have_filled_to_the_last_byte,
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

fn s11_deletion_frees_a_disk_that_others_have_filled_to_the_last_byte(engine: Engine) {
    const RECORDS: i64 = 60;
    let mut broker = Options::new(engine)
        .shards(1)
        .disk_bytes(DISK_BYTES)
        .start();
    let cli = Cli::new(&broker);
    cli.create_topic("large", 1);
    cli.create_topic("small", 1);
    let mut load = Load::new(&broker.kafka(), &[]);
    (0..100).for_each(|_| assert!(load.produce("small")));
    assert_eq!(load.finish().acknowledged.len(), 100);
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    let value = vec![7; 900_000];
    for offset in 0..RECORDS {
        let batch = raw::batch(&[(b"k".as_slice(), &value)], raw::now_ms());
        let answer = connection.call(&raw::produce("large", 0, &batch));
        let produced = raw::produced(&answer.expect("it answers"), "large");
        assert_eq!(produced, Some((0, offset)));
    }
    let flushed = || metric(&broker, "tidemill_unflushed_bytes") == Some(0.0);
    assert!(wait::until(NOTICE_LIMIT, flushed), "{}", broker.log());

    let _foreign = broker.disk().expect("it has its own").fill();
    assert!(wait::until(NOTICE_LIMIT, || is_full(&broker)));
    cli.ok(&["topic", "delete", "large"]);
    let freed = || metric(&broker, "tidemill_disk_available_bytes") > Some(40e6);
    assert!(wait::until(NOTICE_LIMIT, freed), "{}", broker.log());
    broker.kill9();
    broker.restart();
    let records = kafka::read_all(&broker.kafka(), "small", 100);
    kafka::assert_dense("small", &records);
    assert_eq!(records.len(), 100);
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
