//! The controller's state machine: pure, no clock, no randomness, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_model::{TopicId, topic_name};

use crate::command::{ControllerCommand, ControllerReply, Deploy, Refusal};
use crate::image::{Image, Topic, TopicRef, TransformSpec, TransformStatus};

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
            ControllerCommand::DeleteTopic { id } => self.delete_topic(id),
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
            ControllerCommand::DeployTransform(deploy) => self.deploy(index, *deploy),
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
        if self.image.topics.contains_key(&topic.name) {
            return Err(Refusal::TopicExists(topic.name));
        }
        if self.image.topics.len() >= TOPICS_MAX {
            return Err(Refusal::Limit(format!(
                "the cluster has {TOPICS_MAX} topics, which is its limit"
            )));
        }
        self.image.room_for_partitions(topic.rings.len())?;
        let key = topic_name::collision_key(&topic.name);
        if topic.name.contains(['.', '_'])
            && let Some(other) = self
                .image
                .topics
                .keys()
                .find(|n| topic_name::collision_key(n) == key)
        {
            return Err(Refusal::TopicCollides(topic.name, other.clone()));
        }
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

    fn delete_topic(&mut self, id: TopicId) -> Applied {
        let uses = |t: &&Arc<TransformSpec>| {
            t.input.id == id || t.outputs.iter().any(|output| output.id == id)
        };
        if let (Some(topic), Some(user)) = (
            self.image.by_id.get(&id),
            self.image.transforms.values().find(uses),
        ) {
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

    fn topic_ref(&self, name: &str) -> Result<TopicRef, Refusal> {
        let topic = self.image.topics.get(name);
        topic
            .map(|t| TopicRef {
                id: t.id,
                name: t.name.clone(),
            })
            .ok_or_else(|| Refusal::NoSuchTopic(name.to_owned()))
    }

    fn deploy(&mut self, index: u64, deploy: Deploy) -> Applied {
        let (input, outputs, dead_letter) = self.resolve_topics(&deploy)?;
        self.refuse_cycle(&deploy.name, input.id, &outputs)?;
        let current = self.image.transforms.get(&deploy.name);
        let (incarnation, version, from, status) = match current {
            Some(t) if t.status == TransformStatus::Deleting => {
                return Err(Refusal::Deleting(deploy.name));
            }
            Some(t) if t.input.id != input.id => {
                return Err(Refusal::InputChanged {
                    name: deploy.name,
                    current: t.input.name.clone(),
                });
            }
            Some(t) => (t.incarnation, t.version + 1, t.from, t.status),
            None if self.image.transforms.len() >= TRANSFORMS_MAX => {
                return Err(Refusal::Limit(format!(
                    "the cluster has {TRANSFORMS_MAX} transforms, which is its limit"
                )));
            }
            None => (index, 1, deploy.from, TransformStatus::Running),
        };
        let new = current.is_none();
        let spec = TransformSpec {
            name: deploy.name.clone(),
            incarnation,
            version,
            module: deploy.module,
            input,
            declared_outputs: deploy.outputs.len() as u32,
            outputs,
            dead_letter,
            env: deploy.env,
            from,
            time_ms: deploy.time_ms,
            memory_bytes: deploy.memory_bytes,
            on_error: deploy.on_error,
            attempts: deploy.attempts,
            compression: deploy.compression,
            weight: deploy.weight,
            partition_by: deploy.partition_by,
            status,
            input_partitions: current.and_then(|t| t.input_partitions),
        };
        self.image.transforms.insert(deploy.name, Arc::new(spec));
        Ok(ControllerReply::Deployed {
            incarnation,
            version,
            new,
        })
    }

    #[allow(
        clippy::type_complexity,
        reason = "the three parts of a deploy's topics, used once"
    )]
    fn resolve_topics(
        &self,
        deploy: &Deploy,
    ) -> Result<(TopicRef, Vec<TopicRef>, Option<u32>), Refusal> {
        if deploy.outputs.is_empty() {
            return Err(Refusal::Outputs(
                "a transform needs at least one output topic".to_owned(),
            ));
        }
        if deploy.outputs.len() > OUTPUTS_MAX {
            return Err(Refusal::Outputs(format!(
                "a transform has at most {OUTPUTS_MAX} output topics"
            )));
        }
        let distinct: BTreeSet<&String> = deploy.outputs.iter().collect();
        if distinct.len() != deploy.outputs.len() {
            return Err(Refusal::Outputs(
                "an output topic is named twice".to_owned(),
            ));
        }
        let input = self.topic_ref(&deploy.input)?;
        let mut outputs = Vec::new();
        for name in &deploy.outputs {
            outputs.push(self.topic_ref(name)?);
        }
        let dead_letter = match &deploy.dead_letter {
            None => None,
            Some(name) => {
                let at = deploy.outputs.iter().position(|o| o == name);
                Some(match at {
                    Some(at) => at as u32,
                    None => {
                        outputs.push(self.topic_ref(name)?);
                        (outputs.len() - 1) as u32
                    }
                })
            }
        };
        Ok((input, outputs, dead_letter))
    }

    /// Walks from the outputs along the other transforms; reaching `input` again is a circle (rule X10).
    fn refuse_cycle(
        &self,
        name: &str,
        input: TopicId,
        outputs: &[TopicRef],
    ) -> Result<(), Refusal> {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<(TopicId, String)> = outputs
            .iter()
            .map(|o| (o.id, format!("{name} -> {}", o.name)))
            .collect();
        while let Some((topic, path)) = todo.pop() {
            if topic == input {
                return Err(Refusal::Cycle(path));
            }
            if !seen.insert(topic) {
                continue;
            }
            for next in self.image.transforms.values() {
                if next.name != name && next.input.id == topic {
                    for output in &next.outputs {
                        todo.push((
                            output.id,
                            format!("{path} -> {} -> {}", next.name, output.name),
                        ));
                    }
                }
            }
        }
        Ok(())
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
        self.transform(name)?.status = TransformStatus::Deleting;
        Ok(ControllerReply::Done)
    }

    fn retire_transform(&mut self, name: &str, incarnation: u64) -> Applied {
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
            transforms: self
                .image
                .transforms
                .values()
                .map(|t| TransformSpec::clone(t))
                .collect(),
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
        Ok(ControllerState {
            image,
            next_producer_id: stored.next_producer_id,
        })
    }
}

#[cfg(test)]
mod tests;
