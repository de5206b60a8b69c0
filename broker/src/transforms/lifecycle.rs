//! Deploying, pausing and deleting transforms. Runs on shard 0, beside the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tidemill_controller::command::Deploy;
use tidemill_controller::image::{ErrorPolicy, WEIGHT_MAX, WEIGHT_MIN};
use tidemill_controller::state::OUTPUTS_MAX;
use tidemill_controller::{
    ControllerCommand, ControllerError, ControllerReply, Refusal, StartPosition, Topic,
    TransformSpec, TransformStatus,
};
use tidemill_model::topic_name;
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time;

use super::modules;
use crate::admin::ApiError;
use crate::admin::types::{CreatedTopic, DeployRequest, Deployed, OnError, StartFrom};
use crate::config::table::Transforms;
use crate::records::{api_error, gone, topic_not_found};
use crate::shard::Shard;
use crate::topics::{CONTROLLER_SHARD, NewTopic, TopicError};

/// Least memory of an instance, in bytes.
const MEMORY_MIN: u64 = 1 << 20;
/// Most attempts for a record.
const ATTEMPTS_MAX: u32 = 100;
/// Most environment variables.
const ENV_MAX: usize = 128;
/// Most bytes of the environment, names and values together.
const ENV_BYTES_MAX: usize = 64 << 10;
/// How long a delete waits for the last output before it answers; the rest goes on in the background.
const DELETE_WAIT: std::time::Duration = std::time::Duration::from_secs(10);
/// How often a deploy tries to attach before it gives up ...
const ATTACH_TRIES: u32 = 50;
/// ... and how long it waits in between.
const ATTACH_RETRY: std::time::Duration = std::time::Duration::from_millis(100);
/// How often a delete looks whether the last output has been delivered.
const DRAIN_LOOK: std::time::Duration = std::time::Duration::from_millis(20);

impl Shard {
    /// Deploys a transform; when this returns, its place in every input partition is fixed (rule X1).
    pub(crate) async fn deploy(
        self: &Rc<Shard>,
        name: String,
        request: DeployRequest,
    ) -> Result<Deployed, ApiError> {
        let deployed = self.on(CONTROLLER_SHARD, move |shard| async move {
            shard.deploy_here(name, request).await
        });
        deployed.await.map_err(gone)?
    }

    async fn deploy_here(
        self: &Rc<Shard>,
        name: String,
        request: DeployRequest,
    ) -> Result<Deployed, ApiError> {
        let mut deploy = checked(name.clone(), request, &self.info.settings.transforms)?;
        not_its_own_input(&deploy.input)?;
        self.try_out(&deploy).await?;
        let image = self.controller_here().image();
        let input = image
            .topic(&deploy.input)
            .cloned()
            .ok_or_else(|| topic_not_found(&deploy.input))?;
        let current = image.transform(&name);
        let paused = current.is_some_and(|t| t.status == TransformStatus::Paused);
        if let Some(current) = current {
            deploy.from = current.from;
            may_follow(current, &input)?;
        }
        let mut created_topics = Vec::new();
        let named = deploy.outputs.iter().chain(&deploy.dead_letter);
        for output in named.cloned().collect::<Vec<_>>() {
            if topic_name::is_internal(&output) {
                return Err(api_error(TopicError::Internal(output)));
            }
            if image.topic(&output).is_some() || output == deploy.input {
                continue;
            }
            let new = NewTopic {
                beside: Some(input.id),
                ..NewTopic::named(&output)
            };
            match self.create_topic(new).await {
                Ok(topic) => created_topics.push(CreatedTopic {
                    name: output,
                    partitions: topic.partition_count(),
                }),
                Err(e) if e.is_exists() => {}
                Err(e) => return Err(api_error(e)),
            }
        }
        let command = ControllerCommand::DeployTransform(Box::new(deploy));
        let reply = self
            .controller_here()
            .execute(&command)
            .await
            .map_err(|e| api_error(e.into()))?;
        self.publish_until_attached().await?;
        let ControllerReply::Deployed {
            incarnation,
            version,
            ..
        } = reply
        else {
            return Err(ApiError::internal(
                "the controller gave another answer than asked for",
            ));
        };
        Ok(Deployed {
            name,
            version,
            incarnation,
            paused,
            created_topics,
        })
    }

    /// Refuses what cannot be run as the version it would be.
    async fn try_out(self: &Rc<Shard>, deploy: &Deploy) -> Result<(), ApiError> {
        let image = self.controller_here().image();
        let version = image.transform(&deploy.name).map_or(1, |t| t.version + 1);
        let factory = &self.transforms.factory;
        modules::try_out(&self.info.modules_dir, (deploy, version), factory)
            .await
            .map_err(ApiError::module_refused)
    }

    /// Publishes until every input partition is attached: only then is it fixed where a new transform begins (rule X1).
    async fn publish_until_attached(self: &Rc<Shard>) -> Result<(), ApiError> {
        let mut last = String::new();
        for _ in 0..ATTACH_TRIES {
            match self.publish_strictly().await.map_err(gone)? {
                Ok(()) => return Ok(()),
                Err(message) => last = message,
            }
            time::sleep(ATTACH_RETRY).await;
        }
        let message = format!(
            "the transform is deployed, but {last}; it is tried again, and begins there when it succeeds"
        );
        Err(ApiError::unavailable("not_attached", message))
    }

