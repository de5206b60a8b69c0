//! A shard's guest thread and the shard's handle on it.

#![allow(
    clippy::disallowed_types,
    reason = "the guest thread and its shard meet here"
)]

mod lanes;
mod thread;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tidemill_rt::mailbox::reply::{ReplySender, reply};

use self::lanes::{CLASSES, Lanes};
use crate::engine::THREAD_STACK_BYTES;
use crate::factory::{Factory, Module};
use crate::instance::Setup;
use crate::types::{
    CallError, CallOutput, FailedCall, InputBatch, Limits, OutputTopic, TransformKey,
};

/// Calls of one transform that wait for a guest thread, at most.
const CALLS_WAITING_MAX: usize = 64;

/// How a guest thread runs.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// The thread's name, up to 15 bytes.
    pub name: String,
    /// Processors it may run on; any when empty.
    pub cpus: Vec<usize>,
    /// Memory that its instances share, in bytes.
    pub memory_bytes: usize,
}

/// The shard's handle on its guest thread. Clones share it; when the last one goes, the thread ends within a tick.
#[derive(Clone)]
pub struct Guest(Rc<Handle>);

struct Handle {
    config: GuestConfig,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

/// What shard and guest thread share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Ends the running call.
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    transforms: BTreeMap<TransformKey, Entry>,
    /// What the transform whose call was picked last had used. It never falls, and who had nothing to do begins here: unused time is not
    /// saved up, neither by a new transform nor by an idle one.
    virtual_time: u64,
    registrations: u64,
    waiting: usize,
    /// Calls given up so far: they were longer than the place that they held allowed.
    given_up: u64,
    thread_runs: bool,
    stopping: bool,
}

/// A registered transform.
struct Entry {
    /// Tells a registration from an earlier one under the same key.
    registration: u64,
    made_of: Arc<Registered>,
    calls: VecDeque<Call>,
    /// Whether a call has been begun and not been finished.
    running: bool,
    /// The lane that its next call begins in.
    class: usize,
    weight: u64,
    /// CPU time used, in ns, divided by weight: the smallest is next.
    used: u64,
}

/// Whose turn it is.
enum Turn {
    /// The call of this transform that was begun goes on.
    GoOn(TransformKey),
    /// A call is begun.
    Begin(Begin),
}

/// A call to be begun.
struct Begin {
    key: TransformKey,
    registration: u64,
    made_of: Arc<Registered>,
    class: usize,
    call: Call,
}

struct Registered {
    module: Module,
    setup: Setup,
}

struct Call {
    partition: i32,
    batches: Arc<[InputBatch]>,
    done: ReplySender<Result<CallOutput, FailedCall>>,
    /// CPU time that was spent when it was given up, in ns.
    given_up_ns: u64,
}

impl Guest {
    /// A guest without a thread yet: the first registration starts it. `_factory` makes the modules it will be given.
    pub fn start(_factory: &Factory, config: GuestConfig) -> Guest {
        let shared = Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: Arc::default(),
        };
        Guest(Rc::new(Handle {
            config,
            shared: Arc::new(shared),
        }))
    }

    /// Makes `key` stand for `module` with this environment (see [`crate::guest_env`]), these limits and these outputs. Calls under
    /// the same key that wait or run are answered [`CallError::Stopped`]. The instance is made at the first call, which also says when
    /// that fails.
    pub fn register(
        &self,
        key: TransformKey,
        module: Module,
        env: Vec<(String, String)>,
        limits: Limits,
        outputs: Vec<OutputTopic>,
    ) {
        let made_of = Registered {
            module,
            setup: Setup {
                env,
                limits,
                outputs,
            },
        };
        let mut state = self.0.shared.lock();
        state.register(key, made_of);
        self.ensure_thread(&mut state);
        self.0.shared.changed.notify_one();
    }

    /// Forgets `key`; calls that wait or run are answered [`CallError::Stopped`]. The last transform takes the thread and
    /// the engine's memory with it.
    pub fn unregister(&self, key: TransformKey) {
        self.0.shared.lock().remove(key);
        self.0.shared.changed.notify_one();
    }

    /// Gives `key` this share of the thread relative to others, which have 1.
    pub fn set_weight(&self, key: TransformKey, weight: u32) {
        if let Some(entry) = self.0.shared.lock().transforms.get_mut(&key) {
            entry.weight = u64::from(weight.max(1));
        }
    }

    /// Runs `key` over `batches`, which come from the input's partition `partition`. Queued at the call; calls of one key run in the order they were made.
    ///
    /// # Errors
    /// [`CallError`], with what the guest logged; [`CallError::Stopped`] also when `key` is not registered.
    pub fn call(
        &self,
        key: TransformKey,
        partition: i32,
        batches: Vec<InputBatch>,
    ) -> impl Future<Output = Result<CallOutput, FailedCall>> + use<> {
        let (done, answer) = reply();
        let call = Call {
            partition,
            batches: batches.into(),
            done,
            given_up_ns: 0,
        };
        self.enqueue(key, call);
        async move {
            let answer = answer.recv().await;
            answer.unwrap_or_else(|| Err(CallError::Stopped.into()))
        }
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.0.shared.lock().waiting
    }

    /// Calls that were given up so far, to be begun again.
    pub fn given_up(&self) -> u64 {
        self.0.shared.lock().given_up
    }

    /// Whether there is a thread, and with it memory of the engine.
    pub fn is_running(&self) -> bool {
        self.0.shared.lock().thread_runs
    }

    fn enqueue(&self, key: TransformKey, call: Call) {
        let mut state = self.0.shared.lock();
        if !state.push(key, call) {
            return;
        }
        self.ensure_thread(&mut state);
        self.0.shared.changed.notify_one();
    }

    fn ensure_thread(&self, state: &mut State) {
        if state.thread_runs || state.transforms.is_empty() {
            return;
        }
        let (shared, config) = (self.0.shared.clone(), self.0.config.clone());
        let started = std::thread::Builder::new()
            .name(config.name.clone())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || thread::run(&shared, &config));
        match started {
            Ok(_) => state.thread_runs = true,
            Err(e) => state.refuse_all(&CallError::Unavailable(format!("no guest thread: {e}"))),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        state.refuse_all(&CallError::Stopped);
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.changed.notify_one();
    }
}

