//! Tests of the controller's state machine.

use super::*;
use crate::command::Deploy;
use crate::deploy::{Life, VERSIONS_KEPT};
use crate::image::{ErrorPolicy, PartitionBy, Sealed, StartPosition};

fn topic(name: &str, seed: u8) -> ControllerCommand {
    ControllerCommand::CreateTopic {
        topic: Topic {
            name: name.to_owned(),
            id: TopicId::from_random([seed; 16]),
            rings: vec![1, 2],
            replicas: 1,
            configs: BTreeMap::new(),
        },
    }
}

fn deploy(name: &str, input: &str, outputs: &[&str]) -> ControllerCommand {
    ControllerCommand::DeployTransform(Box::new(Deploy {
        name: name.to_owned(),
        module: "ab".repeat(32),
        input: input.to_owned(),
        outputs: outputs.iter().map(|o| (*o).to_owned()).collect(),
        dead_letter: None,
        env: BTreeMap::new(),
        from: StartPosition::Latest,
        time_ms: 1000,
        memory_bytes: 1 << 24,
        on_error: ErrorPolicy::Fail,
        attempts: 1,
        compression: None,
        weight: 1,
        partition_by: PartitionBy::Input,
        secrets: BTreeMap::new(),
        now_ms: 5,
        content_of: None,
    }))
}

fn delete_topic(id: TopicId) -> ControllerCommand {
    ControllerCommand::DeleteTopic {
        id,
        if_used: IfUsed::Delete,
    }
}

fn deploy_of(command: ControllerCommand) -> Deploy {
    match command {
        ControllerCommand::DeployTransform(deploy) => *deploy,
        other => panic!("{other:?} deploys nothing"),
    }
}

fn with_topics() -> ControllerState {
    let mut state = ControllerState::default();
    for (i, name) in ["a", "b", "c"].iter().enumerate() {
        state.apply(i as u64 + 1, topic(name, i as u8 + 1)).unwrap();
    }
    state
}

#[test]
fn create_topic_twice_is_refused_and_changes_nothing() {
    let mut state = with_topics();
    let before = state.clone();
    let refused = state.apply(9, topic("a", 9));
    assert_eq!(refused, Err(Refusal::TopicExists("a".to_owned())));
    assert_eq!(state, before);
}

#[test]
fn create_topic_that_differs_in_dot_and_underscore_only_is_refused() {
    let mut state = ControllerState::default();
    state.apply(1, topic("x.y", 1)).unwrap();
    assert!(matches!(
        state.apply(2, topic("x_y", 2)),
        Err(Refusal::TopicCollides(..))
    ));
}

#[test]
fn x11_topic_made_anew_under_an_old_name_is_another_topic() {
    let mut state = with_topics();
    let old = state.image().topic("a").unwrap().id;
    state.apply(5, delete_topic(old)).unwrap();
    state.apply(6, topic("a", 77)).unwrap();
    let new = state.image().topic("a").unwrap().id;
    assert_ne!(old, new);
    assert!(state.image().topic_by_id(old).is_none());
}

#[test]
fn deleted_topic_is_remembered_until_every_ring_has_dropped_it() {
    let mut state = with_topics();
    let id = state.image().topic("a").unwrap().id;
    state.apply(5, delete_topic(id)).unwrap();
    assert!(state.image().deleted_topics().contains(&id));
    let mut stored = ControllerState::decode(&state.encode()).unwrap();
    assert_eq!(stored, state);
    stored
        .apply(6, ControllerCommand::RetireTopics { ids: vec![id] })
        .unwrap();
    assert!(stored.image().deleted_topics().is_empty());
}

