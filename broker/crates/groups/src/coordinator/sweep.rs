//! Searching for what is no longer needed: commits that are too old or whose topic is gone, groups with nothing in them.

use std::ops::Bound;
use std::sync::Arc;

use tidemill_model::TopicId;

use super::Coordinator;
use super::admin::in_batches;
use super::offsets::{subscriptions, tombstone};
use crate::group::{Group, State};
use crate::limits::{SWEEP_AT_ONCE, WRITE_BYTES};
use crate::request::{Effect, Now, Then};
use crate::store::{Commit, Record, Stored};
use crate::timers::Timer;

/// A commit of a topic that is not known is left alone for so long, in ms: shards hear of new topics one after the other.
const UNKNOWN_TOPIC_MS: i64 = 10_000;
/// How long is waited for writes under way before their groups are looked at again, in ms.
const AGAIN_MS: u64 = 1_000;

/// What a search came to.
#[derive(Debug, Default)]
pub struct Swept {
    /// What is to be done.
    pub effects: Vec<Effect>,
    /// Whether there is more to look at: to be called again.
    pub more: bool,
}

impl Coordinator {
    /// Looks at some groups, going on where the last call ended. `exists` tells whether a topic of that name and id exists.
    pub fn sweep(&mut self, now: Now, exists: &dyn Fn(&str, TopicId) -> bool) -> Swept {
        let start = self
            .swept_to
            .take()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let (mut looked_at, mut bytes) = (0, 0);
        let mut found: Vec<(Arc<str>, Vec<Record>, Fate)> = Vec::new();
        let mut again = false;
        for (id, group) in self.groups.range::<Arc<str>, _>((start, Bound::Unbounded)) {
            if looked_at >= SWEEP_AT_ONCE || bytes >= WRITE_BYTES {
                break;
            }
            self.swept_to = Some(id.clone());
            let stored = self.store.groups.get(id);
            looked_at += 1 + stored.map_or(0, |s| s.commits.len());
            if self.under_way.concerns(id) {
                // A tombstone must not overtake what is being written; it is too early to say.
                again = true;
                continue;
            }
            let (gone, young) = self.gone(id, group, stored, now, exists);
            again |= young;
            let left = stored.map_or(0, |s| s.commits.len()) - gone.len();
            let fate = if left == 0 && group.is_vacant() {
                Fate::Goes
            } else {
                Fate::Stays
            };
            bytes += gone.iter().map(Record::bytes).sum::<usize>();
            if !gone.is_empty() || matches!(fate, Fate::Goes) {
                found.push((id.clone(), gone, fate));
            }
        }
        let looked_at_all =
            self.groups.last_key_value().map(|(id, _)| id) == self.swept_to.as_ref();
        if looked_at_all {
            self.swept_to = None;
            let wait_ms = if again {
                AGAIN_MS
            } else {
                self.settings.expiry_check_ms
            };
            self.timers.set(Timer::Expiry, now.mono_ms + wait_ms);
        } else if again {
            self.timers.set(Timer::Expiry, now.mono_ms + AGAIN_MS);
        }
        let effects = found
            .into_iter()
            .flat_map(|found| self.remove(found, now))
            .collect();
        Swept {
            effects,
            more: !looked_at_all,
        }
    }

    /// The next search begins with the first group: topics were deleted meanwhile.
    pub fn sweep_from_start(&mut self) {
        self.swept_to = None;
    }

    /// What goes of a group's commits, and whether it is too early to say of others.
    fn gone(
        &self,
        id: &str,
        group: &Group,
        stored: Option<&Stored>,
        now: Now,
        exists: &dyn Fn(&str, TopicId) -> bool,
    ) -> (Vec<Record>, bool) {
        let mut young = false;
        let subscribed = match group.state() {
            State::Stable => subscriptions(group),
            _ => None,
        };
        let commits = stored.into_iter().flat_map(|s| &s.commits);
        let goes = commits.filter(|((topic, _), at)| {
            // Where it cannot be told what members read, they read everything.
            let read =
                group.state() != State::Empty && subscribed.as_ref().is_none_or(|s| has(s, topic));
            let unknown = !exists(topic, at.value.topic_id);
            let too_young = now.unix_ms.saturating_sub(at.value.commit_ms) < UNKNOWN_TOPIC_MS;
            young |= unknown && too_young;
            unknown && !too_young || !read && self.expired(group, &at.value, now)
        });
        let goes = goes
            .map(|((topic, partition), _)| tombstone(id, topic, *partition))
            .collect();
        (goes, young)
    }

    /// Kafka's rule (KIP-211): offsets count from when the group became empty; those of consumers without group, and of
    /// topics that members no longer read, from when they were committed.
    fn expired(&self, group: &Group, commit: &Commit, now: Now) -> bool {
        if let Some(expire_ms) = commit.expire_ms {
            return now.unix_ms >= expire_ms;
        }
        let had_members = group.state() == State::Empty && group.protocol_type().is_some();
        let since = if had_members {
            group.since_ms().max(commit.commit_ms)
        } else {
            commit.commit_ms
        };
        now.unix_ms.saturating_sub(since) >= self.settings.offsets_retention_ms
    }

    fn remove(&mut self, (id, gone, fate): (Arc<str>, Vec<Record>, Fate), now: Now) -> Vec<Effect> {
        self.counts.expired += gone.len() as u64;
        let writes = match fate {
            Fate::Stays => in_batches(gone, Then::Nothing),
            Fate::Goes => {
                let records = self.tombstones(&id);
                if records.is_empty() {
                    self.forget(&id);
                    return Vec::new();
                }
                self.bury(&id, now);
                in_batches(records, Then::Removed(vec![id]))
            }
        };
        writes.iter().for_each(|write| self.launch(&write.records));
        writes.into_iter().map(Effect::Write).collect()
    }
}

/// What becomes of a group.
enum Fate {
    Stays,
    Goes,
}

fn has(sorted: &[String], topic: &str) -> bool {
    sorted.binary_search_by(|s| s.as_str().cmp(topic)).is_ok()
}
