//! Tests of sessions by themselves: epochs, room, and what is looked at.

use tidemill_wire::StrBytes;
use tidemill_wire::fetch::{FetchTopic, ForgottenTopic};

use super::*;

fn name(topic: &str) -> TopicRef {
    TopicRef::Name(StrBytes::from_string(topic.to_owned()))
}

fn asked(index: i32, fetch_offset: i64) -> FetchPartition {
    FetchPartition {
        index,
        current_leader_epoch: -1,
        fetch_offset,
        last_fetched_epoch: -1,
        max_bytes: 1,
    }
}

fn request(session: (i32, i32), partitions: &[i32], forgotten: &[i32]) -> FetchRequest {
    let topic = FetchTopic {
        topic: name("t"),
        partitions: partitions.iter().map(|p| asked(*p, 0)).collect(),
    };
    FetchRequest {
        replica_id: -1,
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 1,
        isolation_level: 0,
        session_id: session.0,
        session_epoch: session.1,
        topics: vec![topic],
        forgotten: vec![ForgottenTopic {
            topic: name("t"),
            partitions: forgotten.to_vec(),
        }],
        rack_id: StrBytes::default(),
    }
}

fn partitions(count: i32) -> Partitions {
    let indices: Vec<i32> = (0..count).collect();
    Partitions::of(&request((0, 0), &indices, &[])).unwrap()
}

fn fault(plan: &Plan) -> Option<Fault> {
    match plan {
        Plan::Refused(fault) => Some(*fault),
        _ => None,
    }
}

#[test]
fn epochs_follow_each_other_and_anything_else_is_refused() {
    let sessions = FetchSessions::new(ShardId(1), 2, 10);
    let id = sessions.insert(partitions(3), false).unwrap().id;
    assert!(id > 0 && id % 2 == 1, "the id says its shard");
    let next = |epoch, by_id| sessions.plan(&request((id, epoch), &[], &[]), by_id);
    assert_eq!(fault(&next(2, false)), Some(Fault::Epoch));
    assert_eq!(fault(&next(1, true)), Some(Fault::TopicIds));
    assert!(matches!(next(1, false), Plan::Next(_)));
    assert_eq!(fault(&next(1, false)), Some(Fault::Epoch), "said twice");
    assert!(matches!(next(2, false), Plan::Next(_)));
    let other = sessions.plan(&request((id + 2, 1), &[], &[]), false);
    assert_eq!(fault(&other), Some(Fault::NotFound));
    assert!(matches!(next(-1, false), Plan::Whole));
    assert_eq!(
        fault(&next(3, false)),
        Some(Fault::NotFound),
        "it was closed"
    );
    assert_eq!(sessions.partitions.get(), 0);
    assert_eq!((next_epoch(i32::MAX), next_epoch(7)), (1, 8));
}

#[test]
fn only_what_changes_is_looked_at() {
    let mut p = partitions(10_000);
    for at in p.queued() {
        assert!(p.arm(at));
        p.dequeue(at);
    }
    assert!(p.queued().is_empty());
    p.update(&request((1, 1), &[17], &[])).unwrap();
    assert_eq!(p.queued(), [17]);
    assert!(p.fired(0, &[4_000]), "one that is watched has moved");
    assert_eq!(p.queued(), [17, 4_000]);
    p.requeue(17);
    assert_eq!(p.queued(), [4_000, 17]);
    assert!(
        p.arm(4_000) && !p.arm(17),
        "one was armed before, the other has fired"
    );
}

#[test]
fn forgotten_partition_is_not_fetched_until_it_is_named_again() {
    let mut p = partitions(3);
    p.entry((1, 2)).unwrap().told = Some((1, 1, 1));
    p.update(&request((1, 1), &[], &[1, 9])).unwrap();
    assert_eq!((p.len(), p.queued()), (2, vec![0, 2]));
    p.arm(1);
    p.fired(0, &[1]);
    assert_eq!(p.queued(), [0, 2], "it moves, and nobody cares");
    p.update(&request((1, 2), &[1], &[])).unwrap();
    assert_eq!((p.len(), p.queued()), (3, vec![0, 2, 1]));
    assert!(p.entry((1, 2)).is_none(), "the client has changed it");
    assert_eq!(p.entry((1, 4)).unwrap().told, None, "it is told of it anew");
}

#[test]
fn partitions_taken_out_for_good_take_no_memory_for_ever() {
    let mut p = partitions(2_000);
    let gone: Vec<i32> = (10..2_000).collect();
    p.update(&request((1, 1), &[], &gone)).unwrap();
    assert_eq!((p.len(), p.held()), (10, 10));
    assert_eq!(p.queued().len(), 10, "those that stay are armed anew");
    assert!(
        !p.fired(0, &[5]),
        "what an older generation was told is not meant"
    );
}

#[test]
fn a_session_that_grows_too_large_ends() {
    let sessions = FetchSessions::new(ShardId(0), 1, 10);
    let id = sessions.insert(partitions(10), false).unwrap().id;
    let many: Vec<i32> = (0..=PARTITIONS_MAX as i32).collect();
    let plan = sessions.plan(&request((id, 1), &many, &[]), false);
    assert_eq!(fault(&plan), Some(Fault::NotFound));
    assert_eq!((sessions.len(), sessions.partitions.get()), (0, 0));
    assert!(Partitions::of(&request((0, 0), &many, &[])).is_none());
}

#[test]
fn topics_with_names_longer_than_any_topic_has_are_in_no_session() {
    let named = |session, chars: usize| {
        let mut request = request(session, &[0], &[]);
        request.topics[0].topic = name(&"n".repeat(chars));
        request
    };
    assert!(Partitions::of(&named((0, 0), NAME_CHARS_MAX)).is_some());
    assert!(Partitions::of(&named((0, 0), NAME_CHARS_MAX + 1)).is_none());
    let sessions = FetchSessions::new(ShardId(0), 1, 10);
    let id = sessions.insert(partitions(10), false).unwrap().id;
    let plan = sessions.plan(&named((id, 1), 32_000), false);
    assert_eq!(fault(&plan), Some(Fault::NotFound));
    assert_eq!((sessions.len(), sessions.partitions.get()), (0, 0));
}

#[test]
fn a_full_cache_makes_no_session_as_long_as_all_are_young() {
    let sessions = FetchSessions::new(ShardId(0), 5, 10);
    for _ in 0..2 {
        assert!(sessions.insert(partitions(1), false).is_some());
    }
    assert!(sessions.insert(partitions(100), false).is_none());
    assert_eq!((sessions.refused.get(), sessions.evicted.get()), (1, 0));
}
