//! Consumer groups, said byte by byte: what they may take, what is deleted for good, and who is late.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
    TopicName,
};
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, Options, on_both_engines, wait};

use crate::messages::{Messages, text};

on_both_engines!(
    joins_are_refused_while_too_much_waits_to_be_written,
    member_that_does_not_join_again_in_time_is_out,
    group_deleted_behind_a_commit_on_its_way_stays_deleted,
    groups_of_one_request_are_deleted_with_few_syncs,
    answers_about_many_large_groups_end_before_they_are_vast,
);

/// Kafka's codes.
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;

/// How long things may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn started(engine: Engine, groups_mib: u32) -> Broker {
    let settings = format!(
        "[groups]\ninitial_rebalance_delay = \"0 s\"\n[memory]\ngroups = \"{groups_mib} MiB\""
    );
    Options::new(engine).shards(1).settings(&settings).start()
}

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

/// A connection to a broker whose groups are read.
fn connected(broker: &Broker) -> Messages {
    let mut messages = Messages::open(&broker.kafka());
    let find = FindCoordinatorRequest::default().with_key(text("g"));
    let found = wait::until(PATIENCE, || messages.call(3, &find).error_code == 0);
    assert!(found, "there is a coordinator");
    messages
}

fn join(id: &str, member: &str, instance: Option<&str>) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"m"));
    JoinGroupRequest::default()
        .with_group_id(group(id))
        .with_session_timeout_ms(60_000)
        .with_rebalance_timeout_ms(2_000)
        .with_member_id(text(member))
        .with_group_instance_id(instance.map(text))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// The leader of a group of one assigns to itself.
fn assign(messages: &mut Messages, id: &str, joined: &JoinGroupResponse, bytes: usize) {
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(Bytes::from(vec![7; bytes]));
    let sync = SyncGroupRequest::default()
        .with_group_id(group(id))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_assignments(vec![assignment]);
    assert_eq!(messages.call(3, &sync).error_code, 0);
}

/// A static member alone in a group, with an assignment of so many bytes.
fn settled(messages: &mut Messages, id: &str, bytes: usize) {
    let joined = messages.call(5, &join(id, "", Some("s")));
    assert_eq!(joined.error_code, 0);
    assign(messages, id, &joined, bytes);
}

fn joins_are_refused_while_too_much_waits_to_be_written(engine: Engine) {
    const TIMES: usize = 20;
    let broker = started(engine, 16);
    let mut messages = connected(&broker);
    settled(&mut messages, "g", 4 << 20);
    // Each time such a member comes back all of its group is written: 4 MiB for a request of 100 bytes, where 2 may wait.
    let back = join("g", "", Some("s"));
    messages.send_often(5, &back, TIMES);
    let codes: Vec<i16> = (0..TIMES)
        .map(|_| messages.receive::<JoinGroupRequest>(5).error_code)
        .collect();
    let refused = codes.iter().filter(|c| **c == COORDINATOR_NOT_AVAILABLE);
    let refused = refused.count();
    assert!(refused > 0, "{codes:?}");
    let counted = broker.metric("tidemill_group_writes_refused_total", "");
    assert!(counted >= refused as f64, "{counted} of {refused}");
    let let_in = wait::until(PATIENCE, || messages.call(5, &back).error_code == 0);
    assert!(let_in, "whoever comes again");
    let waiting = || broker.metric("tidemill_group_writes_waiting_bytes", "");
    assert!(wait::until(PATIENCE, || waiting() == 0.0));
}

/// Joins as a client does: again with the id it is given, which is returned.
fn given_id(messages: &mut Messages, id: &str) -> String {
    let given = messages.call(5, &join(id, "", None));
    assert_eq!(given.error_code, MEMBER_ID_REQUIRED);
    given.member_id.to_string()
}

fn member_that_does_not_join_again_in_time_is_out(engine: Engine) {
    let broker = started(engine, 64);
    let (mut late, mut other) = (connected(&broker), connected(&broker));
    let late_id = given_id(&mut late, "g");
    let joined = late.call(5, &join("g", &late_id, None));
    assert_eq!(joined.error_code, 0);
    assign(&mut late, "g", &joined, 1);
    let other_id = given_id(&mut other, "g");
    other.send(5, &join("g", &other_id, None));
    // It hears of the rebalance, says that it is there, and does not join.
    let beat = HeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_generation_id(joined.generation_id)
        .with_member_id(text(&late_id));
    let told = wait::until(PATIENCE, || {
        late.call(3, &beat).error_code == REBALANCE_IN_PROGRESS
    });
    assert!(told);
    let next = other.receive::<JoinGroupRequest>(5);
    assert_eq!((next.error_code, next.generation_id), (0, 2));
    let members: Vec<&str> = next.members.iter().map(|m| &*m.member_id).collect();
    assert_eq!(members, [&*other_id]);
    assert_eq!(late.call(3, &beat).error_code, UNKNOWN_MEMBER_ID);
    assign(&mut other, "g", &next, 1);
}

