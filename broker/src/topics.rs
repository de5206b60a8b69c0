//! Making, deleting and publishing topics. Changes run on shard 0, beside the controller.

use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::{Either, select};
use tidemill_controller::command::IfUsed;
use tidemill_controller::config_change::ConfigChangeError;
use tidemill_controller::{
    ControllerCommand, ControllerError, Image, Refusal, Topic, configs, placement,
};
use tidemill_model::{PartitionId, RingId, ShardId, TopicId, topic_name};
use tidemill_ring::{PartitionConfig, Ring, TimestampType};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::{rand, time};

use crate::shard::{Shard, ShardGone};
use crate::transforms::manager::NotAttached;

/// Most partitions of a topic.
pub(crate) const PARTITIONS_MAX: i32 = 100_000;
/// Replication factor of a topic that is made without saying which.
pub(crate) const REPLICAS_DEFAULT: i16 = 1;
/// What leader epochs of a new partition count from (rule R10).
const EPOCH_BASE: i32 = 0;
/// How often the controller's checkpoint is written, if anything has changed ...
const CHECKPOINT_EVERY: std::time::Duration = std::time::Duration::from_secs(10);
/// ... or earlier, when so many bytes were written to the shard's log since: a start reads the log from the oldest entry that is in
/// no checkpoint.
const CHECKPOINT_AFTER_BYTES: u64 = 64 << 20;
/// Partitions that are changed one by one at once in a ring: fewer than a ring takes proposals.
pub(crate) const CHANGE_AT_ONCE: usize = 1_000;
/// Deleted topics that the controller forgets in one entry of its log.
const RETIRE_AT_ONCE: usize = 1_000;
/// How often shards that do not agree with the controller are made to.
const RECONCILE_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// The shard that runs the controller.
pub(crate) const CONTROLLER_SHARD: ShardId = ShardId(0);

/// A topic to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewTopic {
    /// Its name.
    pub(crate) name: String,
    /// Partitions; the default when absent.
    pub(crate) partitions: Option<i32>,
    /// Replication factor; the default when absent.
    pub(crate) replicas: Option<i16>,
    /// Settings.
    pub(crate) configs: BTreeMap<String, String>,
    /// The topic whose placement is taken over.
    pub(crate) beside: Option<TopicId>,
}

impl NewTopic {
    /// A topic with defaults.
    pub(crate) fn named(name: &str) -> NewTopic {
        NewTopic {
            name: name.to_owned(),
            partitions: None,
            replicas: None,
            configs: BTreeMap::new(),
            beside: None,
        }
    }
}

/// Why a topic was not made or deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopicError {
    #[error(
        "'{0}' is no topic name: use 1 to 249 letters, digits, '.', '_' and '-', and not '.' or '..'"
    )]
    Name(String),
    #[error("'{0}' is a name the broker keeps for itself")]
    Internal(String),
    #[error("a topic has 1 to {PARTITIONS_MAX} partitions, not {0}")]
    Partitions(i32),
    #[error(
        "topic '{name}' has {has} partitions, so {asked} would add none; partitions can only be added, never taken away"
    )]
    NotMore { name: String, has: i32, asked: i32 },
    #[error("replication factor {0} is not possible: this cluster has one node")]
    Replicas(i16),
    #[error(transparent)]
    Config(#[from] configs::ConfigError),
    #[error(transparent)]
    ConfigChange(#[from] ConfigChangeError),
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error("a partition could not be opened: {0}")]
    Ring(String),
    #[error(
        "the disk of this broker is full, and nothing new is made until there is room: delete topics or records, or make the \
         disk larger"
    )]
    DiskFull,
    #[error(transparent)]
    Gone(#[from] ShardGone),
}

impl TopicError {
    /// Whether the topic was there already.
    pub(crate) fn is_exists(&self) -> bool {
        matches!(
            self,
            TopicError::Controller(ControllerError::Refused(Refusal::TopicExists(_)))
        )
    }
}

/// What a partition of `topic` is opened with.
pub(crate) fn partition_config(topic: &Topic, defaults: &configs::Defaults) -> PartitionConfig {
    let integer = |name| defaults.integer(&topic.configs, name);
    // What groups and transactions committed is not a matter of age or size.
    let lasts = topic_name::is_internal(&topic.name) && topic.name != topic_name::TRANSFORM_LOGS;
    let removes = !lasts && configs::deletes(&topic.configs);
    let kept = |name| match removes {
        true => integer(name),
        false => -1,
    };
    PartitionConfig {
        timestamp_type: match defaults.value(&topic.configs, "message.timestamp.type") {
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        },
        segment_bytes: integer("segment.bytes") as u32,
        max_message_bytes: integer("max.message.bytes") as u32,
        segment_ms: integer("segment.ms"),
        retention_ms: kept("retention.ms"),
        retention_bytes: kept("retention.bytes"),
        timestamp_after_max_ms: integer("message.timestamp.after.max.ms"),
    }
}

