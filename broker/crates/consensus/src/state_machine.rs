//! openraft's state machine: what is applied, in order, and the checkpoint it is told of as its snapshot.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EntryPayload, RaftSnapshotBuilder};
use tidemill_model::Command;
use tidemill_rt::chan::watch;

use crate::error::InstallRefused;
use crate::types::{Answer, Data, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};

/// Where in the log a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppliedAt {
    /// Its index.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
}

/// What a ring's log drives. A pure function of the log: no clock, no randomness, no I/O.
pub trait StateMachine: 'static {
    /// Takes one committed command. Called once per command and in log order; after a restart again from the
    /// checkpoint on. What it returns goes to the proposer, if it is still here.
    fn apply(&mut self, at: AppliedAt, command: &Command) -> Reply;
}

/// What openraft passes around as a snapshot's data. The data itself are the ring's checkpoint and segments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckpointToken;

/// What is applied, shared by the adapter and the group.
pub(crate) struct Applied {
    pub(crate) state: RefCell<AppliedState>,
    /// The written checkpoint that openraft may be told of.
    pub(crate) checkpoint: RefCell<Option<SnapshotMeta>>,
    /// Term of the last applied entry.
    pub(crate) term: watch::Sender<Option<u64>>,
}

/// The last applied entry, and the membership at that point.
#[derive(Clone, Default)]
pub(crate) struct AppliedState {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Applied {
    /// What a loaded checkpoint holds, or nothing.
    pub(crate) fn from_checkpoint(checkpoint: Option<SnapshotMeta>) -> Applied {
        let state = checkpoint
            .as_ref()
            .map_or_else(AppliedState::default, |meta| AppliedState {
                last: meta.last_log_id,
                membership: meta.last_membership.clone(),
            });
        let (term, _) = watch::channel(state.last.map(|id| id.committed_leader_id().term));
        Applied {
            state: RefCell::new(state),
            checkpoint: RefCell::new(checkpoint),
            term,
        }
    }
}

/// A [`StateMachine`] as openraft sees it.
pub(crate) struct Adapter {
    applied: Rc<Applied>,
    machine: Rc<RefCell<dyn StateMachine>>,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Adapter")
    }
}

impl Adapter {
    pub(crate) fn new(applied: Rc<Applied>, machine: Rc<RefCell<dyn StateMachine>>) -> Adapter {
        Adapter { applied, machine }
    }

    fn apply_one(&self, id: LogId, payload: &EntryPayload<Data, u64, ()>) -> Answer {
        let mut state = self.applied.state.borrow_mut();
        let at = AppliedAt {
            index: id.index(),
            term: id.committed_leader_id().term,
        };
        let reply: Reply = match payload {
            EntryPayload::Blank => Box::new(()),
            EntryPayload::Normal(data) => self.machine.borrow_mut().apply(at, &data.0),
            EntryPayload::Membership(membership) => {
                state.membership = StoredMembership::new(Some(id), membership.clone());
                Box::new(())
            }
        };
        state.last = Some(id);
        Answer(reply)
    }

    fn checkpoint(&self) -> Option<SnapshotOf<TypeConfig, CheckpointToken>> {
        let meta = self.applied.checkpoint.borrow().clone()?;
        Some(Snapshot {
            meta,
            snapshot: CheckpointToken,
        })
    }
}

impl RaftStateMachine<TypeConfig> for Adapter {
    type SnapshotData = CheckpointToken;
    type SnapshotBuilder = WrittenCheckpoint;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.applied.state.borrow().clone();
        Ok((state.last, state.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let answer = self.apply_one(entry.log_id, &entry.payload);
            if let Some(responder) = responder {
                responder.send(answer);
            }
            let term = Some(entry.log_id.committed_leader_id().term);
            self.applied
                .term
                .send_if_modified(|now| std::mem::replace(now, term) != term);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<WrittenCheckpoint> {
        self.checkpoint()
            .map(|snapshot| WrittenCheckpoint(Some(snapshot)))
    }

    async fn get_snapshot_builder(&mut self) -> WrittenCheckpoint {
        WrittenCheckpoint(self.checkpoint())
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        _snapshot: CheckpointToken,
    ) -> Result<(), io::Error> {
        Err(io::Error::new(io::ErrorKind::Unsupported, InstallRefused))
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, CheckpointToken>>, io::Error> {
        Ok(self.checkpoint())
    }
}

/// "Builds" the checkpoint that was written before openraft asked.
#[derive(Debug)]
pub(crate) struct WrittenCheckpoint(Option<SnapshotOf<TypeConfig, CheckpointToken>>);

impl RaftSnapshotBuilder<TypeConfig> for WrittenCheckpoint {
    type SnapshotData = CheckpointToken;

    async fn build_snapshot(
        &mut self,
    ) -> Result<SnapshotOf<TypeConfig, CheckpointToken>, io::Error> {
        self.0
            .clone()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no checkpoint was written yet"))
    }
}
