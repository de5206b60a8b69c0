//! What admin clients and tools ask for: more partitions, settings, the cluster, the disk, epochs.

use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, BrokerId, CreatePartitionsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeLogDirsRequest, DescribeProducersRequest,
    DescribeTopicPartitionsRequest, ElectLeadersRequest, IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest, ListPartitionReassignmentsRequest, OffsetForLeaderEpochRequest,
    TopicName, alter_configs_request, describe_producers_request, elect_leaders_request,
};
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, modules, on_both_engines, wait};

use crate::kafka::Load;
use crate::messages::{Messages, text};

on_both_engines!(
    added_partitions_take_records_at_once_and_outlive_a_kill,
    x1_partitions_added_to_an_input_begin_at_0,
    changed_settings_act_at_once_and_outlive_a_kill,
    cluster_disk_epochs_and_pages_are_told,
    mistyped_topic_is_not_made,
);

const LIMIT: Duration = Duration::from_secs(60);

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

fn growth(topic: &str, count: i32) -> CreatePartitionsTopic {
    CreatePartitionsTopic::default()
        .with_name(name(topic))
        .with_count(count)
        .with_assignments(None)
}

/// Error codes of a CreatePartitions, by its topics; each has a reason.
fn grow(messages: &mut Messages, topics: Vec<CreatePartitionsTopic>, validate: bool) -> Vec<i16> {
    let request = CreatePartitionsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(30_000)
        .with_validate_only(validate);
    let results = messages.call(3, &request).results;
    let explained =
        |r: &kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult| {
            (r.error_code == 0) == r.error_message.is_none()
        };
    assert!(results.iter().all(explained), "{results:?}");
    results.iter().map(|r| r.error_code).collect()
}

fn partitions(cli: &Cli, topic: &str) -> usize {
    let described = cli.json(&["topic", "describe", topic]);
    described["partitions"].as_array().map_or(0, Vec::len)
}

fn produce(broker: &Broker, topic: &str, partition: i32, value: &[u8]) -> (i16, i64) {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let batch = raw::batch(&[(b"k", value)], raw::now_ms());
    let answer = connection.call(&raw::produce(topic, partition, &batch));
    raw::produced(&answer.expect("produce is answered"), topic).expect("a produce answer")
}

fn added_partitions_take_records_at_once_and_outlive_a_kill(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("t", 2);
    let mut messages = Messages::open(&broker.kafka());
    let assigned = |count: i32, node: i32, assignments: usize| {
        let to = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(node)]);
        growth("t", count).with_assignments(Some(vec![to; assignments]))
    };
    // Kafka's codes: 37 partitions, 39 assignment, 42 request, 3 unknown, 17 the broker's own topic.
    let refused = [
        (growth("t", 2), 37),
        (growth("t", 1), 37),
        (growth("t", 0), 37),
        (growth("t", 1_000_000), 37),
        (growth("nowhere", 3), 3),
        (growth("__consumer_offsets", 90), 17),
        (assigned(5, 1, 2), 39),
        (assigned(5, 9, 3), 39),
        (assigned(2, 1, 0), 37),
    ];
    for (topic, code) in refused {
        assert_eq!(
            grow(&mut messages, vec![topic.clone()], false),
            [code],
            "{topic:?}"
        );
    }
    let twice = vec![growth("t", 5), growth("t", 6)];
    assert_eq!(grow(&mut messages, twice, false), [42]);
    assert_eq!(grow(&mut messages, vec![growth("t", 5)], true), [0]);
    assert_eq!(partitions(&cli, "t"), 2, "nothing of that changed anything");
    assert_eq!(grow(&mut messages, vec![assigned(5, 1, 3)], false), [0]);
    for partition in 2..5 {
        assert_eq!(produce(&broker, "t", partition, b"v"), (0, 0));
    }
    broker.kill9();
    broker.restart();
    assert_eq!(partitions(&cli, "t"), 5);
    assert_eq!(produce(&broker, "t", 4, b"v"), (0, 1));
}

fn records_in(cli: &Cli, topic: &str) -> i64 {
    let described = cli.json(&["topic", "describe", topic]);
    let partitions = described["partitions"].as_array().expect("partitions");
    partitions
        .iter()
        .filter_map(|p| p["high_watermark"].as_i64())
        .sum()
}

