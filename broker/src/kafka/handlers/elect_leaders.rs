//! ElectLeaders and ListPartitionReassignments, as a cluster of one node answers: it leads everything, and moves nothing.

use std::collections::BTreeSet;

use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    ElectLeadersRequest, ElectLeadersResponse, ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
};
use tidemill_wire::WireError;

use super::super::answers::Pending;
use super::super::dispatch::Request;
use super::super::error_map::code;

/// Bytes of an answer for a partition, about.
const PARTITION_BYTES: usize = 96;
/// Kinds of election: the preferred replica, or any.
const ELECTION_TYPES: [i8; 2] = [0, 1];

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: ElectLeadersRequest = request.decode()?;
    Ok(Box::pin(async move {
        // All partitions: those that need no election are not named, so none is.
        let asked = body.topic_partitions.unwrap_or_default();
        let count: usize = asked.iter().map(|t| t.partitions.len()).sum();
        let names: usize = asked.iter().map(|t| t.topic.len()).sum();
        let room = request.room(count * PARTITION_BYTES + names).await;
        let unknown_type = !ELECTION_TYPES.contains(&body.election_type);
        let mut response = ElectLeadersResponse::default();
        if request.version >= 1 && unknown_type {
            response.error_code = code::INVALID_REQUEST;
        } else {
            let results = asked.into_iter().map(|topic| elect(&request, topic));
            response.replica_election_results = results.collect();
        }
        request.answer_within(room, &response)
    }))
}

fn elect(request: &Request, asked: TopicPartitions) -> ReplicaElectionResult {
    let image = request.shard.image();
    let topic = image.topic(&asked.topic);
    let mut seen = BTreeSet::new();
    let mut results = Vec::new();
    for index in asked.partitions.into_iter().filter(|i| seen.insert(*i)) {
        let known = topic.is_some_and(|t| t.ring(index).is_some());
        let (code, message) = match known {
            true => (code::ELECTION_NOT_NEEDED, "its only replica leads it"),
            false => (
                code::UNKNOWN_TOPIC_OR_PARTITION,
                "there is no such partition",
            ),
        };
        let result = PartitionResult::default()
            .with_partition_id(index)
            .with_error_code(code)
            .with_error_message(Some(super::message(message)));
        results.push(result);
    }
    ReplicaElectionResult::default()
        .with_topic(asked.topic)
        .with_partition_result(results)
}

/// ListPartitionReassignments: there are none.
pub(in super::super) fn start_reassignments(request: Request) -> Result<Pending, WireError> {
    let _: ListPartitionReassignmentsRequest = request.decode()?;
    Ok(Box::pin(async move {
        request
            .answer(&ListPartitionReassignmentsResponse::default())
            .await
    }))
}
