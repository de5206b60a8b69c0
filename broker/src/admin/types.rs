//! The JSON of the admin API, version 1.
//!
//! Offsets are Kafka offsets; timestamps are milliseconds since the Unix epoch; sizes are bytes. Requests
//! refuse fields they do not know, so that a misspelt one is never silently ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use tidemill_controller::image::{Codec, PartitionBy};
use zeroize::Zeroizing;

/// `GET /v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ClusterInfo {
    /// The cluster's id, as Kafka clients see it.
    pub(crate) cluster_id: String,
    /// This node's id.
    pub(crate) node_id: i32,
    /// The broker's version.
    pub(crate) version: String,
    /// The runtime engine in use: `uring` or `epoll`.
    pub(crate) runtime: String,
    /// Shards of this node.
    pub(crate) shards: u16,
    /// The address that Kafka clients are told.
    pub(crate) kafka_address: String,
}

/// One topic of `GET /v1/topics`, and the answer to its creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TopicSummary {
    /// Its name.
    pub(crate) name: String,
    /// Its id, a UUID.
    pub(crate) id: String,
    /// Number of partitions.
    pub(crate) partitions: i32,
    /// Replicas of each partition.
    pub(crate) replicas: i16,
    /// Whether it belongs to the broker (`__consumer_offsets` and such).
    pub(crate) internal: bool,
}

/// `GET /v1/topics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TopicList {
    /// Every topic, by name.
    pub(crate) topics: Vec<TopicSummary>,
}

/// `POST /v1/topics`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateTopic {
    /// Its name.
    pub(crate) name: String,
    /// Number of partitions; the broker's default where absent.
    #[serde(default)]
    pub(crate) partitions: Option<i32>,
    /// Replicas of each partition; the broker's default where absent.
    #[serde(default)]
    pub(crate) replicas: Option<i16>,
    /// Topic configuration, Kafka's names.
    #[serde(default)]
    pub(crate) configs: BTreeMap<String, String>,
}

/// `GET /v1/topics/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TopicDetail {
    /// Its name.
    pub(crate) name: String,
    /// Its id, a UUID.
    pub(crate) id: String,
    /// Effective configuration, Kafka's names.
    pub(crate) configs: BTreeMap<String, String>,
    /// Its partitions, by index.
    pub(crate) partitions: Vec<PartitionDetail>,
}

/// One partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PartitionDetail {
    /// Its index in the topic.
    pub(crate) index: i32,
    /// The ring that carries it.
    pub(crate) ring: u32,
    /// The shard of that ring on this node.
    pub(crate) shard: u16,
    /// The node that leads it; -1 where none does at the moment.
    pub(crate) leader: i32,
    /// The first offset that can be read.
    pub(crate) log_start_offset: i64,
    /// The offset after the last committed record.
    pub(crate) high_watermark: i64,
    /// Size of its batches.
    pub(crate) bytes: u64,
}

/// `POST /v1/topics/{name}/records`: what was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Produced {
    /// Records written.
    pub(crate) written: u64,
    /// The offsets they took, by partition.
    pub(crate) partitions: BTreeMap<i32, OffsetRange>,
}

/// Offsets of records written, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct OffsetRange {
    /// Offset of the first record.
    pub(crate) first: i64,
    /// Offset of the last record.
    pub(crate) last: i64,
}

/// `PUT /v1/modules`: the module as the broker knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ModuleStored {
    /// SHA-256 of its bytes, 64 hexadecimal digits: how a deploy names it.
    pub(crate) hash: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Time spent compiling it, milliseconds; 0 where machine code was there already.
    pub(crate) compiled_ms: u64,
    /// Whether the broker had it already.
    pub(crate) cached: bool,
}

/// What happens to a record that a transform cannot handle, after its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnError {
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
pub(crate) struct LimitsSpec {
    /// CPU time, milliseconds; the broker's default where absent.
    #[serde(default)]
    pub(crate) time_ms: Option<u64>,
    /// Memory of an instance, bytes; the broker's default where absent.
    #[serde(default)]
    pub(crate) memory_bytes: Option<u64>,
}

