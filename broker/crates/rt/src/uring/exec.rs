//! The tasks of a shard on io_uring: run queues of our own, inside the one task that glommio sees.
//!
//! glommio 0.9.0 goes to sleep with tasks left to run when an event arrives between its last look at its rings and the first
//! task of a round (its pre-empt timer is such an event, and on a crowded machine it often fires before the thread gets the
//! processor back). So no task of ours is a task of glommio: its only one is [`Main`], which runs ours in slices, and no
//! pre-empt timer is left that could fire (docs/adr/0005). Between slices glommio polls its rings.

#![allow(
    clippy::disallowed_types,
    reason = "wakers come from any thread: this is where they meet the shard"
)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use glommio::timer::Timer;

use crate::task::Queue;
use crate::time::Instant;

/// How long tasks run before the rings are polled again: what a disk or a socket may wait for while there is always
/// something to run.
const SLICE: Duration = Duration::from_micros(200);

/// Shares of the processor of the queues while all have something to run: Raft, Kafka, Background.
const SHARES: [u64; 3] = [10, 8, 1];

type Job = Pin<Box<dyn Future<Output = ()>>>;

/// What other threads see of a shard's executor.
struct Home {
    inbox: Mutex<Inbox>,
    /// Whether [`Main`] was told that the inbox is not empty.
    told: AtomicBool,
}

struct Inbox {
    woken: Vec<Arc<TaskWaker>>,
    /// Wakes [`Main`]; `None` before its first turn.
    main: Option<Waker>,
    /// The executor is gone; nothing is taken any more.
    ended: bool,
}

impl Home {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a task into the inbox, from another thread.
    fn post(&self, task: Arc<TaskWaker>) {
        let mut inbox = self.lock();
        if inbox.ended {
            return;
        }
        inbox.woken.push(task);
        if self.told.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(main) = &inbox.main {
            main.wake_by_ref();
            // glommio puts the waker into a channel and then looks, relaxed, whether the shard sleeps. Processors that may
            // swap the two need a barrier between the channel and a second look.
            if cfg!(not(target_arch = "x86_64")) {
                std::sync::atomic::fence(Ordering::SeqCst);
                main.wake_by_ref();
            }
        }
    }
}

/// Wakes one task: queues it once, however often it is called before the task runs.
struct TaskWaker {
    home: Arc<Home>,
    place: usize,
    generation: u64,
    queue: Queue,
    queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        match Exec::of(&self.home) {
            Some(exec) => exec.wake_here(self.clone()),
            None => self.home.post(self.clone()),
        }
    }
}

/// A place for a task.
#[derive(Default)]
struct Place {
    generation: u64,
    /// Empty while the task is polled, and when there is none.
    job: Option<Job>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Tasks {
    places: Vec<Place>,
    free: Vec<usize>,
}

/// The tasks that can run.
#[derive(Default)]
struct Ready {
    queues: [VecDeque<Arc<TaskWaker>>; 3],
    /// Nanoseconds that a queue ran, divided by its share: the least is next.
    used: [u64; 3],
}

impl Ready {
    fn push(&mut self, task: Arc<TaskWaker>) {
        let queue = task.queue as usize;
        if self.queues[queue].is_empty() {
            // Time left unused while there was nothing to do is not saved up.
            let busy = (0..3).filter(|q| !self.queues[*q].is_empty());
            let least = busy.map(|q| self.used[q]).min().unwrap_or(0);
            self.used[queue] = self.used[queue].max(least);
        }
        self.queues[queue].push_back(task);
    }

    fn pop(&mut self) -> Option<Arc<TaskWaker>> {
        let busy = (0..3).filter(|q| !self.queues[*q].is_empty());
        let queue = busy.min_by_key(|q| self.used[*q])?;
        self.queues[queue].pop_front()
    }

    fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }
}

/// The executor of a shard. Lives on its thread.
struct Exec {
    home: Arc<Home>,
    tasks: RefCell<Tasks>,
    ready: RefCell<Ready>,
    /// Whether [`Main`] is being polled, and looks at `ready` by itself.
    running: Cell<bool>,
    closing: Cell<bool>,
    generations: Cell<u64>,
}

thread_local! {
    static EXEC: RefCell<Option<Rc<Exec>>> = const { RefCell::new(None) };
}

impl Exec {
    fn new() -> Rc<Exec> {
        let inbox = Inbox {
            woken: Vec::new(),
            main: None,
            ended: false,
        };
        Rc::new(Exec {
            home: Arc::new(Home {
                inbox: Mutex::new(inbox),
                told: AtomicBool::new(false),
            }),
            tasks: RefCell::default(),
            ready: RefCell::default(),
            running: Cell::new(false),
            closing: Cell::new(false),
            generations: Cell::new(0),
        })
    }

    /// The executor of this thread, if it is the one of `home`.
    fn of(home: &Arc<Home>) -> Option<Rc<Exec>> {
        let here = EXEC.try_with(|exec| exec.borrow().clone()).ok().flatten()?;
        Arc::ptr_eq(&here.home, home).then_some(here)
    }

    fn wake_here(&self, task: Arc<TaskWaker>) {
        self.ready.borrow_mut().push(task);
        if !self.running.get()
            && let Some(main) = &self.home.lock().main
        {
            main.wake_by_ref();
        }
    }

