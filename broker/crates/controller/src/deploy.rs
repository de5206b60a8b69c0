//! Deploying: what a deployment would lead to, and what it does. Pure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_model::TopicId;

use crate::command::{ControllerReply, Deploy, Refusal};
use crate::image::{Image, Sealed, StartPosition, TopicRef, TransformSpec, TransformStatus};
use crate::state::{Applied, OUTPUTS_MAX, TRANSFORMS_MAX};

/// Versions of a transform that are kept, the one that runs included.
pub const VERSIONS_KEPT: usize = 10;
/// Lives of transforms that wait to be retired, at most: each was replaced by one that reads a topic made anew.
pub const REPLACED_MAX: usize = 1_000;

/// Bytes, as [`Image::settings_bytes`] counts them, of environment and secrets of all kept versions of all transforms: they are in every snapshot, and in the memory of shard 0.
pub const SETTINGS_BYTES_MAX: usize = 64 << 20;

/// Bytes that an entry of an environment takes beside its text.
const ENTRY_BYTES: usize = 64;

/// Which life of a transform a deployment goes on with or begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// There is no transform of this name.
    New,
    /// The transform goes on where it stands.
    Same,
    /// Its input was deleted and made anew: it begins anew.
    Replaced,
}

/// What a deployment would lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Which life it is.
    pub life: Life,
    /// The version it would be.
    pub version: u32,
    /// Outputs that are not there and would have to be made.
    pub missing: Vec<String>,
    input: TopicRef,
    outputs: Vec<TopicRef>,
    dead_letter: Option<u32>,
}

