//! The controller's commands and what they answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_model::TopicId;

use crate::image::{
    Codec, ErrorPolicy, ModuleHash, PartitionBy, Sealed, StartPosition, Topic, weight_min,
};

/// A change of the cluster, decided once, in the order of ring 0's log. Stored as JSON: rare, small, and readable in
/// a log years later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum ControllerCommand {
    /// Makes a topic. Its id, placement and configuration were decided by the proposer.
    CreateTopic {
        /// The topic.
        topic: Topic,
    },
    /// Deletes a topic by id.
    DeleteTopic {
        /// Its id.
        #[serde(with = "crate::image::topic_id_text")]
        id: TopicId,
        /// Whether a transform that reads or writes it may stand in the way. Entries of versions that always refused do not say
        /// it, and must come to the same when they are replayed.
        #[serde(default)]
        if_used: IfUsed,
    },
    /// Forgets deleted topics: every ring has dropped their partitions.
    RetireTopics {
        /// Their ids.
        #[serde(with = "crate::image::topic_ids_text")]
        ids: Vec<TopicId>,
    },
    /// Adds partitions to a topic, behind those it has.
    AddPartitions {
        /// Its id.
        #[serde(with = "crate::image::topic_id_text")]
        id: TopicId,
        /// Partitions it has; with another number nothing is added.
        existing: u32,
        /// The rings of the new ones.
        rings: Vec<u32>,
    },
    /// Replaces the settings of a topic. They were checked by the proposer.
    ConfigureTopic {
        /// Its id.
        #[serde(with = "crate::image::topic_id_text")]
        id: TopicId,
        /// What is set from now on; what is absent has its default.
        configs: BTreeMap<String, String>,
    },
    /// Hands out a block of producer ids.
    AllocateProducerIds {
        /// How many.
        count: u32,
    },
    /// Deploys a transform, or a new version of one.
    DeployTransform(Box<Deploy>),
    /// Pauses or resumes a transform.
    SetPaused {
        /// Its name.
        name: String,
        /// Whether it is to stand still.
        paused: bool,
    },
    /// Marks a transform as deleted; it goes once its output is delivered.
    DeleteTransform {
        /// Its name.
        name: String,
    },
    /// Forgets a deleted transform: every input is detached and every outbox empty (rule X7).
    RetireTransform {
        /// Its name.
        name: String,
        /// Its incarnation; another one of the same name stays.
        incarnation: u64,
    },
}

/// What becomes of deleting a topic that a transform reads or writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfUsed {
    /// It is refused.
    #[default]
    Refuse,
    /// It is done; the transform shows that its topic is gone.
    Delete,
}

/// What a deploy asks for. Topics are named and must exist when the command is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// Name of the transform.
    pub name: String,
    /// Its module.
    pub module: ModuleHash,
    /// Input topic.
    pub input: String,
    /// Output topics the function may write to, at least one.
    pub outputs: Vec<String>,
    /// Dead-letter topic.
    pub dead_letter: Option<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Where it begins, on its first deploy.
    pub from: StartPosition,
    /// CPU time a call may take, in ms.
    pub time_ms: u64,
    /// Memory an instance may take, in bytes.
    pub memory_bytes: u64,
    /// What happens to a record it fails on.
    pub on_error: ErrorPolicy,
    /// Attempts before `on_error` applies.
    pub attempts: u32,
    /// How its output is compressed; `None` for what each output topic says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Codec>,
    /// Its share of the guest thread compared with that of others.
    #[serde(default = "weight_min")]
    pub weight: u32,
    /// Where records go that the function did not place itself.
    #[serde(default)]
    pub partition_by: PartitionBy,
    /// All secrets it is to have, sealed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Sealed>,
    /// The leader's clock when it proposed, in ms since the Unix epoch.
    #[serde(default)]
    pub now_ms: i64,
    /// The version whose content this is, when it is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_of: Option<u32>,
}

/// What an accepted command answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerReply {
    /// It is done.
    Done,
    /// The first producer id of the block.
    ProducerIds {
        /// First id; the block's length was in the command.
        first: i64,
    },
    /// A transform was deployed.
    Deployed {
        /// Its incarnation.
        incarnation: u64,
        /// Its version.
        version: u32,
        /// Whether this is a new incarnation.
        new: bool,
    },
}

/// Why a command was refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A topic of this name exists.
    #[error("topic '{0}' already exists")]
    TopicExists(String),
    /// No such topic.
    #[error(
        "topic '{0}' does not exist; create it with: transform topic create {0} --partitions N"
    )]
    NoSuchTopic(String),
    /// A topic has another number of partitions than the proposer knew.
    #[error("topic '{name}' has {has} partitions by now; look again before adding some")]
    PartitionsChanged {
        /// The topic.
        name: String,
        /// Partitions it has.
        has: u32,
    },
    /// Its name differs from that of another topic only in '.' and '_', which metrics cannot tell apart.
    #[error(
        "topic '{0}' collides with '{1}': they differ only in '.' and '_'; choose another name"
    )]
    TopicCollides(String, String),
    /// A transform reads or writes the topic.
    #[error("topic '{topic}' is used by transform '{transform}'")]
    TopicInUse {
        /// The topic.
        topic: String,
        /// The transform.
        transform: String,
    },
    /// No such transform.
    #[error("transform '{0}' does not exist; see: transform list")]
    NoSuchTransform(String),
    /// The transform is being deleted.
    #[error(
        "transform '{0}' is being deleted and still delivers its last output; try again shortly"
    )]
    Deleting(String),
    /// A redeploy names another input.
    #[error(
        "transform '{name}' reads '{current}'; its input cannot change. Delete it first, or deploy under another name"
    )]
    InputChanged {
        /// The transform.
        name: String,
        /// Its input.
        current: String,
    },
    /// The transforms would feed each other in a circle (rule X10).
    #[error("these transforms would feed each other in a circle: {0}")]
    Cycle(String),
    /// An output is the input: the circle of one (rule X10).
    #[error(
        "transform '{transform}' would read what it writes to '{topic}', without end; give it another output"
    )]
    OwnInput {
        /// The transform.
        transform: String,
        /// Its input.
        topic: String,
    },
    /// An output is named twice, or is missing.
    #[error("{0}")]
    Outputs(String),
    /// A limit of the cluster is reached.
    #[error("{0}")]
    Limit(String),
}
