//! Consumer groups of a shard: a coordinator for each partition of `__consumer_offsets` that is here.
//!
//! The `groups` crate decides; here is what acts: reads the log at start, appends records, answers those who wait, keeps
//! the time.

mod coordination;
mod load;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, LocalBoxFuture, ready};
use tidemill_controller::Topic;
use tidemill_groups::partition::partition_of;
use tidemill_groups::{Budget, GroupError, Now, Settings, Ticket};
use tidemill_model::topic_name;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::time::{self, Instant};

use crate::config::table as config;
use crate::metrics::{Counter, Histogram, Labels, Sample};
use crate::shard::Shard;
use crate::topics::{NewTopic, TopicError};

pub(crate) use coordination::{Coordination, Fetched, Findings};

/// Where groups are kept.
pub(crate) const OFFSETS_TOPIC: &str = topic_name::INTERNAL[0];
/// Size of its segments in bytes: what is before a copy is dropped by whole segments.
const OFFSETS_SEGMENT_BYTES: u32 = 16 << 20;
/// How long finding a coordinator waits for it to have read its log.
const LOAD_WAIT_MAX: Duration = Duration::from_secs(1);

/// The coordinators of a shard.
#[derive(Debug)]
pub(crate) struct Groups {
    settings: Settings,
    budget: Budget,
    by_partition: RefCell<BTreeMap<i32, Rc<Coordination>>>,
    next_ticket: Cell<u64>,
    changed: Notify,
    pub(crate) counters: GroupCounters,
}

/// What happened, beside what the coordinators count themselves.
#[derive(Debug, Default)]
pub(crate) struct GroupCounters {
    /// How long reading a partition's log took.
    pub(crate) load_time: Histogram,
    /// Records that could not be read.
    pub(crate) unreadable: Counter,
    /// Writes refused because too many waited.
    pub(crate) writes_refused: Counter,
    /// Copies of the live state that were finished.
    pub(crate) copies: Counter,
}

/// What time it is.
pub(crate) fn now() -> Now {
    Now {
        mono_ms: Instant::now().as_nanos() / 1_000_000,
        unix_ms: time::unix_ms(),
    }
}

impl Groups {
    /// No coordinators yet; they may keep `bytes_max` bytes of groups and offsets.
    pub(crate) fn new(settings: &config::Groups, bytes_max: u64) -> Groups {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let retention_ms = ms(settings.offsets_retention);
        Groups {
            settings: Settings {
                initial_rebalance_delay_ms: ms(settings.initial_rebalance_delay),
                offsets_retention_ms: i64::try_from(retention_ms).unwrap_or(i64::MAX),
                ..Settings::default()
            },
            budget: Budget::of(bytes_max),
            by_partition: RefCell::default(),
            next_ticket: Cell::new(0),
            changed: Notify::new(),
            counters: GroupCounters::default(),
        }
    }

    fn ticket(&self) -> Ticket {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        Ticket(ticket)
    }

    /// The coordinator of a partition, if it is here and has read its log.
    fn serving(&self, partition: i32) -> Result<Rc<Coordination>, GroupError> {
        match self.by_partition.borrow().get(&partition) {
            None => Err(GroupError::CoordinatorNotAvailable),
            Some(c) if !c.is_loaded() => Err(GroupError::CoordinatorLoadInProgress),
            Some(c) => Ok(c.clone()),
        }
    }

    /// All coordinators that are here.
    pub(crate) fn all(&self) -> Vec<Rc<Coordination>> {
        self.by_partition.borrow().values().cloned().collect()
    }

    async fn wait_for(&self, partition: i32, until: Instant) {
        let loaded = async {
            loop {
                let changed = self.changed.notified();
                if self.serving(partition).is_ok() {
                    return;
                }
                changed.await;
            }
        };
        let _ = time::timeout_at(until, loaded).await;
    }

    /// Adds this shard's samples to `out`.
    pub(crate) fn collect(&self, out: &mut Vec<Sample>) {
        let mut plain =
            |family, labels: Labels, value: f64| out.push(Sample::plain(family, labels, value));
        let mut loading = 0;
        for c in self.all() {
            loading += u64::from(!c.is_loaded());
            let machine = c.machine.borrow();
            for (state, count) in machine.groups_by_state() {
                let labels = vec![("state", state.name().to_owned())];
                plain("tidemill_groups", labels, count as f64);
            }
            let counts = machine.counts();
            plain(
                "tidemill_group_members",
                Vec::new(),
                machine.members() as f64,
            );
            plain(
                "tidemill_group_offsets",
                Vec::new(),
                machine.store().commits() as f64,
            );
            plain(
                "tidemill_group_rebalances_total",
                Vec::new(),
                counts.rebalances as f64,
            );
            plain(
                "tidemill_group_commits_total",
                Vec::new(),
                counts.commits as f64,
            );
            plain(
                "tidemill_group_offsets_expired_total",
                Vec::new(),
                counts.expired as f64,
            );
            plain(
                "tidemill_group_writes_waiting",
                Vec::new(),
                c.waiting_writes() as f64,
            );
        }
        let counters = &self.counters;
        let whole = [
            ("tidemill_group_coordinators_loading", loading),
            ("tidemill_group_memory_bytes", self.budget.bytes()),
            ("tidemill_group_writes_waiting_bytes", self.budget.waiting()),
            (
                "tidemill_group_limits_reached_total",
                self.budget.refused_total(),
            ),
            (
                "tidemill_group_writes_refused_total",
                counters.writes_refused.get(),
            ),
            (
                "tidemill_group_unreadable_records_total",
                counters.unreadable.get(),
            ),
            ("tidemill_group_copies_total", counters.copies.get()),
        ];
        for (family, value) in whole {
            plain(family, Vec::new(), value as f64);
        }
        self.counters
            .load_time
            .collect("tidemill_group_load_seconds", &Vec::new(), out);
    }
}

