//! The clock that makes running guests look at their budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::Engine;

/// How often a running guest looks at its budget.
const TICK: Duration = Duration::from_millis(5);
/// After so many ticks without a call the thread sleeps until the next one, so that short calls do not wake it each time.
const IDLE_TICKS_MAX: u32 = 20;
/// The thread does next to nothing.
const STACK_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Flags {
    busy: AtomicBool,
    parked: AtomicBool,
    ended: AtomicBool,
}

/// A thread that raises its engine's epoch every 5 ms while calls run.
pub(crate) struct Ticker {
    flags: Arc<Flags>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts it for `engine`.
    pub(crate) fn start(engine: Engine) -> std::io::Result<Ticker> {
        let flags = Arc::new(Flags::default());
        let shared = flags.clone();
        let thread = std::thread::Builder::new()
            .name("guest-ticker".into())
            .stack_size(STACK_BYTES)
            .spawn(move || tick(&engine, &shared))?;
        Ok(Ticker {
            flags,
            thread: Some(thread),
        })
    }

    /// A call begins.
    pub(crate) fn begin(&self) {
        self.flags.busy.store(true, Ordering::SeqCst);
        if self.flags.parked.load(Ordering::SeqCst) {
            self.unpark();
        }
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        self.flags.busy.store(false, Ordering::SeqCst);
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.flags.ended.store(true, Ordering::SeqCst);
        self.unpark();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tick(engine: &Engine, flags: &Flags) {
    let mut idle = 0;
    while !flags.ended.load(Ordering::SeqCst) {
        std::thread::park_timeout(TICK);
        if flags.busy.load(Ordering::SeqCst) {
            idle = 0;
            engine.increment_epoch();
            continue;
        }
        idle += 1;
        if idle > IDLE_TICKS_MAX {
            flags.parked.store(true, Ordering::SeqCst);
            while !flags.busy.load(Ordering::SeqCst) && !flags.ended.load(Ordering::SeqCst) {
                std::thread::park();
            }
            flags.parked.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}
