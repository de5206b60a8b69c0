//! Groups and openraft's storage suite over the real shard log.

mod crashes;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::Stream;
use openraft::StorageError;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::SnapshotOf;
use tidemill_model::{Command, NodeId, RingId};
use tidemill_rt::runtime::{EngineChoice, block_on};
use tidemill_rt::sim::Sim;
use tidemill_shardlog::{LogConfig, RecoveredRing, ShardLog};

use crate::log_store::LogStore;
use crate::state_machine::{Adapter, Applied, AppliedState, CheckpointToken, WrittenCheckpoint};
use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};
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
    tidemill_rt::fs::create_dir_all(dir).await.unwrap();
    let config = LogConfig {
        dir: dir.to_path_buf(),
        file_bytes: 4 * 1024 * 1024,
        group_bytes_max: 1024 * 1024,
        fatal: Rc::new(|e| panic!("shard log failed: {e}")),
    };
    let (log, mut rings) = ShardLog::open(config).await.unwrap();
    (log, rings.remove(&RING).unwrap_or_default())
}

/// Remembers what was applied, and answers with where it stands.
#[derive(Default, Clone)]
struct Recorder(Vec<(AppliedAt, Bytes)>);

impl StateMachine for Recorder {
    fn apply(&mut self, at: AppliedAt, command: &Command) -> Reply {
        self.0.push((at, command.head.clone()));
        Box::new(at)
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

async fn write(group: &Group, numbers: std::ops::Range<u64>) -> Vec<AppliedAt> {
    let proposals: Vec<_> = numbers.map(|n| group.propose(command(n))).collect();
    let mut answers = Vec::new();
    for proposal in proposals {
        answers.push(*proposal.await.unwrap().downcast::<AppliedAt>().unwrap());
    }
    answers
}

fn on_every_engine(test: fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>) {
    block_on(EngineChoice::Epoll, test).unwrap();
    block_on(EngineChoice::Auto, test).unwrap();
}

/// The adapter with what only a cluster needs: a snapshot of whatever is applied, and its installation.
struct Installing(Adapter, Rc<Applied>);

impl Installing {
    fn checkpoint_now(&self) {
        let state = self.1.state.borrow().clone();
        *self.1.checkpoint.borrow_mut() = Some(SnapshotMeta {
            last_log_id: state.last,
            last_membership: state.membership,
        });
    }
}

impl RaftStateMachine<TypeConfig> for Installing {
    type SnapshotData = CheckpointToken;
    type SnapshotBuilder = WrittenCheckpoint;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.0.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin,
    {
        self.0.apply(entries).await
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<WrittenCheckpoint> {
        self.checkpoint_now();
        self.0.try_create_snapshot_builder(force).await
    }

    async fn get_snapshot_builder(&mut self) -> WrittenCheckpoint {
        self.checkpoint_now();
        self.0.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        _: CheckpointToken,
    ) -> io::Result<()> {
        *self.1.state.borrow_mut() = AppliedState {
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        self.checkpoint_now();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, CheckpointToken>>> {
        self.0.get_current_snapshot().await
    }
}

/// Makes stores in a directory that the test removes: the suite wants guards it could move between threads.
struct SuiteBuilder(PathBuf);

impl StoreBuilder<TypeConfig, LogStore, Installing, ()> for SuiteBuilder {
    async fn build(&self) -> Result<((), LogStore, Installing), StorageError<TypeConfig>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let dir = self
            .0
            .join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        let (log, recovered) = open_log(&dir).await;
        let store = LogStore::recover(RING, log, recovered, None).unwrap();
        let applied = Rc::new(Applied::from_checkpoint(None));
        let adapter = Adapter::new(applied.clone(), machine());
        Ok(((), store, Installing(adapter, applied)))
    }
}

#[test]
fn log_storage_passes_openrafts_suite() {
    on_every_engine(|| {
        Box::pin(async {
            let dir = TempDir::new();
            Suite::test_all(SuiteBuilder(dir.path().to_path_buf()))
                .await
                .unwrap();
        })
    });
}

#[test]
fn log_storage_passes_openrafts_suite_under_simulation() {
    for seed in 0..10 {
        let passed =
            Sim::new(seed).block_on(async { Suite::test_all(SuiteBuilder("/suite".into())).await });
        passed.unwrap().unwrap();
    }
}

#[test]
fn commands_are_applied_in_call_order_and_again_after_a_restart() {
    on_every_engine(|| {
        Box::pin(async {
            let dir = TempDir::new();
            let first = machine();
            let (group, log) = open(dir.path(), None, &first).await;
            let answers = write(&group, 0..300).await;
            assert!(answers.windows(2).all(|w| w[1].index == w[0].index + 1));
            let applied: Vec<_> = (0..300)
                .map(|n| (answers[n], Bytes::from(n.to_string())))
                .collect();
            assert_eq!(first.borrow().0, applied);
            close(group, log).await;
            let second = machine();
            let (group, log) = open(dir.path(), None, &second).await;
            assert_eq!(first.borrow().0, second.borrow().0);
            assert!(write(&group, 300..301).await[0].index > answers[299].index);
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
                let applied = applied.borrow().0.clone();
                for (at, _) in applied.iter().filter(|(at, _)| at.term == term) {
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
                assert_eq!(
                    meta.last_log_id.unwrap().committed_leader_id().term,
                    now.term
                );
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
            let group = Group::open(config, log.clone(), recovered, None, machine())
                .await
                .unwrap();
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
            assert!(
                group
                    .leadership()
                    .wait_for(|now| !now.leading)
                    .await
                    .is_ok()
            );
            log.close().await;
        })
    });
}
