//! Room in the outbox of a ring: a processor takes it before it runs (rules X8, X10), first come, first served.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tidemill_rt::chan::oneshot;
use tidemill_rt::chan::turn::Turn;

#[derive(Debug)]
struct State {
    limit: u64,
    /// Bytes in the outbox.
    used: u64,
    reserved: u64,
    waiting: VecDeque<(u64, oneshot::Sender<OutboxRoom>)>,
    waits_total: u64,
}

/// Bookkeeping of the room in one outbox. What is in the outbox and what has room in it together stay within the limit, as
/// long as nobody puts in more than the room held for it.
#[derive(Debug, Clone)]
pub(crate) struct Rooms(Rc<RefCell<State>>);

/// Room taken until dropped: until the outcome it was taken for is applied or given up.
#[derive(Debug)]
pub struct OutboxRoom {
    rooms: Rooms,
    bytes: u64,
}

impl OutboxRoom {
    /// Bytes it has room for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it `bytes` large. `false`, and nothing changes, when it would have to wait for that: who holds room and waits
    /// for more may wait for ever. Growing passes by those who wait; they get no room meanwhile, so this has an end.
    pub fn resize(&mut self, bytes: u64) -> bool {
        {
            let mut s = self.rooms.0.borrow_mut();
            let others = s.used + s.reserved - self.bytes;
            if bytes > self.bytes && others + bytes > s.limit {
                return false;
            }
            s.reserved = s.reserved - self.bytes + bytes;
        }
        let shrunk = bytes < self.bytes;
        self.bytes = bytes;
        if shrunk {
            self.rooms.grant();
        }
        true
    }
}

impl Drop for OutboxRoom {
    fn drop(&mut self) {
        self.rooms.0.borrow_mut().reserved -= self.bytes;
        self.rooms.grant();
    }
}

impl State {
    fn fits(&self, bytes: u64) -> bool {
        self.used + self.reserved + bytes <= self.limit
    }
}

impl Rooms {
    pub(crate) fn new(limit: u64) -> Rooms {
        Rooms(Rc::new(RefCell::new(State {
            limit,
            used: 0,
            reserved: 0,
            waiting: VecDeque::new(),
            waits_total: 0,
        })))
    }

    /// Waits for `bytes` of room; more than the whole outbox may hold is cut to that and waits for it to be empty.
    pub(crate) async fn take(&self, bytes: u64) -> OutboxRoom {
        let waiting = {
            let mut s = self.0.borrow_mut();
            let bytes = bytes.min(s.limit);
            if s.waiting.is_empty() && s.fits(bytes) {
                return self.room(&mut s, bytes);
            }
            let (tx, rx) = oneshot::channel();
            s.waiting.push_back((bytes, tx));
            s.waits_total += 1;
            Turn::new(rx, || self.grant())
        };
        let room = waiting.await;
        room.expect("the bookkeeping drops no waiter that still waits")
    }

    fn room(&self, s: &mut State, bytes: u64) -> OutboxRoom {
        s.reserved += bytes;
        OutboxRoom {
            rooms: self.clone(),
            bytes,
        }
    }

    /// Says how many bytes the outbox holds now.
    pub(crate) fn set_used(&self, bytes: u64) {
        self.0.borrow_mut().used = bytes;
        self.grant();
    }

    fn grant(&self) {
        loop {
            let (room, tx) = {
                let mut s = self.0.borrow_mut();
                // Those who gave up are passed over before anything is asked of their size: it is nobody's any more.
                while s.waiting.front().is_some_and(|(_, tx)| tx.is_closed()) {
                    s.waiting.pop_front();
                }
                let state = &*s;
                if !state
                    .waiting
                    .front()
                    .is_some_and(|(bytes, _)| state.fits(*bytes))
                {
                    return;
                }
                let Some((bytes, tx)) = s.waiting.pop_front() else {
                    return;
                };
                (self.room(&mut s, bytes), tx)
            };
            // A waiter that is gone drops the room, which comes back through here.
            let _ = tx.send(room);
        }
    }

    /// How often a processor had to wait: the metric for "full".
    pub(crate) fn waits_total(&self) -> u64 {
        self.0.borrow().waits_total
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn now<T>(future: &mut Pin<Box<impl Future<Output = T>>>) -> Option<T> {
        match future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn taken(rooms: &Rooms, bytes: u64) -> OutboxRoom {
        now(&mut Box::pin(rooms.take(bytes))).expect("there is room")
    }

    #[test]
    fn waiter_that_gives_up_lets_those_behind_it_have_their_turn() {
        let rooms = Rooms::new(100);
        let held = taken(&rooms, 50);
        let mut large = Box::pin(rooms.take(80));
        let mut small = Box::pin(rooms.take(40));
        assert!(now(&mut large).is_none() && now(&mut small).is_none());
        drop(large);
        assert!(now(&mut small).is_some(), "nobody is before it any more");
        drop(held);
    }

    #[test]
    fn large_waiter_that_gave_up_is_passed_over_when_room_comes_back() {
        let rooms = Rooms::new(100);
        rooms.set_used(100);
        let mut first = Box::pin(rooms.take(90));
        let mut second = Box::pin(rooms.take(10));
        assert!(now(&mut first).is_none() && now(&mut second).is_none());
        rooms.set_used(60);
        drop(first);
        assert_eq!(now(&mut second).map(|room| room.bytes()), Some(10));
    }

    #[test]
    fn x8_room_grows_only_within_the_bound_and_shrinks_for_those_who_wait() {
        let rooms = Rooms::new(100);
        rooms.set_used(20);
        let mut held = taken(&rooms, 30);
        assert!(held.resize(80));
        assert!(!held.resize(81), "the outbox would hold more than it may");
        assert_eq!(held.bytes(), 80);
        let mut next = Box::pin(rooms.take(50));
        assert!(now(&mut next).is_none());
        assert!(held.resize(30));
        let next = now(&mut next).expect("what was given back");
        assert!(!held.resize(31));
        drop(next);
        assert!(held.resize(80));
    }
}
