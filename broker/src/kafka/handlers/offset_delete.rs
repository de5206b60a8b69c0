//! OffsetDelete: takes back what a group has committed of topics it does not read any more.

use std::sync::Arc;

use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use tidemill_wire::WireError;

use super::super::answers::Pending;
use super::super::dispatch::Request;
use super::super::error_map::{self, code};

pub(in super::super) async fn start(request: Request) -> Result<Pending, WireError> {
    let body: OffsetDeleteRequest = request.decode()?;
    let image = request.shard.image();
    let (mut topics, mut slots, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (t, named) in body.topics.iter().enumerate() {
        let name: Arc<str> = (*named.name.0).into();
        let topic = image.topic(&name);
        let mut partitions = Vec::with_capacity(named.partitions.len());
        for (p, partition) in named.partitions.iter().enumerate() {
            let index = partition.partition_index;
            let known = topic.is_some_and(|topic| topic.ring(index).is_some());
            if known {
                slots.push((t, p));
                places.push((name.clone(), index));
            }
            let code = if known {
                code::NONE
            } else {
                code::UNKNOWN_TOPIC_OR_PARTITION
            };
            partitions.push(
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(code),
            );
        }
        topics.push(
            OffsetDeleteResponseTopic::default()
                .with_name(named.name.clone())
                .with_partitions(partitions),
        );
    }
    let group = body.group_id.0.to_string();
    let deleted = request
        .shard
        .at_coordinator(&body.group_id.0, move |coordinator| {
            coordinator.delete_offsets(&group, &places)
        })
        .await;
    Ok(Box::pin(async move {
        let response = OffsetDeleteResponse::default();
        match deleted.await.and_then(|deleted| deleted) {
            Err(error) => {
                request
                    .answer(&response.with_error_code(error_map::group(error)))
                    .await
            }
            Ok(each) => {
                for ((t, p), result) in slots.into_iter().zip(each) {
                    topics[t].partitions[p].error_code =
                        result.map_or_else(error_map::group, |()| code::NONE);
                }
                request.answer(&response.with_topics(topics)).await
            }
        }
    }))
}
