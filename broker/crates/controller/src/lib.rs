//! The controller: topics, their placement and configuration, producer id blocks and transforms.
//!
//! Its state is the state machine of ring 0. [`state`] is pure: commands in, a changed [`Image`] out;
//! [`handle`] runs it over `consensus` on shard 0. Everybody else reads the [`Image`], an immutable snapshot
//! shared between shards.

#![forbid(unsafe_code)]

pub mod command;
pub mod config_change;
pub mod configs;
pub mod deploy;
pub mod handle;
pub mod image;
pub mod placement;
pub mod state;
mod trail;

/// The target of log lines that tell of changes of topics and transforms.
pub const TRAIL_TARGET: &str = "tidemill::changes";

pub use command::{ControllerCommand, ControllerReply, Refusal};
pub use handle::{Controller, ControllerConfig, ControllerError};
pub use image::{Image, ModuleHash, StartPosition, Topic, TransformSpec, TransformStatus};
