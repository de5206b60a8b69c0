//! What can go wrong, and what to do then.

use std::path::PathBuf;

use tidemill_consensus::{ConsensusError, ProposeError};
use tidemill_model::{Offset, RingId};
use tidemill_partition::codec::DecodeError;
use tidemill_partition::segment::SegmentError;
use tidemill_partition::state::{
    AppendRefused, AttachError, DeleteOutOfRange, OutcomeRefused, ReceiveError, SeekRefused,
};

use crate::state::Refused;

/// Why a ring cannot be opened, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Its checkpoint cannot be read or written.
    #[error("ring {ring}: checkpoint {path}: {message}")]
    Checkpoint {
        /// The ring.
        ring: RingId,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Its checkpoint holds something else than it should.
    #[error("ring {ring}: {source}")]
    Decode {
        /// The ring.
        ring: RingId,
        /// What is wrong.
        source: DecodeError,
    },
    /// A segment cannot be read or written.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Raft.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
}

/// Why a change of a ring was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It was not written, or it is not known whether it was.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The state machine refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Why an append failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The partition is not open here.
    #[error("the partition is not open here")]
    UnknownPartition,
    /// The batch is larger than its topic allows (`max.message.bytes`).
    #[error("the batch has {bytes} bytes, the topic allows {max_bytes}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max_bytes: u32,
    },
    /// Less than the reserve is free on the disk (rule S11). Nothing was written.
    #[error(
        "the disk of this broker is full: what is left is kept for what must go on; writes are taken again as soon as there is \
         room: delete topics or records, shorten retention.ms or retention.bytes, or make the disk larger"
    )]
    DiskFull,
    /// The files of the partition cannot be written. Nothing was written.
    #[error(
        "the files of the partition cannot be written, so it takes no records; the broker's log says which and why: mend that, or \
         delete the topic"
    )]
    SetAside,
    /// Its timestamps are further ahead than its topic allows (`message.timestamp.after.max.ms`).
    #[error(
        "timestamp {timestamp} is more than {after_max_ms} ms ahead of the broker's clock; set the producer's clock, or raise message.timestamp.after.max.ms"
    )]
    Timestamp {
        /// The largest timestamp, in ms.
        timestamp: i64,
        /// How far ahead it may be, in ms.
        after_max_ms: i64,
        /// The places in the batch of the records that are, if it is known: not of a compressed batch, nor of more than
        /// [`crate::RECORDS_NAMED_MAX`].
        records: Vec<i32>,
    },
    /// The batch is refused.
    #[error(transparent)]
    Refused(#[from] AppendRefused),
    /// It was not written, or it is not known whether it was.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl AppendError {
    /// The places in the batch of the records that it was refused for, where it is about single ones.
    pub fn records(&self) -> &[i32] {
        match self {
            AppendError::Timestamp { records, .. } => records,
            _ => &[],
        }
    }
}

/// Why records were not deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// The partition is not open here.
    #[error("the partition is not open here")]
    UnknownPartition,
    /// There is no such offset.
    #[error(transparent)]
    OutOfRange(#[from] DeleteOutOfRange),
    /// It was not written, or it is not known whether it was.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl From<ChangeError> for DeleteError {
    fn from(e: ChangeError) -> DeleteError {
        match e {
            ChangeError::Propose(e) => DeleteError::Propose(e),
            ChangeError::Refused(Refused::Delete(e)) => DeleteError::OutOfRange(e),
            ChangeError::Refused(_) => DeleteError::UnknownPartition,
        }
    }
}

