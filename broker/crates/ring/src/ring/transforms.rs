//! What transforms need of a ring: attaching, outcomes, the outbox, deliveries.

use std::future::Future;

use bytes::Bytes;
use tidemill_model::command::BODIES_MAX;
use tidemill_model::{BatchHeader, Incarnation, Offset, PartitionId};
use tidemill_partition::state::Standing;
use tidemill_partition::tail::{BATCH_OVERHEAD_BYTES, compact};
use tidemill_partition::{SenderId, StartAt};
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::time;

use super::{Ring, only};
use crate::command::{Body, Entry, OPS_MAX, Op, WHOLE_RING};
use crate::error::{AttachFailed, ChangeError, DeliverError, OutcomeError, SeekFailed};
use crate::outbox::OutboxItem;
use crate::room::OutboxRoom;
use crate::state::{Done, Refused};

/// What a transform made of a range of its input.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The input.
    pub input: PartitionId,
    /// The transform's life.
    pub incarnation: Incarnation,
    /// Version of its code.
    pub version: u32,
    /// How often the transform had been moved when this was made.
    pub moves: u32,
    /// Where the range begins: where the transform stands.
    pub first: Offset,
    /// Where the range ends, exclusive.
    pub next: Offset,
    /// Output partitions and whole record batches, in order.
    pub outputs: Vec<(PartitionId, Bytes)>,
}

/// What an outcome did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeApplied {
    /// First offsets of the outputs appended in this ring, in the order of the outputs.
    pub appended: Vec<(PartitionId, Offset)>,
    /// Partitions whose output waits in the outbox now.
    pub outboxed: u32,
}

/// Batches from the outbox of a ring for a partition of another.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Who sends.
    pub sender: SenderId,
    /// Its sequence.
    pub sequence: u64,
    /// The sequence before it.
    pub previous: u64,
    /// Whole record batches.
    pub batches: Vec<Bytes>,
}

/// What became of a delivery. In both cases it is in the partition once, and the sender may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// It was taken now.
    Taken,
    /// It was taken before.
    Duplicate,
}

fn bodies<E>(batches: Vec<Bytes>, bad: impl Fn(Refused) -> E) -> Result<Vec<Body>, E> {
    let body = |batch| Body::new(batch).map_err(|e| bad(Refused::Malformed(e)));
    batches.into_iter().map(body).collect()
}

fn cost(batches: &[Body]) -> u64 {
    batches
        .iter()
        .map(|b| b.bytes.len() as u64 + BATCH_OVERHEAD_BYTES)
        .sum()
}

impl Ring {
    /// Attaches a transform to an input and fixes where it begins (rule X1); one that is attached stays where it stands.
    /// Gives back where it stands.
    ///
    /// # Errors
    /// [`AttachFailed`].
    pub async fn attach(
        &self,
        id: PartitionId,
        incarnation: Incarnation,
        start: StartAt,
    ) -> Result<Offset, AttachFailed> {
        match self.change(id, Op::Attach { incarnation, start }).await? {
            Done::Attached(offset) => Ok(offset),
            _ => Err(AttachFailed::UnknownPartition),
        }
    }

    /// Detaches a transform: its outcomes are refused from now on; what waits in the outbox is still delivered (rule X6).
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn detach(
        &self,
        id: PartitionId,
        incarnation: Incarnation,
    ) -> Result<(), ChangeError> {
        self.change(id, Op::Detach { incarnation })
            .await
            .map(|_| ())
    }

    /// Where an attached transform stands.
    pub fn progress(&self, id: PartitionId, incarnation: Incarnation) -> Option<Offset> {
        let machine = self.0.machine.borrow();
        machine.state.partitions().get(&id)?.progress(incarnation)
    }

    /// Where an attached transform stands, and since which seek.
    pub fn standing(&self, id: PartitionId, incarnation: Incarnation) -> Option<Standing> {
        let machine = self.0.machine.borrow();
        machine.state.partitions().get(&id)?.standing(incarnation)
    }

