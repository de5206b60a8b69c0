//! Threads that live through a panic.
//!
//! The process ends when a shard panics, since what it holds in memory can no longer be trusted. Threads of guests and of the compiler hold
//! nothing that outlives one job: a panic there is caught and becomes the answer to that job.

use std::any::Any;
use std::cell::Cell;

thread_local! {
    static SURVIVES: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of the current thread is caught and answered, so that the process may go on. For a panic hook.
pub fn survives_panics() -> bool {
    SURVIVES.with(Cell::get)
}

/// From now on panics of the current thread are caught.
pub(crate) fn begin() {
    SURVIVES.with(|survives| survives.set(true));
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
