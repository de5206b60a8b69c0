//! Which processors run on a shard, brought in line with the controller's image by one task.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tidemill_controller::image::{Codec, ErrorPolicy, PartitionBy};
use tidemill_controller::{Image, StartPosition, TransformSpec, TransformStatus};
use tidemill_model::batch::Compression;
use tidemill_model::{PartitionId, ShardId};
use tidemill_ring::{Ring, StartAt};
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::semaphore::Semaphore;
use tidemill_rt::chan::watch;
use tidemill_rt::task::{self, JoinHandle, Queue};
use tidemill_rt::time;
use tidemill_transform::processor::STRETCHES_MAX;
use tidemill_transform::{Control, OnError, Processor, ProcessorConfig, ProcessorStats, Stopped};
use tidemill_wasm_host::{Factory, Guest, GuestConfig, Module, OutputTopic, TransformKey};

use super::keep::ModuleKeep;
use super::logs::{About, Logs, PartitionObserver};
use super::request::limits_that_hold;
use super::wiring::{GuestRunner, RingSink, RingSource};
use super::{modules, positions, secrets, status, versions};
use crate::admin::types::LogLevel;
use crate::config::Settings;
use crate::metrics::Histogram;
use crate::shard::Shard;

/// A processor that ends sooner after its start is not started anew at once.
const RESTART_MIN: std::time::Duration = std::time::Duration::from_secs(1);
/// Partitions that a transform is attached to, or detached from, at once: they share their syncs. One after the other, a topic with 4,000
/// took 51 s, and every change of the node's topics and transforms waited for it.
pub(super) const CHANGES_AT_ONCE: usize = 64;
/// Transforms looked at before the shard's other tasks have a turn.
const LOOKS_PER_TURN: usize = 32;
/// Wait before a module that could not be loaded is tried again.
const LOAD_RETRY: std::time::Duration = std::time::Duration::from_secs(5);

/// A processor at work.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) stats: Rc<ProcessorStats>,
    control: watch::Sender<Control>,
    task: JoinHandle<Stopped>,
    ended: Rc<Cell<bool>>,
    started: time::Instant,
}

/// A transform on this shard.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) spec: Arc<TransformSpec>,
    pub(crate) key: Option<TransformKey>,
    pub(crate) processors: BTreeMap<i32, Running>,
    pub(crate) load_error: Option<String>,
    /// What processors had counted that are begun anew.
    counted: BTreeMap<i32, Rc<ProcessorStats>>,
    /// Its outputs as they were told to the guest thread.
    outputs: Vec<OutputTopic>,
    /// Stretches of input that its processors may run at once.
    pub(super) stretches: Semaphore,
    /// Whether this shard says what befalls the transform as a whole: the one that has input partition 0, so that it is said once.
    speaks: bool,
}

/// The transforms of a shard.
pub(crate) struct TransformManager {
    pub(crate) factory: Factory,
    pub(crate) logs: Logs,
    /// What keeps modules on disk.
    pub(crate) modules: ModuleKeep,
    pub(crate) active: RefCell<BTreeMap<String, Active>>,
    /// The modules of those, by hash.
    loaded: RefCell<BTreeMap<String, Module>>,
    pub(crate) latency: RefCell<BTreeMap<String, Rc<Histogram>>>,
    pub(super) guest: RefCell<Option<Guest>>,
    /// Memory for unpacked input.
    unpacking: Semaphore,
    shard: ShardId,
    /// Memory that the instances share, in bytes.
    guest_memory: usize,
    next_key: Cell<u64>,
    wake: Notify,
    task: RefCell<Option<JoinHandle<()>>>,
}

impl TransformManager {
    /// A manager that runs nothing yet.
    pub(crate) fn new(factory: Factory, shard: ShardId, settings: &Settings) -> TransformManager {
        TransformManager {
            factory,
            logs: Logs::new(&settings.transforms),
            modules: ModuleKeep::default(),
            active: RefCell::default(),
            loaded: RefCell::default(),
            latency: RefCell::default(),
            guest: RefCell::default(),
            unpacking: Semaphore::new(settings.memory.unpacking),
            shard,
            guest_memory: settings.transforms.memory,
            next_key: Cell::new(1),
            wake: Notify::new(),
            task: RefCell::default(),
        }
    }

