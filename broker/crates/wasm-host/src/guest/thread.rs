//! The guest thread itself.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::task::Poll;

use tidemill_rt::mailbox::reply::ReplySender;

use super::{Begin, Call, GuestConfig, Registered, Shared, Turn};
use crate::engine::INSTANCES_MAX;
use crate::instance::{Called, Instance, Surroundings, call_on, timed};
use crate::local::{surroundings, wasi_runtime};
use crate::meter::{Meter, Sliced};
use crate::survival::{self, panic_message};
use crate::sys;
use crate::types::{CallError, FailedCall, TransformKey};

/// Nice value of guest threads: shards take the processor from them as soon as they wake (architecture, section 6.2).
const GUEST_NICE: i32 = 10;

/// Calls begun and not finished, at most.
const RUNNING_MAX: usize = 16;

/// An instance that waits for its next call.
struct Idle {
    registration: u64,
    instance: Instance,
    last_turn: u64,
}

/// A call that has been begun.
struct Running<'a> {
    registration: u64,
    /// The limit of its instance's memory, in bytes.
    memory_bytes: usize,
    work: Sliced<'a, (Option<Instance>, Called)>,
    /// CPU time of its instance before this call, and up to the last slice, in ns.
    began_ns: u64,
    charged_ns: u64,
    done: ReplySender<Called>,
}

struct Guests<'a> {
    around: &'a Surroundings,
    idle: BTreeMap<TransformKey, Idle>,
    running: BTreeMap<TransformKey, Running<'a>>,
    turn: u64,
}

/// Runs calls until no transform is left or the shard is gone.
pub(super) fn run(shared: &Shared, config: &GuestConfig) {
    let _ending = Ending(shared);
    survival::begin();
    sys::set_nice(GUEST_NICE);
    sys::set_cpus(&config.cpus);
    loop {
        let ready = surroundings(config.memory_bytes, shared.stop.clone())
            .and_then(|around| Ok((around, wasi_runtime()?)));
        match ready {
            Ok((around, runtime)) => {
                let _entered = runtime.enter();
                let guests = Guests {
                    around: &around,
                    idle: BTreeMap::new(),
                    running: BTreeMap::new(),
                    turn: 0,
                };
                if serve(shared, guests) == Served::All {
                    return;
                }
            }
            Err(error) => {
                let mut state = shared.lock();
                state.refuse_all(&error);
                // The next call tries again.
                state.thread_runs = false;
                return;
            }
        }
    }
}

/// Why no more calls are served.
#[derive(PartialEq, Eq)]
enum Served {
    /// No transform is left, or the shard is gone.
    All,
    /// A call panicked in the host: nothing of this engine is to be trusted any more.
    UpToAPanic,
}

/// Leaves nobody waiting, even when this thread panics.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if std::thread::panicking() {
            state.refuse_all(&CallError::Stopped);
            state.thread_runs = false;
        }
    }
}

fn serve(shared: &Shared, mut guests: Guests<'_>) -> Served {
    loop {
        let mut state = shared.lock();
        if state.stopping || state.transforms.is_empty() {
            state.thread_runs = false;
            drop(state);
            guests.stop_running(|_, _| false);
            return Served::All;
        }
        let here = |key: &TransformKey, registration: u64| {
            let entry = state.transforms.get(key);
            entry.is_some_and(|e| e.registration == registration)
        };
        guests.idle.retain(|key, idle| here(key, idle.registration));
        guests.stop_running(here);
        let Some(turn) = state.next(|made_of| guests.may_begin(made_of)) else {
            drop(
                shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            );
            continue;
        };
        drop(state);
        if let Served::UpToAPanic = guests.take_turn(turn, shared) {
            return Served::UpToAPanic;
        }
    }
}

/// A bug of ours, not of the records: they are kept and tried again.
fn host_failed(payload: &(dyn std::any::Any + Send)) -> FailedCall {
    let reason = panic_message(payload);
    tracing::error!(
        reason,
        "a call panicked in the host; the engine is started anew"
    );
    CallError::Unavailable(format!("the engine failed: {reason}")).into()
}

impl<'a> Guests<'a> {
    /// Whether memory and slots are there for one more call. What runs may grow to its limit whatever happens meanwhile: memory that is
    /// short for others must not look like a fault of a record.
    fn may_begin(&self, made_of: &Registered) -> bool {
        let memory = self.committed_bytes() + made_of.setup.limits.memory_bytes;
        self.running.is_empty()
            || (self.running.len() < RUNNING_MAX && memory <= self.around.reservation.limit())
    }