impl Image {
    /// Decides about a deployment without changing anything. Outputs may be missing.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn plan(&self, deploy: &Deploy) -> Result<Plan, Refusal> {
        let input = self
            .topic_ref(&deploy.input)
            .ok_or_else(|| Refusal::NoSuchTopic(deploy.input.clone()))?;
        let (life, version) = self.life(deploy, input.id)?;
        self.refuse_settings(deploy)?;
        let mut plan = Plan {
            life,
            version,
            missing: Vec::new(),
            input,
            outputs: Vec::new(),
            dead_letter: None,
        };
        self.resolve_outputs(deploy, &mut plan)?;
        self.refuse_cycle(&deploy.name, plan.input.id, &plan.outputs)?;
        Ok(plan)
    }

    fn topic_ref(&self, name: &str) -> Option<TopicRef> {
        let topic = self.topic(name)?;
        Some(TopicRef {
            id: topic.id,
            name: topic.name.clone(),
        })
    }

    /// Whether the settings of `deploy` find room, without the version that it pushes out.
    fn refuse_settings(&self, deploy: &Deploy) -> Result<(), Refusal> {
        let (name, new) = (&deploy.name, settings_bytes(&deploy.env, &deploy.secrets));
        let goes = match self.earlier_versions(name) {
            kept if kept.len() + 2 > VERSIONS_KEPT => {
                settings_bytes(&kept[0].env, &kept[0].secrets)
            }
            _ => 0,
        };
        // What brings no more than it pushes out is never refused.
        if new <= goes || self.settings_bytes() - goes + new <= SETTINGS_BYTES_MAX {
            return Ok(());
        }
        Err(Refusal::Limit(format!(
            "environment and secrets of all transforms, the {VERSIONS_KEPT} versions kept of each included, would be more than \
             {SETTINGS_BYTES_MAX} bytes with the {new} of '{name}', which is the cluster's limit; delete transforms that are not needed, or \
             give them less"
        )))
    }

    /// Bytes of environment and secrets of all versions that are kept.
    pub fn settings_bytes(&self) -> usize {
        let earlier = self.earlier.values().flatten();
        let all = self.transforms.values().chain(earlier);
        let all = all.chain(self.replaced.values());
        all.map(|t| settings_bytes(&t.env, &t.secrets)).sum()
    }

    fn life(&self, deploy: &Deploy, input: TopicId) -> Result<(Life, u32), Refusal> {
        let Some(current) = self.transform(&deploy.name) else {
            return match self.transforms().count() < TRANSFORMS_MAX {
                true => Ok((Life::New, 1)),
                false => Err(Refusal::Limit(format!(
                    "the cluster has {TRANSFORMS_MAX} transforms, which is its limit"
                ))),
            };
        };
        let next = current.version + 1;
        if current.status == TransformStatus::Deleting {
            return Err(Refusal::Deleting(deploy.name.clone()));
        }
        if current.input.id == input {
            return Ok((Life::Same, next));
        }
        let made_anew = current.input.name == deploy.input;
        if !made_anew || self.topic_by_id(current.input.id).is_some() {
            return Err(Refusal::InputChanged {
                name: deploy.name.clone(),
                current: current.input.name.clone(),
            });
        }
        match self.replaced.len() < REPLACED_MAX {
            true => Ok((Life::Replaced, next)),
            false => Err(Refusal::Limit(format!(
                "{REPLACED_MAX} transforms that were deployed anew still deliver their last output; try again shortly"
            ))),
        }
    }

    /// Outputs in declared order; a dead-letter topic that is no declared output comes last.
    fn resolve_outputs(&self, deploy: &Deploy, plan: &mut Plan) -> Result<(), Refusal> {
        let refused = |message: String| Err(Refusal::Outputs(message));
        if deploy.outputs.is_empty() {
            return refused("a transform needs at least one output topic".to_owned());
        }
        if deploy.outputs.len() > OUTPUTS_MAX {
            return refused(format!(
                "a transform has at most {OUTPUTS_MAX} output topics"
            ));
        }
        let distinct: BTreeSet<&String> = deploy.outputs.iter().collect();
        if distinct.len() != deploy.outputs.len() {
            return refused("an output topic is named twice".to_owned());
        }
        let beside = deploy.dead_letter.iter();
        let all = deploy
            .outputs
            .iter()
            .chain(beside.filter(|d| !distinct.contains(d)));
        for name in all {
            match self.topic_ref(name) {
                Some(output) => plan.outputs.push(output),
                None => plan.missing.push(name.clone()),
            }
        }
        let declared = |name: &String| deploy.outputs.iter().position(|o| o == name);
        plan.dead_letter = deploy
            .dead_letter
            .as_ref()
            .map(|name| declared(name).unwrap_or(deploy.outputs.len()) as u32);
        Ok(())
    }

    /// Walks from the outputs along the other transforms; reaching `input` again is a circle (rule X10).
    fn refuse_cycle(
        &self,
        name: &str,
        input: TopicId,
        outputs: &[TopicRef],
    ) -> Result<(), Refusal> {
        let mut readers: BTreeMap<TopicId, Vec<&TransformSpec>> = BTreeMap::new();
        for reader in self.transforms().filter(|t| t.name != name) {
            readers.entry(reader.input.id).or_default().push(reader);
        }
        // By each topic met, the transform and the topic that lead there, and the topic before.
        let mut met: BTreeMap<TopicId, Step<'_>> = BTreeMap::new();
        let mut todo = Vec::new();
        if let Some(own) = outputs.iter().find(|output| output.id == input) {
            return Err(Refusal::OwnInput {
                transform: name.to_owned(),
                topic: own.name.clone(),
            });
        }
        for output in outputs {
            reach(&mut met, &mut todo, (name, output, None));
        }
        while let Some(topic) = todo.pop() {
            if topic == input {
                return Err(Refusal::Cycle(path(&met, topic)));
            }
            for next in readers.get(&topic).into_iter().flatten() {
                for output in &next.outputs {
                    reach(&mut met, &mut todo, (&next.name, output, Some(topic)));
                }
            }
        }
        Ok(())
    }
}