    /// The shard's guest thread, started when the first transform needs it.
    fn guest(&self) -> Guest {
        if let Some(guest) = &*self.guest.borrow() {
            return guest.clone();
        }
        let config = GuestConfig {
            name: format!("guest-{}", self.shard.0),
            cpus: tidemill_rt::runtime::allowed_cpus(),
            memory_bytes: self.guest_memory,
        };
        let guest = Guest::start(&self.factory, config);
        *self.guest.borrow_mut() = Some(guest.clone());
        guest
    }
}

/// Has whoever looks at the `n`th of many transforms give the shard's other tasks a turn now and then: with a thousand transforms a deploy
/// of one held up Produce requests by 20 ms.
async fn let_others_run(n: usize) {
    if n % LOOKS_PER_TURN == LOOKS_PER_TURN - 1 {
        task::yield_now().await;
    }
}

/// A transform that could not be attached to all of its input on a shard.
#[derive(Debug)]
pub(crate) struct NotAttached {
    /// Which one.
    pub(crate) transform: String,
    /// Why.
    pub(crate) error: String,
}

impl Shard {
    /// Starts the task that follows the image, and outbox delivery.
    pub(crate) fn start_transforms(self: &Rc<Shard>) {
        let shard = self.clone();
        let follow = task::spawn(Queue::Kafka, async move { shard.follow_transforms().await });
        *self.transforms.task.borrow_mut() = Some(follow);
        self.start_delivery();
        self.start_logs();
    }

    /// Takes in the newest image: attaches new transforms to their input here (rule X1) and registers them with the
    /// rings as senders (rule X7), then wakes the task that starts and stops processors. Those that could not be attached are returned;
    /// it is tried again, but where they begin is then decided later.
    pub(crate) async fn transforms_changed(self: &Rc<Shard>) -> Vec<NotAttached> {
        let image = self.image();
        let mut not_attached = Vec::new();
        for (n, spec) in image.transforms().enumerate() {
            let_others_run(n).await;
            if spec.status == TransformStatus::Deleting {
                continue;
            }
            if let Err(error) = self.attach_here(&image, spec).await {
                tracing::warn!(transform = %spec.name, %error, "cannot attach yet; trying again");
                let transform = spec.name.clone();
                not_attached.push(NotAttached { transform, error });
            }
        }
        let newest = self.image();
        self.metrics
            .retain_topics(|name| newest.topic(name).is_some());
        self.transforms.wake.notify_all();
        not_attached
    }

    /// Whether this life of a transform goes on as far as this shard knows. Asked right before every proposal for it: a
    /// deletion detaches only after every shard has taken in the image that says so.
    fn lives(&self, spec: &TransformSpec) -> bool {
        self.image().transform(&spec.name).is_some_and(|t| {
            t.incarnation == spec.incarnation && t.status != TransformStatus::Deleting
        })
    }

    async fn attach_here(&self, image: &Image, spec: &TransformSpec) -> Result<(), String> {
        for (_, ring) in self.rings() {
            if !self.lives(spec) {
                return Ok(());
            }
            if ring.is_registered(spec.incarnation()) {
                continue;
            }
            ring.register_sender(spec.incarnation())
                .await
                .map_err(|e| e.to_string())?;
        }
        let missing = self.inputs_here(image, spec).into_iter();
        let missing = missing.filter(|(ring, p)| ring.progress(*p, spec.incarnation()).is_none());
        let attached = missing.map(|(ring, partition)| self.attach_one(spec, ring, partition));
        stream::iter(attached)
            .buffer_unordered(CHANGES_AT_ONCE)
            .try_collect()
            .await
    }