#[test]
fn topic_beyond_the_partitions_of_a_cluster_is_refused() {
    let mut state = with_topics();
    let mut large = |name: &str, seed: u8, partitions: usize| {
        let command = ControllerCommand::CreateTopic {
            topic: Topic {
                name: name.to_owned(),
                id: TopicId::from_random([seed; 16]),
                rings: vec![1; partitions],
                replicas: 1,
                configs: BTreeMap::new(),
            },
        };
        state.apply(u64::from(seed), command)
    };
    let used = 3 * 2;
    assert!(matches!(
        large("over", 20, PARTITIONS_TOTAL_MAX - used + 1),
        Err(Refusal::Limit(_))
    ));
    assert!(large("full", 21, PARTITIONS_TOTAL_MAX - used).is_ok());
    assert!(matches!(large("one", 22, 1), Err(Refusal::Limit(_))));
}

#[test]
fn x7_incarnation_is_the_log_index_of_the_first_deploy_and_stays_over_redeploys() {
    let mut state = with_topics();
    let first = state.apply(7, deploy("t", "a", &["b"])).unwrap();
    let expected = ControllerReply::Deployed {
        incarnation: 7,
        version: 1,
        new: true,
    };
    assert_eq!(first, expected);
    let second = state.apply(8, deploy("t", "a", &["b", "c"])).unwrap();
    let expected = ControllerReply::Deployed {
        incarnation: 7,
        version: 2,
        new: false,
    };
    assert_eq!(second, expected);
    let name = || "t".to_owned();
    state
        .apply(9, ControllerCommand::DeleteTransform { name: name() })
        .unwrap();
    assert!(matches!(
        state.apply(10, deploy("t", "a", &["b"])),
        Err(Refusal::Deleting(_))
    ));
    let retire = ControllerCommand::RetireTransform {
        name: name(),
        incarnation: 7,
    };
    state.apply(11, retire).unwrap();
    let again = state.apply(12, deploy("t", "a", &["b"])).unwrap();
    let expected = ControllerReply::Deployed {
        incarnation: 12,
        version: 1,
        new: true,
    };
    assert_eq!(again, expected);
}

#[test]
fn x10_cycles_are_refused_over_any_number_of_transforms() {
    let mut state = with_topics();
    assert!(matches!(
        state.apply(4, deploy("self", "a", &["b", "a"])),
        Err(Refusal::OwnInput { topic, .. }) if topic == "a"
    ));
    state.apply(5, deploy("ab", "a", &["b"])).unwrap();
    state.apply(6, deploy("bc", "b", &["c"])).unwrap();
    assert!(matches!(
        state.apply(7, deploy("ca", "c", &["a"])),
        Err(Refusal::Cycle(_))
    ));
}

#[test]
fn redeploy_with_another_input_is_refused() {
    let mut state = with_topics();
    state.apply(5, deploy("t", "a", &["b"])).unwrap();
    assert!(matches!(
        state.apply(6, deploy("t", "c", &["b"])),
        Err(Refusal::InputChanged { .. })
    ));
}

#[test]
fn producer_id_blocks_never_overlap() {
    let mut state = ControllerState::default();
    let take = |state: &mut ControllerState, index| {
        state.apply(
            index,
            ControllerCommand::AllocateProducerIds { count: 1000 },
        )
    };
    assert_eq!(
        take(&mut state, 1),
        Ok(ControllerReply::ProducerIds { first: 1 })
    );
    assert_eq!(
        take(&mut state, 2),
        Ok(ControllerReply::ProducerIds { first: 1001 })
    );
}

#[test]
fn stored_form_round_trips() {
    let mut state = with_topics();
    state.apply(5, deploy("t", "a", &["b"])).unwrap();
    let name = "t".to_owned();
    state
        .apply(6, ControllerCommand::SetPaused { name, paused: true })
        .unwrap();
    assert_eq!(ControllerState::decode(&state.encode()), Ok(state));
}

fn id(seed: u8) -> TopicId {
    TopicId::from_random([seed; 16])
}