    /// Pauses or resumes a transform.
    pub(crate) async fn set_paused(
        self: &Rc<Shard>,
        name: String,
        paused: bool,
    ) -> Result<(), ApiError> {
        let command = ControllerCommand::SetPaused { name, paused };
        let done = self.on(CONTROLLER_SHARD, move |shard| async move {
            shard.decide(command).await
        });
        done.await.map_err(gone)?
    }

    async fn decide(self: &Rc<Shard>, command: ControllerCommand) -> Result<(), ApiError> {
        self.controller_here()
            .execute(&command)
            .await
            .map_err(|e| api_error(e.into()))?;
        self.publish().await.map_err(gone)
    }

    /// Deletes a transform. What it has committed is delivered first (rule X6).
    pub(crate) async fn delete_transform(self: &Rc<Shard>, name: String) -> Result<(), ApiError> {
        let done = self.on(CONTROLLER_SHARD, move |shard| async move {
            let image = shard.controller_here().image();
            let spec = image.transform(&name).cloned();
            shard
                .decide(ControllerCommand::DeleteTransform { name })
                .await?;
            if let Some(spec) = spec {
                let draining = shard.retire(TransformSpec::clone(&spec));
                // Whether it ends in time or not, it goes on.
                let _ = time::timeout(DELETE_WAIT, draining).await;
            }
            Ok(())
        });
        done.await.map_err(gone)?
    }

    /// Goes on with deletions that an earlier process did not finish.
    pub(crate) fn resume_deletions(self: &Rc<Shard>) {
        for spec in self.controller_here().image().transforms() {
            if spec.status == TransformStatus::Deleting {
                drop(self.retire(TransformSpec::clone(spec)));
            }
        }
    }

    fn retire(self: &Rc<Shard>, spec: TransformSpec) -> task::JoinHandle<()> {
        let shard = self.clone();
        task::spawn(Queue::Kafka, async move {
            while !shard.is_stopping() {
                match shard.retire_once(&spec).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(transform = %spec.name, %error, "deletion goes on")
                    }
                }
                time::sleep(std::time::Duration::from_secs(1)).await;
            }
        })
    }

    /// Detaches every input, waits until the outboxes are empty, then lets receivers and controller forget (rule X7).
    async fn retire_once(self: &Rc<Shard>, spec: &TransformSpec) -> Result<(), String> {
        let (name, incarnation) = (spec.name.clone(), spec.incarnation());
        let detach = {
            let spec = spec.clone();
            move |shard: Rc<Shard>| {
                let spec = spec.clone();
                async move {
                    shard.stop_incarnation(&spec).await;
                    let image = shard.image();
                    for (ring, partition) in shard.inputs_here(&image, &spec) {
                        ring.detach(partition, spec.incarnation())
                            .await
                            .map_err(|e| e.to_string())?;
                    }
                    Ok::<(), String>(())
                }
            }
        };
        for result in self
            .handle
            .on_all(detach)
            .await
            .map_err(|e| e.to_string())?
        {
            result?;
        }
        loop {
            let pending = self.handle.on_all(move |shard| async move {
                shard
                    .rings()
                    .any(|(_, ring)| ring.outbox_holds(incarnation))
            });
            if !pending.await.map_err(|e| e.to_string())?.contains(&true) {
                break;
            }
            time::sleep(DRAIN_LOOK).await;
        }
        let retire = move |shard: Rc<Shard>| async move {
            for (_, ring) in shard.rings() {
                ring.retire_sender(incarnation)
                    .await
                    .map_err(|e| e.to_string())?;
            }
            Ok::<(), String>(())
        };
        for result in self
            .handle
            .on_all(retire)
            .await
            .map_err(|e| e.to_string())?
        {
            result?;
        }
        let command = ControllerCommand::RetireTransform {
            name,
            incarnation: incarnation.0,
        };
        match self.decide(command).await {
            Err(e) if e.code != "transform_not_found" => Err(e.message),
            // Not there: an earlier try was decided although its answer was lost.
            _ => Ok(()),
        }
    }
}

/// A transform of the log topic would be given what it logs itself.
fn not_its_own_input(input: &str) -> Result<(), ApiError> {
    if input != topic_name::TRANSFORM_LOGS {
        return Ok(());
    }
    let message = format!("a transform cannot read '{input}': what it logs would be its own input");
    Err(ApiError::bad_request("internal_topic", message))
}

/// Refuses what the controller would refuse anyway, before output topics are made for it.
fn may_follow(current: &TransformSpec, input: &Topic) -> Result<(), ApiError> {
    let refusal = if current.status == TransformStatus::Deleting {
        Refusal::Deleting(current.name.clone())
    } else if current.input.id != input.id {
        Refusal::InputChanged {
            name: current.name.clone(),
            current: current.input.name.clone(),
        }
    } else {
        return Ok(());
    };
    Err(api_error(ControllerError::from(refusal).into()))
}

