//! What openraft's part of logs and checkpoints says, for those who look at files.

use bytes::Bytes;
use openraft::EntryPayload;
use tidemill_model::{Command, NodeId};

use crate::error::Malformed;
use crate::types::{decode_entry, decode_point};

/// A place in a ring's log, and who voted there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Raft term of the entry there.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// Nodes that vote.
    pub voters: Vec<NodeId>,
}

/// The point of a checkpoint, from [`crate::CheckpointPoint::encoded`].
///
/// # Errors
/// [`Malformed`].
pub fn point(encoded: Bytes) -> Result<Point, Malformed> {
    let meta = decode_point(encoded)?;
    let last = meta
        .last_log_id
        .ok_or(Malformed("a point without a place"))?;
    let mut voters: Vec<NodeId> = meta
        .last_membership
        .membership()
        .voter_ids()
        .map(|id| NodeId(id as i32))
        .collect();
    voters.dedup();
    Ok(Point {
        term: last.committed_leader_id().term,
        index: last.index(),
        voters,
    })
}

/// The command that the entry in `data` carries; `None` where it is one of consensus' own.
///
/// # Errors
/// [`Malformed`].
pub fn command(index: u64, data: Bytes) -> Result<Option<Command>, Malformed> {
    Ok(match decode_entry(index, data)?.payload {
        EntryPayload::Normal(data) => Some(Command::clone(&data.0)),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    })
}

/// The term of the entry in `data`, and its kind: `blank`, `command` or `membership`.
///
/// # Errors
/// [`Malformed`].
pub fn entry(index: u64, data: Bytes) -> Result<(u64, &'static str), Malformed> {
    let entry = decode_entry(index, data)?;
    let kind = match entry.payload {
        EntryPayload::Blank => "blank",
        EntryPayload::Normal(_) => "command",
        EntryPayload::Membership(_) => "membership",
    };
    Ok((entry.log_id.committed_leader_id().term, kind))
}