impl Entry {
    /// What its instance may grow to, in bytes.
    fn memory_bytes(&self) -> usize {
        self.made_of.setup.limits.memory_bytes
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn register(&mut self, key: TransformKey, made_of: Registered) {
        self.remove(key);
        self.registrations += 1;
        let entry = Entry {
            registration: self.registrations,
            made_of: Arc::new(made_of),
            calls: VecDeque::new(),
            running: false,
            class: 0,
            weight: 1,
            used: self.virtual_time,
        };
        self.transforms.insert(key, entry);
    }

    /// Queues a call; `false` when `key` is not registered, or has too many of them.
    fn push(&mut self, key: TransformKey, call: Call) -> bool {
        let Some(entry) = self.transforms.get_mut(&key) else {
            return false;
        };
        let waiting = entry.calls.len();
        if waiting >= CALLS_WAITING_MAX {
            call.done.send(Err(CallError::Busy(waiting).into()));
            return false;
        }
        if entry.calls.is_empty() && !entry.running {
            entry.used = entry.used.max(self.virtual_time);
        }
        entry.calls.push_back(call);
        self.waiting += 1;
        true
    }

    fn remove(&mut self, key: TransformKey) {
        if let Some(entry) = self.transforms.remove(&key) {
            self.waiting -= entry.calls.len();
            for call in entry.calls {
                call.done.send(Err(CallError::Stopped.into()));
            }
        }
    }

    fn refuse_all(&mut self, error: &CallError) {
        for entry in self.transforms.values_mut() {
            for call in entry.calls.drain(..) {
                call.done.send(Err(error.clone().into()));
            }
        }
        self.waiting = 0;
    }

    /// Whose turn it is.
    fn next(&mut self, lanes: &Lanes) -> Option<Turn> {
        let key = self.due(lanes)?;
        let entry = self.transforms.get_mut(&key)?;
        self.virtual_time = self.virtual_time.max(entry.used);
        if entry.running {
            return Some(Turn::GoOn(key));
        }
        let call = entry.calls.pop_front()?;
        entry.running = true;
        self.waiting -= 1;
        Some(Turn::Begin(Begin {
            key,
            registration: entry.registration,
            made_of: entry.made_of.clone(),
            class: entry.class,
            call,
        }))
    }

    /// Of the transforms that have something to do, the one that has used the least; of those before it, none may begin now. Behind one
    /// that waits for calls of some class to end, none of that class or of a longer one begins: it would wait for ever.
    fn due(&self, lanes: &Lanes) -> Option<TransformKey> {
        let busy = |(_, e): &(&TransformKey, &Entry)| e.running || !e.calls.is_empty();
        let ready = || self.transforms.iter().filter(busy);
        let (key, least) = ready().min_by_key(|(_, e)| e.used)?;
        if least.running || lanes.admits(least.class, least.memory_bytes()).is_ok() {
            return Some(*key);
        }
        let mut by_use: Vec<(&TransformKey, &Entry)> = ready().collect();
        by_use.sort_by_key(|(_, e)| e.used);
        let mut closed = CLASSES;
        for (key, entry) in by_use {
            if entry.running {
                return Some(*key);
            }
            match lanes.admits(entry.class, entry.memory_bytes()) {
                Ok(()) if entry.class < closed => return Some(*key),
                Err(blocked) => closed = closed.min(blocked.closes),
                Ok(()) => {}
            }
        }
        None
    }

    /// A call of `key` has ended, which took `cpu_ns` of CPU time, in ns.
    fn ended(&mut self, key: TransformKey, registration: u64, cpu_ns: u64) {
        if let Some(entry) = self.registered(key, registration) {
            entry.running = false;
            entry.class = lanes::class_after(entry.class, cpu_ns);
        }
    }

    /// A call of `key` that has begun was given up: it is the first to begin again, as one of `class`.
    fn put_back(&mut self, key: TransformKey, registration: u64, class: usize, call: Call) {
        self.given_up += 1;
        let Some(entry) = self.registered(key, registration) else {
            return call.done.send(Err(CallError::Stopped.into()));
        };
        entry.running = false;
        entry.class = class;
        entry.calls.push_front(call);
        self.waiting += 1;
    }

    fn registered(&mut self, key: TransformKey, registration: u64) -> Option<&mut Entry> {
        let entry = self.transforms.get_mut(&key);
        entry.filter(|e| e.registration == registration)
    }

    fn charge(&mut self, key: TransformKey, registration: u64, cpu_ns: u64) {
        if let Some(entry) = self.registered(key, registration) {
            let used = (cpu_ns / entry.weight).max(1);
            entry.used = entry.used.saturating_add(used);
        }
    }
}

#[cfg(test)]
mod tests;
