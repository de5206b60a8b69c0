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
    use super::*;

    #[test]
    fn runtime_passes_openrafts_suite_on_epoll() {
        openraft_rt::testing::Suite::<Rt>::test_all();
    }
}
