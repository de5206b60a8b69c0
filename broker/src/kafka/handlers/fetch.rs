//! Fetch: whole batches from the partitions' shards, waiting for new ones when there are too few.
//!
//! Sessions (KIP-227) are not kept: every answer says session 0, which clients take for "send everything each time".

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{select, select_all};
use tidemill_model::{PartitionId, RingId, ShardId};
use tidemill_ring::{Isolation, Read};
use tidemill_rt::mailbox;
use tidemill_rt::time::{self, Instant};
use tidemill_wire::WireError;
use tidemill_wire::fetch::{
    AbortedTransaction, FetchPartition, FetchRequest, FetchResponse, FetchedPartition,
    FetchedTopic, decode,
};

use super::super::answers::{Answer, Pending};
use super::super::dispatch::{FETCH_BYTES_MAX, Request};
use super::super::error_map::{self, code};
use super::find_topic;
use crate::shard::Shard;

/// Longest a Fetch waits for records, whatever the client says.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// First version with an error of the whole request.
const TOP_LEVEL_ERROR_FROM: i16 = 7;

/// What is asked of one partition.
#[derive(Debug, Clone)]
struct Query {
    slot: (usize, usize),
    ring: RingId,
    partition: PartitionId,
    topic: String,
    asked: FetchPartition,
    committed: bool,
}

/// What is left of the bytes a request may be answered with.
#[derive(Debug, Clone, Copy)]
struct Budget {
    left: usize,
    /// Nothing was found so far: the next batch is given whatever its size (KIP-74).
    nothing_yet: bool,
}

type Fetched = ((usize, usize), FetchedPartition);

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body = decode(&request.frame, request.body_at, request.version)?;
    Ok(Box::pin(async move { answer(request, body).await }))
}

async fn answer(request: Request, body: FetchRequest) -> Answer {
    let refused = if body.replica_id >= 0 {
        // Replicas fetch from each other in another way; whoever says so here is not one.
        Some(code::CLUSTER_AUTHORIZATION_FAILED)
    } else if body.session_id != 0 && body.session_epoch > 0 {
        Some(code::FETCH_SESSION_ID_NOT_FOUND)
    } else {
        None
    };
    if let Some(error_code) = refused {
        let topics = if request.version >= TOP_LEVEL_ERROR_FROM {
            Vec::new()
        } else {
            refuse_each(&body, error_code)
        };
        let response = FetchResponse {
            error_code,
            topics,
            ..FetchResponse::default()
        };
        return Answer::Body(response.encode(request.version));
    }
    let (mut topics, queries) = sort(&request, &body);
    let wait = Duration::from_millis(body.max_wait_ms.max(0) as u64).min(WAIT_MAX);
    let deadline = request.at + wait;
    let known_error = topics
        .iter()
        .flat_map(|t| &t.partitions)
        .any(|p| p.error_code != code::NOT_LEADER_OR_FOLLOWER);
    loop {
        let enough = known_error || Instant::now() >= deadline || queries.is_empty();
        let found = read_all(&request.shard, &queries, &body).await;
        let bytes: usize = found
            .iter()
            .map(|(_, p)| p.batches.iter().map(|b| b.len()).sum::<usize>())
            .sum();
        let failed = found.iter().any(|(_, p)| p.error_code != code::NONE)
            || found.len() < queries.values().map(Vec::len).sum();
        let satisfied = enough || failed || bytes >= body.min_bytes.max(0) as usize;
        if !satisfied {
            Watch::new(&request.shard, &queries, &found, deadline)
                .changed()
                .await;
            continue;
        }
        for ((t, p), partition) in found {
            topics[t].partitions[p] = partition;
        }
        request
            .shard
            .metrics
            .fetch_latency
            .observe(request.at.elapsed());
        return Answer::Body(
            FetchResponse {
                topics,
                ..FetchResponse::default()
            }
            .encode(request.version),
        );
    }
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

/// The answer with an error in every place, and what to ask to replace those errors, by shard.
fn sort(
    request: &Request,
    body: &FetchRequest,
) -> (Vec<FetchedTopic>, BTreeMap<ShardId, Vec<Query>>) {
    let image = request.shard.image();
    let mut queries: BTreeMap<ShardId, Vec<Query>> = BTreeMap::new();
    let mut topics = Vec::with_capacity(body.topics.len());
    for (t, asked) in body.topics.iter().enumerate() {
        let found = find_topic(&image, &asked.topic);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for (p, asked) in asked.partitions.iter().enumerate() {
            let ring = found.and_then(|topic| {
                topic
                    .ring(asked.index)
                    .ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)
            });
            let error = match (found, ring) {
                (Ok(topic), Ok(ring)) => {
                    queries
                        .entry(ring.shard(request.shard.info.shards))
                        .or_default()
                        .push(Query {
                            slot: (t, p),
                            ring,
                            partition: topic.partition(asked.index),
                            topic: topic.name.clone(),
                            asked: *asked,
                            committed: body.isolation_level == 1,
                        });
                    code::NOT_LEADER_OR_FOLLOWER
                }
                (_, Err(error)) | (Err(error), _) => error,
            };
            partitions.push(FetchedPartition::error(asked.index, error));
        }
        topics.push(FetchedTopic {
            topic: asked.topic.clone(),
            partitions,
        });
    }
    (topics, queries)
}

