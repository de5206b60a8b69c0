//! A ring: a Raft group and the partitions it carries. What its log says is applied by a pure state machine
//! ([`state::RingState`]); around it are the partitions' batches, memory budgets, checkpoints, and the outbox of what
//! transforms put out for partitions of other rings.

#![forbid(unsafe_code)]

mod checkpoint;
mod flush;
mod machine;
mod retention;
mod room;
mod sweep;

pub mod command;
pub mod error;
pub mod inspect;
pub mod outbox;
pub mod ring;
pub mod state;

pub use error::{
    AppendError, AttachFailed, ChangeError, DeleteError, DeliverError, OutcomeError, RingError,
    SeekFailed,
};
pub use outbox::OutboxItem;
pub use ring::{
    Appended, Delivered, Delivery, Outcome, OutcomeApplied, PartitionView, RECORDS_NAMED_MAX, Ring,
    RingConfig, RingStats,
};
pub use room::OutboxRoom;
pub use tidemill_partition::log::AbortedTransaction;
pub use tidemill_partition::producers::ActiveProducer;
pub use tidemill_partition::tail::{MemoryConfig, MemoryStats, ShardMemory};
pub use tidemill_partition::{
    Isolation, PartitionConfig, Read, ReadError, SenderId, StartAt, TimestampType,
};
