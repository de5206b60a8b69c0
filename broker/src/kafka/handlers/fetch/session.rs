//! Fetches of a session (KIP-227): only what changed is looked at, and only what is new is answered.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::{Either, FutureExt, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tidemill_controller::Image;
use tidemill_model::ShardId;
use tidemill_rt::mailbox;
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time::{self, Instant};
use tidemill_wire::TopicRef;
use tidemill_wire::fetch::{FetchRequest, FetchedPartition, FetchedTopic};

use super::super::super::answers::Answer;
use super::super::super::dispatch::Request;
use super::super::super::error_map::code as codes;
use super::super::super::sessions::{Fault, Partitions, Place, Seen, Session, Watch};
use super::{
    Budget, Fetched, PARTITION_ANSWER_BYTES, Queries, Query, READ_AGAIN_EVERY, Wanted, by_shard,
    count, find_topic, read_all, still, waiting_room, within,
};
use crate::shard::Shard;

/// Messages to a watcher, and from it, that may wait.
const WATCH_MESSAGES_MAX: usize = 16;

/// Partitions to be armed, by shard.
type ToArm = BTreeMap<ShardId, Vec<(u32, Seen)>>;

/// Kafka's code for what is wrong with a session.
pub(super) fn code(fault: Fault) -> i16 {
    match fault {
        Fault::NotFound => codes::FETCH_SESSION_ID_NOT_FOUND,
        Fault::Epoch => codes::INVALID_FETCH_SESSION_EPOCH,
        Fault::TopicIds => codes::FETCH_SESSION_TOPIC_ID_ERROR,
    }
}

/// Makes a session of what was just answered; its id, or 0 when there is no room for one.
pub(super) async fn make(
    request: &Request,
    mut partitions: Partitions,
    answered: &[FetchedTopic],
    committed: bool,
) -> i32 {
    let shard = &request.shard;
    let image = shard.image();
    let mut to_arm = ToArm::new();
    let told = answered
        .iter()
        .flat_map(|t| t.partitions.iter().map(move |p| (&t.topic, p)));
    for (topic, partition) in told {
        if let Some(at) = partitions.find(topic, partition.index) {
            locate(&image, &mut partitions, at);
            settle(
                shard,
                &mut partitions,
                at,
                partition,
                committed,
                &mut to_arm,
            );
        }
    }
    let by_id = request.version >= super::TOPIC_IDS_FROM;
    let Some(session) = shard.fetch_sessions.insert(partitions, by_id) else {
        return 0;
    };
    arm(shard, &session, to_arm).await;
    session.id
}

/// Answers a request of a session with what is new in it.
pub(super) async fn answer(
    mut request: Request,
    body: FetchRequest,
    session: Rc<Session>,
) -> Answer {
    let most = request.shard.info.settings.kafka.fetch_size_max;
    let bytes_max = (body.max_bytes.max(0) as usize).min(most);
    let wanted = Wanted::of(&request, &body, bytes_max);
    drop(body);
    request.release();
    let queued = session.partitions.borrow().queued().len();
    let waiting = waiting_room(&request, queued);
    let wanted = wanted.within(&waiting);
    let mut read_at: Option<Instant> = None;
    request.turn().await;
    loop {
        // Asked for before the queue is looked at, so that nothing is missed.
        let woken = session.woken.notified();
        let enough = request.client.hurries() || Instant::now() >= wanted.deadline;
        let (queries, unknown) = queries(&request.shard, &session, wanted.committed);
        let asked: usize = queries.iter().map(|(_, q)| q.len()).sum();
        let beside = (asked + unknown.len()) * PARTITION_ANSWER_BYTES;
        let room = request.some_room(wanted.bytes_max + beside).await;
        let mut budget = Budget {
            left: wanted
                .bytes_max
                .min((room.amount() as usize).saturating_sub(beside)),
            nothing_yet: true,
        };
        let found = read_all(&request.shard, &queries, &mut budget).await;
        let bytes: usize = found.iter().map(Fetched::bytes).sum();
        let news =
            |f: &Fetched| f.partition.error_code != codes::NONE || f.partition.diverging.is_some();
        let failed = !unknown.is_empty() || found.iter().any(news) || found.len() < asked;
        let full = !budget.nothing_yet && budget.left == 0 || found.iter().any(Fetched::has_more);
        if enough || failed || full || bytes >= wanted.bytes_min {
            let (topics, to_arm) = take(&request, &session, found, unknown, wanted.committed);
            arm(&request.shard, &session, to_arm).await;
            return within(&request, room, session.id, topics);
        }
        drop(room);
        watch_queue(&request.shard, &session, &found).await;
        drop(found);
        let deadline = Box::pin(time::sleep_until(wanted.deadline));
        let hurried = Box::pin(request.client.hurried());
        select(select(Box::pin(woken), deadline), hurried).await;
        // Each commit wakes; what is there is not read anew for each when it takes many to make enough.
        if let Some(before) = read_at.replace(Instant::now()) {
            let due = (before + READ_AGAIN_EVERY).min(wanted.deadline);
            if Instant::now() < due {
                time::sleep_until(due).await;
                read_at = Some(Instant::now());
            }
        }
    }
}

