//! Groups and openraft's storage suite over the real shard log.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tidemill_model::{Command, NodeId, RingId};
use tidemill_rt::runtime::{EngineChoice, block_on};
use tidemill_shardlog::{LogConfig, RecoveredRing, ShardLog};

use crate::log_store::LogStore;
use crate::state_machine::{Adapter, Applied};
use crate::types::TypeConfig;
use crate::{AppliedAt, CheckpointPoint, Group, GroupConfig, ProposeError, Reply, StateMachine};

const RING: RingId = RingId(1);

/// A directory that goes away with the test.
#[derive(Clone)]
struct TempDir(Rc<DirGuard>);

struct DirGuard(PathBuf);

impl Drop for DirGuard {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fresh_path() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tidemill-consensus-{}-{n}", std::process::id()))
}

impl TempDir {
    fn new() -> TempDir {
        let path = fresh_path();
        std::fs::create_dir_all(&path).unwrap();
        TempDir(Rc::new(DirGuard(path)))
    }

    fn path(&self) -> &Path {
        &self.0.0
    }
}

async fn open_log(dir: &Path) -> (ShardLog, RecoveredRing) {
    let config = LogConfig {
        dir: dir.to_path_buf(),
        file_bytes: 4 * 1024 * 1024,
        group_bytes_max: 1024 * 1024,
        fatal: Rc::new(|e| panic!("shard log failed: {e}")),
    };
    let (log, mut rings) = ShardLog::open(config).await.unwrap();
    (log, rings.remove(&RING).unwrap_or_default())
}

/// Remembers what was applied, and answers with how many commands there were before.
#[derive(Default)]
struct Recorder(Vec<(AppliedAt, Bytes)>);

impl StateMachine for Recorder {
    fn apply(&mut self, at: AppliedAt, command: &Command) -> Reply {
        self.0.push((at, command.head.clone()));
        Box::new(self.0.len() as u64 - 1)
    }
}

type Machine = Rc<RefCell<Recorder>>;

fn machine() -> Machine {
    Rc::default()
}

async fn open(dir: &Path, checkpoint: Option<Bytes>, machine: &Machine) -> (Group, ShardLog) {
    let (log, recovered) = open_log(dir).await;
    let config = GroupConfig::new(RING, NodeId(1));
    let group = Group::open(config, log.clone(), recovered, checkpoint, machine.clone())
        .await
        .unwrap();
    (group, log)
}

async fn close(group: Group, log: ShardLog) {
    group.shutdown().await;
    log.close().await;
}

fn command(n: u64) -> Command {
    Command {
        head: Bytes::from(n.to_string()),
        bodies: vec![Bytes::from(vec![n as u8; 100])],
    }
}

async fn write(group: &Group, numbers: std::ops::Range<u64>) -> Vec<u64> {
    let proposals: Vec<_> = numbers.map(|n| group.propose(command(n))).collect();
    let mut answers = Vec::new();
    for proposal in proposals {
        answers.push(*proposal.await.unwrap().downcast::<u64>().unwrap());
    }
    answers
}

fn on_every_engine(test: fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>) {
    block_on(EngineChoice::Epoll, test).unwrap();
    block_on(EngineChoice::Auto, test).unwrap();
}

struct SuiteBuilder;

/// The suite wants a guard it could move between threads; the directory is removed by the test that made it.
impl StoreBuilder<TypeConfig, LogStore, Adapter, ()> for SuiteBuilder {
    async fn build(&self) -> Result<((), LogStore, Adapter), StorageError<TypeConfig>> {
        let path = fresh_path();
        std::fs::create_dir_all(&path).unwrap();
        let (log, recovered) = open_log(&path).await;
        let store = LogStore::recover(RING, log, recovered, None).unwrap();
        let applied = Rc::new(Applied::from_checkpoint(None));
        Ok(((), store, Adapter::new(applied, machine())))
    }
}

#[test]
fn log_storage_passes_openrafts_suite() {
    on_every_engine(|| {
        Box::pin(async {
            Suite::test_all(SuiteBuilder).await.unwrap();
        })
    });
}

#[test]
fn commands_are_applied_in_call_order_and_again_after_a_restart() {
    on_every_engine(|| {
        Box::pin(async {
            let dir = TempDir::new();
            let first = machine();
            let (group, log) = open(dir.path(), None, &first).await;
            assert_eq!(write(&group, 0..300).await, (0..300).collect::<Vec<_>>());
            close(group, log).await;
            let second = machine();
            let (group, log) = open(dir.path(), None, &second).await;
            assert_eq!(first.borrow().0, second.borrow().0);
            assert_eq!(write(&group, 300..301).await, vec![300]);
            close(group, log).await;
        })
    });
}