/// Checks everything about a new topic that does not depend on what exists.
pub(crate) fn check(new: &NewTopic) -> Result<(), TopicError> {
    topic_name::check(&new.name).map_err(|_| TopicError::Name(new.name.clone()))?;
    if topic_name::is_internal(&new.name) {
        return Err(TopicError::Internal(new.name.clone()));
    }
    if let Some(partitions) = new.partitions
        && !(1..=PARTITIONS_MAX).contains(&partitions)
    {
        return Err(TopicError::Partitions(partitions));
    }
    let replicas = new.replicas.unwrap_or(REPLICAS_DEFAULT);
    if replicas != 1 {
        return Err(TopicError::Replicas(replicas));
    }
    Ok(configs::validate(&new.configs)?)
}

impl Shard {
    /// Makes a topic, from any shard; when this returns, every shard knows it and its partitions take records.
    ///
    /// # Errors
    /// [`TopicError`]; `is_exists()` when it was there.
    pub(crate) async fn create_topic(
        self: &Rc<Shard>,
        new: NewTopic,
    ) -> Result<Arc<Topic>, TopicError> {
        check(&new)?;
        self.create_checked_topic(new).await
    }

    async fn create_checked_topic(
        self: &Rc<Shard>,
        new: NewTopic,
    ) -> Result<Arc<Topic>, TopicError> {
        // As a task of its own: a client that goes away must not leave the topic half made.
        self.handle
            .on(CONTROLLER_SHARD, move |shard| async move {
                shard.create_topic_here(new).await
            })
            .await?
    }

    async fn create_topic_here(self: &Rc<Shard>, new: NewTopic) -> Result<Arc<Topic>, TopicError> {
        let _turn = self.topic_changes.acquire(1).await;
        if self.log().space().is_full() {
            return Err(TopicError::DiskFull);
        }
        let topic = Arc::new(self.place(new));
        let command = ControllerCommand::CreateTopic {
            topic: Topic::clone(&topic),
        };
        self.controller_here().execute(&command).await?;
        let opened = self.open_partitions(&topic, 0).await;
        if opened.is_err() {
            self.reconcile_later();
        }
        // Published in any case: the topic exists, and can be deleted.
        self.publish().await?;
        opened.map(|()| topic)
    }

    fn place(&self, new: NewTopic) -> Topic {
        let beside = new
            .beside
            .and_then(|id| self.image().topic_by_id(id).cloned());
        let partitions = match (&new.partitions, &beside) {
            (Some(n), _) => *n,
            (None, Some(input)) => input.partition_count(),
            (None, None) => self.info.settings.topics.partitions,
        } as usize;
        let rings = match &beside {
            Some(input) => placement::place_beside(&input.rings, partitions),
            None => {
                let rings = placement::data_rings(self.info.shards);
                let first = rand::below(rings.len() as u64) as usize;
                placement::place(first, partitions, &rings)
            }
        };
        let mut id = [0; 16];
        rand::fill(&mut id);
        Topic {
            name: new.name,
            id: TopicId::from_random(id),
            rings,
            replicas: new.replicas.unwrap_or(REPLICAS_DEFAULT),
            configs: new.configs,
        }
    }

    /// The controller; only called on [`CONTROLLER_SHARD`].
    pub(crate) fn controller_here(&self) -> &tidemill_controller::Controller {
        self.controller()
            .expect("the controller runs on shard 0, where this is called")
    }

    /// Writes the controller's checkpoint now and then: until then its first entries keep every file of this shard's
    /// write-ahead log (rule S7).
    pub(crate) fn start_controller_checkpoints(self: &Rc<Shard>) {
        let shard = self.clone();
        drop(task::spawn(Queue::Background, async move {
            loop {
                let grown = shard.log().stats().written_bytes + CHECKPOINT_AFTER_BYTES;
                let due = time::timeout(CHECKPOINT_EVERY, shard.log().written_past(grown));
                if let Either::Left(_) = select(pin!(shard.stopped()), pin!(due)).await {
                    return;
                }
                if let Err(error) = shard.controller_here().write_checkpoint().await {
                    tracing::warn!(%error, "no checkpoint of the controller was written; trying again");
                }
            }
        }));
    }

    /// Opens the partitions of `topic` from `first` on in their rings.
    pub(crate) async fn open_partitions(
        self: &Rc<Shard>,
        topic: &Arc<Topic>,
        first: usize,
    ) -> Result<(), TopicError> {
        let topic = topic.clone();
        let results = self.handle.on_all(move |shard| {
            let topic = topic.clone();
            async move { shard.open_partitions_here(&topic, first).await }
        });
        for result in results.await? {
            result.map_err(TopicError::Ring)?;
        }
        Ok(())
    }

