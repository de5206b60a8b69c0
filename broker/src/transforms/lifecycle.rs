//! Deploying, pausing and deleting transforms. Runs on shard 0, beside the controller.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tidemill_controller::command::Deploy;
use tidemill_controller::deploy::{Life, Plan};
use tidemill_controller::image::Sealed;
use tidemill_controller::{
    ControllerCommand, ControllerError, ControllerReply, TransformSpec, TransformStatus,
};
use tidemill_model::topic_name;
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time;

use super::manager::CHANGES_AT_ONCE;
use super::request::checked;
use super::secrets::Wanted;
use super::{modules, secrets};
use crate::admin::ApiError;
use crate::admin::types::{CreatedTopic, DeployCheck, DeployRequest, Deployed};
use crate::admin_service::disk_full;
use crate::records::{api_error, gone, topic_not_found};
use crate::shard::Shard;
use crate::topics::{self, CONTROLLER_SHARD, NewTopic, TopicError};

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
        if request.module.is_empty() {
            let message = "no module is named; store one with PUT /v1/modules first";
            return Err(ApiError::bad_request("no_module", message));
        }
        let deploy = checked(name, &request, &self.info.settings.transforms)?;
        self.plan(&deploy)?;
        let key = self.info.secrets_key.as_deref();
        let wanted = Wanted::of(key, &deploy.name, &request)?;
        let mut deployed = self.deploy_checked(deploy, wanted).await?;
        deployed.kept_place = request.from.is_some() && deployed.kept_place;
        Ok(deployed)
    }

    /// What a deploy would do, as far as that can be known without its module; nothing is changed.
    pub(crate) async fn check_deploy(
        self: &Rc<Shard>,
        name: String,
        request: DeployRequest,
    ) -> Result<DeployCheck, ApiError> {
        let checked = self.on(CONTROLLER_SHARD, move |shard| async move {
            let deploy = checked(name, &request, &shard.info.settings.transforms)?;
            let plan = shard.plan(&deploy)?;
            let key = shard.info.secrets_key.as_deref();
            let wanted = Wanted::of(key, &deploy.name, &request)?;
            let secrets = shard.secrets_after(&deploy, &wanted)?;
            Ok(DeployCheck {
                secrets: secrets.into_keys().collect(),
                version: plan.version,
                missing_topics: plan.missing,
            })
        });
        checked.await.map_err(gone)?
    }

    /// What the controller would do, with outputs that can be made where they are missing.
    fn plan(self: &Rc<Shard>, deploy: &Deploy) -> Result<Plan, ApiError> {
        let image = self.controller_here().image();
        not_its_own_input(&deploy.input)?;
        for name in deploy.outputs.iter().chain(&deploy.dead_letter) {
            if topic_name::is_internal(name) {
                return Err(api_error(TopicError::Internal(name.clone())));
            }
        }
        let refused = |e| api_error(ControllerError::Refused(e).into());
        let plan = image.plan(deploy).map_err(refused)?;
        let input = image
            .topic(&deploy.input)
            .ok_or_else(|| topic_not_found(&deploy.input))?;
        for name in &plan.missing {
            topics::check(&NewTopic::named(name)).map_err(api_error)?;
            image
                .check_new_topic(name, input.rings.len())
                .map_err(refused)?;
        }
        Ok(plan)
    }

    /// Deploys what was checked: tries it out, then makes the outputs that are missing and has it decided.
    pub(super) async fn deploy_checked(
        self: &Rc<Shard>,
        mut deploy: Deploy,
        wanted: Wanted,
    ) -> Result<Deployed, ApiError> {
        self.refuse_without_disk()?;
        let kept = self.pin_module(&deploy.module).await;
        deploy.secrets = self.secrets_after(&deploy, &wanted)?;
        self.try_out(&deploy).await?;
        let turn = self.deployments.acquire(1).await;
        // Another deploy may have come before.
        deploy.secrets = self.secrets_after(&deploy, &wanted)?;
        let (name, content_of) = (deploy.name.clone(), deploy.content_of);
        let plan = self.plan(&deploy)?;
        let before = self.controller_here().image().transform(&name).cloned();
        let created_topics = self.make_outputs(&deploy, &plan).await?;
        let command = ControllerCommand::DeployTransform(Box::new(deploy));
        let reply = self.controller_here().execute(&command).await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(e) => {
                if !matches!(e, ControllerError::Refused(_)) {
                    kept.until_the_end();
                }
                return Err(api_error(e.into()));
            }
        };
        let ControllerReply::Deployed {
            incarnation,
            version,
            new,
        } = reply
        else {
            return Err(ApiError::internal(
                "the controller gave another answer than asked for",
            ));
        };
        drop(turn);
        let replaced = before.as_ref().filter(|_| !new).map(|t| t.version);
        let paused = before
            .as_ref()
            .is_some_and(|t| t.status == TransformStatus::Paused);
        if let Some(over) = before.filter(|_| plan.life == Life::Replaced) {
            drop(self.retire(TransformSpec::clone(&over)));
        }
        self.publish_until_attached(&name).await?;
        Ok(Deployed {
            name,
            version,
            incarnation,
            paused,
            kept_place: !new,
            content_of,
            replaced,
            created_topics,
        })
    }

    fn secrets_after(
        &self,
        deploy: &Deploy,
        wanted: &Wanted,
    ) -> Result<BTreeMap<String, Sealed>, ApiError> {
        let image = self.controller_here().image();
        let current = image.transform(&deploy.name).map(|t| t.secrets.clone());
        wanted.after(&current.unwrap_or_default(), &deploy.env)
    }

    async fn make_outputs(
        self: &Rc<Shard>,
        deploy: &Deploy,
        plan: &Plan,
    ) -> Result<Vec<CreatedTopic>, ApiError> {
        let image = self.controller_here().image();
        let mut created = Vec::new();
        for name in &plan.missing {
            let new = NewTopic {
                beside: image.topic(&deploy.input).map(|input| input.id),
                ..NewTopic::named(name)
            };
            match self.create_topic(new).await {
                Ok(topic) => created.push(CreatedTopic {
                    name: name.clone(),
                    partitions: topic.partition_count(),
                }),
                Err(e) if e.is_exists() => {}
                Err(e) => return Err(api_error(e)),
            }
        }
        Ok(created)
    }

    /// Refuses what cannot be run as the version it would be.
    async fn try_out(self: &Rc<Shard>, deploy: &Deploy) -> Result<(), ApiError> {
        let image = self.controller_here().image();
        let version = image.transform(&deploy.name).map_or(1, |t| t.version + 1);
        let factory = &self.transforms.factory;
        let key = self.info.secrets_key.as_deref();
        let secrets = secrets::opened(key, &deploy.name, &deploy.secrets)
            .map_err(|e| ApiError::conflict("sealed_secret", e.to_string()))?;
        modules::try_out(&self.info.modules_dir, (deploy, version, &secrets), factory)
            .await
            .map_err(ApiError::module_refused)
    }

    /// Publishes until every input partition is attached: only then is it fixed where a new transform begins (rule X1).
    /// Others that cannot be attached are not its concern.
    async fn publish_until_attached(self: &Rc<Shard>, name: &str) -> Result<(), ApiError> {
        let mut last = String::new();
        for _ in 0..ATTACH_TRIES {
            let not_attached = self.publish_strictly().await.map_err(gone)?;
            match not_attached.into_iter().find(|n| n.transform == name) {
                None => return Ok(()),
                Some(attached) => last = attached.error,
            }
            time::sleep(ATTACH_RETRY).await;
        }
        let message = format!(
            "'{name}' is deployed, but not attached to all of its input: {last}; it is tried again, and begins there when it succeeds"
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

    /// Refuses at once what would wait for the disk: where not even the reserve can be written to, nothing can be decided.
    fn refuse_without_disk(&self) -> Result<(), ApiError> {
        match self.log().space().is_denied() {
            true => Err(ApiError::unavailable(
                "disk_full",
                disk_full(self.log().space()),
            )),
            false => Ok(()),
        }
    }

    async fn decide(self: &Rc<Shard>, command: ControllerCommand) -> Result<(), ApiError> {
        self.refuse_without_disk()?;
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
        let image = self.controller_here().image();
        let deleted = image
            .transforms()
            .filter(|t| t.status == TransformStatus::Deleting);
        for spec in deleted.chain(image.replaced()) {
            drop(self.retire(TransformSpec::clone(spec)));
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
                    let incarnation = spec.incarnation();
                    let inputs = shard.inputs_here(&image, &spec).into_iter();
                    let detached = inputs.map(|(ring, partition)| async move {
                        let detached = ring.detach(partition, incarnation).await;
                        detached.map_err(|e| e.to_string())
                    });
                    let detached = stream::iter(detached).buffer_unordered(CHANGES_AT_ONCE);
                    detached.try_collect::<()>().await?;
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
