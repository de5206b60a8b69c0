//! The current thread as a shard, for conformance suites and tools that cannot hand their future to a thread.

use std::future::Future;

use crate::context::{self, EngineKind};

/// An engine that runs futures on the thread that made it, one [`LocalRuntime::block_on`] at a time.
/// Tasks spawned in one call go on in the next.
pub struct LocalRuntime {
    runtime: tokio::runtime::Runtime,
    local: tokio::task::LocalSet,
}

impl std::fmt::Debug for LocalRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalRuntime")
    }
}

impl LocalRuntime {
    /// The `epoll` engine on the current thread.
    ///
    /// # Panics
    /// When the system has no threads or file descriptors left.
    pub fn epoll() -> LocalRuntime {
        LocalRuntime {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("tokio starts where threads and epoll exist"),
            local: tokio::task::LocalSet::new(),
        }
    }

    /// Runs `future` to its end. It need not be `Send`, and may borrow.
    ///
    /// # Panics
    /// When the thread is already run by an engine.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        assert!(
            context::try_current().is_none(),
            "block_on was called on a thread that an engine already runs"
        );
        let _entered = Entered::enter(EngineKind::Epoll);
        self.local.block_on(&self.runtime, future)
    }
}

/// Forgets the engine of the thread when dropped, after a panic too.
struct Entered;

impl Entered {
    fn enter(kind: EngineKind) -> Entered {
        context::enter(kind);
        Entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        context::leave();
    }
}
