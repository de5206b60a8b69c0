//! Held against the message crate, and against rubbish.

use bytes::BytesMut;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ProduceRequest as Theirs, ProduceResponse as TheirResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidemill_model::TopicId;

use super::*;

fn text() -> impl Strategy<Value = StrBytes> {
    "[a-zé]{0,200}".prop_map(StrBytes::from_string)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

prop_compose! {
    fn request()(
        transactional in option::of(text()), acks: i16, timeout_ms: i32,
        topics in vec((text(), any::<[u8; 16]>(), vec((any::<i32>(), option::of(bytes())), 0..4)), 0..4),
    ) -> (Option<StrBytes>, i16, i32, Vec<(StrBytes, [u8; 16], Vec<(i32, Option<Bytes>)>)>) {
        (transactional, acks, timeout_ms, topics)
    }
}

proptest! {
    #[test]
    fn requests_are_read_as_the_message_crate_writes_them(
        (transactional, acks, timeout_ms, topics) in request(), version in 3i16..=13, cut: usize, tag in bytes(),
    ) {
        let partition = |(index, records): &(i32, Option<Bytes>)| {
            let p = PartitionProduceData::default().with_index(*index).with_records(records.clone());
            if version >= 9 { p.with_unknown_tagged_field(7, tag.clone()) } else { p }
        };
        let theirs = topics.iter().map(|(name, id, partitions)| {
            let topic = TopicProduceData::default().with_partition_data(partitions.iter().map(partition).collect());
            if version >= 13 { topic.with_topic_id(uuid_of(*id)) } else { topic.with_name(TopicName(name.clone())) }
        });
        let theirs = Theirs::default()
            .with_transactional_id(transactional.clone().map(Into::into))
            .with_acks(acks)
            .with_timeout_ms(timeout_ms)
            .with_topic_data(theirs.collect());
        let mut frame = BytesMut::from(&b"head"[..]);
        theirs.encode(&mut frame, version).unwrap();
        let frame = frame.freeze();
        let ours = decode(&frame, 4, version).unwrap();
        prop_assert_eq!(&ours.transactional_id, &transactional);
        prop_assert_eq!((ours.acks, ours.timeout_ms), (acks, timeout_ms));
        let expected: Vec<_> = topics.into_iter().map(|(name, id, partitions)| TopicProduce {
            topic: if version >= 13 { TopicRef::Id(TopicId(id)) } else { TopicRef::Name(name) },
            partitions: partitions.into_iter().map(|(index, records)| PartitionProduce { index, records }).collect(),
        }).collect();
        prop_assert_eq!(ours.topics, expected);
        let cut = 4 + cut % (frame.len() - 4);
        prop_assert!(decode(&frame.slice(..cut), 4, version).is_err());
    }

    #[test]
    fn responses_are_read_by_the_message_crate(
        partitions in vec((any::<i32>(), any::<i16>(), any::<i64>(), option::of("[a-z]{0,9}"), option::of((0..9i32, 0..9i32))), 0..4),
        version in 3i16..=13, name in text(),
    ) {
        let topic = if version >= 13 { TopicRef::Id(TopicId([7; 16])) } else { TopicRef::Name(name) };
        let produced = partitions.iter().map(|(index, code, offset, message, leader)| {
            let mut p = PartitionProduced::error(*index, *code, message.clone());
            p.base_offset = *offset;
            p.log_start_offset = offset / 2;
            p.record_errors = vec![(3, message.clone())];
            p.current_leader = leader.map(|(leader_id, leader_epoch)| CurrentLeader { leader_id, leader_epoch });
            p
        });
        let node = NodeEndpoint { node_id: 4, host: StrBytes::from_static_str("h"), port: 9092 };
        let response = ProduceResponse {
            topics: vec![TopicProduced { topic, partitions: produced.collect() }],
            throttle_time_ms: 5,
            node_endpoints: vec![node],
        };
        let mut body = Bytes::from(response.encode(version));
        let theirs = TheirResponse::decode(&mut body, version).unwrap();
        prop_assert!(body.is_empty());
        prop_assert_eq!(theirs.throttle_time_ms, 5);
        prop_assert_eq!(theirs.node_endpoints.len(), usize::from(version >= 10));
        let read = &theirs.responses[0].partition_responses;
        prop_assert_eq!(read.len(), partitions.len());
        for (theirs, (index, code, offset, message, leader)) in read.iter().zip(&partitions) {
            prop_assert_eq!((theirs.index, theirs.error_code, theirs.base_offset), (*index, *code, *offset));
            prop_assert_eq!(theirs.log_start_offset, if version >= 5 { offset / 2 } else { -1 });
            if version >= 8 {
                prop_assert_eq!(theirs.error_message.as_deref(), message.as_deref());
                prop_assert_eq!(theirs.record_errors[0].batch_index, 3);
            }
            if let (10.., Some((id, epoch))) = (version, leader) {
                prop_assert_eq!((i32::from(theirs.current_leader.leader_id), theirs.current_leader.leader_epoch), (*id, *epoch));
            }
        }
    }

    #[test]
    fn rubbish_never_panics(frame in vec(any::<u8>(), 0..200), version in -1i16..15) {
        let _ = decode(&Bytes::from(frame), 0, version);
    }
}

fn uuid_of(id: [u8; 16]) -> uuid::Uuid {
    uuid::Uuid::from_bytes(id)
}

#[test]
fn versions_0_to_2_have_no_transactional_id_and_short_answers() {
    let mut frame = Vec::new();
    frame.extend_from_slice(&1i16.to_be_bytes());
    frame.extend_from_slice(&1000i32.to_be_bytes());
    frame.extend_from_slice(&1i32.to_be_bytes());
    frame.extend_from_slice(&[0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0]);
    let request = decode(&Bytes::from(frame), 0, 1).unwrap();
    assert_eq!(request.topics[0].partitions[0].index, 9);
    let topics = vec![TopicProduced {
        topic: request.topics[0].topic.clone(),
        partitions: vec![PartitionProduced::error(9, 35, None)],
    }];
    let response = ProduceResponse {
        topics,
        ..ProduceResponse::default()
    };
    let lens: Vec<_> = (0..4).map(|v| response.encode(v).len()).collect();
    assert_eq!(
        lens,
        [
            4 + 3 + 4 + 14,
            4 + 3 + 4 + 14 + 4,
            4 + 3 + 4 + 22 + 4,
            4 + 3 + 4 + 22 + 4
        ]
    );
}
