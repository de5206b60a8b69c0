//! The controller on its ring: proposes commands, publishes images, writes checkpoints. Lives on shard 0.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_consensus::{
    AppliedAt, CheckpointPoint, ConsensusError, Group, GroupConfig, ProposeError, RecoveredRing,
    Reply, ShardLog, StateMachine, checkpoint,
};
use tidemill_model::Command;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::semaphore::Semaphore;

use crate::command::{ControllerCommand, ControllerReply, Refusal};
use crate::image::Image;
use crate::state::{Applied, ControllerState};

/// Entries after which a checkpoint is written.
const CHECKPOINT_ENTRIES: u64 = 1_000;

/// How the controller is opened.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Its Raft group (ring 0).
    pub group: GroupConfig,
    /// Its checkpoint file.
    pub checkpoint: PathBuf,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// It was decided, and refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be decided now; it may or may not take effect.
    #[error("the controller did not answer: {0}")]
    Unavailable(#[from] ProposeError),
    /// The ring could not be opened or written.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// The checkpoint cannot be read or written.
    #[error("controller checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

struct Machine {
    state: ControllerState,
    image: Arc<Image>,
    changed: Notify,
}

impl StateMachine for Machine {
    fn apply(&mut self, at: AppliedAt, command: &Command) -> Reply {
        let applied: Applied = match serde_json::from_slice::<ControllerCommand>(&command.head) {
            Ok(command) => self.state.apply(at.index, command),
            // Every node of one version reads the same bytes the same way, so refusing is as deterministic as applying.
            Err(e) => Err(Refusal::Limit(format!(
                "entry {} is no controller command: {e}",
                at.index
            ))),
        };
        if applied.is_ok() {
            self.image = Arc::new(self.state.image().clone());
            self.changed.notify_all();
        }
        Box::new(applied)
    }
}

struct Inner {
    group: Group,
    machine: Rc<RefCell<Machine>>,
    checkpoint: PathBuf,
    checkpointed: Cell<u64>,
    writing: Semaphore,
}

/// A handle on the controller.
#[derive(Clone)]
pub struct Controller(Rc<Inner>);

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Controller")
    }
}

impl Controller {
    /// Loads the checkpoint, replays the log, leads.
    ///
    /// # Errors
    /// [`ControllerError::Checkpoint`] for a damaged checkpoint, [`ControllerError::Consensus`] for the rest.
    pub async fn open(
        config: ControllerConfig,
        log: ShardLog,
        recovered: RecoveredRing,
    ) -> Result<Controller, ControllerError> {
        let damaged = |reason: String| ControllerError::Checkpoint {
            path: config.checkpoint.clone(),
            reason,
        };
        let stored = checkpoint::read(&config.checkpoint)
            .await
            .map_err(|e| damaged(e.to_string()))?;
        let (state, point) = match &stored {
            None => (ControllerState::default(), None),
            Some(bytes) => {
                let (point, state) =
                    split_checkpoint(bytes).ok_or_else(|| damaged("it is cut short".to_owned()))?;
                (
                    ControllerState::decode(&state).map_err(damaged)?,
                    Some(point),
                )
            }
        };
        let machine = Rc::new(RefCell::new(Machine {
            image: Arc::new(state.image().clone()),
            state,
            changed: Notify::new(),
        }));
        let group = Group::open(config.group, log, recovered, point, machine.clone()).await?;
        Ok(Controller(Rc::new(Inner {
            group,
            machine,
            checkpoint: config.checkpoint,
            checkpointed: Cell::new(0),
            writing: Semaphore::new(1),
        })))
    }

    /// The newest image.
    pub fn image(&self) -> Arc<Image> {
        self.0.machine.borrow().image.clone()
    }

    /// Notified whenever the image changes.
    pub fn changed(&self) -> Notify {
        self.0.machine.borrow().changed.clone()
    }

    /// Has `command` decided and waits for the answer.
    ///
    /// # Errors
    /// [`ControllerError::Refused`] with the reason; [`ControllerError::Unavailable`] when it could not be decided.
    pub async fn execute(
        &self,
        command: &ControllerCommand,
    ) -> Result<ControllerReply, ControllerError> {
        let told = crate::trail::told(command, &self.image());
        let head = serde_json::to_vec(command).expect("commands are plain data with text keys");
        let command = Command {
            head: Bytes::from(head),
            bodies: Vec::new(),
        };
        let reply = self.0.group.propose(command).await?;
        if let Err(error) = self.checkpoint_if_due().await {
            // The command is decided whatever becomes of the checkpoint, which is tried again.
            tracing::warn!(%error, "no checkpoint of the controller was written");
        }
        let applied = reply
            .downcast::<Applied>()
            .expect("this machine's replies are of this type");
        let reply = (*applied)?;
        if let Some(told) = told {
            tracing::info!(target: crate::TRAIL_TARGET, "{told}");
        }
        Ok(reply)
    }

    async fn checkpoint_if_due(&self) -> Result<(), ControllerError> {
        let behind = self.0.group.checkpoint_point().index - self.0.checkpointed.get();
        if behind < CHECKPOINT_ENTRIES {
            return Ok(());
        }
        self.write_checkpoint().await
    }

    /// Writes the state of now to disk and lets the log before it go.
    ///
    /// # Errors
    /// [`ControllerError::Checkpoint`] when it cannot be written.
    pub async fn write_checkpoint(&self) -> Result<(), ControllerError> {
        // Given back when the caller is dropped half way, too.
        let Some(_turn) = self.0.writing.try_acquire(1) else {
            return Ok(());
        };
        // Point and state are read without an await between: they describe the same index.
        let point = self.0.group.checkpoint_point();
        let bytes = join_checkpoint(&point, &self.0.machine.borrow().state.encode());
        let index = point.index;
        if index == self.0.checkpointed.get() {
            return Ok(());
        }
        self.0.group.durable(index).await;
        checkpoint::write(&self.0.checkpoint, vec![bytes])
            .await
            .map_err(|e| ControllerError::Checkpoint {
                path: self.0.checkpoint.clone(),
                reason: e.to_string(),
            })?;
        self.0.group.checkpoint_written(point).await?;
        self.0.checkpointed.set(index);
        Ok(())
    }

    /// Writes a last checkpoint and stops.
    pub async fn shutdown(&self) {
        if let Err(error) = self.write_checkpoint().await {
            tracing::warn!(%error, "no last checkpoint of the controller; the next start replays its log");
        }
        self.0.group.shutdown().await;
    }
}

/// The state in the content of the controller's checkpoint file, and the encoded point it stands for.
///
/// # Errors
/// What is wrong with it.
pub fn checkpoint_content(content: &Bytes) -> Result<(Bytes, ControllerState), String> {
    let (point, state) = split_checkpoint(content).ok_or("it is cut short")?;
    Ok((point, ControllerState::decode(&state)?))
}

fn join_checkpoint(point: &CheckpointPoint, state: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + point.encoded.len() + state.len());
    out.put_u32(point.encoded.len() as u32);
    out.put_slice(&point.encoded);
    out.put_slice(state);
    out.freeze()
}

fn split_checkpoint(bytes: &Bytes) -> Option<(Bytes, Bytes)> {
    let len: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let end = 4usize.checked_add(u32::from_be_bytes(len) as usize)?;
    (end <= bytes.len()).then(|| (bytes.slice(4..end), bytes.slice(end..)))
}