/// `PUT /v1/transforms/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeployRequest {
    /// Hash of a module stored before by `PUT /v1/modules`; not needed for a check.
    #[serde(default)]
    pub(crate) module: String,
    /// The topic it reads.
    pub(crate) input: String,
    /// The topics it writes, in the order that the module counts them.
    pub(crate) outputs: Vec<String>,
    /// Its environment variables.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// Where a new transform begins to read: `earliest`, `latest`, `@TIME`, `+N` or `-N`; `latest` where absent. A transform that
    /// is there already keeps its place.
    #[serde(default)]
    pub(crate) from: Option<String>,
    /// Limits of a call.
    #[serde(default)]
    pub(crate) limits: LimitsSpec,
    /// What happens to a record it cannot handle.
    #[serde(default)]
    pub(crate) on_error: Option<OnError>,
    /// The topic for such records.
    #[serde(default)]
    pub(crate) dead_letter: Option<String>,
    /// Runs of a record before `on_error` applies.
    #[serde(default)]
    pub(crate) attempts: Option<u32>,
    /// How its output is compressed; as the output topic's `compression.type` says where absent, and `producer` means not at all.
    #[serde(default)]
    pub(crate) compression: Option<Codec>,
    /// Its share of the guest thread beside others, 1 to 100; 1 where absent.
    #[serde(default)]
    pub(crate) weight: Option<u32>,
    /// Where records go that the function does not place itself; by the input's partition where absent.
    #[serde(default)]
    pub(crate) partition_by: Option<PartitionBy>,
    /// Secrets that are given anew; those of the version before stay beside them.
    #[serde(default)]
    pub(crate) secrets: Secrets,
    /// Names of secrets of the version before that are dropped.
    #[serde(default)]
    pub(crate) remove_secrets: Vec<String>,
    /// Names of secrets without which it is refused.
    #[serde(default)]
    pub(crate) required_secrets: Vec<String>,
}

/// Secrets in clear, by the variables they are given as. Never shown, also not in what is said of a body that makes no sense.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secrets(BTreeMap<String, Zeroizing<String>>);

impl Secrets {
    /// Names and values.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&String, &str)> {
        self.0.iter().map(|(name, value)| (name, value.as_str()))
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secrets, D::Error> {
        let refused = || D::Error::custom("`secrets` is an object of texts, by variable");
        let serde_json::Value::Object(all) = Deserialize::deserialize(deserializer)? else {
            return Err(refused());
        };
        let pair = |(name, value)| match value {
            serde_json::Value::String(value) => Ok((name, Zeroizing::new(value))),
            _ => Err(refused()),
        };
        Ok(Secrets(
            all.into_iter().map(pair).collect::<Result<_, _>>()?,
        ))
    }
}

/// The answer to a deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Deployed {
    /// The transform's name.
    pub(crate) name: String,
    /// Its version, counted from 1.
    pub(crate) version: u32,
    /// Its life: kept by later versions, new after a delete.
    pub(crate) incarnation: u64,
    /// Whether it stands still: it was paused before, and a new version changes nothing of that.
    pub(crate) paused: bool,
    /// Whether `from` was said without effect: the transform was there already, and stays where it stands.
    pub(crate) kept_place: bool,
    /// The version whose content it has, if it came of a rollback.
    pub(crate) content_of: Option<u32>,
    /// The version that it took over from, if there was one.
    pub(crate) replaced: Option<u32>,
    /// Output topics that were missing and were made.
    pub(crate) created_topics: Vec<CreatedTopic>,
}

/// `POST /v1/transforms/{name}/check`: what a deploy would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DeployCheck {
    /// The version it would be.
    pub(crate) version: u32,
    /// Output topics that would be made.
    pub(crate) missing_topics: Vec<String>,
    /// Names of the secrets it would have.
    pub(crate) secrets: Vec<String>,
}

/// `POST /v1/transforms/{name}/rollback`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackRequest {
    /// The version whose content is wanted; the one before that which runs where absent.
    #[serde(default)]
    pub(crate) to: Option<u32>,
}

