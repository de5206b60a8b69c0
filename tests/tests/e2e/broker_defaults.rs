//! The broker's settings for topics: what a topic has that sets nothing itself.

use std::time::Duration;

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, on_both_engines, wait};

use crate::messages::{Messages, text};

on_both_engines!(
    topics_without_values_of_their_own_follow_the_brokers_settings,
    brokers_retention_removes_records_of_topics_that_set_none,
);

const LIMIT: Duration = Duration::from_secs(60);
/// Kafka's code of a batch that is too large.
const MESSAGE_TOO_LARGE: i16 = 10;
/// Kafka's types of resources.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

fn produce(broker: &Broker, topic: &str, value: &[u8], timestamp_ms: i64) -> i16 {
    let mut connection = Connection::open(&broker.kafka()).expect("it listens");
    let batch = raw::batch(&[(b"k".as_slice(), value)], timestamp_ms);
    let answer = connection.call(&raw::produce(topic, 0, &batch));
    raw::produced(&answer.expect("it answers"), topic)
        .expect("it is an answer")
        .0
}

/// Value and source of a setting, and name and source of each synonym.
type Told = (String, i8, Vec<(String, i8)>);

fn told(broker: &Broker, resource: (i8, &str), key: &str) -> Told {
    let asked = DescribeConfigsResource::default()
        .with_resource_type(resource.0)
        .with_resource_name(text(resource.1))
        .with_configuration_keys(Some(vec![text(key)]));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![asked])
        .with_include_synonyms(true);
    let mut answer = Messages::open(&broker.kafka()).call(4, &request);
    let config = answer.results.remove(0).configs.remove(0);
    let synonyms = config.synonyms.iter();
    (
        config.value.expect("it has one").to_string(),
        config.config_source,
        synonyms.map(|s| (s.name.to_string(), s.source)).collect(),
    )
}

fn names(of: &[(&str, i8)]) -> Vec<(String, i8)> {
    of.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect()
}

fn topics_without_values_of_their_own_follow_the_brokers_settings(engine: Engine) {
    const LARGEST: &str = "max.message.bytes";
    let mut broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.ok(&["topic", "create", "t"]);
    cli.ok(&[
        "topic",
        "create",
        "own",
        "--config",
        "max.message.bytes=900",
    ]);
    let (large, now) = ([7; 600], raw::now_ms());
    assert_eq!(produce(&broker, "t", &large, now), 0);
    let built_in = names(&[("message.max.bytes", 5)]);
    assert_eq!(
        told(&broker, (TOPIC, "t"), LARGEST),
        ("1048588".to_owned(), 5, built_in)
    );
    // What exists follows, too, from the next start on.
    broker.set_settings("[topics]\nmessage_size_max = '500 B'\nretention = 'forever'\n");
    assert!(broker.stop().success());
    broker.restart();
    assert_eq!(produce(&broker, "t", &large, now), MESSAGE_TOO_LARGE);
    assert_eq!(produce(&broker, "own", &large, now), 0);
    let given = [("message.max.bytes", 4), ("message.max.bytes", 5)];
    assert_eq!(
        told(&broker, (TOPIC, "t"), LARGEST),
        ("500".to_owned(), 4, names(&given))
    );
    let own = [&[(LARGEST, 1)], &given[..]].concat();
    assert_eq!(
        told(&broker, (TOPIC, "own"), LARGEST),
        ("900".to_owned(), 1, names(&own))
    );
    let retention = told(&broker, (TOPIC, "t"), "retention.ms");
    assert_eq!((retention.0.as_str(), retention.1), ("-1", 4));
    let named = told(&broker, (BROKER, "1"), "message.max.bytes");
    assert_eq!(
        (named.0, named.1, named.2),
        ("500".to_owned(), 4, names(&given))
    );
    let named = told(&broker, (BROKER, "1"), "log.segment.bytes");
    assert_eq!((named.0.as_str(), named.1), ("1073741824", 5));
    let described = Cli::new(&broker).json(&["topic", "describe", "t"]);
    assert_eq!(described["configs"][LARGEST], "500");
}

/// First offset of the topic's only partition, and the offset after its last record.
fn bounds(broker: &Broker, topic: &str) -> (i64, i64) {
    let described = Cli::new(broker).json(&["topic", "describe", topic]);
    let partition = &described["partitions"][0];
    let number = |field: &str| partition[field].as_i64().expect("a number");
    (number("log_start_offset"), number("high_watermark"))
}

fn brokers_retention_removes_records_of_topics_that_set_none(engine: Engine) {
    let settings =
        "[topics]\nretention = '1 h'\nretention_interval = '100 ms'\nsegment_size = '1 MiB'\n";
    let broker = Options::new(engine).settings(settings).start();
    let cli = Cli::new(&broker);
    cli.ok(&["topic", "create", "t"]);
    cli.ok(&["topic", "create", "own", "--config", "retention.ms=-1"]);
    let (value, now) = (vec![7; 250_000], raw::now_ms());
    let fill = |count: usize, timestamp: i64| {
        for topic in ["t", "own"] {
            for _ in 0..count {
                assert_eq!(produce(&broker, topic, &value, timestamp), 0);
            }
        }
    };
    fill(8, now - 4_000_000);
    let removed = wait::until(LIMIT, || bounds(&broker, "t") == (8, 8));
    assert!(removed, "{:?}", bounds(&broker, "t"));
    fill(4, now);
    assert_eq!(bounds(&broker, "t"), (8, 12));
    assert_eq!(bounds(&broker, "own"), (0, 12));
}
