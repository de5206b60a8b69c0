//! Members of a consumer group, each a consumer of librdkafka on a thread of its own: what they read together, and how
//! they share the partitions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode;

/// What the members of a group have done, told by themselves.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// How often each key was read.
    pub(crate) read: BTreeMap<String, usize>,
    /// Partitions that each living member has.
    pub(crate) shares: BTreeMap<usize, usize>,
    /// What went wrong.
    pub(crate) errors: Vec<String>,
}

/// A group and its living members.
pub(crate) struct Group {
    settings: ClientConfig,
    topic: String,
    told: Arc<Mutex<Told>>,
    members: Vec<Member>,
    joined: usize,
}

struct Member {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Group {
    /// A group that nobody is in yet.
    pub(crate) fn new(kafka: &str, group: &str, topic: &str, strategy: &str) -> Group {
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", kafka)
            .set("group.id", group)
            .set("partition.assignment.strategy", strategy)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "50")
            .set("heartbeat.interval.ms", "500")
            .set("session.timeout.ms", "30000");
        Group {
            settings,
            topic: topic.to_owned(),
            told: Arc::default(),
            members: Vec::new(),
            joined: 0,
        }
    }

    /// One more member joins.
    pub(crate) fn join(&mut self) {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Watch {
            member: self.joined,
            told: self.told.clone(),
        };
        let consumer: BaseConsumer<Watch> = self
            .settings
            .create_with_context(watch)
            .expect("a consumer can be made");
        consumer
            .subscribe(&[&self.topic])
            .expect("a topic can be subscribed to");
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || read_until(&consumer, &stopped));
        self.members.push(Member { stop, thread });
        self.joined += 1;
    }

    /// The member that joined last commits what it has read, and leaves.
    pub(crate) fn leave(&mut self) {
        let member = self.members.pop().expect("somebody is in the group");
        member.stop.store(true, Ordering::Relaxed);
        member.thread.join().expect("no panic");
        self.told().shares.remove(&(self.joined - 1));
        self.joined -= 1;
    }

    /// What its members have done so far.
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        lock(&self.told)
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_until(consumer: &BaseConsumer<Watch>, stop: &AtomicBool) {
    let watch = consumer.context();
    while !stop.load(Ordering::Relaxed) {
        let polled = consumer.poll(Duration::from_millis(50));
        let share = consumer.assignment().map_or(0, |assigned| assigned.count());
        let mut told = lock(&watch.told);
        told.shares.insert(watch.member, share);
        match polled {
            Some(Ok(message)) => {
                let key = String::from_utf8_lossy(message.key().unwrap_or_default());
                *told.read.entry(key.into_owned()).or_default() += 1;
            }
            Some(Err(error)) => told.errors.push(format!("reading: {error}")),
            None => {}
        }
    }
    watch.commit(consumer);
}

/// Commits what was read before partitions go to another member, so that nobody reads it again.
struct Watch {
    member: usize,
    told: Arc<Mutex<Told>>,
}

impl Watch {
    fn commit(&self, consumer: &BaseConsumer<Watch>) {
        match consumer.commit_consumer_state(CommitMode::Sync) {
            // Nothing was read since the last time.
            Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Err(error) => lock(&self.told).errors.push(format!("committing: {error}")),
        }
    }
}

impl ClientContext for Watch {}

impl ConsumerContext for Watch {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Watch>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(_) => self.commit(consumer),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => {
                lock(&self.told)
                    .errors
                    .push(format!("rebalancing: {error}"));
            }
        }
    }
}
