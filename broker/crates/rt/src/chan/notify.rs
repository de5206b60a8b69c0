//! A wake-up for everybody who waits for something to move.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
struct State {
    version: u64,
    next_waiter: u64,
    wakers: BTreeMap<u64, Waker>,
}

/// A condition that several tasks wait for. A cheap handle: clones mean the same condition.
#[derive(Debug, Clone, Default)]
pub struct Notify(Rc<RefCell<State>>);

/// Ready once its condition was notified. Made by [`Notify::notified`]; dropping it leaves nothing behind, so that
/// giving up again and again on a condition that never moves costs nothing.
#[derive(Debug)]
pub struct Notified {
    state: Rc<RefCell<State>>,
    seen: u64,
    waiter: Option<u64>,
}

impl Notify {
    /// A condition nobody waits for yet.
    pub fn new() -> Notify {
        Notify::default()
    }

    /// Wakes everybody who waits now.
    pub fn notify_all(&self) {
        let wakers = {
            let mut state = self.0.borrow_mut();
            state.version += 1;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }

    /// A future that is ready once [`Notify::notify_all`] was called after *this call* (not after its first poll),
    /// so that a check between the call and the `.await` misses nothing.
    pub fn notified(&self) -> Notified {
        let state = self.0.clone();
        let seen = state.borrow().version;
        Notified {
            state,
            seen,
            waiter: None,
        }
    }

    /// Tasks that wait now.
    pub fn waiters(&self) -> usize {
        self.0.borrow().wakers.len()
    }
}

impl Future for Notified {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.state.borrow_mut();
        if state.version != this.seen {
            return Poll::Ready(());
        }
        let waiter = *this.waiter.get_or_insert_with(|| {
            state.next_waiter += 1;
            state.next_waiter
        });
        match state.wakers.get_mut(&waiter) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                state.wakers.insert(waiter, cx.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        // The waker is dropped after the borrow: its task may own another of these.
        let waker = self
            .waiter
            .and_then(|w| self.state.borrow_mut().wakers.remove(&w));
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let notify = Notify::new();
        let mut cx = Context::from_waker(Waker::noop());
        let mut given_up = Box::pin(notify.notified());
        let mut kept = Box::pin(notify.notified());
        assert!(given_up.as_mut().poll(&mut cx).is_pending());
        assert!(kept.as_mut().poll(&mut cx).is_pending());
        assert_eq!(notify.waiters(), 2);
        drop(given_up);
        assert_eq!(notify.waiters(), 1);
        notify.notify_all();
        assert!(kept.as_mut().poll(&mut cx).is_ready());
        assert_eq!(notify.waiters(), 0);
    }

    #[test]
    fn a_call_between_making_and_polling_is_not_missed() {
        let notify = Notify::new();
        let mut notified = Box::pin(notify.notified());
        notify.notify_all();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(notified.as_mut().poll(&mut cx).is_ready());
    }
}
