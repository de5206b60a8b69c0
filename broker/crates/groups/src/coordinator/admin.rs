//! What people ask: which groups there are, who is in them; and deleting them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::Coordinator;
use super::offsets::tombstone;
use crate::codec::Key;
use crate::error::GroupError;
use crate::group::{Member, State};
use crate::limits::WRITE_BYTES;
use crate::request::{Now, Then, Write};
use crate::store::{Place, Record};

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub group: Arc<str>,
    /// What kind of group it is; empty if only offsets were committed.
    pub protocol_type: Arc<str>,
    /// Where it stands.
    pub state: State,
}

/// A group as it is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Where it stands.
    pub state: State,
    /// What kind of group it is.
    pub protocol_type: Arc<str>,
    /// The protocol chosen; empty while there is none.
    pub protocol: Arc<str>,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// A member as it is described. What it says and what it was assigned is told of a stable group only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its id.
    pub id: Arc<str>,
    /// Its instance.
    pub instance: Option<Arc<str>>,
    /// What its client calls itself.
    pub client_id: Arc<str>,
    /// Where it is.
    pub client_host: Arc<str>,
    /// What it says under the protocol chosen.
    pub metadata: Bytes,
    /// What it was assigned.
    pub assignment: Bytes,
}

/// Bytes of a group in a list, and of a member in a description, beside their texts, about.
const LISTED_BYTES: usize = 64;
const DESCRIBED_MEMBER_BYTES: usize = 192;

impl Coordinator {
    /// Every group, by id.
    pub fn list(&self) -> Vec<Listed> {
        let listed = self.groups.iter().filter(|(_, g)| g.state() != State::Dead);
        let one = |(id, g): (&Arc<str>, &crate::group::Group)| Listed {
            group: id.clone(),
            protocol_type: g.protocol_type().cloned().unwrap_or_else(|| Arc::from("")),
            state: g.state(),
        };
        listed.map(one).collect()
    }

    /// Bytes that [`Coordinator::list`] takes, about, without making it.
    pub fn list_bytes(&self) -> usize {
        let each = self.groups.iter().map(|(id, g)| {
            LISTED_BYTES + id.len() + g.protocol_type().map_or(0, |text| text.len())
        });
        each.sum()
    }

    /// Bytes that [`Coordinator::describe`] takes once all of it is copied, about, without making it.
    pub fn describe_bytes(&self, id: &str) -> usize {
        let Some(group) = self.groups.get(id) else {
            return 0;
        };
        let protocol = group.protocol().map(|p| &**p);
        let each = group.members().map(|(id, m)| {
            let instance = m.instance.as_ref().map_or(0, |text| text.len());
            let texts = id.len() + instance + m.client_id.len() + m.client_host.len();
            DESCRIBED_MEMBER_BYTES + texts + m.metadata(protocol).len() + m.assignment.len()
        });
        each.sum()
    }

    /// A group; nothing if there is none.
    pub fn describe(&self, id: &str) -> Option<Described> {
        let group = self.groups.get(id).filter(|g| g.state() != State::Dead)?;
        let stable = group.state() == State::Stable;
        let protocol = group.protocol().filter(|_| stable);
        let one = |(id, m): (&Arc<str>, &Member)| DescribedMember {
            id: id.clone(),
            instance: m.instance.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: m.metadata(protocol.map(|p| &**p)),
            assignment: if stable {
                m.assignment.clone()
            } else {
                Bytes::new()
            },
        };
        Some(Described {
            state: group.state(),
            protocol_type: group
                .protocol_type()
                .cloned()
                .unwrap_or_else(|| Arc::from("")),
            protocol: protocol.cloned().unwrap_or_else(|| Arc::from("")),
            members: group.members().map(one).collect(),
        })
    }

    /// Deletes a group that has no members, with everything it has committed, once all of what is returned is written. That is
    /// to be queued behind what is under way, which it takes back too.
    ///
    /// # Errors
    /// Why it cannot be deleted.
    pub fn delete(&mut self, id: &str, now: Now) -> Result<Vec<Write>, GroupError> {
        if id.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        match self.groups.get(id).map(|g| g.state()) {
            None | Some(State::Dead) => return Err(GroupError::GroupIdNotFound),
            Some(State::Empty) => {}
            Some(_) => return Err(GroupError::NonEmptyGroup),
        }
        let records = self.tombstones(id);
        if records.is_empty() {
            self.bury(id, now);
            self.forget(id);
            return Ok(Vec::new());
        }
        let writes = in_batches(records, Then::Removed(vec![Arc::from(id)]));
        self.bury(id, now);
        writes.iter().for_each(|write| self.launch(&write.records));
        Ok(writes)
    }

    /// From now on nobody joins the group until its tombstones are written.
    pub(super) fn bury(&mut self, id: &str, now: Now) {
        let mut effects = Vec::new();
        self.with(id, now, &mut effects, |g, ctx| {
            g.dissolve(GroupError::UnknownMemberId, ctx)
        });
        debug_assert!(effects.is_empty(), "nobody was in it");
    }

    /// What takes back everything that is stored of a group, or on its way to be, its record last. Written behind that, it
    /// leaves nothing of the group.
    pub(super) fn tombstones(&self, id: &str) -> Vec<Record> {
        let stored = self.store.groups.get(id);
        let places = stored.into_iter().flat_map(|s| s.commits.keys());
        let mut places: BTreeSet<&Place> = places.collect();
        let mut has_record = stored.is_some_and(|s| s.record.is_some());
        for what in self.under_way.of(id) {
            match what {
                Some(place) => drop(places.insert(place)),
                None => has_record = true,
            }
        }
        let places = places.into_iter();
        let mut records: Vec<_> = places.map(|(topic, p)| tombstone(id, topic, *p)).collect();
        if has_record {
            let key = Key::Group {
                group: id.to_owned(),
            };
            records.push(Record {
                key,
                value: None,
                topic_id: None,
            });
        }
        records
    }
}

/// Records as writes of one batch each, for a batch may not be as large as all that a group has committed; `then` waits for
/// the last.
pub(super) fn in_batches(records: Vec<Record>, then: Then) -> Vec<Write> {
    let (mut writes, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for record in records {
        let more = record.bytes();
        if !part.is_empty() && bytes + more > WRITE_BYTES {
            let records = std::mem::take(&mut part);
            let then = Then::Nothing;
            writes.push(Write { records, then });
            bytes = 0;
        }
        bytes += more;
        part.push(record);
    }
    let records = part;
    writes.push(Write { records, then });
    writes
}
