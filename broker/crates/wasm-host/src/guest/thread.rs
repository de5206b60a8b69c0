//! The guest thread itself.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::{Call, GuestConfig, Registered, Shared};
use crate::engine::INSTANCES_MAX;
use crate::instance::{Called, Instance, Surroundings};
use crate::local::{surroundings, wasi_runtime};
use crate::sys;
use crate::types::{CallError, TransformKey};

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
    sys::set_nice(GUEST_NICE);
    sys::set_cpus(&config.cpus);
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
            serve(shared, guests);
        }
        Err(error) => {
            let mut state = shared.lock();
            state.refuse_all(&error);
            // The next call tries again.
            state.thread_runs = false;
        }
    }
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

fn serve(shared: &Shared, mut guests: Guests<'_>) {
    loop {
        let mut state = shared.lock();
        if state.stopping || state.transforms.is_empty() {
            state.thread_runs = false;
            return;
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
        let called = guests.call(key, registration, &made_of, &batches);
        drop(batches);
        shared
            .lock()
            .charge(key, registration, called.cpu_ns, called.logs);
        done.send(called.result.map(|mut output| {
            output.cpu_ns = called.cpu_ns;
            output
        }));
    }
}

impl Guests<'_> {
    fn call(
        &mut self,
        key: TransformKey,
        registration: u64,
        made_of: &Registered,
        batches: &[crate::types::InputBatch],
    ) -> Called {
        self.turn += 1;
        let began = sys::thread_cpu_ns();
        let mut instance = match self.instance(key, made_of) {
            Ok(instance) => instance,
            Err(error) => {
                return Called {
                    result: Err(error),
                    cpu_ns: sys::thread_cpu_ns() - began,
                    logs: Vec::new(),
                };
            }
        };
        let called = instance.call(batches, &made_of.setup, self.around);
        if called.result.is_ok() {
            let idle = Idle {
                registration,
                instance,
                last_turn: self.turn,
            };
            self.idle.insert(key, idle);
        }
        called
    }

    /// The idle instance of `key` or a new one, with room to grow to its limit if the reservation allows that at all.
    fn instance(&mut self, key: TransformKey, made_of: &Registered) -> Result<Instance, CallError> {
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
