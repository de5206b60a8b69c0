//! Fetch: whole batches from the partitions' shards, waiting for new ones when there are too few.
//!
//! This file answers requests that name everything they want; those of a session (KIP-227) are answered in [`session`].

mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{select, select_all};
use tidemill_model::{PartitionId, RingId, ShardId};
use tidemill_ring::{Isolation, Read};
use tidemill_rt::chan::notify::Notified;
use tidemill_rt::chan::semaphore::Permit;
use tidemill_rt::time::{self, Instant};
use tidemill_rt::{mailbox, task};
use tidemill_wire::fetch::{
    AbortedTransaction, FetchPartition, FetchRequest, FetchResponse, FetchedPartition,
    FetchedTopic, decode,
};
use tidemill_wire::{TopicRef, WireError};

use super::super::answers::{Answer, Body, Pending};
use super::super::dispatch::Request;
use super::super::error_map::{self, code};
use super::super::memory::AnswerRoom;
use super::super::sessions::{Partitions, Plan, Seen};
use super::{find_topic, text};
use crate::shard::Shard;

/// Longest a Fetch waits for records, whatever the client says.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// After a first wake-up that brought too little, partitions are read again at most this often.
const READ_AGAIN_EVERY: Duration = Duration::from_millis(5);
/// First version with an error of the whole request.
const TOP_LEVEL_ERROR_FROM: i16 = 7;
/// First version with sessions, and first that names topics by id.
const SESSIONS_FROM: i16 = 7;
const TOPIC_IDS_FROM: i16 = 13;
/// Partitions looked at before other tasks have their turn.
const PARTITIONS_PER_TURN: usize = 256;
/// Bytes of an answer for each partition, beside its records, at most.
const PARTITION_ANSWER_BYTES: usize = 64;

/// Bytes that a partition takes while its Fetch waits: what was asked, the answer's place, who is to be woken.
const PARTITION_WAITING_BYTES: usize = 512;

/// What is asked of one partition.
#[derive(Debug, Clone)]
struct Query {
    slot: (usize, usize),
    ring: RingId,
    partition: PartitionId,
    topic: Arc<str>,
    asked: FetchPartition,
    committed: bool,
}

/// What is asked of each shard, in the order in which the request names the first partition of each.
type Queries = Vec<(ShardId, Arc<[Query]>)>;

/// What is left of the bytes a request may be answered with.
#[derive(Debug, Clone, Copy)]
struct Budget {
    left: usize,
    /// Nothing was found so far: the next batch is given whatever its size (KIP-74).
    nothing_yet: bool,
}

/// What was read of one partition.
#[derive(Debug)]
struct Fetched {
    slot: (usize, usize),
    topic: Arc<str>,
    partition: FetchedPartition,
}

impl Fetched {
    fn bytes(&self) -> usize {
        self.partition.batches.iter().map(|b| b.len()).sum()
    }

    /// Whether there is more than was read: waiting makes the answer no larger.
    fn has_more(&self) -> bool {
        let p = &self.partition;
        let end = p.last_stable_offset;
        let read_to = p.batches.last().map(|b| b.header.next_offset());
        read_to.is_some_and(|offset| offset < end)
    }
}

/// The request as it is kept while it waits.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    bytes_min: usize,
    bytes_max: usize,
    deadline: Instant,
    committed: bool,
}

impl Wanted {
    fn of(request: &Request, body: &FetchRequest, bytes_max: usize) -> Wanted {
        let wait = Duration::from_millis(body.max_wait_ms.max(0) as u64).min(WAIT_MAX);
        Wanted {
            bytes_min: (body.min_bytes.max(0) as usize).min(bytes_max),
            bytes_max,
            deadline: request.at + wait,
            committed: body.isolation_level == 1,
        }
    }

    /// The same, answered at once where there is no room to wait in.
    fn within(self, room: &Option<Permit>) -> Wanted {
        let bytes_min = if room.is_some() { self.bytes_min } else { 0 };
        Wanted { bytes_min, ..self }
    }
}

