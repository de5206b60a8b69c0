//! A shard: one thread, the rings it runs, and the way other threads reach it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidemill_controller::configs::Defaults;
use tidemill_controller::{Controller, Image};
use tidemill_model::{NodeId, PartitionId, RingId, ShardId};
use tidemill_ring::Ring;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::semaphore::Semaphore;
use tidemill_rt::mailbox::{self, reply};
use tidemill_rt::task::{self, Queue};
use tidemill_shardlog::ShardLog;

use crate::config::{HostPort, Settings, Stated};
use crate::groups::Groups;
use crate::kafka::{Budgets, ConnectionLimits, FetchSessions};
use crate::metrics::{ShardMetrics, TopicLabels};
use crate::records::UNPACKING_MAX;
use crate::transforms::TransformManager;
use crate::transforms::secrets::SecretsKey;

/// Jobs that may wait for a shard; senders beyond it wait.
pub(crate) const MAILBOX_JOBS_MAX: usize = 8_192;

/// Something to run on a shard's thread.
pub(crate) type Job = Box<dyn FnOnce(Rc<Shard>) + Send>;

/// The shard has stopped: the broker is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker is shutting down")]
pub(crate) struct ShardGone;

/// The way to every shard, from any thread.
#[derive(Clone)]
pub(crate) struct ShardHandle(Arc<[mailbox::Sender<Job>]>);

/// What does not change while the broker runs, and whether it is about to end.
#[derive(Debug, Clone)]
pub(crate) struct NodeInfo {
    /// This node.
    pub(crate) node: NodeId,
    /// The cluster's id.
    pub(crate) cluster_id: String,
    /// What Kafka clients are told.
    pub(crate) advertised: HostPort,
    /// Number of shards.
    pub(crate) shards: u16,
    /// What Kafka connections may take.
    pub(crate) connections: ConnectionLimits,
    /// Name of the runtime engine.
    pub(crate) engine: &'static str,
    /// The data directory.
    pub(crate) data_dir: std::path::PathBuf,
    /// Folder of modules.
    pub(crate) modules_dir: std::path::PathBuf,
    /// What secrets of transforms are sealed with.
    pub(crate) secrets_key: Option<Arc<SecretsKey>>,
    /// Which topics have metrics of their own.
    pub(crate) topic_labels: Arc<TopicLabels>,
    /// What the operator set.
    pub(crate) settings: Arc<Settings>,
    /// Which settings the operator set.
    pub(crate) stated: Stated,
    /// What a topic has that sets nothing itself.
    pub(crate) topic_defaults: Arc<Defaults>,
    /// Set when the broker is about to end: who only waits for something new is answered, and shards still serve.
    pub(crate) ending: Arc<AtomicBool>,
}

/// One shard. Lives on its thread; everything here is reached through `Rc` without locks.
pub(crate) struct Shard {
    /// Its number.
    pub(crate) id: ShardId,
    /// What does not change.
    pub(crate) info: Arc<NodeInfo>,
    /// The way to the other shards.
    pub(crate) handle: ShardHandle,
    /// Memory for Kafka requests and their answers.
    pub(crate) kafka_memory: Budgets,
    /// Fetch sessions of the clients that are connected here.
    pub(crate) fetch_sessions: FetchSessions,
    /// Counters.
    pub(crate) metrics: ShardMetrics,
    /// Consumer groups whose coordinators are here.
    pub(crate) groups: Groups,
    /// Transforms at work here.
    pub(crate) transforms: TransformManager,
    /// Batches that are being unpacked for the admin API.
    pub(crate) unpacking: Semaphore,
    /// Serialises topic creation and deletion (shard 0).
    pub(crate) topic_changes: Semaphore,
    /// Serialises what is decided about transforms (shard 0).
    pub(crate) deployments: Semaphore,
    /// Serialises the storing of modules (shard 0).
    pub(crate) module_changes: Semaphore,
    /// A large Metadata answer that is being made.
    pub(crate) metadata_turn: Semaphore,
    /// Whether shards are being made to agree with the controller in the background (shard 0).
    pub(crate) reconciling: Cell<bool>,
    pub(crate) producer_ids: RefCell<Range<i64>>,
    rings: BTreeMap<RingId, Ring>,
    controller: Option<Controller>,
    image: RefCell<Arc<Image>>,
    log: ShardLog,
    ready: Cell<bool>,
    stopping: Cell<bool>,
    stop: Notify,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard({})", self.id.0)
    }
}

/// What a shard is made of.
pub(crate) struct ShardParts {
    pub(crate) id: ShardId,
    pub(crate) info: Arc<NodeInfo>,
    pub(crate) handle: ShardHandle,
    pub(crate) transforms: TransformManager,
    pub(crate) rings: BTreeMap<RingId, Ring>,
    pub(crate) controller: Option<Controller>,
    pub(crate) log: ShardLog,
}

