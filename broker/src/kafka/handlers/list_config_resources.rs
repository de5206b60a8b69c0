//! ListConfigResources (KIP-1142): what has settings.

use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::code;
use super::{resource, text};

/// Version 0 lists client metrics only.
const TYPES_FROM: i16 = 1;
/// Bytes of an answer for a resource beside its name, about.
const RESOURCE_BYTES: usize = 8;
/// Types that may be asked for; of the last two there are none.
const TYPES: [i8; 5] = [
    resource::TOPIC,
    resource::BROKER,
    resource::BROKER_LOGGER,
    resource::CLIENT_METRICS,
    resource::GROUP,
];

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: ListConfigResourcesRequest = request.decode()?;
    Ok(Box::pin(async move { answer(&request, body).await }))
}

async fn answer(request: &Request, body: ListConfigResourcesRequest) -> Answer {
    let asked = body.resource_types;
    if asked.iter().any(|t| !TYPES.contains(t)) {
        let error = code::UNSUPPORTED_VERSION;
        return request
            .answer(&ListConfigResourcesResponse::default().with_error_code(error))
            .await;
    }
    let wants = |kind| {
        let named = asked.is_empty() || asked.contains(&kind);
        request.version >= TYPES_FROM && named
    };
    let mut found = Vec::new();
    if wants(resource::TOPIC) {
        let image = request.shard.image();
        found.extend(image.topics().map(|t| (resource::TOPIC, t.name.clone())));
    }
    for kind in [resource::BROKER, resource::BROKER_LOGGER] {
        if wants(kind) {
            found.push((kind, request.shard.info.node.0.to_string()));
        }
    }
    let bytes = found.iter().map(|(_, name)| name.len() + RESOURCE_BYTES);
    let room = request.room(bytes.sum()).await;
    let resources = found.into_iter().map(|(kind, name)| {
        ConfigResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
    });
    let response = ListConfigResourcesResponse::default();
    request.answer_within(room, &response.with_config_resources(resources.collect()))
}
