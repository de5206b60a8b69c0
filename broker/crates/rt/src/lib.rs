//! The runtime seam: all time, randomness, disk, network, tasks and cross-shard messages of Tidemill.
//!
//! One concrete API, three engines behind it, chosen when a thread starts:
//!
//! * `uring` (glommio): Linux with io_uring,
//! * `epoll` (tokio current-thread and `LocalSet`): where io_uring is refused,
//! * `sim`: a deterministic executor with virtual time and a faulty disk, for tests.
//!
//! Every function here is called on a *shard thread* (a thread one of the engines runs) unless its
//! documentation says otherwise; [`mailbox`] is the one door through which other threads come in.

pub mod buf;
pub mod chan;
pub mod fs;
mod gather;
pub mod local;
pub mod mailbox;
pub mod memory;
pub mod net;
pub mod rand;
pub mod runtime;
pub mod sim;
pub mod task;
pub mod time;
mod writer;

mod context;
mod uring;

pub use context::EngineKind;
