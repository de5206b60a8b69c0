//! The commands of a ring: what one log entry asks for, and its binary form in a [`Command`].
//!
//! An entry is a list of (partition, operation), applied all or none (rule R3). Record batches travel as the command's
//! bodies, in the order in which the operations name them. [`Op::Appends`] is one operation that carries many appends which have nothing
//! to do with each other: each of them is taken or refused for itself.

use bytes::{BufMut, Bytes};
use tidemill_model::{BatchHeader, Command, Incarnation, Offset, PartitionId, TopicId};
use tidemill_partition::codec::{DecodeError, Reader, put_count, put_partition};
use tidemill_partition::tail::compact;
use tidemill_partition::{PartitionConfig, SenderId, StartAt};

/// Version of the binary form.
const VERSION: u8 = 2;
/// Most operations of one entry.
pub const OPS_MAX: usize = 4096;
/// The partition of operations that concern the ring as a whole.
pub const WHOLE_RING: PartitionId = PartitionId {
    topic: TopicId::NONE,
    index: -1,
};

/// A record batch in a command.
#[derive(Debug, Clone)]
pub struct Body {
    /// Its header.
    pub header: BatchHeader,
    /// All of it.
    pub bytes: Bytes,
}

impl Body {
    /// Reads the header of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] for what is not the start of a batch.
    pub fn new(bytes: Bytes) -> Result<Body, DecodeError> {
        let header =
            BatchHeader::parse(&bytes).map_err(|_| DecodeError("a body is no record batch"))?;
        Ok(Body { header, bytes })
    }
}

/// What one entry asks for.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The leader's clock when it proposed, in ms since the Unix epoch.
    pub now_ms: i64,
    /// Operations and the partitions they concern.
    pub ops: Vec<(PartitionId, Op)>,
}

/// One operation. The tags 67 and above are kept for transaction markers and moving.
#[derive(Debug, Clone)]
pub enum Op {
    /// Opens a partition; one that is open stays as it is.
    Open {
        /// Its settings.
        config: PartitionConfig,
        /// What its leader epochs count from (rule R10).
        epoch_base: i32,
    },
    /// Drops a partition with its records.
    Drop,
    /// Changes settings.
    Configure {
        /// The new ones.
        config: PartitionConfig,
    },
    /// Appends a client's batch.
    Append {
        /// The batch.
        batch: Body,
    },
    /// Appends clients' batches, each for itself, in this order. Concerns the whole ring.
    Appends {
        /// Where each goes, and what.
        batches: Vec<(PartitionId, Body)>,
    },
    /// Seals the segment that takes appends (rule S9).
    Seal {
        /// Offset of its first record; another segment is left alone.
        base_offset: Offset,
    },
    /// Moves the log start, if it is below: retention (rule S9).
    AdvanceStart {
        /// Where the log is to start; at most at the high watermark.
        to: Offset,
    },
    /// Deletes records from the front, because a client asks for it.
    DeleteRecords {
        /// Offset below which they go; -1 for all there are.
        before: Offset,
    },
    /// Attaches a transform to this input (rule X1).
    Attach {
        /// Its life.
        incarnation: Incarnation,
        /// Where it begins.
        start: StartAt,
    },
    /// Detaches a transform.
    Detach {
        /// Its life.
        incarnation: Incarnation,
    },
    /// Moves a transform (rule X2).
    Seek {
        /// Its life.
        incarnation: Incarnation,
        /// How often it must have been moved before.
        moves: u32,
        /// Where it is to stand, at most at the ends of what there is.
        to: Offset,
    },
    /// What a transform made of a range of this input.
    Outcome {
        /// Its life.
        incarnation: Incarnation,
        /// How often it had been moved when this was made.
        moves: u32,
        /// Version of its code, for those who read the log.
        version: u32,
        /// Where the range begins: where the transform must stand (rule X2).
        first: Offset,
        /// Where the range ends, exclusive.
        next: Offset,
        /// Output partitions and batches, in order.
        outputs: Vec<(PartitionId, Body)>,
    },
    /// What waited for this output up to a ticket has arrived there.
    OutboxArrived {
        /// Ticket of the last item that arrived.
        ticket: u64,
    },
    /// Batches for this output, from the outbox of another ring.
    Deliver {
        /// Who sends.
        sender: SenderId,
        /// Its sequence.
        sequence: u64,
        /// The sequence before it.
        previous: u64,
        /// The batches.
        batches: Vec<Body>,
    },
    /// What waits for this output is dropped, and counted (rules X5, X6).
    DropOutboxFor,
    /// Deliveries of this life of a transform may be taken (rule X7). Concerns the whole ring.
    RegisterSender {
        /// Its life.
        incarnation: Incarnation,
    },
    /// This life of a transform is over; everything about it is forgotten. Concerns the whole ring.
    RetireSender {
        /// Its life.
        incarnation: Incarnation,
    },
}

