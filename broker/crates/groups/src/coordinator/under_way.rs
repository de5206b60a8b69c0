//! What is being written: a search for old commits leaves it alone, and a deletion takes it back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::codec::Key;
use crate::store::Place;

/// Records by group, then by what they are about: a commit's place, or nothing for the group's own. Counted, for there may be
/// several of one.
#[derive(Debug, Default)]
pub(super) struct UnderWay(BTreeMap<Arc<str>, BTreeMap<Option<Place>, usize>>);

/// The group of a record, and what of it the record is about.
fn parts(key: &Key) -> (&str, Option<Place>) {
    match key {
        Key::Group { group } => (group, None),
        Key::Offset {
            group,
            topic,
            partition,
        } => (group, Some((topic.as_str().into(), *partition))),
    }
}

impl UnderWay {
    /// A record of this key is queued.
    pub(super) fn begin(&mut self, key: &Key) {
        let (group, what) = parts(key);
        if !self.0.contains_key(group) {
            self.0.insert(group.into(), BTreeMap::new());
        }
        let counts = self.0.get_mut(group).expect("it was put there");
        *counts.entry(what).or_default() += 1;
    }

    /// One has landed, or failed.
    pub(super) fn end(&mut self, key: &Key) {
        let (group, what) = parts(key);
        let Some(counts) = self.0.get_mut(group) else {
            return;
        };
        match counts.get_mut(&what) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&what)),
        }
        if counts.is_empty() {
            self.0.remove(group);
        }
    }

    /// Whether anything of this group is being written.
    pub(super) fn concerns(&self, group: &str) -> bool {
        self.0.contains_key(group)
    }

    /// What of this group is being written.
    pub(super) fn of(&self, group: &str) -> impl Iterator<Item = Option<&Place>> {
        let counts = self.0.get(group).into_iter().flatten();
        counts.map(|(what, _)| what.as_ref())
    }
}
