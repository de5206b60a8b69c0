//! What the cluster consists of, as an immutable snapshot that shards share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_model::{Incarnation, PartitionId, RingId, TopicId};

/// SHA-256 of a module, as 64 hexadecimal digits.
pub type ModuleHash = String;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id, as text in the stored form.
    #[serde(with = "topic_id_text")]
    pub id: TopicId,
    /// The ring of each partition, by partition index.
    pub rings: Vec<u32>,
    /// Replication factor.
    pub replicas: i16,
    /// Configuration that was set, by Kafka's names; what is absent has its default.
    pub configs: BTreeMap<String, String>,
}

impl Topic {
    /// Number of partitions.
    pub fn partition_count(&self) -> i32 {
        self.rings.len() as i32
    }

    /// The ring of partition `index`, if there is such a partition.
    pub fn ring(&self, index: i32) -> Option<RingId> {
        let index = usize::try_from(index).ok()?;
        self.rings.get(index).copied().map(RingId)
    }

    /// The id of partition `index`.
    pub fn partition(&self, index: i32) -> PartitionId {
        PartitionId {
            topic: self.id,
            index,
        }
    }
}

/// Where a transform begins in partitions that exist when it is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartPosition {
    /// At the oldest record kept.
    Earliest,
    /// After the newest record.
    Latest,
    /// At the first record with this timestamp or a later one, in ms since the Unix epoch; after the newest where there is none.
    Timestamp(i64),
    /// So many offsets after the oldest record kept.
    AfterStart(i64),
    /// So many offsets before the end.
    BeforeEnd(i64),
}

/// A secret of a transform, sealed: readable with the node's key alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Which key it was sealed with.
    pub key: String,
    /// The sealed value, as text.
    pub sealed: String,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed(key {})", self.key)
    }
}

/// How a transform's output is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    None,
    /// As gzip.
    Gzip,
    /// As Snappy.
    Snappy,
    /// As LZ4.
    Lz4,
    /// As Zstandard.
    Zstd,
}

/// Which partition of an output a record goes to where the function did not say it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionBy {
    /// By the partition it came from.
    #[default]
    Input,
    /// By its key, as Kafka's clients do it.
    Key,
}

/// The least and usual weight of a transform.
pub const WEIGHT_MIN: u32 = 1;
/// The largest weight of a transform.
pub const WEIGHT_MAX: u32 = 100;

pub(crate) fn weight_min() -> u32 {
    WEIGHT_MIN
}

/// What happens to a record that a transform fails on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorPolicy {
    /// Stop there, try again with back-off.
    Fail,
    /// Count it and go on.
    Skip,
    /// Hand it to the dead-letter topic.
    DeadLetter,
    /// Hand it on unchanged to the first output.
    PassThrough,
}

/// Where a transform stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransformStatus {
    /// It runs.
    Running,
    /// It was paused.
    Paused,
    /// It was deleted; its committed output is still being delivered.
    Deleting,
}

/// A deployed transform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformSpec {
    /// Its name.
    pub name: String,
    /// Controller log index of its first deploy (rule X7).
    pub incarnation: u64,
    /// Counts deploys of this incarnation, from 1.
    pub version: u32,
    /// Its module.
    pub module: ModuleHash,
    /// Input topic, by id and by the name it had.
    pub input: TopicRef,
    /// Output topics in declared order; a dead-letter topic that is no declared output comes last.
    pub outputs: Vec<TopicRef>,
    /// Index of the dead-letter topic in `outputs`.
    pub dead_letter: Option<u32>,
    /// How many of `outputs` the function itself may write to.
    pub declared_outputs: u32,
    /// Environment of the function.
    pub env: BTreeMap<String, String>,
    /// Where it began.
    pub from: StartPosition,
    /// CPU time a call may take, in ms.
    pub time_ms: u64,
    /// Memory an instance may take, in bytes.
    pub memory_bytes: u64,
    /// What happens to a record it fails on.
    pub on_error: ErrorPolicy,
    /// Attempts before `on_error` applies.
    pub attempts: u32,
    /// How its output is compressed; `None` for what the output topic's `compression.type` says, where `producer` means not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Codec>,
    /// Its share of the guest thread compared with that of others, from [`WEIGHT_MIN`] to [`WEIGHT_MAX`].
    #[serde(default = "weight_min")]
    pub weight: u32,
    /// Where records go that the function did not place itself.
    #[serde(default)]
    pub partition_by: PartitionBy,
    /// Its secrets, sealed, by the variables they are given as.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Sealed>,
    /// When this version was deployed, by the leader's clock, in ms since the Unix epoch; 0 where that was not written down.
    #[serde(default)]
    pub deployed_ms: i64,
    /// The version that was rolled back to, if this one came of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_of: Option<u32>,
    /// Where it stands.
    pub status: TransformStatus,
    /// How many partitions its input had when it was deployed, noted when that topic grows: it begins at offset 0 in those
    /// beyond (rule X1). `None` as long as it has not grown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_partitions: Option<u32>,
}

