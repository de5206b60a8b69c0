//! The executor of a simulation: tasks, timers, the choice of what runs next.

#![allow(
    clippy::disallowed_types,
    reason = "a Waker must be Send and Sync, though only one thread runs here"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::Stopped;
use super::disk::Disk;
use super::rng::{self, Rng};
use crate::context::{self, EngineKind};
use crate::time::Instant;

type Job = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Debug, Default)]
struct Ready(Mutex<Vec<u64>>);

impl Ready {
    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes one task; puts it into the ready list once, however often it is called before the task runs.
#[derive(Debug)]
struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().push(self.id);
        }
    }
}

struct Task {
    /// `None` while the task is being polled.
    job: Option<Job>,
    flag: Arc<TaskWaker>,
}

/// One simulated machine.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) disk: Rc<RefCell<Disk>>,
    pub(crate) steps_max: Cell<u64>,
    pub(crate) crash_at_step: Cell<Option<u64>>,
    pub(crate) crash_at_disk_step: Cell<Option<u64>>,
    /// Set from the moment of a crash until the machine is up again: nothing reaches the disk meanwhile.
    pub(crate) power_out: Cell<bool>,
    now: Cell<u64>,
    step: Cell<u64>,
    disk_step: Cell<u64>,
    trace: Cell<u64>,
    closing: Cell<bool>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Arc<Ready>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    next_id: Cell<u64>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The simulation that runs on this thread.
pub(crate) fn current() -> Rc<World> {
    CURRENT
        .with(|c| c.borrow().clone())
        .expect("a thread run by sim has a simulation")
}

/// Marks the thread as run by a simulation until dropped.
pub(crate) struct Inside(());