    async fn attach_one(
        &self,
        spec: &TransformSpec,
        ring: Ring,
        partition: PartitionId,
    ) -> Result<(), String> {
        let start = match spec.from {
            _ if spec.is_later_input(partition.index) => StartAt::Offset(0),
            StartPosition::Earliest => StartAt::Earliest,
            StartPosition::Latest => StartAt::Latest,
            from => StartAt::Offset(positions::resolve(&ring, partition, from).await?),
        };
        // Asked after the look-up, which may take its time: nothing would detach what is attached behind a deletion.
        if !self.lives(spec) {
            return Ok(());
        }
        let attached = ring.attach(partition, spec.incarnation(), start).await;
        attached.map(drop).map_err(|e| e.to_string())
    }

    /// The input partitions of a transform that are on this shard, with their rings.
    pub(crate) fn inputs_here(
        &self,
        image: &Image,
        spec: &TransformSpec,
    ) -> Vec<(Ring, PartitionId)> {
        let Some(topic) = image.topic_by_id(spec.input.id) else {
            return Vec::new();
        };
        let all = (0..topic.partition_count()).map(|index| topic.partition(index));
        all.filter_map(|p| Some((self.ring(image.ring_of(p)?)?.clone(), p)))
            .collect()
    }

    async fn follow_transforms(self: &Rc<Shard>) {
        while !self.is_stopping() {
            let changed = self.transforms.wake.notified();
            let image = self.image();
            let complete = self.reconcile_transforms(&image).await;
            if complete {
                changed.await;
            } else {
                let _ = time::timeout(LOAD_RETRY, changed).await;
            }
        }
    }

    /// One round; `false` when something is to be tried again later.
    async fn reconcile_transforms(self: &Rc<Shard>, image: &Image) -> bool {
        let wanted: BTreeSet<&str> = image
            .transforms()
            .filter(|t| t.status != TransformStatus::Deleting)
            .map(|t| t.name.as_str())
            .collect();
        let gone: Vec<String> = {
            let active = self.transforms.active.borrow();
            active
                .keys()
                .filter(|n| !wanted.contains(n.as_str()))
                .cloned()
                .collect()
        };
        for name in gone {
            self.stop_transform(&name).await;
            if image.transform(&name).is_none() {
                self.transforms.latency.borrow_mut().remove(&name);
            }
        }
        let mut complete = true;
        let live = image
            .transforms()
            .filter(|t| t.status != TransformStatus::Deleting);
        for (n, spec) in live.enumerate() {
            let_others_run(n).await;
            complete &= self.reconcile_transform(image, spec).await;
        }
        let newest = self.image();
        let known = |name: &str| newest.transform(name).is_some();
        self.transforms.logs.retain(known);
        let active = self.transforms.active.borrow();
        let used: BTreeSet<&str> = active.values().map(|a| a.spec.module.as_str()).collect();
        let mut loaded = self.transforms.loaded.borrow_mut();
        loaded.retain(|hash, _| used.contains(hash.as_str()));
        complete
    }

    async fn reconcile_transform(
        self: &Rc<Shard>,
        image: &Image,
        spec: &Arc<TransformSpec>,
    ) -> bool {
        let inputs = self.inputs_here(image, spec);
        if let Some((_, message)) = status::trouble(image, spec) {
            self.stop_troubled(spec, &message).await;
            return true;
        }
        let current = self
            .transforms
            .active
            .borrow()
            .get(&spec.name)
            .map(|a| a.spec.clone());
        let limits_changed = {
            let active = self.transforms.active.borrow();
            let loaded = active.get(&spec.name).filter(|a| a.key.is_some());
            loaded.is_some_and(|a| a.outputs != self.output_topics(image, spec))
        };
        if let Some(current) = &current
            && (limits_changed
                || current.version != spec.version
                || current.incarnation != spec.incarnation)
        {
            self.stop_transform(&spec.name).await;
        }
        if inputs.is_empty() {
            return true;
        }
        if let Err(error) = self.attach_here(image, spec).await {
            tracing::warn!(transform = %spec.name, %error, "cannot attach yet; trying again");
            return false;
        }
        let Some(key) = self.loaded(image, spec, &inputs).await else {
            return false;
        };
        if !self.lives(spec) {
            return true;
        }
        self.start_processors(spec, key, inputs)
    }

