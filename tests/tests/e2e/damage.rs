//! Segments that somebody or something has damaged: what is whole around it is served, and it is told.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection, Fetched};
use tidemill_tests::{Broker, Engine, Options, on_both_engines, wait};

use crate::operations::inspect;

on_both_engines!(
    damaged_batch_hides_no_other_records,
    partition_whose_folder_is_lost_is_set_aside_until_it_can_be_written_again,
    damaged_commit_closes_no_groups_and_later_ones_count,
);

/// `KAFKA_STORAGE_ERROR`.
const STORAGE_ERROR: i16 = 56;
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest segment of the node.
fn largest_segment(broker: &Broker) -> PathBuf {
    let partitions = broker.data().join("shard-0/partitions");
    let folders = std::fs::read_dir(partitions).expect("it is there");
    let files = folders.flat_map(|folder| {
        let folder = folder.expect("it is readable").path();
        std::fs::read_dir(folder).expect("it is a folder")
    });
    let paths = files.map(|file| file.expect("it is readable").path());
    let segments = paths.filter(|p| p.extension().is_some_and(|e| e == "segment"));
    let len = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
    segments.max_by_key(len).expect("there is one")
}

/// Inverts a byte of the largest segment while the broker is stopped; `place` finds it by the length of the file.
fn damage(broker: &mut Broker, place: impl Fn(usize) -> usize) {
    assert!(broker.stop().success());
    let path = largest_segment(broker);
    let mut bytes = std::fs::read(&path).expect("it is readable");
    let at = place(bytes.len());
    bytes[at] ^= 0xff;
    std::fs::write(&path, bytes).expect("it can be written");
    broker.restart();
}

fn fetch(broker: &Broker, offset: i64) -> Fetched {
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    let answer = connection.call(&raw::fetch("t", 0, offset, 0, 1 << 20));
    raw::fetched(&answer.expect("it answers")).expect("it is an answer")
}

fn damaged_batch_hides_no_other_records(engine: Engine) {
    let mut broker = Options::new(engine).shards(1).start();
    broker.expect_error("acknowledged records cannot be read");
    Cli::new(&broker).create_topic("t", 1);
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    for offset in 0..40 {
        let batch = raw::batch(&[(b"k".as_slice(), &[7; 10_000])], raw::now_ms());
        let answer = connection.call(&raw::produce("t", 0, &batch));
        let produced = raw::produced(&answer.expect("it answers"), "t");
        assert_eq!(produced, Some((0, offset)));
    }
    drop(connection);
    // In the middle of the batch with offset 20.
    damage(&mut broker, |len| len / 40 * 20 + len / 80);
    let offsets = |fetched: &Fetched| {
        let batches = fetched.batches.iter();
        batches.map(|b| b.base_offset).collect::<Vec<_>>()
    };
    let before = fetch(&broker, 0);
    assert_eq!(before.error, 0);
    assert_eq!(offsets(&before), (0..20).collect::<Vec<_>>());
    assert_eq!(fetch(&broker, 20).error, STORAGE_ERROR);
    let behind = fetch(&broker, 21);
    assert_eq!(behind.error, 0);
    assert_eq!(offsets(&behind), (21..40).collect::<Vec<_>>());
    assert!(broker.metric("tidemill_segment_damage_total", "") >= 1.0);
}

fn produce(broker: &Broker, topic: &str) -> i16 {
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    let batch = raw::batch(&[(b"k".as_slice(), &[7; 200_000])], raw::now_ms());
    let answer = connection.call(&raw::produce(topic, 0, &batch));
    raw::produced(&answer.expect("it answers"), topic)
        .expect("it is an answer")
        .0
}

/// High watermark of partition 0.
fn end_of(cli: &Cli, topic: &str) -> i64 {
    let described = cli.json(&["topic", "describe", topic]);
    let end = described["partitions"][0]["high_watermark"].as_i64();
    end.expect("it has one")
}

