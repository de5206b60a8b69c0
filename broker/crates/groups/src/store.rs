//! What `__consumer_offsets` says: the lasting state of a partition's groups. It changes by records alone, in the order of
//! the log.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_model::{Offset, TopicId};

use crate::codec::{self, CodecError, Key};

/// Bytes that an entry takes in memory beside its texts, about.
const ENTRY_BYTES: usize = 128;

/// Bytes that a record takes in a batch beside its key's texts, its value and its header, about.
const RECORD_BYTES: usize = 32;

/// Bytes that a record which waits to be written takes in memory beside its texts and its value, about: itself, its
/// allocations, and what is noted of it while it is on its way.
const RECORD_MEMORY_BYTES: usize = 320;

/// What a group has committed of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The topic, by id; [`TopicId::NONE`] where the record does not say.
    pub topic_id: TopicId,
    /// The next offset to read.
    pub offset: Offset,
    /// Leader epoch of the last record read, -1 if not known.
    pub leader_epoch: i32,
    /// What the client wrote with it.
    pub metadata: String,
    /// When, in ms since the Unix epoch.
    pub commit_ms: i64,
    /// When it expires, in ms since the Unix epoch, if the client said so.
    pub expire_ms: Option<i64>,
}

/// A group as its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord {
    /// What kind of group it is; empty if only offsets were committed.
    pub protocol_type: String,
    /// Its generation.
    pub generation: i32,
    /// The protocol chosen.
    pub protocol: Option<String>,
    /// Its leader.
    pub leader: Option<String>,
    /// Since when it is in its state, in ms since the Unix epoch; -1 if not known.
    pub since_ms: i64,
    /// Its members.
    pub members: Vec<MemberRecord>,
}

/// A member as a group's record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its id.
    pub id: String,
    /// Its instance.
    pub instance: Option<String>,
    /// What its client calls itself.
    pub client_id: String,
    /// Where it is.
    pub client_host: String,
    /// How long others wait for it, in ms.
    pub rebalance_ms: i32,
    /// How long it may be silent, in ms.
    pub session_ms: i32,
    /// What it says under the protocol chosen.
    pub subscription: Bytes,
    /// What it was assigned.
    pub assignment: Bytes,
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is about.
    pub key: Key,
    /// What it says; nothing is a tombstone.
    pub value: Option<Bytes>,
    /// The id of a commit's topic.
    pub topic_id: Option<TopicId>,
}

impl Record {
    /// Bytes it takes in a batch, about.
    pub fn bytes(&self) -> usize {
        let key = match &self.key {
            Key::Offset { group, topic, .. } => offset_key_bytes(group, topic),
            Key::Group { group } => RECORD_BYTES + group.len(),
        };
        key + self.value.as_ref().map_or(0, Bytes::len)
    }

    /// Bytes it takes in memory until it is written, about.
    pub fn memory(&self) -> usize {
        let texts = match &self.key {
            Key::Offset { group, topic, .. } => group.len() + 2 * topic.len(),
            Key::Group { group } => group.len(),
        };
        RECORD_MEMORY_BYTES + texts + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// A value and where its record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) offset: Offset,
}

/// Topic and partition.
pub(crate) type Place = (Arc<str>, i32);

/// What is known of one group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stored {
    /// Its record, as it was written.
    pub(crate) record: Option<At<Bytes>>,
    /// What it has committed.
    pub(crate) commits: BTreeMap<Place, At<Commit>>,
}

impl Stored {
    fn is_empty(&self) -> bool {
        self.record.is_none() && self.commits.is_empty()
    }
}

/// The lasting state of the groups of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Store {
    pub(crate) groups: BTreeMap<Arc<str>, Stored>,
    bytes: usize,
    log_bytes: usize,
    commits: usize,
}

/// Bytes that a commit's record takes in a batch, about: those of [`Record::bytes`], without making it.
pub(crate) fn log_bytes(group: &str, place: &Place, commit: &Commit) -> usize {
    offset_key_bytes(group, &place.0) + codec::commit_bytes(commit)
}

fn offset_key_bytes(group: &str, topic: &str) -> usize {
    RECORD_BYTES + group.len() + topic.len() + codec::TOPIC_ID_HEADER.len() + 24
}

fn commit_bytes(place: &Place, commit: &Commit) -> usize {
    ENTRY_BYTES + place.0.len() + commit.metadata.len()
}

impl Store {
    /// Nothing.
    pub fn new() -> Store {
        Store::default()
    }

    /// Bytes that a copy of it takes in the log, about.
    pub fn log_bytes(&self) -> usize {
        self.log_bytes
    }

    /// Bytes more that it takes in memory, about, once `commits` of `group` are in it.
    pub(crate) fn growth(&self, group: &str, commits: &BTreeMap<Place, Commit>) -> usize {
        let stored = self.groups.get(group);
        let entry = stored.map_or(ENTRY_BYTES + group.len(), |_| 0);
        let old = |place| stored.and_then(|s| s.commits.get(place));
        let added: usize = commits.iter().map(|(p, c)| commit_bytes(p, c)).sum();
        let there = commits.keys().filter_map(|p| Some((p, old(p)?)));
        let removed: usize = there.map(|(p, at)| commit_bytes(p, &at.value)).sum();
        (entry + added).saturating_sub(removed)
    }

