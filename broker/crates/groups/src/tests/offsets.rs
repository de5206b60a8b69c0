//! Commits: when they count, when they go, who may make and take them back.

use super::*;
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_METADATA_BYTES_MAX, RECORD_BATCH_BYTES_MAX};

/// A consumer that is in no group.
fn nobody() -> Who {
    Who {
        member: "".into(),
        instance: None,
    }
}

const DAY: u64 = 86_400_000;

#[test]
fn commit_counts_once_it_is_written_and_survives_a_restart() {
    let mut w = World::new();
    let ids = w.stable(&["a"]);
    w.prompt = false;
    w.commit(&ids[0], 1, 42).unwrap();
    assert_eq!(w.committed("t"), None);
    w.land(true);
    assert_eq!(w.committed("t"), Some(42));
    w.commit(&ids[0], 1, 43).unwrap();
    w.land(false);
    assert_eq!(
        w.committed("t"),
        Some(42),
        "what was not written does not count"
    );
    let mut again = w.restarted();
    assert_eq!((again.committed("t"), again.state()), (Some(42), "Stable"));
    assert_eq!(again.beat(&ids[0], 1), Ok(()), "members go on");
    assert_eq!(again.commit(&ids[0], 1, 44), Ok(()));
}

#[test]
fn commit_from_outside_is_taken_only_while_nobody_is_in_the_group() {
    let mut w = World::new();
    assert_eq!(
        w.commit("", 3, 1),
        Err(GroupError::IllegalGeneration),
        "it had a group that is gone"
    );
    assert_eq!(w.commit("", -1, 1), Ok(()));
    assert_eq!(w.state(), "Empty");
    let ids = w.stable(&["a"]);
    assert_eq!(w.commit("", -1, 2), Err(GroupError::UnknownMemberId));
    assert_eq!(w.commit("stranger", 1, 2), Err(GroupError::UnknownMemberId));
    assert_eq!(w.commit(&ids[0], 0, 2), Err(GroupError::IllegalGeneration));
    assert_eq!(w.committed("t"), Some(1));
}

#[test]
fn commit_with_too_long_a_text_is_refused_alone() {
    let mut w = World::new();
    let long = NewCommit {
        metadata: "x".repeat(COMMIT_METADATA_BYTES_MAX + 1),
        ..new_commit("t", 1)
    };
    let fits = NewCommit {
        metadata: "x".repeat(COMMIT_METADATA_BYTES_MAX),
        ..new_commit("u", 1)
    };
    let (each, write) = w
        .machine
        .commit("g", &nobody(), -1, vec![long, fits], w.now)
        .unwrap();
    assert_eq!(each, [Err(GroupError::OffsetMetadataTooLarge), Ok(())]);
    assert_eq!(write.unwrap().records.len(), 1);
}

#[test]
fn partition_that_is_named_many_times_is_written_once_as_it_was_named_last() {
    let mut w = World::new();
    let commits: Vec<_> = (0..1_000).map(|offset| new_commit("t", offset)).collect();
    let (each, write) = w
        .machine
        .commit("g", &nobody(), -1, commits, w.now)
        .unwrap();
    let write = write.unwrap();
    assert_eq!((each.len(), write.records.len()), (1_000, 1));
    w.queue.push(write);
    w.land_all();
    assert_eq!(w.committed("t"), Some(999));
    let places = vec![(Arc::from("t"), 0); 1_000];
    let (each, write) = w.machine.delete_offsets("g", &places).unwrap();
    assert_eq!((each.len(), write.unwrap().records.len()), (1_000, 1));
}

