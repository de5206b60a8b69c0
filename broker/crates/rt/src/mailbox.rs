//! Bounded queues into a shard, from any thread.
//!
//! The one way across threads. A message sent wakes the receiving task; the queue's capacity is its limit,
//! and a sender either waits for room or is told that there is none.

#![allow(
    clippy::disallowed_types,
    reason = "this is the one place where threads meet"
)]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receiver_alive: bool,
    receiver: Option<Waker>,
    waiting_senders: Vec<Waker>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Why a message was not taken; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The queue holds as many messages as it may.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

/// The sending side: clone it into any thread.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving side: lives on one thread.
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("mailbox::Sender")
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("mailbox::Receiver")
    }
}

/// A queue of at most `capacity` messages.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            queue: VecDeque::new(),
            capacity: capacity.max(1),
            senders: 1,
            receiver_alive: true,
            receiver: None,
            waiting_senders: Vec::new(),
        }),
        arrived: Condvar::new(),
    });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.lock();
            state.senders -= 1;
            if state.senders > 0 {
                return;
            }
            state.receiver.take()
        };
        self.0.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (wakers, messages) = {
            let mut state = self.0.lock();
            state.receiver_alive = false;
            // Dropped here, on the receiver's thread, before its engine ends.
            state.receiver = None;
            (
                std::mem::take(&mut state.waiting_senders),
                std::mem::take(&mut state.queue),
            )
        };
        drop(messages);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> Sender<T> {
    /// Puts `message` in without waiting. Works on every thread.
    ///
    /// # Errors
    /// [`TrySendError::Full`] when the queue is at its capacity, [`TrySendError::Closed`] when nobody receives.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let waker = {
            let mut state = self.0.lock();
            if !state.receiver_alive {
                return Err(TrySendError::Closed(message));
            }
            if state.queue.len() >= state.capacity {
                return Err(TrySendError::Full(message));
            }
            state.queue.push_back(message);
            state.receiver.take()
        };
        self.0.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Puts `message` in, waiting for room.
    ///
    /// # Errors
    /// The message, when nobody receives any more.
    pub async fn send(&self, message: T) -> Result<(), T> {
        let mut slot = Some(message);
        poll_fn(|cx| {
            let message = slot.take().expect("polled after completion");
            match self.try_send(message) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(TrySendError::Closed(m)) => Poll::Ready(Err(m)),
                Err(TrySendError::Full(m)) => {
                    let mut state = self.0.lock();
                    if !state.receiver_alive {
                        return Poll::Ready(Err(m));
                    }
                    slot = Some(m);
                    if state.queue.len() < state.capacity {
                        cx.waker().wake_by_ref();
                    } else if !state
                        .waiting_senders
                        .iter()
                        .any(|w| w.will_wake(cx.waker()))
                    {
                        state.waiting_senders.push(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Messages in the queue now.
    pub fn len(&self) -> usize {
        self.0.lock().queue.len()
    }

    /// Whether the queue holds no message now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nobody receives any more.
    pub fn is_closed(&self) -> bool {
        !self.0.lock().receiver_alive
    }
}

impl<T> Receiver<T> {
    /// The next message; `None` when the queue is empty and no sender is left.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock();
        if let Some(message) = state.queue.pop_front() {
            let wakers = std::mem::take(&mut state.waiting_senders);
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
            return Poll::Ready(Some(message));
        }
        if state.senders == 0 {
            return Poll::Ready(None);
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The next message if one is there.
    pub fn try_recv(&mut self) -> Option<T> {
        let (message, wakers) = {
            let mut state = self.0.lock();
            let message = state.queue.pop_front()?;
            (message, std::mem::take(&mut state.waiting_senders))
        };
        wakers.into_iter().for_each(Waker::wake);
        Some(message)
    }

    /// The next message, blocking the thread: for threads that no engine runs (guests, the compile pool).
    /// `None` when the queue is empty and no sender is left.
    pub fn recv_blocking(&mut self) -> Option<T> {
        let mut state = self.0.lock();
        loop {
            if let Some(message) = state.queue.pop_front() {
                let wakers = std::mem::take(&mut state.waiting_senders);
                drop(state);
                wakers.into_iter().for_each(Waker::wake);
                return Some(message);
            }
            if state.senders == 0 {
                return None;
            }
            state = self
                .0
                .arrived
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

/// One answer, across threads.
pub mod reply {
    use super::{Receiver, Sender, channel};

    /// The side that answers.
    #[derive(Debug)]
    pub struct ReplySender<T>(Sender<T>);

    /// The side that waits.
    #[derive(Debug)]
    pub struct ReplyReceiver<T>(Receiver<T>);

    /// A pair for one answer.
    pub fn reply<T>() -> (ReplySender<T>, ReplyReceiver<T>) {
        let (tx, rx) = channel(1);
        (ReplySender(tx), ReplyReceiver(rx))
    }

    impl<T> ReplySender<T> {
        /// Answers; the answer is dropped when nobody waits. Works on every thread.
        pub fn send(self, answer: T) {
            let _ = self.0.try_send(answer);
        }
    }

    impl<T> ReplyReceiver<T> {
        /// The answer; `None` when the other side went away without one.
        pub async fn recv(mut self) -> Option<T> {
            self.0.recv().await
        }

        /// The answer, blocking the thread (for threads that no engine runs).
        pub fn recv_blocking(mut self) -> Option<T> {
            self.0.recv_blocking()
        }
    }
}
