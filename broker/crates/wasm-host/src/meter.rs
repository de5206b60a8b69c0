//! The CPU time of one instance, whose work is done in slices between those of others.

#![allow(
    clippy::disallowed_types,
    reason = "the engine wants what belongs to an instance to be Send"
)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use crate::sys::thread_cpu_ns;
use crate::ticker::Ticker;

/// Counts CPU time while a slice runs. Clones count the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Of slices that have ended, in ns.
    spent_ns: AtomicU64,
    /// When the running slice began, by the thread's CPU time in ns.
    began_ns: AtomicU64,
}

impl Meter {
    /// CPU time so far, in ns. To be asked on the thread that runs the slices, within one.
    pub(crate) fn spent_in_slice_ns(&self) -> u64 {
        let began = self.0.began_ns.load(Ordering::Relaxed);
        self.spent_ns() + thread_cpu_ns().saturating_sub(began)
    }

    /// CPU time of the slices that have ended, in ns.
    pub(crate) fn spent_ns(&self) -> u64 {
        self.0.spent_ns.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        self.0.began_ns.store(thread_cpu_ns(), Ordering::Relaxed);
    }

    fn end(&self) {
        let spent = self.spent_in_slice_ns();
        self.0.spent_ns.store(spent, Ordering::Relaxed);
    }
}

/// Work of a guest that is done in slices: each poll is one, which ends when the work is done or at the next tick.
pub(crate) struct Sliced<'a, T> {
    meter: Meter,
    ticker: &'a Ticker,
    work: Pin<Box<dyn Future<Output = T> + 'a>>,
}

impl<'a, T> Sliced<'a, T> {
    pub(crate) fn new(
        meter: Meter,
        ticker: &'a Ticker,
        work: impl Future<Output = T> + 'a,
    ) -> Sliced<'a, T> {
        Sliced {
            meter,
            ticker,
            work: Box::pin(work),
        }
    }

    /// Does one slice. Guests wait for nothing, so there is nobody to be woken by.
    pub(crate) fn slice(&mut self) -> Poll<T> {
        self.meter.begin();
        self.ticker.begin();
        let polled = self
            .work
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        self.ticker.end();
        self.meter.end();
        polled
    }

    /// Does all of it.
    pub(crate) fn finish(mut self) -> T {
        loop {
            if let Poll::Ready(done) = self.slice() {
                return done;
            }
        }
    }

    /// CPU time so far, in ns.
    pub(crate) fn spent_ns(&self) -> u64 {
        self.meter.spent_ns()
    }
}