/// A file stands where the folder of a partition must be: root may do anything else to folders.
fn partition_whose_folder_is_lost_is_set_aside_until_it_can_be_written_again(engine: Engine) {
    const ASIDE: &str = "tidemill_partitions_set_aside";
    let settings = "[storage]\nflush_interval = '100 ms'\n";
    let mut broker = Options::new(engine).shards(1).settings(settings).start();
    broker.expect_error("the partition cannot be written");
    let cli = Cli::new(&broker);
    cli.create_topic("t", 1);
    cli.create_topic("other", 1);
    let described = cli.json(&["topic", "describe", "t"]);
    let id = described["id"].as_str().expect("a topic has one");
    let folder = broker.data().join(format!("shard-0/partitions/{id}-0"));
    std::fs::create_dir_all(folder.parent().expect("it has one")).expect("it can be made");
    std::fs::write(&folder, "in the way").expect("nothing is there yet");
    assert_eq!(produce(&broker, "t"), 0);
    assert!(wait::until(PATIENCE, || broker.metric(ASIDE, "") == 1.0));
    assert_eq!(produce(&broker, "t"), STORAGE_ERROR);
    for offset in 1..=20 {
        assert_eq!(produce(&broker, "other"), 0);
        assert_eq!(end_of(&cli, "other"), offset);
    }
    assert_eq!(fetch(&broker, 0).error, 0, "what it has taken is served");
    assert!(broker.stop().success());
    let (code, said) = inspect(&broker.data(), &[]);
    assert!(code == Some(1) && said.contains("set aside"), "{said}");
    broker.restart();
    assert_eq!(fetch(&broker, 0).error, 0, "what it has taken is there");
    std::fs::remove_file(&folder).expect("it is there");
    // With the next flush, for which there must be something new.
    let again = || produce(&broker, "other") == 0 && produce(&broker, "t") == 0;
    assert!(wait::until(PATIENCE, again), "{}", broker.log());
    assert!(wait::until(PATIENCE, || broker.metric(ASIDE, "") == 0.0));
    assert_eq!(fetch(&broker, 0).error, 0);
}

fn member(broker: &Broker, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", broker.kafka())
        .set("group.id", group)
        .set("enable.auto.commit", "false");
    config.create().expect("the settings are right")
}

/// Commits the offsets from 1 to `last` one after the other.
fn commit(broker: &Broker, group: &str, last: i64) {
    let member = member(broker, group);
    for offset in 1..=last {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Offset(offset))
            .expect("it is an offset");
        let mut of = list.find_partition("t", 0).expect("it was added");
        of.set_metadata("m".repeat(1_000));
        member.commit(&list, CommitMode::Sync).expect("it commits");
    }
}

fn committed(broker: &Broker, group: &str) -> Offset {
    let mut list = TopicPartitionList::new();
    list.add_partition("t", 0);
    let found = member(broker, group).committed_offsets(list, PATIENCE);
    let found = found.expect("the group answers");
    found.find_partition("t", 0).expect("asked for").offset()
}

fn damaged_commit_closes_no_groups_and_later_ones_count(engine: Engine) {
    let settings = "[groups]\noffsets_partitions = 1\n";
    let mut broker = Options::new(engine).shards(1).settings(settings).start();
    broker.expect_error("acknowledged records cannot be read");
    broker.expect_error("records of consumer groups cannot be read and are passed over");
    Cli::new(&broker).create_topic("t", 1);
    commit(&broker, "early", 1);
    commit(&broker, "long", 200);
    commit(&broker, "late", 3);
    damage(&mut broker, |len| len / 2);
    for (group, offset) in [("early", 1), ("long", 200), ("late", 3)] {
        assert_eq!(committed(&broker, group), Offset::Offset(offset), "{group}");
    }
    commit(&broker, "late", 5);
    assert_eq!(committed(&broker, "late"), Offset::Offset(5));
}
