//! Against the message crate, and by hand for the version it lacks.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    GroupId, OffsetCommitRequest as Theirs, OffsetCommitResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::collection::vec;
use proptest::prelude::*;
use tidemill_model::TopicId;

use super::*;

fn their_request(version: i16, names: &[String], numbers: &[i32]) -> Theirs {
    let text = |s: &str| StrBytes::from_string(s.to_owned());
    let partition = |n: &i32| {
        let p = OffsetCommitRequestPartition::default()
            .with_partition_index(*n)
            .with_committed_offset(i64::from(*n) << 7)
            .with_committed_metadata((*n % 2 == 0).then(|| text("said")));
        if version >= 6 {
            p.with_committed_leader_epoch(*n)
        } else {
            p
        }
    };
    let topic = |name: &String| {
        OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(name)))
            .with_partitions(numbers.iter().map(partition).collect())
    };
    let mut request = Theirs::default()
        .with_group_id(GroupId(text("g")))
        .with_generation_id_or_member_epoch(7)
        .with_member_id(text("m"))
        .with_topics(names.iter().map(topic).collect());
    if version >= 7 {
        request = request.with_group_instance_id(numbers.first().map(|_| text("i")));
    }
    if version <= 4 {
        request = request.with_retention_time_ms(99);
    }
    request
}

proptest! {
    #[test]
    fn requests_are_read_as_the_message_crate_writes_them(
        names in vec("[a-z]{0,20}", 0..4), numbers in vec(any::<i32>(), 0..5), cut: usize,
    ) {
        for version in 2..=9 {
            let theirs = their_request(version, &names, &numbers);
            let mut body = BytesMut::new();
            theirs.encode(&mut body, version).unwrap();
            let body = body.freeze();
            let ours = decode(&body, 0, version).unwrap();
            prop_assert_eq!(&ours.group, &theirs.group_id.0);
            prop_assert_eq!((ours.generation, ours.retention_ms), (7, theirs.retention_time_ms));
            prop_assert_eq!(&ours.instance, &theirs.group_instance_id);
            prop_assert_eq!(ours.topics.len(), theirs.topics.len());
            for (ours, theirs) in ours.topics.iter().zip(&theirs.topics) {
                prop_assert_eq!(&ours.topic, &TopicRef::Name(theirs.name.0.clone()));
                for (ours, theirs) in ours.partitions.iter().zip(&theirs.partitions) {
                    prop_assert_eq!(ours.index, theirs.partition_index);
                    prop_assert_eq!(ours.offset, theirs.committed_offset);
                    prop_assert_eq!(ours.leader_epoch, theirs.committed_leader_epoch);
                    prop_assert_eq!(&ours.metadata, &theirs.committed_metadata);
                }
            }
            let cut = body.slice(..cut % body.len());
            prop_assert!(decode(&cut, 0, version).is_err());
        }
    }

    #[test]
    fn rubbish_never_panics(body in vec(any::<u8>(), 0..100)) {
        let body = Bytes::from(body);
        (2..=10).for_each(|version| drop(decode(&body, 0, version)));
    }

    #[test]
    fn responses_are_what_the_message_crate_reads(codes in vec((any::<i32>(), any::<i16>()), 0..5)) {
        let topic = TopicRef::Name(StrBytes::from_static_str("t"));
        let topics = [TopicCommitted { topic, partitions: codes.clone() }];
        for version in 2..=9 {
            let mut body = Bytes::from(encode(&topics, version));
            let theirs = OffsetCommitResponse::decode(&mut body, version).unwrap();
            prop_assert!(body.is_empty());
            let read: Vec<_> = theirs.topics[0].partitions.iter().map(|p| (p.partition_index, p.error_code)).collect();
            prop_assert_eq!(&read, &codes);
        }
    }
}

/// Kafka's definition: version 10 is version 9 with a topic id of 16 bytes where the name was.
#[test]
fn version_10_names_topics_by_id() {
    let theirs = their_request(9, &[String::new()], &[3]);
    let mut body = BytesMut::new();
    theirs.encode(&mut body, 9).unwrap();
    // Group, generation, member, instance and the count of topics are before the (empty) name.
    let name_at = 2 + 4 + 2 + 2 + 1;
    assert_eq!(body[name_at], 1, "an empty compact text");
    let mut newest = body.to_vec();
    newest.splice(name_at..=name_at, [5; 16]);
    let ours = decode(&Bytes::from(newest), 0, 10).unwrap();
    assert_eq!(ours.topics[0].topic, TopicRef::Id(TopicId([5; 16])));
    assert_eq!(ours.topics[0].partitions[0].offset, 3 << 7);

    let topics = [TopicCommitted {
        topic: TopicRef::Id(TopicId([5; 16])),
        partitions: vec![(3, 0)],
    }];
    let mut expected = vec![0, 0, 0, 0, 2];
    expected.extend_from_slice(&[5; 16]);
    expected.extend_from_slice(&[2, 0, 0, 0, 3, 0, 0, 0, 0, 0]);
    assert_eq!(encode(&topics, 10), expected);
}
