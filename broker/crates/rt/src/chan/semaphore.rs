//! A budget (bytes of memory, calls in flight) that tasks of one shard share, first come, first served.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::oneshot;

#[derive(Debug)]
struct State {
    available: u64,
    total: u64,
    waiting: VecDeque<(u64, oneshot::Sender<Permit>)>,
    waits_total: u64,
}

/// A budget. Clones share it.
#[derive(Debug, Clone)]
pub struct Semaphore(Rc<RefCell<State>>);

/// A part of the budget; returned when dropped.
#[derive(Debug)]
pub struct Permit {
    owner: Semaphore,
    amount: u64,
}

impl Semaphore {
    /// A budget of `total` units.
    pub fn new(total: u64) -> Semaphore {
        Semaphore(Rc::new(RefCell::new(State {
            available: total,
            total,
            waiting: VecDeque::new(),
            waits_total: 0,
        })))
    }

    /// Takes `amount` units, waiting for them. A request above the whole budget is cut to it,
    /// so that one large request runs alone instead of never.
    pub async fn acquire(&self, amount: u64) -> Permit {
        let waiting = {
            let mut state = self.0.borrow_mut();
            let amount = amount.min(state.total);
            if state.waiting.is_empty() && state.available >= amount {
                state.available -= amount;
                return self.permit(amount);
            }
            let (tx, rx) = oneshot::channel();
            state.waiting.push_back((amount, tx));
            state.waits_total += 1;
            Waiting { owner: self, rx }
        };
        waiting.await
    }

    /// Takes `amount` units if they are free and nobody waits.
    pub fn try_acquire(&self, amount: u64) -> Option<Permit> {
        let mut state = self.0.borrow_mut();
        let amount = amount.min(state.total);
        if !state.waiting.is_empty() || state.available < amount {
            return None;
        }
        state.available -= amount;
        Some(self.permit(amount))
    }

    /// Units free now.
    pub fn available(&self) -> u64 {
        self.0.borrow().available
    }

    /// The whole budget.
    pub fn total(&self) -> u64 {
        self.0.borrow().total
    }

    /// How often somebody had to wait: the metric for "full".
    pub fn waits_total(&self) -> u64 {
        self.0.borrow().waits_total
    }

    fn permit(&self, amount: u64) -> Permit {
        Permit {
            owner: self.clone(),
            amount,
        }
    }

    fn release(&self, amount: u64) {
        self.0.borrow_mut().available += amount;
        loop {
            let (amount, tx) = {
                let mut state = self.0.borrow_mut();
                while state.waiting.front().is_some_and(|(_, tx)| tx.is_closed()) {
                    state.waiting.pop_front();
                }
                let available = state.available;
                let fits = |waiting: &mut (u64, _)| waiting.0 <= available;
                let Some((amount, tx)) = state.waiting.pop_front_if(fits) else {
                    return;
                };
                state.available -= amount;
                (amount, tx)
            };
            // A receiver that is gone drops the permit, which returns the units through this function.
            let _ = tx.send(self.permit(amount));
        }
    }
}

/// Somebody who waits. Going away, it lets those behind it have their turn.
struct Waiting<'a> {
    owner: &'a Semaphore,
    rx: oneshot::Receiver<Permit>,
}

impl Future for Waiting<'_> {
    type Output = Permit;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        Pin::new(&mut self.rx)
            .poll(cx)
            .map(|permit| permit.expect("the semaphore drops no waiter that still waits"))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.rx.close();
        self.owner.release(0);
    }
}

impl Permit {
    /// Units this permit holds.
    pub fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let owner = self.owner.clone();
        owner.release(self.amount);
    }
}