#[test]
fn commit_that_would_be_too_large_a_batch_is_refused_before_it_is_made() {
    let mut w = World::new();
    let group = "g".repeat(1_024);
    let many = |n: i32| -> Vec<_> {
        let one = |partition| NewCommit {
            partition,
            ..new_commit("t", 1)
        };
        (0..n).map(one).collect()
    };
    let (_, write) = w
        .machine
        .commit(&group, &nobody(), -1, many(1_000), w.now)
        .unwrap();
    let bytes: usize = write.unwrap().records.iter().map(Record::bytes).sum();
    assert!(bytes < COMMIT_BYTES_MAX);
    let fit = (COMMIT_BYTES_MAX / (bytes / 1_000)) as i32;
    let refused = w
        .machine
        .commit(&group, &nobody(), -1, many(fit + 10), w.now);
    assert_eq!(refused, Err(GroupError::CommitTooLarge));
    let refused = w
        .machine
        .commit(&"g".repeat(1_025), &nobody(), -1, many(1), w.now);
    assert_eq!(refused, Err(GroupError::InvalidGroupId));
}

/// A group so large that what takes it back is more than a batch may hold.
fn vast() -> World {
    let mut w = World::new();
    let one = |partition| NewCommit {
        partition,
        ..new_commit(&"t".repeat(249), 1)
    };
    for from in 0..20 {
        let commits = (from * 5_000..(from + 1) * 5_000).map(one).collect();
        let (_, write) = w
            .machine
            .commit("g", &nobody(), -1, commits, w.now)
            .unwrap();
        w.queue.extend(write);
        w.land_all();
    }
    assert_eq!(w.machine.store().commits(), 100_000);
    w
}

#[test]
fn vast_group_goes_in_several_batches() {
    let small = |w: &World| {
        let bytes = |write: &Write| write.records.iter().map(Record::bytes).sum::<usize>();
        let each: Vec<usize> = w.queue.iter().map(bytes).collect();
        assert!(each.iter().sum::<usize>() > RECORD_BATCH_BYTES_MAX);
        each.iter().all(|bytes| *bytes < RECORD_BATCH_BYTES_MAX / 2)
    };
    let mut w = vast();
    let writes = w.machine.delete("g", w.now).unwrap();
    w.queue.extend(writes);
    assert!(small(&w));
    w.land_all();
    assert_eq!((w.state(), w.machine.store().groups()), ("none", 0));
    let mut w = vast();
    w.prompt = false;
    w.now.unix_ms += 8 * DAY as i64;
    w.sweep(&|_, _| true);
    assert!(small(&w));
    w.land(false);
    w.land_all();
    assert_eq!(w.state(), "Empty", "some could not be written");
    w.sweep(&|_, _| true);
    w.land_all();
    assert_eq!((w.state(), w.machine.store().groups()), ("none", 0));
    assert_eq!(w.budget.bytes(), 0);
}

#[test]
fn store_knows_what_its_copy_takes_in_the_log() {
    let mut w = World::new();
    w.stable(&["a", "b"]);
    for offset in 0..3 {
        let _ = w.commit_of("other", "", -1, "t", offset);
        let _ = w.commit_of("other", "", -1, "u", offset);
    }
    let mut copy = crate::copy::Copy::new(w.log.len() as Offset);
    let piece = copy.next(w.machine.store(), usize::MAX);
    let bytes: usize = piece.records.iter().map(Record::bytes).sum();
    assert_eq!(w.machine.store().log_bytes(), bytes);
    let writes = w.machine.delete("other", w.now).unwrap();
    w.queue.extend(writes);
    w.land_all();
    let left = piece
        .records
        .iter()
        .filter(|r| !matches!(&r.key, crate::codec::Key::Offset { .. }));
    assert_eq!(
        w.machine.store().log_bytes(),
        left.map(Record::bytes).sum::<usize>()
    );
}

