//! Many senders, one receiver, with or without a bound.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receiver_alive: bool,
    receiver: Option<Waker>,
    waiting_senders: VecDeque<Waker>,
}

/// The sending side.
#[derive(Debug)]
pub struct Sender<T>(Rc<RefCell<State<T>>>);

/// A sender that does not keep the channel open.
#[derive(Debug)]
pub struct WeakSender<T>(Rc<RefCell<State<T>>>);

/// The receiving side.
#[derive(Debug)]
pub struct Receiver<T>(Rc<RefCell<State<T>>>);

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// Nothing is there now.
    #[error("channel is empty")]
    Empty,
    /// Nothing is there and no sender is left.
    #[error("channel is closed")]
    Closed,
}

/// A channel of at most `capacity` values (`usize::MAX` for no bound). Memory is taken as values come.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = Rc::new(RefCell::new(State {
        queue: VecDeque::new(),
        capacity: capacity.max(1),
        senders: 1,
        receiver_alive: true,
        receiver: None,
        waiting_senders: VecDeque::new(),
    }));
    (Sender(state.clone()), Receiver(state))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.borrow_mut().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.borrow_mut();
            state.senders -= 1;
            if state.senders > 0 {
                return;
            }
            state.receiver.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        WeakSender(self.0.clone())
    }
}

impl<T> WeakSender<T> {
    /// A full sender, unless the last one is gone.
    pub fn upgrade(&self) -> Option<Sender<T>> {
        let mut state = self.0.borrow_mut();
        if state.senders == 0 {
            return None;
        }
        state.senders += 1;
        drop(state);
        Some(Sender(self.0.clone()))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (values, wakers) = {
            let mut state = self.0.borrow_mut();
            state.receiver_alive = false;
            (
                std::mem::take(&mut state.queue),
                std::mem::take(&mut state.waiting_senders),
            )
        };
        drop(values);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> Sender<T> {
    /// Sends without waiting.
    ///
    /// # Errors
    /// The value, when the channel is full or its receiver gone (told apart by [`Sender::is_closed`]).
    pub fn try_send(&self, value: T) -> Result<(), T> {
        let waker = {
            let mut state = self.0.borrow_mut();
            if !state.receiver_alive || state.queue.len() >= state.capacity {
                return Err(value);
            }
            state.queue.push_back(value);
            state.receiver.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Sends, waiting for room.
    ///
    /// # Errors
    /// The value, when the receiver is gone.
    pub async fn send(&self, value: T) -> Result<(), T> {
        let mut slot = Some(value);
        poll_fn(|cx| {
            let value = slot.take().expect("polled after completion");
            match self.try_send(value) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(v) if self.is_closed() => Poll::Ready(Err(v)),
                Err(v) => {
                    slot = Some(v);
                    let mut state = self.0.borrow_mut();
                    if !state
                        .waiting_senders
                        .iter()
                        .any(|w| w.will_wake(cx.waker()))
                    {
                        state.waiting_senders.push_back(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        !self.0.borrow().receiver_alive
    }

    /// Values in the channel now.
    pub fn len(&self) -> usize {
        self.0.borrow().queue.len()
    }

    /// Whether the channel is empty now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A sender that does not keep the channel open.
    pub fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.clone())
    }
}

impl<T> Receiver<T> {
    /// The next value; `None` when the channel is empty and no sender is left.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`Receiver::recv`], for futures written by hand.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.try_recv() {
            Ok(v) => Poll::Ready(Some(v)),
            Err(TryRecvError::Closed) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                self.0.borrow_mut().receiver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next value if one is there.
    ///
    /// # Errors
    /// [`TryRecvError`] says whether more can come.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        // Every waiting sender is woken: one woken sender may have been dropped meanwhile,
        // and the room it was to take must not be lost.
        let (value, wakers) = {
            let mut state = self.0.borrow_mut();
            match state.queue.pop_front() {
                Some(v) => (v, std::mem::take(&mut state.waiting_senders)),
                None if state.senders == 0 => return Err(TryRecvError::Closed),
                None => return Err(TryRecvError::Empty),
            }
        };
        wakers.into_iter().for_each(Waker::wake);
        Ok(value)
    }
}