    /// Stops a transform whose topics are gone; it is looked at again when topics or deployments change.
    async fn stop_troubled(self: &Rc<Shard>, spec: &TransformSpec, message: &str) {
        let speaks = {
            let active = self.transforms.active.borrow();
            active.get(&spec.name).is_some_and(|active| active.speaks)
        };
        self.stop_transform(&spec.name).await;
        if speaks {
            self.transforms
                .logs
                .event(about(spec, None), LogLevel::Error, message);
        }
    }

    /// The key of the transform's module in the guest thread, loading it if need be.
    async fn loaded(
        self: &Rc<Shard>,
        image: &Image,
        spec: &Arc<TransformSpec>,
        inputs: &[(Ring, PartitionId)],
    ) -> Option<TransformKey> {
        if let Some(active) = self.transforms.active.borrow_mut().get_mut(&spec.name)
            && let Some(key) = active.key
        {
            active.spec = spec.clone();
            return Some(key);
        }
        let loaded = self.load(image, spec).await;
        let mut active = self.transforms.active.borrow_mut();
        let entry = active.entry(spec.name.clone()).or_insert_with(|| Active {
            spec: spec.clone(),
            key: None,
            processors: BTreeMap::new(),
            load_error: None,
            counted: BTreeMap::new(),
            outputs: Vec::new(),
            stretches: Semaphore::new(STRETCHES_MAX),
            speaks: inputs.iter().any(|(_, partition)| partition.index == 0),
        });
        entry.spec = spec.clone();
        match loaded {
            Ok(key) => {
                entry.key = Some(key);
                entry.outputs = self.output_topics(image, spec);
                entry.load_error = None;
                Some(key)
            }
            Err(message) => {
                // Every shard has the same reason, and has it again with every try.
                if entry.speaks && entry.load_error.as_ref() != Some(&message) {
                    tracing::warn!(transform = %spec.name, %message, "a module cannot be loaded; trying again");
                    self.transforms
                        .logs
                        .event(about(spec, None), LogLevel::Error, &message);
                }
                entry.load_error = Some(message);
                None
            }
        }
    }

    async fn load(
        self: &Rc<Shard>,
        image: &Image,
        spec: &TransformSpec,
    ) -> Result<TransformKey, String> {
        let _kept = self.transforms.modules.pin(&spec.module);
        let module = self.module(&spec.module).await?;
        let guest = self.transforms.guest();
        let key = TransformKey(self.transforms.next_key.get());
        self.transforms.next_key.set(key.0 + 1);
        let outputs = versions::declared(spec);
        let topics = (spec.input.name.as_str(), &outputs[..]);
        let sealed_with = self.info.secrets_key.as_deref();
        let secrets = secrets::opened(sealed_with, &spec.name, &spec.secrets);
        let secrets = secrets.map_err(|e| e.to_string())?;
        let user = (&spec.env, &secrets[..]);
        let env = modules::environment((&spec.name, spec.version), topics, user);
        let limits = limits_that_hold(spec, &self.info.settings.transforms);
        guest.register(key, module, env, limits, self.output_topics(image, spec));
        guest.set_weight(key, spec.weight);
        Ok(key)
    }

    /// The module with this hash: that of another transform here, where it has the same, so that thousands of one cost one file and one
    /// look at it.
    async fn module(&self, hash: &str) -> Result<Module, String> {
        let known = self.transforms.loaded.borrow().get(hash).cloned();
        if let Some(module) = known {
            return Ok(module);
        }
        let (dir, factory) = (&self.info.modules_dir, &self.transforms.factory);
        let module = modules::load(dir, hash, factory).await?;
        let mut loaded = self.transforms.loaded.borrow_mut();
        loaded.insert(hash.to_owned(), module.clone());
        Ok(module)
    }

