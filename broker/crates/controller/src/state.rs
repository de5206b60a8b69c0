//! The controller's state machine: pure, no clock, no randomness, no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_model::{TopicId, topic_name};

use crate::command::{ControllerCommand, ControllerReply, IfUsed, Refusal};
use crate::deploy;
use crate::image::{Image, Topic, TransformSpec, TransformStatus};

/// Most topics of a cluster.
pub const TOPICS_MAX: usize = 100_000;
/// Most partitions of a cluster, of all topics: what a node has memory for.
pub const PARTITIONS_TOTAL_MAX: usize = 200_000;
/// Most transforms of a cluster.
pub const TRANSFORMS_MAX: usize = 10_000;
/// Most outputs of a transform.
pub const OUTPUTS_MAX: usize = 64;

/// What a command came to.
pub type Applied = Result<ControllerReply, Refusal>;

/// State of ring 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerState {
    image: Image,
    next_producer_id: i64,
}

/// The stored form.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    version: u64,
    next_producer_id: i64,
    topics: Vec<Topic>,
    /// Deleted topics of which a ring may still have partitions, by id.
    #[serde(default)]
    deleted: Vec<String>,
    transforms: Vec<TransformSpec>,
    /// Earlier versions of the transforms, oldest first.
    #[serde(default)]
    earlier: Vec<TransformSpec>,
    /// Lives of transforms that are over and not retired.
    #[serde(default)]
    replaced: Vec<TransformSpec>,
}

/// Version of the stored form.
const FORMAT: u32 = 1;

impl Default for ControllerState {
    fn default() -> Self {
        ControllerState {
            image: Image::default(),
            next_producer_id: 1,
        }
    }
}

impl Image {
    /// Whether a topic of this name and number of partitions could be made.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check_new_topic(&self, name: &str, partitions: usize) -> Result<(), Refusal> {
        if self.topics.contains_key(name) {
            return Err(Refusal::TopicExists(name.to_owned()));
        }
        if self.topics.len() >= TOPICS_MAX {
            return Err(Refusal::Limit(format!(
                "the cluster has {TOPICS_MAX} topics, which is its limit"
            )));
        }
        self.room_for_partitions(partitions)?;
        let key = topic_name::collision_key(name);
        let mut names = self.topics.keys();
        if name.contains(['.', '_'])
            && let Some(other) = names.find(|n| topic_name::collision_key(n) == key)
        {
            return Err(Refusal::TopicCollides(name.to_owned(), other.clone()));
        }
        Ok(())
    }

    /// Whether the cluster may have `more` partitions.
    ///
    /// # Errors
    /// [`Refusal::Limit`].
    pub fn room_for_partitions(&self, more: usize) -> Result<(), Refusal> {
        let partitions = self.partition_count() + more;
        if partitions <= PARTITIONS_TOTAL_MAX {
            return Ok(());
        }
        Err(Refusal::Limit(format!(
            "the cluster would have {partitions} partitions; its limit is {PARTITIONS_TOTAL_MAX}"
        )))
    }
}

impl ControllerState {
    /// The snapshot others read.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Carries out the command at log position `index`. A refused command changes nothing.
    ///
    /// # Errors
    /// [`Refusal`], which is an answer like any other: it is part of the log's meaning.
    pub fn apply(&mut self, index: u64, command: ControllerCommand) -> Applied {
        let reply = match command {
            ControllerCommand::CreateTopic { topic } => self.create_topic(topic),
            ControllerCommand::DeleteTopic { id, if_used } => self.delete_topic(id, if_used),
            ControllerCommand::RetireTopics { ids } => {
                for id in ids {
                    self.image.deleted.remove(&id);
                }
                Ok(ControllerReply::Done)
            }
            ControllerCommand::AddPartitions {
                id,
                existing,
                rings,
            } => self.add_partitions(id, existing, &rings),
            ControllerCommand::ConfigureTopic { id, configs } => self.configure_topic(id, configs),
            ControllerCommand::AllocateProducerIds { count } => {
                let first = self.next_producer_id;
                self.next_producer_id += i64::from(count);
                return Ok(ControllerReply::ProducerIds { first });
            }
            ControllerCommand::DeployTransform(deploy) => {
                deploy::apply(&mut self.image, index, *deploy)
            }
            ControllerCommand::SetPaused { name, paused } => self.set_paused(&name, paused),
            ControllerCommand::DeleteTransform { name } => self.delete_transform(&name),
            ControllerCommand::RetireTransform { name, incarnation } => {
                self.retire_transform(&name, incarnation)
            }
        }?;
        self.image.version = index;
        Ok(reply)
    }

    fn create_topic(&mut self, topic: Topic) -> Applied {
        self.image.check_new_topic(&topic.name, topic.rings.len())?;
        self.put_topic(topic);
        Ok(ControllerReply::Done)
    }

    fn topic_copy(&self, id: TopicId) -> Result<Topic, Refusal> {
        let topic = self.image.by_id.get(&id).map(|t| Topic::clone(t));
        topic.ok_or_else(|| Refusal::NoSuchTopic(id.to_string()))
    }

    fn put_topic(&mut self, topic: Topic) {
        let topic = Arc::new(topic);
        self.image.by_id.insert(topic.id, topic.clone());
        self.image.topics.insert(topic.name.clone(), topic);
    }

