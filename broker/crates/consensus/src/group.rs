//! A ring's Raft group on this node: opening, proposing, leading, checkpoints.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use openraft::errors::ClientWriteError;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{Config, Raft, ServerState, SnapshotPolicy};
use openraft_rt::{AsyncRuntime, WatchReceiver};
use tidemill_model::{Command, NodeId, RingId};
use tidemill_rt::chan::semaphore::Semaphore;
use tidemill_rt::chan::{oneshot, watch};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time;
use tidemill_shardlog::{RecoveredRing, ShardLog};

use crate::error::{ConsensusError, ProposeError};
use crate::log_store::LogStore;
use crate::network::Alone;
use crate::runtime::Rt;
use crate::state_machine::{Adapter, Applied, StateMachine};
use crate::types::{Completion, Data, Reply, SnapshotMeta, TypeConfig, decode_point, encode_point};

/// Default of [`GroupConfig::in_flight_max`].
pub const IN_FLIGHT_MAX: usize = 16_384;

/// Room in openraft's queue beside the proposals, for elections, snapshots and the like.
const API_SPARE: usize = 1_024;

/// Heartbeat of a leader, in ms (architecture, section 4).
const HEARTBEAT_MS: u64 = 200;

/// Election timeout, in ms, drawn between these two (architecture, section 4).
const ELECTION_MS: (u64, u64) = (600, 1_200);

/// How long to wait for openraft to take up a checkpoint before telling it again: it ignores the request while it is
/// at work on an earlier one.
const CHECKPOINT_RETRY: Duration = Duration::from_millis(100);

/// What a group needs to know.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The ring.
    pub ring: RingId,
    /// This node.
    pub node: NodeId,
    /// Most proposals in flight; above it [`Group::propose`] answers [`ProposeError::Busy`].
    pub in_flight_max: usize,
}

impl GroupConfig {
    /// `ring` on `node`, with the defaults.
    pub fn new(ring: RingId, node: NodeId) -> GroupConfig {
        GroupConfig {
            ring,
            node,
            in_flight_max: IN_FLIGHT_MAX,
        }
    }
}

/// Whether this node leads the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// The term this node knows of.
    pub term: u64,
    /// Whether it leads and has applied an entry of its own term (rule R2): only then may it serve.
    pub leading: bool,
}

/// A place in the log up to which a checkpoint was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointPoint {
    /// Index of the last entry the checkpoint covers.
    pub index: u64,
    /// Log id and membership; to be kept in the checkpoint and handed to [`Group::open`].
    pub encoded: Bytes,
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupStats {
    /// Proposals without an answer yet.
    pub in_flight: usize,
    /// Proposals refused because too many were in flight: the metric for "full".
    pub refused_total: u64,
    /// Entries held in memory.
    pub entries_in_memory: usize,
    /// Index of the last entry.
    pub last_index: Option<u64>,
    /// Index of the last applied entry.
    pub applied_index: Option<u64>,
    /// Index up to which the log is purged.
    pub purged_index: Option<u64>,
}

/// A ring's Raft group on this node. A handle on its shard: clones mean the same group.
#[derive(Clone)]
pub struct Group(Rc<Inner>);

struct Inner {
    ring: RingId,
    in_flight_max: usize,
    raft: Raft<TypeConfig, Adapter>,
    log: LogStore,
    applied: Rc<Applied>,
    leadership: watch::Receiver<Leadership>,
    in_flight: Rc<Cell<usize>>,
    refused: Cell<u64>,
    checkpointing: Semaphore,
    closing: Cell<bool>,
    began_empty: bool,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group(ring {})", self.0.ring)
    }
}

/// Counts a proposal as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Rc<Cell<usize>>);