    /// Bytes that it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Groups it knows.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Commits it knows.
    pub fn commits(&self) -> usize {
        self.commits
    }

    /// Takes in a record that is in the log at `offset`. Records come in the order of the log.
    ///
    /// # Errors
    /// [`CodecError`]; nothing is changed then.
    pub fn apply(&mut self, record: &Record, offset: Offset) -> Result<(), CodecError> {
        match (&record.key, &record.value) {
            (Key::Group { group }, None) => self.forget_record(group),
            (Key::Group { group }, Some(value)) => {
                codec::decode_group(value)?;
                self.put_record(group, value.clone(), offset);
            }
            (
                Key::Offset {
                    group,
                    topic,
                    partition,
                },
                None,
            ) => {
                self.forget_commit(group, &(topic.as_str().into(), *partition));
            }
            (
                Key::Offset {
                    group,
                    topic,
                    partition,
                },
                Some(value),
            ) => {
                let id = record.topic_id.unwrap_or(TopicId::NONE);
                let commit = codec::decode_commit(value, id)?;
                self.put_commit(
                    group,
                    (topic.as_str().into(), *partition),
                    At {
                        value: commit,
                        offset,
                    },
                );
            }
        }
        Ok(())
    }

    fn entry(&mut self, group: &str) -> &mut Stored {
        match self.groups.entry(group.into()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(new) => {
                self.bytes += ENTRY_BYTES + group.len();
                new.insert(Stored::default())
            }
        }
    }

    fn put_record(&mut self, group: &str, value: Bytes, offset: Offset) {
        let added = value.len();
        let old = self.entry(group).record.replace(At { value, offset });
        let (removed, entry) = match old {
            Some(old) => (old.value.len(), 0),
            None => (0, RECORD_BYTES + group.len()),
        };
        self.bytes = self.bytes + added - removed;
        self.log_bytes = self.log_bytes + entry + added - removed;
    }

    fn put_commit(&mut self, group: &str, place: Place, commit: At<Commit>) {
        let added = commit_bytes(&place, &commit.value);
        self.log_bytes += log_bytes(group, &place, &commit.value);
        let mut log_removed = 0;
        let removed = match self.entry(group).commits.entry(place) {
            Entry::Occupied(mut there) => {
                let old = there.insert(commit).value;
                let place = there.key();
                log_removed = log_bytes(group, place, &old);
                commit_bytes(place, &old)
            }
            Entry::Vacant(new) => {
                new.insert(commit);
                self.commits += 1;
                0
            }
        };
        self.bytes = self.bytes + added - removed;
        self.log_bytes -= log_removed;
    }

    fn forget_record(&mut self, group: &str) {
        let Some(stored) = self.groups.get_mut(group) else {
            return;
        };
        if let Some(old) = stored.record.take() {
            self.bytes -= old.value.len();
            self.log_bytes -= RECORD_BYTES + group.len() + old.value.len();
        }
        self.forget_if_empty(group);
    }

    fn forget_commit(&mut self, group: &str, place: &Place) {
        let Some(stored) = self.groups.get_mut(group) else {
            return;
        };
        if let Some(old) = stored.commits.remove(place) {
            self.bytes -= commit_bytes(place, &old.value);
            self.log_bytes -= log_bytes(group, place, &old.value);
            self.commits -= 1;
        }
        self.forget_if_empty(group);
    }

    fn forget_if_empty(&mut self, group: &str) {
        if self.groups.get(group).is_some_and(Stored::is_empty) {
            self.groups.remove(group);
            self.bytes -= ENTRY_BYTES + group.len();
        }
    }

    /// What a group has committed of a partition.
    pub fn commit(&self, group: &str, topic: &str, partition: i32) -> Option<&Commit> {
        let stored = self.groups.get(group)?;
        stored
            .commits
            .get(&(topic.into(), partition))
            .map(|at| &at.value)
    }

    /// Everything that a group has committed.
    pub fn commits_of(&self, group: &str) -> impl Iterator<Item = (&str, i32, &Commit)> {
        let commits = self.groups.get(group).into_iter().flat_map(|s| &s.commits);
        commits.map(|((topic, partition), at)| (&**topic, *partition, &at.value))
    }

    /// The same state with no word of where its records are: what two histories are compared by.
    pub fn contents(&self) -> Contents {
        let of = |(group, stored): (&Arc<str>, &Stored)| {
            let commits = stored
                .commits
                .iter()
                .map(|(p, at)| (p.clone(), at.value.clone()));
            let record = stored.record.as_ref().map(|at| at.value.clone());
            (group.to_string(), (record, commits.collect()))
        };
        self.groups.iter().map(of).collect()
    }
}

/// What [`Store::contents`] tells, by group: its record and its commits.
pub type Contents = BTreeMap<String, (Option<Bytes>, BTreeMap<(Arc<str>, i32), Commit>)>;