    /// Starts what is not running; `false` when a processor ended right after its start and is to be started later.
    fn start_processors(
        self: &Rc<Shard>,
        spec: &Arc<TransformSpec>,
        key: TransformKey,
        inputs: Vec<(Ring, PartitionId)>,
    ) -> bool {
        let control = match spec.status {
            TransformStatus::Paused => Control::Pause,
            TransformStatus::Running | TransformStatus::Deleting => Control::Run,
        };
        let mut active = self.transforms.active.borrow_mut();
        let Some(active) = active.get_mut(&spec.name) else {
            return true;
        };
        let soon = |p: &Running| p.started.elapsed() < RESTART_MIN;
        active.processors.retain(|_, p| !p.ended.get() || soon(p));
        let first = active.outputs.first().filter(|output| output.by_key);
        let by_key = first.and_then(|output| output.partitions);
        let mut complete = true;
        for (ring, partition) in inputs {
            if let Some(running) = active.processors.get(&partition.index) {
                complete &= !running.ended.get();
                running
                    .control
                    .send_if_modified(|c| std::mem::replace(c, control) != control);
                continue;
            }
            let counted = active.counted.remove(&partition.index);
            let stats = counted.unwrap_or_default();
            let input = (ring, partition);
            let shared = (by_key, active.stretches.clone());
            let running = self.start_processor(spec, key, input, (control, stats), shared);
            if let Some(running) = running {
                active.processors.insert(partition.index, running);
            }
        }
        complete
    }

    fn start_processor(
        self: &Rc<Shard>,
        spec: &Arc<TransformSpec>,
        key: TransformKey,
        (ring, partition): (Ring, PartitionId),
        (control, stats): (Control, Rc<ProcessorStats>),
        (by_key, stretches): (Option<u32>, Semaphore),
    ) -> Option<Running> {
        let (tx, rx) = watch::channel(control);
        let observer = Rc::new(PartitionObserver {
            logs: self.transforms.logs.clone(),
            about: about(spec, Some(partition.index)),
        });
        let source = RingSource {
            ring: ring.clone(),
            partition,
        };
        let sink = RingSink {
            shard: Rc::downgrade(self),
            ring,
            partition,
            spec: spec.clone(),
            moves: Cell::new(0),
        };
        let guest = self.transforms.guest.borrow().clone()?;
        let config = ProcessorConfig {
            name: spec.name.clone(),
            version: spec.version,
            input_topic: spec.input.name.clone(),
            partition: partition.index,
            on_error: on_error(spec),
            attempts: spec.attempts,
            by_key,
            unpacking: self.transforms.unpacking.clone(),
            stretches,
        };
        let runner = GuestRunner {
            guest,
            key,
            partition: partition.index,
        };
        let parts = (source, sink, runner);
        let processor = Processor::new(parts, config, rx, stats.clone(), observer);
        let ended = Rc::new(Cell::new(false));
        let (flag, wake) = (ended.clone(), self.transforms.wake.clone());
        let task = task::spawn(Queue::Kafka, async move {
            let stopped = processor.run().await;
            flag.set(true);
            // Whoever ended by itself (its input gone) is looked at again.
            wake.notify_all();
            stopped
        });
        Some(Running {
            stats,
            control: tx,
            task,
            ended,
            started: time::Instant::now(),
        })
    }

    /// Has a partition's processor begin anew where the transform stands now. What it counted goes on.
    pub(super) async fn restart_processor(self: &Rc<Shard>, spec: &TransformSpec, index: i32) {
        let stopped = {
            let mut active = self.transforms.active.borrow_mut();
            let active = active.get_mut(&spec.name);
            let active = active.filter(|a| a.spec.incarnation == spec.incarnation);
            active.and_then(|active| {
                let running = active.processors.remove(&index)?;
                active.counted.insert(index, running.stats.clone());
                Some(running)
            })
        };
        if let Some(running) = stopped {
            let _ = running.control.send(Control::Stop);
            let _ = running.task.await;
        }
        self.transforms.wake.notify_all();
    }

