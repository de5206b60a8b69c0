//! The JSON of the admin API, version 1.
//!
//! Offsets are Kafka offsets; timestamps are milliseconds since the Unix epoch; sizes are bytes. Requests
//! refuse fields they do not know, so that a misspelt one is never silently ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterInfo {
    /// The cluster's id, as Kafka clients see it.
    pub cluster_id: String,
    /// This node's id.
    pub node_id: i32,
    /// The broker's version.
    pub version: String,
    /// The runtime engine in use: `uring` or `epoll`.
    pub runtime: String,
    /// Shards of this node.
    pub shards: u16,
    /// The address that Kafka clients are told.
    pub kafka_address: String,
}

/// One topic of `GET /v1/topics`, and the answer to its creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicSummary {
    /// Its name.
    pub name: String,
    /// Its id, a UUID.
    pub id: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each partition.
    pub replicas: i16,
    /// Whether it belongs to the broker (`__consumer_offsets` and such).
    pub internal: bool,
}

/// `GET /v1/topics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicList {
    /// Every topic, by name.
    pub topics: Vec<TopicSummary>,
}

/// `POST /v1/topics`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions; the broker's default where absent.
    #[serde(default)]
    pub partitions: Option<i32>,
    /// Replicas of each partition; the broker's default where absent.
    #[serde(default)]
    pub replicas: Option<i16>,
    /// Topic configuration, Kafka's names.
    #[serde(default)]
    pub configs: BTreeMap<String, String>,
}

/// `GET /v1/topics/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicDetail {
    /// Its name.
    pub name: String,
    /// Its id, a UUID.
    pub id: String,
    /// Effective configuration, Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionDetail>,
}

/// One partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionDetail {
    /// Its index in the topic.
    pub index: i32,
    /// The ring that carries it.
    pub ring: u32,
    /// The shard of that ring on this node.
    pub shard: u16,
    /// The node that leads it; -1 where none does at the moment.
    pub leader: i32,
    /// The first offset that can be read.
    pub log_start_offset: i64,
    /// The offset after the last committed record.
    pub high_watermark: i64,
    /// Size of its batches.
    pub bytes: u64,
}

/// `POST /v1/topics/{name}/records`: what was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Produced {
    /// Records written.
    pub written: u64,
    /// The offsets they took, by partition.
    pub partitions: BTreeMap<i32, OffsetRange>,
}

/// Offsets of records written, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OffsetRange {
    /// Offset of the first record.
    pub first: i64,
    /// Offset of the last record.
    pub last: i64,
}

/// Where reading begins where no position is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartFrom {
    /// The first record that is still there.
    Earliest,
    /// What is written from now on.
    #[default]
    Latest,
}

/// `PUT /v1/modules`: the module as the broker knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleStored {
    /// SHA-256 of its bytes, 64 hexadecimal digits: how a deploy names it.
    pub hash: String,
    /// Its size.
    pub bytes: u64,
    /// Time spent compiling it, milliseconds; 0 where machine code was there already.
    pub compiled_ms: u64,
    /// Whether the broker had it already.
    pub cached: bool,
}

/// What happens to a record that a transform cannot handle, after its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The partition stops at it and tries again, with back-off.
    Fail,
    /// It is counted and left out.
    Skip,
    /// It goes to the dead-letter topic, with headers that say why.
    DeadLetter,
    /// It goes to the first output as it came.
    PassThrough,
}

/// Limits of one call of a transform.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsSpec {
    /// CPU time, milliseconds; the broker's default where absent.
    #[serde(default)]
    pub time_ms: Option<u64>,
    /// Memory of an instance, bytes; the broker's default where absent.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

/// `PUT /v1/transforms/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// Hash of a module stored before by `PUT /v1/modules`.
    pub module: String,
    /// The topic it reads.
    pub input: String,
    /// The topics it writes, in the order that the module counts them.
    pub outputs: Vec<String>,
    /// Its environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where a new transform begins to read. A transform that is there already keeps its place.
    #[serde(default)]
    pub from: Option<StartFrom>,
    /// Limits of a call.
    #[serde(default)]
    pub limits: LimitsSpec,
    /// What happens to a record it cannot handle.
    #[serde(default)]
    pub on_error: Option<OnError>,
    /// The topic for such records.
    #[serde(default)]
    pub dead_letter: Option<String>,
    /// Runs of a record before `on_error` applies.
    #[serde(default)]
    pub attempts: Option<u32>,
}

