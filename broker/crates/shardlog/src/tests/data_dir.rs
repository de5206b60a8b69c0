//! The data directory.

use std::path::Path;

use tidemill_rt::runtime::{self, EngineChoice};
use tidemill_rt::sim::Sim;

use crate::{DataDir, DataDirError};

const DIR: &str = "/data";

fn open(sim: &Sim, shards: Option<u16>) -> Result<DataDir, DataDirError> {
    sim.block_on(async move { DataDir::open(Path::new(DIR), shards, 2).await })
        .expect("it ends")
}

#[test]
fn s12_identity_and_shards_stay_with_the_directory() {
    let sim = Sim::new(1);
    let made = open(&sim, None).expect("it is made");
    assert!(made.is_new());
    assert_eq!(made.identity().shards, 2);
    assert_eq!(made.identity().cluster.as_str().len(), 22);
    let identity = made.identity().clone();
    drop(made);
    sim.crash();
    let again = open(&sim, Some(2)).expect("it opens");
    assert!(!again.is_new());
    assert_eq!(*again.identity(), identity);
    let other = open(&sim, Some(4))
        .expect_err("the number is fixed")
        .to_string();
    assert!(
        other.contains("made for 2 shards") && other.contains("--shards 2"),
        "{other}"
    );
    assert!(matches!(open(&sim, Some(0)), Err(DataDirError::NoShards)));
}

#[test]
fn s12_an_empty_directory_is_a_new_node() {
    let (one, two) = (Sim::new(1), Sim::new(2));
    let first = open(&one, None).expect("it is made").identity().clone();
    drop(one);
    let second = open(&two, None).expect("it is made").identity().clone();
    assert_ne!(first.node, second.node);
    assert_ne!(first.cluster, second.cluster);
}

#[test]
fn s12_crash_while_made_leaves_a_new_or_a_whole_directory() {
    for steps in 1..40 {
        let sim = Sim::new(steps);
        sim.crash_after_disk_steps(steps);
        let made = sim.block_on(async { DataDir::open(Path::new(DIR), None, 2).await });
        sim.crash();
        let again = open(&sim, None).expect("it opens");
        if let Ok(made) = made {
            assert_eq!(again.identity(), made.expect("it is made").identity());
        }
    }
}

#[test]
fn foreign_directory_is_refused_and_untouched() {
    let sim = Sim::new(3);
    sim.disk()
        .put("/data/holiday.jpg", b"sun")
        .expect("it can be put");
    let before = sim.disk().digest();
    let error = open(&sim, None)
        .expect_err("it is somebody else's")
        .to_string();
    assert!(
        error.contains("holiday.jpg") && error.contains("--data-dir"),
        "{error}"
    );
    assert_eq!(sim.disk().digest(), before);
}

#[test]
fn other_version_and_nonsense_are_refused() {
    let sim = Sim::new(4);
    drop(open(&sim, None).expect("it is made"));
    let sound = String::from_utf8(sim.disk().read("/data/identity").expect("it is there"));
    let sound = sound.expect("it is text");
    let newer = sound.replace("format_version = 1", "format_version = 9");
    sim.disk()
        .put("/data/identity", newer.as_bytes())
        .expect("it can be put");
    let error = open(&sim, None)
        .expect_err("it is another version")
        .to_string();
    assert!(
        error.contains("version 9") && error.contains("version 1"),
        "{error}"
    );
    for nonsense in [
        String::new(),
        sound.replace("shards = 2", "shards = 0"),
        sound.replace("shards = 2", "shards = many"),
        sound.replace("cluster_id = ", "cluster_id = x"),
        sound.replace("node_id = ", "node = "),
        format!("{sound}{sound}"),
        "x".repeat(10_000),
    ] {
        sim.disk()
            .put("/data/identity", nonsense.as_bytes())
            .expect("it can be put");
        let refused = open(&sim, None);
        assert!(
            matches!(refused, Err(DataDirError::Identity { .. })),
            "{nonsense}"
        );
    }
}

#[test]
fn second_broker_on_a_directory_is_told_of_the_first() {
    let dir = std::env::temp_dir().join(format!("tidemill-lock-{}", std::process::id()));
    let path = dir.clone();
    let message = runtime::block_on(EngineChoice::Epoll, move || {
        let path = path.clone();
        async move {
            let held = DataDir::open(&path, None, 1).await.expect("it is made");
            let error = DataDir::open(&path, None, 1)
                .await
                .expect_err("it is locked");
            drop(held);
            DataDir::open(&path, None, 1)
                .await
                .expect("the lock is free");
            error.to_string()
        }
    });
    let message = message.expect("epoll runs");
    assert!(
        message.contains(&format!("process {}", std::process::id())),
        "{message}"
    );
    std::fs::remove_dir_all(dir).expect("it was made");
}