impl InFlight {
    fn new(counter: &Rc<Cell<usize>>) -> InFlight {
        counter.set(counter.get() + 1);
        InFlight(counter.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The outcome of a proposal, to be awaited. The entry is written whether or not anybody awaits it.
#[derive(Debug)]
pub struct Proposal(ProposalState);

#[derive(Debug)]
enum ProposalState {
    Waiting(oneshot::Receiver<ClientWriteResult<TypeConfig>>),
    Refused(ProposeError),
}

impl Future for Proposal {
    type Output = Result<Reply, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            ProposalState::Refused(e) => Poll::Ready(Err(e.clone())),
            ProposalState::Waiting(rx) => Pin::new(rx).poll(cx).map(|received| match received {
                Ok(Ok(response)) => Ok(response.data.0),
                Ok(Err(e)) => Err(refusal(e)),
                Err(oneshot::Closed) => Err(ProposeError::Stopped),
            }),
        }
    }
}

impl Group {
    /// Opens the group of `config.ring`: takes what the shard log recovered, starts Raft, and waits until this node
    /// leads and everything recovered is applied again to `machine`, from `checkpoint` on.
    ///
    /// `checkpoint` is the [`CheckpointPoint::encoded`] kept in the checkpoint that `machine` was loaded from. Where
    /// there is neither a log nor a checkpoint, the ring is new and gets `config.node` as its one voter.
    ///
    /// # Errors
    /// [`ConsensusError`] when the log or the checkpoint cannot be used, or the shard log fails meanwhile.
    pub async fn open(
        config: GroupConfig,
        log: ShardLog,
        recovered: RecoveredRing,
        checkpoint: Option<Bytes>,
        machine: Rc<RefCell<dyn StateMachine>>,
    ) -> Result<Group, ConsensusError> {
        let ring = config.ring;
        let checkpoint = checkpoint
            .map(|encoded| read_point(ring, encoded))
            .transpose()?;
        let last = checkpoint.as_ref().and_then(|meta| meta.last_log_id);
        let log = LogStore::recover(ring, log, recovered, last)?;
        let pristine = log.is_pristine() && checkpoint.is_none();
        let applied = Rc::new(Applied::from_checkpoint(checkpoint));
        let adapter = Adapter::new(applied.clone(), machine);
        let node = raft_node(config.node);
        let raft = Raft::new(node, raft_config(&config)?, Alone, log.clone(), adapter)
            .await
            .map_err(|e| stopped(ring, &e))?;
        let leadership = watch_leadership(&raft, &applied);
        let group = Group(Rc::new(Inner {
            ring,
            in_flight_max: config.in_flight_max,
            raft,
            log,
            applied,
            leadership,
            in_flight: Rc::default(),
            refused: Cell::new(0),
            checkpointing: Semaphore::new(1),
            closing: Cell::new(false),
            began_empty: pristine,
        }));
        group.lead(node, pristine).await?;
        Ok(group)
    }

    /// Becomes the leader without waiting for a timeout (rule R1): nobody else can be one.
    async fn lead(&self, node: u64, pristine: bool) -> Result<(), ConsensusError> {
        let (ring, raft) = (self.0.ring, &self.0.raft);
        if pristine {
            let members = BTreeMap::from([(node, ())]);
            raft.initialize(members)
                .await
                .map_err(|e| stopped(ring, &e))?;
        }
        raft.trigger()
            .elect(false)
            .await
            .map_err(|e| stopped(ring, &e))?;
        let leading = self.leadership().wait_for(|now| now.leading).await;
        leading.map_err(|e| stopped(ring, &e))
    }

    /// Proposes `command`. It is queued at this call: commands stand in the log in the order of the calls. The reply
    /// is what the state machine returned; it comes once the entry is durable and applied.
    ///
    /// # Errors
    /// When awaited: [`ProposeError`]. [`ProposeError::Busy`] and [`ProposeError::NotLeader`] mean that nothing was
    /// written.
    pub fn propose(&self, command: Command) -> Proposal {
        self.propose_holding(command, None)
    }

    /// As [`Group::propose`]; `held` is dropped when the command is applied or given up, whether or not anybody still waits
    /// for the proposal: what the command takes (memory) is given back when it is, not when a client loses patience.
    pub fn propose_holding(&self, command: Command, held: Option<Box<dyn Any>>) -> Proposal {
        let inner = &self.0;
        if inner.closing.get() {
            return Proposal(ProposalState::Refused(ProposeError::Stopped));
        }
        if inner.in_flight.get() >= inner.in_flight_max {
            inner.refused.set(inner.refused.get() + 1);
            return Proposal(ProposalState::Refused(ProposeError::Busy));
        }
        let (tx, rx) = oneshot::channel();
        let completion = Completion::new(tx, InFlight::new(&inner.in_flight), held);
        let data = Data(Rc::new(command));
        // openraft's queue has room for every proposal that may be in flight, so the first poll puts it in; a send
        // that does not complete at once finds the core gone.
        match inner
            .raft
            .client_write_ff(data, Some(completion))
            .now_or_never()
        {
            Some(Ok(())) => Proposal(ProposalState::Waiting(rx)),
            Some(Err(_)) | None => Proposal(ProposalState::Refused(ProposeError::Stopped)),
        }
    }

    /// Whether there was neither log nor checkpoint when it was opened: its first start, or everything of it is lost.
    pub fn began_empty(&self) -> bool {
        self.0.began_empty
    }

    /// Whether this node leads. Closed once the group has stopped.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// The log id and membership of what is applied now. Read it together with the state machine, with no `.await`
    /// between.
    pub fn checkpoint_point(&self) -> CheckpointPoint {
        let state = self.0.applied.state.borrow();
        let last = state
            .last
            .expect("a group is open only after an entry was applied");
        CheckpointPoint {
            index: last.index(),
            encoded: encode_point(&last, &state.membership),
        }
    }

    /// Waits until the shard log is durable up to entry `index` (rule S4). Never returns when the shard log fails:
    /// that ends the process.
    pub async fn durable(&self, index: u64) {
        self.0.log.durable(index).await;
    }

