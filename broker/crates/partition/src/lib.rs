//! One partition: its pure state machine, the batches it holds in memory and in segments, and reads over both.
//!
//! * [`state`] decides: offsets, idempotent producers, transform progress, receivers. No I/O, no clock.
//! * [`tail`] keeps recent batches in memory, bounded per shard by [`tail::ShardMemory`].
//! * [`segment`] keeps committed batches in files.
//! * [`retention`] decides which segments have had their time.
//! * [`log`] reads over both and moves batches from one to the other.

#![forbid(unsafe_code)]

pub mod codec;
pub mod config;
pub mod inspect;
pub mod log;
pub mod lookup;
pub mod producers;
pub mod retention;
pub mod segment;
pub mod state;
pub mod tail;

pub use config::{PartitionConfig, TimestampType};
pub use log::{Isolation, PartitionLog, Read, ReadError, StoredLog};
pub use state::{Outgoing, PartitionState, SenderId, StartAt};
pub use tail::ShardMemory;