/// `POST /v1/transforms/{name}/seek`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeekRequest {
    /// Where to: as `from` of a deploy, or an offset.
    pub(crate) to: String,
    /// The input partition that is moved; all where absent.
    #[serde(default)]
    pub(crate) partition: Option<i32>,
}

/// The answer to a seek.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Moved {
    /// The transform's name.
    pub(crate) name: String,
    /// What was moved, by partition.
    pub(crate) partitions: Vec<MovedPartition>,
}

/// An input partition on which a transform was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct MovedPartition {
    /// The partition.
    pub(crate) partition: i32,
    /// About where it stood; it may have gone on until the move.
    pub(crate) from: i64,
    /// Where it stands.
    pub(crate) to: i64,
}

/// `GET /v1/transforms/{name}/versions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VersionList {
    /// The transform's name.
    pub(crate) name: String,
    /// Its versions, newest first.
    pub(crate) versions: Vec<TransformVersion>,
}

/// A version of a transform that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TransformVersion {
    /// Its number.
    pub(crate) version: u32,
    /// Whether it is the one that runs.
    pub(crate) current: bool,
    /// When it was deployed; 0 where that was not written down.
    pub(crate) deployed_ms: i64,
    /// The version whose content it has, if it came of a rollback.
    pub(crate) content_of: Option<u32>,
    /// Hash of its module.
    pub(crate) module: String,
    /// The topics it writes.
    pub(crate) outputs: Vec<String>,
    /// The topic for records it cannot handle.
    pub(crate) dead_letter: Option<String>,
    /// Its environment variables.
    pub(crate) env: BTreeMap<String, String>,
    /// Limits of a call.
    pub(crate) limits: LimitsSpec,
    /// What happens to a record it cannot handle.
    pub(crate) on_error: OnError,
    /// Runs of a record before `on_error` applies.
    pub(crate) attempts: u32,
    /// How its output is compressed; none where the output topics say it.
    pub(crate) compression: Option<Codec>,
    /// Its share of the guest thread beside others.
    pub(crate) weight: u32,
    /// Where records go that the function does not place itself.
    pub(crate) partition_by: PartitionBy,
    /// Names of its secrets.
    pub(crate) secrets: Vec<String>,
}

/// A topic made for a transform, with the input's partitions and placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CreatedTopic {
    /// Its name.
    pub(crate) name: String,
    /// Number of partitions.
    pub(crate) partitions: i32,
}

/// What a transform, or its processor on one partition, is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TransformState {
    /// Not yet at work: being compiled or attached.
    Starting,
    /// At work, or waiting for input.
    Running,
    /// Held by `pause`.
    Paused,
    /// Stopped at a record or an error, trying again with back-off.
    Failing,
    /// Its input topic was deleted.
    InputGone,
    /// A topic it writes to was deleted; it stands still.
    OutputGone,
}

/// One transform of `GET /v1/transforms`. Counts are since the broker started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TransformSummary {
    /// Its name.
    pub(crate) name: String,
    /// The version that runs.
    pub(crate) version: u32,
    /// The worst state of its partitions.
    pub(crate) state: TransformState,
    /// The topic it reads.
    pub(crate) input: String,
    /// The topics it writes.
    pub(crate) outputs: Vec<String>,
    /// The topic for records it cannot handle.
    pub(crate) dead_letter: Option<String>,
    /// Records of input that it has not decided yet.
    pub(crate) lag: i64,
    /// Records it read.
    pub(crate) records_in: u64,
    /// Records it wrote.
    pub(crate) records_out: u64,
    /// Records it could not handle.
    pub(crate) failed: u64,
    /// The last error, in words; none where there was none.
    pub(crate) last_error: Option<String>,
}

/// `GET /v1/transforms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TransformList {
    /// Every transform, by name.
    pub(crate) transforms: Vec<TransformSummary>,
}