    fn add_partitions(&mut self, id: TopicId, existing: u32, rings: &[u32]) -> Applied {
        let mut topic = self.topic_copy(id)?;
        let has = topic.rings.len() as u32;
        if has != existing {
            return Err(Refusal::PartitionsChanged {
                name: topic.name,
                has,
            });
        }
        self.image.room_for_partitions(rings.len())?;
        for spec in self.image.transforms.values_mut() {
            if spec.input.id == id && spec.input_partitions.is_none() {
                Arc::make_mut(spec).input_partitions = Some(existing);
            }
        }
        topic.rings.extend(rings);
        self.put_topic(topic);
        Ok(ControllerReply::Done)
    }

    fn configure_topic(&mut self, id: TopicId, configs: BTreeMap<String, String>) -> Applied {
        let mut topic = self.topic_copy(id)?;
        topic.configs = configs;
        self.put_topic(topic);
        Ok(ControllerReply::Done)
    }

    fn delete_topic(&mut self, id: TopicId, if_used: IfUsed) -> Applied {
        let uses = |t: &&Arc<TransformSpec>| {
            t.input.id == id || t.outputs.iter().any(|output| output.id == id)
        };
        if if_used == IfUsed::Refuse
            && let Some(topic) = self.image.by_id.get(&id)
            && let Some(user) = self.image.transforms.values().find(uses)
        {
            return Err(Refusal::TopicInUse {
                topic: topic.name.clone(),
                transform: user.name.clone(),
            });
        }
        let Some(topic) = self.image.by_id.remove(&id) else {
            return Err(Refusal::NoSuchTopic(id.to_string()));
        };
        self.image.topics.remove(&topic.name);
        self.image.deleted.insert(id);
        Ok(ControllerReply::Done)
    }

    fn transform(&mut self, name: &str) -> Result<&mut TransformSpec, Refusal> {
        match self.image.transforms.get_mut(name) {
            None => Err(Refusal::NoSuchTransform(name.to_owned())),
            Some(t) if t.status == TransformStatus::Deleting => {
                Err(Refusal::Deleting(name.to_owned()))
            }
            Some(t) => Ok(Arc::make_mut(t)),
        }
    }

    fn set_paused(&mut self, name: &str, paused: bool) -> Applied {
        self.transform(name)?.status = if paused {
            TransformStatus::Paused
        } else {
            TransformStatus::Running
        };
        Ok(ControllerReply::Done)
    }

    fn delete_transform(&mut self, name: &str) -> Applied {
        let spec = self.transform(name)?;
        spec.status = TransformStatus::Deleting;
        // What it may still deliver needs none of this.
        spec.secrets.clear();
        self.image.earlier.remove(name);
        Ok(ControllerReply::Done)
    }

    fn retire_transform(&mut self, name: &str, incarnation: u64) -> Applied {
        if self.image.replaced.remove(&incarnation).is_some() {
            return Ok(ControllerReply::Done);
        }
        let retired =
            self.image.transforms.get(name).is_some_and(|t| {
                t.incarnation == incarnation && t.status == TransformStatus::Deleting
            });
        if !retired {
            return Err(Refusal::NoSuchTransform(name.to_owned()));
        }
        self.image.transforms.remove(name);
        Ok(ControllerReply::Done)
    }

    /// The stored form, JSON.
    pub fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            format: FORMAT,
            version: self.image.version,
            next_producer_id: self.next_producer_id,
            topics: self
                .image
                .topics
                .values()
                .map(|t| Topic::clone(t))
                .collect(),
            deleted: self.image.deleted.iter().map(TopicId::to_string).collect(),
            transforms: copies(self.image.transforms.values()),
            earlier: copies(self.image.earlier.values().flatten()),
            replaced: copies(self.image.replaced.values()),
        };
        serde_json::to_vec(&stored).expect("plain data with text keys always becomes JSON")
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn decode(bytes: &[u8]) -> Result<ControllerState, String> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if stored.format != FORMAT {
            return Err(format!(
                "it has format {}, this build reads {FORMAT}",
                stored.format
            ));
        }
        let mut image = Image {
            version: stored.version,
            ..Image::default()
        };
        for id in stored.deleted {
            let id = id.parse().map_err(|_| format!("'{id}' is no topic id"))?;
            image.deleted.insert(id);
        }
        for topic in stored.topics {
            let topic = Arc::new(topic);
            image.by_id.insert(topic.id, topic.clone());
            image.topics.insert(topic.name.clone(), topic);
        }
        let transforms: BTreeMap<String, Arc<TransformSpec>> = stored
            .transforms
            .into_iter()
            .map(|t| (t.name.clone(), Arc::new(t)))
            .collect();
        image.transforms = transforms;
        for version in stored.earlier {
            let of = image.earlier.entry(version.name.clone()).or_default();
            of.push(Arc::new(version));
        }
        let replaced = stored.replaced.into_iter();
        image.replaced = replaced.map(|t| (t.incarnation, Arc::new(t))).collect();
        Ok(ControllerState {
            image,
            next_producer_id: stored.next_producer_id,
        })
    }
}

fn copies<'a>(specs: impl Iterator<Item = &'a Arc<TransformSpec>>) -> Vec<TransformSpec> {
    specs.map(|spec| TransformSpec::clone(spec)).collect()
}

#[cfg(test)]
mod tests;