    fn spawn(&self, queue: Queue, job: Job) {
        if self.closing.get() {
            return; // dropped: the shard is ending
        }
        let generation = self.generations.get();
        self.generations.set(generation + 1);
        let waker = {
            let mut tasks = self.tasks.borrow_mut();
            let place = tasks.free.pop().unwrap_or_else(|| {
                tasks.places.push(Place::default());
                tasks.places.len() - 1
            });
            let waker = Waker::from(Arc::new(TaskWaker {
                home: self.home.clone(),
                place,
                generation,
                queue,
                queued: AtomicBool::new(false),
            }));
            tasks.places[place] = Place {
                generation,
                job: Some(job),
                waker: Some(waker.clone()),
            };
            waker
        };
        waker.wake();
    }

    /// Polls a task, if it has not ended.
    fn run(&self, task: &TaskWaker) {
        let taken = {
            let mut tasks = self.tasks.borrow_mut();
            let place = &mut tasks.places[task.place];
            match (place.generation == task.generation, &place.waker) {
                (true, Some(waker)) => {
                    let waker = waker.clone();
                    place.job.take().map(|job| (job, waker))
                }
                _ => None, // a waker outlived its task
            }
        };
        let Some((mut job, waker)) = taken else {
            return;
        };
        // Before the poll, so that whatever happens during it queues the task again.
        task.queued.store(false, Ordering::Release);
        let polled = job.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            let mut tasks = self.tasks.borrow_mut();
            // The place may have been emptied meanwhile: the shard is ending.
            if tasks.places.get(task.place).map(|p| p.generation) == Some(task.generation) {
                tasks.places[task.place].job = Some(job);
                return;
            }
        } else {
            let mut tasks = self.tasks.borrow_mut();
            if let Some(place) = tasks.places.get_mut(task.place) {
                place.waker = None;
                tasks.free.push(task.place);
            }
        }
        drop(job);
    }

    /// Moves what other threads have woken to the tasks that can run.
    fn collect(&self) {
        if !self.home.told.swap(false, Ordering::SeqCst) {
            return;
        }
        let woken = std::mem::take(&mut self.home.lock().woken);
        let mut ready = self.ready.borrow_mut();
        woken.into_iter().for_each(|task| ready.push(task));
    }

    /// Runs tasks until none can run, `done` says so, or the slice is over; true when tasks are left.
    fn run_slice(&self, done: impl Fn() -> bool) -> bool {
        let began = Instant::now();
        let mut now = began;
        loop {
            self.collect();
            let Some(task) = self.ready.borrow_mut().pop() else {
                return false;
            };
            self.run(&task);
            if done() {
                return false;
            }
            let after = Instant::now();
            let spent = after.since(now).as_nanos() as u64;
            let queue = task.queue as usize;
            self.ready.borrow_mut().used[queue] += spent / SHARES[queue] + 1;
            now = after;
            if now.since(began) >= SLICE {
                self.collect();
                return !self.ready.borrow().is_empty();
            }
        }
    }

    /// Drops every task that has not ended. What their destructors spawn is dropped too.
    fn drop_tasks(&self) {
        self.closing.set(true);
        let jobs: Vec<Job> = {
            let mut tasks = self.tasks.borrow_mut();
            let places = std::mem::take(&mut tasks.places);
            places.into_iter().filter_map(|place| place.job).collect()
        };
        for job in jobs {
            if std::panic::catch_unwind(AssertUnwindSafe(|| drop(job))).is_err() {
                tracing::error!("a task panicked while it was dropped");
            }
        }
        let ready = std::mem::take(&mut *self.ready.borrow_mut());
        drop(ready);
        let (woken, main) = {
            let mut inbox = self.home.lock();
            inbox.ended = true;
            (std::mem::take(&mut inbox.woken), inbox.main.take())
        };
        drop((woken, main));
    }
}

/// The task that glommio sees.
struct Main<T> {
    exec: Rc<Exec>,
    result: Rc<RefCell<Option<T>>>,
    /// Due at once: lets glommio poll its rings and come back.
    back: Option<Timer>,
}

impl<T> Future for Main<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        this.back = None;
        this.exec.home.lock().main = Some(cx.waker().clone());
        this.exec.running.set(true);
        let result = this.result.clone();
        let left = this.exec.run_slice(|| result.borrow().is_some());
        this.exec.running.set(false);
        if let Some(result) = this.result.borrow_mut().take() {
            return Poll::Ready(result);
        }
        if left {
            // A task that wakes itself would be run again without a look at the rings; a timer is not.
            let mut timer = Timer::new(Duration::from_nanos(1));
            while Pin::new(&mut timer).poll(cx).is_ready() {
                timer = Timer::new(Duration::from_micros(1));
            }
            this.back = Some(timer);
        }
        Poll::Pending
    }
}

/// Runs `main` and what it spawns to the end of `main`, on the glommio executor of this thread; then drops the tasks left.
pub(super) async fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    let exec = Exec::new();
    EXEC.with(|here| *here.borrow_mut() = Some(exec.clone()));
    let result = Rc::new(RefCell::new(None));
    let slot = result.clone();
    exec.spawn(
        Queue::Kafka,
        Box::pin(async move {
            let value = main.await;
            *slot.borrow_mut() = Some(value);
        }),
    );
    let main = Main {
        exec: exec.clone(),
        result,
        back: None,
    };
    let value = main.await;
    exec.drop_tasks();
    EXEC.with(|here| *here.borrow_mut() = None);
    value
}

/// Runs `future` as a task of this shard.
pub(super) fn spawn(queue: Queue, future: impl Future<Output = ()> + 'static) {
    let exec = EXEC.with(|exec| exec.borrow().clone());
    let exec = exec.expect("tasks are spawned while their shard runs");
    exec.spawn(queue, Box::pin(future));
}
