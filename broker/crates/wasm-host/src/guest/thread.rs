//! The guest thread itself.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::task::Poll;

use super::lanes::Lanes;
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

/// An instance that waits for its next call.
struct Idle {
    registration: u64,
    instance: Instance,
    last_turn: u64,
}

/// A call that has been begun.
struct Running<'a> {
    registration: u64,
    /// Its lane, by the CPU time that it takes.
    class: usize,
    /// The limit of its instance's memory, in bytes.
    memory_bytes: usize,
    work: Sliced<'a, (Option<Instance>, Called)>,
    /// CPU time of its instance before this call, and up to the last slice, in ns.
    began_ns: u64,
    charged_ns: u64,
    call: Call,
}

impl Running<'_> {
    /// CPU time since it began, in ns.
    fn cpu_ns(&self) -> u64 {
        self.charged_ns - self.began_ns
    }
}

struct Guests<'a> {
    around: &'a Surroundings,
    idle: BTreeMap<TransformKey, Idle>,
    running: BTreeMap<TransformKey, Running<'a>>,
    lanes: Lanes,
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
                    lanes: Lanes::of(config.memory_bytes),
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
            // Their calls went with this thread.
            state
                .transforms
                .values_mut()
                .for_each(|entry| entry.running = false);
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
        let Some(turn) = state.next(&guests.lanes) else {
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
    /// Ends the calls of transforms that are not `here` any more.
    fn stop_running(&mut self, here: impl Fn(&TransformKey, u64) -> bool) {
        let gone = |(key, running): (&TransformKey, &Running<'_>)| {
            (!here(key, running.registration)).then_some(*key)
        };
        let gone: Vec<TransformKey> = self.running.iter().filter_map(gone).collect();
        for key in gone {
            if let Some(running) = self.take(key) {
                drop(running.work);
                running.call.done.send(Err(CallError::Stopped.into()));
            }
        }
    }

    /// Takes the call of `key` out of its lane.
    fn take(&mut self, key: TransformKey) -> Option<Running<'a>> {
        let running = self.running.remove(&key)?;
        self.lanes.end(running.class, running.memory_bytes);
        Some(running)
    }

    /// What runs may grow to its limit whatever happens meanwhile: memory that is short for others must not look like a fault of a record.
    fn put(&mut self, key: TransformKey, running: Running<'a>) {
        self.lanes.begin(running.class, running.memory_bytes);
        self.running.insert(key, running);
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
        let Some(mut running) = self.take(key) else {
            return Served::All;
        };
        let polled = catch_unwind(AssertUnwindSafe(|| running.work.slice()));
        let slice_ns = running.work.spent_ns().saturating_sub(running.charged_ns);
        running.charged_ns += slice_ns;
        let registration = running.registration;
        shared.lock().charge(key, registration, slice_ns);
        let cpu_ns = running.cpu_ns();
        let (called, panicked) = match polled {
            Ok(Poll::Pending) => {
                self.go_on_later(key, running, shared);
                return Served::All;
            }
            Ok(Poll::Ready((instance, called))) => {
                if let Some(instance) = instance {
                    self.keep(key, registration, instance);
                }
                (timed(called, running.call.given_up_ns + cpu_ns), false)
            }
            Err(payload) => (Err(host_failed(&*payload)), true),
        };
        // What the call was given goes before its result is known.
        drop(running.work);
        shared.lock().ended(key, registration, cpu_ns);
        running.call.done.send(called);
        if !panicked {
            return Served::All;
        }
        for (key, running) in std::mem::take(&mut self.running) {
            shared.lock().ended(key, running.registration, 0);
            let error = CallError::Unavailable("the engine failed in another call".to_owned());
            running.call.done.send(Err(error.into()));
        }
        Served::UpToAPanic
    }

    /// Keeps a call that has had a slice: in the lane of longer ones where it has outgrown its own. If that is full, it is given up, and
    /// begun again when it is not.
    fn go_on_later(&mut self, key: TransformKey, mut running: Running<'a>, shared: &Shared) {
        let goes_on = self
            .lanes
            .goes_on(running.class, running.cpu_ns(), running.memory_bytes);
        let class = match goes_on {
            Ok(class) => {
                running.class = class;
                return self.put(key, running);
            }
            Err(class) => class,
        };
        let (cpu_ns, mut call) = (running.cpu_ns(), running.call);
        drop(running.work);
        call.given_up_ns += cpu_ns;
        shared
            .lock()
            .put_back(key, running.registration, class, call);
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
        let (partition, batches) = (begin.call.partition, begin.call.batches.clone());
        let (around, made_of, counts) = (self.around, begin.made_of, meter.clone());
        let work = async move {
            let make = async || make(&made_of, around, counts.clone()).await;
            call_on(found, make, (partition, &batches), &made_of.setup).await
        };
        let running = Running {
            registration: begin.registration,
            class: begin.class,
            memory_bytes,
            work: Sliced::new(meter, &around.ticker, work),
            began_ns,
            charged_ns: began_ns,
            call: begin.call,
        };
        self.put(begin.key, running);
    }

    /// Takes idle instances away until there is a slot and `memory_bytes` of memory for one more, beside what runs.
    fn make_room(&mut self, memory_bytes: usize) {
        let memory_bytes = memory_bytes + self.lanes.bytes();
        let slots = INSTANCES_MAX as usize - 1;
        loop {
            let idle_bytes: usize = self.idle.values().map(|i| i.instance.memory_bytes()).sum();
            let fits = idle_bytes + memory_bytes <= self.around.reservation.limit()
                && self.idle.len() + self.lanes.running() <= slots;
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
