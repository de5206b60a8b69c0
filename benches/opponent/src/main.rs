//! What people write without transforms: a client that consumes a topic, masks each record and produces it to another
//! topic, on librdkafka, compiled. The masking is the same code as the transform's.
//!
//! Usage: `opponent BROKERS INPUT PARTITIONS OUTPUT RECORDS`. Ends when RECORDS records are acknowledged in OUTPUT;
//! its last line says how long that took and what CPU time it cost this process.

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext,
};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemill_sdk::{find_last, json};

/// Clock ticks in a second, as /proc counts CPU time on Linux.
const TICKS: f64 = 100.0;
const POLL: Duration = Duration::from_millis(100);

/// Counts deliveries.
#[derive(Clone, Default)]
struct Deliveries {
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, input, partitions, output, records] = args.as_slice() else {
        return Err("usage: opponent BROKERS INPUT PARTITIONS OUTPUT RECORDS".to_owned());
    };
    let partitions: i32 = partitions.parse().map_err(|_| "PARTITIONS is no number")?;
    let records: u64 = records.parse().map_err(|_| "RECORDS is no number")?;
    let consumer = consumer(brokers, input, partitions)?;
    let deliveries = Deliveries::default();
    let producer: BaseProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.messages", "200000")
        .create_with_context(deliveries.clone())
        .map_err(text)?;
    let began = Instant::now();
    let mut taken = 0;
    let mut masked = Vec::new();
    while taken < records {
        let Some(message) = consumer.poll(POLL) else {
            producer.poll(Duration::ZERO);
            continue;
        };
        let message = message.map_err(text)?;
        masked.clear();
        mask(message.payload().unwrap_or_default(), &mut masked)?;
        send(&producer, output, &message, &masked)?;
        taken += 1;
    }
    producer.flush(Duration::from_secs(60)).map_err(text)?;
    let seconds = began.elapsed().as_secs_f64();
    let done = deliveries.done.load(Ordering::Relaxed);
    if done != records || deliveries.failed.load(Ordering::Relaxed) > 0 {
        return Err(format!("{done} of {records} records were acknowledged"));
    }
    Ok(format!("{{\"seconds\":{seconds:.3},\"cpu_s\":{:.2}}}", cpu_seconds()?))
}

fn consumer(brokers: &str, input: &str, partitions: i32) -> Result<BaseConsumer, String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "opponent")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "100")
        .create()
        .map_err(text)?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment
            .add_partition_offset(input, partition, Offset::Beginning)
            .map_err(text)?;
    }
    consumer.assign(&assignment).map_err(text)?;
    Ok(consumer)
}

/// The same as `examples/mask-rust`.
fn mask(value: &[u8], masked: &mut Vec<u8>) -> Result<(), String> {
    let mut copied = 0;
    json::for_each_string(value, "email", |email| {
        let at = find_last(&value[email.clone()], b'@');
        masked.extend_from_slice(&value[copied..email.start]);
        masked.extend_from_slice(b"***");
        copied = at.map_or(email.end, |at| email.start + at);
    })
    .map_err(text)?;
    masked.extend_from_slice(&value[copied..]);
    Ok(())
}

/// Queues a record for the partition it came from, waiting for room.
fn send(
    producer: &BaseProducer<Deliveries>,
    output: &str,
    message: &impl Message,
    masked: &[u8],
) -> Result<(), String> {
    let mut record = BaseRecord::to(output)
        .partition(message.partition())
        .key(message.key().unwrap_or_default())
        .payload(masked);
    while let Err((error, back)) = producer.send(record) {
        if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
            return Err(error.to_string());
        }
        producer.poll(POLL);
        record = back;
    }
    producer.poll(Duration::ZERO);
    Ok(())
}

/// CPU time of this process, in seconds (fields 14 and 15 of /proc/self/stat).
fn cpu_seconds() -> Result<f64, String> {
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(text)?;
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|word| word.parse::<f64>().unwrap_or(0.0));
    Ok(ticks.sum::<f64>() / TICKS)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
