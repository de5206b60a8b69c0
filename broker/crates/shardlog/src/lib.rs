//! The write-ahead log of a shard, checkpoint files, and the data directory they lie in.
//!
//! * [`ShardLog`]: one append-only log per shard, shared by its rings; what is appended while a write is under way goes
//!   out together and is made durable by one `fdatasync`.
//! * [`checkpoint`]: whole files with a checksum, replaced atomically.
//! * [`DataDir`]: lock, format version, identity of the node, number of shards.
//!
//! The file formats are in `format` (log), [`checkpoint`] and `identity`; nobody else knows them.

#![forbid(unsafe_code)]

mod aside;
mod carry;
mod catalog;
pub mod checkpoint;
mod data_dir;
mod error;
mod files;
mod format;
mod identity;
pub mod inspect;
mod log;
mod recover;
mod space;
mod track;

#[cfg(test)]
mod tests;

pub use data_dir::{DataDir, DataDirError, LookedAt};
pub use error::LogError;
pub use format::Frame;
pub use identity::{ClusterId, FORMAT_VERSION, Identity, NodeUuid};
pub use log::{DEFAULT_FILE_BYTES, DEFAULT_GROUP_BYTES_MAX, LogConfig, LogStats, ShardLog};
pub use space::{Space, SpaceConfig, reserve_bytes};
pub use track::RecoveredRing;
