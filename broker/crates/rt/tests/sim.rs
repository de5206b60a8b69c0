//! The simulator keeps its promises: determinism, virtual time, what a crash leaves.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_rt::chan::{mpsc, notify::Notify};
use tidemill_rt::fs::{self, DirectFile, Durable, File, OpenMode};
use tidemill_rt::sim::{DiskOp, SIM_EPOCH_MS, Sim, Stopped};
use tidemill_rt::task::{Queue, spawn, yield_now};
use tidemill_rt::time::{self, Instant};

const A: &str = "/a";

fn path(p: &str) -> &Path {
    Path::new(p)
}

/// Several tasks that draw numbers, sleep, send, write and sync.
async fn busy_machine() -> Vec<u64> {
    let (tx, mut rx) = mpsc::channel(2);
    for task in 0..5_u64 {
        let tx = tx.clone();
        spawn(Queue::Kafka, async move {
            let name = format!("/file-{task}");
            let file = File::open(path(&name), OpenMode::CreateNew).await.unwrap();
            for round in 0..4_u64 {
                time::sleep(Duration::from_micros(tidemill_rt::rand::below(900))).await;
                let data = Bytes::from(vec![tidemill_rt::rand::u64() as u8; 700]);
                file.write_all_at(vec![data], round * 700).await.unwrap();
                if round % 2 == 0 {
                    file.sync_data().await.unwrap();
                }
                tx.send(task * 10 + round).await.unwrap();
            }
        });
    }
    drop(tx);
    let mut order = Vec::new();
    while let Some(v) = rx.recv().await {
        order.push(v);
    }
    order
}

fn run_busy_machine(seed: u64) -> (Vec<u64>, u64, u64, u64, Instant) {
    let sim = Sim::new(seed);
    let order = sim.block_on(busy_machine()).unwrap();
    sim.crash();
    let digest = sim.disk().digest();
    (order, digest, sim.trace_hash(), sim.steps(), sim.now())
}

#[test]
fn same_seed_gives_same_bytes() {
    let mut traces = BTreeSet::new();
    let mut orders = BTreeSet::new();
    for seed in 0..20 {
        let first = run_busy_machine(seed);
        assert_eq!(first, run_busy_machine(seed), "seed {seed}");
        traces.insert(first.2);
        orders.insert(first.0);
    }
    assert_eq!(traces.len(), 20, "seeds differ");
    assert!(orders.len() > 10, "the order of tasks depends on the seed");
}

#[test]
fn time_is_virtual_and_exact() {
    let sim = Sim::new(1);
    sim.block_on(async {
        let start = Instant::now();
        time::sleep(Duration::from_secs(86_400)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(86_400));
        assert_eq!(time::unix_ms(), SIM_EPOCH_MS + 86_400_000);
        let late = time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await;
        assert!(late.is_err());
        assert_eq!(start.elapsed(), Duration::from_secs(86_401));
        yield_now().await;
        assert_eq!(start.elapsed(), Duration::from_secs(86_401));
    })
    .unwrap();
}

#[test]
fn dropped_sleep_leaves_no_timer() {
    let sim = Sim::new(2);
    let end = sim.block_on(async {
        assert!(
            time::timeout(Duration::from_secs(9), yield_now())
                .await
                .is_ok()
        );
        Notify::new().notified().await;
    });
    assert!(
        matches!(end, Err(Stopped::Deadlock { seed: 2, .. })),
        "{end:?}"
    );
    assert_eq!(sim.now(), Instant::from_nanos(0));
}

#[test]
fn endless_loop_reaches_step_limit() {
    let sim = Sim::new(3);
    sim.set_steps_max(1000);
    let end: Result<(), _> = sim.block_on(async {
        loop {
            yield_now().await;
        }
    });
    assert!(matches!(end, Err(Stopped::StepLimit { .. })));
}

#[test]
fn panicking_task_reports_to_its_joiner() {
    let sim = Sim::new(4);
    let joined = sim.block_on(async { spawn(Queue::Raft, async { panic!("boom") }).await });
    let joined: Result<(), _> = joined.unwrap();
    assert_eq!(joined.unwrap_err().to_string(), "task panicked: boom");
}

/// Counts its drops and uses the runtime in its destructor.
struct Noisy(Rc<Cell<u32>>);

impl Drop for Noisy {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        let _ = Instant::now();
        drop(spawn(Queue::Kafka, async {}));
    }
}

