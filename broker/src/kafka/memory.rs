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
/// Largest answer that is made whenever it is ready and charged; a larger one waits for its turn and for room. A Produce of
/// 600 partitions is answered with less.
pub(super) const SMALL_ANSWER_BYTES_MAX: u64 = 32 << 10;

/// The budgets of one shard.
#[derive(Debug)]
pub(crate) struct Budgets {
    small: Pool,
    large: Pool,
    answers: Pool,
    waiting_fetches: Semaphore,
    hurried_fetches: Cell<u64>,
}

/// Room for requests of one kind, or for answers.
#[derive(Debug)]
struct Pool {
    bytes: Semaphore,
    /// Held by the one that needs no more room: were all to wait for room that the others hold, none would ever be whole.
    finisher: Semaphore,
}

/// What a request holds. Whoever waits for more room may become the finisher instead, which then grows without asking:
/// at most one of each pool, so that memory stays within the pool and one largest request.
#[derive(Debug, Default)]
pub(crate) struct FrameRoom {
    bytes: Option<Permit>,
    finisher: Option<Permit>,
}

/// What an answer holds until it is written: a part of the budget, or the one place beyond it.
#[derive(Debug)]
pub(crate) struct AnswerRoom {
    bytes: Permit,
    _beyond: Option<Permit>,
}

impl AnswerRoom {
    /// Bytes the answer may have.
    pub(super) fn amount(&self) -> u64 {
        self.bytes.amount()
    }

    /// Makes it the room of an answer of `bytes` bytes, however many were reserved.
    pub(super) fn settle(&mut self, bytes: u64) {
        self.bytes.settle(bytes);
    }

    /// Gives back what `bytes` bytes held that were written.
    pub(super) fn shrink(&mut self, bytes: u64) {
        self.settle(self.amount().saturating_sub(bytes));
    }
}

impl Budgets {
    /// Nothing is used yet.
    pub(crate) fn new(limits: &Memory) -> Budgets {
        Budgets {
            small: Pool::new(limits.small_requests),
            large: Pool::new(limits.large_requests),
            answers: Pool::new(limits.answers),
            waiting_fetches: Semaphore::new(limits.waiting_fetches),
            hurried_fetches: Cell::new(0),
        }
    }

    /// Makes `room` of a request that was announced with `frame_bytes` larger by `bytes`, waiting for them.
    pub(super) async fn grow(&self, room: &mut FrameRoom, frame_bytes: usize, bytes: usize) {
        self.pool(frame_bytes).grow(room, bytes as u64).await;
    }

    fn pool(&self, frame_bytes: usize) -> &Pool {
        match frame_bytes <= SMALL_FRAME_BYTES_MAX {
            true => &self.small,
            false => &self.large,
        }
    }

    /// Whether requests like one of `frame_bytes` bytes hold more than half of their memory.
    pub(super) fn is_half_full(&self, frame_bytes: usize) -> bool {
        let bytes = &self.pool(frame_bytes).bytes;
        bytes.used() > bytes.total() / 2
    }

    /// Whether one of them waits for memory that others hold.
    pub(super) fn is_waited_for(&self, frame_bytes: usize) -> bool {
        self.pool(frame_bytes).bytes.is_waited_for()
    }

    /// Room for an answer of up to `bytes`, or for less when there is not so much: [`AnswerRoom::amount`] says. To be asked
    /// for in the answer's turn: who waits holds nothing, and nothing behind it in its line does.
    pub(super) async fn answer(&self, bytes: u64) -> AnswerRoom {
        match self.answers.bytes.try_acquire(bytes) {
            Some(bytes) => AnswerRoom {
                bytes,
                _beyond: None,
            },
            None => self.whole_answer(bytes.min(CROWDED_ANSWER_BYTES)).await,
        }
    }

    /// Room for an answer of `bytes` bytes. Whoever waits for it may become the one whose answer is made beyond the budget,
    /// so that some answer is always written next. To be asked for in the answer's turn.
    pub(super) async fn whole_answer(&self, bytes: u64) -> AnswerRoom {
        let room = pin!(self.answers.bytes.acquire(bytes));
        let beyond = pin!(self.answers.finisher.acquire(1));
        match select(room, beyond).await {
            Either::Left((bytes, _)) => AnswerRoom {
                bytes,
                _beyond: None,
            },
            Either::Right((beyond, _)) => AnswerRoom {
                bytes: self.answers.bytes.charge(bytes),
                _beyond: Some(beyond),
            },
        }
    }

    /// Room for a small answer, whether there is any or not.
    pub(super) fn small_answer(&self, bytes: u64) -> AnswerRoom {
        AnswerRoom {
            bytes: self.answers.bytes.charge(bytes),
            _beyond: None,
        }
    }

    /// Whether answers have to wait for room: those who hold it must hurry.
    pub(super) fn answers_are_crowded(&self) -> bool {
        self.answers.bytes.available() < CROWDED_ANSWER_BYTES
    }

    /// Whether small answers have taken more than there is: those who have many of them are read no further.
    pub(super) fn answers_are_over(&self) -> bool {
        self.answers.bytes.used() > self.answers.bytes.total()
    }

    /// How often an answer had to wait for room.
    pub(super) fn answer_waits(&self) -> u64 {
        self.answers.bytes.waits_total()
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
        plain("tidemill_answer_memory_bytes", self.answers.bytes.used());
        plain("tidemill_answer_memory_waits_total", self.answer_waits());
        plain("tidemill_waiting_fetch_bytes", self.waiting_fetches.used());
        plain("tidemill_hurried_fetches_total", self.hurried_fetches.get());
    }
}

impl FrameRoom {
    fn add(&mut self, more: Permit) {
        match &mut self.bytes {
            Some(held) => held.absorb(more),
            None => self.bytes = Some(more),
        }
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
        if let Some(more) = self.bytes.try_acquire(bytes) {
            return room.add(more);
        }
        let (more, finisher) = (
            pin!(self.bytes.acquire(bytes)),
            pin!(self.finisher.acquire(1)),
        );
        match select(more, finisher).await {
            Either::Left((more, _)) => room.add(more),
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
        let answers = &budgets.answers.bytes;
        let first = now(budgets.answer(answers.available() - (2 << 20))).expect("there is room");
        let second = now(budgets.answer(32 << 20)).expect("there is a little room");
        assert_eq!(second.amount(), CROWDED_ANSWER_BYTES);
        assert!(now(budgets.answer(1 << 20)).is_some());
        drop((first, second));
        assert_eq!(answers.used(), 0);
    }

    #[test]
    fn one_answer_at_a_time_is_made_when_there_is_no_room() {
        let budgets = Budgets::new(&Settings::default().memory);
        let full = budgets.small_answer(budgets.answers.bytes.total());
        let beyond = now(budgets.answer(32 << 20)).expect("one is made beyond the budget");
        assert_eq!(beyond.amount(), CROWDED_ANSWER_BYTES);
        assert!(budgets.answers_are_over());
        assert!(now(budgets.answer(1)).is_none());
        assert!(now(budgets.whole_answer(1)).is_none());
        drop(beyond);
        assert!(now(budgets.whole_answer(5 << 20)).is_some());
        drop(full);
        assert_eq!(budgets.answers.bytes.used(), 0);
    }
}
