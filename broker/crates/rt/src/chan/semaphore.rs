//! A budget (bytes of memory, calls in flight) that tasks of one shard share, first come, first served.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::oneshot;
use super::turn::Turn;

#[derive(Debug)]
struct State {
    /// Below 0 while more is in use than there is, see [`Semaphore::charge`].
    available: i64,
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
            available: signed(total),
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
            if state.waiting.is_empty() && state.available >= signed(amount) {
                state.available -= signed(amount);
                return self.permit(amount);
            }
            let (tx, rx) = oneshot::channel();
            state.waiting.push_back((amount, tx));
            state.waits_total += 1;
            Turn::new(rx, || self.release(0))
        };
        let permit = waiting.await;
        permit.expect("the semaphore drops no waiter that still waits")
    }

    /// Takes `amount` units if they are free and nobody waits.
    pub fn try_acquire(&self, amount: u64) -> Option<Permit> {
        let mut state = self.0.borrow_mut();
        let amount = amount.min(state.total);
        if !state.waiting.is_empty() || state.available < signed(amount) {
            return None;
        }
        state.available -= signed(amount);
        Some(self.permit(amount))
    }

    /// Takes `amount` units that are in use already, whether they are free or not. Whoever acquires later waits until
    /// as much has come back.
    pub fn charge(&self, amount: u64) -> Permit {
        self.0.borrow_mut().available -= signed(amount);
        self.permit(amount)
    }

    /// Units free now.
    pub fn available(&self) -> u64 {
        self.0.borrow().available.max(0) as u64
    }

    /// Units taken now; more than the whole budget where [`Semaphore::charge`] found none free.
    pub fn used(&self) -> u64 {
        let state = self.0.borrow();
        (signed(state.total) - state.available).max(0) as u64
    }

    /// The whole budget.
    pub fn total(&self) -> u64 {
        self.0.borrow().total
    }

    /// Whether somebody waits now.
    pub fn is_waited_for(&self) -> bool {
        let state = self.0.borrow();
        state.waiting.iter().any(|(_, tx)| !tx.is_closed())
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
        self.0.borrow_mut().available += signed(amount);
        loop {
            let (amount, tx) = {
                let mut state = self.0.borrow_mut();
                while state.waiting.front().is_some_and(|(_, tx)| tx.is_closed()) {
                    state.waiting.pop_front();
                }
                let available = state.available;
                let fits = |waiting: &mut (u64, _)| signed(waiting.0) <= available;
                let Some((amount, tx)) = state.waiting.pop_front_if(fits) else {
                    return;
                };
                state.available -= signed(amount);
                (amount, tx)
            };
            // A receiver that is gone drops the permit, which returns the units through this function.
            let _ = tx.send(self.permit(amount));
        }
    }
}

impl Permit {
    /// Units this permit holds.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Makes it hold `amount` units: what is too much goes back, what is missing is charged ([`Semaphore::charge`]).
    pub fn settle(&mut self, amount: u64) {
        let before = std::mem::replace(&mut self.amount, amount);
        if before > amount {
            self.owner.release(before - amount);
        } else {
            self.owner.0.borrow_mut().available -= signed(amount - before);
        }
    }

    /// Takes `other`, of the same budget, in.
    pub fn absorb(&mut self, mut other: Permit) {
        debug_assert!(Rc::ptr_eq(&self.owner.0, &other.owner.0));
        self.amount += std::mem::take(&mut other.amount);
    }
}

/// Amounts are bytes of memory or counts: far below the largest signed number.
fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

impl Drop for Permit {
    fn drop(&mut self) {
        let owner = self.owner.clone();
        owner.release(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn what_is_charged_beyond_the_budget_comes_back_before_others_have_their_turn() {
        let budget = Semaphore::new(10);
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = budget.charge(25);
        assert_eq!((budget.available(), budget.used()), (0, 25));
        let mut waiting = Box::pin(budget.acquire(4));
        assert!(waiting.as_mut().poll(&mut cx).is_pending() && budget.is_waited_for());
        first.settle(8);
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        first.settle(6);
        let Poll::Ready(mut second) = waiting.as_mut().poll(&mut cx) else {
            panic!("four units are free");
        };
        assert!(!budget.is_waited_for());
        second.absorb(first);
        assert_eq!((second.amount(), budget.used()), (10, 10));
        drop(second);
        assert_eq!(budget.available(), 10);
    }
}