#[test]
fn crash_drops_tasks_which_never_run_again() {
    let sim = Sim::new(5);
    let (drops, polls) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let tick = Notify::new();
    sim.block_on(async {
        for _ in 0..3 {
            let (noisy, polls, tick) = (Noisy(drops.clone()), polls.clone(), tick.clone());
            spawn(Queue::Kafka, async move {
                let _noisy = noisy;
                loop {
                    polls.set(polls.get() + 1);
                    tick.notified().await;
                }
            });
        }
        time::sleep(Duration::from_millis(1)).await;
    })
    .unwrap();
    assert_eq!(polls.get(), 3);
    sim.crash();
    assert_eq!(drops.get(), 3);
    tick.notify_all();
    sim.block_on(async { time::sleep(Duration::from_millis(1)).await })
        .unwrap();
    assert_eq!(polls.get(), 3);
}

#[test]
fn tasks_live_on_between_runs() {
    let sim = Sim::new(6);
    let seen = Rc::new(Cell::new(0));
    let task_seen = seen.clone();
    sim.block_on(async {
        spawn(Queue::Background, async move {
            loop {
                time::sleep(Duration::from_millis(10)).await;
                task_seen.set(task_seen.get() + 1);
            }
        });
    })
    .unwrap();
    sim.block_on(async { time::sleep(Duration::from_millis(35)).await })
        .unwrap();
    assert_eq!(seen.get(), 3);
}

#[test]
fn synced_data_and_names_survive_every_crash() {
    for seed in 0..200 {
        let sim = Sim::new(seed);
        sim.block_on(async {
            let file = File::open(path(A), OpenMode::CreateNew).await.unwrap();
            file.write_all_at(vec![Bytes::from(vec![1; 5000])], 0)
                .await
                .unwrap();
            file.sync_data().await.unwrap();
            fs::sync_dir(path("/")).await.unwrap();
            file.write_all_at(vec![Bytes::from(vec![2; 5000])], 5000)
                .await
                .unwrap();
        })
        .unwrap();
        sim.crash();
        let content = sim.disk().read(A).unwrap();
        assert_eq!(&content[..5000], &[1; 5000], "seed {seed}");
    }
}

#[test]
fn unsynced_writes_are_kept_lost_torn_and_reordered() {
    let (mut kept, mut lost, mut torn, mut reordered) = (0, 0, 0, 0);
    for seed in 0..200 {
        let sim = Sim::new(seed);
        sim.disk().put(A, &[0; 8192]).unwrap();
        sim.block_on(async {
            let file = DirectFile::open(path(A), OpenMode::ReadWrite, Durable::WhenSynced)
                .await
                .unwrap();
            for half in 0..2_u8 {
                let mut buf = file.alloc(4096);
                buf.fill(half + 1);
                file.write_at(buf, u64::from(half) * 4096).await.unwrap();
            }
        })
        .unwrap();
        assert_eq!(
            sim.disk().read(A).unwrap()[..4096],
            [1; 4096],
            "readers see it at once"
        );
        sim.crash();
        let content = sim.disk().read(A).unwrap();
        let sectors: Vec<_> = content.chunks(512).collect();
        assert!(
            sectors.iter().all(|s| s.iter().all(|b| b == &s[0])),
            "sectors are whole"
        );
        let first = sectors[..8].iter().filter(|s| s[0] == 1).count();
        let second = sectors[8..].iter().filter(|s| s[0] == 2).count();
        kept += usize::from(first == 8 && second == 8);
        lost += usize::from(first == 0 && second == 0);
        torn += usize::from(!matches!(first, 0 | 8));
        reordered += usize::from(first == 0 && second == 8);
    }
    assert!(
        kept > 3 && lost > 3 && torn > 3 && reordered > 3,
        "{kept} {lost} {torn} {reordered}"
    );
}

