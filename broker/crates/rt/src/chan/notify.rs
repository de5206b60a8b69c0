//! A wake-up for everybody who waits for something to move.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

#[derive(Debug, Default)]
struct State {
    version: u64,
    wakers: Vec<Waker>,
}

/// A condition that several tasks wait for. A cheap handle: clones mean the same condition.
#[derive(Debug, Clone, Default)]
pub struct Notify(Rc<RefCell<State>>);

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
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A future that is ready once [`Notify::notify_all`] was called after *this call* (not after its first poll),
    /// so that a check between the call and the `.await` misses nothing.
    pub fn notified(&self) -> impl Future<Output = ()> + use<> {
        let state = self.0.clone();
        let seen = state.borrow().version;
        poll_fn(move |cx| {
            let mut state = state.borrow_mut();
            if state.version != seen {
                return Poll::Ready(());
            }
            if !state.wakers.iter().any(|w| w.will_wake(cx.waker())) {
                state.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Tasks that wait now.
    pub fn waiters(&self) -> usize {
        self.0.borrow().wakers.len()
    }
}
