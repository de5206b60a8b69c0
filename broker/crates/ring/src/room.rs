//! Room in the outbox of a ring: a processor takes it before it runs (rules X8, X10), first come, first served.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tidemill_rt::chan::oneshot;

#[derive(Debug)]
struct State {
    limit: u64,
    /// Bytes in the outbox.
    used: u64,
    reserved: u64,
    waiting: VecDeque<(u64, oneshot::Sender<OutboxRoom>)>,
    waits_total: u64,
}

/// Bookkeeping of the room in one outbox.
#[derive(Debug, Clone)]
pub(crate) struct Rooms(Rc<RefCell<State>>);

/// Room taken until dropped: until the outcome it was taken for is applied or given up.
#[derive(Debug)]
pub struct OutboxRoom {
    rooms: Rooms,
    bytes: u64,
}

impl Drop for OutboxRoom {
    fn drop(&mut self) {
        self.rooms.0.borrow_mut().reserved -= self.bytes;
        self.rooms.grant();
    }
}

impl State {
    fn fits(&self, bytes: u64) -> bool {
        let taken = self.used + self.reserved;
        taken == 0 || taken + bytes <= self.limit
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
        let rx = {
            let mut s = self.0.borrow_mut();
            let bytes = bytes.min(s.limit);
            if s.waiting.is_empty() && s.fits(bytes) {
                return self.room(&mut s, bytes);
            }
            let (tx, rx) = oneshot::channel();
            s.waiting.push_back((bytes, tx));
            s.waits_total += 1;
            rx
        };
        let _alive = self.clone();
        rx.await
            .expect("the room's bookkeeping outlives its waiters: they hold it")
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
                match s.waiting.front() {
                    Some((bytes, _)) if s.fits(*bytes) => {}
                    _ => return,
                }
                let Some((bytes, tx)) = s.waiting.pop_front() else {
                    return;
                };
                if tx.is_closed() {
                    continue;
                }
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