#[test]
fn group_whose_first_record_is_on_its_way_is_deleted_with_it() {
    let mut w = World::new();
    w.prompt = false;
    let t = w.join(Join {
        client: ClientCan {
            return_with_id: false,
            skip_assignment: false,
        },
        ..member("a")
    });
    w.pass(3_000);
    let a = w.joined(t).member;
    let who = Who {
        member: a,
        instance: None,
    };
    let (_, effects) = w.machine.leave("g", &[who], w.now).unwrap();
    w.act(effects);
    assert_eq!((w.state(), w.queue.len()), ("Empty", 1));
    let writes = w.machine.delete("g", w.now).unwrap();
    w.queue.extend(writes);
    w.land_all();
    assert_eq!((w.state(), w.restarted().state()), ("none", "none"));
}

#[test]
fn group_is_deleted_with_commits_to_new_partitions_that_are_on_their_way() {
    // How the first of two commits and the deletion go: both are written, or the commit fails.
    for lands in [true, false] {
        let mut w = World::new();
        w.commit_of("g", "", -1, "old", 1).unwrap();
        w.prompt = false;
        w.commit_of("g", "", -1, "new", 2).unwrap();
        w.commit_of("g", "", -1, "new", 3).unwrap();
        let writes = w.machine.delete("g", w.now).unwrap();
        w.queue.extend(writes);
        let late = w.commit_of("g", "", -1, "later", 4);
        assert_eq!(late, Err(GroupError::CoordinatorNotAvailable));
        w.land(lands);
        w.land_all();
        assert_eq!((w.state(), w.machine.store().groups()), ("none", 0));
        assert_eq!(replayed(&w.log, 0).groups(), 0, "also after a restart");
        assert_eq!(w.budget.bytes(), 0);
    }
}

#[test]
fn offsets_expire_some_time_after_their_group_became_empty() {
    let mut w = World::new();
    let ids = w.stable(&["a"]);
    w.commit(&ids[0], 1, 5).unwrap();
    let end = w.now.mono_ms + 30 * DAY;
    while w.now.mono_ms < end {
        w.pass(5_000);
        assert_eq!(w.beat(&ids[0], 1), Ok(()));
        w.now.mono_ms += DAY - 5_001;
        w.now.unix_ms += (DAY - 5_001) as i64;
        w.beat(&ids[0], 1).unwrap();
    }
    assert_eq!(w.committed("t"), Some(5), "somebody is at work");
    w.pass(11_000);
    w.pass(60_000);
    assert_eq!(w.state(), "Empty");
    w.pass(6 * DAY);
    assert_eq!(w.committed("t"), Some(5));
    w.pass(2 * DAY);
    assert_eq!((w.committed("t"), w.state()), (None, "none"));
    assert_eq!(w.restarted().machine.store().groups(), 0);
}

#[test]
fn offsets_without_group_expire_some_time_after_they_were_committed() {
    let mut w = World::new();
    w.commit("", -1, 5).unwrap();
    w.pass(5 * DAY);
    w.commit_of("g", "", -1, "u", 6).unwrap();
    w.pass(3 * DAY);
    assert_eq!((w.committed("t"), w.committed("u")), (None, Some(6)));
    w.pass(5 * DAY);
    assert_eq!(w.state(), "none");
}

#[test]
fn offset_that_is_being_written_is_not_taken_for_old() {
    let mut w = World::new();
    w.commit("", -1, 5).unwrap();
    w.pass(6 * DAY);
    w.now.unix_ms += 2 * DAY as i64;
    w.prompt = false;
    w.commit("", -1, 6).unwrap();
    w.sweep(&|_, _| true);
    w.land_all();
    assert_eq!(w.committed("t"), Some(6));
    assert_eq!(replayed(&w.log, 0).commit("g", "t", 0).unwrap().offset, 6);
}