#[test]
fn r1_a_restarted_leader_has_a_new_term_and_never_reuses_a_log_id() {
    on_every_engine(|| {
        Box::pin(async {
            let dir = TempDir::new();
            let mut seen = std::collections::BTreeSet::new();
            let mut term = 0;
            for round in 0..3 {
                let applied = machine();
                let (group, log) = open(dir.path(), None, &applied).await;
                let now = *group.leadership().borrow();
                assert!(now.leading && now.term > term);
                term = now.term;
                write(&group, round * 10..round * 10 + 10).await;
                let applied = applied.borrow();
                for (at, _) in applied.0.iter().filter(|(at, _)| at.term == term) {
                    assert!(seen.insert((at.index, at.term)), "{at:?} was used before");
                }
                close(group, log).await;
            }
        })
    });
}

#[test]
fn r2_a_group_is_open_only_after_an_entry_of_its_own_term_is_applied() {
    on_every_engine(|| {
        Box::pin(async {
            let dir = TempDir::new();
            for _ in 0..2 {
                let (group, log) = open(dir.path(), None, &machine()).await;
                let now = *group.leadership().borrow();
                let point = group.checkpoint_point();
                let meta = crate::types::decode_point(point.encoded).unwrap();
                assert_eq!(meta.last_log_id.unwrap().committed_leader_id().term, now.term);
                assert_eq!(group.stats().last_index, group.stats().applied_index);
                close(group, log).await;
            }
        })
    });
}

#[test]
fn written_checkpoint_purges_the_log_and_a_restart_goes_on_from_it() {
    on_every_engine(|| {
        Box::pin(async {
            let dir = TempDir::new();
            let first = machine();
            let (group, log) = open(dir.path(), None, &first).await;
            write(&group, 0..100).await;
            let point = checkpoint(&group).await;
            write(&group, 100..150).await;
            group.checkpoint_written(point.clone()).await.unwrap();
            while group.stats().purged_index != Some(point.index) {
                tidemill_rt::task::yield_now().await;
            }
            assert_eq!(group.stats().entries_in_memory, 50);
            close(group, log).await;

            let second = machine();
            let (group, log) = open(dir.path(), Some(point.encoded.clone()), &second).await;
            assert_eq!(first.borrow().0[100..], second.borrow().0[..]);
            group.checkpoint_written(point).await.unwrap();
            close(group, log).await;
        })
    });
}

async fn checkpoint(group: &Group) -> CheckpointPoint {
    let point = group.checkpoint_point();
    group.durable(point.index).await;
    point
}

#[test]
fn proposals_above_the_limit_are_refused_and_counted() {
    on_every_engine(|| {
        Box::pin(async {
            let dir = TempDir::new();
            let (log, recovered) = open_log(dir.path()).await;
            let mut config = GroupConfig::new(RING, NodeId(1));
            config.in_flight_max = 4;
            let group = Group::open(config, log.clone(), recovered, None, machine()).await.unwrap();
            let proposals: Vec<_> = (0..6).map(|n| group.propose(command(n))).collect();
            let mut refused = 0;
            for proposal in proposals {
                if let Err(e) = proposal.await {
                    assert_eq!(e, ProposeError::Busy);
                    refused += 1;
                }
            }
            let stats = group.stats();
            assert_eq!((refused, stats.refused_total, stats.in_flight), (2, 2, 0));
            close(group, log).await;
        })
    });
}

#[test]
fn stopped_group_answers_every_proposal_with_stopped() {
    on_every_engine(|| {
        Box::pin(async {
            let dir = TempDir::new();
            let (group, log) = open(dir.path(), None, &machine()).await;
            let pending = group.propose(command(0));
            group.shutdown().await;
            match pending.await {
                Ok(_) | Err(ProposeError::Stopped) => {}
                Err(e) => panic!("{e}"),
            }
            let late = group.propose(command(1)).await;
            assert_eq!(late.err(), Some(ProposeError::Stopped));
            assert_eq!(group.stats().in_flight, 0);
            assert!(group.leadership().wait_for(|now| !now.leading).await.is_ok());
            log.close().await;
        })
    });
}
