//! librdkafka as the tests use it: an idempotent producer that counts, a reader of whole topics.

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{DeliveryResult, Headers, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::util::Timeout;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the producer was told of its records.
#[derive(Debug, Default, Clone)]
pub(crate) struct Reports {
    pub(crate) acknowledged: BTreeSet<String>,
    pub(crate) failed: Vec<String>,
}

#[derive(Clone, Default)]
struct Collecting(Arc<Mutex<Reports>>);

impl ClientContext for Collecting {
    fn log(&self, _level: rdkafka::config::RDKafkaLogLevel, _facility: &str, _message: &str) {
        // A killed broker makes librdkafka complain of lost connections; the reports are what counts.
    }

    fn error(&self, _error: rdkafka::error::KafkaError, _reason: &str) {}
}

impl ProducerContext for Collecting {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                reports.acknowledged.insert(text(message.key()));
            }
            Err((error, _)) => reports.failed.push(error.to_string()),
        }
    }
}

/// An idempotent producer with `acks=all`.
pub(crate) struct Load {
    producer: ThreadedProducer<Collecting>,
    reports: Collecting,
    next: u64,
}

impl Load {
    pub(crate) fn new(kafka: &str, settings: &[(&str, &str)]) -> Load {
        let reports = Collecting::default();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", kafka)
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .set("message.timeout.ms", "120000")
            .set("retry.backoff.ms", "20")
            .set("reconnect.backoff.ms", "10")
            .set("reconnect.backoff.max.ms", "100");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer = config
            .create_with_context(reports.clone())
            .expect("a producer can be made");
        Load {
            producer,
            reports,
            next: 0,
        }
    }

    /// Queues the next record of the running number: key `n`, a JSON value with an `email`.
    /// A full queue (the broker is down) is left as it is.
    pub(crate) fn produce(&mut self, topic: &str) -> bool {
        let key = self.next.to_string();
        let value = format!(r#"{{"id":{key},"email":"somebody{key}@example.com","country":"DE"}}"#);
        let queued = self.send(topic, &key, value.as_bytes());
        self.next += u64::from(queued);
        queued
    }

    /// Queues a record; a full queue is left as it is.
    pub(crate) fn send(&self, topic: &str, key: &str, value: &[u8]) -> bool {
        let record = BaseRecord::to(topic).key(key).payload(value);
        self.producer.send(record).is_ok()
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.reports
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .acknowledged
            .len()
    }

    /// Waits for everything that was queued; what became of it.
    pub(crate) fn finish(self) -> Reports {
        self.producer
            .flush(Timeout::After(Duration::from_secs(60)))
            .expect("everything queued is acknowledged");
        let reports = self
            .reports
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        reports.clone()
    }
}

/// One record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: usize,
}

impl Seen {
    /// Whether its value has `word` in it.
    pub(crate) fn says(&self, word: &str) -> bool {
        String::from_utf8_lossy(&self.value).contains(word)
    }
}

/// Reads a whole topic from its beginning: until `want` records came and every partition is at its end.
pub(crate) fn read_all(kafka: &str, topic: &str, want: usize) -> Vec<Seen> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "50")
        .create()
        .expect("a consumer can be made");
    let partitions = partitions(&consumer, topic);
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        assignment
            .add_partition_offset(topic, *partition, Offset::Beginning)
            .expect("an offset can be set");
    }
    consumer
        .assign(&assignment)
        .expect("partitions can be assigned");
    let mut seen = Vec::new();
    let mut at_end = BTreeSet::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline && (seen.len() < want || at_end.len() < partitions.len()) {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                at_end.remove(&message.partition());
                seen.push(seen_of(&message));
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                at_end.insert(partition);
            }
            Some(Err(error)) => panic!("consuming {topic}: {error}"),
            None => {}
        }
    }
    seen
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    let metadata = consumer
        .fetch_metadata(Some(topic), Duration::from_secs(30))
        .expect("metadata can be fetched");
    let found = metadata
        .topics()
        .iter()
        .find(|found| found.name() == topic)
        .expect("the topic is there");
    found
        .partitions()
        .iter()
        .map(rdkafka::metadata::MetadataPartition::id)
        .collect()
}

fn seen_of(message: &impl Message) -> Seen {
    Seen {
        partition: message.partition(),
        offset: message.offset(),
        key: text(message.key()),
        value: message.payload().unwrap_or_default().to_vec(),
        headers: message.headers().map_or(0, Headers::count),
    }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

/// Counts records by key.
pub(crate) fn by_key(records: &[Seen]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.key.as_str()).or_default() += 1;
    }
    counts
}

/// Every partition's offsets are 0, 1, 2, ... in the order read.
pub(crate) fn assert_dense(topic: &str, records: &[Seen]) {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for record in records {
        let expected = next.entry(record.partition).or_default();
        assert_eq!(
            record.offset, *expected,
            "{topic}-{}: offsets have a hole or go back",
            record.partition
        );
        *expected += 1;
    }
}