    /// Moves a transform that was moved `moves` times before to `to`, at most to the ends of what there is: what it has proposed and is
    /// undecided comes to nothing, wherever it begins (rule X2). Gives back where it stands.
    ///
    /// # Errors
    /// [`SeekFailed`].
    pub async fn seek(
        &self,
        id: PartitionId,
        incarnation: Incarnation,
        (moves, to): (u32, Offset),
    ) -> Result<Offset, SeekFailed> {
        let op = Op::Seek {
            incarnation,
            moves,
            to,
        };
        match self.change(id, op).await? {
            Done::Attached(offset) => Ok(offset),
            _ => Err(SeekFailed::UnknownPartition),
        }
    }

    /// The transforms attached to a partition, and where they stand.
    pub fn attached(&self, id: PartitionId) -> Vec<(Incarnation, Offset)> {
        let machine = self.0.machine.borrow();
        let partition = machine.state.partitions().get(&id);
        partition
            .map(|p| p.attached().collect())
            .unwrap_or_default()
    }

    /// Proposes what a transform made of a range. Queued at this call; waits for memory like an append.
    ///
    /// # Errors
    /// When awaited: [`OutcomeError`]. After [`OutcomeError::Stale`] the range was decided before.
    pub fn propose_outcome(
        &self,
        outcome: Outcome,
    ) -> impl Future<Output = Result<OutcomeApplied, OutcomeError>> + use<> {
        let submitted = self
            .outcome_entry(outcome)
            .map(|(entry, bytes)| self.submit(entry, bytes));
        async move {
            match only(submitted?.await?) {
                Done::Outcome { appended, outboxed } => Ok(OutcomeApplied { appended, outboxed }),
                _ => Err(OutcomeError::NotAttached),
            }
        }
    }

    fn outcome_entry(&self, outcome: Outcome) -> Result<(Entry, u64), OutcomeError> {
        let (to, batches): (Vec<_>, Vec<_>) = outcome.outputs.into_iter().unzip();
        if batches.len() > BODIES_MAX {
            // More could be written, but not be read back.
            let (bytes, max_bytes) = (batches.len() as u64, BODIES_MAX as u64);
            return Err(OutcomeError::TooLarge { bytes, max_bytes });
        }
        let batches = batches.into_iter().map(compact).collect();
        let batches = bodies(batches, OutcomeError::Malformed)?;
        let (bytes, max_bytes) = (cost(&batches), self.0.config.outbox_bytes);
        if bytes > max_bytes {
            return Err(OutcomeError::TooLarge { bytes, max_bytes });
        }
        let op = Op::Outcome {
            incarnation: outcome.incarnation,
            moves: outcome.moves,
            version: outcome.version,
            first: outcome.first,
            next: outcome.next,
            outputs: to.into_iter().zip(batches).collect(),
        };
        Ok((Entry::one(time::unix_ms(), outcome.input, op), bytes))
    }

    /// The partitions for which something waits in the outbox, with up to `items_max` of the first items of each. To be
    /// delivered in order; each partition by itself (rule X4).
    pub fn outbox_heads(&self, items_max: usize) -> Vec<(PartitionId, Vec<OutboxItem>)> {
        self.0.machine.borrow().state.outbox().heads(items_max)
    }

    /// Whether something of this life of a transform waits in the outbox.
    pub fn outbox_holds(&self, incarnation: Incarnation) -> bool {
        self.0.machine.borrow().state.outbox().waits_of(incarnation)
    }

    /// Notified when the outbox changes.
    pub fn outbox_changed(&self) -> Notify {
        self.0.wake.outbox.clone()
    }

    /// Waits while a partition of this ring is set aside because its files cannot be written: to be awaited before a transform runs
    /// that puts something out to it, which would fill the memory that others wait for.
    pub async fn writable(&self, id: PartitionId) {
        while let Some(changed) = self.changed(id) {
            let changed = changed.notified();
            if !self.0.is_set_aside(id) {
                return;
            }
            changed.await;
        }
    }

    /// Records that what waited for each of these partitions has arrived up to the ticket beside it.
    ///
    /// # Errors
    /// [`ChangeError`]; it may then be recorded again.
    pub async fn outbox_arrived(
        &self,
        arrived: Vec<(PartitionId, u64)>,
    ) -> Result<(), ChangeError> {
        for some in arrived.chunks(OPS_MAX) {
            let ops = some
                .iter()
                .map(|(to, ticket)| (*to, Op::OutboxArrived { ticket: *ticket }));
            let entry = Entry {
                now_ms: time::unix_ms(),
                ops: ops.collect(),
            };
            self.propose(entry, None).await?;
        }
        Ok(())
    }

