//! A member of a group.

use std::sync::Arc;

use bytes::Bytes;

use crate::request::{Join, Protocol, Ticket};
use crate::store::MemberRecord;

/// Bytes that a member takes beside its texts, and a protocol of it, about.
const MEMBER_BYTES: usize = 256;
const PROTOCOL_BYTES: usize = 64;

/// A member.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Members came in this order.
    pub(crate) seq: u64,
    pub(crate) instance: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) session_ms: i32,
    pub(crate) rebalance_ms: i32,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) assignment: Bytes,
    /// Its JoinGroup that waits.
    pub(crate) joining: Option<Ticket>,
    /// Its SyncGroup that waits.
    pub(crate) syncing: Option<Ticket>,
    /// It waits for the first rebalance of its life.
    pub(crate) is_new: bool,
    /// It has joined this generation and has not asked for its assignment.
    pub(crate) owes_sync: bool,
    /// The last generation of which it was told its assignment.
    pub(crate) assigned: Option<i32>,
}

impl Member {
    /// A member that joins.
    pub(crate) fn new(join: &Join) -> Member {
        Member {
            seq: 0,
            instance: join.instance.clone(),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            session_ms: join.session_ms,
            rebalance_ms: join.rebalance_ms,
            protocols: join.protocols.clone(),
            assignment: Bytes::new(),
            joining: None,
            syncing: None,
            is_new: false,
            owes_sync: false,
            assigned: None,
        }
    }

    /// A member as a record says.
    pub(crate) fn load(record: MemberRecord, protocol: Option<Arc<str>>) -> Member {
        let offers = |name| Protocol {
            name,
            metadata: record.subscription.clone(),
        };
        Member {
            seq: 0,
            instance: record.instance.map(Arc::from),
            client_id: record.client_id.into(),
            client_host: record.client_host.into(),
            session_ms: record.session_ms,
            rebalance_ms: record.rebalance_ms,
            protocols: protocol.map(offers).into_iter().collect(),
            assignment: record.assignment,
            joining: None,
            syncing: None,
            is_new: false,
            owes_sync: false,
            assigned: None,
        }
    }

    /// Bytes it takes, about.
    pub(crate) fn bytes(&self, id: &str) -> usize {
        member_bytes(
            id,
            self.instance.as_deref(),
            &self.client_id,
            &self.client_host,
        ) + protocol_bytes(&self.protocols)
            + self.assignment.len()
    }

    /// What it says under `protocol`.
    pub(crate) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|p| Some(&*p.name) == protocol);
        found.map(|p| p.metadata.clone()).unwrap_or_default()
    }

    /// Whether it offers exactly these protocols, with the same to say.
    pub(crate) fn offers(&self, protocols: &[Protocol]) -> bool {
        self.protocols == protocols
    }
}

fn member_bytes(id: &str, instance: Option<&str>, client_id: &str, client_host: &str) -> usize {
    MEMBER_BYTES + id.len() + instance.map_or(0, str::len) + client_id.len() + client_host.len()
}

fn protocol_bytes(protocols: &[Protocol]) -> usize {
    let each = protocols
        .iter()
        .map(|p| PROTOCOL_BYTES + p.name.len() + p.metadata.len());
    each.sum()
}

/// Bytes that a member would take that joins, about.
pub(crate) fn joining_bytes(join: &Join) -> usize {
    let id = if join.member.is_empty() {
        &join.fresh_member
    } else {
        &join.member
    };
    member_bytes(
        id,
        join.instance.as_deref(),
        &join.client_id,
        &join.client_host,
    ) + protocol_bytes(&join.protocols)
}