/// Memory for a Fetch that waits with so many partitions; `None` when there is none left.
fn waiting_room(request: &Request, partitions: usize) -> Option<Permit> {
    let bytes = (partitions * PARTITION_WAITING_BYTES) as u64;
    request.shard.kafka_memory.waiting_fetch(bytes)
}

pub(in super::super) fn start(mut request: Request) -> Result<Pending, WireError> {
    let body = decode(&request.frame, request.body_at, request.version)?;
    Ok(Box::pin(async move {
        let refused = if body.replica_id >= 0 {
            // Replicas fetch from each other in another way; whoever says so here is not one.
            Some(code::CLUSTER_AUTHORIZATION_FAILED)
        } else {
            None
        };
        if let Some(error_code) = refused {
            return refuse(&request, &body, error_code).await;
        }
        let mut made = None;
        if request.version >= SESSIONS_FROM {
            let by_id = request.version >= TOPIC_IDS_FROM;
            match request.shard.fetch_sessions.plan(&body, by_id) {
                Plan::Whole => {}
                Plan::New => made = Partitions::of(&body),
                Plan::Next(session) => return session::answer(request, body, session).await,
                Plan::Refused(fault) => return refuse(&request, &body, session::code(fault)).await,
            }
        }
        let (topics, queries) = sort(&request, &body);
        let bytes_max = bytes_max(&body, request.shard.info.settings.kafka.fetch_size_max);
        let wanted = Wanted::of(&request, &body, bytes_max);
        // What waits for records, for minutes perhaps, holds nothing of the budgets that everybody needs.
        drop(body);
        request.release();
        let partitions: usize = topics.iter().map(|t| t.partitions.len()).sum();
        // What becomes a session is kept twice until it is one.
        let times = if made.is_some() { 2 } else { 1 };
        let waiting = waiting_room(&request, times * partitions);
        let wanted = wanted.within(&waiting);
        let (room, topics) = answer(&request, topics, queries, wanted).await;
        let session_id = match made {
            Some(partitions) => {
                session::make(&request, partitions, &topics, wanted.committed).await
            }
            None => 0,
        };
        within(&request, room, session_id, topics)
    }))
}

/// What was read, and the room for it.
async fn answer(
    request: &Request,
    mut topics: Vec<FetchedTopic>,
    queries: Queries,
    wanted: Wanted,
) -> (AnswerRoom, Vec<FetchedTopic>) {
    let known_error = topics
        .iter()
        .flat_map(|t| &t.partitions)
        .any(|p| p.error_code != code::NOT_LEADER_OR_FOLLOWER);
    let asked: usize = queries.iter().map(|(_, q)| q.len()).sum();
    let partitions: usize = topics.iter().map(|t| t.partitions.len()).sum();
    let beside = partitions * PARTITION_ANSWER_BYTES;
    let mut woken: Option<Instant> = None;
    request.turn().await;
    loop {
        let enough = known_error
            || queries.is_empty()
            || request.client.hurries()
            || Instant::now() >= wanted.deadline;
        let room = request.some_room(wanted.bytes_max + beside).await;
        let mut budget = Budget {
            left: wanted
                .bytes_max
                .min((room.amount() as usize).saturating_sub(beside)),
            nothing_yet: true,
        };
        let found = read_all(&request.shard, &queries, &mut budget).await;
        let bytes: usize = found.iter().map(Fetched::bytes).sum();
        let error = |f: &Fetched| f.partition.error_code != code::NONE;
        let failed = found.iter().any(error) || found.len() < asked;
        let full = !budget.nothing_yet && budget.left == 0 || found.iter().any(Fetched::has_more);
        if enough || failed || full || bytes >= wanted.bytes_min {
            fill(request, &mut topics, found);
            return (room, topics);
        }
        let watch = Watch::new(&request.shard, &queries, &found, wanted.deadline);
        drop((room, found));
        let hurried = request.client.hurried();
        select(Box::pin(watch.changed()), Box::pin(hurried)).await;
        // Each commit wakes; what is there is not read anew for each when it takes many to make enough.
        if let Some(before) = woken.replace(Instant::now()) {
            let due = (before + READ_AGAIN_EVERY).min(wanted.deadline);
            if Instant::now() < due {
                time::sleep_until(due).await;
                woken = Some(Instant::now());
            }
        }
    }
}

