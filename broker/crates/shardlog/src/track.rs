//! What the frames of one ring add up to, in order: pure, shared by recovery and by the check of what is appended.

use std::collections::BTreeMap;

use bytes::Bytes;

/// What the log holds of a ring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveredRing {
    /// Its latest vote.
    pub vote: Option<Bytes>,
    /// The largest index purged, and what was kept with it.
    pub purged: Option<(u64, Bytes)>,
    /// Its entries above that, consecutive.
    pub entries: BTreeMap<u64, Bytes>,
}

/// Index of a ring's last entry, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tail(Option<u64>);

impl Tail {
    /// Takes the next entry.
    ///
    /// # Errors
    /// The index that had to come.
    pub(crate) fn entry(&mut self, index: u64) -> Result<(), u64> {
        match self.0 {
            Some(last) if index != last + 1 => Err(last + 1),
            _ => {
                self.0 = Some(index);
                Ok(())
            }
        }
    }

    pub(crate) fn truncate(&mut self, after: u64) {
        self.0 = self.0.map(|last| last.min(after));
    }

    pub(crate) fn purge(&mut self, upto: u64) {
        // Unknown stays unknown: entries up to a later purge may have gone with a removed file.
        self.0 = self.0.map(|last| last.max(upto));
    }
}

/// A ring while its frames are read from oldest to newest.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) ring: RecoveredRing,
    pub(crate) tail: Tail,
}

impl Replay {
    /// # Errors
    /// What is wrong with the entry's index.
    pub(crate) fn entry(&mut self, index: u64, data: Bytes) -> Result<(), String> {
        self.tail
            .entry(index)
            .map_err(|expected| format!("entry {index} stands where {expected} must"))?;
        if self.ring.purged.as_ref().is_none_or(|p| index > p.0) {
            self.ring.entries.insert(index, data);
        }
        Ok(())
    }

    /// Takes a copy of an entry. Where the original was read it says nothing new; where the original's file is gone, entries
    /// behind it may have been read before it, and some in front of it may still come: what the ring ends with stays unknown.
    pub(crate) fn carried(&mut self, index: u64, data: Bytes) {
        if self.ring.purged.as_ref().is_none_or(|p| index > p.0) {
            self.ring.entries.entry(index).or_insert(data);
        }
    }

    /// To be called at the end: what the ring ends with is known then, if anything of it is there.
    pub(crate) fn settle(&mut self) {
        let last = self.ring.entries.keys().next_back();
        if let (None, Some(last)) = (self.tail.0, last) {
            self.tail.0 = Some(*last);
        }
    }

    pub(crate) fn truncate(&mut self, after: u64) {
        self.tail.truncate(after);
        if let Some(first) = after.checked_add(1) {
            drop(self.ring.entries.split_off(&first));
        }
    }

    pub(crate) fn purge(&mut self, upto: u64, data: Bytes) {
        self.tail.purge(upto);
        if self.ring.purged.as_ref().is_none_or(|p| upto >= p.0) {
            self.ring.purged = Some((upto, data));
            self.ring.entries = match upto.checked_add(1) {
                Some(first) => self.ring.entries.split_off(&first),
                None => BTreeMap::new(),
            };
        }
    }

    /// The first index that is missing between what was purged and the last entry there is.
    pub(crate) fn hole(&self) -> Option<u64> {
        let first = *self.ring.entries.keys().next()?;
        let due = match &self.ring.purged {
            Some((upto, _)) => upto + 1,
            None => first.min(1),
        };
        (due..)
            .zip(self.ring.entries.keys())
            .find_map(|(due, index)| (*index != due).then_some(due))
    }
}