/// The answer to a deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deployed {
    /// The transform's name.
    pub name: String,
    /// Its version, counted from 1.
    pub version: u32,
    /// Its life: kept by later versions, new after a delete.
    pub incarnation: u64,
    /// Output topics that were missing and were made.
    pub created_topics: Vec<CreatedTopic>,
}

/// A topic made for a transform, with the input's partitions and placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
}

/// What a transform, or its processor on one partition, is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransformState {
    /// Not yet at work: being compiled or attached.
    Starting,
    /// At work, or waiting for input.
    Running,
    /// Held by `pause`.
    Paused,
    /// Stopped at a record or an error, trying again with back-off.
    Failing,
}

/// One transform of `GET /v1/transforms`. Counts are since the broker started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransformSummary {
    /// Its name.
    pub name: String,
    /// The version that runs.
    pub version: u32,
    /// The worst state of its partitions.
    pub state: TransformState,
    /// The topic it reads.
    pub input: String,
    /// The topics it writes.
    pub outputs: Vec<String>,
    /// Records of input that it has not decided yet.
    pub lag: i64,
    /// Records it read.
    pub records_in: u64,
    /// Records it wrote.
    pub records_out: u64,
    /// Records it could not handle.
    pub failed: u64,
    /// The last error, in words; none where there was none.
    pub last_error: Option<String>,
}

/// `GET /v1/transforms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransformList {
    /// Every transform, by name.
    pub transforms: Vec<TransformSummary>,
}

/// `GET /v1/transforms/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransformDetail {
    /// What the list says of it.
    #[serde(flatten)]
    pub summary: TransformSummary,
    /// Its life.
    pub incarnation: u64,
    /// Hash of its module.
    pub module: String,
    /// Its environment variables.
    pub env: BTreeMap<String, String>,
    /// Limits of a call.
    pub limits: LimitsSpec,
    /// What happens to a record it cannot handle.
    pub on_error: OnError,
    /// The topic for such records.
    pub dead_letter: Option<String>,
    /// Runs of a record before `on_error` applies.
    pub attempts: u32,
    /// Its input partitions, by index.
    pub partitions: Vec<TransformPartition>,
}

/// A transform at work on one input partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransformPartition {
    /// The input partition's index.
    pub partition: i32,
    /// What it is doing there.
    pub state: TransformState,
    /// The first offset that is not decided.
    pub position: i64,
    /// The offset after the last committed input record.
    pub high_watermark: i64,
    /// `high_watermark - position`.
    pub lag: i64,
    /// The last error there.
    pub last_error: Option<String>,
}

/// The answer to pause and resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransformStateChanged {
    /// The transform's name.
    pub name: String,
    /// Its state from now on.
    pub state: TransformState,
}

/// Severity of a line that a guest logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Trace.
    Trace,
    /// Debug.
    Debug,
    /// Information.
    Info,
    /// Warning.
    Warn,
    /// Error.
    Error,
}

/// A line that a transform logged, or that the broker logged about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Its number, growing by transform; gaps say that lines were dropped.
    pub seq: u64,
    /// When it was received.
    pub timestamp: i64,
    /// Its severity.
    pub level: LogLevel,
    /// The input partition it was about.
    pub partition: i32,
    /// What it says.
    pub message: String,
}

/// `GET /v1/transforms/{name}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLines {
    /// Lines after `after`, oldest first.
    pub lines: Vec<LogLine>,
    /// The value of `after` that goes on from here.
    pub next: u64,
}

/// The query of `GET /v1/transforms/{name}/logs`, checked and bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    /// Only lines with a greater `seq`.
    pub after: u64,
    /// Lines at most, the oldest first.
    pub limit: usize,
    /// How long to wait for a line where there is none, milliseconds.
    pub wait_ms: u64,
}