    async fn open_partitions_here(&self, topic: &Topic, first: usize) -> Result<(), String> {
        let config = partition_config(topic, &self.info.topic_defaults);
        let mut here = Vec::new();
        for (index, ring) in topic.rings.iter().enumerate().skip(first) {
            if let Some(ring) = self.ring(RingId(*ring)) {
                here.push((ring.clone(), topic.partition(index as i32), config));
            }
        }
        open_in_turns(&here).await
    }

    /// Deletes a topic, from any shard. Records, offsets and progress in it are gone.
    ///
    /// # Errors
    /// [`TopicError`].
    pub(crate) async fn delete_topic(self: &Rc<Shard>, id: TopicId) -> Result<(), TopicError> {
        if let Some(topic) = self.image().topic_by_id(id)
            && topic_name::is_internal(&topic.name)
        {
            return Err(TopicError::Internal(topic.name.clone()));
        }
        self.handle
            .on(CONTROLLER_SHARD, move |shard| async move {
                shard.delete_topic_here(id).await
            })
            .await?
    }

    async fn delete_topic_here(self: &Rc<Shard>, id: TopicId) -> Result<(), TopicError> {
        let _turn = self.topic_changes.acquire(1).await;
        self.controller_here()
            .execute(&ControllerCommand::DeleteTopic {
                id,
                if_used: IfUsed::Delete,
            })
            .await?;
        self.publish().await?;
        self.handle
            .on_all(|shard| async move { shard.forget_deleted_offsets() })
            .await?;
        // It is deleted; what a ring cannot drop now is dropped later.
        if let Err(error) = self.reconcile_all().await {
            tracing::warn!(%error, "a deleted topic still has partitions; they are dropped later");
            self.reconcile_later();
        }
        Ok(())
    }

    /// Makes every shard agree with the controller, then lets it forget the deleted topics. On [`CONTROLLER_SHARD`], with
    /// `topic_changes` held.
    ///
    /// # Errors
    /// What a shard could not open or drop.
    pub(crate) async fn reconcile_all(self: &Rc<Shard>) -> Result<(), TopicError> {
        let deleted = self.controller_here().image();
        let results = self
            .handle
            .on_all(|shard| async move { shard.reconcile_partitions().await });
        for result in results.await? {
            result.map_err(TopicError::Ring)?;
        }
        let gone: Vec<TopicId> = deleted.deleted_topics().iter().copied().collect();
        for some in gone.chunks(RETIRE_AT_ONCE) {
            let ids = some.to_vec();
            let retire = ControllerCommand::RetireTopics { ids };
            self.controller_here().execute(&retire).await?;
        }
        Ok(())
    }

