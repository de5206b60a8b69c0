//! The state machine of a ring: a pure function of its log. Every operation of an entry is validated before the first one
//! is applied, so that an entry takes effect whole or not at all (rule R3); appends gathered into one operation stand each for itself.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes};
use tidemill_consensus::AppliedAt;
use tidemill_model::{Incarnation, Offset, PartitionId};
use tidemill_partition::codec::{DecodeError, Reader, put_count, put_partition};
use tidemill_partition::producers::Admission;
use tidemill_partition::state::{
    AppendRefused, AttachError, DeleteOutOfRange, OutcomeRefused, Placed, ReceiveError,
    SeekRefused, Standing, check_shape,
};
use tidemill_partition::{PartitionConfig, PartitionState, SenderId, StartAt};

use crate::command::{Body, Entry, Op, WHOLE_RING};
use crate::outbox::{Outbox, OutboxItem};

/// Version of the stored form.
const VERSION: u8 = 1;
/// Lives of transforms that may be registered as senders at a time.
pub const SENDERS_MAX: usize = 65_536;

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// What it asked for, or it was so already.
    Ok,
    /// The batch is in the partition.
    Appended {
        /// Its first offset.
        base_offset: Offset,
        /// The append time it got, in ms; -1 where the producer's timestamps count.
        log_append_time_ms: i64,
        /// First offset of the partition.
        log_start_offset: Offset,
        /// Whether it was there before.
        duplicate: bool,
    },
    /// What each of many appends came to, in their order.
    Each(Vec<Result<Done, Refused>>),
    /// The transform is attached and stands here.
    Attached(Offset),
    /// The outcome took effect.
    Outcome {
        /// First offsets of the outputs appended in this ring, in the order of the outputs.
        appended: Vec<(PartitionId, Offset)>,
        /// Partitions whose output went to the outbox.
        outboxed: u32,
    },
    /// The delivery was taken, or was a repetition.
    Delivered {
        /// Whether it was taken before.
        duplicate: bool,
    },
    /// So many records were dropped.
    Dropped(u64),
    /// The log of the partition starts here now.
    Starts(Offset),
}

impl Done {
    /// How many appends of it were refused, of those that stand for themselves.
    pub(crate) fn refused(&self) -> u64 {
        match self {
            Done::Each(results) => results.iter().filter(|result| result.is_err()).count() as u64,
            _ => 0,
        }
    }
}

