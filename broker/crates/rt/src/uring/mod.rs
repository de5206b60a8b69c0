//! The `uring` engine: everything that says *glommio*.
//!
//! What it works around in glommio 0.9.0: the default pre-empt timer of 100 ms lets one busy task delay wake-ups from other
//! threads by as much; a panicking task aborts the process (caught in [`crate::task::spawn`]); detached
//! tasks are leaked when an executor ends (kept in a list here, and dropped); an `accept` given up loses
//! a connection, and a read timeout of a stream outlives its read (neither is used); the first sleep pays for a
//! process-wide barrier ([`prepare_process`] pays before).

mod file;
mod net;
mod probe;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::{
    Latency, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement, Shares,
    TaskQueueHandle, timer::Timer,
};

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

/// How often a busy task is asked to let others run.
const PREEMPT_TIMER: Duration = Duration::from_micros(500);

/// How long tasks of an urgent queue may wait.
const URGENT_LATENCY: Duration = Duration::from_millis(1);

/// Threads per shard for what io_uring cannot do.
const BLOCKING_THREADS: usize = 2;

type Job = Pin<Box<dyn Future<Output = ()>>>;

/// The place of a task's future: empty while it is polled and once it has ended.
type Slot = Rc<RefCell<Option<Job>>>;

#[derive(Default)]
struct Tasks {
    live: RefCell<BTreeMap<u64, Slot>>,
    next: Cell<u64>,
    closing: Cell<bool>,
}

thread_local! {
    static QUEUES: Cell<Option<[TaskQueueHandle; 3]>> = const { Cell::new(None) };
    static TASKS: Tasks = Tasks::default();
}

/// How often an idle shard wakes by itself. glommio 0.9.0 now and then sleeps through a wake-up from another thread, for
/// ever (docs/adr/0005): with this it is late by so much at most.
const HEARTBEAT: Duration = Duration::from_millis(20);

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
    let result = executor.run(async move {
        let queues = make_queues();
        QUEUES.set(Some(queues));
        TASKS.with(|t| t.closing.set(false));
        start_heartbeat();
        let main = CatchUnwind::new(async move { main(shard).await });
        let result = glommio::spawn_local_into(main, handle(Queue::Kafka))
            .expect("the queue was just made")
            .await;
        drop_tasks();
        QUEUES.set(None);
        result
    });
    drop(executor);
    context::leave();
    match result {
        Ok(v) => v,
        Err(message) => std::panic::resume_unwind(Box::new(message)),
    }
}

/// Wakes this shard every [`HEARTBEAT`] from a thread of its own, which ends with the shard. It has to be another thread: its
/// wake-ups come through the eventfd, which ends glommio's sleep where a timer sometimes does not.
fn start_heartbeat() {
    let slot: Arc<Mutex<Option<Waker>>> = Arc::default();
    let shard = Arc::downgrade(&slot);
    spawn(Queue::Background, async move {
        std::future::poll_fn(|cx| {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    });
    let beat = move || {
        while let Some(slot) = shard.upgrade() {
            if let Some(waker) = &*slot.lock().unwrap_or_else(PoisonError::into_inner) {
                waker.wake_by_ref();
            }
            drop(slot);
            std::thread::sleep(HEARTBEAT);
        }
    };
    let started = std::thread::Builder::new()
        .name("heartbeat".to_owned())
        .spawn(beat);
    if let Err(error) = started {
        tracing::warn!(%error, "no heartbeat: a lost wake-up of the engine would not be noticed");
    }
}

fn make(shards: u16) -> LocalExecutor {
    let made = LocalExecutorBuilder::new(Placement::Unbound)
        .ring_depth(RING_DEPTH)
        .io_memory(io_memory(probe::memlock_limit(), shards))
        .preempt_timer(PREEMPT_TIMER)
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

fn make_queues() -> [TaskQueueHandle; 3] {
    let executor = glommio::executor();
    let urgent = Latency::Matters(URGENT_LATENCY);
    [
        executor.create_task_queue(Shares::Static(1000), urgent, "raft"),
        executor.create_task_queue(Shares::Static(800), urgent, "kafka"),
        executor.create_task_queue(Shares::Static(100), Latency::NotImportant, "background"),
    ]
}

fn handle(queue: Queue) -> TaskQueueHandle {
    let queues = QUEUES.get().expect("queues are made before the first task");
    match queue {
        Queue::Raft => queues[0],
        Queue::Kafka => queues[1],
        Queue::Background => queues[2],
    }
}

/// A task whose future can be dropped from outside.
struct Guarded {
    id: u64,
    slot: Slot,
}

impl Future for Guarded {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Taken out while polled: the future may spawn, or end the shard's other tasks.
        let Some(mut job) = self.slot.borrow_mut().take() else {
            return Poll::Ready(());
        };
        if job.as_mut().poll(cx).is_pending() {
            *self.slot.borrow_mut() = Some(job);
            return Poll::Pending;
        }
        drop(job);
        TASKS.with(|t| t.live.borrow_mut().remove(&self.id));
        Poll::Ready(())
    }
}

pub(crate) fn spawn(queue: Queue, future: impl Future<Output = ()> + 'static) {
    let guarded = TASKS.with(|tasks| {
        if tasks.closing.get() {
            return None;
        }
        let id = tasks.next.get();
        tasks.next.set(id + 1);
        let slot: Slot = Rc::new(RefCell::new(Some(Box::pin(future))));
        tasks.live.borrow_mut().insert(id, slot.clone());
        Some(Guarded { id, slot })
    });
    if let Some(guarded) = guarded {
        let task = glommio::spawn_local_into(guarded, handle(queue));
        task.expect("queues live as long as their executor")
            .detach();
    }
}

/// Drops every task that has not ended. What their destructors spawn is dropped too.
fn drop_tasks() {
    let live = TASKS.with(|tasks| {
        tasks.closing.set(true);
        std::mem::take(&mut *tasks.live.borrow_mut())
    });
    for slot in live.into_values() {
        let job = slot.borrow_mut().take();
        if std::panic::catch_unwind(AssertUnwindSafe(|| drop(job))).is_err() {
            tracing::error!("a task panicked while it was dropped");
        }
    }
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
