//! Committing offsets, and taking commits back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_model::{Offset, TopicId};

use super::{Coordinator, is_group_id};
use crate::codec::{self, Key};
use crate::copy::commit_record;
use crate::error::GroupError;
use crate::group::State;
use crate::limits::{COMMIT_BYTES_MAX, COMMIT_METADATA_BYTES_MAX};
use crate::request::{Now, Then, Who, Write};
use crate::store::{Commit, Place, Record, log_bytes};

/// The protocol type of groups whose members say which topics they read.
const CONSUMER: &str = "consumer";

/// An offset to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCommit {
    /// The topic.
    pub topic: Arc<str>,
    /// Its id.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: Offset,
    /// Leader epoch of the last record read, -1 if not known.
    pub leader_epoch: i32,
    /// What the client writes with it.
    pub metadata: String,
    /// When it expires, in ms since the Unix epoch, if the client says so.
    pub expire_ms: Option<i64>,
}

/// What becomes of each of several offsets, in order, and what is to be written for it.
pub type Each = (Vec<Result<(), GroupError>>, Option<Write>);

impl Coordinator {
    /// Commits offsets: which may be committed, and what is to be written. They count once it is written.
    ///
    /// # Errors
    /// Why none may.
    pub fn commit(
        &mut self,
        group: &str,
        who: &Who,
        generation: i32,
        commits: Vec<NewCommit>,
        now: Now,
    ) -> Result<Each, GroupError> {
        if !is_group_id(group) {
            return Err(GroupError::InvalidGroupId);
        }
        let mut effects = Vec::new();
        let allowed = self.with(group, now, &mut effects, |g, ctx| {
            g.may_commit(who, generation, ctx)
        });
        match allowed {
            Some(allowed) => allowed?,
            // A consumer that assigns partitions itself needs no group; one that speaks of a generation had one.
            None if generation >= 0 => return Err(GroupError::IllegalGeneration),
            None => {}
        }
        let (results, last) = sort_out(commits, now);
        let log_bytes: usize = last.iter().map(|(p, c)| log_bytes(group, p, c)).sum();
        if log_bytes > COMMIT_BYTES_MAX {
            self.budget.count_refused();
            return Err(GroupError::CommitTooLarge);
        }
        let bytes = self.store.growth(group, &last);
        if !self.budget.admits(u64::from(allowed.is_none()), bytes) {
            return Err(GroupError::NoRoom);
        }
        let records = last.iter().map(|(p, c)| commit_record(group, p, c));
        let records = records.collect();
        Ok((results, self.writing(records)))
    }

    fn writing(&mut self, records: Vec<Record>) -> Option<Write> {
        if records.is_empty() {
            return None;
        }
        self.launch(&records);
        Some(Write {
            records,
            then: Then::Nothing,
        })
    }

    /// Takes commits of a group back, by topic and partition.
    ///
    /// # Errors
    /// Why none may be taken back.
    pub fn delete_offsets(
        &mut self,
        group: &str,
        places: &[(Arc<str>, i32)],
    ) -> Result<Each, GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let found = self.groups.get(group).filter(|g| g.state() != State::Dead);
        let subscribed = match found {
            None => return Err(GroupError::GroupIdNotFound),
            Some(g) if g.state() == State::Empty => Vec::new(),
            Some(g) => subscriptions(g).ok_or(GroupError::NonEmptyGroup)?,
        };
        let (mut seen, mut bytes) = (BTreeSet::new(), 0);
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(places.len());
        for (topic, partition) in places {
            if subscribed.iter().any(|s| **s == **topic) {
                results.push(Err(GroupError::GroupSubscribedToTopic));
                continue;
            }
            results.push(Ok(()));
            let there = self.store.commit(group, topic, *partition).is_some();
            if there && seen.insert((topic, partition)) {
                let record = tombstone(group, topic, *partition);
                bytes += record.bytes();
                records.push(record);
            }
            if bytes > COMMIT_BYTES_MAX {
                self.budget.count_refused();
                return Err(GroupError::CommitTooLarge);
            }
        }
        Ok((results, self.writing(records)))
    }
}

/// What becomes of each of several offsets, and what is to be written: the last for each partition that may be committed.
fn sort_out(
    commits: Vec<NewCommit>,
    now: Now,
) -> (Vec<Result<(), GroupError>>, BTreeMap<Place, Commit>) {
    let mut results = Vec::with_capacity(commits.len());
    let mut last = BTreeMap::new();
    for commit in commits {
        if commit.metadata.len() > COMMIT_METADATA_BYTES_MAX {
            results.push(Err(GroupError::OffsetMetadataTooLarge));
            continue;
        }
        let place = (commit.topic, commit.partition);
        let commit = Commit {
            topic_id: commit.topic_id,
            offset: commit.offset,
            leader_epoch: commit.leader_epoch,
            metadata: commit.metadata,
            commit_ms: now.unix_ms,
            expire_ms: commit.expire_ms,
        };
        last.insert(place, commit);
        results.push(Ok(()));
    }
    (results, last)
}

/// The topics that members of a group read, in order; nothing where that cannot be told: it is another kind of group, or a
/// member says it in a way that is not known.
pub(super) fn subscriptions(group: &crate::group::Group) -> Option<Vec<String>> {
    group.protocol_type().filter(|t| &***t == CONSUMER)?;
    let protocol = group.protocol().cloned();
    let of = |m: &crate::group::Member| {
        let known = protocol
            .as_deref()
            .or_else(|| m.protocols.first().map(|p| &*p.name));
        codec::subscribed_topics(&m.metadata(known))
    };
    let of_each: Option<Vec<Vec<String>>> = group.members().map(|(_, m)| of(m)).collect();
    let mut topics = of_each?.concat();
    topics.sort_unstable();
    topics.dedup();
    Some(topics)
}

/// A record that takes a commit back.
pub(super) fn tombstone(group: &str, topic: &str, partition: i32) -> Record {
    Record {
        key: Key::Offset {
            group: group.to_owned(),
            topic: topic.to_owned(),
            partition,
        },
        value: None,
        topic_id: None,
    }
}
