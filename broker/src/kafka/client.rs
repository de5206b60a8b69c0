//! What reader, handlers and writer of one connection share: who it is, whose turn it is to answer, and whether it takes
//! what it asked for.
//!
//! Answers are written in the order of the requests, so an answer that is made before those ahead of it keeps its memory
//! for as long as they take. Therefore only small answers are made as they come. Every other one is made **in its turn**:
//! when all answers ahead of it are made, and few of their bytes are still to be written. What waits for room for an answer
//! is then the first in its line, and nothing behind it holds what it waits for.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tidemill_rt::chan::notify::Notify;
use tidemill_rt::time::{self, Instant};

use super::memory::SMALL_ANSWER_BYTES_MAX;
use crate::config::table::Kafka;

/// The least rate at which answers must be taken while others wait for the memory they hold, in bytes per second.
const ANSWER_BYTES_PER_SECOND_MIN: u64 = 256 << 10;
/// The next answer is made while no more than this part of `memory.answers` is made and not written of those before it.
const AHEAD_PART: u64 = 8;

/// What reader, handlers and writer of one connection share.
#[derive(Debug)]
pub(crate) struct Client {
    peer: SocketAddr,
    /// When it last did something: began a request, or took the last answer that was ready.
    active: Cell<Instant>,
    /// Whether it has begun a request ever.
    known: Cell<bool>,
    /// Whether requests are under way, or answers being written.
    busy: Cell<bool>,
    /// When the write under way began.
    writing_since: Cell<Option<Instant>>,
    /// Answers that were made of all requests before one that was not: the number of that one.
    made: Cell<u64>,
    /// Bytes of those answers that are not written.
    ahead: Cell<u64>,
    ahead_max: u64,
    /// `made` or `ahead` moved.
    moved: Notify,
    /// Bytes of all answers that are made and not written, whatever their place in line.
    held: Cell<u64>,
    /// Bytes written ever.
    taken: Cell<u64>,
    /// Whether it has had next to nothing to take since this was last looked at.
    caught_up: Cell<bool>,
    gone: Cell<bool>,
    /// Whether a request waits to be started until those ahead of it are answered.
    pressed: Cell<bool>,
    /// `gone` or `pressed` was set.
    hurry: Notify,
}

/// Why a connection is closed that says nothing or takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It takes nothing of its answers, or too little while others wait for their memory.
    Stalled,
    /// It has never sent a request.
    Silent,
    /// Nothing was asked or answered for long.
    Idle,
}

impl Client {
    /// A connection of `peer` that has done nothing, on a shard with so many bytes for answers.
    pub(super) fn new(peer: SocketAddr, answers: u64) -> Client {
        Client {
            peer,
            active: Cell::new(Instant::now()),
            known: Cell::new(false),
            busy: Cell::new(false),
            writing_since: Cell::new(None),
            made: Cell::new(0),
            ahead: Cell::new(0),
            ahead_max: answers / AHEAD_PART,
            moved: Notify::new(),
            held: Cell::new(0),
            taken: Cell::new(0),
            caught_up: Cell::new(true),
            gone: Cell::new(false),
            pressed: Cell::new(false),
            hurry: Notify::new(),
        }
    }

    /// Where it is, as Kafka writes it.
    pub(super) fn host(&self) -> String {
        format!("/{}", self.peer.ip().to_canonical())
    }

    /// Ready when the answer to its request `number` (from 0, in the order in which they came) may be made, whatever its
    /// size. Then nothing but its own making is ahead of it.
    pub(super) async fn turn(&self, number: u64) {
        loop {
            let moved = self.moved.notified();
            if self.made.get() >= number && self.ahead.get() <= self.ahead_max {
                return;
            }
            moved.await;
        }
    }

    /// The same for a request that is not started yet. Requests ahead of it that only wait for something to answer wait no
    /// longer. False when its turn has not come within `limit`.
    pub(super) async fn turn_to_start(&self, number: u64, limit: Duration) -> bool {
        self.pressed.set(true);
        self.hurry.notify_all();
        let turn = time::timeout(limit, self.turn(number)).await;
        self.pressed.set(false);
        turn.is_ok()
    }

    /// Notes an answer of so many bytes.
    pub(super) fn makes(&self, bytes: u64) {
        self.held.set(self.held.get() + bytes);
    }

    /// Notes that the next answer in line, of so many bytes, is to be written.
    pub(super) fn lines_up(&self, bytes: u64) {
        self.made.set(self.made.get() + 1);
        self.ahead.set(self.ahead.get() + bytes);
        self.moved.notify_all();
    }

    /// Notes that a piece is about to be written.
    pub(super) fn writes(&self) {
        self.writing_since.set(Some(Instant::now()));
    }

    /// Notes that it took so many bytes of its answers.
    pub(super) fn takes(&self, bytes: u64) {
        self.taken.set(self.taken.get() + bytes);
        self.ahead.set(self.ahead.get().saturating_sub(bytes));
        self.held.set(self.held.get().saturating_sub(bytes));
        if self.held.get() <= SMALL_ANSWER_BYTES_MAX {
            self.caught_up.set(true);
        }
        self.moved.notify_all();
    }