/// Why a transform was not attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachFailed {
    /// The partition is not open here.
    #[error("the partition is not open here")]
    UnknownPartition,
    /// There are too many already.
    #[error(transparent)]
    Refused(#[from] AttachError),
    /// It was not written, or it is not known whether it was.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Why a transform was not moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeekFailed {
    /// The partition is not open here.
    #[error("the partition is not open here")]
    UnknownPartition,
    /// It is not attached, or was moved meanwhile.
    #[error(transparent)]
    Refused(#[from] SeekRefused),
    /// It was not written, or it is not known whether it was.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl From<ChangeError> for SeekFailed {
    fn from(e: ChangeError) -> SeekFailed {
        match e {
            ChangeError::Propose(e) => SeekFailed::Propose(e),
            ChangeError::Refused(Refused::Seek(e)) => SeekFailed::Refused(e),
            ChangeError::Refused(_) => SeekFailed::UnknownPartition,
        }
    }
}

/// Why an outcome did not take effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeError {
    /// It does not begin where the transform stands (rule X2): somebody decided this range before.
    #[error("the transform stands at offset {stands_at}")]
    Stale {
        /// Where it stands.
        stands_at: Offset,
    },
    /// The transform is not attached, or the partition is not open here.
    #[error("the transform is not attached to this partition")]
    NotAttached,
    /// It puts out more than the outbox of the ring may hold at all (rule X8).
    #[error("the outcome has {bytes} bytes of output, the limit is {max_bytes}; split it")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// Its range or an output is malformed: a bug of who made it.
    #[error("the outcome is malformed: {0}")]
    Malformed(Refused),
    /// It was not written, or it is not known whether it was.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Why a delivery was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// The partition is not open here: deliver to the ring that carries it, or drop what waits for a deleted topic.
    #[error("the partition is not open here")]
    UnknownPartition,
    /// The sender is not registered here, or retired (rule X7).
    #[error("the sender is not registered here")]
    UnknownSender,
    /// Deliveries between are missing (rule X4); go on after `last`.
    #[error("the delivery does not follow sequence {last}, the last one taken")]
    Gap {
        /// The last sequence taken.
        last: u64,
    },
    /// There is no memory (rule X8) or no disk (rule S11) for it now; try again.
    #[error("there is no room for the delivery now; try again")]
    Busy,
    /// A batch is malformed: a bug of who made it.
    #[error("the delivery is malformed: {0}")]
    Malformed(Refused),
    /// It was not written, or it is not known whether it was.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl From<ChangeError> for AppendError {
    fn from(e: ChangeError) -> AppendError {
        match e {
            ChangeError::Propose(e) => AppendError::Propose(e),
            ChangeError::Refused(Refused::UnknownPartition) => AppendError::UnknownPartition,
            ChangeError::Refused(Refused::Append(e)) => AppendError::Refused(e),
            ChangeError::Refused(_) => AppendError::Refused(AppendRefused::Malformed),
        }
    }
}

impl From<ChangeError> for AttachFailed {
    fn from(e: ChangeError) -> AttachFailed {
        match e {
            ChangeError::Propose(e) => AttachFailed::Propose(e),
            ChangeError::Refused(Refused::Attach(e)) => AttachFailed::Refused(e),
            ChangeError::Refused(_) => AttachFailed::UnknownPartition,
        }
    }
}

impl From<ChangeError> for OutcomeError {
    fn from(e: ChangeError) -> OutcomeError {
        match e {
            ChangeError::Propose(e) => OutcomeError::Propose(e),
            ChangeError::Refused(Refused::UnknownPartition) => OutcomeError::NotAttached,
            ChangeError::Refused(Refused::Outcome(OutcomeRefused::NotAttached)) => {
                OutcomeError::NotAttached
            }
            ChangeError::Refused(Refused::Outcome(OutcomeRefused::Stale { stands_at })) => {
                OutcomeError::Stale { stands_at }
            }
            ChangeError::Refused(e) => OutcomeError::Malformed(e),
        }
    }
}

impl From<ChangeError> for DeliverError {
    fn from(e: ChangeError) -> DeliverError {
        match e {
            ChangeError::Propose(e) => DeliverError::Propose(e),
            ChangeError::Refused(Refused::UnknownPartition) => DeliverError::UnknownPartition,
            ChangeError::Refused(Refused::UnknownSender) => DeliverError::UnknownSender,
            ChangeError::Refused(Refused::Receive(ReceiveError::Gap { last })) => {
                DeliverError::Gap { last }
            }
            ChangeError::Refused(e) => DeliverError::Malformed(e),
        }
    }
}
