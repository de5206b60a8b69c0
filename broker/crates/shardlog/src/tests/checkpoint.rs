//! Checkpoint files.

use std::path::Path;

use bytes::Bytes;
use tidemill_rt::fs;
use tidemill_rt::sim::Sim;

use crate::checkpoint::{CheckpointError, read, write};

const PATH: &str = "/7.checkpoint";

#[test]
fn checkpoint_round_trips_and_a_missing_one_is_none() {
    Sim::new(1)
        .block_on(async {
            assert_eq!(read(Path::new(PATH)).await.expect("none is fine"), None);
            for content in ["one", "", "two and more"] {
                write(Path::new(PATH), vec![content.into(), "!".into()])
                    .await
                    .expect("written");
                let found = read(Path::new(PATH)).await.expect("it is sound");
                assert_eq!(found, Some(Bytes::from(format!("{content}!"))));
            }
        })
        .expect("it ends");
}

#[test]
fn every_flipped_byte_and_every_cut_is_damage_that_names_the_file() {
    let sim = Sim::new(2);
    sim.block_on(async { write(Path::new(PATH), vec!["content".into()]).await })
        .expect("it ends")
        .expect("written");
    let sound = sim.disk().read(PATH).expect("it is there");
    let mut damaged = Vec::new();
    for at in 0..sound.len() {
        let mut flipped = sound.clone();
        flipped[at] ^= 0x40;
        damaged.push(flipped);
        damaged.push(sound[..at].to_vec());
    }
    for content in damaged {
        sim.disk().put(PATH, &content).expect("it can be put");
        let result = sim
            .block_on(async { read(Path::new(PATH)).await })
            .expect("it ends");
        match result {
            Err(e @ CheckpointError::Corrupt { .. }) => assert!(e.to_string().contains(PATH)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn crash_while_writing_leaves_the_old_or_the_new_checkpoint() {
    for steps in 1..14 {
        for seed in 0..20 {
            let sim = Sim::new(seed);
            let write_one = |content: &'static str| async move {
                write(Path::new(PATH), vec![Bytes::from(content.repeat(900))]).await
            };
            sim.block_on(write_one("old"))
                .expect("it ends")
                .expect("written");
            sim.crash_after_disk_steps(steps);
            let new = sim.block_on(write_one("new"));
            sim.crash();
            let found = sim
                .block_on(async { read(Path::new(PATH)).await })
                .expect("it ends");
            let found = found.expect("it is sound").expect("it is there");
            match new {
                Ok(_) => assert!(found.starts_with(b"new")),
                Err(_) => assert!(found.starts_with(b"new") || found.starts_with(b"old")),
            }
            assert!(
                sim.block_on(async { fs::exists(Path::new(PATH)).await })
                    .is_ok()
            );
        }
    }
}
