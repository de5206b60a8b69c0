//! The types openraft is instantiated with, and their encoded forms.
//!
//! All integers are big endian. What is encoded here ends up in the shard's log and in checkpoints; a change of form
//! is a change of the data directory's format version.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::impls::leader_id_std;
use openraft::raft::responder::Responder;
use openraft::vote::{RaftLeaderId, RaftVote};
use openraft::{EntryPayload, Membership, RaftTypeConfig};
use tidemill_model::Command;
use tidemill_rt::chan::oneshot;

use crate::error::Malformed;
use crate::group::InFlight;
use crate::runtime::Rt;

/// What a state machine answers to a command.
pub type Reply = Box<dyn Any>;

/// Most voters or learners a decoded membership may name; a bound on what a damaged file can make us allocate.
const NODES_MAX: usize = 1_024;

/// Most sets of voters in a membership: two while it changes (joint consensus).
const CONFIGS_MAX: usize = 16;

const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// openraft's parameters: one leader a term (rule R1), commands as data, no addresses in the membership.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Data;
    type R = Answer;
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Data, u64, ()>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = Rt;
    type Responder<T: 'static> = Completion<T>;
    type Batch<T: 'static> = openraft::impls::InlineBatch<T>;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// The log id of entry `index` of `term`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// A command as openraft carries it: shared, so that reading the log for applying copies nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Data(pub(crate) Rc<Command>);

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} B", self.0.encoded_len())
    }
}

/// An answer as openraft carries it.
pub(crate) struct Answer(pub(crate) Reply);

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

/// Takes the result of a proposal back to whoever made it.
#[derive(Debug)]
pub(crate) struct Completion<T> {
    tx: oneshot::Sender<T>,
    _in_flight: InFlight,
    _held: Option<Box<dyn Any>>,
}

impl<T> Completion<T> {
    pub(crate) fn new(
        tx: oneshot::Sender<T>,
        in_flight: InFlight,
        held: Option<Box<dyn Any>>,
    ) -> Self {
        Completion {
            tx,
            _in_flight: in_flight,
            _held: held,
        }
    }
}

impl<T: 'static> Responder<TypeConfig, T> for Completion<T> {
    fn on_complete(self, result: T) {
        // Nobody waits when the proposal was dropped; the entry stands all the same.
        let _ = self.tx.send(result);
    }
}

/// `term u64, kind u8, data`, in parts that share the command's memory.
pub(crate) fn encode_entry(entry: &Entry) -> Vec<Bytes> {
    let mut prefix = BytesMut::with_capacity(9);
    prefix.put_u64(entry.log_id.committed_leader_id().term);
    match &entry.payload {
        EntryPayload::Blank => {
            prefix.put_u8(KIND_BLANK);
            vec![prefix.freeze()]
        }
        EntryPayload::Normal(data) => {
            prefix.put_u8(KIND_NORMAL);
            let mut parts = vec![prefix.freeze()];
            parts.extend(data.0.encode());
            parts
        }
        EntryPayload::Membership(membership) => {
            prefix.put_u8(KIND_MEMBERSHIP);
            encode_membership(membership, &mut prefix);
            vec![prefix.freeze()]
        }
    }
}

/// Reads what [`encode_entry`] wrote; the command shares `bytes`.
pub(crate) fn decode_entry(index: u64, mut bytes: Bytes) -> Result<Entry, Malformed> {
    let term = take_u64(&mut bytes)?;
    let payload = match take_u8(&mut bytes)? {
        KIND_BLANK => EntryPayload::Blank,
        KIND_NORMAL => {
            let command = Command::decode(&bytes).map_err(|e| Malformed(e.0))?;
            bytes.clear();
            EntryPayload::Normal(Data(Rc::new(command)))
        }
        KIND_MEMBERSHIP => EntryPayload::Membership(decode_membership(&mut bytes)?),
        _ => return Err(Malformed("unknown kind of entry")),
    };
    finished(&bytes)?;
    Ok(Entry {
        log_id: log_id(term, index),
        payload,
    })
}

/// `term u64, node u64, committed u8`.
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    out.put_u64(vote.leader_id().term);
    out.put_u64(vote.leader_id().voted_for);
    out.put_u8(u8::from(vote.is_committed()));
    out.freeze()
}

/// Reads what [`encode_vote`] wrote.
pub(crate) fn decode_vote(mut bytes: Bytes) -> Result<Vote, Malformed> {
    let (term, node) = (take_u64(&mut bytes)?, take_u64(&mut bytes)?);
    let committed = match take_u8(&mut bytes)? {
        0 => false,
        1 => true,
        _ => return Err(Malformed("a flag that is neither 0 nor 1")),
    };
    finished(&bytes)?;
    let leader = leader_id_std::LeaderId {
        term,
        voted_for: node,
    };
    Ok(Vote::from_leader_id(leader, committed))
}

/// `term u64, index u64`.
pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    put_log_id(id, &mut out);
    out.freeze()
}

/// Reads what [`encode_log_id`] wrote.
pub(crate) fn decode_log_id(mut bytes: Bytes) -> Result<LogId, Malformed> {
    let id = take_log_id(&mut bytes)?;
    finished(&bytes)?;
    Ok(id)
}