/// `GET /v1/transforms/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TransformDetail {
    /// What the list says of it.
    #[serde(flatten)]
    pub(crate) summary: TransformSummary,
    /// Its life.
    pub(crate) incarnation: u64,
    /// Hash of its module.
    pub(crate) module: String,
    /// Its environment variables.
    pub(crate) env: BTreeMap<String, String>,
    /// Limits of a call.
    pub(crate) limits: LimitsSpec,
    /// What happens to a record it cannot handle.
    pub(crate) on_error: OnError,
    /// Runs of a record before `on_error` applies.
    pub(crate) attempts: u32,
    /// How its output is compressed; none where the output topics say it.
    pub(crate) compression: Option<Codec>,
    /// Its share of the guest thread beside others.
    pub(crate) weight: u32,
    /// Where records go that the function does not place itself.
    pub(crate) partition_by: PartitionBy,
    /// Names of its secrets.
    pub(crate) secrets: Vec<String>,
    /// When this version was deployed; 0 where that was not written down.
    pub(crate) deployed_ms: i64,
    /// The version whose content it has, if it came of a rollback.
    pub(crate) content_of: Option<u32>,
    /// What somebody who looks at it should know, in sentences.
    pub(crate) notes: Vec<String>,
    /// Its input partitions, by index.
    pub(crate) partitions: Vec<TransformPartition>,
}

/// A transform at work on one input partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TransformPartition {
    /// The input partition's index.
    pub(crate) partition: i32,
    /// What it is doing there.
    pub(crate) state: TransformState,
    /// The first offset that is not decided.
    pub(crate) position: i64,
    /// The offset after the last committed input record.
    pub(crate) high_watermark: i64,
    /// `high_watermark - position`.
    pub(crate) lag: i64,
    /// The last error there.
    pub(crate) last_error: Option<String>,
}

/// The answer to pause and resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TransformStateChanged {
    /// The transform's name.
    pub(crate) name: String,
    /// Its state from now on.
    pub(crate) state: TransformState,
}

/// Severity of a line that a guest logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogLevel {
    /// Debug.
    Debug,
    /// Information.
    Info,
    /// Warning.
    Warn,
    /// Error.
    Error,
}

/// Who says a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogSource {
    /// The transform.
    Transform,
    /// The broker, about the transform.
    Broker,
}

impl LogSource {
    /// In lower case.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogSource::Transform => "transform",
            LogSource::Broker => "broker",
        }
    }
}

/// A line that a transform logged, or that the broker logged about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LogLine {
    /// Its offset in its partition of the log topic.
    pub(crate) position: i64,
    /// When it was received, ms since the Unix epoch.
    pub(crate) timestamp: i64,
    /// Its severity.
    pub(crate) level: LogLevel,
    /// Who says it.
    pub(crate) source: LogSource,
    /// The transform's version.
    pub(crate) version: u32,
    /// The input topic.
    pub(crate) topic: String,
    /// The input partition it was about, if one.
    pub(crate) partition: Option<i32>,
    /// The input offset it was about, where that is known.
    pub(crate) offset: Option<i64>,
    /// The node.
    pub(crate) node: i32,
    /// What it says.
    pub(crate) message: String,
}

/// `GET /v1/transforms/{name}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LogLines {
    /// The lines, oldest first.
    pub(crate) lines: Vec<LogLine>,
    /// The `position` that goes on from here.
    pub(crate) next: i64,
    /// Whether there was nothing more.
    pub(crate) at_end: bool,
    /// Whether older lines may be there that were not looked at: too much lies between them.
    pub(crate) older: bool,
}

impl LogLines {
    /// No lines; `next` goes on.
    pub(crate) fn none(next: i64) -> LogLines {
        LogLines {
            lines: Vec::new(),
            next,
            at_end: true,
            older: false,
        }
    }
}

/// The query of `GET /v1/transforms/{name}/logs`, checked and bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogQuery {
    /// Where to go on, as an earlier answer said. Without it and `since`, the newest lines.
    pub(crate) position: Option<i64>,
    /// Lines at most.
    pub(crate) limit: usize,
    /// The newest so many only.
    pub(crate) tail: Option<usize>,
    /// Only lines of this time or later, ms since the Unix epoch.
    pub(crate) since: Option<i64>,
    /// Only lines of this severity or a higher one.
    pub(crate) level: Option<LogLevel>,
    /// Only lines about this input partition.
    pub(crate) partition: Option<i32>,
    /// How long to wait for a line where there is none, milliseconds.
    pub(crate) wait_ms: u64,
}
