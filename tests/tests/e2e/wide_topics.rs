//! Topics of so many partitions that what is said of them is made in pieces.

use std::collections::BTreeSet;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use serde_json::Value;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, on_both_engines};

use crate::messages::{Messages, text};

on_both_engines!(wide_topic_is_described_read_and_asked_for_by_many_as_a_small_one);

const PARTITIONS: u32 = 3_000;
/// Clients that ask at once.
const CLIENTS: usize = 8;

fn produce(broker: &Broker, partition: i32) {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let batch = raw::batch(&[(b"k", b"v")], raw::now_ms());
    let answer = connection.call(&raw::produce("wide", partition, &batch));
    let produced = raw::produced(&answer.expect("produce is answered"), "wide");
    assert_eq!(produced, Some((0, 0)));
}

fn get(broker: &Broker, path: &str) -> Value {
    let (status, body) = broker.get(path).expect("the broker answers");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Partitions of which records come, and how many positions are told to go on from.
fn read(broker: &Broker, query: &str) -> (BTreeSet<i64>, usize) {
    let read = get(broker, &format!("/v1/topics/wide/records?{query}"));
    let records = read["records"].as_array().expect("records");
    let partitions = records.iter().filter_map(|r| r["partition"].as_i64());
    let next = read["next"].as_object().expect("positions");
    (partitions.collect(), next.len())
}

fn wide_topic_is_described_read_and_asked_for_by_many_as_a_small_one(engine: Engine) {
    let broker = Broker::start(engine);
    Cli::new(&broker).create_topic("wide", PARTITIONS);
    let written = BTreeSet::from([0, 1_499, 2_999]);
    written.iter().for_each(|p| produce(&broker, *p as i32));
    let described = get(&broker, "/v1/topics/wide");
    let partitions = described["partitions"].as_array().expect("partitions");
    assert_eq!(partitions.len(), PARTITIONS as usize);
    for (i, partition) in (0..).zip(partitions) {
        assert_eq!(partition["index"], i);
        let records = i64::from(written.contains(&i));
        assert_eq!(partition["high_watermark"], records, "{partition}");
    }
    let all = PARTITIONS as usize;
    assert_eq!(read(&broker, "from=earliest"), (written, all));
    let beyond = read(&broker, "from=earliest&positions=1499:1,2999:7");
    assert_eq!(beyond, (BTreeSet::from([0]), all));
    assert_eq!(read(&broker, "from=latest&wait_ms=50").0, BTreeSet::new());
    asked_for_by_many(&broker);
}

fn asked_for_by_many(broker: &Broker) {
    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text("wide"))));
    let request = MetadataRequest::default().with_topics(Some(vec![topic]));
    let mut clients: Vec<Messages> = (0..CLIENTS)
        .map(|_| Messages::open(&broker.kafka()))
        .collect();
    for client in &mut clients {
        client.send_often(12, &request, 2);
    }
    for client in &mut clients {
        for _ in 0..2 {
            let answer = client.receive::<MetadataRequest>(12);
            let partitions = &answer.topics[0].partitions;
            assert_eq!(partitions.len(), PARTITIONS as usize);
            for (i, partition) in (0..).zip(partitions) {
                assert_eq!((partition.partition_index, partition.error_code), (i, 0));
                assert_eq!(partition.leader_id, answer.controller_id);
                assert!(partition.leader_epoch >= 0);
            }
        }
    }
}
