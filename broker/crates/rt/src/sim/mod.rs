//! The `sim` engine: deterministic execution, virtual time, a faulty disk.
//!
//! A [`Sim`] is one simulated machine on the current thread. What runs inside [`Sim::block_on`] uses the rest of this
//! crate as usual: tasks, time, randomness and files are simulated, everything follows from the seed, and the same seed
//! gives the same run, bit for bit ([`Sim::trace_hash`] compares runs).
//!
//! * **Tasks**: one thread; which ready task runs next is drawn from the seed. Tasks live on between two calls of
//!   [`Sim::block_on`], until [`Sim::crash`] or [`Sim::kill`].
//!   Pass an `async` block: what is called while the argument is made (`time::sleep(..)`, `spawn(..)`) runs outside, and panics.
//! * **Time** stands still while anything is ready, then jumps to the next timer.
//! * **Disk**: every operation takes a random virtual time. What is not synced is at a crash kept, lost or torn at sectors of
//!   512 bytes, each write by itself, so later writes may survive earlier ones; what `sync_data` covered stays. Names
//!   (made, renamed, removed) are kept or lost one by one until `sync_dir` of their directory, and a directory is itself a name
//!   in its parent. [`SimDisk`] adds faults and lets a test look at files.
//! * **Crash**: [`Sim::crash`] at once, or planned with [`Sim::crash_after_steps`] and [`Sim::crash_after_disk_steps`]; from the
//!   planned moment on no operation of the disk comes back, then [`Sim::block_on`] drops everything, settles
//!   the disk and returns [`Stopped::Crashed`]. Nothing dropped is polled again.
//!
//! ```
//! use tidemill_rt::fs::{self, File, OpenMode};
//! use tidemill_rt::sim::Sim;
//!
//! for seed in 0..20 {
//!     let sim = Sim::new(seed);
//!     let written = sim.run_until_crash(20, async {
//!         let file = File::open("/a".as_ref(), OpenMode::CreateNew).await?;
//!         file.write_all_at(vec!["hello".into()], 0).await?;
//!         file.sync_data().await?;
//!         fs::sync_dir("/".as_ref()).await
//!     });
//!     if written.is_ok() {
//!         sim.crash();
//!         let found = sim.block_on(fs::read("/a".as_ref())).expect("it does not hang");
//!         assert_eq!(found.expect("synced"), b"hello");
//!     }
//! }
//! ```

mod content;
mod disk;
mod exec;
mod file;
mod rng;
mod seeds;

use std::future::Future;
use std::rc::Rc;

use crate::time::Instant;
use exec::{Inside, World};

pub use disk::{DiskOp, SimDisk};
pub(crate) use exec::{SimSleep, fill_random};
pub(crate) use file::{
    SimFile, create_dir_all, exists, list_dir, open_dir, read, remove_dir_all, remove_file, rename,
    space, sync_dir,
};
pub use seeds::for_seeds;

/// Wall-clock time at the start of a simulation, in ms since the Unix epoch.
pub const SIM_EPOCH_MS: i64 = 1_750_000_000_000;

/// Steps (polls of a task) after which a simulation is taken to run in circles, unless [`Sim::set_steps_max`] says otherwise.
pub const STEPS_MAX: u64 = 50_000_000;

/// Why a simulation stopped before its future ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The planned crash came.
    #[error("seed {seed}: crashed as planned at step {step}")]
    Crashed {
        /// Seed of the simulation.
        seed: u64,
        /// Steps run until then.
        step: u64,
    },
    /// No task is ready, no timer is set, and the future has not ended.
    #[error("seed {seed}: deadlock at step {step}: no task is ready and no timer is set")]
    Deadlock {
        /// Seed of the simulation.
        seed: u64,
        /// Steps run until then.
        step: u64,
    },
    /// The simulation ran as many steps as it may.
    #[error("seed {seed}: step limit reached at step {step}; does a task run in circles?")]
    StepLimit {
        /// Seed of the simulation.
        seed: u64,
        /// Steps run until then.
        step: u64,
    },
}

/// One simulated machine. Lives on one thread; at most one of them runs there at a time.
pub struct Sim(Rc<World>);

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sim(seed {}, step {})", self.0.seed, self.0.step())
    }
}