/// Why an entry is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A partition is not open in this ring.
    #[error("the partition is not open in this ring")]
    UnknownPartition,
    /// A batch.
    #[error(transparent)]
    Append(#[from] AppendRefused),
    /// Records to be deleted.
    #[error(transparent)]
    Delete(#[from] DeleteOutOfRange),
    /// An attach.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// An outcome.
    #[error(transparent)]
    Outcome(#[from] OutcomeRefused),
    /// A seek.
    #[error(transparent)]
    Seek(#[from] SeekRefused),
    /// A delivery.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// The sender's life of a transform is not registered here, or was retired (rule X7).
    #[error("deliveries of this transform are not taken here: it is not registered, or retired")]
    UnknownSender,
    /// There are as many registered senders as allowed.
    #[error("{SENDERS_MAX} transforms are registered with this ring already")]
    TooManySenders,
    /// A transform cannot be retired while it is attached or something of it waits in the outbox (rules X6, X7).
    #[error("the transform is still attached, or its output still waits to be delivered")]
    StillInUse,
    /// Two operations of one entry concern the same partition.
    #[error("two operations of one entry concern the same partition")]
    Conflict,
}

/// What the outside has to follow up after an entry.
#[derive(Debug)]
pub enum Effect {
    /// A partition was opened.
    Opened(PartitionId),
    /// A partition is gone.
    Dropped(PartitionId),
    /// The settings of a partition changed.
    Configured(PartitionId),
    /// The log of a partition starts later than before.
    Started(PartitionId),
    /// A batch got its place.
    Appended(PartitionId, Placed),
    /// The outbox changed.
    OutboxChanged,
}

/// Most producers that the partitions of a ring remember together, each at least one: about 80 MB. Above it, the partition that
/// a new one writes to forgets its least recently used one.
pub const PRODUCERS_MAX: usize = 262_144;

/// The state of a ring.
#[derive(Debug, Default)]
pub struct RingState {
    partitions: BTreeMap<PartitionId, PartitionState>,
    outbox: Outbox,
    senders: BTreeSet<Incarnation>,
    /// Producers that all partitions remember.
    producers: usize,
}

/// What every operation of an entry shares.
struct Context<'a> {
    at: AppliedAt,
    now_ms: i64,
    effects: &'a mut Vec<Effect>,
}

impl RingState {
    /// A ring without partitions.
    pub fn new() -> RingState {
        RingState::default()
    }

    /// The partitions open in this ring.
    pub fn partitions(&self) -> &BTreeMap<PartitionId, PartitionState> {
        &self.partitions
    }

    /// What waits to be delivered.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whether deliveries of this life of a transform are taken.
    pub fn is_registered(&self, incarnation: Incarnation) -> bool {
        self.senders.contains(&incarnation)
    }

    /// Applies an entry whole, or refuses it whole. Effects are appended in order.
    ///
    /// # Errors
    /// [`Refused`] for the first operation that cannot be; nothing has changed then.
    pub fn apply(
        &mut self,
        at: AppliedAt,
        entry: Entry,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<Done>, Refused> {
        let mut subjects = BTreeSet::new();
        for (id, op) in &entry.ops {
            let alone = matches!(op, Op::OutboxArrived { .. }) || *id == WHOLE_RING;
            if !alone && !subjects.insert(*id) {
                return Err(Refused::Conflict);
            }
            self.check(*id, op, entry.now_ms)?;
        }
        let mut cx = Context {
            at,
            now_ms: entry.now_ms,
            effects,
        };
        let ops = entry.ops.into_iter();
        Ok(ops.map(|(id, op)| self.perform(id, op, &mut cx)).collect())
    }

    fn check(&self, id: PartitionId, op: &Op, now_ms: i64) -> Result<(), Refused> {
        match op {
            Op::Open { .. }
            | Op::Drop
            | Op::OutboxArrived { .. }
            | Op::DropOutboxFor
            | Op::Seal { .. }
            | Op::AdvanceStart { .. }
            | Op::Appends { .. }
            | Op::Detach { .. } => Ok(()),
            Op::DeleteRecords { before } => {
                self.open(id)?.check_delete(*before)?;
                Ok(())
            }
            Op::Configure { .. } => self.open(id).map(|_| ()),
            Op::Append { batch } => {
                self.open(id)?
                    .check_append(&batch.header, batch.bytes.len(), now_ms)?;
                Ok(())
            }
            Op::Attach { incarnation, .. } => Ok(self.open(id)?.check_attach(*incarnation)?),
            Op::Seek {
                incarnation, moves, ..
            } => Ok(self.open(id)?.check_seek(*incarnation, *moves)?),
            Op::Outcome {
                incarnation,
                moves,
                first,
                next,
                outputs,
                ..
            } => {
                let from = Standing {
                    position: *first,
                    moves: *moves,
                };
                self.open(id)?.check_outcome(*incarnation, from, *next)?;
                check_bodies(outputs.iter().map(|(_, body)| body))
            }
            Op::Deliver {
                sender,
                sequence,
                previous,
                batches,
            } => {
                let partition = self.open(id)?;
                if !self.senders.contains(&sender.incarnation) {
                    return Err(Refused::UnknownSender);
                }
                partition.check_receive(*sender, *sequence, *previous)?;
                check_bodies(batches)
            }
            Op::RegisterSender { incarnation } => {
                let known = self.senders.contains(incarnation);
                match known || self.senders.len() < SENDERS_MAX {
                    true => Ok(()),
                    false => Err(Refused::TooManySenders),
                }
            }
            Op::RetireSender { incarnation } => {
                let mut partitions = self.partitions.values();
                let attached = partitions.any(|p| p.progress(*incarnation).is_some());
                match attached || self.outbox.waits_of(*incarnation) {
                    true => Err(Refused::StillInUse),
                    false => Ok(()),
                }
            }
        }
    }

    fn open(&self, id: PartitionId) -> Result<&PartitionState, Refused> {
        self.partitions.get(&id).ok_or(Refused::UnknownPartition)
    }

    /// Applies one operation that was checked. Where an earlier operation of the same entry took its partition away,
    /// there is nothing left to do.
    fn perform(&mut self, id: PartitionId, op: Op, cx: &mut Context<'_>) -> Done {
        match op {
            Op::Open { config, epoch_base } => self.open_partition(id, config, epoch_base, cx),
            Op::Drop => self.drop_partition(id, cx),
            Op::Configure { config } => {
                cx.effects.push(Effect::Configured(id));
                self.with(id, |p| {
                    p.configure(config);
                    Done::Ok
                })
            }
            Op::Seal { base_offset } => self.with(id, |p| {
                p.seal(base_offset);
                Done::Ok
            }),
            Op::AdvanceStart { to } => self.advance_start(id, to, cx),
            Op::DeleteRecords { before } => {
                let to = self.open(id).ok().and_then(|p| p.check_delete(before).ok());
                to.map_or(Done::Ok, |to| self.advance_start(id, to, cx))
            }
            Op::Append { batch } => self.append(id, batch, cx),
            Op::Appends { batches } => {
                let each = |(id, batch)| self.append_for_itself(id, batch, cx);
                Done::Each(batches.into_iter().map(each).collect())
            }
            Op::Attach { incarnation, start } => self.attach(id, incarnation, start),
            Op::Detach { incarnation } => self.with(id, |p| {
                p.detach(incarnation);
                Done::Ok
            }),
            Op::Seek {
                incarnation, to, ..
            } => self.with(id, |p| {
                p.seek(incarnation, to).map_or(Done::Ok, Done::Attached)
            }),
            Op::Outcome {
                incarnation,
                next,
                outputs,
                ..
            } => self.outcome(id, incarnation, next, outputs, cx),
            Op::OutboxArrived { ticket } => {
                self.outbox.arrived(id, ticket);
                cx.effects.push(Effect::OutboxChanged);
                Done::Ok
            }
            Op::Deliver {
                sender,
                sequence,
                previous,
                batches,
            } => self.deliver(id, sender, (sequence, previous), batches, cx),
            Op::DropOutboxFor => self.drop_outbox_for(id, cx),
            Op::RegisterSender { incarnation } => {
                self.senders.insert(incarnation);
                Done::Ok
            }
            Op::RetireSender { incarnation } => {
                self.senders.remove(&incarnation);
                self.partitions
                    .values_mut()
                    .for_each(|p| p.retire(incarnation));
                Done::Ok
            }
        }
    }

    /// The receiver is gone with all it knew of sequences, and never comes back (rule X11).
    fn drop_outbox_for(&mut self, id: PartitionId, cx: &mut Context<'_>) -> Done {
        cx.effects.push(Effect::OutboxChanged);
        self.partitions
            .values_mut()
            .for_each(|p| p.forget_output(id));
        Done::Dropped(self.outbox.drop_for(id))
    }

    fn with(&mut self, id: PartitionId, f: impl FnOnce(&mut PartitionState) -> Done) -> Done {
        self.partitions.get_mut(&id).map_or(Done::Ok, f)
    }

    fn open_partition(
        &mut self,
        id: PartitionId,
        config: PartitionConfig,
        epoch_base: i32,
        cx: &mut Context<'_>,
    ) -> Done {
        self.partitions.entry(id).or_insert_with(|| {
            cx.effects.push(Effect::Opened(id));
            PartitionState::new(config, epoch_base)
        });
        Done::Ok
    }

    fn drop_partition(&mut self, id: PartitionId, cx: &mut Context<'_>) -> Done {
        if let Some(partition) = self.partitions.remove(&id) {
            self.producers -= partition.producers().len();
            cx.effects.push(Effect::Dropped(id));
        }
        Done::Ok
    }

    fn advance_start(&mut self, id: PartitionId, to: Offset, cx: &mut Context<'_>) -> Done {
        self.with(id, |p| {
            if p.advance_start(to) {
                cx.effects.push(Effect::Started(id));
            }
            Done::Starts(p.log_start_offset())
        })
    }

    fn append(&mut self, id: PartitionId, batch: Body, cx: &mut Context<'_>) -> Done {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return Done::Ok;
        };
        let log_start_offset = partition.log_start_offset();
        let admission = partition.check_append(&batch.header, batch.bytes.len(), cx.now_ms);
        if let Ok(Admission::Duplicate {
            base_offset,
            log_append_time_ms,
        }) = admission
        {
            return Done::Appended {
                base_offset,
                log_append_time_ms,
                log_start_offset,
                duplicate: true,
            };
        }
        let epoch = partition.leader_epoch(cx.at.term);
        let before = partition.producers().len();
        let placed = partition.append(batch.header, batch.bytes, epoch, cx.now_ms);
        self.producers = self.producers - before + partition.producers().len();
        while self.producers > PRODUCERS_MAX && partition.forget_a_producer() {
            self.producers -= 1;
        }
        let header = placed.batch.header;
        let stamped =
            partition.config().timestamp_type == tidemill_partition::TimestampType::LogAppendTime;
        cx.effects.push(Effect::Appended(id, placed));
        Done::Appended {
            base_offset: header.base_offset,
            log_append_time_ms: if stamped { header.max_timestamp } else { -1 },
            log_start_offset,
            duplicate: false,
        }
    }

    /// Checks and appends a batch that came with others in one operation.
    fn append_for_itself(
        &mut self,
        id: PartitionId,
        batch: Body,
        cx: &mut Context<'_>,
    ) -> Result<Done, Refused> {
        let partition = self.open(id)?;
        partition.check_append(&batch.header, batch.bytes.len(), cx.now_ms)?;
        Ok(self.append(id, batch, cx))
    }

    fn attach(&mut self, id: PartitionId, incarnation: Incarnation, start: StartAt) -> Done {
        self.with(id, |p| {
            p.attach(incarnation, start)
                .map_or(Done::Ok, Done::Attached)
        })
    }

    fn outcome(
        &mut self,
        input: PartitionId,
        incarnation: Incarnation,
        next: Offset,
        outputs: Vec<(PartitionId, Body)>,
        cx: &mut Context<'_>,
    ) -> Done {
        self.with(input, |p| {
            p.advance(incarnation, next);
            Done::Ok
        });
        let mut appended = Vec::new();
        let mut remote: BTreeMap<PartitionId, Vec<Bytes>> = BTreeMap::new();
        for (to, body) in outputs {
            // Rule X3: what is here now takes its output directly, unless earlier output still waits elsewhere.
            let direct = !self.outbox.waits_for(to);
            match self.partitions.get_mut(&to).filter(|_| direct) {
                Some(partition) => appended.push((to, place(partition, to, body, cx))),
                None => remote.entry(to).or_default().push(body.bytes),
            }
        }
        let outboxed = remote.len() as u32;
        for (to, batches) in remote {
            self.send(SenderId { incarnation, input }, to, batches);
        }
        if outboxed > 0 {
            cx.effects.push(Effect::OutboxChanged);
        }
        Done::Outcome { appended, outboxed }
    }

    fn send(&mut self, sender: SenderId, to: PartitionId, batches: Vec<Bytes>) {
        let input = self.partitions.get_mut(&sender.input);
        let Some(out) = input.and_then(|p| p.next_outgoing(sender.incarnation, to)) else {
            return;
        };
        self.outbox.push(
            to,
            OutboxItem {
                ticket: 0,
                sender,
                sequence: out.sequence,
                previous: out.previous,
                batches,
            },
        );
    }

    fn deliver(
        &mut self,
        id: PartitionId,
        sender: SenderId,
        (sequence, previous): (u64, u64),
        batches: Vec<Body>,
        cx: &mut Context<'_>,
    ) -> Done {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return Done::Ok;
        };
        if partition.check_receive(sender, sequence, previous) != Ok(true) {
            return Done::Delivered { duplicate: true };
        }
        partition.received(sender, sequence);
        for body in batches {
            place(partition, id, body, cx);
        }
        Done::Delivered { duplicate: false }
    }

    /// Appends the stored form: equal logs give equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        put_count(out, self.senders.len());
        self.senders.iter().for_each(|i| out.put_u64(i.0));
        put_count(out, self.partitions.len());
        for (id, partition) in &self.partitions {
            put_partition(out, *id);
            partition.encode(out);
        }
        self.outbox.encode(out);
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(r: &mut Reader<'_>) -> Result<RingState, DecodeError> {
        if r.u8()? != VERSION {
            return Err(DecodeError("unknown version of a ring's state"));
        }
        let mut this = RingState::new();
        for _ in 0..r.count(8)? {
            this.senders.insert(r.incarnation()?);
        }
        for _ in 0..r.count(21)? {
            this.partitions
                .insert(r.partition()?, PartitionState::decode(r)?);
        }
        let remembered = this.partitions.values().map(|p| p.producers().len());
        this.producers = remembered.sum();
        this.outbox = Outbox::decode(r)?;
        Ok(this)
    }
}

/// Outputs are held to their form only, not to the settings of their topic (rule X5).
fn check_bodies<'a>(bodies: impl IntoIterator<Item = &'a Body>) -> Result<(), Refused> {
    for body in bodies {
        check_shape(&body.header, body.bytes.len())?;
    }
    Ok(())
}

fn place(
    partition: &mut PartitionState,
    id: PartitionId,
    body: Body,
    cx: &mut Context<'_>,
) -> Offset {
    let epoch = partition.leader_epoch(cx.at.term);
    let placed = partition.place(body.header, body.bytes, epoch, cx.now_ms);
    let base_offset = placed.batch.header.base_offset;
    cx.effects.push(Effect::Appended(id, placed));
    base_offset
}