#[test]
fn added_partitions_come_behind_the_others_and_transforms_remember_what_they_found() {
    let mut state = with_topics();
    state.apply(10, deploy("old", "a", &["b"])).unwrap();
    let add = |existing, rings: &[u32]| ControllerCommand::AddPartitions {
        id: id(1),
        existing,
        rings: rings.to_vec(),
    };
    state.apply(11, add(2, &[1, 2])).unwrap();
    state.apply(12, deploy("young", "a", &["c"])).unwrap();
    state.apply(13, add(4, &[1])).unwrap();
    let topic = state.image().topic("a").unwrap();
    assert_eq!(topic.rings, vec![1, 2, 1, 2, 1]);
    assert_eq!(state.image().topic_by_id(id(1)), Some(topic));
    let found = |name| state.image().transform(name).unwrap().input_partitions;
    assert_eq!((found("old"), found("young")), (Some(2), Some(4)));
    let old = state.image().transform("old").unwrap();
    assert!(!old.is_later_input(1) && old.is_later_input(2));
    // A new version is the same life of the transform.
    state.apply(14, deploy("old", "a", &["b"])).unwrap();
    let again = ControllerState::decode(&state.encode()).unwrap();
    assert_eq!(
        again.image().transform("old").unwrap().input_partitions,
        Some(2)
    );
}

#[test]
fn partitions_are_not_added_to_another_number_than_was_looked_at() {
    let mut state = with_topics();
    let before = state.clone();
    let refused = state.apply(
        9,
        ControllerCommand::AddPartitions {
            id: id(1),
            existing: 1,
            rings: vec![1],
        },
    );
    assert!(matches!(
        refused,
        Err(Refusal::PartitionsChanged { has: 2, .. })
    ));
    assert_eq!(state, before);
}

#[test]
fn configured_topic_has_its_new_settings_by_name_and_by_id() {
    let mut state = with_topics();
    let configs = BTreeMap::from([("retention.ms".to_owned(), "7".to_owned())]);
    let command = ControllerCommand::ConfigureTopic {
        id: id(2),
        configs: configs.clone(),
    };
    let bytes = serde_json::to_vec(&command).unwrap();
    state
        .apply(9, serde_json::from_slice(&bytes).unwrap())
        .unwrap();
    assert_eq!(state.image().topic("b").unwrap().configs, configs);
    assert_eq!(state.image().topic_by_id(id(2)).unwrap().configs, configs);
}

#[test]
fn many_deleted_topics_are_retired_by_one_command() {
    let mut state = with_topics();
    for (index, seed) in [(9, 1), (10, 2)] {
        state.apply(index, delete_topic(id(seed))).unwrap();
    }
    let command = ControllerCommand::RetireTopics {
        ids: vec![id(1), id(2)],
    };
    let bytes = serde_json::to_vec(&command).unwrap();
    state
        .apply(11, serde_json::from_slice(&bytes).unwrap())
        .unwrap();
    assert!(state.image().deleted_topics().is_empty());
}

#[test]
fn stored_state_and_commands_of_a_version_without_compression_and_weight_are_read() {
    let mut state = with_topics();
    state.apply(4, deploy("t", "a", &["b"])).unwrap();
    let mut stored: serde_json::Value = serde_json::from_slice(&state.encode()).unwrap();
    let mut command = serde_json::to_value(deploy("t", "a", &["b"])).unwrap();
    for object in [&mut stored["transforms"][0], &mut command] {
        for field in ["weight", "partition_by"] {
            let removed = object.as_object_mut().unwrap().remove(field);
            assert!(removed.is_some(), "{field} is written");
        }
    }
    let stored = serde_json::to_vec(&stored).unwrap();
    assert_eq!(ControllerState::decode(&stored), Ok(state));
    let command: ControllerCommand = serde_json::from_value(command).unwrap();
    assert_eq!(command, deploy("t", "a", &["b"]));
}

