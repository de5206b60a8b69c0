//! Channels between the tasks of one shard: no lock, no atomic, `Rc` and a waker.
//!
//! None of these types is `Send`; across threads there is [`crate::mailbox`].
//! Rules that the consensus runtime relies on: sending on a watch without receivers fails; a closed channel wakes
//! its waiters; a weak sender does not upgrade once the last sender is gone.

pub mod mpsc;
pub mod notify;
pub mod oneshot;
pub mod semaphore;
pub mod turn;
pub mod watch;
