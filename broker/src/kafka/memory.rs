//! Memory of a shard for clients: for requests as their bytes arrive, and for answers until they are written.
//!
//! Nothing is reserved for bytes that were only announced. Small requests have a pool of their own, so that large ones,
//! however slowly they come, hold nothing that a small one waits for.

use std::cell::Cell;
use std::pin::pin;

use futures_util::future::{Either, select};
use tidemill_rt::chan::semaphore::{Permit, Semaphore};

use crate::config::table::Memory;
use crate::metrics::Sample;

/// Largest request that counts as small, in bytes: what clients send unless they are told otherwise (a batch of 1 MiB
/// and what is around it).
pub(super) const SMALL_FRAME_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// What an answer makes do with when there is not room for all it could have, in bytes.
const CROWDED_ANSWER_BYTES: u64 = 1 << 20;

/// The budgets of one shard.
#[derive(Debug)]
pub(crate) struct Budgets {
    small: Pool,
    large: Pool,
    answers: Semaphore,
    waiting_fetches: Semaphore,
    hurried_fetches: Cell<u64>,
}

/// Room for requests of one kind.
#[derive(Debug)]
struct Pool {
    bytes: Semaphore,
    /// Held by the one request that needs no more room: were all requests to wait for room that the others hold, none
    /// would ever be whole.
    finisher: Semaphore,
}

/// What a request holds. Whoever waits for more room may become the finisher instead, which then grows without asking:
/// at most one of each pool, so that memory stays within the pool and one largest request.
#[derive(Debug, Default)]
pub(crate) struct FrameRoom {
    bytes: Option<Permit>,
    finisher: Option<Permit>,
}

impl Budgets {
    /// Nothing is used yet.
    pub(crate) fn new(limits: &Memory) -> Budgets {
        Budgets {
            small: Pool::new(limits.small_requests),
            large: Pool::new(limits.large_requests),
            answers: Semaphore::new(limits.answers),
            waiting_fetches: Semaphore::new(limits.waiting_fetches),
            hurried_fetches: Cell::new(0),
        }
    }

    /// Makes `room` of a request that was announced with `frame_bytes` larger by `bytes`, waiting for them.
    pub(super) async fn grow(&self, room: &mut FrameRoom, frame_bytes: usize, bytes: usize) {
        let pool = match frame_bytes <= SMALL_FRAME_BYTES_MAX {
            true => &self.small,
            false => &self.large,
        };
        pool.grow(room, bytes as u64).await;
    }

    /// Room for an answer of up to `bytes`, or for less when there is not so much: [`Permit::amount`] says.
    pub(super) async fn answer(&self, bytes: u64) -> Permit {
        match self.answers.try_acquire(bytes) {
            Some(permit) => permit,
            None => self.answers.acquire(bytes.min(CROWDED_ANSWER_BYTES)).await,
        }
    }

    /// The budget for answers, for those that are there already.
    pub(super) fn answers(&self) -> &Semaphore {
        &self.answers
    }

    /// Whether answers have to wait for room: those who hold it must hurry.
    pub(super) fn answers_are_crowded(&self) -> bool {
        self.answers.available() < CROWDED_ANSWER_BYTES
    }

    /// Room for a Fetch of `bytes` bytes to wait for records; nothing, and counted, when there is none.
    pub(super) fn waiting_fetch(&self, bytes: u64) -> Option<Permit> {
        let permit = self.waiting_fetches.try_acquire(bytes);
        if permit.is_none() {
            self.hurried_fetches.set(self.hurried_fetches.get() + 1);
        }
        permit
    }

    /// Adds what is used and what was full to `out`.
    pub(crate) fn collect(&self, out: &mut Vec<Sample>) {
        let requests = [&self.small.bytes, &self.large.bytes];
        let sum = |of: fn(&Semaphore) -> u64| requests.into_iter().map(of).sum::<u64>();
        let mut plain =
            |family, value: u64| out.push(Sample::plain(family, Vec::new(), value as f64));
        plain("tidemill_request_memory_bytes", sum(Semaphore::used));
        plain(
            "tidemill_request_memory_waits_total",
            sum(Semaphore::waits_total),
        );
        plain("tidemill_answer_memory_bytes", self.answers.used());
        plain(
            "tidemill_answer_memory_waits_total",
            self.answers.waits_total(),
        );
        plain("tidemill_waiting_fetch_bytes", self.waiting_fetches.used());
        plain("tidemill_hurried_fetches_total", self.hurried_fetches.get());
    }
}

impl Pool {
    fn new(bytes: u64) -> Pool {
        Pool {
            bytes: Semaphore::new(bytes),
            finisher: Semaphore::new(1),
        }
    }

    async fn grow(&self, room: &mut FrameRoom, bytes: u64) {
        if room.finisher.is_some() {
            return;
        }
        let (more, finisher) = (
            pin!(self.bytes.acquire(bytes)),
            pin!(self.finisher.acquire(1)),
        );
        match select(more, finisher).await {
            Either::Left((more, _)) => match &mut room.bytes {
                Some(held) => held.absorb(more),
                None => room.bytes = Some(more),
            },
            Either::Right((finisher, _)) => room.finisher = Some(finisher),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::config::Settings;

    fn now<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn large_requests_that_hold_all_their_memory_delay_no_small_one() {
        let budgets = Budgets::new(&Settings::default().memory);
        let large = SMALL_FRAME_BYTES_MAX + 1;
        let mut held: Vec<FrameRoom> = Vec::new();
        while budgets.large.bytes.available() > 0 {
            let mut room = FrameRoom::default();
            now(budgets.grow(&mut room, large, 8 << 20)).expect("there is room");
            held.push(room);
        }
        // One may go on without room, the next waits.
        now(budgets.grow(&mut held[0], large, 8 << 20)).expect("it finishes");
        now(budgets.grow(&mut held[0], large, 50 << 20)).expect("it finishes");
        assert!(now(budgets.grow(&mut held[1], large, 1)).is_none());
        let mut small = FrameRoom::default();
        now(budgets.grow(&mut small, 100, 100)).expect("small requests have room of their own");
        drop(held.remove(0));
        now(budgets.grow(&mut held[0], large, 1)).expect("its turn has come");
    }

    #[test]
    fn an_answer_without_room_for_all_of_it_gets_a_small_one() {
        let budgets = Budgets::new(&Settings::default().memory);
        let first =
            now(budgets.answer(budgets.answers.available() - (2 << 20))).expect("there is room");
        let second = now(budgets.answer(32 << 20)).expect("there is a little room");
        assert_eq!(second.amount(), CROWDED_ANSWER_BYTES);
        assert!(now(budgets.answer(1 << 20)).is_some());
        drop((first, second));
        assert_eq!(budgets.answers.used(), 0);
    }
}