    /// Notes that everything that was ready is written, or never will be.
    pub(super) fn answered(&self) {
        self.writing_since.set(None);
        self.active.set(Instant::now());
    }

    /// Whether it has more to take than a small answer.
    pub(super) fn is_behind(&self) -> bool {
        self.held.get() > SMALL_ANSWER_BYTES_MAX
    }

    /// Notes whether anything is under way.
    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.set(busy);
    }

    /// Notes the first byte of a request.
    pub(super) fn begins_request(&self) {
        self.active.set(Instant::now());
        self.known.set(true);
    }

    /// Why it should be closed, if so. `slow`: it takes too little, see [`Pace`].
    pub(super) fn verdict(&self, limits: &Kafka, slow: bool) -> Option<Verdict> {
        let stalled = |since: Instant| since.elapsed() > limits.write_timeout;
        if slow || self.writing_since.get().is_some_and(stalled) {
            return Some(Verdict::Stalled);
        }
        let silent = self.active.get().elapsed();
        if !self.known.get() && silent > limits.first_request_timeout {
            return Some(Verdict::Silent);
        }
        (!self.busy.get() && silent > limits.idle_timeout).then_some(Verdict::Idle)
    }

    /// Whether what waits for something to answer should wait no longer: the client sends no more requests, so that
    /// nobody is there to wait for it, or it has sent one that has to wait for this answer.
    pub(super) fn hurries(&self) -> bool {
        self.gone.get() || self.pressed.get()
    }

    /// Ready when it hurries.
    pub(super) fn hurried(&self) -> impl Future<Output = ()> + use<> {
        let (hurries, hurry) = (self.hurries(), self.hurry.notified());
        async move {
            if !hurries {
                hurry.await;
            }
        }
    }

    /// Notes that it sends no more requests.
    pub(super) fn leave(&self) {
        self.gone.set(true);
        self.hurry.notify_all();
    }
}

/// How fast a client that holds answers took them lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When it was looked at since it last had nothing to take, and the bytes it had taken by then.
    seen: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Looks at `client`. Whether it took less than it must during at least `over`, all of which it had something to take.
    pub(super) fn is_slow(&mut self, client: &Client, now: Instant, over: Duration) -> bool {
        if client.caught_up.replace(!client.is_behind()) {
            self.seen.clear();
        }
        let taken = client.taken.get();
        self.seen.push_back((now, taken));
        let old_enough = |seen: &(Instant, u64)| now.since(seen.0) >= over;
        while self.seen.get(1).is_some_and(old_enough) {
            self.seen.pop_front();
        }
        self.seen
            .front()
            .copied()
            .filter(old_enough)
            .is_some_and(|(at, before)| {
                let time = now.since(at).as_millis();
                u128::from(taken - before) * 1000 < u128::from(ANSWER_BYTES_PER_SECOND_MIN) * time
            })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const ANSWERS: u64 = 64 << 20;

    fn client() -> Client {
        Client::new(SocketAddr::from(([127, 0, 0, 1], 9)), ANSWERS)
    }

    fn is_ready(future: impl Future) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(pin!(future).poll(&mut cx), Poll::Ready(_))
    }

    #[test]
    fn turn_comes_when_answers_ahead_are_made_and_few_bytes_of_them_are_left() {
        let client = client();
        assert!(is_ready(client.turn(0)) && !is_ready(client.turn(1)));
        client.makes(ANSWERS);
        assert!(!is_ready(client.turn(1)), "made, but not the first in line");
        client.lines_up(ANSWERS);
        assert!(
            !is_ready(client.turn(1)),
            "all of it is still to be written"
        );
        client.takes(ANSWERS - ANSWERS / AHEAD_PART);
        assert!(is_ready(client.turn(1)) && !is_ready(client.turn(2)));
    }

    #[test]
    fn client_is_slow_that_takes_too_little_for_long_and_not_one_with_nothing_to_take() {
        let (client, mut pace, start) = (client(), Pace::default(), Instant::now());
        let over = Duration::from_secs(30);
        let at = |seconds| start + Duration::from_secs(seconds);
        client.makes(100 << 20);
        for seconds in [0, 8, 16, 24] {
            assert!(!pace.is_slow(&client, at(seconds), over));
        }
        assert!(pace.is_slow(&client, at(32), over));
        // It took enough lately, which does not help it for ever.
        client.takes(12 << 20);
        assert!(!pace.is_slow(&client, at(40), over));
        assert!(!pace.is_slow(&client, at(64), over));
        assert!(pace.is_slow(&client, at(80), over));
        // It had nothing to take in between.
        client.takes(88 << 20);
        client.makes(1 << 20);
        assert!(!pace.is_slow(&client, at(88), over));
        assert!(!pace.is_slow(&client, at(110), over));
        assert!(pace.is_slow(&client, at(120), over));
    }
}
