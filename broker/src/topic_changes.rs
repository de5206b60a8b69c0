//! Changing topics that exist: more partitions, other settings. Changes run on shard 0, beside the controller, one at a time.

use std::rc::Rc;
use std::sync::Arc;

use tidemill_controller::config_change::ConfigChange;
use tidemill_controller::{ControllerCommand, ControllerError, Image, Refusal, Topic, placement};
use tidemill_model::{PartitionId, RingId, topic_name};
use tidemill_ring::{PartitionConfig, Ring};

use crate::shard::Shard;
use crate::topics::{
    CHANGE_AT_ONCE, CONTROLLER_SHARD, PARTITIONS_MAX, TopicError, partition_config,
};

/// What is done with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is checked, and nothing is changed.
    Check,
    /// It is carried out.
    Apply,
}

/// A partition whose settings are to change.
type Setting = (Ring, PartitionId, PartitionConfig);

impl Shard {
    /// Gives a topic `partitions` partitions in all, from any shard; when this returns, every shard knows them, they take
    /// records, and transforms that read the topic are attached to them.
    ///
    /// # Errors
    /// [`TopicError`].
    pub(crate) async fn grow_topic(
        self: &Rc<Shard>,
        name: String,
        partitions: i32,
        mode: Mode,
    ) -> Result<(), TopicError> {
        // As a task of its own: a client that goes away must not leave the topic half grown.
        self.handle
            .on(CONTROLLER_SHARD, move |shard| async move {
                shard.grow_topic_here(&name, partitions, mode).await
            })
            .await?
    }

    async fn grow_topic_here(
        self: &Rc<Shard>,
        name: &str,
        partitions: i32,
        mode: Mode,
    ) -> Result<(), TopicError> {
        let _turn = self.topic_changes.acquire(1).await;
        let image = self.controller_here().image();
        let topic = changeable(&image, name)?;
        let more = check_growth(&image, &topic, partitions)?;
        if mode == Mode::Check {
            return Ok(());
        }
        if self.log().space().is_full() {
            return Err(TopicError::DiskFull);
        }
        let existing = topic.rings.len();
        let command = ControllerCommand::AddPartitions {
            id: topic.id,
            existing: existing as u32,
            rings: self.place_more(&image, &topic, more),
        };
        self.controller_here().execute(&command).await?;
        let image = self.controller_here().image();
        let grown = changeable(&image, name)?;
        let opened = self.open_partitions(&grown, existing).await;
        if opened.is_err() {
            self.reconcile_later();
        }
        // Published in any case: the partitions are decided, and will be there.
        self.publish().await?;
        opened
    }

    /// The rings of new partitions: those of an output of a transform go where the input's are, as far as it has as many,
    /// so that input and output share a ring.
    fn place_more(&self, image: &Image, topic: &Topic, more: usize) -> Vec<u32> {
        let existing = topic.rings.len();
        let rings = placement::data_rings(self.info.shards);
        let mut placed = placement::place_more(topic.rings[0], existing, more, &rings);
        let writer = image
            .transforms()
            .find(|t| t.outputs.iter().any(|o| o.id == topic.id));
        let input = writer.and_then(|t| image.topic_by_id(t.input.id));
        let beside = input.map_or(&[][..], |input| &input.rings);
        for (ring, beside) in placed.iter_mut().zip(beside.iter().skip(existing)) {
            *ring = *beside;
        }
        placed
    }

    /// Changes the settings of a topic, from any shard; when this returns, the change is durable and every partition acts by
    /// it.
    ///
    /// # Errors
    /// [`TopicError`].
    pub(crate) async fn configure_topic(
        self: &Rc<Shard>,
        name: String,
        change: ConfigChange,
        mode: Mode,
    ) -> Result<(), TopicError> {
        self.handle
            .on(CONTROLLER_SHARD, move |shard| async move {
                shard.configure_topic_here(&name, change, mode).await
            })
            .await?
    }

    async fn configure_topic_here(
        self: &Rc<Shard>,
        name: &str,
        change: ConfigChange,
        mode: Mode,
    ) -> Result<(), TopicError> {
        let _turn = self.topic_changes.acquire(1).await;
        let topic = changeable(&self.controller_here().image(), name)?;
        let configs = change.apply(&topic.configs)?;
        if mode == Mode::Check {
            return Ok(());
        }
        if configs != topic.configs {
            let id = topic.id;
            let command = ControllerCommand::ConfigureTopic { id, configs };
            self.controller_here().execute(&command).await?;
        }
        let image = self.controller_here().image();
        let topic = changeable(&image, name)?;
        let configured = self.configure_everywhere(&topic).await;
        if configured.is_err() {
            self.reconcile_later();
        }
        self.publish().await?;
        configured
    }

    async fn configure_everywhere(self: &Rc<Shard>, topic: &Arc<Topic>) -> Result<(), TopicError> {
        let topic = topic.clone();
        let results = self.handle.on_all(move |shard| {
            let topic = topic.clone();
            async move { configure_in_turns(&shard.settings_to_change(&topic)).await }
        });
        for result in results.await? {
            result.map_err(TopicError::Ring)?;
        }
        Ok(())
    }

    /// Gives every partition on this shard the settings of its topic.
    pub(crate) async fn configure_partitions(&self, image: &Image) -> Result<(), String> {
        for topic in image.topics() {
            configure_in_turns(&self.settings_to_change(topic)).await?;
        }
        Ok(())
    }

    /// The partitions of `topic` on this shard that have other settings than their topic.
    fn settings_to_change(&self, topic: &Topic) -> Vec<Setting> {
        let wanted = partition_config(topic, &self.info.topic_defaults);
        let mut out = Vec::new();
        for (index, ring) in topic.rings.iter().enumerate() {
            let partition = topic.partition(index as i32);
            let Some(ring) = self.ring(RingId(*ring)) else {
                continue;
            };
            if ring.view(partition).is_some_and(|v| v.config != wanted) {
                out.push((ring.clone(), partition, wanted));
            }
        }
        out
    }
}

/// Changes settings, many partitions at a time, but never more than a ring takes proposals.
async fn configure_in_turns(settings: &[Setting]) -> Result<(), String> {
    for some in settings.chunks(CHANGE_AT_ONCE) {
        let pending = some
            .iter()
            .map(|(ring, id, config)| ring.configure(*id, *config));
        for configured in futures_util::future::join_all(pending).await {
            configured.map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// A topic that users may change.
fn changeable(image: &Image, name: &str) -> Result<Arc<Topic>, TopicError> {
    if topic_name::is_internal(name) {
        return Err(TopicError::Internal(name.to_owned()));
    }
    let missing = || ControllerError::from(Refusal::NoSuchTopic(name.to_owned()));
    Ok(image.topic(name).cloned().ok_or_else(missing)?)
}

/// How many partitions are to be added to `topic` so that it has `asked`.
fn check_growth(image: &Image, topic: &Topic, asked: i32) -> Result<usize, TopicError> {
    if !(1..=PARTITIONS_MAX).contains(&asked) {
        return Err(TopicError::Partitions(asked));
    }
    let has = topic.partition_count();
    if asked <= has {
        let name = topic.name.clone();
        return Err(TopicError::NotMore { name, has, asked });
    }
    let more = (asked - has) as usize;
    image
        .room_for_partitions(more)
        .map_err(ControllerError::from)?;
    Ok(more)
}
