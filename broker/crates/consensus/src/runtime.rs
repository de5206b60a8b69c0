//! openraft's view of the shard thread: tasks, time and randomness from `rt`.

use std::convert::Infallible;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use tidemill_rt::local::LocalRuntime;
use tidemill_rt::task::{self, JoinError, JoinHandle, Queue};
use tidemill_rt::{rand as rt_rand, time};

use crate::channels::{LocalMpsc, LocalMutex, LocalOneshot, LocalWatch};

/// The runtime openraft runs on: whatever engine runs the current shard thread.
///
/// A value exists only to drive a thread of its own with [`AsyncRuntime::block_on`], which tests do.
#[derive(Debug)]
pub(crate) struct Rt(LocalRuntime);

/// A point of `rt`'s monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RtInstant(time::Instant);

/// Random numbers from `rt`: the kernel's, or the simulation's.
#[derive(Debug)]
pub(crate) struct RtRng;

impl rand::TryRng for RtRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((rt_rand::u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(rt_rand::u64())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        rt_rand::fill(dst);
        Ok(())
    }
}

impl Add<Duration> for RtInstant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        RtInstant(self.0 + d)
    }
}

impl AddAssign<Duration> for RtInstant {
    fn add_assign(&mut self, d: Duration) {
        self.0 = self.0 + d;
    }
}

impl Sub<Duration> for RtInstant {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        RtInstant(self.0 - d)
    }
}

impl SubAssign<Duration> for RtInstant {
    fn sub_assign(&mut self, d: Duration) {
        self.0 = self.0 - d;
    }
}

impl Sub<Self> for RtInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl openraft_rt::Instant for RtInstant {
    fn now() -> Self {
        RtInstant(time::Instant::now())
    }
}

impl AsyncRuntime for Rt {
    type JoinError = JoinError;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = time::Sleep;
    type Instant = RtInstant;
    type TimeoutError = time::Elapsed;
    type Timeout<R, T: Future<Output = R>> = time::Timeout<T>;
    type ThreadLocalRng = RtRng;
    type Mpsc = LocalMpsc;
    type Watch = LocalWatch;
    type Oneshot = LocalOneshot;
    type Mutex<T: 'static> = LocalMutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + 'static,
        T::Output: 'static,
    {
        task::spawn(Queue::Raft, future)
    }

    fn sleep(duration: Duration) -> time::Sleep {
        time::sleep(duration)
    }

    fn sleep_until(deadline: RtInstant) -> time::Sleep {
        time::sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> time::Timeout<F> {
        time::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: RtInstant, future: F) -> time::Timeout<F> {
        time::timeout_at(deadline.0, future)
    }

    fn is_panic(join_error: &JoinError) -> bool {
        matches!(join_error, JoinError::Panicked(_))
    }

    fn thread_rng() -> RtRng {
        RtRng
    }

    /// The current thread as a shard of the `epoll` engine. One thread is all there is, whatever `_threads` says.
    fn new(_threads: usize) -> Self {
        Rt(LocalRuntime::epoll())
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt::testing::Suite;
    use tidemill_rt::runtime::{EngineChoice, StartError, block_on};
    use tidemill_rt::sim::Sim;

    use super::*;

    #[test]
    fn runtime_passes_openrafts_suite_on_epoll() {
        Suite::<Rt>::test_all();
    }

    #[test]
    fn runtime_passes_openrafts_suite_on_uring_where_it_is_allowed() {
        match block_on(EngineChoice::Uring, on_the_engine_of_this_thread) {
            Ok(()) => println!("ran on io_uring"),
            Err(StartError::UringRefused(reason)) => println!("not run: {reason}"),
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn runtime_passes_openrafts_suite_under_simulation() {
        for seed in 0..20 {
            let done = Sim::new(seed).block_on(on_the_engine_of_this_thread());
            done.expect("nothing crashes here");
        }
    }

    /// Every test of the suite that is open to callers; `test_all` drives an engine of its own, which only `epoll` can.
    #[allow(clippy::too_many_lines, reason = "a list")]
    async fn on_the_engine_of_this_thread() {
        type S = Suite<Rt>;
        S::test_spawn_join_handle().await;
        S::test_thread_rng().await;
        S::test_sleep().await;
        S::test_instant().await;
        S::test_instant_arithmetic().await;
        S::test_instant_sub_instant().await;
        S::test_instant_saturating_duration_since().await;
        S::test_instant_ord().await;
        S::test_sleep_until().await;
        S::test_timeout().await;
        S::test_timeout_at().await;
        S::test_mpsc_recv_empty().await;
        S::test_mpsc_recv_channel_closed().await;
        S::test_mpsc_weak_sender_wont_prevent_channel_close().await;
        S::test_mpsc_weak_sender_upgrade().await;
        S::test_mpsc_send().await;
        S::test_mpsc_send_to_closed_channel().await;
        S::test_mpsc_backpressure().await;
        S::test_watch_init_value().await;
        S::test_watch_overwrite_init_value().await;
        S::test_watch_send_error_no_receiver().await;
        S::test_watch_send_if_modified().await;
        S::test_watch_wait_until_ge().await;
        S::test_watch_wait_until().await;
        S::test_watch_changed_marks_as_seen().await;
        S::test_watch_borrow_and_update_marks_seen().await;
        S::test_watch_changed_returns_immediately_when_unseen().await;
        S::test_watch_multiple_borrow_then_changed().await;
        S::test_watch_wait_loop_pattern().await;
        S::test_watch_multiple_receivers().await;
        S::test_watch_subscribe().await;
        S::test_watch_send_if_different().await;
        S::test_watch_send_if_greater().await;
        S::test_oneshot_drop_tx().await;
        S::test_oneshot().await;
        S::test_oneshot_send_from_another_task().await;
        S::test_oneshot_send_to_dropped_rx().await;
        S::test_mutex_contention().await;
        S::test_mutex().await;
        S::test_mutex_lock_owned().await;
        S::test_task_local().await;
        S::test_task_local_on_completion_drop().await;
        S::test_task_local_take_value().await;
        S::test_task_local_poll_after_take_value().await;
        S::test_task_local_get_value().await;
    }
}