/// `log id, flag u8 [log id of the membership], membership`.
pub(crate) fn encode_point(last: &LogId, membership: &StoredMembership) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    put_log_id(last, &mut out);
    match membership.log_id() {
        Some(id) => {
            out.put_u8(1);
            put_log_id(id, &mut out);
        }
        None => out.put_u8(0),
    }
    encode_membership(membership.membership(), &mut out);
    out.freeze()
}

/// Reads what [`encode_point`] wrote, as the metadata of a snapshot.
pub(crate) fn decode_point(mut bytes: Bytes) -> Result<SnapshotMeta, Malformed> {
    let last = take_log_id(&mut bytes)?;
    let at = match take_u8(&mut bytes)? {
        0 => None,
        1 => Some(take_log_id(&mut bytes)?),
        _ => return Err(Malformed("a flag that is neither 0 nor 1")),
    };
    let membership = decode_membership(&mut bytes)?;
    finished(&bytes)?;
    Ok(SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(at, membership),
    })
}

/// `configs u16, (voters u16, node u64 each) each, nodes u16, node u64 each`.
fn encode_membership(membership: &Membership<u64, ()>, out: &mut BytesMut) {
    let configs = membership.get_joint_config();
    out.put_u16(configs.len() as u16);
    for voters in configs {
        out.put_u16(voters.len() as u16);
        voters.iter().for_each(|node| out.put_u64(*node));
    }
    out.put_u16(membership.nodes().count() as u16);
    membership.nodes().for_each(|(node, ())| out.put_u64(*node));
}

fn decode_membership(bytes: &mut Bytes) -> Result<Membership<u64, ()>, Malformed> {
    let count = take_count(bytes, CONFIGS_MAX)?;
    let mut configs: Vec<BTreeSet<u64>> = Vec::with_capacity(count);
    for _ in 0..count {
        let voters = take_count(bytes, NODES_MAX)?;
        configs.push(
            (0..voters)
                .map(|_| take_u64(bytes))
                .collect::<Result<_, _>>()?,
        );
    }
    let nodes = take_count(bytes, NODES_MAX)?;
    let nodes: BTreeMap<u64, ()> = (0..nodes)
        .map(|_| take_u64(bytes).map(|node| (node, ())))
        .collect::<Result<_, _>>()?;
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes)
        .map_err(|_| Malformed("a membership whose voters are not among its nodes"))
}

fn put_log_id(id: &LogId, out: &mut BytesMut) {
    out.put_u64(id.committed_leader_id().term);
    out.put_u64(id.index());
}

fn take_log_id(bytes: &mut Bytes) -> Result<LogId, Malformed> {
    Ok(log_id(take_u64(bytes)?, take_u64(bytes)?))
}

fn take_u8(bytes: &mut Bytes) -> Result<u8, Malformed> {
    bytes.try_get_u8().map_err(|_| Malformed("too short"))
}

fn take_u64(bytes: &mut Bytes) -> Result<u64, Malformed> {
    bytes.try_get_u64().map_err(|_| Malformed("too short"))
}

fn take_count(bytes: &mut Bytes, most: usize) -> Result<usize, Malformed> {
    let count = usize::from(bytes.try_get_u16().map_err(|_| Malformed("too short"))?);
    if count > most {
        return Err(Malformed("more nodes than a ring can have"));
    }
    Ok(count)
}

fn finished(bytes: &Bytes) -> Result<(), Malformed> {
    if bytes.is_empty() {
        Ok(())
    } else {
        Err(Malformed("too long"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(voters: &[u64], learners: &[u64]) -> Membership<u64, ()> {
        let nodes: BTreeMap<u64, ()> = voters.iter().chain(learners).map(|n| (*n, ())).collect();
        Membership::new(vec![voters.iter().copied().collect()], nodes).unwrap()
    }

    #[test]
    fn entries_of_every_kind_round_trip_and_cut_ones_are_refused() {
        let command = Command {
            head: Bytes::from_static(b"head"),
            bodies: vec![Bytes::from_static(b"body")],
        };
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Data(Rc::new(command))),
            EntryPayload::Membership(membership(&[1, 2, 3], &[9])),
        ] {
            let entry = Entry {
                log_id: log_id(7, 42),
                payload,
            };
            let flat = Bytes::from(encode_entry(&entry).concat());
            let back = decode_entry(42, flat.clone()).unwrap();
            assert_eq!(back.log_id, entry.log_id);
            assert_eq!(back.payload, entry.payload);
            for cut in 0..flat.len() {
                assert!(decode_entry(42, flat.slice(..cut)).is_err());
            }
        }
    }

    #[test]
    fn votes_and_checkpoint_points_round_trip() {
        for committed in [false, true] {
            let leader = leader_id_std::LeaderId {
                term: 3,
                voted_for: 5,
            };
            let vote = Vote::from_leader_id(leader, committed);
            assert_eq!(decode_vote(encode_vote(&vote)), Ok(vote));
        }
        let stored = StoredMembership::new(Some(log_id(1, 2)), membership(&[4], &[]));
        let meta = decode_point(encode_point(&log_id(3, 9), &stored)).unwrap();
        assert_eq!(meta.last_log_id, Some(log_id(3, 9)));
        assert_eq!(meta.last_membership, stored);
        let empty = StoredMembership::default();
        assert_eq!(
            decode_point(encode_point(&log_id(0, 0), &empty))
                .unwrap()
                .last_membership,
            empty
        );
        assert!(decode_point(Bytes::from_static(b"short")).is_err());
    }
}