fn x1_partitions_added_to_an_input_begin_at_0(engine: Engine) {
    let mut broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    assert_eq!(produce(&broker, "in", 0, b"before the deploy").0, 0);
    let module = modules::mask();
    let module = module.to_string_lossy();
    cli.ok(&[
        "deploy", "--module", &module, "--name", "mask", "--input", "in", "--output", "out",
        "--from", "latest",
    ]);
    // What is written to new partitions while the transform stands still is read when it goes on.
    cli.ok(&["pause", "mask"]);
    let mut messages = Messages::open(&broker.kafka());
    assert_eq!(grow(&mut messages, vec![growth("in", 5)], false), [0]);
    for partition in 1..5 {
        assert_eq!(
            produce(&broker, "in", partition, b"{\"email\":\"a@b\"}"),
            (0, 0)
        );
    }
    broker.kill9();
    broker.restart();
    cli.ok(&["resume", "mask"]);
    let all = wait::until(LIMIT, || records_in(&cli, "out") == 4);
    assert!(all, "{} of 4 records came out", records_in(&cli, "out"));
    let described = cli.ok(&["describe", "mask"]);
    assert!(described.contains("modulo 2"), "{described}");
    // A topic that grows with its input gets one partition for each again.
    let mut messages = Messages::open(&broker.kafka());
    assert_eq!(grow(&mut messages, vec![growth("out", 5)], false), [0]);
    assert_eq!(produce(&broker, "in", 4, b"{\"email\":\"a@b\"}").0, 0);
    let beside = || {
        let described = cli.json(&["topic", "describe", "out"]);
        described["partitions"][4]["high_watermark"] == 1
    };
    assert!(
        wait::until(LIMIT, beside),
        "{}",
        cli.json(&["topic", "describe", "out"])
    );
    let described = cli.ok(&["describe", "mask"]);
    assert!(!described.contains("modulo"), "{described}");
}

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;

fn resource(kind: i8, of: &str, configs: &[(&str, i8, Option<&str>)]) -> AlterConfigsResource {
    let config = |(name, op, value): &(&str, i8, Option<&str>)| {
        AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(*op)
            .with_value(value.map(text))
    };
    AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(of))
        .with_configs(configs.iter().map(config).collect())
}

fn alter(messages: &mut Messages, resources: Vec<AlterConfigsResource>) -> Vec<i16> {
    let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
    let responses = messages.call(1, &request).responses;
    responses.iter().map(|r| r.error_code).collect()
}

fn setting(messages: &mut Messages, topic: &str, of: &str) -> DescribeConfigsResourceResult {
    let asked = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(topic))
        .with_configuration_keys(Some(vec![text(of)]));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![asked])
        .with_include_synonyms(true);
    let mut answer = messages.call(4, &request);
    answer.results.remove(0).configs.remove(0)
}

fn changed_settings_act_at_once_and_outlive_a_kill(engine: Engine) {
    const LARGEST: &str = "max.message.bytes";
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("t", 3);
    let mut messages = Messages::open(&broker.kafka());
    let (small, large) = (vec![b'a'; 100], vec![b'a'; 1_000]);
    assert_eq!(produce(&broker, "t", 2, &large).0, 0);
    let set = resource(2, "t", &[(LARGEST, SET, Some("500"))]);
    let check = IncrementalAlterConfigsRequest::default()
        .with_resources(vec![set.clone()])
        .with_validate_only(true);
    assert_eq!(messages.call(1, &check).responses[0].error_code, 0);
    assert_eq!(setting(&mut messages, "t", LARGEST).config_source, 5);
    assert_eq!(alter(&mut messages, vec![set]), [0]);
    for restarted in [false, true] {
        if restarted {
            broker.kill9();
            broker.restart();
            messages = Messages::open(&broker.kafka());
        }
        for partition in 0..3 {
            assert_eq!(produce(&broker, "t", partition, &large).0, 10, "too large");
            assert_eq!(produce(&broker, "t", partition, &small).0, 0);
        }
        let told = setting(&mut messages, "t", LARGEST);
        assert_eq!(
            (told.value.as_deref(), told.config_source),
            (Some("500"), 1)
        );
        let synonyms: Vec<_> = told.synonyms.iter().map(|s| (&*s.name, s.source)).collect();
        assert_eq!(synonyms, [(LARGEST, 1), ("message.max.bytes", 5)]);
    }
    refused_settings(&mut messages);
    assert_eq!(
        alter(
            &mut messages,
            vec![resource(2, "t", &[(LARGEST, DELETE, None)])]
        ),
        [0]
    );
    assert_eq!(setting(&mut messages, "t", LARGEST).config_source, 5);
    assert_eq!(produce(&broker, "t", 1, &large).0, 0);
    replaced_settings(&mut messages);
}

