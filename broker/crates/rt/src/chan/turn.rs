//! A place in a queue for something that is shared out.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::oneshot;

/// Waits for what the other end of a oneshot channel hands over. Whoever gives up waiting first leaves its place and then
/// calls `pass_on`, so that those behind it have their turn: it may have been handed something at that very moment, or been
/// the large one that small ones waited behind. `pass_on` looks for the next waiter that still waits
/// ([`oneshot::Sender::is_closed`]) and must bear being called when nothing has changed.
#[derive(Debug)]
pub struct Turn<T, F: Fn()> {
    handed: oneshot::Receiver<T>,
    pass_on: F,
}

impl<T, F: Fn()> Turn<T, F> {
    /// Waits for `handed`.
    pub fn new(handed: oneshot::Receiver<T>, pass_on: F) -> Turn<T, F> {
        Turn { handed, pass_on }
    }
}

impl<T, F: Fn() + Unpin> Future for Turn<T, F> {
    /// Nothing when the other end is gone without handing anything over.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.handed).poll(cx).map(Result::ok)
    }
}

impl<T, F: Fn()> Drop for Turn<T, F> {
    fn drop(&mut self) {
        self.handed.close();
        (self.pass_on)();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn whoever_gives_up_is_seen_to_be_gone_when_the_turn_passes_on() {
        let (tx, rx) = oneshot::channel::<u8>();
        let seen = Rc::new(Cell::new(false));
        let (tx, note) = (Rc::new(tx), seen.clone());
        let other = tx.clone();
        drop(Turn::new(rx, move || note.set(other.is_closed())));
        assert!(seen.get());
    }
}
