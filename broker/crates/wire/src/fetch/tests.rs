//! Held against the message crate, and against rubbish.

use bytes::BytesMut;
use kafka_protocol::messages::fetch_request::{
    FetchPartition as TheirPartition, FetchTopic as TheirTopic, ForgottenTopic as TheirForgotten,
    ReplicaState,
};
use kafka_protocol::messages::{
    BrokerId, FetchRequest as Theirs, FetchResponse as TheirResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::collection::vec;
use proptest::prelude::*;
use tidemill_model::record::{BatchBuilder, NewRecord};
use tidemill_model::{BatchHeader, TopicId};

use super::*;

fn their_topic(version: i16, partitions: &[(i32, i64, i32)]) -> TheirTopic {
    let partition = |(index, offset, max): &(i32, i64, i32)| {
        let p = TheirPartition::default()
            .with_partition(*index)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(*max)
            .with_log_start_offset(if version >= 5 { 4 } else { -1 })
            .with_current_leader_epoch(if version >= 9 { 5 } else { -1 })
            .with_last_fetched_epoch(if version >= 12 { 6 } else { -1 });
        let p = if version >= 18 {
            p.with_high_watermark(77)
        } else {
            p
        };
        if version >= 17 {
            p.with_replica_directory_id(uuid::Uuid::from_bytes([3; 16]))
        } else {
            p
        }
    };
    let topic = TheirTopic::default().with_partitions(partitions.iter().map(partition).collect());
    match version {
        13.. => topic.with_topic_id(uuid::Uuid::from_bytes([9; 16])),
        _ => topic.with_topic(TopicName(StrBytes::from_static_str("topic"))),
    }
}

fn topic_ref(version: i16) -> TopicRef {
    match version {
        13.. => TopicRef::Id(TopicId([9; 16])),
        _ => TopicRef::Name(StrBytes::from_static_str("topic")),
    }
}

proptest! {
    #[test]
    fn requests_are_read_as_the_message_crate_writes_them(
        version in 4i16..=18, wait: i32, isolation: i8, replica in -1i32..4, cut: usize,
        partitions in vec((any::<i32>(), any::<i64>(), any::<i32>()), 0..5), forgotten in vec(any::<i32>(), 0..5),
    ) {
        let mut theirs = Theirs::default()
            .with_max_wait_ms(wait).with_min_bytes(1).with_max_bytes(2).with_isolation_level(isolation)
            .with_topics(vec![their_topic(version, &partitions)]);
        if version >= 15 {
            theirs = theirs.with_replica_state(ReplicaState::default().with_replica_id(BrokerId(replica)));
        } else {
            theirs = theirs.with_replica_id(BrokerId(replica));
        }
        if version >= 7 {
            let gone = TheirForgotten::default().with_partitions(forgotten.clone());
            let gone = match version {
                13.. => gone.with_topic_id(uuid::Uuid::from_bytes([9; 16])),
                _ => gone.with_topic(TopicName(StrBytes::from_static_str("topic"))),
            };
            theirs = theirs.with_session_id(8).with_session_epoch(9).with_forgotten_topics_data(vec![gone]);
        }
        if version >= 11 {
            theirs = theirs.with_rack_id(StrBytes::from_static_str("rack"));
        }
        let mut frame = BytesMut::from(&b"head"[..]);
        theirs.encode(&mut frame, version).unwrap();
        let frame = frame.freeze();
        let ours = decode(&frame, 4, version).unwrap();
        prop_assert_eq!((ours.replica_id, ours.max_wait_ms, ours.isolation_level), (replica, wait, isolation));
        let expected: Vec<_> = partitions.iter().map(|(index, fetch_offset, max_bytes)| FetchPartition {
            index: *index,
            current_leader_epoch: if version >= 9 { 5 } else { -1 },
            fetch_offset: *fetch_offset,
            last_fetched_epoch: if version >= 12 { 6 } else { -1 },
            max_bytes: *max_bytes,
        }).collect();
        prop_assert_eq!(&ours.topics, &vec![FetchTopic { topic: topic_ref(version), partitions: expected }]);
        if version >= 7 {
            prop_assert_eq!((ours.session_id, ours.session_epoch), (8, 9));
            prop_assert_eq!(&ours.forgotten[0].partitions, &forgotten);
        }
        prop_assert_eq!(&*ours.rack_id, if version >= 11 { "rack" } else { "" });
        let cut = 4 + cut % (frame.len() - 4);
        prop_assert!(decode(&frame.slice(..cut), 4, version).is_err());
    }

    #[test]
    fn responses_are_read_by_the_message_crate(
        version in 4i16..=18, sizes in vec(1usize..10_000, 0..4), aborted in proptest::option::of(vec((any::<i64>(), any::<i64>()), 0..3)),
        leader: bool,
    ) {
        let batches: Vec<_> = sizes.iter().map(|n| batch(*n)).collect();
        let expected: Vec<u8> = batches.iter().flat_map(|b| [&b.first_bytes()[..], &b.rest()].concat()).collect();
        let mut partition = FetchedPartition::error(3, 0);
        partition.high_watermark = 50;
        partition.batches = batches;
        partition.aborted = aborted.as_ref().map(|list| {
            list.iter().map(|(producer_id, first_offset)| AbortedTransaction { producer_id: *producer_id, first_offset: *first_offset }).collect()
        });
        partition.diverging = leader.then_some((4, 44));
        partition.current_leader = leader.then_some(CurrentLeader { leader_id: 1, leader_epoch: 2 });
        let node = NodeEndpoint { node_id: 4, host: StrBytes::from_static_str("h"), port: 9092 };
        let response = FetchResponse {
            session_id: 6,
            topics: vec![FetchedTopic { topic: topic_ref(version), partitions: vec![partition] }],
            node_endpoints: vec![node],
            ..FetchResponse::default()
        };
        let mut body = Bytes::from(response.encode(version).concat());
        let theirs = TheirResponse::decode(&mut body, version).unwrap();
        prop_assert!(body.is_empty());
        let read = &theirs.responses[0].partitions[0];
        prop_assert_eq!(read.records.as_deref(), Some(&expected[..]));
        prop_assert_eq!((read.partition_index, read.high_watermark), (3, 50));
        prop_assert_eq!(read.aborted_transactions.as_ref().map(Vec::len), aborted.as_ref().map(Vec::len));
        if version >= 12 && leader {
            prop_assert_eq!((read.diverging_epoch.end_offset, read.current_leader.leader_epoch), (44, 2));
        }
        prop_assert_eq!(theirs.session_id, if version >= 7 { 6 } else { 0 });
        prop_assert_eq!(theirs.node_endpoints.len(), usize::from(version >= 16));
    }

    #[test]
    fn rubbish_never_panics(frame in vec(any::<u8>(), 0..200), version in 3i16..20) {
        let _ = decode(&Bytes::from(frame), 0, version);
    }
}

fn batch(bytes: usize) -> Batch {
    let value = vec![7; bytes];
    let mut builder = BatchBuilder::new();
    builder.append(NewRecord {
        value: Some(&value),
        ..NewRecord::default()
    });
    let bytes = builder.build();
    let mut header = BatchHeader::parse(&bytes).unwrap();
    header.base_offset = 1234;
    header.leader_epoch = 7;
    Batch { header, bytes }
}

#[test]
fn large_batches_are_shared_not_copied() {
    let batch = batch(100_000);
    let mut partition = FetchedPartition::error(0, 0);
    partition.batches = vec![batch.clone()];
    let topics = vec![FetchedTopic {
        topic: topic_ref(13),
        partitions: vec![partition],
    }];
    let parts = FetchResponse {
        topics,
        ..FetchResponse::default()
    }
    .encode(13);
    let rest = batch.rest();
    assert!(
        parts
            .iter()
            .any(|p| p.as_ptr() == rest.as_ptr() && p.len() == rest.len())
    );
}