impl Entry {
    /// An entry of one operation.
    pub fn one(now_ms: i64, id: PartitionId, op: Op) -> Entry {
        Entry {
            now_ms,
            ops: vec![(id, op)],
        }
    }

    /// The binary form.
    pub fn into_command(self) -> Command {
        let (mut head, mut bodies) = (Vec::with_capacity(64), Vec::new());
        head.put_u8(VERSION);
        head.put_i64(self.now_ms);
        put_count(&mut head, self.ops.len());
        for (id, op) in self.ops {
            put_partition(&mut head, id);
            op.encode(&mut head, &mut bodies);
        }
        Command {
            head: head.into(),
            bodies,
        }
    }

    /// Reads the binary form. With [`Copying::Small`], small bodies are copied out of the buffer they are part of.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(command: &Command, copying: Copying) -> Result<Entry, DecodeError> {
        let mut r = Reader::new(&command.head);
        if r.u8()? != VERSION {
            return Err(DecodeError("unknown version of a ring's command"));
        }
        let now_ms = r.i64()?;
        let count = r.count(21)?;
        if count > OPS_MAX {
            return Err(DecodeError("too many operations"));
        }
        let mut bodies = Bodies {
            rest: command.bodies.iter(),
            copying,
        };
        let mut ops = Vec::with_capacity(count);
        for _ in 0..count {
            ops.push((r.partition()?, Op::decode(&mut r, &mut bodies)?));
        }
        r.finish()?;
        match bodies.rest.next() {
            None => Ok(Entry { now_ms, ops }),
            Some(_) => Err(DecodeError("a body belongs to no operation")),
        }
    }
}

/// Whether an outcome says how often its transform had been moved.
enum Moves {
    Never,
    Counted,
}

/// Whether bodies keep sharing the buffer they came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copying {
    /// They do: whoever proposed has copied small ones already.
    Never,
    /// Small ones are copied (rule S13): they were read back with the whole log.
    Small,
}

struct Bodies<'a> {
    rest: std::slice::Iter<'a, Bytes>,
    copying: Copying,
}

impl Bodies<'_> {
    fn take(&mut self) -> Result<Body, DecodeError> {
        let bytes = self
            .rest
            .next()
            .ok_or(DecodeError("a body is missing"))?
            .clone();
        Body::new(match self.copying {
            Copying::Never => bytes,
            Copying::Small => compact(bytes),
        })
    }
}

impl Op {
    fn encode(self, head: &mut Vec<u8>, bodies: &mut Vec<Bytes>) {
        head.put_u8(self.tag());
        match self {
            Op::Open { config, epoch_base } => {
                config.encode(head);
                head.put_i32(epoch_base);
            }
            Op::Drop | Op::DropOutboxFor => {}
            Op::Seal { base_offset: at }
            | Op::AdvanceStart { to: at }
            | Op::DeleteRecords { before: at } => head.put_i64(at),
            Op::Configure { config } => config.encode(head),
            Op::Append { batch } => bodies.push(batch.bytes),
            Op::Appends { batches } => encode_batches(batches, head, bodies),
            Op::Attach { incarnation, start } => {
                head.put_u64(incarnation.0);
                encode_start(start, head);
            }
            Op::Detach { incarnation }
            | Op::RegisterSender { incarnation }
            | Op::RetireSender { incarnation } => {
                head.put_u64(incarnation.0);
            }
            Op::Seek {
                incarnation,
                moves,
                to,
            } => {
                head.put_u64(incarnation.0);
                head.put_u32(moves);
                head.put_i64(to);
            }
            Op::Outcome {
                incarnation,
                moves,
                version,
                first,
                next,
                outputs,
            } => {
                head.put_u64(incarnation.0);
                head.put_u32(moves);
                head.put_u32(version);
                head.put_i64(first);
                head.put_i64(next);
                encode_batches(outputs, head, bodies);
            }
            Op::OutboxArrived { ticket } => head.put_u64(ticket),
            Op::Deliver {
                sender,
                sequence,
                previous,
                batches,
            } => {
                sender.encode(head);
                head.put_u64(sequence);
                head.put_u64(previous);
                put_count(head, batches.len());
                bodies.extend(batches.into_iter().map(|b| b.bytes));
            }
        }
    }

