//! Writes of a ring that wait for memory, first come, first served.
//!
//! A write whose requester is gone leaves the line at once: clients that time out and send again would fill it with writes
//! that nobody waits for.

use std::collections::BTreeMap;

use tidemill_consensus::{Proposal, ProposeError};
use tidemill_model::{Command, PartitionId};
use tidemill_rt::chan::notify::{Notified, Notify};
use tidemill_rt::chan::oneshot;

use super::Shared;

/// Writes that may wait for memory; further ones are refused as busy.
const WAITING_MAX: usize = 4_096;
/// Bytes of writes that may wait for memory; further ones are refused as busy.
const WAITING_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A write that waits for memory.
pub(super) struct Waiting {
    /// The partition it goes to, if it is one.
    pub(super) to: Option<PartitionId>,
    pub(super) bytes: u64,
    pub(super) command: Command,
    pub(super) tx: oneshot::Sender<Result<Proposal, ProposeError>>,
}

/// The line. Places only go up.
#[derive(Default)]
pub(super) struct Line {
    writes: BTreeMap<u64, Waiting>,
    bytes: u64,
    next_place: u64,
    given_up: u64,
    /// Whether somebody proposes what is here.
    attended: bool,
    first_left: Notify,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }

    /// Writes that left because nobody waited for them any more.
    pub(super) fn given_up_total(&self) -> u64 {
        self.given_up
    }

    /// Takes a write in, if the line is not full; its place.
    pub(super) fn join(&mut self, write: Waiting) -> Option<u64> {
        let too_many = self.writes.len() >= WAITING_MAX;
        if too_many || self.writes.len() > 1 && self.bytes > WAITING_BYTES_MAX {
            return None;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.bytes += write.bytes;
        self.writes.insert(place, write);
        Some(place)
    }

    /// Whether nobody proposes what is here; whoever asks does from now on, until [`Line::first`] has nothing.
    pub(super) fn wants_attendant(&mut self) -> bool {
        !std::mem::replace(&mut self.attended, true)
    }

    /// The first in line: its place, its bytes, and what is ready when it has left.
    pub(super) fn first(&mut self) -> Option<(u64, u64, Notified)> {
        let first = self.writes.first_key_value();
        let first = first.map(|(place, w)| (*place, w.bytes, self.first_left.notified()));
        self.attended = first.is_some();
        first
    }

    /// Takes a write out whose turn has come, if it is still there.
    pub(super) fn take(&mut self, place: u64) -> Option<Waiting> {
        let write = self.writes.remove(&place)?;
        self.bytes -= write.bytes;
        Some(write)
    }

    /// Takes all writes out.
    pub(super) fn clear(&mut self) -> BTreeMap<u64, Waiting> {
        self.bytes = 0;
        self.first_left.notify_all();
        std::mem::take(&mut self.writes)
    }
}

/// Nobody waits for the write at `place` any more; nothing happens when its turn has come before.
pub(super) fn leave(ring: &Shared, place: u64) {
    let mut line = ring.line.borrow_mut();
    let was_first = line
        .writes
        .first_key_value()
        .is_some_and(|(first, _)| *first == place);
    let left = line.take(place);
    line.given_up += u64::from(left.is_some());
    if was_first {
        line.first_left.notify_all();
    }
    drop(line);
    drop(left);
}