fn settings_bytes(env: &BTreeMap<String, String>, secrets: &BTreeMap<String, Sealed>) -> usize {
    let plain = env
        .iter()
        .map(|(name, value)| ENTRY_BYTES + name.len() + value.len());
    let sealed = secrets.iter();
    let sealed = sealed.map(|(name, s)| ENTRY_BYTES + name.len() + s.key.len() + s.sealed.len());
    plain.chain(sealed).sum()
}

/// The transform that writes to a topic, that topic, and the one that the transform reads; `None` for the transform that is deployed.
type Step<'a> = (&'a str, &'a TopicRef, Option<TopicId>);

/// Notes how a topic was come to, the first time.
fn reach<'a>(met: &mut BTreeMap<TopicId, Step<'a>>, todo: &mut Vec<TopicId>, step: Step<'a>) {
    let topic = step.1.id;
    if let Entry::Vacant(free) = met.entry(topic) {
        free.insert(step);
        todo.push(topic);
    }
}

/// The way to `topic`, from the transform that is deployed on.
fn path(met: &BTreeMap<TopicId, Step<'_>>, topic: TopicId) -> String {
    let mut steps = Vec::new();
    let mut at = Some(topic);
    while let Some((writer, written, before)) = at.and_then(|topic| met.get(&topic)) {
        steps.push(format!("{writer} -> {}", written.name));
        at = *before;
    }
    steps.reverse();
    steps.join(" -> ")
}

/// Deploys at log position `index`; the version before is kept.
pub(crate) fn apply(image: &mut Image, index: u64, deploy: Deploy) -> Applied {
    let plan = image.plan(&deploy)?;
    if let Some(missing) = plan.missing.first() {
        return Err(Refusal::NoSuchTopic(missing.clone()));
    }
    let (life, version) = (plan.life, plan.version);
    let current = image.transforms.get(&deploy.name).cloned();
    let same = current.as_ref().filter(|_| life == Life::Same);
    let incarnation = same.map_or(index, |t| t.incarnation);
    let status = match &current {
        Some(t) if t.status == TransformStatus::Paused => TransformStatus::Paused,
        _ => TransformStatus::Running,
    };
    let from = same.map_or(deploy.from, |t| t.from);
    let input_partitions = same.and_then(|t| t.input_partitions);
    let name = deploy.name.clone();
    let spec = spec(deploy, plan, (incarnation, from, status, input_partitions));
    image.transforms.insert(name.clone(), Arc::new(spec));
    if let Some(current) = current {
        if life == Life::Replaced {
            let mut over = TransformSpec::clone(&current);
            over.status = TransformStatus::Deleting;
            over.secrets.clear();
            image.replaced.insert(over.incarnation, Arc::new(over));
        }
        let earlier = image.earlier.entry(name).or_default();
        earlier.push(current);
        let spare = (earlier.len() + 1).saturating_sub(VERSIONS_KEPT);
        earlier.drain(..spare);
    }
    Ok(ControllerReply::Deployed {
        incarnation,
        version,
        new: life != Life::Same,
    })
}

fn spec(
    deploy: Deploy,
    plan: Plan,
    (incarnation, from, status, input_partitions): (
        u64,
        StartPosition,
        TransformStatus,
        Option<u32>,
    ),
) -> TransformSpec {
    TransformSpec {
        name: deploy.name,
        incarnation,
        version: plan.version,
        module: deploy.module,
        input: plan.input,
        declared_outputs: deploy.outputs.len() as u32,
        outputs: plan.outputs,
        dead_letter: plan.dead_letter,
        env: deploy.env,
        from,
        time_ms: deploy.time_ms,
        memory_bytes: deploy.memory_bytes,
        on_error: deploy.on_error,
        attempts: deploy.attempts,
        compression: deploy.compression,
        weight: deploy.weight,
        partition_by: deploy.partition_by,
        secrets: deploy.secrets,
        deployed_ms: deploy.now_ms,
        content_of: deploy.content_of,
        status,
        input_partitions,
    }
}