/// Checks everything about a deploy that does not depend on what exists.
fn checked(name: String, r: DeployRequest, limits: &Transforms) -> Result<Deploy, ApiError> {
    let bad = |code, message: String| Err(ApiError::bad_request(code, message));
    if !valid_name(&name) {
        return bad(
            "invalid_name",
            format!(
                "'{name}' is no transform name: use 1 to 128 letters, digits, '.', '_' and '-'"
            ),
        );
    }
    let (time_ms, memory_bytes) = call_limits(&r, limits)?;
    let attempts = r.attempts.unwrap_or(1);
    if !(1..=ATTEMPTS_MAX).contains(&attempts) {
        return bad(
            "invalid_limit",
            format!("attempts is {attempts}, it may be 1 to {ATTEMPTS_MAX}"),
        );
    }
    let weight = r.weight.unwrap_or(WEIGHT_MIN);
    if !(WEIGHT_MIN..=WEIGHT_MAX).contains(&weight) {
        return bad(
            "invalid_limit",
            format!("weight is {weight}, it may be {WEIGHT_MIN} to {WEIGHT_MAX}"),
        );
    }
    check_env(&r.env)?;
    let distinct: BTreeSet<&String> = r.outputs.iter().collect();
    if r.outputs.is_empty() || r.outputs.len() > OUTPUTS_MAX || distinct.len() != r.outputs.len() {
        return bad(
            "invalid_outputs",
            format!("a transform has 1 to {OUTPUTS_MAX} output topics, each named once"),
        );
    }
    let on_error = policy(r.on_error, r.dead_letter.is_some())?;
    Ok(Deploy {
        name,
        module: r.module,
        input: r.input,
        outputs: r.outputs,
        dead_letter: r.dead_letter,
        env: r.env,
        from: match r.from {
            Some(StartFrom::Earliest) => StartPosition::Earliest,
            Some(StartFrom::Latest) | None => StartPosition::Latest,
        },
        time_ms,
        memory_bytes,
        on_error,
        attempts,
        compression: r.compression,
        weight,
        partition_by: r.partition_by.unwrap_or_default(),
    })
}

/// CPU time in ms and memory in bytes of a call.
fn call_limits(r: &DeployRequest, limits: &Transforms) -> Result<(u64, u64), ApiError> {
    let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let bad = |message: String| Err(ApiError::bad_request("invalid_limit", message));
    let time_ms = r.limits.time_ms.unwrap_or(ms(limits.call_time));
    let time_ms_max = ms(limits.call_time_max);
    if !(1..=time_ms_max).contains(&time_ms) {
        return bad(format!(
            "time_ms is {time_ms}, it may be 1 to {time_ms_max}"
        ));
    }
    let memory_bytes = r.limits.memory_bytes.unwrap_or(limits.instance_memory);
    let memory_max = limits.instance_memory_max;
    if !(MEMORY_MIN..=memory_max).contains(&memory_bytes) {
        return bad(format!(
            "memory_bytes is {memory_bytes}, it may be {MEMORY_MIN} to {memory_max}"
        ));
    }
    Ok((time_ms, memory_bytes))
}

/// What happens to records a transform fails on: a dead-letter topic that is named is used.
fn policy(asked: Option<OnError>, named: bool) -> Result<ErrorPolicy, ApiError> {
    let bad = |code, message: &str| Err(ApiError::bad_request(code, message));
    match (asked, named) {
        (None | Some(OnError::DeadLetter), true) => Ok(ErrorPolicy::DeadLetter),
        (Some(OnError::DeadLetter), false) => bad(
            "no_dead_letter",
            "on_error is dead-letter, but no dead_letter topic is named",
        ),
        (Some(_), true) => bad(
            "unused_dead_letter",
            "a dead_letter topic is used with on_error dead-letter only; leave one of them out",
        ),
        (None | Some(OnError::Fail), false) => Ok(ErrorPolicy::Fail),
        (Some(OnError::Skip), false) => Ok(ErrorPolicy::Skip),
        (Some(OnError::PassThrough), false) => Ok(ErrorPolicy::PassThrough),
    }
}

fn valid_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=128).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let bytes: usize = env.iter().map(|(k, v)| k.len() + v.len()).sum();
    if env.len() > ENV_MAX || bytes > ENV_BYTES_MAX {
        let message = format!(
            "the environment may have {ENV_MAX} variables and {ENV_BYTES_MAX} bytes in all"
        );
        return Err(ApiError::bad_request("invalid_env", message));
    }
    for name in env.keys() {
        let plain = !name.is_empty() && !name.contains(['=', '\0']);
        if !plain || name.starts_with("TIDEMILL_") || env[name].contains('\0') {
            let message = format!(
                "'{name}' cannot be set: names are not empty, have no '=', and do not begin with TIDEMILL_"
            );
            return Err(ApiError::bad_request("invalid_env", message));
        }
    }
    Ok(())
}