impl Inside {
    pub(crate) fn enter(world: &Rc<World>) -> Inside {
        CURRENT.with(|c| {
            let mut current = c.borrow_mut();
            assert!(
                current.is_none(),
                "a simulation already runs on this thread"
            );
            *current = Some(world.clone());
        });
        context::enter(EngineKind::Sim);
        Inside(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        context::leave();
        let world = CURRENT.with(|c| c.borrow_mut().take());
        if let Some(world) = world
            && std::thread::panicking()
        {
            eprintln!(
                "simulation: seed {} failed at step {}",
                world.seed,
                world.step.get()
            );
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        World {
            seed,
            rng: RefCell::new(Rng::new(seed)),
            disk: Rc::new(RefCell::new(Disk::new())),
            steps_max: Cell::new(super::STEPS_MAX),
            crash_at_step: Cell::new(None),
            crash_at_disk_step: Cell::new(None),
            power_out: Cell::new(false),
            now: Cell::new(0),
            step: Cell::new(0),
            disk_step: Cell::new(0),
            trace: Cell::new(seed),
            closing: Cell::new(false),
            tasks: RefCell::new(BTreeMap::new()),
            ready: Arc::default(),
            timers: RefCell::new(BTreeMap::new()),
            next_id: Cell::new(0),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    pub(crate) fn step(&self) -> u64 {
        self.step.get()
    }

    pub(crate) fn disk_step(&self) -> u64 {
        self.disk_step.get()
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.trace.get()
    }

    /// Mixes `value` into the trace.
    pub(crate) fn note(&self, value: u64) {
        self.trace
            .set(rng::mix(self.trace.get().rotate_left(7) ^ value));
    }

    /// Counts one step of the disk, at which the planned crash may happen. False when the power is out.
    pub(crate) fn count_disk_step(&self) -> bool {
        if self.power_out.get() {
            return false;
        }
        let step = self.disk_step.get() + 1;
        self.disk_step.set(step);
        if self.crash_at_disk_step.get().is_some_and(|at| step >= at) {
            self.power_out.set(true);
        }
        !self.power_out.get()
    }

    pub(crate) fn spawn(&self, job: Job) {
        if self.closing.get() {
            return; // dropped: the machine is going down
        }
        let flag = self.new_waker();
        let task = Task {
            job: Some(job),
            flag: flag.clone(),
        };
        self.tasks.borrow_mut().insert(flag.id, task);
        flag.wake_by_ref();
    }

    /// Runs tasks until `main` ends or something stops the simulation.
    pub(crate) fn drive<F: Future>(&self, mut main: Pin<&mut F>) -> Result<F::Output, Stopped> {
        let flag = self.new_waker();
        let waker = Waker::from(flag.clone());
        flag.wake_by_ref();
        loop {
            let Some(next) = self.pick() else {
                if self.advance() {
                    continue;
                }
                return Err(Stopped::Deadlock {
                    seed: self.seed,
                    step: self.step(),
                });
            };
            self.begin_step(next)?;
            if next == flag.id {
                flag.queued.store(false, Ordering::Relaxed);
                let polled = main.as_mut().poll(&mut Context::from_waker(&waker));
                if let (Poll::Ready(v), false) = (polled, self.power_out.get()) {
                    return Ok(v);
                }
            } else {
                self.poll_task(next);
            }
            if self.power_out.get() {
                return Err(Stopped::Crashed {
                    seed: self.seed,
                    step: self.step(),
                });
            }
        }
    }

    /// Drops all tasks and timers. What their destructors spawn is dropped too.
    pub(crate) fn drop_tasks(&self) {
        self.closing.set(true);
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        drop(tasks);
        let timers = std::mem::take(&mut *self.timers.borrow_mut());
        drop(timers);
        self.ready.lock().clear();
        self.closing.set(false);
    }

    fn new_waker(&self) -> Arc<TaskWaker> {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        Arc::new(TaskWaker {
            id,
            queued: AtomicBool::new(false),
            ready: self.ready.clone(),
        })
    }

    fn pick(&self) -> Option<u64> {
        let mut ready = self.ready.lock();
        if ready.is_empty() {
            return None;
        }
        let index = self.rng.borrow_mut().below(ready.len() as u64) as usize;
        Some(ready.swap_remove(index))
    }

    fn begin_step(&self, task: u64) -> Result<(), Stopped> {
        let step = self.step.get() + 1;
        self.step.set(step);
        self.note(task);
        if self.crash_at_step.get().is_some_and(|at| step >= at) {
            self.power_out.set(true);
            return Err(Stopped::Crashed {
                seed: self.seed,
                step,
            });
        }
        if step >= self.steps_max.get() {
            return Err(Stopped::StepLimit {
                seed: self.seed,
                step,
            });
        }
        Ok(())
    }

    fn poll_task(&self, id: u64) {
        let taken = {
            let mut tasks = self.tasks.borrow_mut();
            tasks
                .get_mut(&id)
                .and_then(|t| Some((t.job.take()?, t.flag.clone())))
        };
        let Some((mut job, flag)) = taken else {
            return; // a waker outlived its task
        };
        flag.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(flag);
        if job
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            self.tasks.borrow_mut().remove(&id);
            drop(job);
        } else if let Some(task) = self.tasks.borrow_mut().get_mut(&id) {
            task.job = Some(job);
        }
    }

    /// Lets time jump to the next timer. False when there is none.
    fn advance(&self) -> bool {
        let due = {
            let mut timers = self.timers.borrow_mut();
            let Some(((at, _), _)) = timers.first_key_value() else {
                return false;
            };
            let at = *at;
            self.now.set(self.now.get().max(at));
            let later = timers.split_off(&(at + 1, 0));
            std::mem::replace(&mut *timers, later)
        };
        due.into_values().for_each(Waker::wake);
        true
    }
}

/// Random bytes from the seed.
pub(crate) fn fill_random(buf: &mut [u8]) {
    let world = current();
    world.rng.borrow_mut().fill(buf);
    world.note(rng::hash(buf));
}

/// Sleeps in virtual time.
pub(crate) struct SimSleep {
    world: Weak<World>,
    deadline: u64,
    key: Option<(u64, u64)>,
}

impl SimSleep {
    pub(crate) fn until(deadline: Instant) -> SimSleep {
        SimSleep {
            world: Rc::downgrade(&current()),
            // The last instant is kept free, so that "just after" every deadline exists.
            deadline: deadline.as_nanos().min(u64::MAX - 1),
            key: None,
        }
    }

    fn cancel(&mut self) {
        if let (Some(key), Some(world)) = (self.key.take(), self.world.upgrade()) {
            let waker = world.timers.borrow_mut().remove(&key);
            drop(waker);
        }
    }
}

impl Future for SimSleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(world) = self.world.upgrade() else {
            return Poll::Pending; // its simulation is gone
        };
        if world.now() >= self.deadline {
            self.cancel();
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or_else(|| {
            let number = world.next_id.get();
            world.next_id.set(number + 1);
            (self.deadline, number)
        });
        self.key = Some(key);
        world.timers.borrow_mut().insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        self.cancel();
    }
}