impl Sim {
    /// A machine with an empty disk, whose whole behaviour follows from `seed`.
    pub fn new(seed: u64) -> Sim {
        Sim(Rc::new(World::new(seed)))
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Runs `future`, and every task there is, until `future` ends. Tasks, timers and the disk live on after it.
    ///
    /// # Errors
    /// [`Stopped`]; after [`Stopped::Crashed`] the machine has gone through [`Sim::crash`] and can be used again.
    ///
    /// # Panics
    /// When called inside a simulation, or when `future` panics (the seed is then printed).
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        let result = {
            let _inside = Inside::enter(&self.0);
            let mut main = Box::pin(future);
            self.0.drive(main.as_mut())
        };
        if matches!(result, Err(Stopped::Crashed { .. })) {
            self.crash();
        }
        result
    }

    /// As [`Sim::block_on`], with a crash after a number of steps drawn evenly from `1..=steps_max`. When `future` ends before,
    /// no crash happens and the plan is void.
    ///
    /// # Errors
    /// As [`Sim::block_on`].
    pub fn run_until_crash<F: Future>(
        &self,
        steps_max: u64,
        future: F,
    ) -> Result<F::Output, Stopped> {
        let steps = 1 + self.0.rng.borrow_mut().below(steps_max.max(1));
        self.crash_after_steps(steps);
        let result = self.block_on(future);
        self.0.crash_at_step.set(None);
        result
    }

    /// Plans a crash `steps` steps (polls of a task) from now.
    pub fn crash_after_steps(&self, steps: u64) {
        self.0.crash_at_step.set(Some(self.0.step() + steps));
    }

    /// Plans a crash `steps` steps of the disk from now. Every operation that changes the disk counts twice: when it begins
    /// (a write is then in flight) and when its effect has come (before its caller learns of it). So
    /// trying 1, 2, 3, … until a run survives visits every distinct moment.
    pub fn crash_after_disk_steps(&self, steps: u64) {
        self.0
            .crash_at_disk_step
            .set(Some(self.0.disk_step() + steps));
    }

    /// Power loss now: drops all tasks and timers, and lets the disk keep, lose or tear what was not synced.
    pub fn crash(&self) {
        self.0.power_out.set(true);
        self.drop_tasks();
        self.0.disk.borrow_mut().crash(&mut self.0.rng.borrow_mut());
        self.0.crash_at_step.set(None);
        self.0.crash_at_disk_step.set(None);
        self.0.power_out.set(false);
    }

    /// The process dies and the machine does not: drops all tasks and timers; the disk keeps everything written, and what was
    /// not synced stays so.
    pub fn kill(&self) {
        self.drop_tasks();
        self.0.disk.borrow_mut().close_handles();
    }

    /// The machine's disk.
    pub fn disk(&self) -> SimDisk {
        SimDisk::new(self.0.disk.clone())
    }

    /// Virtual time now.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.0.now())
    }

    /// Steps run so far: polls of a task.
    pub fn steps(&self) -> u64 {
        self.0.step()
    }

    /// Steps of the disk so far (see [`Sim::crash_after_disk_steps`]).
    pub fn disk_steps(&self) -> u64 {
        self.0.disk_step()
    }

    /// A number that depends on everything that has happened so far: which task ran when, random numbers, disk operations
    /// with their data. Two runs of one seed have the same.
    pub fn trace_hash(&self) -> u64 {
        self.0.trace_hash()
    }

    /// Sets the total number of steps after which [`Sim::block_on`] gives up.
    pub fn set_steps_max(&self, steps: u64) {
        self.0.steps_max.set(steps);
    }

    /// A random number below `bound` from the seed, for decisions of the test itself; 0 when `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.rng.borrow_mut().below(bound)
    }

    fn drop_tasks(&self) {
        let _inside = Inside::enter(&self.0);
        self.0.drop_tasks();
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Destructors of tasks may use the runtime, so they run while the simulation still stands.
        self.drop_tasks();
    }
}

pub(crate) fn now_nanos() -> u64 {
    exec::current().now()
}

pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    exec::current().spawn(Box::pin(future));
}
