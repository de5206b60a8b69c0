//! Members that come, go, come back and are silent.

use super::*;
use crate::limits::{MEMBERS_BYTES_MAX, MEMBERS_MAX, PENDING_OF_GROUP_MAX};

#[test]
fn first_members_wait_for_others_and_the_leader_alone_is_told_of_all() {
    let mut w = World::new();
    let (a, ta) = w.enter("a");
    w.pass(2_000);
    let (b, tb) = w.enter("b");
    w.pass(1_000);
    assert!(
        w.joins.is_empty(),
        "somebody new came, so that others may, too"
    );
    w.pass(3_000);
    let (ja, jb) = (w.joined(ta), w.joined(tb));
    assert_eq!((ja.generation, &ja.leader, ja.members.len()), (1, &a, 2));
    assert_eq!((jb.generation, &jb.leader, jb.members.len()), (1, &a, 0));
    assert_eq!(ja.protocol.as_deref(), Some("range"));
    let tb = w.sync(&b, 1, &[]);
    assert!(w.syncs.is_empty(), "the leader has not assigned yet");
    let ta = w.sync(&a, 1, &[(&a, "x"), (&b, "y"), ("stranger", "z")]);
    assert_eq!(
        (w.synced(ta).unwrap(), w.synced(tb).unwrap()),
        ("x".to_owned(), "y".to_owned())
    );
    assert_eq!(w.state(), "Stable");
}

/// A member that leads the first generation of its group, alone, and has not assigned; what is written does not land by itself.
fn leads_alone() -> (World, Arc<str>) {
    let mut w = World::new();
    let (a, ta) = w.enter("a");
    w.pass(3_000);
    assert_eq!(w.joined(ta).generation, 1);
    w.prompt = false;
    (w, a)
}

#[test]
fn assignments_are_told_only_once_they_are_written() {
    let (mut w, a) = leads_alone();
    let t = w.sync(&a, 1, &[(&a, "x")]);
    assert!(w.syncs.is_empty());
    assert_eq!(w.state(), "CompletingRebalance");
    w.land(true);
    assert_eq!(w.synced(t).unwrap(), "x");
}

#[test]
fn leader_that_assigns_twice_is_taken_at_its_first_word_also_after_a_restart() {
    let (mut w, a) = leads_alone();
    let first = w.sync(&a, 1, &[(&a, "x")]);
    let second = w.sync(&a, 1, &[(&a, "y")]);
    assert_eq!(w.synced(first), Err(GroupError::RebalanceInProgress));
    w.land_all();
    assert_eq!(w.synced(second).unwrap(), "x");
    let t = w.sync(&a, 1, &[]);
    assert_eq!(w.synced(t).unwrap(), "x");
    let mut again = w.restarted();
    let t = again.sync(&a, 1, &[]);
    assert_eq!(again.synced(t).unwrap(), "x");
}

