//! Ids, offsets, commands and the layout of record batches. No I/O, no async, no clock.

#![forbid(unsafe_code)]

pub mod batch;
pub mod command;
pub mod compression;
pub mod ids;
pub mod moment;
pub mod partitioner;
pub mod record;
pub mod topic_name;
pub mod variable;
pub mod varint;

pub use batch::{Batch, BatchError, BatchHeader};
pub use command::Command;
pub use ids::{Incarnation, NodeId, Offset, PartitionId, RingId, ShardId, TopicId};