fn commit(id: &str, partitions: std::ops::Range<i32>, metadata: &str) -> OffsetCommitRequest {
    let partition = |index| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(5)
            .with_committed_metadata(Some(text(metadata)))
    };
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text("t")))
        .with_partitions(partitions.map(partition).collect());
    OffsetCommitRequest::default()
        .with_group_id(group(id))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

fn committed(messages: &mut Messages, id: &str, partitions: std::ops::Range<i32>, text: &str) {
    let answer = messages.call(8, &commit(id, partitions, text));
    let codes = answer.topics.iter().flat_map(|t| &t.partitions);
    assert!(codes.into_iter().all(|p| p.error_code == 0), "{id}");
}

/// Everything that groups have committed: an error, and the number of partitions.
fn fetched(messages: &mut Messages, ids: &[String]) -> Vec<(i16, usize)> {
    let asked = |id: &String| {
        OffsetFetchRequestGroup::default()
            .with_group_id(group(id))
            .with_topics(None)
    };
    let request = OffsetFetchRequest::default().with_groups(ids.iter().map(asked).collect());
    let answer = messages.call(8, &request);
    let counted = answer.groups.iter().map(|g| {
        let partitions = g.topics.iter().map(|t| t.partitions.len());
        (g.error_code, partitions.sum())
    });
    counted.collect()
}

fn delete(ids: &[String]) -> DeleteGroupsRequest {
    DeleteGroupsRequest::default().with_groups_names(ids.iter().map(|id| group(id)).collect())
}

fn group_deleted_behind_a_commit_on_its_way_stays_deleted(engine: Engine) {
    let mut broker = started(engine, 64);
    Cli::new(&broker).create_topic("t", 3);
    let mut messages = connected(&broker);
    let ids: Vec<String> = (0..20).map(|i| format!("g{i}")).collect();
    for id in &ids {
        committed(&mut messages, id, 0..1, "");
        messages.send(8, &commit(id, 1..3, ""));
        messages.send(2, &delete(std::slice::from_ref(id)));
        let _ = messages.receive::<OffsetCommitRequest>(8);
        let deleted = messages.receive::<DeleteGroupsRequest>(2);
        assert_eq!(deleted.results[0].error_code, 0);
    }
    let nothing = vec![(0, 0); ids.len()];
    assert_eq!(fetched(&mut messages, &ids), nothing);
    broker.kill9();
    broker.restart();
    assert_eq!(fetched(&mut connected(&broker), &ids), nothing);
}

fn groups_of_one_request_are_deleted_with_few_syncs(engine: Engine) {
    let broker = started(engine, 64);
    Cli::new(&broker).create_topic("t", 1);
    let mut messages = connected(&broker);
    let ids: Vec<String> = (0..200).map(|i| format!("g{i}")).collect();
    for id in &ids {
        committed(&mut messages, id, 0..1, "");
    }
    let syncs = || broker.metric("tidemill_log_syncs_total", "");
    let before = syncs();
    let deleted = messages.call(2, &delete(&ids));
    let took = syncs() - before;
    assert!(deleted.results.iter().all(|r| r.error_code == 0));
    assert_eq!(deleted.results.len(), ids.len());
    assert!(took < 100.0, "{took} syncs for {} groups", ids.len());
    assert_eq!(fetched(&mut messages, &ids), vec![(0, 0); ids.len()]);
}

fn answers_about_many_large_groups_end_before_they_are_vast(engine: Engine) {
    let broker = started(engine, 512);
    Cli::new(&broker).create_topic("t", 1_900);
    let mut messages = connected(&broker);
    let ids: Vec<String> = (0..10).map(|i| format!("g{i}")).collect();
    let metadata = "x".repeat(4_000);
    for id in &ids {
        committed(&mut messages, id, 0..1_900, &metadata);
    }
    // What is named later is to be asked for once more, with fewer others.
    let mut answered = fetched(&mut messages, &ids);
    assert_eq!(answered.pop(), Some((COORDINATOR_NOT_AVAILABLE, 0)));
    assert_eq!(answered[..8], [(0, 1_900); 8]);
    assert_eq!(fetched(&mut messages, &ids[9..]), [(0, 1_900)]);
    for id in &ids {
        settled(&mut messages, id, 15 << 19);
    }
    let describe = |ids: &[String]| {
        DescribeGroupsRequest::default().with_groups(ids.iter().map(|id| group(id)).collect())
    };
    let answer = messages.call(5, &describe(&ids));
    let told = answer
        .groups
        .iter()
        .map(|g| (g.error_code, g.members.len()));
    let mut told: Vec<_> = told.collect();
    assert_eq!(told.pop(), Some((COORDINATOR_NOT_AVAILABLE, 0)));
    assert_eq!(told[..8], [(0, 1); 8]);
    let answer = messages.call(5, &describe(&ids[9..]));
    assert_eq!(answer.groups[0].members.len(), 1);
}
