//! Transforms at work on a shard: which processors run, and how they reach rings and the guest thread.
//!
//! [`manager`] brings the running processors in line with the controller's image, [`wiring`] connects a processor to
//! its ring, [`delivery`] carries the outbox to other rings, [`lifecycle`] deploys and deletes,
//! [`positions`] moves them, [`keep`] removes modules that nobody needs (on shard 0).

pub(crate) mod delivery;
mod keep;
pub(crate) mod lifecycle;
pub(crate) mod logs;
pub(crate) mod manager;
pub(crate) mod modules;
pub(crate) mod positions;
mod request;
pub(crate) mod secrets;
pub(crate) mod status;
mod versions;
pub(crate) mod wiring;

pub(crate) use manager::TransformManager;