/// What comes back from a coordinator.
pub(crate) type FromCoordinator<T> = LocalBoxFuture<'static, Result<T, GroupError>>;

impl Shard {
    /// Starts coordinators for partitions of `__consumer_offsets` that are here and have none.
    pub(crate) fn groups_changed(self: &Rc<Shard>) {
        let Some(topic) = self.image().topic(OFFSETS_TOPIC).cloned() else {
            return;
        };
        for index in 0..topic.partition_count() {
            let partition = topic.partition(index);
            let ring = topic.ring(index).and_then(|ring| self.ring(ring));
            // One that is not open yet is looked at again when it is.
            let Some(ring) = ring.filter(|ring| ring.view(partition).is_some()) else {
                continue;
            };
            if self.groups.by_partition.borrow().contains_key(&index) {
                continue;
            }
            let (settings, budget) = (self.groups.settings, self.groups.budget.clone());
            let started = Coordination::start(self, ring.clone(), partition, (settings, budget));
            self.groups.by_partition.borrow_mut().insert(index, started);
        }
    }

    /// Topics were deleted: what was committed of them goes.
    pub(crate) fn forget_deleted_offsets(&self) {
        self.groups.all().iter().for_each(|c| c.sweep_now());
    }

    /// The topic that groups are kept in, made if it is missing.
    pub(crate) async fn offsets_topic(self: &Rc<Shard>) -> Result<Arc<Topic>, TopicError> {
        let configs = [
            ("cleanup.policy", "compact".to_owned()),
            (
                "max.message.bytes",
                tidemill_groups::limits::RECORD_BATCH_BYTES_MAX.to_string(),
            ),
            ("retention.ms", "-1".to_owned()),
            ("segment.bytes", OFFSETS_SEGMENT_BYTES.to_string()),
        ];
        let new = NewTopic {
            partitions: Some(self.info.settings.groups.offsets_partitions),
            configs: configs.map(|(name, value)| (name.to_owned(), value)).into(),
            ..NewTopic::named(OFFSETS_TOPIC)
        };
        self.internal_topic_or_create(new).await
    }

    /// Makes sure that there is a coordinator for `group`; for one that reads its log is waited until a little after
    /// `asked`.
    pub(crate) async fn find_coordinator(
        self: &Rc<Shard>,
        group: &str,
        asked: Instant,
    ) -> Result<(), TopicError> {
        let topic = self.offsets_topic().await?;
        let index = partition_of(group, topic.partition_count());
        if let Some((_, target)) = self.locate(topic.partition(index)) {
            let waiting = self.on(target, move |shard| async move {
                shard.groups.wait_for(index, asked + LOAD_WAIT_MAX).await
            });
            waiting.await?;
        }
        Ok(())
    }

    /// Calls `f` at the coordinator of `group`. When this returns, `f` was called or is in line for it, in the order of
    /// calls; what it returned is driven by the future.
    pub(crate) async fn at_coordinator<T, F, Fut>(
        self: &Rc<Shard>,
        group: &str,
        f: F,
    ) -> FromCoordinator<T>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Coordination>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let nobody =
            || -> FromCoordinator<T> { Box::pin(ready(Err(GroupError::CoordinatorNotAvailable))) };
        let image = self.image();
        let Some(topic) = image.topic(OFFSETS_TOPIC) else {
            return nobody();
        };
        let index = partition_of(group, topic.partition_count());
        let Some((_, target)) = self.locate(topic.partition(index)) else {
            return nobody();
        };
        let job = move |shard: Rc<Shard>| match shard.groups.serving(index) {
            Ok(coordination) => Either::Left(f(coordination).map(Ok)),
            Err(error) => Either::Right(ready(Err(error))),
        };
        if target == self.id {
            return Box::pin(job(self.clone()));
        }
        match self.handle.submit(target, job).await {
            Ok(done) => {
                Box::pin(done.map(|done| done.unwrap_or(Err(GroupError::CoordinatorNotAvailable))))
            }
            Err(_) => nobody(),
        }
    }
}