impl TransformSpec {
    /// Its incarnation.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    /// Whether input partition `index` came after it was deployed.
    pub fn is_later_input(&self, index: i32) -> bool {
        let known = self.input_partitions.map(i64::from);
        known.is_some_and(|known| i64::from(index) >= known)
    }
}

/// A topic as a transform refers to it: by id (rule X11), with the name for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRef {
    /// The id.
    #[serde(with = "topic_id_text")]
    pub id: TopicId,
    /// The name when the transform was deployed.
    pub name: String,
}

/// A snapshot of everything the controller decides. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Grows with every change.
    pub version: u64,
    pub(crate) topics: BTreeMap<String, Arc<Topic>>,
    pub(crate) by_id: BTreeMap<TopicId, Arc<Topic>>,
    pub(crate) transforms: BTreeMap<String, Arc<TransformSpec>>,
    /// Earlier versions of the transforms, oldest first.
    pub(crate) earlier: BTreeMap<String, Vec<Arc<TransformSpec>>>,
    /// Lives of transforms that are over because their input was deleted and they read its successor; their committed output is
    /// still being delivered.
    pub(crate) replaced: BTreeMap<u64, Arc<TransformSpec>>,
    /// Topics that were deleted and of which a ring may still have partitions.
    pub(crate) deleted: BTreeSet<TopicId>,
}

impl Image {
    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Topics that were deleted and of which a ring may still have partitions. A partition whose topic is neither known nor
    /// here was never decided by this controller: its state is missing or older than the ring's.
    pub fn deleted_topics(&self) -> &BTreeSet<TopicId> {
        &self.deleted
    }

    /// Partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.by_id.values().map(|t| t.rings.len()).sum()
    }

    /// A transform by name.
    pub fn transform(&self, name: &str) -> Option<&Arc<TransformSpec>> {
        self.transforms.get(name)
    }

    /// All transforms, by name.
    pub fn transforms(&self) -> impl Iterator<Item = &Arc<TransformSpec>> {
        self.transforms.values()
    }

    /// The earlier versions of a transform that are kept, oldest first.
    pub fn earlier_versions(&self, name: &str) -> &[Arc<TransformSpec>] {
        self.earlier.get(name).map_or(&[], Vec::as_slice)
    }

    /// Lives of transforms that were replaced and are not retired yet.
    pub fn replaced(&self) -> impl Iterator<Item = &Arc<TransformSpec>> {
        self.replaced.values()
    }

    /// The modules that a version of a transform uses.
    pub fn modules(&self) -> BTreeSet<&str> {
        let earlier = self.earlier.values().flatten();
        let all = self.transforms.values().chain(earlier);
        all.map(|t| t.module.as_str()).collect()
    }

    /// The ring of a partition, if it exists.
    pub fn ring_of(&self, partition: PartitionId) -> Option<RingId> {
        self.topic_by_id(partition.topic)?.ring(partition.index)
    }
}

pub(crate) mod topic_id_text {
    //! Topic ids as text in JSON.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use tidemill_model::TopicId;

    pub(crate) fn serialize<S: Serializer>(id: &TopicId, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(id)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<TopicId, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

pub(crate) mod topic_ids_text {
    //! Lists of topic ids as text in JSON.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use tidemill_model::TopicId;

    pub(crate) fn serialize<S: Serializer>(ids: &[TopicId], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(ids.iter().map(TopicId::to_string))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<TopicId>, D::Error> {
        let ids = Vec::<String>::deserialize(d)?;
        let parsed = ids.iter().map(|id| id.parse().map_err(D::Error::custom));
        parsed.collect()
    }
}