/// Looks up where a partition is, if that is not known.
fn locate(image: &Image, partitions: &mut Partitions, at: usize) -> Option<i16> {
    let entry = partitions.at(at);
    if entry.place.is_some() {
        return None;
    }
    let index = entry.asked.index;
    let topic = match find_topic(image, &entry.topic) {
        Ok(topic) => topic,
        Err(error) => return Some(error),
    };
    let Some(ring) = topic.ring(index) else {
        return Some(codes::UNKNOWN_TOPIC_OR_PARTITION);
    };
    entry.place = Some(Place {
        ring,
        partition: topic.partition(index),
        topic: Arc::from(topic.name.as_str()),
    });
    None
}

/// Partitions that are not there, by their places in the session, with error codes.
type Unknown = Vec<((usize, usize), i16)>;

/// What is to be read, and what is not there.
fn queries(shard: &Rc<Shard>, session: &Session, committed: bool) -> (Queries, Unknown) {
    let image = shard.image();
    let mut partitions = session.partitions.borrow_mut();
    let mut queries = Vec::new();
    let mut unknown = Vec::new();
    for at in partitions.queued() {
        let error = locate(&image, &mut partitions, at);
        let entry = partitions.at(at);
        if let Some(error) = error {
            unknown.push(((at, entry.stamp), error));
            continue;
        }
        let Some(place) = entry.place.clone() else {
            continue;
        };
        let query = Query {
            slot: (at, entry.stamp),
            ring: place.ring,
            partition: place.partition,
            topic: place.topic,
            asked: entry.asked,
            committed,
        };
        queries.push((place.ring.shard(shard.info.shards), query));
    }
    (by_shard(queries), unknown)
}

/// What of `found` the client is told, and what is to be watched from now on.
fn take(
    request: &Request,
    session: &Session,
    found: Vec<Fetched>,
    unknown: Unknown,
    committed: bool,
) -> (Vec<FetchedTopic>, ToArm) {
    let mut partitions = session.partitions.borrow_mut();
    let mut to_arm = ToArm::new();
    let mut news: BTreeMap<TopicRef, Vec<FetchedPartition>> = BTreeMap::new();
    for (slot, error) in unknown {
        let Some(entry) = partitions.entry(slot) else {
            continue;
        };
        let told = FetchedPartition::error(entry.asked.index, error);
        news.entry(entry.topic.clone()).or_default().push(told);
    }
    for fetched in found {
        let (at, stamp) = fetched.slot;
        let p = &fetched.partition;
        let Some(entry) = partitions.entry((at, stamp)) else {
            // Changed by a later request, which will be told.
            continue;
        };
        let is_new = !p.batches.is_empty()
            || p.error_code != codes::NONE
            || p.diverging.is_some()
            || entry.told != Some(stands(p));
        let topic = entry.topic.clone();
        settle(
            &request.shard,
            &mut partitions,
            at,
            p,
            committed,
            &mut to_arm,
        );
        if is_new {
            count(request, &fetched);
            news.entry(topic).or_default().push(fetched.partition);
        }
    }
    let topic = |(topic, partitions)| FetchedTopic { topic, partitions };
    (news.into_iter().map(topic).collect(), to_arm)
}

/// High watermark, last stable offset and log start.
fn stands(p: &FetchedPartition) -> (i64, i64, i64) {
    (p.high_watermark, p.last_stable_offset, p.log_start_offset)
}