impl ShardHandle {
    /// Mailboxes for `shards` shards; each receiver goes to its shard.
    pub(crate) fn new(shards: u16) -> (ShardHandle, Vec<mailbox::Receiver<Job>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards)
            .map(|_| mailbox::channel(MAILBOX_JOBS_MAX))
            .unzip();
        (ShardHandle(senders.into()), receivers)
    }

    /// Number of shards.
    pub(crate) fn count(&self) -> u16 {
        self.0.len() as u16
    }

    /// All shards.
    pub(crate) fn all(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.count()).map(ShardId)
    }

    /// Queues `f` on `shard` and returns a future of its result, once there is room in the mailbox.
    /// The synchronous part of `f` runs in the order in which calls were queued; its future runs as a task.
    pub(crate) async fn submit<T, F, Fut>(
        &self,
        shard: ShardId,
        f: F,
    ) -> Result<impl Future<Output = Result<T, ShardGone>> + use<T, F, Fut>, ShardGone>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (tx, rx) = reply::reply();
        let job: Job = Box::new(move |shard| {
            let work = f(shard);
            drop(task::spawn(
                Queue::Kafka,
                async move { tx.send(work.await) },
            ));
        });
        let sender = self.0.get(usize::from(shard.0)).ok_or(ShardGone)?;
        sender.send(job).await.map_err(|_| ShardGone)?;
        Ok(async move { rx.recv().await.ok_or(ShardGone) })
    }

    /// Runs `f` on `shard` and waits for its result.
    ///
    /// # Errors
    /// [`ShardGone`] when the shard has stopped, or stopped before the result was there.
    pub(crate) async fn on<T, F, Fut>(&self, shard: ShardId, f: F) -> Result<T, ShardGone>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        self.submit(shard, f).await?.await
    }

    /// Puts `job` into the mailbox of `shard` from a plain thread, waiting for room. Dropped when the shard has stopped.
    pub(crate) fn post(&self, shard: ShardId, mut job: Job) {
        let Some(sender) = self.0.get(usize::from(shard.0)) else {
            return;
        };
        while let Err(mailbox::TrySendError::Full(back)) = sender.try_send(job) {
            job = back;
            std::thread::yield_now();
        }
    }

    /// Runs `f` on every shard, one after the other, and collects the results.
    ///
    /// # Errors
    /// [`ShardGone`] at the first shard that has stopped.
    pub(crate) async fn on_all<T, F, Fut>(&self, f: F) -> Result<Vec<T>, ShardGone>
    where
        T: Send + 'static,
        F: Fn(Rc<Shard>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let mut pending = Vec::new();
        for shard in self.all() {
            pending.push(self.submit(shard, f.clone()).await?);
        }
        let mut results = Vec::new();
        for result in pending {
            results.push(result.await?);
        }
        Ok(results)
    }
}

impl Shard {
    /// Puts a shard together.
    pub(crate) fn new(parts: ShardParts) -> Rc<Shard> {
        let image = parts
            .controller
            .as_ref()
            .map(Controller::image)
            .unwrap_or_default();
        let info = parts.info;
        Rc::new(Shard {
            id: parts.id,
            groups: Groups::new(&info.settings.groups, info.settings.memory.groups),
            kafka_memory: Budgets::new(&info.settings.memory),
            fetch_sessions: FetchSessions::new(
                parts.id,
                info.shards,
                info.settings.kafka.fetch_sessions_max,
            ),
            handle: parts.handle,
            metrics: ShardMetrics::new(info.topic_labels.clone()),
            transforms: parts.transforms,
            unpacking: Semaphore::new(UNPACKING_MAX),
            topic_changes: Semaphore::new(1),
            deployments: Semaphore::new(1),
            module_changes: Semaphore::new(1),
            metadata_turn: Semaphore::new(1),
            info,
            reconciling: Cell::new(false),
            producer_ids: RefCell::new(0..0),
            rings: parts.rings,
            controller: parts.controller,
            image: RefCell::new(image),
            log: parts.log,
            ready: Cell::new(false),
            stopping: Cell::new(false),
            stop: Notify::new(),
        })
    }

    /// Runs jobs until [`Shard::stop`].
    pub(crate) async fn run_jobs(self: &Rc<Shard>, mut jobs: mailbox::Receiver<Job>) {
        while !self.stopping.get() {
            match jobs.recv().await {
                Some(job) => job(self.clone()),
                None => return,
            }
        }
    }

    /// Queues `f` on the shard that runs it (this one included) in call order; see [`ShardHandle::submit`].
    pub(crate) async fn on<T, F, Fut>(
        self: &Rc<Shard>,
        shard: ShardId,
        f: F,
    ) -> Result<T, ShardGone>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        if shard == self.id {
            return Ok(f(self.clone()).await);
        }
        self.handle.on(shard, f).await
    }

    /// Ends [`Shard::run_jobs`] after the running job and wakes whoever waits for the end.
    pub(crate) fn stop(&self) {
        self.stopping.set(true);
        self.stop.notify_all();
    }

    /// The shard's write-ahead log.
    pub(crate) fn log(&self) -> &ShardLog {
        &self.log
    }

    /// Notes that every shard agrees with the controller and clients are served.
    pub(crate) fn mark_ready(&self) {
        self.ready.set(true);
    }

    /// Whether clients are served (told by shard 0).
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.get() && !self.stopping.get()
    }

    /// Whether the broker is about to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.info.ending.load(Ordering::Relaxed) || self.is_stopping()
    }

    /// Whether the shard is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Waits until the shard is stopping.
    pub(crate) async fn stopped(&self) {
        while !self.stopping.get() {
            self.stop.notified().await;
        }
    }

    /// A ring of this shard.
    pub(crate) fn ring(&self, id: RingId) -> Option<&Ring> {
        self.rings.get(&id)
    }

    /// The rings of this shard.
    pub(crate) fn rings(&self) -> impl Iterator<Item = (&RingId, &Ring)> {
        self.rings.iter()
    }

    /// The controller, on the shard that runs it.
    pub(crate) fn controller(&self) -> Option<&Controller> {
        self.controller.as_ref()
    }

    /// The newest image this shard knows.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    /// Takes a newer image; an older one is ignored.
    pub(crate) fn set_image(&self, image: Arc<Image>) {
        if image.version >= self.image.borrow().version {
            *self.image.borrow_mut() = image;
        }
    }

    /// The ring and shard of a partition, if it exists.
    pub(crate) fn locate(&self, partition: PartitionId) -> Option<(RingId, ShardId)> {
        let ring = self.image.borrow().ring_of(partition)?;
        Some((ring, ring.shard(self.info.shards)))
    }
}
