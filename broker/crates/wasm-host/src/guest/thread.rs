//! The guest thread itself.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

use super::{Call, GuestConfig, Registered, Shared};
use crate::engine::INSTANCES_MAX;
use crate::instance::{Called, Instance, Surroundings, timed};
use crate::local::{surroundings, wasi_runtime};
use crate::survival::{self, panic_message};
use crate::sys;
use crate::types::{CallError, FailedCall, InputBatch, TransformKey};

/// Nice value of guest threads: shards take the processor from them as soon as they wake (architecture, section 6.2).
const GUEST_NICE: i32 = 10;

/// An instance that waits for its next call.
struct Idle {
    registration: u64,
    instance: Instance,
    last_turn: u64,
}

struct Guests<'a> {
    around: &'a Surroundings,
    idle: BTreeMap<TransformKey, Idle>,
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
            return Served::All;
        }
        guests.idle.retain(|key, idle| {
            state
                .transforms
                .get(key)
                .is_some_and(|e| e.registration == idle.registration)
        });
        let Some((key, registration, made_of, call)) = state.next() else {
            drop(
                shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            );
            continue;
        };
        drop(state);
        let Call { batches, done } = call;
        let call = || guests.call(key, registration, &made_of, &batches);
        let (called, panicked) = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(called) => (called, false),
            Err(payload) => (Err(host_failed(&*payload)), true),
        };
        drop(batches);
        let cpu_ns = match &called {
            Ok(output) => output.cpu_ns,
            Err(failed) => failed.cpu_ns,
        };
        shared.lock().charge(key, registration, cpu_ns);
        done.send(called);
        if panicked {
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

impl Guests<'_> {
    fn call(
        &mut self,
        key: TransformKey,
        registration: u64,
        made_of: &Registered,
        batches: &[InputBatch],
    ) -> Called {
        self.turn += 1;
        let began = sys::thread_cpu_ns();
        let called = self.instance(key, made_of).and_then(|mut instance| {
            let output = instance.call(batches, &made_of.setup, self.around)?;
            let idle = Idle {
                registration,
                instance,
                last_turn: self.turn,
            };
            self.idle.insert(key, idle);
            Ok(output)
        });
        timed(called, sys::thread_cpu_ns() - began)
    }

    /// The idle instance of `key` or a new one, with room to grow to its limit if the reservation allows that at all.
    fn instance(
        &mut self,
        key: TransformKey,
        made_of: &Registered,
    ) -> Result<Instance, FailedCall> {
        let found = self.idle.remove(&key).map(|idle| idle.instance);
        let slots = INSTANCES_MAX as usize - 1;
        while !self.idle.is_empty()
            && (self.idle.len() > slots
                || self.around.reservation.free() < made_of.setup.limits.memory_bytes)
        {
            let longest_idle = self.idle.iter().min_by_key(|(_, idle)| idle.last_turn);
            let longest_idle = *longest_idle.expect("it is not empty").0;
            self.idle.remove(&longest_idle);
        }
        match found {
            Some(instance) => Ok(instance),
            None => {
                let component = made_of
                    .module
                    .component(self.around.linker.engine())
                    .map_err(|e| CallError::Unavailable(format!("{e:#}")))?;
                Instance::new(&component, &made_of.setup, self.around)
            }
        }
    }
}