#[test]
fn offsets_of_deleted_topics_go_and_those_of_a_new_topic_of_that_name_stay() {
    let mut w = World::new();
    w.commit_of("g", "", -1, "old", 5).unwrap();
    w.commit_of("g", "", -1, "kept", 6).unwrap();
    w.sweep(&|name, id| name == "kept" && id == TOPIC);
    assert_eq!(
        w.committed("old"),
        Some(5),
        "not everybody may know a new topic yet"
    );
    w.now.unix_ms += 10_000;
    w.sweep(&|name, id| name == "kept" && id == TOPIC);
    assert_eq!((w.committed("old"), w.committed("kept")), (None, Some(6)));
    w.sweep(&|_, id| id != TOPIC);
    assert_eq!((w.committed("kept"), w.state()), (None, "none"));
}

#[test]
fn groups_are_deleted_when_nobody_is_in_them() {
    let mut w = World::new();
    let delete = |w: &mut World, id: &str| {
        w.machine
            .delete(id, w.now)
            .map(|writes| w.queue.extend(writes))
    };
    assert_eq!(delete(&mut w, "g"), Err(GroupError::GroupIdNotFound));
    assert_eq!(delete(&mut w, ""), Err(GroupError::InvalidGroupId));
    let ids = w.stable(&["a"]);
    w.commit(&ids[0], 1, 5).unwrap();
    assert_eq!(delete(&mut w, "g"), Err(GroupError::NonEmptyGroup));
    w.pass(120_000);
    assert_eq!(w.state(), "Empty");
    delete(&mut w, "g").unwrap();
    let t = w.join(member("late"));
    assert_eq!(
        w.refused(t),
        GroupError::CoordinatorNotAvailable,
        "until that is written"
    );
    assert_eq!(delete(&mut w, "g"), Err(GroupError::GroupIdNotFound));
    w.land_all();
    assert_eq!((w.state(), w.committed("t")), ("none", None));
    assert_eq!(w.restarted().machine.store().groups(), 0);
    w.enter("late");
}

#[test]
fn group_whose_deletion_could_not_be_written_is_there_as_before() {
    let mut w = World::new();
    w.commit("", -1, 5).unwrap();
    w.prompt = false;
    let writes = w.machine.delete("g", w.now).unwrap();
    w.queue.extend(writes);
    w.land(false);
    assert_eq!((w.state(), w.committed("t")), ("Empty", Some(5)));
}

/// What takes the offsets of topics away that no member reads.
enum TakenBy {
    Request,
    Age,
}

#[test]
fn offsets_of_topics_that_no_member_reads_go_by_request_and_by_age() {
    for by in [TakenBy::Request, TakenBy::Age] {
        let mut w = World::new();
        let places = [(Arc::from("t"), 0), (Arc::from("u"), 0)];
        let unknown = w.machine.delete_offsets("g", &places);
        assert_eq!(unknown, Err(GroupError::GroupIdNotFound));
        w.commit_of("g", "", -1, "t", 5).unwrap();
        w.commit_of("g", "", -1, "u", 6).unwrap();
        w.join_reader_of_t();
        match by {
            TakenBy::Request => {
                let (each, write) = w.machine.delete_offsets("g", &places).unwrap();
                assert_eq!(each, [Err(GroupError::GroupSubscribedToTopic), Ok(())]);
                w.queue.extend(write);
                w.land_all();
            }
            TakenBy::Age => {
                w.now.unix_ms += 8 * DAY as i64;
                w.sweep(&|_, _| true);
            }
        }
        assert_eq!((w.committed("t"), w.committed("u")), (Some(5), None));
    }
}

impl World {
    /// A member that subscribes to the topic `t` joins, and has its assignment.
    fn join_reader_of_t(&mut self) {
        let subscription = [0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 0];
        let reads = Protocol {
            name: "range".into(),
            metadata: Bytes::copy_from_slice(&subscription),
        };
        let client = ClientCan {
            return_with_id: false,
            skip_assignment: false,
        };
        let t = self.join(Join {
            protocols: vec![reads],
            client,
            ..member("a")
        });
        self.pass(3_000);
        let a = self.joined(t);
        let t = self.sync(&a.member, a.generation, &[]);
        self.synced(t).unwrap();
    }
}