/// Nothing of this changes anything.
fn refused_settings(messages: &mut Messages) {
    // Kafka's codes: 40 config, 42 request, 3 unknown topic.
    let refused = [
        (resource(2, "t", &[("no.such", SET, Some("1"))]), 40),
        (
            resource(2, "t", &[("max.message.bytes", SET, Some("-7"))]),
            40,
        ),
        (
            resource(2, "t", &[("max.message.bytes", APPEND, Some("7"))]),
            40,
        ),
        (resource(2, "t", &[("max.message.bytes", SET, None)]), 42),
        (resource(2, "t", &[("max.message.bytes", 9, Some("7"))]), 42),
        (
            resource(
                2,
                "t",
                &[
                    ("retention.ms", SET, Some("7")),
                    ("retention.ms", DELETE, None),
                ],
            ),
            42,
        ),
        (
            resource(2, "nowhere", &[("retention.ms", SET, Some("7"))]),
            3,
        ),
        (resource(4, "1", &[("num.partitions", SET, Some("7"))]), 42),
        (resource(4, "", &[("num.partitions", SET, Some("7"))]), 42),
        (resource(16, "x", &[]), 42),
    ];
    for (resource, code) in refused {
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let response = messages.call(1, &request).responses.remove(0);
        assert_eq!(response.error_code, code, "{request:?}");
        assert!(
            response.error_message.is_some_and(|m| m.len() > 10),
            "{request:?}"
        );
    }
    let once = resource(2, "t", &[("max.message.bytes", SET, Some("600"))]);
    assert_eq!(alter(messages, vec![once.clone(), once]), [42]);
    let told = setting(messages, "t", "max.message.bytes");
    assert_eq!(told.value.as_deref(), Some("500"));
}

/// AlterConfigs leaves nothing that it does not name.
fn replaced_settings(messages: &mut Messages) {
    let set = resource(2, "t", &[("segment.bytes", SET, Some("2000000"))]);
    assert_eq!(alter(messages, vec![set]), [0]);
    let config = alter_configs_request::AlterableConfig::default()
        .with_name(text("max.message.bytes"))
        .with_value(Some(text("700")));
    let resource = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configs(vec![config]);
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(messages.call(2, &request).responses[0].error_code, 0);
    assert_eq!(setting(messages, "t", "segment.bytes").config_source, 5);
    let told = setting(messages, "t", "max.message.bytes");
    assert_eq!(told.value.as_deref(), Some("700"));
}

fn cluster_disk_epochs_and_pages_are_told(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("a", 3);
    cli.create_topic("b", 2);
    let mut load = Load::new(&broker.kafka(), &[]);
    (0..100).for_each(|_| assert!(load.produce("a")));
    assert_eq!(load.finish().acknowledged.len(), 100);
    let mut messages = Messages::open(&broker.kafka());
    cluster(&mut messages);
    let before = disk(&mut messages);
    pages(&mut messages);
    elections(&mut messages);
    let producers = producers(&mut messages);
    assert_eq!(producers, 1, "one idempotent producer wrote");
    let first = epochs(&mut messages, -1);
    broker.kill9();
    broker.restart();
    let mut messages = Messages::open(&broker.kafka());
    assert_eq!(disk(&mut messages), before);
    let second = epochs(&mut messages, first.0);
    assert!(second.0 > first.0, "a leader of a new term has a new epoch");
    assert_eq!(second.1, first.1, "nothing of the first epoch went away");
}

fn cluster(messages: &mut Messages) {
    for version in 0..=2 {
        let request = DescribeClusterRequest::default();
        let answer = messages.call(version, &request);
        assert_eq!((answer.error_code, answer.brokers.len()), (0, 1));
        assert_eq!(answer.controller_id, answer.brokers[0].broker_id);
        assert!(!answer.cluster_id.is_empty());
    }
    let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
    assert_eq!(messages.call(1, &controllers).error_code, 114);
    let all = messages.call(1, &ListConfigResourcesRequest::default());
    let topics = all.config_resources.iter().filter(|r| r.resource_type == 2);
    assert_eq!(topics.count(), 2);
    let none = messages.call(0, &ListConfigResourcesRequest::default());
    assert!(none.config_resources.is_empty());
    let unknown = ListConfigResourcesRequest::default().with_resource_types(vec![3]);
    assert_eq!(messages.call(1, &unknown).error_code, 35);
    let request = ListPartitionReassignmentsRequest::default().with_topics(None);
    assert!(messages.call(0, &request).topics.is_empty());
}

/// Bytes of topic a on disk.
fn disk(messages: &mut Messages) -> i64 {
    let all = DescribeLogDirsRequest::default().with_topics(None);
    let mut bytes = 0;
    for version in 1..=4 {
        let answer = messages.call(version, &all);
        let dir = &answer.results[0];
        assert_eq!((answer.error_code, dir.error_code), (0, 0));
        let partitions = dir.topics.iter().map(|t| t.partitions.len()).sum::<usize>();
        assert_eq!((dir.topics.len(), partitions), (2, 5));
        bytes = dir.topics[0]
            .partitions
            .iter()
            .map(|p| p.partition_size)
            .sum();
        assert!(bytes > 100 * 50, "{bytes} bytes of 100 records");
        if version >= 4 {
            assert!(dir.usable_bytes > 0 && dir.total_bytes > dir.usable_bytes);
        }
    }
    bytes
}