/// Puts what was found into the answer, and counts it.
fn fill(request: &Request, topics: &mut [FetchedTopic], found: Vec<Fetched>) {
    for fetched in found {
        count(request, &fetched);
        let (t, p) = fetched.slot;
        topics[t].partitions[p] = fetched.partition;
    }
}

/// Counts records that are given out.
fn count(request: &Request, fetched: &Fetched) {
    let batches = fetched.partition.batches.iter();
    let records: i64 = batches.map(|b| i64::from(b.header.record_count)).sum();
    if records > 0 {
        let counters = request.shard.metrics.topic(&fetched.topic);
        counters.records_out.add(records as u64);
        counters.bytes_out.add(fetched.bytes() as u64);
    }
}

/// `topics` as the answer, made within `room`.
fn within(
    request: &Request,
    room: AnswerRoom,
    session_id: i32,
    topics: Vec<FetchedTopic>,
) -> Answer {
    let response = FetchResponse {
        session_id,
        topics,
        ..FetchResponse::default()
    };
    Answer::Body(Body::within(room, response.encode(request.version)))
}

async fn refuse(request: &Request, body: &FetchRequest, error_code: i16) -> Answer {
    let partitions: usize = body.topics.iter().map(|t| t.partitions.len()).sum();
    let room = request.room(partitions * PARTITION_ANSWER_BYTES).await;
    let topics = if request.version >= TOP_LEVEL_ERROR_FROM {
        Vec::new()
    } else {
        refuse_each(body, error_code)
    };
    let response = FetchResponse {
        error_code,
        topics,
        ..FetchResponse::default()
    };
    Answer::Body(Body::within(room, response.encode(request.version)))
}

fn refuse_each(body: &FetchRequest, error_code: i16) -> Vec<FetchedTopic> {
    let topic = |t: &tidemill_wire::fetch::FetchTopic| FetchedTopic {
        topic: t.topic.clone(),
        partitions: t
            .partitions
            .iter()
            .map(|p| FetchedPartition::error(p.index, error_code))
            .collect(),
    };
    body.topics.iter().map(topic).collect()
}

/// Bytes of records that the answer may have: what the request says, for all and for each partition, and what the
/// broker gives at most.
fn bytes_max(body: &FetchRequest, size_max: usize) -> usize {
    let partitions = body.topics.iter().flat_map(|t| &t.partitions);
    let of_partitions = partitions.fold(0usize, |sum, p| {
        sum.saturating_add(p.max_bytes.max(0) as usize)
    });
    of_partitions
        .min(body.max_bytes.max(0) as usize)
        .min(size_max)
}