#[test]
fn write_that_ends_after_sync_began_is_not_covered() {
    let mut lost = 0;
    for seed in 0..100 {
        let sim = Sim::new(seed);
        let fast = Duration::from_micros(10);
        sim.disk().put(A, &[0; 512]).unwrap();
        sim.disk().set_latency(DiskOp::Sync, fast * 9, fast * 9);
        sim.disk().set_latency(DiskOp::Write, fast, fast);
        sim.block_on(async {
            let file = File::open(path(A), OpenMode::ReadWrite).await.unwrap();
            let writer = file.clone();
            let late = spawn(Queue::Kafka, async move {
                time::sleep(fast).await;
                writer
                    .write_all_at(vec![Bytes::from_static(&[1; 512])], 0)
                    .await
                    .unwrap();
            });
            file.sync_data().await.unwrap();
            late.await.unwrap();
        })
        .unwrap();
        sim.crash();
        lost += usize::from(sim.disk().read(A).unwrap()[0] == 0);
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn names_without_dir_sync_are_kept_or_lost() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let sim = Sim::new(seed);
        sim.disk().put("/old", b"x").unwrap();
        sim.block_on(async {
            let file = File::open(path("/new"), OpenMode::CreateNew).await.unwrap();
            file.sync_data().await.unwrap();
            fs::rename(path("/old"), path("/renamed")).await.unwrap();
        })
        .unwrap();
        sim.crash();
        outcomes.insert(sim.disk().files());
    }
    let names: BTreeSet<String> = outcomes.iter().map(|files| format!("{files:?}")).collect();
    let expected = [
        r#"["/new", "/old"]"#,
        r#"["/new", "/renamed"]"#,
        r#"["/old"]"#,
        r#"["/renamed"]"#,
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[test]
fn directory_is_a_name_in_its_parent() {
    let mut lost = 0;
    for seed in 0..50 {
        let sim = Sim::new(seed);
        sim.block_on(async {
            fs::create_dir_all(path("/d")).await.unwrap();
            let file = File::open(path("/d/f"), OpenMode::CreateNew).await.unwrap();
            file.sync_data().await.unwrap();
            fs::sync_dir(path("/d")).await.unwrap();
        })
        .unwrap();
        sim.crash();
        lost += usize::from(sim.disk().files().is_empty());
    }
    assert!((5..45).contains(&lost), "{lost}");
}

#[test]
fn synced_rename_does_not_come_back() {
    for seed in 0..100 {
        let sim = Sim::new(seed);
        sim.block_on(async {
            fs::create_dir_all(path("/to")).await.unwrap();
            fs::sync_dir(path("/")).await.unwrap();
            drop(File::open(path(A), OpenMode::CreateNew).await.unwrap());
            fs::rename(path(A), path("/to/b")).await.unwrap();
            fs::sync_dir(path("/to")).await.unwrap();
        })
        .unwrap();
        sim.crash();
        assert_eq!(sim.disk().files(), [path("/to/b")], "seed {seed}");
    }
}

#[test]
fn atomic_write_leaves_old_or_new_at_every_crash_point() {
    let (old, new) = (vec![1_u8; 3000], vec![2_u8; 6000]);
    let mut seen = BTreeSet::new();
    for seed in 0..20 {
        for crash_at in 1.. {
            let sim = Sim::new(seed);
            sim.disk().put("/c", &old).unwrap();
            sim.crash_after_disk_steps(crash_at);
            let parts = vec![Bytes::from(new.clone())];
            let end = sim.block_on(fs::write_atomic(path("/c"), parts));
            let found = sim.disk().read("/c").unwrap();
            assert!(
                found == old || found == new,
                "seed {seed}, crash at {crash_at}"
            );
            seen.insert(found == new);
            if end.is_ok() {
                assert!(found == new);
                break;
            }
        }
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn run_until_crash_hits_different_moments_and_machine_starts_again() {
    let mut crashed = 0;
    let mut at = BTreeSet::new();
    for seed in 0..50 {
        let sim = Sim::new(seed);
        match sim.run_until_crash(150, busy_machine()) {
            Err(Stopped::Crashed { step, .. }) => {
                crashed += 1;
                at.insert(step);
            }
            other => drop(other.unwrap()),
        }
        let names = sim.block_on(fs::list_dir(path("/"))).unwrap().unwrap();
        for name in names {
            fs_remove(&sim, &format!("/{name}"));
        }
        assert_eq!(sim.block_on(busy_machine()).unwrap().len(), 20);
    }
    assert!(crashed > 20 && at.len() > 10, "{crashed} {}", at.len());
}

fn fs_remove(sim: &Sim, name: &str) {
    sim.block_on(fs::remove_file(path(name))).unwrap().unwrap();
}

#[test]
fn killed_process_loses_no_write() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        sim.block_on(async {
            let file = File::open(path(A), OpenMode::CreateNew).await.unwrap();
            file.write_all_at(vec![Bytes::from_static(b"kept")], 0)
                .await
                .unwrap();
        })
        .unwrap();
        sim.kill();
        assert_eq!(sim.disk().read(A).unwrap(), b"kept");
    }
}

#[test]
fn failed_sync_is_not_repaired_by_the_next() {
    let mut lost = 0;
    for seed in 0..60 {
        let sim = Sim::new(seed);
        sim.disk().put(A, &[0; 512]).unwrap();
        sim.disk()
            .fail_next(DiskOp::Sync, "a", 1, io::ErrorKind::Other);
        sim.block_on(async {
            let file = File::open(path(A), OpenMode::ReadWrite).await.unwrap();
            file.write_all_at(vec![Bytes::from_static(&[1; 512])], 0)
                .await
                .unwrap();
            assert!(file.sync_data().await.is_err());
            file.sync_data().await.unwrap();
            assert_eq!(file.read_at(0, 512).await.unwrap(), [1; 512]);
        })
        .unwrap();
        sim.crash();
        lost += usize::from(sim.disk().read(A).unwrap()[0] == 0);
    }
    assert!((10..50).contains(&lost), "{lost}");
}

#[test]
fn writes_of_a_file_whose_writes_are_durable_survive_a_crash_once_they_return() {
    for seed in 0..100 {
        let sim = Sim::new(seed);
        sim.block_on(async {
            let file = DirectFile::open(path(A), OpenMode::CreateNew, Durable::WhenWritten)
                .await
                .unwrap();
            fs::sync_dir(path("/")).await.unwrap();
            let mut block = file.alloc(4096);
            block.fill(7);
            file.write_at(block, 0).await.unwrap();
        })
        .unwrap();
        sim.crash();
        assert_eq!(sim.disk().read(A).unwrap(), [7; 4096]);
    }
}

#[test]
fn full_disk_refuses_and_takes_again_after_removal() {
    let sim = Sim::new(7);
    sim.disk().set_capacity(Some(10_000));
    sim.block_on(async {
        let a = DirectFile::open(path(A), OpenMode::CreateNew, Durable::WhenSynced)
            .await
            .unwrap();
        a.preallocate(8192).await.unwrap();
        let b = File::open(path("/b"), OpenMode::CreateNew).await.unwrap();
        let data = Bytes::from(vec![0; 4000]);
        let full = b.write_all_at(vec![data.clone()], 0).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        a.close().await.unwrap();
        fs::remove_file(path(A)).await.unwrap();
        b.write_all_at(vec![data], 0).await.unwrap();
    })
    .unwrap();
    assert_eq!(sim.disk().used(), 4000);
}

#[test]
fn flipped_bytes_stay_flipped() {
    let sim = Sim::new(8);
    sim.disk().put(A, b"hello").unwrap();
    sim.disk().flip_bytes(A, 1, 2).unwrap();
    sim.crash();
    assert_eq!(
        sim.disk().read(A).unwrap(),
        [b'h', !b'e', !b'l', b'l', b'o']
    );
    assert!(sim.disk().flip_bytes(A, 4, 2).is_err());
}

#[test]
fn file_operations_follow_the_operating_system() {
    let sim = Sim::new(9);
    sim.block_on(async {
        fs::create_dir_all(path("/x/y")).await.unwrap();
        let missing = File::open(path("/x/f"), OpenMode::ReadWrite)
            .await
            .unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let file = File::open(path("/x/f"), OpenMode::CreateOrOpen)
            .await
            .unwrap();
        let again = File::open(path("/x/f"), OpenMode::CreateNew)
            .await
            .unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        file.write_all_at(vec!["ab".into(), "cd".into()], 6000)
            .await
            .unwrap();
        assert_eq!(file.len().await.unwrap(), 6004);
        assert_eq!(file.read_at(5998, 100).await.unwrap(), b"\0\0abcd");
        file.set_len(6001).await.unwrap();
        file.set_len(6003).await.unwrap();
        assert_eq!(file.read_at(6000, 9).await.unwrap(), b"a\0\0");
        assert_eq!(fs::list_dir(path("/x")).await.unwrap(), ["f", "y"]);
        let direct = DirectFile::open(path("/x/f"), OpenMode::Read, Durable::WhenSynced)
            .await
            .unwrap();
        assert!(
            direct.read_at(1, 4096).await.is_err(),
            "direct reads are aligned"
        );
        assert!(
            direct.write_at(direct.alloc(1), 0).await.is_err(),
            "opened for reading"
        );
        fs::remove_dir_all(path("/x")).await.unwrap();
        assert!(!fs::exists(path("/x")).await.unwrap());
    })
    .unwrap();
}

#[test]
fn seed_is_the_only_source_of_random_numbers() {
    let draw = |seed| {
        let sim = Sim::new(seed);
        sim.block_on(async {
            let mut bytes = [0; 13];
            tidemill_rt::rand::fill(&mut bytes);
            (bytes, tidemill_rt::rand::below(1000))
        })
        .unwrap()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn concurrent_operations_finish_in_varying_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..10 {
        let sim = Sim::new(seed);
        let order = Rc::new(RefCell::new(Vec::new()));
        sim.block_on(async {
            let file = File::open(path(A), OpenMode::CreateNew).await.unwrap();
            let tasks: Vec<_> = (0..3_u64)
                .map(|i| {
                    let (file, order) = (file.clone(), order.clone());
                    spawn(Queue::Kafka, async move {
                        file.write_all_at(vec!["x".into()], i).await.unwrap();
                        order.borrow_mut().push(i);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        })
        .unwrap();
        orders.insert(order.take());
    }
    assert!(orders.len() > 2);
}
