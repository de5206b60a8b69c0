//! Against the message crate, and by hand for the version it lacks.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    GroupId, OffsetFetchRequest as Theirs, OffsetFetchResponse, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::collection::vec;
use proptest::prelude::*;
use tidemill_model::TopicId;

use super::*;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn their_request(version: i16, names: &[String], numbers: &[i32]) -> Theirs {
    let all = version >= 2 && numbers.is_empty();
    let mut request = Theirs::default();
    if version >= 8 {
        let topic = |name: &String| {
            OffsetFetchRequestTopics::default()
                .with_name(TopicName(text(name)))
                .with_partition_indexes(numbers.to_vec())
        };
        let group = |name: &String| {
            let topics = (!all).then(|| names.iter().map(topic).collect());
            let group = OffsetFetchRequestGroup::default()
                .with_group_id(GroupId(text(name)))
                .with_topics(topics);
            if version >= 9 {
                group.with_member_id(Some(text("m"))).with_member_epoch(4)
            } else {
                group
            }
        };
        request = request.with_groups(names.iter().map(group).collect());
    } else {
        let topic = |name: &String| {
            OffsetFetchRequestTopic::default()
                .with_name(TopicName(text(name)))
                .with_partition_indexes(numbers.to_vec())
        };
        let topics = (!all).then(|| names.iter().map(topic).collect());
        request = request
            .with_group_id(GroupId(text("g")))
            .with_topics(topics);
    }
    if version >= 7 {
        request.with_require_stable(true)
    } else {
        request
    }
}

fn named(topics: &Option<Vec<(TopicRef, Vec<i32>)>>) -> Option<Vec<(String, Vec<i32>)>> {
    let name = |topic: &TopicRef| match topic {
        TopicRef::Name(name) => name.to_string(),
        TopicRef::Id(id) => id.to_string(),
    };
    topics.as_ref().map(|t| {
        t.iter()
            .map(|(topic, p)| (name(topic), p.clone()))
            .collect()
    })
}

proptest! {
    #[test]
    fn requests_are_read_as_the_message_crate_writes_them(
        names in vec("[a-z]{0,20}", 0..4), numbers in vec(any::<i32>(), 0..5), cut: usize,
    ) {
        for version in 1..=9 {
            let theirs = their_request(version, &names, &numbers);
            let mut body = BytesMut::new();
            theirs.encode(&mut body, version).unwrap();
            let body = body.freeze();
            let ours = decode(&body, 0, version).unwrap();
            let all = version >= 2 && numbers.is_empty();
            let topics = (!all).then(|| names.iter().map(|n| (n.clone(), numbers.clone())).collect::<Vec<_>>());
            let groups = if version >= 8 { names.clone() } else { vec!["g".to_owned()] };
            prop_assert_eq!(ours.groups.len(), groups.len());
            for (ours, group) in ours.groups.iter().zip(&groups) {
                prop_assert_eq!(&*ours.group, group.as_str());
                prop_assert_eq!(named(&ours.topics), topics.clone());
                prop_assert_eq!(ours.member_epoch, if version >= 9 { 4 } else { -1 });
            }
            prop_assert_eq!(ours.require_stable, version >= 7);
            let cut = body.slice(..cut % body.len());
            prop_assert!(decode(&cut, 0, version).is_err());
        }
    }

    #[test]
    fn rubbish_never_panics(body in vec(any::<u8>(), 0..100)) {
        let body = Bytes::from(body);
        (1..=10).for_each(|version| drop(decode(&body, 0, version)));
    }
}

fn fetched(topic: TopicRef) -> [GroupFetched; 1] {
    let partition = PartitionFetched {
        index: 3,
        offset: 77,
        leader_epoch: 5,
        metadata: "said".to_owned(),
        error_code: 9,
    };
    [GroupFetched {
        group: text("g"),
        error_code: 16,
        topics: vec![(topic, vec![partition])],
    }]
}

#[test]
fn responses_are_what_the_message_crate_reads() {
    let groups = fetched(TopicRef::Name(text("t")));
    for version in 1..=9 {
        let mut body = Bytes::from(encode(&groups, version));
        let theirs = OffsetFetchResponse::decode(&mut body, version).unwrap();
        assert!(body.is_empty());
        if version >= 8 {
            let group = &theirs.groups[0];
            let p = &group.topics[0].partitions[0];
            assert_eq!((&*group.group_id.0, group.error_code), ("g", 16));
            assert_eq!(
                (p.partition_index, p.committed_offset, p.error_code),
                (3, 77, 9)
            );
            assert_eq!(
                (p.committed_leader_epoch, p.metadata.as_deref()),
                (5, Some("said"))
            );
        } else {
            let p = &theirs.topics[0].partitions[0];
            assert_eq!(theirs.error_code, if version >= 2 { 16 } else { 0 });
            assert_eq!(
                (p.partition_index, p.committed_offset, p.error_code),
                (3, 77, 9)
            );
        }
    }
}

/// Kafka's definition: version 10 is version 9 with a topic id of 16 bytes where the name was.
#[test]
fn version_10_names_topics_by_id() {
    let mut body = vec![2, 2, b'g', 0, 255, 255, 255, 255, 2];
    body.extend_from_slice(&[6; 16]);
    body.extend_from_slice(&[2, 0, 0, 0, 1, 0, 0, 0, 0]);
    let ours = decode(&Bytes::from(body), 0, 10).unwrap();
    let topics = ours.groups[0].topics.clone().unwrap();
    assert_eq!(topics, [(TopicRef::Id(TopicId([6; 16])), vec![1])]);
    let by_id = encode(&fetched(TopicRef::Id(TopicId([6; 16]))), 10);
    let by_name = encode(&fetched(TopicRef::Name(text(""))), 9);
    let mut expected = by_name.clone();
    // Throttle time, count of groups, group and count of topics are before the (empty) name.
    let name_at = 4 + 1 + 2 + 1;
    assert_eq!(by_name[name_at], 1);
    expected.splice(name_at..=name_at, [6; 16]);
    assert_eq!(by_id, expected);
}
