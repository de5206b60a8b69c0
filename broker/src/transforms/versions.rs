//! The versions of a transform that are kept, and going back to one. Runs on shard 0, beside the controller.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tidemill_controller::command::Deploy;
use tidemill_controller::{TransformSpec, TransformStatus};
use tidemill_rt::time;

use super::secrets::Wanted;
use super::status;
use crate::admin::ApiError;
use crate::admin::types::{Deployed, LimitsSpec, RollbackRequest, TransformVersion, VersionList};
use crate::records::gone;
use crate::shard::Shard;
use crate::topics::CONTROLLER_SHARD;

impl Shard {
    /// The versions of a transform that are kept, newest first.
    pub(crate) async fn transform_versions(
        self: &Rc<Shard>,
        name: String,
    ) -> Result<VersionList, ApiError> {
        let listed = self.on(CONTROLLER_SHARD, move |shard| async move {
            let (current, earlier) = shard.versions_here(&name)?;
            let mut versions = vec![version(&current)];
            versions.extend(earlier.iter().rev().map(|spec| version(spec)));
            versions[0].current = true;
            Ok(VersionList { name, versions })
        });
        listed.await.map_err(gone)?
    }

    #[allow(
        clippy::type_complexity,
        reason = "the version that runs and the others, used twice"
    )]
    fn versions_here(
        &self,
        name: &str,
    ) -> Result<(Arc<TransformSpec>, Vec<Arc<TransformSpec>>), ApiError> {
        let image = self.controller_here().image();
        let current = image
            .transform(name)
            .filter(|t| t.status != TransformStatus::Deleting)
            .ok_or_else(|| status::no_such_transform(name))?;
        Ok((current.clone(), image.earlier_versions(name).to_vec()))
    }

    /// Deploys the content of an earlier version as a new one.
    pub(crate) async fn rollback(
        self: &Rc<Shard>,
        name: String,
        request: RollbackRequest,
    ) -> Result<Deployed, ApiError> {
        let deployed = self.on(CONTROLLER_SHARD, move |shard| async move {
            let (current, earlier) = shard.versions_here(&name)?;
            let wanted = match request.to {
                None => earlier.last(),
                Some(version) => earlier.iter().find(|t| t.version == version),
            };
            let Some(wanted) = wanted else {
                return Err(no_such_version(&current, &earlier, request.to));
            };
            let secrets = Wanted::Of(wanted.secrets.clone());
            let mut deployed = shard.deploy_checked(deploy_of(wanted), secrets).await?;
            deployed.kept_place = false;
            Ok(deployed)
        });
        deployed.await.map_err(gone)?
    }
}

fn no_such_version(
    current: &TransformSpec,
    earlier: &[Arc<TransformSpec>],
    asked: Option<u32>,
) -> ApiError {
    let name = &current.name;
    let kept: Vec<String> = earlier.iter().map(|t| t.version.to_string()).collect();
    let kept = match kept.is_empty() {
        true => "no earlier version is kept".to_owned(),
        false => format!("kept are {}", kept.join(", ")),
    };
    let message = match asked {
        Some(version) if version == current.version => {
            format!("version {version} of '{name}' is the one that runs; {kept}")
        }
        Some(version) => format!("version {version} of '{name}' is not kept; {kept}"),
        None => format!("'{name}' has nothing to go back to: {kept}"),
    };
    ApiError::not_found("version_not_found", message)
}

/// A deploy of the same content. Topics are taken by their names.
fn deploy_of(spec: &TransformSpec) -> Deploy {
    let name_of = |output: &tidemill_controller::image::TopicRef| output.name.clone();
    let dead_letter = spec
        .dead_letter
        .and_then(|at| spec.outputs.get(at as usize));
    Deploy {
        name: spec.name.clone(),
        module: spec.module.clone(),
        input: spec.input.name.clone(),
        outputs: declared(spec),
        dead_letter: dead_letter.map(name_of),
        env: spec.env.clone(),
        from: spec.from,
        time_ms: spec.time_ms,
        memory_bytes: spec.memory_bytes,
        on_error: spec.on_error,
        attempts: spec.attempts,
        compression: spec.compression,
        weight: spec.weight,
        partition_by: spec.partition_by,
        secrets: BTreeMap::new(),
        now_ms: time::unix_ms(),
        content_of: Some(spec.version),
    }
}

/// Names of the topics that the function itself may write to.
pub(super) fn declared(spec: &TransformSpec) -> Vec<String> {
    let outputs = &spec.outputs[..spec.declared_outputs as usize];
    outputs.iter().map(|o| o.name.clone()).collect()
}

fn version(spec: &TransformSpec) -> TransformVersion {
    TransformVersion {
        version: spec.version,
        current: false,
        deployed_ms: spec.deployed_ms,
        content_of: spec.content_of,
        module: spec.module.clone(),
        outputs: declared(spec),
        dead_letter: status::dead_letter(spec),
        env: spec.env.clone(),
        limits: LimitsSpec {
            time_ms: Some(spec.time_ms),
            memory_bytes: Some(spec.memory_bytes),
        },
        on_error: status::policy(spec),
        attempts: spec.attempts,
        compression: spec.compression,
        weight: spec.weight,
        partition_by: spec.partition_by,
        secrets: spec.secrets.keys().cloned().collect(),
    }
}