    fn committed_bytes(&self) -> usize {
        self.running.values().map(|r| r.memory_bytes).sum()
    }

    /// Ends the calls of transforms that are not `here` any more.
    fn stop_running(&mut self, here: impl Fn(&TransformKey, u64) -> bool) {
        let gone = |(key, running): (&TransformKey, &Running<'_>)| {
            (!here(key, running.registration)).then_some(*key)
        };
        let gone: Vec<TransformKey> = self.running.iter().filter_map(gone).collect();
        for running in gone.iter().filter_map(|key| self.running.remove(key)) {
            drop(running.work);
            running.done.send(Err(CallError::Stopped.into()));
        }
    }

    /// Begins a call or goes on with one, for one slice.
    fn take_turn(&mut self, turn: Turn, shared: &Shared) -> Served {
        let key = match turn {
            Turn::GoOn(key) => key,
            Turn::Begin(begin) => {
                let key = begin.key;
                self.begin(begin);
                key
            }
        };
        let Some(mut running) = self.running.remove(&key) else {
            return Served::All;
        };
        let polled = catch_unwind(AssertUnwindSafe(|| running.work.slice()));
        let spent_ns = running.work.spent_ns();
        let slice_ns = spent_ns.saturating_sub(running.charged_ns);
        running.charged_ns = spent_ns;
        let registration = running.registration;
        shared.lock().charge(key, registration, slice_ns);
        let (called, panicked) = match polled {
            Ok(Poll::Pending) => {
                self.running.insert(key, running);
                return Served::All;
            }
            Ok(Poll::Ready((instance, called))) => {
                if let Some(instance) = instance {
                    self.keep(key, registration, instance);
                }
                (timed(called, spent_ns - running.began_ns), false)
            }
            Err(payload) => (Err(host_failed(&*payload)), true),
        };
        // What the call was given goes before its result is known.
        drop(running.work);
        shared.lock().ended(key, registration);
        running.done.send(called);
        if !panicked {
            return Served::All;
        }
        for (key, running) in std::mem::take(&mut self.running) {
            shared.lock().ended(key, running.registration);
            let error = CallError::Unavailable("the engine failed in another call".to_owned());
            running.done.send(Err(error.into()));
        }
        Served::UpToAPanic
    }

    fn keep(&mut self, key: TransformKey, registration: u64, instance: Instance) {
        self.turn += 1;
        let idle = Idle {
            registration,
            instance,
            last_turn: self.turn,
        };
        self.idle.insert(key, idle);
    }

    fn begin(&mut self, begin: Begin) {
        let found = self.idle.remove(&begin.key).map(|idle| idle.instance);
        let memory_bytes = begin.made_of.setup.limits.memory_bytes;
        self.make_room(memory_bytes);
        let meter = found.as_ref().map_or_else(Meter::default, Instance::meter);
        let began_ns = meter.spent_ns();
        let Call {
            partition,
            batches,
            done,
        } = begin.call;
        let (around, made_of, counts) = (self.around, begin.made_of, meter.clone());
        let work = async move {
            let make = async || make(&made_of, around, counts.clone()).await;
            call_on(found, make, (partition, &batches), &made_of.setup).await
        };
        let running = Running {
            registration: begin.registration,
            memory_bytes,
            work: Sliced::new(meter, &around.ticker, work),
            began_ns,
            charged_ns: began_ns,
            done,
        };
        self.running.insert(begin.key, running);
    }

    /// Takes idle instances away until there is a slot and `memory_bytes` of memory for one more, beside what runs.
    fn make_room(&mut self, memory_bytes: usize) {
        let memory_bytes = memory_bytes + self.committed_bytes();
        let slots = INSTANCES_MAX as usize - 1;
        loop {
            let idle_bytes: usize = self.idle.values().map(|i| i.instance.memory_bytes()).sum();
            let fits = idle_bytes + memory_bytes <= self.around.reservation.limit()
                && self.idle.len() + self.running.len() <= slots;
            let longest_idle = self.idle.iter().min_by_key(|(_, idle)| idle.last_turn);
            let Some(longest_idle) = longest_idle.map(|(key, _)| *key).filter(|_| !fits) else {
                return;
            };
            self.idle.remove(&longest_idle);
        }
    }
}

async fn make(
    made_of: &Registered,
    around: &Surroundings,
    meter: Meter,
) -> Result<Instance, FailedCall> {
    let module = made_of
        .module
        .loaded(around.linkers.engine())
        .map_err(|e| CallError::Unavailable(format!("{e:#}")))?;
    Instance::new(&module, &made_of.setup, around, meter).await
}
