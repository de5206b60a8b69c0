//! What is due when: one heap for all groups of a partition, one entry for whatever waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Something that is due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Old offsets and empty groups are to be looked for.
    Expiry,
    /// A group waited long enough for its members to join.
    Rebalance(Arc<str>),
    /// A group waited long enough for its members to ask for their assignments.
    Sync(Arc<str>),
    /// A member of a group, or one about to join, was silent for too long.
    Session(Arc<str>, Arc<str>),
}

/// The timers of a partition. Setting one again moves it; there is never more than one entry for each.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_time: BTreeSet<(u64, Timer)>,
    due: BTreeMap<Timer, u64>,
}

impl Timers {
    /// Makes `timer` due at `at_ms`.
    pub(crate) fn set(&mut self, timer: Timer, at_ms: u64) {
        self.clear(&timer);
        self.by_time.insert((at_ms, timer.clone()));
        self.due.insert(timer, at_ms);
    }

    /// Forgets `timer`.
    pub(crate) fn clear(&mut self, timer: &Timer) {
        if let Some(at_ms) = self.due.remove(timer) {
            self.by_time.remove(&(at_ms, timer.clone()));
        }
    }

    /// When the next one is due, in ms.
    pub(crate) fn next(&self) -> Option<u64> {
        self.by_time.first().map(|(at_ms, _)| *at_ms)
    }

    /// Takes the next one that is due at `now_ms`.
    pub(crate) fn pop(&mut self, now_ms: u64) -> Option<Timer> {
        if self.next()? > now_ms {
            return None;
        }
        let (_, timer) = self.by_time.pop_first()?;
        self.due.remove(&timer);
        Some(timer)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_that_is_set_again_is_due_once_at_the_new_time() {
        let mut timers = Timers::default();
        timers.set(Timer::Expiry, 5);
        timers.set(Timer::Rebalance("g".into()), 7);
        timers.set(Timer::Expiry, 9);
        assert_eq!((timers.next(), timers.len()), (Some(7), 2));
        assert_eq!(timers.pop(6), None);
        assert_eq!(timers.pop(9), Some(Timer::Rebalance("g".into())));
        assert_eq!(timers.pop(9), Some(Timer::Expiry));
        assert_eq!((timers.pop(99), timers.len()), (None, 0));
    }
}