    /// Tries until every shard agrees with the controller, in the background. On [`CONTROLLER_SHARD`].
    pub(crate) fn reconcile_later(self: &Rc<Shard>) {
        if self.reconciling.replace(true) {
            return;
        }
        let shard = self.clone();
        drop(task::spawn(Queue::Background, async move {
            loop {
                if time::timeout(RECONCILE_EVERY, shard.stopped())
                    .await
                    .is_ok()
                {
                    return;
                }
                let _turn = shard.topic_changes.acquire(1).await;
                match shard.reconcile_all().await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(%error, "partitions and controller do not agree yet; trying again");
                    }
                }
            }
            shard.reconciling.set(false);
            // What waited for these partitions (transforms, clients) looks again.
            let _ = shard.publish().await;
        }));
    }

    /// Compares what is on this shard's disk with what the controller decided, before anything is changed: a folder that is
    /// lost or older than the others must be put back, not made to agree.
    ///
    /// # Errors
    /// What does not fit, and what to do.
    pub(crate) fn check_rings(&self) -> Result<(), String> {
        let image = self.image();
        let folder = format!("shard-{}", self.id.0);
        for (id, ring) in self.rings() {
            let named = image.topics().find(|t| t.rings.contains(&id.0));
            if let (true, Some(topic)) = (ring.began_empty(), named) {
                return Err(format!(
                    "the data of ring {id} is gone, which holds partitions of topic '{}': the folder {folder} of the data \
                     directory is missing or was emptied. Put it back as it was; nothing was changed",
                    topic.name
                ));
            }
            let unknown = |p: &PartitionId| {
                image.ring_of(*p) != Some(*id) && !image.deleted_topics().contains(&p.topic)
            };
            if let Some(partition) = ring.partitions().into_iter().find(unknown) {
                return Err(format!(
                    "ring {id} in {folder} holds partition {partition}, which the controller neither knows nor deleted: the \
                     folder shard-{} of the data directory is missing or older than the others. Put back the one that \
                     belongs to them; nothing was changed",
                    CONTROLLER_SHARD.0
                ));
            }
        }
        Ok(())
    }

    /// Gives every shard the controller's newest image and waits until each has taken it in: partitions attached to
    /// new transforms included (rule X1).
    pub(crate) async fn publish(self: &Rc<Shard>) -> Result<(), ShardGone> {
        // What could not be attached is tried again by the shards themselves; a deploy asks more strictly.
        self.publish_strictly().await.map(drop)
    }

    /// As [`Shard::publish`], and tells what transforms could not be attached to.
    pub(crate) async fn publish_strictly(self: &Rc<Shard>) -> Result<Vec<NotAttached>, ShardGone> {
        let image = self.controller_here().image();
        let results = self.handle.on_all(move |shard| {
            shard.set_image(image.clone());
            shard.groups_changed();
            async move { shard.transforms_changed().await }
        });
        Ok(results.await?.into_iter().flatten().collect())
    }

    /// Makes this shard's rings agree with the image: opens partitions that are missing (a crash came between the
    /// controller's decision and the ring's), drops those of deleted topics, gives the others the settings of their topics.
    pub(crate) async fn reconcile_partitions(self: &Rc<Shard>) -> Result<(), String> {
        let image = self.image();
        for (id, ring) in self.rings() {
            let here: Vec<PartitionId> = ring.partitions();
            let gone: Vec<PartitionId> = here
                .iter()
                .filter(|p| image.deleted_topics().contains(&p.topic))
                .copied()
                .collect();
            let dropped = ring.drop_partitions(&gone).await;
            dropped.map_err(|e| e.to_string())?;
            let opened_as = |(partition, topic): (PartitionId, Arc<Topic>)| {
                let config = partition_config(&topic, &self.info.topic_defaults);
                (ring.clone(), partition, config)
            };
            let missing = missing(&image, *id, &here).into_iter().map(opened_as);
            let missing: Vec<_> = missing.collect();
            open_in_turns(&missing).await?;
        }
        self.configure_partitions(&image).await
    }

    /// The topic, made with defaults if it is not there: what Metadata and Produce do for clients that ask for it.
    pub(crate) async fn topic_or_create(
        self: &Rc<Shard>,
        name: &str,
    ) -> Result<Arc<Topic>, TopicError> {
        if let Some(topic) = self.image().topic(name) {
            return Ok(topic.clone());
        }
        let made = self.create_topic(NewTopic::named(name)).await;
        self.made_or_there(name, made).await
    }

    /// A topic that the broker keeps for itself, made if it is missing.
    pub(crate) async fn internal_topic_or_create(
        self: &Rc<Shard>,
        new: NewTopic,
    ) -> Result<Arc<Topic>, TopicError> {
        debug_assert!(topic_name::is_internal(&new.name));
        if let Some(topic) = self.image().topic(&new.name) {
            return Ok(topic.clone());
        }
        let name = new.name.clone();
        let made = self.create_checked_topic(new).await;
        self.made_or_there(&name, made).await
    }

    async fn made_or_there(
        self: &Rc<Shard>,
        name: &str,
        made: Result<Arc<Topic>, TopicError>,
    ) -> Result<Arc<Topic>, TopicError> {
        match made {
            Err(e) if e.is_exists() => {
                let image = self
                    .on(
                        CONTROLLER_SHARD,
                        |s| async move { s.controller_here().image() },
                    )
                    .await?;
                image.topic(name).cloned().ok_or(e)
            }
            other => other,
        }
    }
}

/// Opens partitions, many with each entry.
async fn open_in_turns(partitions: &[(Ring, PartitionId, PartitionConfig)]) -> Result<(), String> {
    let mut by_ring: BTreeMap<RingId, (&Ring, Vec<_>)> = BTreeMap::new();
    for (ring, id, config) in partitions {
        let (_, here) = by_ring.entry(ring.id()).or_insert((ring, Vec::new()));
        here.push((*id, *config));
    }
    for (ring, here) in by_ring.into_values() {
        let opened = ring.open_partitions(&here, EPOCH_BASE).await;
        opened.map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn missing(image: &Image, ring: RingId, here: &[PartitionId]) -> Vec<(PartitionId, Arc<Topic>)> {
    let mut out = Vec::new();
    for topic in image.topics() {
        for (index, r) in topic.rings.iter().enumerate() {
            let partition = topic.partition(index as i32);
            if *r == ring.0 && here.binary_search(&partition).is_err() {
                out.push((partition, topic.clone()));
            }
        }
    }
    out
}

/// Wall-clock time for entries, in ms since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    time::unix_ms()
}
