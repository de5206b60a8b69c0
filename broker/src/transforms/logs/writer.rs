//! Writes a shard's lines to the topic.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_controller::Topic;
use tidemill_model::partitioner::partition_for_key;
use tidemill_model::record::{BatchBuilder, NewRecord};
use tidemill_model::{BatchHeader, topic_name};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time::{self, Instant};

use super::Logs;
use super::intake::Line;
use super::otlp;
use crate::shard::Shard;
use crate::topics::{NewTopic, TopicError, now_ms};

/// How long lines wait for others to be written with them, at the most.
pub(super) const WRITE_EVERY: Duration = Duration::from_millis(200);
/// Bytes a batch may reach before the next begins; with the largest line on top it is below [`MESSAGE_BYTES`].
const BATCH_BYTES: usize = 256 << 10;
/// Largest batch that the topic takes, whatever other topics take (`max.message.bytes`).
const MESSAGE_BYTES: u64 = 1 << 20;
/// Largest and smallest size of a segment (`segment.bytes`) ...
const SEGMENT_BYTES_MAX: u64 = 32 << 20;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// ... which, like its age (`segment.ms`), is at the most a part of the retention: that removes whole segments.
const SEGMENTS_IN_RETENTION: u32 = 8;
/// How long a write may take: what waits behind it is bounded, and dropped beyond.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);

/// A batch for a partition, and its lines.
type Written = (BatchHeader, Bytes, Vec<Line>);

impl Shard {
    /// Starts writing what this shard's transforms log.
    pub(crate) fn start_logs(self: &Rc<Shard>) {
        let shard = self.clone();
        drop(task::spawn(Queue::Background, async move {
            let logs = shard.transforms.logs.clone();
            while !shard.is_stopping() {
                let (arrived, plenty) = (logs.arrived.notified(), logs.plenty.notified());
                if logs.intake.borrow().is_empty() {
                    arrived.await;
                }
                let _ = time::timeout(WRITE_EVERY, plenty).await;
                shard.flush_logs().await;
            }
        }));
    }

    /// Writes the lines that wait; when this returns, they can be read, or are counted as lost.
    pub(crate) async fn flush_logs(self: &Rc<Shard>) {
        let logs = self.transforms.logs.clone();
        let _turn = logs.turn.acquire(1).await;
        let lines = logs.intake.borrow_mut().take(Instant::now(), now_ms());
        if lines.is_empty() {
            return;
        }
        match self.log_topic().await {
            Ok(topic) => self.write_lines(&logs, &topic, lines).await,
            Err(error) => lost(&logs, &lines, &error.to_string()),
        }
    }

    /// The topic, made when the first line is to be written.
    async fn log_topic(self: &Rc<Shard>) -> Result<Arc<Topic>, TopicError> {
        let settings = &self.info.settings.transforms;
        let segment = settings.log_retention / SEGMENTS_IN_RETENTION;
        let segment_bytes = settings.log_retention_size / u64::from(SEGMENTS_IN_RETENTION);
        let segment_bytes = segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let configs = BTreeMap::from([
            (
                "retention.ms",
                settings.log_retention.as_millis().to_string(),
            ),
            ("retention.bytes", settings.log_retention_size.to_string()),
            ("segment.ms", segment.as_millis().to_string()),
            ("segment.bytes", segment_bytes.to_string()),
            ("max.message.bytes", MESSAGE_BYTES.to_string()),
        ]);
        let configs = configs.into_iter().map(|(k, v)| (k.to_owned(), v));
        self.internal_topic_or_create(NewTopic {
            partitions: Some(settings.log_partitions),
            configs: configs.collect(),
            ..NewTopic::named(topic_name::TRANSFORM_LOGS)
        })
        .await
    }

    async fn write_lines(self: &Rc<Shard>, logs: &Logs, topic: &Topic, lines: Vec<Line>) {
        let mut by_partition: BTreeMap<i32, Vec<Line>> = BTreeMap::new();
        for line in lines {
            let partition =
                partition_for_key(line.about.transform.as_bytes(), topic.partition_count());
            by_partition.entry(partition).or_default().push(line);
        }
        for (index, lines) in by_partition {
            for (header, batch, lines) in self.batches(lines) {
                let append = self.append_lines(topic, index, header, batch);
                match time::timeout(WRITE_TIME_MAX, append).await {
                    Ok(Ok(())) => logs.intake.borrow_mut().written(lines.iter()),
                    Ok(Err(reason)) => lost(logs, &lines, &reason),
                    Err(_) => lost(logs, &lines, "it took too long; some may have been written"),
                }
            }
        }
    }

    async fn append_lines(
        self: &Rc<Shard>,
        topic: &Topic,
        index: i32,
        header: BatchHeader,
        batch: Bytes,
    ) -> Result<(), String> {
        let partition = topic.partition(index);
        let (ring, target) = self.locate(partition).ok_or("its topic is gone")?;
        let appended = self.on(target, move |shard| async move {
            let ring = shard.ring(ring).ok_or("its ring is not here")?;
            let done = ring.append(partition, header, batch, now_ms()).await;
            done.map(drop).map_err(|e| e.to_string())
        });
        appended.await.map_err(|e| e.to_string())?
    }

    fn batches(&self, lines: Vec<Line>) -> Vec<Written> {
        let mut batches = Vec::new();
        let (mut builder, mut of_batch) = (BatchBuilder::new(), Vec::new());
        for line in lines {
            if builder.bytes() >= BATCH_BYTES {
                let full = std::mem::take(&mut builder);
                batches.push(finished(full, std::mem::take(&mut of_batch)));
            }
            let value = otlp::encode(&line, self.info.node);
            builder.append(NewRecord {
                timestamp: line.at_ms,
                key: Some(line.about.transform.as_bytes()),
                value: Some(&value),
                headers: &[],
            });
            of_batch.push(line);
        }
        if !of_batch.is_empty() {
            batches.push(finished(builder, of_batch));
        }
        batches
    }
}

fn finished(builder: BatchBuilder, lines: Vec<Line>) -> Written {
    let batch = builder.build();
    let header = BatchHeader::validate(&batch).expect("our own batches are valid");
    (header, batch, lines)
}

/// Lines that the topic did not take are lost; where the disk is full, all of them are.
fn lost(logs: &Logs, lines: &[Line], reason: &str) {
    tracing::warn!(
        lines = lines.len(),
        reason,
        "lines that transforms logged cannot be written; they are lost"
    );
    logs.intake.borrow_mut().lost(lines.iter());
}