    /// Says that a checkpoint at `point` is on disk and synced: openraft is told of it as its snapshot, and the log
    /// is purged up to it. A point that is older than one already told of changes nothing.
    ///
    /// # Errors
    /// [`ConsensusError::Unreadable`] for a point not made here, [`ConsensusError::Stopped`] when the group stops.
    pub async fn checkpoint_written(&self, point: CheckpointPoint) -> Result<(), ConsensusError> {
        let inner = &self.0;
        let meta = read_point(inner.ring, point.encoded)?;
        let _turn = inner.checkpointing.acquire(1).await;
        let want = meta.last_log_id;
        {
            let mut known = inner.applied.checkpoint.borrow_mut();
            if known.as_ref().is_some_and(|k| k.last_log_id >= want) {
                return Ok(());
            }
            *known = Some(meta);
        }
        let mut progress = inner.raft.data_metrics();
        while progress.borrow_and_update().snapshot < want {
            inner
                .raft
                .trigger()
                .snapshot()
                .await
                .map_err(|e| stopped(inner.ring, &e))?;
            if let Ok(Err(e)) = time::timeout(CHECKPOINT_RETRY, progress.changed()).await {
                return Err(stopped(inner.ring, &e));
            }
        }
        let purged = inner.raft.trigger().purge_log(point.index).await;
        purged.map_err(|e| stopped(inner.ring, &e))
    }

    /// Numbers for the metrics.
    pub fn stats(&self) -> GroupStats {
        let inner = &self.0;
        GroupStats {
            in_flight: inner.in_flight.get(),
            refused_total: inner.refused.get(),
            entries_in_memory: inner.log.entries_in_memory(),
            last_index: inner.log.last_index(),
            applied_index: inner.applied.state.borrow().last.map(|id| id.index()),
            purged_index: inner.log.purged_index(),
        }
    }

    /// Stops the group. Proposals without an answer get [`ProposeError::Stopped`]; entries that are already in the
    /// shard log become durable with it.
    pub async fn shutdown(&self) {
        self.0.closing.set(true);
        if let Err(e) = self.0.raft.shutdown().await {
            tracing::warn!(ring = %self.0.ring, error = %e, "ring did not stop cleanly");
        }
    }
}

/// openraft's settings. Ticking is off: a single voter needs neither heartbeats nor election timeouts.
fn raft_config(config: &GroupConfig) -> Result<Arc<Config>, ConsensusError> {
    let settings = Config {
        cluster_name: format!("ring-{}", config.ring),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        enable_tick: false,
        enable_pre_vote: Some(true),
        // A restored leader could use a log id again that it had sent but not flushed (rule R1).
        enable_leader_restore: Some(false),
        // Only a written checkpoint is a snapshot, and only it lets the log be purged (rule S6).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        // The queues take memory as they fill; their bounds cost nothing.
        api_channel_size: Some((config.in_flight_max + API_SPARE) as u64),
        // Rings of latencies that nothing reads here, six of them per group.
        log_stage_capacity: Some(1),
        ..Config::default()
    };
    settings
        .validate()
        .map(Arc::new)
        .map_err(|e| ConsensusError::Config {
            ring: config.ring,
            message: e.to_string(),
        })
}

/// A watch of whether this node leads and has applied an entry of its own term.
fn watch_leadership(
    raft: &Raft<TypeConfig, Adapter>,
    applied: &Applied,
) -> watch::Receiver<Leadership> {
    let initial = Leadership {
        term: 0,
        leading: false,
    };
    let (tx, rx) = watch::channel(initial);
    task::spawn(
        Queue::Raft,
        follow_leadership(raft.server_metrics(), applied.term.subscribe(), tx),
    );
    rx
}

async fn follow_leadership(
    mut server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    mut applied_term: watch::Receiver<Option<u64>>,
    tx: watch::Sender<Leadership>,
) {
    let publish = |now: Leadership| tx.send_if_modified(|old| std::mem::replace(old, now) != now);
    loop {
        let (term, leader) = {
            let metrics = server.borrow_and_update();
            (
                metrics.vote.leader_id().term,
                metrics.state == ServerState::Leader,
            )
        };
        let own_applied = *applied_term.borrow_and_update() == Some(term);
        publish(Leadership {
            term,
            leading: leader && own_applied,
        });
        let changed = Rt::select2(server.changed(), applied_term.changed()).await;
        if matches!(changed, openraft_rt::Select2::First(Err(_))) {
            publish(Leadership {
                term,
                leading: false,
            });
            return;
        }
        if matches!(changed, openraft_rt::Select2::Second(Err(_))) {
            publish(Leadership {
                term,
                leading: false,
            });
            return;
        }
    }
}

fn raft_node(node: NodeId) -> u64 {
    u64::from(node.0.unsigned_abs())
}

fn read_point(ring: RingId, encoded: Bytes) -> Result<SnapshotMeta, ConsensusError> {
    decode_point(encoded).map_err(|source| ConsensusError::Unreadable {
        ring,
        what: "the checkpoint's log id and membership".to_owned(),
        source,
    })
}

fn stopped(ring: RingId, e: &dyn std::fmt::Display) -> ConsensusError {
    ConsensusError::Stopped {
        ring,
        message: e.to_string(),
    }
}

fn refusal(e: ClientWriteError<TypeConfig>) -> ProposeError {
    match e {
        ClientWriteError::ForwardToLeader(to) => ProposeError::NotLeader {
            leader: to
                .leader_id
                .and_then(|id| i32::try_from(id).ok())
                .map(NodeId),
        },
        _ => ProposeError::Unknown,
    }
}