/// The answer with an error in every place, and what to ask to replace those errors. Nothing of it shares the request's
/// frame.
fn sort(request: &Request, body: &FetchRequest) -> (Vec<FetchedTopic>, Queries) {
    let image = request.shard.image();
    let mut queries = Vec::new();
    let mut seen = BTreeSet::new();
    let mut topics = Vec::with_capacity(body.topics.len());
    // A topic of which no partition is asked has no place in the answer.
    let asked = body.topics.iter().filter(|t| !t.partitions.is_empty());
    for (t, asked) in asked.enumerate() {
        let found = find_topic(&image, &asked.topic);
        let name: Option<Arc<str>> = found.ok().map(|topic| Arc::from(topic.name.as_str()));
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for (p, asked) in asked.partitions.iter().enumerate() {
            let place = found.and_then(|topic| {
                let ring = topic.ring(asked.index);
                let ring = ring.ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?;
                Ok((ring, topic.partition(asked.index)))
            });
            let error = match (place, &name) {
                // Asked twice, it would be read twice for nothing.
                (Ok((_, partition)), _) if !seen.insert(partition) => code::INVALID_REQUEST,
                (Ok((ring, partition)), Some(name)) => {
                    let query = Query {
                        slot: (t, p),
                        ring,
                        partition,
                        topic: name.clone(),
                        asked: *asked,
                        committed: body.isolation_level == 1,
                    };
                    queries.push((ring.shard(request.shard.info.shards), query));
                    code::NOT_LEADER_OR_FOLLOWER
                }
                (Err(error), _) => error,
                (Ok(_), None) => code::UNKNOWN_TOPIC_OR_PARTITION,
            };
            partitions.push(FetchedPartition::error(asked.index, error));
        }
        topics.push(FetchedTopic {
            topic: match &asked.topic {
                TopicRef::Name(name) => TopicRef::Name(text(name.to_string())),
                TopicRef::Id(id) => TopicRef::Id(*id),
            },
            partitions,
        });
    }
    (topics, by_shard(queries))
}

/// Queries by shard: shards in the order of their first query, the queries of each in the order of the request. Clients
/// put what they got least of first, and it must be served first, or it may never be.
fn by_shard(queries: Vec<(ShardId, Query)>) -> Queries {
    let mut order: Vec<ShardId> = Vec::new();
    let mut groups: BTreeMap<ShardId, Vec<Query>> = BTreeMap::new();
    for (shard, query) in queries {
        let group = groups.entry(shard).or_default();
        if group.is_empty() {
            order.push(shard);
        }
        group.push(query);
    }
    let group = |shard| Some((shard, groups.remove(&shard)?.into()));
    order.into_iter().filter_map(group).collect()
}

/// Reads every partition, shard after shard, within the request's budget. What a stopped shard was asked is missing.
async fn read_all(shard: &Rc<Shard>, queries: &Queries, budget: &mut Budget) -> Vec<Fetched> {
    let mut out = Vec::new();
    for (target, queries) in queries {
        let (queries, left) = (queries.clone(), *budget);
        let read = shard.on(*target, move |shard| async move {
            read_here(&shard, &queries, left).await
        });
        if let Ok((found, left)) = read.await {
            out.extend(found);
            *budget = left;
        }
    }
    out
}

async fn read_here(
    shard: &Rc<Shard>,
    queries: &[Query],
    mut budget: Budget,
) -> (Vec<Fetched>, Budget) {
    let mut out = Vec::with_capacity(queries.len());
    for (i, query) in queries.iter().enumerate() {
        if i % PARTITIONS_PER_TURN == PARTITIONS_PER_TURN - 1 {
            task::yield_now().await;
        }
        let read = read(shard, query, &mut budget).await;
        out.push(Fetched {
            slot: query.slot,
            topic: query.topic.clone(),
            partition: read.unwrap_or_else(|e| FetchedPartition::error(query.asked.index, e)),
        });
    }
    (out, budget)
}

