//! Copying forward: there is no compaction, so that now and then the live state is written anew at the end of the log and
//! what is before the copy is dropped.
//!
//! Why the copy is safe: each piece of it is made and queued while no write is under way, so that it says what is true at
//! its place in the log; what was written after the copy began is not copied, for it lies behind the beginning already. At
//! each point the log as it stands replays to the same state, and once the last piece is durable, so does the log from the
//! copy's beginning on.

use std::ops::Bound;
use std::sync::Arc;

use tidemill_model::Offset;

use crate::codec::{self, Key};
use crate::store::{Commit, Place, Record, Store, Stored};

/// Entries that are looked at for one piece.
const ENTRIES_AT_ONCE: usize = 10_000;

/// A copy under way.
#[derive(Debug, Clone)]
pub struct Copy {
    from: Offset,
    /// The last that was looked at: a group, its record or a commit of it.
    done: Option<(Arc<str>, Option<Place>)>,
}

/// A piece of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// To be written, perhaps nothing.
    pub records: Vec<Record>,
    /// Whether it was the last.
    pub last: bool,
}

impl Copy {
    /// A copy whose first record will be at `from` or later: everything before is copied, nothing else.
    pub fn new(from: Offset) -> Copy {
        Copy { from, done: None }
    }

    /// Where it begins.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// The next piece, of about `bytes_max` bytes. Only to be called, and to be queued, while no write is under way.
    pub fn next(&mut self, store: &Store, bytes_max: usize) -> Piece {
        let (mut records, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        let start = match &self.done {
            None => Bound::Unbounded,
            Some((group, _)) => Bound::Included(group.clone()),
        };
        for (group, stored) in store.groups.range::<Arc<str>, _>((start, Bound::Unbounded)) {
            let place = match &self.done {
                Some((done, place)) if done == group => Some(place.clone()),
                _ => None,
            };
            if place.is_none() {
                self.done = Some((group.clone(), None));
                looked_at += 1;
                add(&mut records, &mut bytes, self.record_of(group, stored));
            }
            let after = place.flatten().map_or(Bound::Unbounded, Bound::Excluded);
            for (place, at) in stored.commits.range::<Place, _>((after, Bound::Unbounded)) {
                if bytes >= bytes_max || looked_at >= ENTRIES_AT_ONCE {
                    return Piece {
                        records,
                        last: false,
                    };
                }
                self.done = Some((group.clone(), Some(place.clone())));
                looked_at += 1;
                if at.offset < self.from {
                    add(
                        &mut records,
                        &mut bytes,
                        Some(commit_record(group, place, &at.value)),
                    );
                }
            }
            if bytes >= bytes_max || looked_at >= ENTRIES_AT_ONCE {
                return Piece {
                    records,
                    last: false,
                };
            }
        }
        Piece {
            records,
            last: true,
        }
    }

    fn record_of(&self, group: &Arc<str>, stored: &Stored) -> Option<Record> {
        let at = stored.record.as_ref().filter(|at| at.offset < self.from)?;
        Some(Record {
            key: Key::Group {
                group: group.to_string(),
            },
            value: Some(at.value.clone()),
            topic_id: None,
        })
    }
}

fn add(records: &mut Vec<Record>, bytes: &mut usize, record: Option<Record>) {
    if let Some(record) = record {
        *bytes += record.bytes();
        records.push(record);
    }
}

/// A commit as it is written.
pub(crate) fn commit_record(group: &str, place: &Place, commit: &Commit) -> Record {
    Record {
        key: Key::Offset {
            group: group.to_owned(),
            topic: place.0.to_string(),
            partition: place.1,
        },
        value: Some(codec::encode_commit(commit).into()),
        topic_id: Some(commit.topic_id),
    }
}
