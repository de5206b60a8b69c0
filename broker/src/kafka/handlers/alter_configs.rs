//! AlterConfigs and IncrementalAlterConfigs: the settings of topics. A broker's own are read at its start.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::alter_configs_request;
use kafka_protocol::messages::alter_configs_response;
use kafka_protocol::messages::incremental_alter_configs_request;
use kafka_protocol::messages::incremental_alter_configs_response;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;
use tidemill_controller::config_change::{ConfigChange, ConfigOp};
use tidemill_wire::WireError;

use super::super::answers::Pending;
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::{named_twice, resource};
use crate::topic_changes::Mode;

/// Operations of IncrementalAlterConfigs.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// An error code and what it means.
type Refused = (i16, String);

/// What is asked of one resource.
struct Asked {
    kind: i8,
    name: StrBytes,
    change: Result<ConfigChange, Refused>,
}

/// What became of it.
struct Altered {
    kind: i8,
    name: StrBytes,
    error: Option<Refused>,
}

impl Altered {
    fn code(&self) -> i16 {
        self.error.as_ref().map_or(code::NONE, |(code, _)| *code)
    }

    fn message(&self) -> Option<StrBytes> {
        self.error
            .as_ref()
            .map(|(_, message)| super::message(message.as_str()))
    }
}

/// AlterConfigs: all settings at once.
pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: AlterConfigsRequest = request.decode()?;
    let asked = body.resources.into_iter().map(|r| Asked {
        kind: r.resource_type,
        name: r.resource_name,
        change: replacement(r.configs),
    });
    let (asked, mode) = (asked.collect(), super::mode(body.validate_only));
    Ok(Box::pin(async move {
        let altered = alter_all(&request, asked, mode).await;
        let response = |a: Altered| {
            alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(a.code())
                .with_error_message(a.message())
                .with_resource_type(a.kind)
                .with_resource_name(a.name)
        };
        let responses = altered.into_iter().map(response).collect();
        request
            .answer(&AlterConfigsResponse::default().with_responses(responses))
            .await
    }))
}

/// IncrementalAlterConfigs: settings one by one.
pub(in super::super) fn start_incremental(request: Request) -> Result<Pending, WireError> {
    let body: IncrementalAlterConfigsRequest = request.decode()?;
    let asked = body.resources.into_iter().map(|r| Asked {
        kind: r.resource_type,
        name: r.resource_name,
        change: operations(r.configs),
    });
    let (asked, mode) = (asked.collect(), super::mode(body.validate_only));
    Ok(Box::pin(async move {
        let altered = alter_all(&request, asked, mode).await;
        let response = |a: Altered| {
            incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(a.code())
                .with_error_message(a.message())
                .with_resource_type(a.kind)
                .with_resource_name(a.name)
        };
        let responses = altered.into_iter().map(response).collect();
        request
            .answer(&IncrementalAlterConfigsResponse::default().with_responses(responses))
            .await
    }))
}

fn replacement(
    configs: Vec<alter_configs_request::AlterableConfig>,
) -> Result<ConfigChange, Refused> {
    refuse_twice(configs.iter().map(|c| c.name.to_string()))?;
    let mut all = BTreeMap::new();
    for config in configs {
        let value = config.value.ok_or_else(|| no_value(&config.name))?;
        all.insert(config.name.to_string(), value.to_string());
    }
    Ok(ConfigChange::Replace(all))
}

fn operations(
    configs: Vec<incremental_alter_configs_request::AlterableConfig>,
) -> Result<ConfigChange, Refused> {
    refuse_twice(configs.iter().map(|c| c.name.to_string()))?;
    let mut ops = Vec::with_capacity(configs.len());
    for config in configs {
        let value = || config.value.as_ref().map(ToString::to_string);
        let value = || value().ok_or_else(|| no_value(&config.name));
        let op = match config.config_operation {
            SET => ConfigOp::Set(value()?),
            DELETE => ConfigOp::Delete,
            APPEND => ConfigOp::Append(value()?),
            SUBTRACT => ConfigOp::Subtract(value()?),
            other => {
                let message =
                    format!("operation {other} is none: 0 sets, 1 deletes, 2 appends, 3 subtracts");
                return Err((code::INVALID_REQUEST, message));
            }
        };
        ops.push((config.name.to_string(), op));
    }
    Ok(ConfigChange::Each(ops))
}

fn refuse_twice(names: impl Iterator<Item = String>) -> Result<(), Refused> {
    match named_twice(names).into_iter().next() {
        None => Ok(()),
        Some(name) => {
            let message = format!("config '{name}' is named twice for one resource");
            Err((code::INVALID_REQUEST, message))
        }
    }
}

fn no_value(name: &str) -> Refused {
    let message = format!("config '{name}' has no value; delete it to get its default");
    (code::INVALID_REQUEST, message)
}

async fn alter_all(request: &Request, asked: Vec<Asked>, mode: Mode) -> Vec<Altered> {
    let key = |a: &Asked| (a.kind, a.name.to_string());
    let twice = named_twice(asked.iter().map(key));
    let mut answered = BTreeSet::new();
    let mut out = Vec::new();
    for one in asked {
        if !answered.insert(key(&one)) {
            continue;
        }
        let result = if twice.contains(&key(&one)) {
            let message = "the resource is named twice in this request";
            Err((code::INVALID_REQUEST, message.to_owned()))
        } else {
            alter(request, one.kind, &one.name, one.change, mode).await
        };
        out.push(Altered {
            kind: one.kind,
            name: one.name,
            error: result.err(),
        });
    }
    out
}

async fn alter(
    request: &Request,
    kind: i8,
    name: &str,
    change: Result<ConfigChange, Refused>,
    mode: Mode,
) -> Result<(), Refused> {
    let refused = |message: &str| Err((code::INVALID_REQUEST, message.to_owned()));
    match kind {
        resource::TOPIC => {
            let configured = request
                .shard
                .configure_topic(name.to_owned(), change?, mode)
                .await;
            configured.map_err(|e| (error_map::topic(&e), e.to_string()))
        }
        resource::BROKER | resource::BROKER_LOGGER => refused(
            "a broker reads its settings when it starts: change its command line or configuration file and restart it. \
             Only settings of topics can be changed while it runs",
        ),
        _ => refused("only topics have settings that can be changed here (resource type 2)"),
    }
}