    fn tag(&self) -> u8 {
        match self {
            Op::Open { .. } => 1,
            Op::Drop => 2,
            Op::Configure { .. } => 3,
            Op::Append { .. } => 4,
            Op::Attach { .. } => 5,
            Op::Detach { .. } => 6,
            Op::OutboxArrived { .. } => 8,
            Op::Deliver { .. } => 9,
            Op::DropOutboxFor => 10,
            Op::RegisterSender { .. } => 11,
            Op::RetireSender { .. } => 12,
            Op::Appends { .. } => 13,
            Op::Seek { .. } => 14,
            Op::Outcome { .. } => 15,
            Op::Seal { .. } => 64,
            Op::AdvanceStart { .. } => 65,
            Op::DeleteRecords { .. } => 66,
        }
    }

    fn decode(r: &mut Reader<'_>, bodies: &mut Bodies<'_>) -> Result<Op, DecodeError> {
        Ok(match r.u8()? {
            1 => Op::Open {
                config: PartitionConfig::decode(r)?,
                epoch_base: r.i32()?,
            },
            2 => Op::Drop,
            3 => Op::Configure {
                config: PartitionConfig::decode(r)?,
            },
            4 => Op::Append {
                batch: bodies.take()?,
            },
            5 => Op::Attach {
                incarnation: r.incarnation()?,
                start: decode_start(r)?,
            },
            6 => Op::Detach {
                incarnation: r.incarnation()?,
            },
            // As versions wrote it in which nothing was ever moved.
            7 => Op::decode_outcome(r, bodies, Moves::Never)?,
            8 => Op::OutboxArrived { ticket: r.u64()? },
            9 => Op::decode_deliver(r, bodies)?,
            10 => Op::DropOutboxFor,
            11 => Op::RegisterSender {
                incarnation: r.incarnation()?,
            },
            12 => Op::RetireSender {
                incarnation: r.incarnation()?,
            },
            13 => Op::Appends {
                batches: decode_batches(r, bodies)?,
            },
            14 => Op::Seek {
                incarnation: r.incarnation()?,
                moves: r.u32()?,
                to: r.i64()?,
            },
            15 => Op::decode_outcome(r, bodies, Moves::Counted)?,
            64 => Op::Seal {
                base_offset: r.i64()?,
            },
            65 => Op::AdvanceStart { to: r.i64()? },
            66 => Op::DeleteRecords { before: r.i64()? },
            _ => return Err(DecodeError("unknown operation")),
        })
    }

    fn decode_outcome(
        r: &mut Reader<'_>,
        bodies: &mut Bodies<'_>,
        moves: Moves,
    ) -> Result<Op, DecodeError> {
        let incarnation = r.incarnation()?;
        let moves = match moves {
            Moves::Never => 0,
            Moves::Counted => r.u32()?,
        };
        let version = r.u32()?;
        Ok(Op::Outcome {
            incarnation,
            moves,
            version,
            first: r.i64()?,
            next: r.i64()?,
            outputs: decode_batches(r, bodies)?,
        })
    }

    fn decode_deliver(r: &mut Reader<'_>, bodies: &mut Bodies<'_>) -> Result<Op, DecodeError> {
        let sender = SenderId::decode(r)?;
        let (sequence, previous) = (r.u64()?, r.u64()?);
        let mut batches = Vec::new();
        for _ in 0..r.u32()? {
            batches.push(bodies.take()?);
        }
        Ok(Op::Deliver {
            sender,
            sequence,
            previous,
            batches,
        })
    }
}

fn encode_batches(batches: Vec<(PartitionId, Body)>, head: &mut Vec<u8>, bodies: &mut Vec<Bytes>) {
    put_count(head, batches.len());
    for (to, body) in batches {
        put_partition(head, to);
        bodies.push(body.bytes);
    }
}

fn decode_batches(
    r: &mut Reader<'_>,
    bodies: &mut Bodies<'_>,
) -> Result<Vec<(PartitionId, Body)>, DecodeError> {
    let mut batches = Vec::new();
    for _ in 0..r.count(20)? {
        batches.push((r.partition()?, bodies.take()?));
    }
    Ok(batches)
}

fn encode_start(start: StartAt, head: &mut Vec<u8>) {
    let (tag, offset) = match start {
        StartAt::Earliest => (0, 0),
        StartAt::Latest => (1, 0),
        StartAt::Offset(offset) => (2, offset),
    };
    head.put_u8(tag);
    head.put_i64(offset);
}

fn decode_start(r: &mut Reader<'_>) -> Result<StartAt, DecodeError> {
    match (r.u8()?, r.i64()?) {
        (0, _) => Ok(StartAt::Earliest),
        (1, _) => Ok(StartAt::Latest),
        (2, offset) => Ok(StartAt::Offset(offset)),
        _ => Err(DecodeError("unknown start of a transform")),
    }
}
