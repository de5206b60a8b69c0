//! Small appends gathered into one entry: those that come while entries before them are on their way to the disk.
//!
//! An entry of Raft costs some microseconds whatever it carries, and a request of one record not much more by itself. With
//! [`UNDER_WAY_MAX`] entries under way one is being written and one is ready to follow, so that gathering lets nobody wait
//! who could have been written; an append that finds nothing under way goes at once. This is Nagle's algorithm (RFC 896), whose clock is the
//! disk.

use std::any::Any;
use std::rc::Rc;

use tidemill_consensus::Proposal;
use tidemill_model::PartitionId;
use tidemill_partition::tail::Reservation;
use tidemill_rt::chan::oneshot;
use tidemill_rt::task::{self, Queue};

use super::{Shared, answer, only};
use crate::command::{Body, Entry, Op, WHOLE_RING};
use crate::error::ChangeError;
use crate::state::Done;

/// Bytes of a batch up to which it is gathered: above, an entry of its own costs little beside its bytes.
const BATCH_BYTES_MAX: usize = 16 << 10;
/// Batches, and bytes of them, that are proposed whatever is under way.
const ENTRY_BATCHES_MAX: usize = 256;
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Gathered entries under way below which the next goes at once.
const UNDER_WAY_MAX: usize = 2;

type Sender = oneshot::Sender<Result<Done, ChangeError>>;

/// Appends of a ring that are not proposed yet.
#[derive(Default)]
pub(super) struct Gathering {
    batches: Vec<(PartitionId, Body)>,
    /// The memory of each.
    held: Vec<Reservation>,
    /// Who waits for each.
    waiting: Vec<Sender>,
    bytes: usize,
    /// The leader's clock at the last of them, in ms since the Unix epoch.
    now_ms: i64,
    /// Gathered entries that were proposed and have no answer.
    under_way: usize,
}

impl Gathering {
    fn is_due(&self) -> bool {
        self.under_way < UNDER_WAY_MAX
            || self.batches.len() >= ENTRY_BATCHES_MAX
            || self.bytes >= ENTRY_BYTES_MAX
    }
}

/// Whether a batch may be gathered.
pub(super) fn is_small(batch: &Body) -> bool {
    batch.bytes.len() <= BATCH_BYTES_MAX
}

/// Takes in an append; what it came to is received when it is durable and applied.
pub(super) fn append(
    ring: &Rc<Shared>,
    (id, batch): (PartitionId, Body),
    now_ms: i64,
    held: Reservation,
) -> oneshot::Receiver<Result<Done, ChangeError>> {
    let (tx, rx) = oneshot::channel();
    let mut gathering = ring.gathering.borrow_mut();
    gathering.bytes += batch.bytes.len();
    gathering.now_ms = now_ms.max(gathering.now_ms);
    gathering.batches.push((id, batch));
    gathering.held.push(held);
    gathering.waiting.push(tx);
    let due = gathering.is_due();
    drop(gathering);
    if due {
        propose_gathered(ring);
    }
    rx
}

/// Proposes what was gathered, if anything.
pub(super) fn propose_gathered(ring: &Rc<Shared>) {
    let mut gathering = ring.gathering.borrow_mut();
    if gathering.batches.is_empty() {
        return;
    }
    let under_way = gathering.under_way + 1;
    let gathered = std::mem::take(&mut *gathering);
    gathering.under_way = under_way;
    drop(gathering);
    let entry = entry_of(gathered.batches, gathered.now_ms);
    let held: Box<dyn Any> = Box::new(gathered.held);
    let proposal = ring.group.propose_holding(entry.into_command(), Some(held));
    task::spawn(
        Queue::Raft,
        follow(ring.clone(), proposal, gathered.waiting),
    );
}

fn entry_of(mut batches: Vec<(PartitionId, Body)>, now_ms: i64) -> Entry {
    match (batches.pop(), batches.is_empty()) {
        (Some((id, batch)), true) => Entry::one(now_ms, id, Op::Append { batch }),
        (last, _) => {
            batches.extend(last);
            Entry::one(now_ms, WHOLE_RING, Op::Appends { batches })
        }
    }
}

/// Hands out what an entry came to, and proposes what was gathered meanwhile.
async fn follow(ring: Rc<Shared>, proposal: Proposal, waiting: Vec<Sender>) {
    let came_to = answer(proposal).await.map(only);
    let mut gathering = ring.gathering.borrow_mut();
    gathering.under_way -= 1;
    let due = gathering.is_due();
    drop(gathering);
    if due {
        // Before the answers: the disk has the next to do while they are made.
        propose_gathered(&ring);
    }
    hand_out(came_to, waiting);
}

/// Nobody waits where a client lost patience.
fn hand_out(came_to: Result<Done, ChangeError>, waiting: Vec<Sender>) {
    match came_to {
        Ok(Done::Each(results)) => {
            for (tx, result) in waiting.into_iter().zip(results) {
                let _ = tx.send(result.map_err(ChangeError::from));
            }
        }
        same => {
            for tx in waiting {
                let _ = tx.send(same.clone());
            }
        }
    }
}
