//! Monotonic and wall-clock time, sleeping and deadlines.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::context::{self, EngineKind};
use crate::sim;

/// A point of monotonic time, in nanoseconds since an arbitrary start of the process
/// (virtual under `sim`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Now. Works on every thread; virtual time on a thread run by `sim`.
    pub fn now() -> Instant {
        if context::try_current() == Some(EngineKind::Sim) {
            return Instant(sim::now_nanos());
        }
        #[allow(clippy::disallowed_methods, reason = "rt is where the clock is read")]
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        #[allow(clippy::disallowed_methods, reason = "rt is where the clock is read")]
        let start = START.get_or_init(std::time::Instant::now);
        Instant(start.elapsed().as_nanos() as u64)
    }

    /// Nanoseconds since the start of the process's clock.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// The point `nanos` nanoseconds after the start of the process's clock.
    pub fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Time since `earlier`, zero when `earlier` lies ahead.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time since this point.
    pub fn elapsed(self) -> Duration {
        Instant::now().since(self)
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(
            self.0
                .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl std::ops::Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, d: Duration) -> Instant {
        Instant(
            self.0
                .saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl std::ops::Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// Wall-clock time in milliseconds since the Unix epoch. Works on every thread;
/// under `sim` it starts at a fixed date and follows virtual time.
pub fn unix_ms() -> i64 {
    if context::try_current() == Some(EngineKind::Sim) {
        return sim::SIM_EPOCH_MS + (sim::now_nanos() / 1_000_000) as i64;
    }
    #[allow(clippy::disallowed_methods, reason = "rt is where the clock is read")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

enum Inner {
    Uring(crate::uring::UringSleep),
    Epoll(Pin<Box<tokio::time::Sleep>>),
    Sim(sim::SimSleep),
}

/// A future that is ready at its deadline. Made by [`sleep`] and [`sleep_until`].
pub struct Sleep(Inner);

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sleep")
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Inner::Uring(f) => Pin::new(f).poll(cx),
            Inner::Epoll(f) => f.as_mut().poll(cx),
            Inner::Sim(f) => Pin::new(f).poll(cx),
        }
    }
}

/// Sleeps for `d`.
pub fn sleep(d: Duration) -> Sleep {
    match context::current() {
        EngineKind::Uring => Sleep(Inner::Uring(crate::uring::sleep(d))),
        EngineKind::Epoll => Sleep(Inner::Epoll(Box::pin(tokio::time::sleep(d)))),
        EngineKind::Sim => Sleep(Inner::Sim(sim::SimSleep::until(Instant::now() + d))),
    }
}

/// Sleeps until `deadline`; ready at once when it has passed.
pub fn sleep_until(deadline: Instant) -> Sleep {
    sleep(deadline.since(Instant::now()))
}

/// The deadline of [`timeout`] passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub struct Elapsed;

/// A future with a deadline. Made by [`timeout`] and [`timeout_at`].
#[derive(Debug)]
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(v) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(v));
        }
        Pin::new(&mut self.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// Runs `future` for at most `d`.
///
/// # Errors
/// [`Elapsed`] when the deadline passes first; the future is dropped with the returned value.
pub fn timeout<F: Future>(d: Duration, future: F) -> Timeout<F> {
    Timeout {
        future: Box::pin(future),
        sleep: sleep(d),
    }
}

/// Runs `future` until `deadline` at most. Errors as [`timeout`].
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    timeout(deadline.since(Instant::now()), future)
}
