//! DescribeConfigs: the settings of topics, and the few of the broker that clients ask for.

use std::collections::BTreeSet;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use tidemill_controller::{Topic, configs};
use tidemill_model::topic_name;
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::code;
use super::broker_settings::BROKER_SETTINGS;
use super::{resource, text};

/// Bytes of an answer for a resource, with synonyms and documentation, about.
const RESOURCE_BYTES: usize = 4 << 10;
/// Where a value comes from: set for the topic; in the broker's settings; built in.
const SOURCE_TOPIC: i8 = 1;
pub(super) const SOURCE_BROKER: i8 = 4;
pub(super) const SOURCE_DEFAULT: i8 = 5;
/// Types of values.
pub(super) const TYPE_BOOLEAN: i8 = 1;
const TYPE_STRING: i8 = 2;
pub(super) const TYPE_INT: i8 = 3;
pub(super) const TYPE_LONG: i8 = 5;
const TYPE_LIST: i8 = 7;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DescribeConfigsRequest = request.decode()?;
    let options = Options {
        synonyms: body.include_synonyms,
        documentation: body.include_documentation,
    };
    Ok(Box::pin(
        async move { answer(&request, body, &options).await },
    ))
}

async fn answer(request: &Request, body: DescribeConfigsRequest, options: &Options) -> Answer {
    let room = request.room(body.resources.len() * RESOURCE_BYTES).await;
    // A resource that is named many times is described once, so that a small request has no vast answer.
    let mut seen = BTreeSet::new();
    let results = body
        .resources
        .into_iter()
        .filter(|r| seen.insert((r.resource_type, r.resource_name.to_string())))
        .map(|r| describe(request, r, options))
        .collect();
    request.answer_within(
        room,
        &DescribeConfigsResponse::default().with_results(results),
    )
}

struct Options {
    synonyms: bool,
    documentation: bool,
}

/// A setting as it is answered.
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) source: i8,
    pub(super) kind: i8,
    pub(super) read_only: bool,
    /// What the broker was given for it.
    pub(super) given: Option<String>,
    pub(super) default: String,
    /// Kafka's name for the broker's setting that the default comes from.
    pub(super) default_name: &'static str,
    pub(super) doc: &'static str,
}

/// Where a topic's setting comes from, in Kafka's numbers.
pub(super) fn source_of(topic: &Topic, defaults: &configs::Defaults, name: &str) -> i8 {
    match (topic.configs.contains_key(name), defaults.given(name)) {
        (true, _) => SOURCE_TOPIC,
        (false, Some(_)) => SOURCE_BROKER,
        (false, None) => SOURCE_DEFAULT,
    }
}

fn describe(
    request: &Request,
    resource: DescribeConfigsResource,
    options: &Options,
) -> DescribeConfigsResult {
    let settings = match resource.resource_type {
        resource::TOPIC => topic_settings(request, &resource.resource_name),
        resource::BROKER => broker_settings(request, &resource.resource_name),
        other => Err((
            code::INVALID_REQUEST,
            format!("resource type {other} has no settings here"),
        )),
    };
    let result = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name);
    match settings {
        Err((code, message)) => result
            .with_error_code(code)
            .with_error_message(Some(super::message(message))),
        Ok(settings) => {
            let keys = resource.configuration_keys.as_deref();
            let keys: Option<Vec<&str>> = keys.map(|keys| keys.iter().map(|k| &**k).collect());
            let settings = settings
                .into_iter()
                .filter(|s| is_wanted(keys.as_deref(), s.name));
            result.with_configs(settings.map(|s| convert(s, options)).collect())
        }
    }
}

/// Whether a setting is asked for. No list and an empty one both ask for all, as Kafka takes them.
fn is_wanted(keys: Option<&[&str]>, name: &str) -> bool {
    keys.is_none_or(|keys| keys.is_empty() || keys.contains(&name))
}

fn topic_settings(request: &Request, name: &str) -> Result<Vec<Setting>, (i16, String)> {
    if let Err(e) = topic_name::check(name) {
        return Err((code::INVALID_TOPIC_EXCEPTION, e.to_string()));
    }
    let image = request.shard.image();
    let missing = || {
        (
            code::UNKNOWN_TOPIC_OR_PARTITION,
            format!("topic '{name}' does not exist"),
        )
    };
    let topic = image.topic(name).ok_or_else(missing)?;
    let defaults = &request.shard.info.topic_defaults;
    let setting = |def: &configs::ConfigDef| Setting {
        name: def.name,
        value: defaults.value(&topic.configs, def.name).to_owned(),
        source: source_of(topic, defaults, def.name),
        given: defaults.given(def.name).map(str::to_owned),
        kind: match def.kind {
            configs::Kind::Int(..) => TYPE_INT,
            configs::Kind::Long(..) => TYPE_LONG,
            configs::Kind::Word(_) => TYPE_STRING,
            configs::Kind::List(_) => TYPE_LIST,
        },
        read_only: false,
        default: def.default.to_owned(),
        default_name: broker_name(def.name),
        doc: def.doc,
    };
    Ok(configs::CONFIGS.iter().map(setting).collect())
}

/// What Kafka calls the broker's setting whose value a topic has that does not set `name`.
fn broker_name(name: &'static str) -> &'static str {
    match name {
        "cleanup.policy" => "log.cleanup.policy",
        "delete.retention.ms" => "log.cleaner.delete.retention.ms",
        "flush.messages" => "log.flush.interval.messages",
        "flush.ms" => "log.flush.interval.ms",
        "max.message.bytes" => "message.max.bytes",
        "message.timestamp.after.max.ms" => "log.message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms" => "log.message.timestamp.before.max.ms",
        "message.timestamp.type" => "log.message.timestamp.type",
        "retention.bytes" => "log.retention.bytes",
        "retention.ms" => "log.retention.ms",
        "segment.bytes" => "log.segment.bytes",
        "segment.jitter.ms" => "log.roll.jitter.ms",
        "segment.ms" => "log.roll.ms",
        same => same,
    }
}

fn broker_settings(request: &Request, name: &str) -> Result<Vec<Setting>, (i16, String)> {
    let node = request.shard.info.node.0;
    if !name.is_empty() && name.parse() != Ok(node) {
        return Err((
            code::INVALID_REQUEST,
            format!("this is node {node}, not '{name}'"),
        ));
    }
    Ok(BROKER_SETTINGS
        .iter()
        .map(|known| known.told(&request.shard.info))
        .collect())
}

fn convert(s: Setting, options: &Options) -> DescribeConfigsResourceResult {
    let mut synonyms = Vec::new();
    if options.synonyms {
        let synonym = |name, value: &str, source| {
            DescribeConfigsSynonym::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
                .with_source(source)
        };
        if s.source == SOURCE_TOPIC {
            synonyms.push(synonym(s.name, &s.value, s.source));
        }
        if let Some(given) = &s.given {
            synonyms.push(synonym(s.default_name, given, SOURCE_BROKER));
        }
        synonyms.push(synonym(s.default_name, &s.default, SOURCE_DEFAULT));
    }
    DescribeConfigsResourceResult::default()
        .with_name(text(s.name))
        .with_value(Some(text(s.value)))
        .with_read_only(s.read_only)
        .with_config_source(s.source)
        .with_synonyms(synonyms)
        .with_config_type(s.kind)
        .with_documentation(options.documentation.then(|| text(s.doc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_list_of_keys_asks_for_all_settings() {
        assert!(is_wanted(None, "a") && is_wanted(Some(&[]), "a"));
        assert!(is_wanted(Some(&["b", "a"]), "a") && !is_wanted(Some(&["b"]), "a"));
    }
}
