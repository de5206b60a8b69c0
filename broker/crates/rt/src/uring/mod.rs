//! The `uring` engine: everything that says *glommio*.
//!
//! What it works around in glommio 0.9.0: it sleeps with tasks left to run, leaks tasks that outlive their executor and
//! aborts when one panics (so tasks run in [`exec`], and glommio has one task only); an `accept` given up loses a connection,
//! and a read timeout of a stream outlives its read (neither is used); the first sleep pays for a process-wide barrier
//! ([`prepare_process`] pays before).

mod exec;
mod file;
mod net;
mod probe;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement, timer::Timer};

use crate::context::{self, EngineKind};
use crate::task::{CatchUnwind, Queue};

pub(crate) use file::UringFile;
pub(crate) use net::{UringListener, UringStream};
pub(crate) use probe::probe;

/// Entries of each of glommio's three rings. Requests beyond wait in user space.
const RING_DEPTH: usize = 128;

/// Memory for direct I/O registered with the kernel, per shard, in bytes. What does not fit comes from the heap.
const IO_MEMORY_MAX: u64 = 1 << 20;

/// The least that is registered, in bytes.
const IO_MEMORY_MIN: u64 = 64 << 10;

/// glommio's pre-empt timer: so long that it never fires. An event between glommio's last look at its rings and the first task
/// makes it sleep with that task left to run, and this timer was such an event (docs/adr/0005).
const NO_PREEMPT_TIMER: Duration = Duration::from_secs(24 * 60 * 60);

/// Threads per shard for what io_uring cannot do.
const BLOCKING_THREADS: usize = 2;

/// Registers the process for the barriers that glommio sleeps with. Done while the process has few threads it takes no time; left to
/// the first sleep it makes that one late by tens of ms.
pub(crate) fn prepare_process() {
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
    #[allow(unsafe_code, reason = "membarrier has no safe binding")]
    // SAFETY: membarrier(2) with this command reads and writes no memory of ours. A refusal is harmless: glommio then uses
    // another kind of barrier.
    unsafe {
        libc::syscall(libc::SYS_membarrier, REGISTER_PRIVATE_EXPEDITED, 0, 0);
    }
}

/// Runs `main(shard)` to its end on an executor of the current thread, then drops the tasks that are left.
pub(crate) fn run<T, F, Fut>(shard: u16, shards: u16, cpu: Option<usize>, main: F) -> T
where
    T: Send + 'static,
    F: Fn(u16) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let executor = make(shards);
    // Only now, so that the executor's helper threads are not bound to the same processor.
    if let Some(cpu) = cpu {
        crate::runtime::pin_to(cpu);
    }
    context::enter(EngineKind::Uring);
    let result = executor
        .run(async move { exec::run(CatchUnwind::new(async move { main(shard).await })).await });
    drop(executor);
    context::leave();
    match result {
        Ok(v) => v,
        Err(message) => std::panic::resume_unwind(Box::new(message)),
    }
}

fn make(shards: u16) -> LocalExecutor {
    let made = LocalExecutorBuilder::new(Placement::Unbound)
        .ring_depth(RING_DEPTH)
        .io_memory(io_memory(probe::memlock_limit(), shards))
        .preempt_timer(NO_PREEMPT_TIMER)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
        .make();
    match made {
        Ok(executor) => executor,
        Err(e) => panic!(
            "io_uring was usable a moment ago and now refuses ({e}); start with --runtime epoll"
        ),
    }
}

/// Bytes to register per shard, so that all shards together stay below half of `memlock`: each registers them with three
/// rings, and every ring counts.
fn io_memory(memlock: Option<u64>, shards: u16) -> usize {
    const RINGS: u64 = 3;
    let each = match memlock {
        None => IO_MEMORY_MAX,
        Some(limit) => limit / 2 / RINGS / u64::from(shards.max(1)),
    };
    let pages = each.clamp(IO_MEMORY_MIN, IO_MEMORY_MAX) / 4096;
    (pages * 4096) as usize
}

pub(crate) fn spawn(queue: Queue, future: impl Future<Output = ()> + 'static) {
    exec::spawn(queue, future);
}

/// Runs `f` on one of the executor's helper threads; a panic of `f` goes on here.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let caught = move || std::panic::catch_unwind(AssertUnwindSafe(f));
    match glommio::executor().spawn_blocking(caught).await {
        Ok(v) => v,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Sleeps, counted from the call.
pub(crate) struct UringSleep(Timer);

pub(crate) fn sleep(d: Duration) -> UringSleep {
    UringSleep(Timer::new(d))
}

impl Future for UringSleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::{IO_MEMORY_MAX, IO_MEMORY_MIN, io_memory};

    #[test]
    fn registered_memory_stays_within_the_limit() {
        assert_eq!(io_memory(None, 64), IO_MEMORY_MAX as usize);
        assert_eq!(io_memory(Some(8 << 20), 1), IO_MEMORY_MAX as usize);
        assert_eq!(io_memory(Some(512 << 10), 64), IO_MEMORY_MIN as usize);
        for shards in 1..16 {
            let total = io_memory(Some(8 << 20), shards) * 3 * usize::from(shards);
            assert!(total <= 4 << 20, "{shards} shards take {total}");
        }
    }
}