async fn read(
    shard: &Rc<Shard>,
    query: &Query,
    budget: &mut Budget,
) -> Result<FetchedPartition, i16> {
    let ring = shard
        .ring(query.ring)
        .ok_or(code::NOT_LEADER_OR_FOLLOWER)?
        .clone();
    let view = ring
        .view(query.partition)
        .ok_or(code::NOT_LEADER_OR_FOLLOWER)?;
    if let Some(error) =
        error_map::leader_epoch(query.asked.current_leader_epoch, view.leader_epoch)
    {
        return Err(error);
    }
    let from = query.asked.fetch_offset;
    let mut fetched = FetchedPartition::error(query.asked.index, code::NONE);
    fetched.high_watermark = view.high_watermark;
    fetched.last_stable_offset = view.last_stable_offset;
    fetched.log_start_offset = view.log_start_offset;
    fetched.aborted = query.committed.then(Vec::new);
    let known = query.asked.last_fetched_epoch;
    if known > view.leader_epoch {
        return Err(code::OFFSET_OUT_OF_RANGE);
    }
    if known >= 0 {
        let end = ring.epoch_end(query.partition, known);
        fetched.diverging = end.filter(|(epoch, end)| *epoch < known || *end < from);
        if fetched.diverging.is_some() {
            return Ok(fetched);
        }
    }
    if !(view.log_start_offset..=view.high_watermark).contains(&from) {
        return Err(code::OFFSET_OUT_OF_RANGE);
    }
    let max = (query.asked.max_bytes.max(0) as usize).min(budget.left);
    if max == 0 && !budget.nothing_yet {
        return Ok(fetched);
    }
    let isolation = if query.committed {
        Isolation::ReadCommitted
    } else {
        Isolation::ReadUncommitted
    };
    let read = ring
        .read(query.partition, from, max, isolation)
        .await
        .map_err(|e| error_map::read(&e))?;
    take(&mut fetched, read, max, budget);
    Ok(fetched)
}

/// Puts what was read into the answer, except a batch that is too large and not the first of all: nothing more fits then.
fn take(fetched: &mut FetchedPartition, read: Read, max: usize, budget: &mut Budget) {
    fetched.high_watermark = read.high_watermark;
    fetched.last_stable_offset = read.last_stable_offset;
    fetched.log_start_offset = read.log_start_offset;
    let bytes: usize = read.batches.iter().map(|b| b.len()).sum();
    if bytes == 0 {
        return;
    }
    if bytes > max && !budget.nothing_yet {
        // Reading on would mean to read a batch of each further partition and throw it away.
        budget.left = 0;
        return;
    }
    *budget = Budget {
        left: budget.left.saturating_sub(bytes),
        nothing_yet: false,
    };
    if let Some(aborted) = &mut fetched.aborted {
        aborted.extend(read.aborted.iter().map(|a| AbortedTransaction {
            producer_id: a.producer_id,
            first_offset: a.first_offset,
        }));
    }
    fetched.batches = read.batches;
}

type Signal = Pin<Box<dyn Future<Output = ()>>>;

/// Waits for partitions on any shard to move. Dropping it ends the waiting on other shards.
struct Watch {
    signals: Vec<Signal>,
    deadline: Instant,
    _others_wait: Vec<mailbox::Sender<()>>,
}

impl Watch {
    /// Watches for anything beyond what was `found`.
    fn new(shard: &Rc<Shard>, queries: &Queries, found: &[Fetched], deadline: Instant) -> Watch {
        let stood: BTreeMap<_, _> = found
            .iter()
            .map(|f| {
                let p = &f.partition;
                (f.slot, (p.high_watermark, p.last_stable_offset))
            })
            .collect();
        let seen = |q: &Query| Seen {
            ring: q.ring,
            partition: q.partition,
            stood: stood.get(&q.slot).copied().unwrap_or((-1, -1)),
        };
        let mut signals = Vec::new();
        let mut others = Vec::new();
        for (target, queries) in queries {
            let partitions: Vec<Seen> = queries.iter().map(seen).collect();
            if *target == shard.id {
                signals.push(moved(shard, &partitions));
                continue;
            }
            let (alive, mut gone) = mailbox::channel::<()>(1);
            others.push(alive);
            let (shard, target) = (shard.clone(), *target);
            signals.push(Box::pin(async move {
                let watch = move |shard: Rc<Shard>| {
                    let moved = moved(&shard, &partitions);
                    async move { drop(select(moved, Box::pin(gone.recv())).await) }
                };
                let _ = shard.handle.on(target, watch).await;
            }));
        }
        Watch {
            signals,
            deadline,
            _others_wait: others,
        }
    }

    /// Returns when a partition has moved, or at the deadline.
    async fn changed(self) {
        let deadline = Box::pin(time::sleep_until(self.deadline));
        drop(select(select_all(self.signals), deadline).await);
    }
}