/// Reads every partition, shard after shard, within the request's budget. What a stopped shard was asked is missing.
async fn read_all(
    shard: &Rc<Shard>,
    queries: &BTreeMap<ShardId, Vec<Query>>,
    body: &FetchRequest,
) -> Vec<Fetched> {
    let left = (body.max_bytes.max(0) as usize).min(FETCH_BYTES_MAX);
    let mut budget = Budget {
        left,
        nothing_yet: true,
    };
    let mut out = Vec::new();
    for (target, queries) in queries {
        let queries = queries.clone();
        let read = shard.on(*target, move |shard| async move {
            read_here(&shard, queries, budget).await
        });
        if let Ok((found, left)) = read.await {
            out.extend(found);
            budget = left;
        }
    }
    out
}

async fn read_here(
    shard: &Rc<Shard>,
    queries: Vec<Query>,
    mut budget: Budget,
) -> (Vec<Fetched>, Budget) {
    let mut out = Vec::with_capacity(queries.len());
    for query in queries {
        let fetched = match read(shard, &query, &mut budget).await {
            Ok(fetched) => fetched,
            Err(error) => FetchedPartition::error(query.asked.index, error),
        };
        let records: i64 = fetched
            .batches
            .iter()
            .map(|b| i64::from(b.header.record_count))
            .sum();
        if records > 0 {
            let counters = shard.metrics.topic(&query.topic);
            counters.records_out.add(records as u64);
            counters
                .bytes_out
                .add(fetched.batches.iter().map(|b| b.len() as u64).sum());
        }
        out.push((query.slot, fetched));
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
    if !(view.log_start_offset..=view.high_watermark).contains(&from) {
        return Err(code::OFFSET_OUT_OF_RANGE);
    }
    let mut fetched = FetchedPartition::error(query.asked.index, code::NONE);
    fetched.high_watermark = view.high_watermark;
    fetched.last_stable_offset = view.last_stable_offset;
    fetched.log_start_offset = view.log_start_offset;
    fetched.aborted = query.committed.then(Vec::new);
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

/// Puts what was read into the answer, except a batch that is too large and not the first of all.
fn take(fetched: &mut FetchedPartition, read: Read, max: usize, budget: &mut Budget) {
    fetched.high_watermark = read.high_watermark;
    fetched.last_stable_offset = read.last_stable_offset;
    fetched.log_start_offset = read.log_start_offset;
    let bytes: usize = read.batches.iter().map(|b| b.len()).sum();
    if bytes == 0 || bytes > max && !budget.nothing_yet {
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

/// A partition, and where its high watermark and last stable offset stood when it was read.
#[derive(Debug, Clone, Copy)]
struct Seen {
    ring: RingId,
    partition: PartitionId,
    stood: (i64, i64),
}

/// Waits for partitions on any shard to move. Dropping it ends the waiting on other shards.
struct Watch {
    signals: Vec<Signal>,
    deadline: Instant,
    _others_wait: Vec<mailbox::Sender<()>>,
}

impl Watch {
    /// Watches for anything beyond what was `found`.
    fn new(
        shard: &Rc<Shard>,
        queries: &BTreeMap<ShardId, Vec<Query>>,
        found: &[Fetched],
        deadline: Instant,
    ) -> Watch {
        let stood: BTreeMap<_, _> = found
            .iter()
            .map(|(slot, p)| (*slot, (p.high_watermark, p.last_stable_offset)))
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
    let still = |seen: &Seen| {
        let ring = shard.ring(seen.ring)?;
        let signal = ring.changed(seen.partition)?.notified();
        let view = ring.view(seen.partition)?;
        let same = (view.high_watermark, view.last_stable_offset) == seen.stood;
        same.then(|| Box::pin(signal) as Signal)
    };
    let signals: Option<Vec<Signal>> = partitions.iter().map(still).collect();
    match signals {
        Some(signals) if !signals.is_empty() => {
            Box::pin(async move { drop(select_all(signals).await) })
        }
        _ => Box::pin(std::future::ready(())),
    }
}