    /// Bytes of output that one outcome may have at most: what the outbox holds (rule X8).
    pub fn outcome_bytes_max(&self) -> u64 {
        self.0.config.outbox_bytes
    }

    /// Waits for room for `bytes` of output in the outbox, first come, first served; more than it can ever hold is cut to
    /// that. To be taken before a transform runs, made as large as its output, and held until its outcome is applied (rules
    /// X8, X10).
    pub async fn outbox_room(&self, bytes: u64) -> OutboxRoom {
        self.0.wake.rooms.take(bytes).await
    }

    /// Drops what waits for a partition whose topic is gone, in a counted entry (rules X5, X6). Gives back the number of
    /// records dropped.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn drop_outbox_for(&self, to: PartitionId) -> Result<u64, ChangeError> {
        match self.change(to, Op::DropOutboxFor).await? {
            Done::Dropped(records) => Ok(records),
            _ => Ok(0),
        }
    }

    /// Takes a delivery of another ring, once (rule X4). Its batches are checked here, but not against the settings of the
    /// topic (rule X5). Has memory of its own and never waits for it (rule X8).
    ///
    /// # Errors
    /// When awaited: [`DeliverError`].
    pub fn deliver(
        &self,
        to: PartitionId,
        delivery: Delivery,
    ) -> impl Future<Output = Result<Delivered, DeliverError>> + use<> {
        let proposed = self
            .delivery_entry(to, delivery)
            .and_then(|(entry, bytes)| {
                if self.0.space.is_full() {
                    self.0.space.count_refused();
                    return Err(DeliverError::Busy);
                }
                if self.0.is_set_aside(to) {
                    return Err(DeliverError::Busy);
                }
                let reservation = self.0.config.memory.try_reserve_delivery(bytes);
                Ok(self.propose(entry, Some(reservation.ok_or(DeliverError::Busy)?)))
            });
        async move {
            match only(proposed?.await?) {
                Done::Delivered { duplicate: true } => Ok(Delivered::Duplicate),
                Done::Delivered { duplicate: false } => Ok(Delivered::Taken),
                _ => Err(DeliverError::UnknownPartition),
            }
        }
    }

    fn delivery_entry(
        &self,
        to: PartitionId,
        delivery: Delivery,
    ) -> Result<(Entry, u64), DeliverError> {
        let Delivery {
            sender,
            sequence,
            previous,
            batches,
        } = delivery;
        let malformed = |_| tidemill_partition::state::AppendRefused::Malformed;
        for batch in &batches {
            let checked = BatchHeader::validate(batch).map_err(malformed);
            checked.map_err(|e| DeliverError::Malformed(e.into()))?;
        }
        let batches = bodies(
            batches.into_iter().map(compact).collect(),
            DeliverError::Malformed,
        )?;
        let bytes = cost(&batches);
        let op = Op::Deliver {
            sender,
            sequence,
            previous,
            batches,
        };
        Ok((Entry::one(time::unix_ms(), to, op), bytes))
    }

    /// Whether deliveries of this life of a transform are let in.
    pub fn is_registered(&self, incarnation: Incarnation) -> bool {
        self.0.machine.borrow().state.is_registered(incarnation)
    }

    /// Lets deliveries of this life of a transform in (rule X7).
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn register_sender(&self, incarnation: Incarnation) -> Result<(), ChangeError> {
        let op = Op::RegisterSender { incarnation };
        self.change(WHOLE_RING, op).await.map(|_| ())
    }

    /// Forgets everything about a life of a transform that is over. Refused while it is attached here or something of it
    /// waits in the outbox (rules X6, X7).
    ///
    /// # Errors
    /// [`ChangeError`], with [`Refused::StillInUse`] among them.
    pub async fn retire_sender(&self, incarnation: Incarnation) -> Result<(), ChangeError> {
        let op = Op::RetireSender { incarnation };
        self.change(WHOLE_RING, op).await.map(|_| ())
    }
}
