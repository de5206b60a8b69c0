//! Raft groups on the shard's log: the one crate that knows openraft.
//!
//! A [`Group`] is a ring's Raft group on this node. It turns proposals into entries of the shard's write-ahead log,
//! applies them to a [`StateMachine`] once they are committed, and lets the log be purged up to written checkpoints.
//! Everything lives on the shard's thread.

#![forbid(unsafe_code)]

mod channels;
mod error;
mod group;
pub mod inspect;
mod log_store;
mod network;
mod runtime;
mod state_machine;
mod types;

pub use error::{ConsensusError, Malformed, ProposeError};
pub use group::{
    CheckpointPoint, Group, GroupConfig, GroupStats, IN_FLIGHT_MAX, Leadership, Proposal,
};
pub use state_machine::{AppliedAt, StateMachine};
pub use types::Reply;

#[cfg(test)]
mod tests;
pub use tidemill_shardlog::{RecoveredRing, ShardLog, checkpoint};