fn pages(messages: &mut Messages) {
    let named = |topic: &str| TopicRequest::default().with_name(name(topic));
    let mut request = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![named("b"), named("nowhere"), named("a")])
        .with_response_partition_limit(2);
    let mut seen = Vec::new();
    loop {
        let answer = messages.call(0, &request);
        for topic in answer.topics {
            let topic_name = topic.name.map(|n| n.to_string()).unwrap_or_default();
            if topic.error_code != 0 {
                seen.push((topic_name, -i32::from(topic.error_code)));
                continue;
            }
            assert!(
                topic
                    .partitions
                    .iter()
                    .all(|p| p.error_code == 0 && p.leader_id.0 == 1)
            );
            let indices = topic.partitions.iter().map(|p| p.partition_index);
            seen.extend(indices.map(|i| (topic_name.clone(), i)));
        }
        let Some(next) = answer.next_cursor else {
            break;
        };
        request.cursor = Some(
            Cursor::default()
                .with_topic_name(next.topic_name)
                .with_partition_index(next.partition_index),
        );
    }
    let at = |topic: &str, index| (topic.to_owned(), index);
    let all = [
        at("a", 0),
        at("a", 1),
        at("a", 2),
        at("b", 0),
        at("b", 1),
        at("nowhere", -3),
    ];
    assert_eq!(seen, all);
    let everything = DescribeTopicPartitionsRequest::default().with_response_partition_limit(2_000);
    assert_eq!(messages.call(0, &everything).topics.len(), 2);
}

fn elections(messages: &mut Messages) {
    let topic = elect_leaders_request::TopicPartitions::default()
        .with_topic(name("a"))
        .with_partitions(vec![0, 7]);
    let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic]));
    let answer = messages.call(2, &request);
    let results = &answer.replica_election_results[0].partition_result;
    let codes: Vec<i16> = results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [84, 3]);
    let all = ElectLeadersRequest::default().with_topic_partitions(None);
    let answer = messages.call(2, &all);
    assert_eq!(
        (answer.error_code, answer.replica_election_results.len()),
        (0, 0)
    );
}

/// Producers that topic a remembers.
fn producers(messages: &mut Messages) -> usize {
    let topic = describe_producers_request::TopicRequest::default()
        .with_name(name("a"))
        .with_partition_indexes(vec![0, 1, 2, 9]);
    let request = DescribeProducersRequest::default().with_topics(vec![topic]);
    let partitions = messages.call(0, &request).topics.remove(0).partitions;
    let codes: Vec<i16> = partitions.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [0, 0, 0, 3]);
    let ids = partitions.iter().flat_map(|p| &p.active_producers);
    let ids: std::collections::BTreeSet<i64> = ids.map(|p| p.producer_id.0).collect();
    ids.len()
}

/// The epoch that a/0 is in, and the end of `epoch` (or of that one, when it is -1).
fn epochs(messages: &mut Messages, epoch: i32) -> (i32, i64) {
    let named = TopicRequest::default().with_name(name("a"));
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![named])
        .with_response_partition_limit(10);
    let now = messages.call(0, &request).topics[0].partitions[0].leader_epoch;
    let ask = |messages: &mut Messages, partition, known, epoch| {
        let partition = OffsetForLeaderPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(known)
            .with_leader_epoch(epoch);
        let topic = OffsetForLeaderTopic::default()
            .with_topic(name("a"))
            .with_partitions(vec![partition]);
        let request = OffsetForLeaderEpochRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topic]);
        let mut answer = messages.call(4, &request);
        let found = answer.topics.remove(0).partitions.remove(0);
        (found.error_code, found.leader_epoch, found.end_offset)
    };
    assert_eq!(
        ask(messages, 0, now + 1, now),
        (75, -1, -1),
        "an epoch to come"
    );
    assert_eq!(
        ask(messages, 0, now - 1, now),
        (74, -1, -1),
        "an epoch gone by"
    );
    assert_eq!(ask(messages, 9, -1, now), (3, -1, -1));
    assert_eq!(ask(messages, 0, -1, now + 1), (0, -1, -1));
    let asked = if epoch < 0 { now } else { epoch };
    let (code, found, end) = ask(messages, 0, now, asked);
    assert_eq!((code, found), (0, asked));
    (now, end)
}

fn mistyped_topic_is_not_made(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    let refused = cli.run_with_input(&["produce", "tpyo"], "a\n");
    assert!(
        !refused.ok && refused.text().contains("topic create tpyo"),
        "{}",
        refused.text()
    );
    assert!(!cli.ok(&["topic", "list"]).contains("tpyo"));
}
