//! Consumer groups: who is in a group, which generation it is in, what it has committed.
//!
//! Everything here decides and nothing acts: a [`Coordinator`] looks after the groups of one partition of
//! `__consumer_offsets`. It is told what clients ask, what time it is, and what became of its writes; it returns whom to
//! answer what, and what to write. Its lasting state ([`Store`]) changes by records of that partition alone, in the order
//! of the log, so that reading the log again gives the same state.

#![forbid(unsafe_code)]

pub mod codec;
pub mod coordinator;
pub mod copy;
pub mod error;
mod group;
pub mod limits;
pub mod partition;
pub mod request;
pub mod store;
mod timers;

pub use coordinator::Coordinator;
pub use error::GroupError;
pub use group::State;
pub use limits::{Budget, Settings};
pub use request::{Effect, Now, Ticket};
pub use store::Store;

#[cfg(test)]
mod tests;