#[test]
fn topic_in_use_is_deleted_only_where_the_command_says_so() {
    let mut state = with_topics();
    state.apply(4, deploy("t", "a", &["b"])).unwrap();
    for seed in [1, 2] {
        // As versions wrote it that always refused: replayed, it comes to the same.
        let old = format!("{{\"do\":\"delete_topic\",\"id\":\"{}\"}}", id(seed));
        let before = state.clone();
        let refused = state.apply(5, serde_json::from_str(&old).unwrap());
        assert!(matches!(refused, Err(Refusal::TopicInUse { .. })));
        assert_eq!(state, before);
        state.apply(6, delete_topic(id(seed))).unwrap();
        assert!(state.image().topic_by_id(id(seed)).is_none());
    }
    assert!(state.image().transform("t").is_some());
}

#[test]
fn versions_are_kept_oldest_first_and_the_oldest_makes_room() {
    let mut state = with_topics();
    for index in 0..VERSIONS_KEPT as u64 + 3 {
        let mut next = deploy_of(deploy("t", "a", &["b"]));
        next.module = format!("{index:064}");
        let command = ControllerCommand::DeployTransform(Box::new(next));
        state.apply(10 + index, command).unwrap();
    }
    let image = state.image();
    let versions = image.earlier_versions("t").iter().map(|t| t.version);
    let kept: Vec<u32> = versions.collect();
    let current = image.transform("t").unwrap().version;
    assert_eq!(current, VERSIONS_KEPT as u32 + 3);
    assert_eq!(kept, (4..current).collect::<Vec<_>>());
    assert_eq!(image.modules().len(), VERSIONS_KEPT);
    assert_eq!(
        ControllerState::decode(&state.encode()),
        Ok(state.clone()),
        "they are stored"
    );
    let name = || "t".to_owned();
    let delete = ControllerCommand::DeleteTransform { name: name() };
    state.apply(90, delete).unwrap();
    assert!(state.image().earlier_versions("t").is_empty());
}

#[test]
fn x11_redeploy_onto_an_input_made_anew_begins_another_life_and_the_old_one_waits_to_be_retired() {
    let mut state = with_topics();
    state.apply(4, deploy("t", "a", &["b"])).unwrap();
    let name = || "t".to_owned();
    let pause = ControllerCommand::SetPaused {
        name: name(),
        paused: true,
    };
    state.apply(5, pause).unwrap();
    state.apply(6, delete_topic(id(1))).unwrap();
    let missing = state.apply(7, deploy("t", "a", &["b"]));
    assert_eq!(missing, Err(Refusal::NoSuchTopic("a".to_owned())));
    let other = state.apply(7, deploy("t", "c", &["b"]));
    assert!(matches!(other, Err(Refusal::InputChanged { .. })));
    state.apply(8, topic("a", 41)).unwrap();
    let again = state.apply(9, deploy("t", "a", &["b"])).unwrap();
    let expected = ControllerReply::Deployed {
        incarnation: 9,
        version: 2,
        new: true,
    };
    assert_eq!(again, expected);
    let now = state.image().transform("t").unwrap();
    assert_eq!(
        (now.status, now.input.id),
        (TransformStatus::Paused, id(41))
    );
    let mut state = ControllerState::decode(&state.encode()).unwrap();
    let waiting: Vec<u64> = state.image().replaced().map(|t| t.incarnation).collect();
    assert_eq!(waiting, [4]);
    let retire = ControllerCommand::RetireTransform {
        name: name(),
        incarnation: 4,
    };
    state.apply(10, retire).unwrap();
    assert_eq!(state.image().replaced().count(), 0);
    assert!(state.image().transform("t").is_some(), "the new life stays");
}

#[test]
fn plan_names_outputs_that_are_missing_and_changes_nothing() {
    let state = with_topics();
    let mut wanted = deploy_of(deploy("t", "a", &["x", "b"]));
    wanted.dead_letter = Some("y".to_owned());
    let plan = state.image().plan(&wanted).unwrap();
    assert_eq!((plan.life, plan.version), (Life::New, 1));
    assert_eq!(plan.missing, ["x", "y"]);
    let mut state = state;
    let refused = state.apply(9, ControllerCommand::DeployTransform(Box::new(wanted)));
    assert_eq!(refused, Err(Refusal::NoSuchTopic("x".to_owned())));
    assert!(state.image().transform("t").is_none());
}

