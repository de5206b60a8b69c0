//! InitProducerId: a fresh id for an idempotent producer. Ids are handed out in blocks by the controller, so that most
//! requests stay on their shard.

use std::rc::Rc;

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use tidemill_controller::{ControllerCommand, ControllerReply};
use tidemill_wire::WireError;

use super::super::answers::Pending;
use super::super::dispatch::Request;
use super::super::error_map::code;
use crate::shard::Shard;
use crate::topics::CONTROLLER_SHARD;

/// Producer ids a shard takes from the controller at once, as Kafka's brokers do.
const BLOCK_IDS: u32 = 1000;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: InitProducerIdRequest = request.decode()?;
    Ok(Box::pin(async move {
        let id = match body.transactional_id {
            // There is no transaction coordinator yet, and this is the error that makes clients say so and stop.
            Some(_) => Err(code::UNSUPPORTED_VERSION),
            None => producer_id(&request.shard).await,
        };
        let response = match id {
            Ok(id) => InitProducerIdResponse::default()
                .with_producer_id(ProducerId(id))
                .with_producer_epoch(0),
            Err(error) => InitProducerIdResponse::default()
                .with_error_code(error)
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1),
        };
        request.answer(&response).await
    }))
}

async fn producer_id(shard: &Rc<Shard>) -> Result<i64, i16> {
    if let Some(id) = shard.producer_ids.borrow_mut().next() {
        return Ok(id);
    }
    let allocated = shard.on(CONTROLLER_SHARD, |shard| async move {
        shard
            .controller_here()
            .execute(&ControllerCommand::AllocateProducerIds { count: BLOCK_IDS })
            .await
            .ok()
    });
    let Ok(Some(ControllerReply::ProducerIds { first })) = allocated.await else {
        return Err(code::COORDINATOR_NOT_AVAILABLE);
    };
    // Requests that waited together each brought a block; ids of the one that is replaced are never used.
    let mut ids = first..first + i64::from(BLOCK_IDS);
    let id = ids.next().ok_or(code::COORDINATOR_NOT_AVAILABLE)?;
    *shard.producer_ids.borrow_mut() = ids;
    Ok(id)
}
