//! What can go wrong, and what to do then.

use tidemill_model::{NodeId, RingId};

/// Bytes that are not what this crate encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Why a ring could not be opened or told of a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// What the log or the checkpoint holds for the ring cannot be read.
    #[error(
        "ring {ring}: {what} cannot be read ({source}); restore this node's data directory, or start it empty"
    )]
    Unreadable {
        /// The ring.
        ring: RingId,
        /// Which part: an entry, the vote, the checkpoint.
        what: String,
        /// What is wrong with it.
        source: Malformed,
    },
    /// The log of the ring lacks entries between what it holds and what was purged or checkpointed.
    #[error(
        "ring {ring}: log entry {index} is missing; restore this node's data directory, or start it empty"
    )]
    Missing {
        /// The ring.
        ring: RingId,
        /// The first index that is not there.
        index: u64,
    },
    /// openraft refused the configuration: a bug of ours.
    #[error("ring {ring}: openraft refused its configuration: {message}")]
    Config {
        /// The ring.
        ring: RingId,
        /// What openraft said.
        message: String,
    },
    /// The ring has stopped: its log failed, or it was shut down.
    #[error("ring {ring} has stopped ({message}); restart the node when the log shows why")]
    Stopped {
        /// The ring.
        ring: RingId,
        /// What openraft said.
        message: String,
    },
}

/// Why a proposal has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads the ring, or none. Nothing was written; ask the leader.
    #[error("this node does not lead the ring; propose to its leader")]
    NotLeader {
        /// Who leads, if it is known.
        leader: Option<NodeId>,
    },
    /// The ring has as many proposals in flight as it may. Nothing was written; try again.
    #[error("too many proposals are in flight; try again")]
    Busy,
    /// The entry was written here and then lost to another leader's log; it may or may not commit there.
    #[error(
        "leadership was lost while the entry was being written; whether it stands is not known"
    )]
    Unknown,
    /// The ring has stopped. Whether the entry stands shows after a restart.
    #[error("the ring has stopped; whether the entry stands shows after a restart")]
    Stopped,
}

/// A peer that cannot be reached, because this node has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("node {node} is no peer of this node: it runs alone")]
pub(crate) struct NoPeer {
    pub(crate) node: u64,
}

/// A checkpoint arrived from a leader, where this node is its own only leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a checkpoint cannot be installed on a node that runs alone")]
pub(crate) struct InstallRefused;