/// Ready when one of the partitions, all of this shard, has moved from where it stood or is gone.
fn moved(shard: &Rc<Shard>, partitions: &[Seen]) -> Signal {
    let still = |seen: &Seen| still(shard, seen).map(|s| Box::pin(s) as Signal);
    let signals: Option<Vec<Signal>> = partitions.iter().map(still).collect();
    match signals {
        Some(signals) if !signals.is_empty() => {
            Box::pin(async move { drop(select_all(signals).await) })
        }
        _ => Box::pin(std::future::ready(())),
    }
}

/// Ready when the partition moves; `None` when it has moved from where it stood, or is gone.
fn still(shard: &Rc<Shard>, seen: &Seen) -> Option<Notified> {
    let ring = shard.ring(seen.ring)?;
    let signal = ring.changed(seen.partition)?.notified();
    let view = ring.view(seen.partition)?;
    let same = (view.high_watermark, view.last_stable_offset) == seen.stood;
    same.then_some(signal)
}

#[cfg(test)]
mod tests {
    use tidemill_model::record::{BatchBuilder, NewRecord};
    use tidemill_model::{Batch, BatchHeader, TopicId};

    use super::*;

    fn query(slot: (usize, usize)) -> Query {
        Query {
            slot,
            ring: RingId(1),
            partition: PartitionId {
                topic: TopicId::NONE,
                index: slot.1 as i32,
            },
            topic: Arc::from("t"),
            asked: FetchPartition {
                index: slot.1 as i32,
                current_leader_epoch: -1,
                fetch_offset: 0,
                last_fetched_epoch: -1,
                max_bytes: 1,
            },
            committed: false,
        }
    }

    fn read_of(value_bytes: usize) -> Read {
        let mut builder = BatchBuilder::new();
        builder.append(NewRecord {
            timestamp: 1,
            key: None,
            value: Some(&vec![0; value_bytes]),
            headers: &[],
        });
        let bytes = builder.build();
        let header = BatchHeader::validate(&bytes).unwrap();
        Read {
            batches: vec![Batch { header, bytes }],
            high_watermark: 1,
            last_stable_offset: 1,
            log_start_offset: 0,
            aborted: Vec::new(),
        }
    }

    #[test]
    fn shard_of_the_first_partition_asked_for_is_read_first() {
        let of = |shard, slot| (ShardId(shard), query(slot));
        let asked = vec![of(1, (0, 0)), of(0, (0, 1)), of(1, (0, 2)), of(0, (1, 0))];
        let order: Vec<_> = by_shard(asked)
            .into_iter()
            .map(|(shard, queries)| (shard.0, queries.iter().map(|q| q.slot).collect::<Vec<_>>()))
            .collect();
        assert_eq!(
            order,
            [(1, vec![(0, 0), (0, 2)]), (0, vec![(0, 1), (1, 0)])]
        );
    }

    #[test]
    fn batch_that_does_not_fit_ends_the_reading() {
        let mut budget = Budget {
            left: 1000,
            nothing_yet: true,
        };
        let mut first = FetchedPartition::error(0, code::NONE);
        take(&mut first, read_of(100), 1000, &mut budget);
        assert!(first.batches.len() == 1 && !budget.nothing_yet && budget.left > 0);
        let (mut second, left) = (FetchedPartition::error(1, code::NONE), budget.left);
        take(&mut second, read_of(2000), left, &mut budget);
        assert!(second.batches.is_empty() && budget.left == 0);
    }

    #[test]
    fn first_batch_is_given_whatever_its_size() {
        let mut budget = Budget {
            left: 10,
            nothing_yet: true,
        };
        let mut fetched = FetchedPartition::error(0, code::NONE);
        take(&mut fetched, read_of(5000), 10, &mut budget);
        assert!(fetched.batches.len() == 1 && budget.left == 0 && !budget.nothing_yet);
    }
}