#[test]
fn settings_of_all_versions_together_are_bounded() {
    let mut state = with_topics();
    let mut large = deploy_of(deploy("t", "a", &["b"]));
    let value = "x".repeat(crate::deploy::SETTINGS_BYTES_MAX / 8);
    large.env = BTreeMap::from([("K".to_owned(), value)]);
    let command = |d: &Deploy| ControllerCommand::DeployTransform(Box::new(d.clone()));
    for index in 4..11 {
        state.apply(index, command(&large)).unwrap();
    }
    let refused = state.apply(11, command(&large)).unwrap_err().to_string();
    assert!(refused.contains("environment and secrets"), "{refused}");
    assert_eq!(state.image().transform("t").unwrap().version, 7);
    let mut other = large.clone();
    other.name = "u".to_owned();
    assert!(matches!(state.image().plan(&other), Err(Refusal::Limit(_))));
    other.env.clear();
    other.outputs = vec!["c".to_owned()];
    state.apply(12, command(&other)).unwrap();
}

#[test]
fn cycle_through_a_long_chain_is_named_whole() {
    const LONG: usize = 1_000;
    let mut state = ControllerState::default();
    let topic = |n: usize| format!("topic{n}");
    for n in 0..=LONG {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n as u64 + 1).to_be_bytes());
        let topic = Topic {
            name: topic(n),
            id: TopicId::from_random(id),
            rings: vec![1],
            replicas: 1,
            configs: BTreeMap::new(),
        };
        let command = ControllerCommand::CreateTopic { topic };
        state.apply(n as u64 + 1, command).unwrap();
    }
    for n in 0..LONG {
        let command = deploy(&format!("t{n}"), &topic(n), &[&topic(n + 1)]);
        state.apply((LONG + n) as u64 + 10, command).unwrap();
    }
    let back = deploy_of(deploy("back", &topic(LONG), &[&topic(0)]));
    let Err(Refusal::Cycle(path)) = state.image().plan(&back) else {
        panic!("it is a circle");
    };
    assert!(path.starts_with("back -> topic0 -> t0 -> topic1 -> t1 -> topic2"));
    assert!(path.ends_with(" -> t999 -> topic1000"));
}

#[test]
fn deleted_transform_keeps_no_secret_and_what_is_sealed_is_not_shown() {
    let mut state = with_topics();
    let sealed = Sealed {
        key: "k1".to_owned(),
        sealed: "c0ffee".to_owned(),
    };
    assert!(!format!("{sealed:?}").contains("c0ffee"));
    let mut with_secret = deploy_of(deploy("t", "a", &["b"]));
    with_secret.secrets = BTreeMap::from([("PIN".to_owned(), sealed)]);
    let command = ControllerCommand::DeployTransform(Box::new(with_secret));
    state.apply(4, command.clone()).unwrap();
    state.apply(5, command).unwrap();
    let text = |state: &ControllerState| String::from_utf8(state.encode()).unwrap();
    assert!(text(&state).contains("c0ffee"));
    let name = "t".to_owned();
    let delete = ControllerCommand::DeleteTransform { name };
    state.apply(6, delete).unwrap();
    assert!(!text(&state).contains("c0ffee"));
}

#[test]
fn start_positions_keep_their_stored_words() {
    for (text, position) in [
        ("\"earliest\"", StartPosition::Earliest),
        ("\"latest\"", StartPosition::Latest),
        ("{\"timestamp\":5}", StartPosition::Timestamp(5)),
        ("{\"after-start\":2}", StartPosition::AfterStart(2)),
        ("{\"before-end\":3}", StartPosition::BeforeEnd(3)),
    ] {
        assert_eq!(serde_json::to_string(&position).unwrap(), text);
        assert_eq!(
            serde_json::from_str::<StartPosition>(text).unwrap(),
            position
        );
    }
}
