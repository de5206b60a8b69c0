//! Records of `__consumer_offsets`, which may have been written by another program, and what members of groups say of
//! themselves.

use bytes::Bytes;
use tidemill_groups::codec::{
    Key, decode_commit, decode_group, encode_commit, encode_group, subscribed_topics,
};
use tidemill_groups::copy::Copy;
use tidemill_groups::store::{Commit, GroupRecord, MemberRecord, Record};
use tidemill_groups::{Budget, Coordinator, Now, Settings, Store};
use tidemill_model::TopicId;

use crate::alloc::within;
use crate::{Target, marked, read_marked};

/// Memory for each byte of a record: a short text becomes a string in a list that doubles while the old one stands.
const RECORD_FACTOR: usize = 64;
/// Memory for each byte of a log: a short record becomes a group with its timers, in trees.
const LOG_FACTOR: usize = 512;
const BYTES: usize = 16 << 10;
/// Bytes of a piece of a copy here.
const PIECE_BYTES: usize = 256;
const TOPIC: TopicId = TopicId([7; 16]);
const NOW: Now = Now {
    mono_ms: 5,
    unix_ms: 1_700_000_000_000,
};

pub(crate) const GROUPS: Target = Target {
    name: "groups",
    run: run_groups,
    seeds: groups_seeds,
};

const KINDS: u8 = 5;

fn run_groups(input: &[u8]) {
    read_marked(input, read_kind);
}

fn read_kind(kind: u8, bytes: &[u8]) {
    let allowed = RECORD_FACTOR * bytes.len() + BYTES;
    match kind % KINDS {
        0 => read_key(bytes, allowed),
        1 => read_commit(bytes, allowed),
        2 => read_group(bytes, allowed),
        3 => {
            let topics = within("a subscription", allowed, || subscribed_topics(bytes));
            let texts: usize = topics.iter().flatten().map(String::len).sum();
            assert!(texts <= bytes.len());
        }
        _ => read_log(bytes),
    }
}

fn read_key(bytes: &[u8], allowed: usize) {
    let key = within("a key", allowed, || Key::decode(bytes));
    if let Ok(Some(key)) = key {
        assert_eq!(Key::decode(&key.encode()), Ok(Some(key)));
    }
}

fn read_commit(bytes: &[u8], allowed: usize) {
    let commit = within("a commit", allowed, || decode_commit(bytes, TOPIC));
    if let Ok(commit) = commit {
        let again = decode_commit(&encode_commit(&commit), commit.topic_id);
        assert_eq!(again, Ok(commit));
    }
}

fn read_group(bytes: &[u8], allowed: usize) {
    let shared = Bytes::copy_from_slice(bytes);
    let group = within("a group", allowed, || decode_group(&shared));
    if let Ok(group) = group {
        let again = decode_group(&Bytes::from(encode_group(&group)));
        assert_eq!(again, Ok(group));
    }
}

/// A log: keys and values, a length before each. What can be read of it comes to life; a copy says the same; in time
/// every member is gone.
fn read_log(bytes: &[u8]) {
    let records = records(bytes);
    let allowed = LOG_FACTOR * bytes.len() + BYTES;
    within("a log of groups", allowed, || {
        let mut coordinator = Coordinator::new(Settings::default(), Budget::new());
        for (offset, record) in (0..).zip(&records) {
            let _ = coordinator.load(record, offset);
        }
        let store = coordinator.store();
        assert_eq!(copied(store).contents(), store.contents());
        coordinator.loaded(NOW);
        let later = Now {
            mono_ms: u64::MAX / 2,
            ..NOW
        };
        coordinator.fire(later);
    });
}

fn copied(store: &Store) -> Store {
    let (mut copy, mut fresh) = (Copy::new(i64::MAX), Store::new());
    loop {
        let piece = copy.next(store, PIECE_BYTES);
        for record in &piece.records {
            let taken = fresh.apply(record, 0);
            taken.expect("what was read can be written and read");
        }
        if piece.last {
            return fresh;
        }
    }
}

/// Reads `bytes` as records: a byte says how long the key is, two how long the value; the last one takes what is left.
fn records(bytes: &[u8]) -> Vec<Record> {
    let (mut records, mut rest) = (Vec::new(), bytes);
    while let Some((length, after)) = rest.split_first() {
        let (key, after) = after.split_at(after.len().min(usize::from(*length)));
        let (length, after) = after.split_at(after.len().min(2));
        let length = length.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        let (value, after) = after.split_at(after.len().min(length));
        rest = after;
        if let Ok(Some(key)) = Key::decode(key) {
            let value = (!value.is_empty()).then(|| Bytes::copy_from_slice(value));
            records.push(Record {
                key,
                value,
                topic_id: None,
            });
        }
    }
    records
}

fn commits() -> [Commit; 2] {
    let commit = Commit {
        topic_id: TOPIC,
        offset: 9,
        leader_epoch: 2,
        metadata: "m".into(),
        commit_ms: 1_700_000_000_000,
        expire_ms: None,
    };
    let expires = Commit {
        leader_epoch: -1,
        expire_ms: Some(1_800_000_000_000),
        ..commit.clone()
    };
    [commit, expires]
}

/// Version, one topic, user data.
const SUBSCRIPTION: &[u8] = b"\0\x03\0\0\0\x01\0\x01t\xff\xff\xff\xff";

fn group() -> GroupRecord {
    let member = |id: &str, instance: Option<&str>| MemberRecord {
        id: id.into(),
        instance: instance.map(str::to_owned),
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_ms: 60_000,
        session_ms: 45_000,
        subscription: Bytes::from_static(SUBSCRIPTION),
        assignment: Bytes::from_static(b"\0\x01\0\0\0\0"),
    };
    GroupRecord {
        protocol_type: "consumer".into(),
        generation: 3,
        protocol: Some("range".into()),
        leader: Some("a".into()),
        since_ms: 1_700_000_000_000,
        members: vec![member("a", None), member("b", Some("i"))],
    }
}

/// The same group as Kafka's version 4 says it, which is flexible (no member).
const FLEXIBLE_GROUP: &[u8] = b"\0\x04\x09consumer\0\0\0\x03\x06range\x02a\0\0\0\0\0\0\0\x09\x01\0";
/// A commit in version 4, with the topic's id as tagged field 0.
const FLEXIBLE_COMMIT: &[u8] =
    b"\0\x04\0\0\0\0\0\0\x01\x02\0\0\0\x07\x02m\0\0\0\0\0\0\0\x03\x01\0\x100123456789abcdef";

fn groups_seeds() -> Vec<Vec<u8>> {
    let of_commit = Key::Offset {
        group: "g".into(),
        topic: "t".into(),
        partition: 1,
    };
    let of_group = Key::Group { group: "g".into() };
    let mut values = vec![
        (of_commit.encode(), FLEXIBLE_COMMIT.to_vec()),
        (of_group.encode(), FLEXIBLE_GROUP.to_vec()),
        (of_group.encode(), encode_group(&group())),
    ];
    values.extend(
        commits()
            .iter()
            .map(|c| (of_commit.encode(), encode_commit(c))),
    );
    let mut log = Vec::new();
    let mut seeds = vec![marked(3, SUBSCRIPTION)];
    for (key, value) in &values {
        seeds.push(marked(0, key));
        let kind = if *key == of_group.encode() { 2 } else { 1 };
        seeds.push(marked(kind, value));
        log.push(key.len() as u8);
        log.extend(key);
        log.extend((value.len() as u16).to_be_bytes());
        log.extend(value);
        seeds.push(marked(4, &log));
    }
    seeds
}