/// Notes what the client is told of a partition. It stays in the queue as long as there is something to read in it, or
/// something wrong with it; else it is to be watched.
fn settle(
    shard: &Rc<Shard>,
    partitions: &mut Partitions,
    at: usize,
    told: &FetchedPartition,
    committed: bool,
    to_arm: &mut ToArm,
) {
    let entry = partitions.at(at);
    if told.error_code != codes::NONE {
        // It may be somewhere else by the next time.
        (entry.told, entry.place) = (None, None);
        return;
    }
    entry.told = Some(stands(told));
    let end = if committed {
        told.last_stable_offset
    } else {
        told.high_watermark
    };
    if told.diverging.is_some() || entry.asked.fetch_offset < end {
        if !told.batches.is_empty() {
            partitions.requeue(at);
        }
        return;
    }
    let Some(place) = &entry.place else {
        return;
    };
    let seen = Seen {
        ring: place.ring,
        partition: place.partition,
        stood: (told.high_watermark, told.last_stable_offset),
    };
    partitions.dequeue(at);
    if partitions.arm(at) {
        let target = seen.ring.shard(shard.info.shards);
        to_arm.entry(target).or_default().push((at as u32, seen));
    }
}

/// Has everything in the queue watched, where it takes more than what was found to make enough.
async fn watch_queue(shard: &Rc<Shard>, session: &Rc<Session>, found: &[Fetched]) {
    let mut to_arm = ToArm::new();
    {
        let mut partitions = session.partitions.borrow_mut();
        for fetched in found {
            let at = fetched.slot.0;
            let Some(entry) = partitions.entry(fetched.slot) else {
                continue;
            };
            let Some(place) = entry.place.clone() else {
                continue;
            };
            if partitions.arm(at) {
                let p = &fetched.partition;
                let seen = Seen {
                    ring: place.ring,
                    partition: place.partition,
                    stood: (p.high_watermark, p.last_stable_offset),
                };
                let target = seen.ring.shard(shard.info.shards);
                to_arm.entry(target).or_default().push((at as u32, seen));
            }
        }
    }
    arm(shard, session, to_arm).await;
}

/// Tells the shards of partitions to watch them.
async fn arm(shard: &Rc<Shard>, session: &Rc<Session>, to_arm: ToArm) {
    for (target, arm) in to_arm {
        let generation = session.partitions.borrow().generation();
        let watcher = session.watchers.borrow().get(&target).cloned();
        let watcher = watcher.unwrap_or_else(|| watcher_on(shard, session, target));
        // A stopped shard watches nothing.
        let _ = watcher.send(Watch { generation, arm }).await;
    }
}

/// Starts the watcher of a session on a shard. It ends with the session.
fn watcher_on(shard: &Rc<Shard>, session: &Rc<Session>, target: ShardId) -> mailbox::Sender<Watch> {
    let (watcher, arms) = mailbox::channel(WATCH_MESSAGES_MAX);
    let (fired, mut fires) = mailbox::channel(WATCH_MESSAGES_MAX);
    session
        .watchers
        .borrow_mut()
        .insert(target, watcher.clone());
    let told = Rc::downgrade(session);
    drop(task::spawn(Queue::Kafka, async move {
        while let Some((generation, slots)) = fires.recv().await {
            let Some(session) = told.upgrade() else {
                return;
            };
            let slots: Vec<u32> = slots;
            session.fired(generation, &slots);
        }
    }));
    let handle = shard.handle.clone();
    drop(task::spawn(Queue::Kafka, async move {
        let _ = handle
            .on(target, move |shard| watch(shard, arms, fired))
            .await;
    }));
    watcher
}

/// Watches partitions of this shard for a session, until the session is gone.
async fn watch(
    shard: Rc<Shard>,
    mut arms: mailbox::Receiver<Watch>,
    fired: mailbox::Sender<(u32, Vec<u32>)>,
) {
    let mut generation = 0;
    let mut waiting = FuturesUnordered::new();
    loop {
        let next = if waiting.is_empty() {
            Either::Left(arms.recv().await)
        } else {
            match select(Box::pin(arms.recv()), waiting.next()).await {
                Either::Left((arm, _)) => Either::Left(arm),
                Either::Right((slot, _)) => Either::Right(slot),
            }
        };
        let mut moved = Vec::new();
        match next {
            Either::Left(None) => return,
            Either::Left(Some(watch)) => {
                if watch.generation != generation {
                    generation = watch.generation;
                    waiting.clear();
                }
                for (slot, seen) in watch.arm {
                    match still(&shard, &seen) {
                        Some(signal) => waiting.push(signal.map(move |()| slot)),
                        None => moved.push(slot),
                    }
                }
            }
            Either::Right(slot) => moved.extend(slot),
        }
        while let Some(Some(slot)) = waiting.next().now_or_never() {
            moved.push(slot);
        }
        if !moved.is_empty() && fired.send((generation, moved)).await.is_err() {
            return;
        }
    }
}
