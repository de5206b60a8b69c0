//! Records as Kafka writes and reads them.

use super::*;
use crate::codec::*;
use crate::store::{Commit, GroupRecord, MemberRecord};

/// Bytes as Kafka 3 and 4 write them (OffsetCommitKey version 1, OffsetCommitValue version 3).
#[test]
fn commits_are_written_as_kafka_writes_them() {
    let key = Key::Offset {
        group: "g".into(),
        topic: "to".into(),
        partition: 5,
    };
    assert_eq!(
        key.encode(),
        [0, 1, 0, 1, b'g', 0, 2, b't', b'o', 0, 0, 0, 5]
    );
    assert_eq!(Key::decode(&key.encode()), Ok(Some(key)));
    let commit = Commit {
        topic_id: TOPIC,
        offset: 258,
        leader_epoch: 7,
        metadata: "m".into(),
        commit_ms: 3,
        expire_ms: None,
    };
    let bytes = encode_commit(&commit);
    let expected = [
        0, 3, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7, 0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 3,
    ];
    assert_eq!(bytes, expected);
    assert_eq!(decode_commit(&bytes, TOPIC), Ok(commit.clone()));
    let expires = Commit {
        expire_ms: Some(9),
        leader_epoch: -1,
        ..commit
    };
    assert_eq!(decode_commit(&encode_commit(&expires), TOPIC), Ok(expires));
}

/// Version 4 is flexible: compact texts, and the topic's id as tagged field 0.
#[test]
fn commits_of_newer_kafkas_are_read() {
    let mut bytes = vec![
        0, 4, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7, 2, b'm', 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 16,
    ];
    bytes.extend_from_slice(&[9; 16]);
    let commit = decode_commit(&bytes, TopicId::NONE).unwrap();
    assert_eq!(
        (commit.offset, commit.topic_id, &*commit.metadata),
        (258, TopicId([9; 16]), "m")
    );
    assert_eq!(decode_commit(&[0, 5], TOPIC), Err(CodecError::Version(5)));
    assert_eq!(
        Key::decode(&[0, 3, 0, 1, b'g']),
        Ok(None),
        "a record of another kind of group"
    );
}

#[test]
fn groups_are_written_as_kafka_writes_them() {
    let member = MemberRecord {
        id: "m".into(),
        instance: None,
        client_id: "c".into(),
        client_host: "/h".into(),
        rebalance_ms: 1,
        session_ms: 2,
        subscription: Bytes::from_static(b"s"),
        assignment: Bytes::from_static(b"a"),
    };
    let group = GroupRecord {
        protocol_type: "consumer".into(),
        generation: 4,
        protocol: Some("range".into()),
        leader: Some("m".into()),
        since_ms: 5,
        members: vec![member],
    };
    let bytes = Bytes::from(encode_group(&group));
    let mut expected = vec![0, 3, 0, 8];
    expected.extend_from_slice(b"consumer\0\0\0\x04\0\x05range\0\x01m\0\0\0\0\0\0\0\x05\0\0\0\x01");
    expected.extend_from_slice(
        b"\0\x01m\xff\xff\0\x01c\0\x02/h\0\0\0\x01\0\0\0\x02\0\0\0\x01s\0\0\0\x01a",
    );
    assert_eq!(bytes, expected);
    assert_eq!(decode_group(&bytes), Ok(group));
    assert_eq!(
        Key::Group { group: "g".into() }.encode(),
        [0, 2, 0, 1, b'g']
    );
}

#[test]
fn topics_of_a_subscription_are_read_and_nonsense_is_none() {
    let subscription = [
        0, 1, 0, 0, 0, 2, 0, 1, b'a', 0, 1, b'b', 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(
        subscribed_topics(&subscription),
        Some(vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(subscribed_topics(&[0, 1, 0x7f, 0xff, 0xff, 0xff]), None);
    assert_eq!(subscribed_topics(&[]), None);
}

/// The flexible form can say texts that the form written here cannot.
#[test]
fn text_that_could_not_be_written_again_is_refused() {
    for (bytes, expected) in [(32_767u32, true), (32_768, false)] {
        let mut value = vec![0, 4, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7];
        let length = bytes + 1;
        value.extend([
            (length & 127) as u8 | 128,
            (length >> 7 & 127) as u8 | 128,
            (length >> 14) as u8,
        ]);
        value.resize(value.len() + bytes as usize, b'm');
        value.extend([0, 0, 0, 0, 0, 0, 0, 3, 0]);
        match decode_commit(&value, TOPIC) {
            Ok(commit) => {
                assert!(expected);
                let again = decode_commit(&encode_commit(&commit), TOPIC);
                assert_eq!(again, Ok(commit));
            }
            Err(e) => assert_eq!((e, expected), (CodecError::Length, false)),
        }
    }
}

#[test]
fn record_that_names_a_member_twice_brings_one_of_it_to_life() {
    let twice = MemberRecord {
        id: "a".into(),
        instance: None,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_ms: 60_000,
        session_ms: 10_000,
        subscription: Bytes::from_static(b"s"),
        assignment: Bytes::new(),
    };
    let group = GroupRecord {
        protocol_type: "consumer".into(),
        generation: 3,
        protocol: Some("range".into()),
        leader: Some("a".into()),
        since_ms: -1,
        members: vec![twice.clone(), twice],
    };
    let record = Record {
        key: Key::Group { group: "g".into() },
        value: Some(encode_group(&group).into()),
        topic_id: None,
    };
    let mut w = World::new();
    w.machine = Coordinator::new(Settings::default(), Budget::new());
    w.machine.load(&record, 0).unwrap();
    w.machine.loaded(w.now);
    assert_eq!(w.machine.members(), 1);
    w.pass(10_001);
    assert_eq!(w.machine.members(), 0);
    assert_eq!(w.machine.timers(), 1, "that of expiry");
}