#[test]
fn assignments_that_cannot_be_written_make_members_join_again() {
    let (mut w, a) = leads_alone();
    let t = w.sync(&a, 1, &[(&a, "x")]);
    w.land(false);
    assert_eq!(w.synced(t), Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(w.beat(&a, 1), Err(GroupError::RebalanceInProgress));
}

#[test]
fn newcomer_makes_everybody_join_again_and_nobody_waits_longer_than_needed() {
    let mut w = World::new();
    let ids = w.stable(&["a", "b"]);
    let (_, tc) = w.enter("c");
    assert_eq!(w.beat(&ids[0], 1), Err(GroupError::RebalanceInProgress));
    let again = |id: &Arc<str>, name| Join {
        member: id.clone(),
        ..member(name)
    };
    let ta = w.join(again(&ids[0], "a"));
    assert!(w.joins.is_empty());
    let tb = w.join(again(&ids[1], "b"));
    assert_eq!(w.joined(ta).generation, 2);
    assert_eq!((w.joined(tb).generation, w.joined(tc).generation), (2, 2));
    assert_eq!(
        w.commit(&ids[1], 2, 5),
        Ok(()),
        "before the assignment a member has what it had"
    );
    assert_eq!(w.committed("t"), Some(5));
}

/// A stable group of two whose second generation, with a third, has begun and is not assigned: their ids.
fn second_generation(w: &mut World) -> [Arc<str>; 3] {
    let ids = w.stable(&["a", "b"]);
    let (c, _) = w.enter("c");
    for (id, name) in [(&ids[0], "a"), (&ids[1], "b")] {
        w.join(Join {
            member: id.clone(),
            ..member(name)
        });
    }
    assert_eq!(w.state(), "CompletingRebalance");
    [ids[0].clone(), ids[1].clone(), c]
}

#[test]
fn commit_on_its_way_when_a_generation_begins_is_taken_until_its_assignments_are_written() {
    let mut w = World::new();
    let [a, b, c] = second_generation(&mut w);
    assert_eq!(w.commit(&b, 1, 5), Ok(()), "on its way meanwhile");
    assert_eq!(w.committed("t"), Some(5));
    w.prompt = false;
    w.sync(&a, 2, &[(&a, "x"), (&b, "y"), (&c, "z")]);
    assert_eq!(w.commit(&b, 1, 6), Ok(()), "not yet written");
    w.land(true);
    assert_eq!(w.state(), "Stable");
    for (id, generation) in [(&a, 1), (&b, 1), (&b, 0), (&c, 0), (&c, 1)] {
        assert_eq!(
            w.commit(id, generation, 7),
            Err(GroupError::IllegalGeneration)
        );
    }
    w.land_all();
    assert_eq!(w.committed("t"), Some(6));
}

#[test]
fn commit_of_a_generation_that_was_never_assigned_is_taken_after_the_next_has_begun() {
    let mut w = World::new();
    let [a, b, c] = second_generation(&mut w);
    let (_, td) = w.enter("d");
    for (id, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        w.join(Join {
            member: id.clone(),
            ..member(name)
        });
    }
    assert_eq!(w.joined(td).generation, 3);
    for generation in 1..=3 {
        assert_eq!(w.commit(&b, generation, generation.into()), Ok(()));
    }
    assert_eq!(w.committed("t"), Some(3));
    assert_eq!(w.commit(&b, 4, 9), Err(GroupError::IllegalGeneration));
    assert_eq!(w.commit(&c, 3, 9), Err(GroupError::RebalanceInProgress));
}

#[test]
fn newcomer_without_an_assignment_commits_nothing() {
    let mut w = World::new();
    let [_, _, c] = second_generation(&mut w);
    assert_eq!(w.commit(&c, 2, 7), Err(GroupError::RebalanceInProgress));
    for generation in [0, 1, 3] {
        assert_eq!(
            w.commit(&c, generation, 7),
            Err(GroupError::IllegalGeneration)
        );
    }
    let mut first = World::new();
    let (a, _) = first.enter("a");
    first.pass(3_000);
    assert_eq!(first.state(), "CompletingRebalance");
    assert_eq!(first.commit(&a, 1, 7), Err(GroupError::RebalanceInProgress));
    assert_eq!((w.committed("t"), first.committed("t")), (None, None));
}

#[test]
fn late_commit_of_a_member_that_has_not_asked_does_not_override_the_new_owner() {
    let mut w = World::new();
    let [a, b, c] = second_generation(&mut w);
    w.sync(&a, 2, &[(&a, ""), (&b, ""), (&c, "what was b's")]);
    let t = w.sync(&c, 2, &[]);
    assert_eq!(w.synced(t).unwrap(), "what was b's");
    assert_eq!(w.commit(&c, 2, 500), Ok(()));
    assert_eq!(w.commit(&b, 1, 150), Err(GroupError::IllegalGeneration));
    assert_eq!(w.committed("t"), Some(500));
    assert_eq!(w.commit(&c, 2, 10), Ok(()), "it reads again");
    assert_eq!(w.commit(&b, 1, 150), Err(GroupError::IllegalGeneration));
    assert_eq!(w.committed("t"), Some(10));
}

#[test]
fn cooperative_members_commit_while_others_join() {
    let mut w = World::new();
    let ids = w.stable(&["a", "b"]);
    w.enter("c");
    assert_eq!(w.state(), "PreparingRebalance");
    assert_eq!(
        w.commit(&ids[0], 1, 5),
        Ok(()),
        "what it revokes it commits first"
    );
    assert_eq!(w.committed("t"), Some(5));
}

#[test]
fn member_that_leaves_begins_a_rebalance_and_the_last_one_empties_the_group() {
    let mut w = World::new();
    let ids = w.stable(&["a", "b"]);
    let leave = |w: &mut World, id: &Arc<str>| {
        let who = Who {
            member: id.clone(),
            instance: None,
        };
        let (left, effects) = w.machine.leave("g", &[who], w.now).unwrap();
        w.act(effects);
        left[0]
    };
    assert_eq!(leave(&mut w, &ids[0]), Ok(()));
    assert_eq!(w.state(), "PreparingRebalance");
    assert_eq!(leave(&mut w, &ids[0]), Err(GroupError::UnknownMemberId));
    let tb = w.join(Join {
        member: ids[1].clone(),
        ..member("b")
    });
    let b = w.joined(tb);
    assert_eq!((b.generation, &b.leader), (2, &ids[1]), "who is left leads");
    assert_eq!(leave(&mut w, &ids[1]), Ok(()));
    assert_eq!(w.state(), "Empty");
    assert_eq!(w.restarted().state(), "Empty");
}

#[test]
fn silent_member_is_out_when_its_session_is_over() {
    let mut w = World::new();
    let ids = w.stable(&["a", "b"]);
    for _ in 0..4 {
        w.pass(3_000);
        let _ = w.beat(&ids[0], 1);
    }
    assert_eq!(w.machine.describe("g").unwrap().members.len(), 1);
    assert_eq!(w.beat(&ids[1], 1), Err(GroupError::UnknownMemberId));
    assert_eq!(w.beat(&ids[0], 1), Err(GroupError::RebalanceInProgress));
}

#[test]
fn member_that_joined_and_never_asks_for_its_assignment_is_out() {
    let mut w = World::new();
    let (a, ta) = w.enter("a");
    let (b, tb) = w.enter("b");
    w.pass(6_000);
    w.joined(ta);
    w.joined(tb);
    w.sync(&a, 1, &[(&a, "x"), (&b, "y")]);
    for _ in 0..21 {
        w.pass(3_000);
        let _ = (w.beat(&a, 1), w.beat(&b, 1));
    }
    assert_eq!(w.beat(&b, 1), Err(GroupError::UnknownMemberId));
}

#[test]
fn member_that_does_not_join_again_in_time_is_out() {
    let mut w = World::new();
    let ids = w.stable(&["a", "b"]);
    let (_, tc) = w.enter("c");
    let ta = w.join(Join {
        member: ids[0].clone(),
        ..member("a")
    });
    for _ in 0..20 {
        w.pass(3_000);
        let _ = w.beat(&ids[1], 1);
    }
    let (a, c) = (w.joined(ta), w.joined(tc));
    assert_eq!((a.generation, a.members.len(), c.generation), (2, 2, 2));
    assert_eq!(w.beat(&ids[1], 1), Err(GroupError::UnknownMemberId));
}

#[test]
fn id_that_was_given_and_never_came_back_holds_nobody_up_for_ever() {
    let mut w = World::new();
    let ids = w.stable(&["a"]);
    w.join(member("ghost"));
    let ta = w.join(Join {
        member: ids[0].clone(),
        protocols: protocols(&["range"]),
        ..member("a")
    });
    assert!(!w.joins.contains_key(&ta), "the ghost may come");
    w.pass(10_000);
    assert_eq!(w.joined(ta).generation, 2);
}

#[test]
fn group_nobody_ever_entered_leaves_nothing_behind() {
    let mut w = World::new();
    w.join(member("ghost"));
    assert_eq!(w.machine.list().len(), 1);
    w.pass(10_000);
    assert!(w.machine.list().is_empty());
    assert_eq!(w.machine.timers(), 1, "only that of old offsets");
}

#[test]
fn protocol_is_the_one_that_most_like_best_of_those_all_know() {
    let mut w = World::new();
    let offer = |name: &str, offered: &[&str]| Join {
        protocols: protocols(offered),
        client: ClientCan {
            return_with_id: false,
            skip_assignment: false,
        },
        ..member(name)
    };
    let ta = w.join(offer("a", &["x", "y", "z"]));
    let tb = w.join(offer("b", &["z", "y"]));
    let tc = w.join(offer("c", &["q", "z", "y"]));
    let td = w.join(offer("d", &["q"]));
    assert_eq!(w.refused(td), GroupError::InconsistentGroupProtocol);
    let te = w.join(Join {
        protocol_type: "connect".into(),
        ..offer("e", &["z"])
    });
    assert_eq!(w.refused(te), GroupError::InconsistentGroupProtocol);
    w.pass(60_000);
    for t in [ta, tb, tc] {
        assert_eq!(w.joined(t).protocol.as_deref(), Some("z"));
    }
}

#[test]
fn two_joins_of_one_member_are_both_answered() {
    let mut w = World::new();
    let ids = w.stable(&["a", "b"]);
    let again = Join {
        member: ids[0].clone(),
        protocols: protocols(&["range"]),
        ..member("a")
    };
    let first = w.join(again.clone());
    let second = w.join(again);
    assert_eq!(w.refused(first), GroupError::RebalanceInProgress);
    let tb = w.join(Join {
        member: ids[1].clone(),
        ..member("b")
    });
    assert_eq!(
        (w.joined(second).generation, w.joined(tb).generation),
        (2, 2)
    );
}

#[test]
fn follower_that_joins_a_stable_group_again_with_nothing_new_disturbs_nobody() {
    let mut w = World::new();
    let ids = w.stable(&["a", "b"]);
    let t = w.join(Join {
        member: ids[1].clone(),
        ..member("b")
    });
    assert_eq!((w.joined(t).generation, w.state()), (1, "Stable"));
    w.join(Join {
        member: ids[0].clone(),
        ..member("a")
    });
    assert_eq!(
        w.state(),
        "PreparingRebalance",
        "a leader that joins again wants to assign anew"
    );
}

// ---- static members (KIP-345)

fn fixed(name: &str, fresh: &str, skip_assignment: bool) -> Join {
    Join {
        instance: Some(name.into()),
        fresh_member: fresh.into(),
        client: ClientCan {
            return_with_id: true,
            skip_assignment,
        },
        ..member(name)
    }
}

/// A stable group of two static members; `a` leads.
fn static_pair(w: &mut World) {
    let ta = w.join(fixed("a", "a1", true));
    let tb = w.join(fixed("b", "b1", true));
    w.pass(7_000);
    w.joined(ta);
    w.joined(tb);
    let tb = w.sync("b1", 1, &[]);
    // By id alone: the checks of instances are for those who name one.
    let ta = w.sync("a1", 1, &[("a1", "x"), ("b1", "y")]);
    w.synced(ta).unwrap();
    w.synced(tb).unwrap();
}

#[test]
fn static_member_that_comes_back_gets_its_assignment_without_a_rebalance_and_fences_its_old_self() {
    let mut w = World::new();
    static_pair(&mut w);
    w.prompt = false;
    let t = w.join(fixed("b", "b2", true));
    assert!(w.joins.is_empty(), "not before it is written");
    w.land(true);
    let b = w.joined(t);
    assert_eq!(
        (b.generation, &*b.member, &*b.leader, b.skip_assignment),
        (1, "b2", "a1", false)
    );
    assert_eq!(w.state(), "Stable");
    w.prompt = true;
    let t = w.sync("b2", 1, &[]);
    assert_eq!(w.synced(t).unwrap(), "y");
    let old = Who {
        member: "b1".into(),
        instance: Some("b".into()),
    };
    assert_eq!(
        w.machine.heartbeat("g", &old, 1, w.now),
        Err(GroupError::FencedInstanceId)
    );
    let restarted = w.restarted();
    let members = restarted.machine.describe("g").unwrap().members;
    assert_eq!(
        members.iter().map(|m| &*m.id).collect::<Vec<_>>(),
        ["a1", "b2"]
    );
}

#[test]
fn static_leader_that_comes_back_leaves_the_assignment_as_it_is() {
    let mut w = World::new();
    static_pair(&mut w);
    let t = w.join(fixed("a", "a2", true));
    let a = w.joined(t);
    assert_eq!(
        (&*a.leader, a.skip_assignment, a.members.len()),
        ("a2", true, 2)
    );
    let t = w.join(fixed("a", "a3", false));
    let a = w.joined(t);
    assert_eq!(
        (&*a.member, &*a.leader),
        ("a3", "a2"),
        "an older client takes itself for a follower"
    );
    assert_eq!(w.state(), "Stable");
}

#[test]
fn static_member_with_another_protocol_begins_a_rebalance() {
    let mut w = World::new();
    static_pair(&mut w);
    w.join(Join {
        protocols: protocols(&["roundrobin"]),
        ..fixed("b", "b2", true)
    });
    assert_eq!(w.state(), "PreparingRebalance");
}

#[test]
fn static_member_leaves_by_its_instance_and_is_out_when_its_session_is_over() {
    let mut w = World::new();
    static_pair(&mut w);
    let by_instance = Who {
        member: "".into(),
        instance: Some("b".into()),
    };
    let (left, effects) = w.machine.leave("g", &[by_instance], w.now).unwrap();
    w.act(effects);
    assert_eq!((left, w.state()), (vec![Ok(())], "PreparingRebalance"));
    let mut w = World::new();
    static_pair(&mut w);
    w.pass(10_001);
    assert!(w.beat("a1", 1).is_err() && w.beat("b1", 1).is_err());
}

#[test]
fn late_commit_of_a_static_member_that_stayed_away_does_not_override_the_new_owner() {
    let mut w = World::new();
    let brief = |name: &str| Join {
        rebalance_ms: 4_000,
        ..member(name)
    };
    let t = w.join(Join {
        rebalance_ms: 4_000,
        ..fixed("s", "s1", true)
    });
    w.pass(4_000);
    w.joined(t);
    let t = w.sync("s1", 1, &[("s1", "all")]);
    w.synced(t).unwrap();
    assert_eq!(w.commit("s1", 1, 100), Ok(()));
    let t = w.join(brief("b"));
    let b = w.joins.remove(&t).unwrap().unwrap_err().member;
    let t = w.join(Join {
        member: b.clone(),
        ..brief("b")
    });
    w.pass(4_000);
    assert_eq!(
        (w.joined(t).leader, w.state()),
        (b.clone(), "CompletingRebalance")
    );
    assert_eq!(w.commit("s1", 1, 120), Ok(()), "nobody else has it yet");
    let t = w.sync(&b, 2, &[(&b, "all")]);
    w.synced(t).unwrap();
    assert_eq!(w.commit(&b, 2, 500), Ok(()));
    assert_eq!(w.commit("s1", 1, 150), Err(GroupError::IllegalGeneration));
    assert_eq!(w.committed("t"), Some(500));
    let mut again = w.restarted();
    assert_eq!(
        again.commit("s1", 1, 150),
        Err(GroupError::IllegalGeneration)
    );
    assert_eq!(again.commit(&b, 2, 501), Ok(()));
}

#[test]
fn static_member_that_asks_for_no_time_and_stays_away_is_waited_for_without_haste() {
    let mut w = World::new();
    let ts = w.join(Join {
        rebalance_ms: 0,
        ..fixed("s", "s1", true)
    });
    let (b, tb) = w.enter("b");
    w.pass(3_000);
    w.joined(ts);
    w.joined(tb);
    let tb = w.sync(&b, 1, &[]);
    let ts = w.sync("s1", 1, &[("s1", "all")]);
    w.synced(ts).unwrap();
    w.synced(tb).unwrap();
    let who = Who {
        member: b,
        instance: None,
    };
    let (_, effects) = w.machine.leave("g", &[who], w.now).unwrap();
    w.act(effects);
    for _ in 0..3 {
        w.pass(0);
        let due = w.machine.next_due().unwrap();
        assert!(due > w.now.mono_ms, "nothing is due at once for ever");
        w.pass(due - w.now.mono_ms);
    }
    assert_eq!(w.state(), "PreparingRebalance");
    w.pass(10_000);
    assert_eq!(w.state(), "Empty", "its session is over");
}

#[test]
fn static_member_that_took_over_while_joining_fences_the_one_that_waits() {
    let mut w = World::new();
    let first = w.join(fixed("a", "a1", true));
    let second = w.join(fixed("a", "a2", true));
    assert_eq!(w.refused(first), GroupError::FencedInstanceId);
    w.pass(60_000);
    assert_eq!(&*w.joined(second).member, "a2");
}

// ---- hostile sizes

#[test]
fn group_takes_no_more_members_than_it_may() {
    let mut w = World::new();
    let simple = |i: usize| Join {
        client: ClientCan {
            return_with_id: false,
            skip_assignment: false,
        },
        fresh_member: format!("m{i}").into(),
        ..member("m")
    };
    for i in 0..MEMBERS_MAX {
        let t = w.join(simple(i));
        assert!(!w.joins.contains_key(&t));
    }
    let t = w.join(simple(MEMBERS_MAX));
    assert_eq!(w.refused(t), GroupError::GroupMaxSizeReached);
    let t = w.join(member("polite"));
    assert_eq!(w.refused(t), GroupError::GroupMaxSizeReached);
}

#[test]
fn ids_that_are_given_and_not_used_are_few_and_are_charged() {
    let mut w = World::new();
    let ghost = |i: usize| Join {
        fresh_member: format!("m{i}").into(),
        ..member("m")
    };
    for i in 0..PENDING_OF_GROUP_MAX {
        let t = w.join(ghost(i));
        assert_eq!(w.refused(t), GroupError::MemberIdRequired);
    }
    let t = w.join(ghost(PENDING_OF_GROUP_MAX));
    assert_eq!(w.refused(t), GroupError::CoordinatorNotAvailable);
    assert!(w.budget.bytes() > 200 * PENDING_OF_GROUP_MAX as u64);
    w.pass(10_000);
    assert_eq!((w.budget.bytes(), w.budget.groups()), (0, 0));
    let t = w.join(ghost(0));
    assert_eq!(w.refused(t), GroupError::MemberIdRequired);
}

#[test]
fn full_budget_stops_nobody_who_is_there() {
    let mut w = World::new();
    let ids = w.stable(&["a", "b"]);
    w.commit(&ids[0], 1, 5).unwrap();
    let bytes = w.restarted().budget.bytes();
    let mut full = w.restarted_within(Budget::of(bytes));
    assert_eq!(full.commit(&ids[0], 1, 6), Ok(()), "it says the same place");
    assert_eq!(
        full.commit_of("g", &ids[0], 1, "another", 6),
        Err(GroupError::NoRoom)
    );
    let t = full.join(member("c"));
    assert_eq!(full.refused(t), GroupError::GroupMaxSizeReached);
    let again = |id: &Arc<str>, name| Join {
        member: id.clone(),
        protocols: protocols(&["range"]),
        ..member(name)
    };
    let ta = full.join(again(&ids[0], "a"));
    let tb = full.join(again(&ids[1], "b"));
    assert_eq!(
        (full.joined(ta).generation, full.joined(tb).generation),
        (2, 2)
    );
    let t = full.sync(&ids[0], 2, &[(&ids[0], &ids[1]), (&ids[1], &ids[0])]);
    assert_eq!(full.synced(t).unwrap(), &*ids[1]);
}

#[test]
fn group_takes_no_more_bytes_than_it_may_and_gives_back_what_it_took() {
    let mut w = World::new();
    let large = |i: usize| Join {
        client: ClientCan {
            return_with_id: false,
            skip_assignment: false,
        },
        fresh_member: format!("m{i}").into(),
        protocols: vec![Protocol {
            name: "range".into(),
            metadata: vec![0; MEMBERS_BYTES_MAX / 4].into(),
        }],
        ..member("m")
    };
    let mut last = GroupError::NoRoom;
    for i in 0..5 {
        let t = w.join(large(i));
        if w.joins.contains_key(&t) {
            last = w.refused(t);
        }
    }
    assert_eq!(last, GroupError::GroupMaxSizeReached);
    w.pass(3_600_000 * 24);
    assert!(w.machine.list().is_empty());
}

#[test]
fn nonsense_is_refused_with_the_error_for_it() {
    let mut w = World::new();
    let cases = [
        (
            Join {
                group: "".into(),
                ..member("a")
            },
            GroupError::InvalidGroupId,
        ),
        (
            Join {
                group: "x".repeat(1025).into(),
                ..member("a")
            },
            GroupError::InvalidGroupId,
        ),
        (
            Join {
                session_ms: 10,
                ..member("a")
            },
            GroupError::InvalidSessionTimeout,
        ),
        (
            Join {
                session_ms: -1,
                ..member("a")
            },
            GroupError::InvalidSessionTimeout,
        ),
        (
            Join {
                protocols: Vec::new(),
                ..member("a")
            },
            GroupError::InconsistentGroupProtocol,
        ),
        (
            Join {
                protocol_type: "".into(),
                ..member("a")
            },
            GroupError::InconsistentGroupProtocol,
        ),
        (
            Join {
                member: "never".into(),
                ..member("a")
            },
            GroupError::UnknownMemberId,
        ),
    ];
    for (join, error) in cases {
        let t = w.join(join);
        assert_eq!(w.refused(t), error);
    }
    assert_eq!(w.beat("a", 1), Err(GroupError::UnknownMemberId));
    let t = w.sync("a", 1, &[]);
    assert_eq!(w.synced(t), Err(GroupError::UnknownMemberId));
    let (id, _) = w.enter("a");
    w.pass(3_000);
    assert_eq!(w.beat(&id, 7), Err(GroupError::IllegalGeneration));
    let t = w.sync(&id, 0, &[]);
    assert_eq!(w.synced(t), Err(GroupError::IllegalGeneration));
}
