//! What groups are asked, and what they say.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::GroupError;
use crate::store::Record;

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Of a clock that only goes forward, in ms: what timers go by.
    pub mono_ms: u64,
    /// Of the wall, in ms since the Unix epoch: what records say.
    pub unix_ms: i64,
}

/// Names a request that waits for its answer. Whoever makes them makes each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// An assignment protocol that a member offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// Its name.
    pub name: Arc<str>,
    /// What the member says to the leader under it.
    pub metadata: Bytes,
}

/// A member that wants to join.
#[derive(Debug, Clone)]
pub struct Join {
    /// The group.
    pub group: Arc<str>,
    /// Its id; empty if it has none yet.
    pub member: Arc<str>,
    /// The id it gets if it has none: unlike any other.
    pub fresh_member: Arc<str>,
    /// Its instance, if it is a static member (KIP-345).
    pub instance: Option<Arc<str>>,
    /// What its client calls itself.
    pub client_id: Arc<str>,
    /// Where it is.
    pub client_host: Arc<str>,
    /// How long it may be silent, in ms.
    pub session_ms: i32,
    /// How long others wait for it in a rebalance, in ms.
    pub rebalance_ms: i32,
    /// What kind of group it takes this for.
    pub protocol_type: Arc<str>,
    /// The protocols it offers, best first.
    pub protocols: Vec<Protocol>,
    /// What its client can.
    pub client: ClientCan,
}

/// What a client's version of JoinGroup can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCan {
    /// Come again with the id it was given (KIP-394, version 4).
    pub return_with_id: bool,
    /// Skip the assignment as a leader that came back (KIP-814, version 9).
    pub skip_assignment: bool,
}

/// A member as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub id: Arc<str>,
    /// Its instance.
    pub instance: Option<Arc<str>>,
    /// What it says under the protocol chosen.
    pub metadata: Bytes,
}

/// A member has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The generation.
    pub generation: i32,
    /// The kind of group.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol chosen.
    pub protocol: Option<Arc<str>>,
    /// The leader's id.
    pub leader: Arc<str>,
    /// Its own id.
    pub member: Arc<str>,
    /// Whether the leader is to leave the assignment as it is.
    pub skip_assignment: bool,
    /// To the leader: all members.
    pub members: Vec<JoinedMember>,
}

/// A member did not join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotJoined {
    /// Why.
    pub error: GroupError,
    /// The id it is to come with, or came with.
    pub member: Arc<str>,
}

/// A member that asks for its assignment; the leader brings everybody's.
#[derive(Debug, Clone)]
pub struct Sync {
    /// The group.
    pub group: Arc<str>,
    /// The generation it joined.
    pub generation: i32,
    /// Who asks.
    pub who: Who,
    /// The kind of group it takes this for.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol it takes for the one chosen.
    pub protocol: Option<Arc<str>>,
    /// By member id.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// A member, by id and, for a static one, by instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Its id; empty if only the instance is known.
    pub member: Arc<str>,
    /// Its instance.
    pub instance: Option<Arc<str>>,
}

/// A member's assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The kind of group.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol chosen.
    pub protocol: Option<Arc<str>>,
    /// What it was assigned.
    pub assignment: Bytes,
}

/// Something to be written, and what then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// In this order, in one batch.
    pub records: Vec<Record>,
    /// What waits for it.
    pub then: Then,
}

/// What waits for a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// Nothing: it says once more what was said.
    Copied,
    /// Groups that are gone with it.
    Removed(Vec<Arc<str>>),
    /// The assignments of a generation.
    Assignments {
        /// The group.
        group: Arc<str>,
        /// The generation.
        generation: i32,
        /// By member id.
        assignments: Vec<(Arc<str>, Bytes)>,
    },
    /// A static member that came back.
    Returned {
        /// The group.
        group: Arc<str>,
        /// The generation.
        generation: i32,
        /// Its new id.
        member: Arc<str>,
        /// What it is told.
        joined: Box<Joined>,
    },
}

/// What is to be done after a group was told something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A JoinGroup is to be answered.
    Join(Ticket, Result<Joined, NotJoined>),
    /// A SyncGroup is to be answered.
    Sync(Ticket, Result<Synced, GroupError>),
    /// Something is to be written; [`crate::Coordinator::written`] wants to hear what became of it.
    Write(Write),
}
