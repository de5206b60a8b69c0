//! Which engine runs the current thread.

use std::cell::Cell;

/// The engine that runs a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// glommio on io_uring.
    Uring,
    /// tokio current-thread with a `LocalSet`.
    Epoll,
    /// The deterministic simulator.
    Sim,
}

impl EngineKind {
    /// The name used on the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Uring => "uring",
            EngineKind::Epoll => "epoll",
            EngineKind::Sim => "sim",
        }
    }
}

thread_local! {
    static ENGINE: Cell<Option<EngineKind>> = const { Cell::new(None) };
}

/// Marks the current thread as run by `kind`.
pub(crate) fn enter(kind: EngineKind) {
    ENGINE.with(|e| e.set(Some(kind)));
}

/// Forgets the engine of the current thread.
pub(crate) fn leave() {
    ENGINE.with(|e| e.set(None));
}

/// The engine of the current thread.
///
/// # Panics
/// When the thread is not run by an engine: that is a bug of the caller.
pub(crate) fn current() -> EngineKind {
    ENGINE
        .with(Cell::get)
        .expect("rt was used on a thread that no engine runs")
}

/// The engine of the current thread, if it has one.
pub(crate) fn try_current() -> Option<EngineKind> {
    ENGINE.with(Cell::get)
}
