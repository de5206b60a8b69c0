//! The latest value, and a wake-up when it changes.

use std::cell::{Ref, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

#[derive(Debug)]
struct Shared<T> {
    value: RefCell<T>,
    meta: RefCell<Meta>,
}

#[derive(Debug)]
struct Meta {
    version: u64,
    senders: usize,
    receivers: usize,
    wakers: Vec<Waker>,
}

/// The sending side.
#[derive(Debug)]
pub struct Sender<T>(Rc<Shared<T>>);

/// The receiving side; remembers which value it has seen.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

/// The other side is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side of the watch is gone")]
pub struct Closed;

/// A watch that holds `value`, which its first receiver counts as seen.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: RefCell::new(value),
        meta: RefCell::new(Meta {
            version: 0,
            senders: 1,
            receivers: 1,
            wakers: Vec::new(),
        }),
    });
    (Sender(shared.clone()), Receiver { shared, seen: 0 })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.meta.borrow_mut().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let wakers = {
            let mut meta = self.0.meta.borrow_mut();
            meta.senders -= 1;
            if meta.senders > 0 {
                return;
            }
            std::mem::take(&mut meta.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.meta.borrow_mut().receivers += 1;
        Receiver {
            shared: self.shared.clone(),
            seen: self.seen,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.meta.borrow_mut().receivers -= 1;
    }
}

impl<T> Sender<T> {
    /// Replaces the value and wakes the receivers.
    ///
    /// # Errors
    /// The value, when there is no receiver; it is then not stored.
    pub fn send(&self, value: T) -> Result<(), T> {
        if self.0.meta.borrow().receivers == 0 {
            return Err(value);
        }
        let old = std::mem::replace(&mut *self.0.value.borrow_mut(), value);
        drop(old);
        self.changed();
        Ok(())
    }

    /// Changes the value in place; wakes the receivers when `change` says that it did.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = change(&mut self.0.value.borrow_mut());
        if modified {
            self.changed();
        }
        modified
    }

    fn changed(&self) {
        let wakers = {
            let mut meta = self.0.meta.borrow_mut();
            meta.version += 1;
            std::mem::take(&mut meta.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The value now.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    /// A further receiver, which counts the value of now as seen.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = {
            let mut meta = self.0.meta.borrow_mut();
            meta.receivers += 1;
            meta.version
        };
        Receiver {
            shared: self.0.clone(),
            seen,
        }
    }
}

impl<T> Receiver<T> {
    /// The value now. Do not hold it across an `.await`.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    /// The value now, counted as seen. Do not hold it across an `.await`.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.meta.borrow().version;
        self.shared.value.borrow()
    }

    /// Waits for a value this receiver has not seen, and counts it as seen.
    ///
    /// # Errors
    /// [`Closed`] when there is none and every sender is gone.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| {
            let mut meta = self.shared.meta.borrow_mut();
            if meta.version != self.seen {
                self.seen = meta.version;
                return Poll::Ready(Ok(()));
            }
            if meta.senders == 0 {
                return Poll::Ready(Err(Closed));
            }
            if !meta.wakers.iter().any(|w| w.will_wake(cx.waker())) {
                meta.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until `ready` holds for the value.
    ///
    /// # Errors
    /// [`Closed`] when every sender is gone before.
    pub async fn wait_for(&mut self, mut ready: impl FnMut(&T) -> bool) -> Result<(), Closed> {
        loop {
            if ready(&self.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}