    /// Stops this life of a transform, if it is the one at work here.
    pub(crate) async fn stop_incarnation(self: &Rc<Shard>, spec: &TransformSpec) {
        let same = {
            let active = self.transforms.active.borrow();
            let current = active.get(&spec.name);
            current.is_some_and(|a| a.spec.incarnation == spec.incarnation)
        };
        if same {
            self.stop_transform(&spec.name).await;
        }
    }

    /// Stops a transform's processors at a batch boundary and forgets it.
    pub(crate) async fn stop_transform(self: &Rc<Shard>, name: &str) {
        let stopped = self.transforms.active.borrow_mut().remove(name);
        let Some(active) = stopped else {
            return;
        };
        self.tell_to_stop(&active);
        for (_, running) in active.processors {
            let _ = running.task.await;
        }
    }

    /// Tells processors to stop, and takes what they wait for away from the guest thread: nothing of a call that has not been
    /// proposed is needed by anybody.
    fn tell_to_stop(&self, active: &Active) {
        for running in active.processors.values() {
            let _ = running.control.send(Control::Stop);
        }
        let guest = self.transforms.guest.borrow();
        if let (Some(guest), Some(key)) = (&*guest, active.key) {
            guest.unregister(key);
        }
    }

    /// Stops everything, for the end of the process: first all are told, then all are waited for.
    pub(crate) async fn stop_transforms(self: &Rc<Shard>) {
        self.transforms.wake.notify_all();
        for active in self.transforms.active.borrow().values() {
            self.tell_to_stop(active);
        }
        let follower = self.transforms.task.borrow_mut().take();
        if let Some(follower) = follower {
            let _ = follower.await;
        }
        let active = std::mem::take(&mut *self.transforms.active.borrow_mut());
        // Once more, for what the follower started meanwhile.
        for active in active.values() {
            self.tell_to_stop(active);
        }
        for running in active.into_values().flat_map(|a| a.processors) {
            let _ = running.1.task.await;
        }
        *self.transforms.guest.borrow_mut() = None;
    }

    /// The outputs that a function may write to.
    fn output_topics(&self, image: &Image, spec: &TransformSpec) -> Vec<OutputTopic> {
        let declared = &spec.outputs[..spec.declared_outputs as usize];
        let described = declared.iter().map(|output| {
            let topic = image.topic_by_id(output.id);
            let configs = topic.map(|t| t.configs.clone()).unwrap_or_default();
            let defaults = &self.info.topic_defaults;
            OutputTopic {
                max_bytes: defaults.integer(&configs, "max.message.bytes") as usize,
                partitions: topic.map(|t| t.partition_count().unsigned_abs()),
                compression: match spec.compression {
                    Some(codec) => asked(codec),
                    None => of_topic(defaults.value(&configs, "compression.type")),
                },
                by_key: spec.partition_by == PartitionBy::Key,
            }
        });
        described.collect()
    }
}

/// How batches are compressed for a topic whose `compression.type` is `word`: `producer` leaves it to whoever writes, and a
/// transform that asks for nothing does not.
fn of_topic(word: &str) -> Compression {
    match word {
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        _ => Compression::None,
    }
}

fn asked(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}

/// What lines about a transform say of it.
fn about(spec: &TransformSpec, partition: Option<i32>) -> About {
    About {
        transform: spec.name.as_str().into(),
        version: spec.version,
        topic: spec.input.name.as_str().into(),
        partition,
        offset: None,
    }
}

fn on_error(spec: &TransformSpec) -> OnError {
    match (spec.on_error, spec.dead_letter) {
        (ErrorPolicy::Skip, _) => OnError::Skip,
        (ErrorPolicy::PassThrough, _) => OnError::PassThrough,
        (ErrorPolicy::DeadLetter, Some(output)) => OnError::DeadLetter(output),
        (ErrorPolicy::Fail | ErrorPolicy::DeadLetter, _) => OnError::Fail,
    }
}
