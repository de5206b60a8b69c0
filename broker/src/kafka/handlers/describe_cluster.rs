//! DescribeCluster (KIP-700).

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use tidemill_wire::WireError;

use super::super::answers::{Answer, Pending};
use super::super::dispatch::Request;
use super::super::error_map::code;
use super::text;

/// Endpoint types (KIP-919).
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DescribeClusterRequest = request.decode()?;
    Ok(Box::pin(async move {
        answer(&request, body.endpoint_type).await
    }))
}

async fn answer(request: &Request, endpoint_type: i8) -> Answer {
    let info = &request.shard.info;
    let node = BrokerId(info.node.0);
    let broker = DescribeClusterBroker::default()
        .with_broker_id(node)
        .with_host(text(info.advertised.host.clone()))
        .with_port(i32::from(info.advertised.port));
    let response = DescribeClusterResponse::default()
        .with_cluster_id(text(info.cluster_id.clone()))
        .with_controller_id(node)
        .with_endpoint_type(if request.version >= 1 {
            endpoint_type
        } else {
            BROKERS
        });
    let refused = |code, message: &str| {
        response
            .clone()
            .with_error_code(code)
            .with_error_message(Some(text(message)))
    };
    let response = match endpoint_type {
        BROKERS => response.clone().with_brokers(vec![broker]),
        // Controllers have no listener of their own here.
        CONTROLLERS => refused(
            code::MISMATCHED_ENDPOINT_TYPE,
            "this is a broker's address; there is none for controllers",
        ),
        _ => refused(
            code::UNSUPPORTED_ENDPOINT_TYPE,
            "endpoints are of type 1 (brokers) or 2 (controllers)",
        ),
    };
    request.answer(&response).await
}
