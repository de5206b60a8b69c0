//! Starting and stopping the broker: sockets, data directory, shards, admin server, signals.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tidemill_consensus::GroupConfig;
use tidemill_controller::{Controller, ControllerConfig, placement};
use tidemill_model::{NodeId, RingId, ShardId};
use tidemill_ring::{MemoryConfig, Ring, RingConfig, RingError, ShardMemory};
use tidemill_rt::mailbox;
use tidemill_rt::runtime::{self, EngineChoice, RuntimeConfig, StartError};
use tidemill_rt::task::{self, Queue};
use tidemill_rt::{EngineKind, memory, net, time};
use tidemill_shardlog::{
    DataDir, DataDirError, LogConfig, RecoveredRing, ShardLog, SpaceConfig, reserve_bytes,
};
use tidemill_wasm_host::{Factory, HostConfig};

use crate::admin;
use crate::admin_service::Service;
use crate::compiler;
use crate::config::BrokerConfig;
use crate::kafka;
use crate::metrics::TopicLabels;
use crate::shard::{Job, NodeInfo, Shard, ShardHandle, ShardParts};
use crate::topics::CONTROLLER_SHARD;
use crate::transforms::TransformManager;
use crate::transforms::secrets::{KeyFileError, SecretsKey};

/// The node id of a node that is alone.
const NODE: NodeId = NodeId(1);
/// How long a port that is in use is tried again ...
const BIND_RETRY_MAX: std::time::Duration = std::time::Duration::from_secs(3);
/// ... and how often.
const BIND_RETRY: std::time::Duration = std::time::Duration::from_millis(10);
/// How long a clean shutdown may take before the process ends without a last checkpoint; no data is lost then, the
/// next start replays more.
const SHUTDOWN_MAX: std::time::Duration = std::time::Duration::from_secs(20);

/// Exit status when the disk failed, so that a supervisor can tell it (`EX_IOERR` of sysexits.h).
const DISK_FAILED: i32 = 74;

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error(
        "cannot listen on {addr} for {what}: {source}. {}; or choose another address with {flag}",
        bind_hint(source)
    )]
    Bind {
        addr: SocketAddr,
        what: &'static str,
        flag: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    SecretsKey(#[from] KeyFileError),
    #[error("cannot set up {what}: {source}")]
    Setup {
        what: &'static str,
        source: io::Error,
    },
    #[error("a shard ended with a panic: {0}")]
    Shard(String),
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "Another program may be using the port, perhaps another tidemill: stop it"
        }
        io::ErrorKind::AddrNotAvailable => {
            "The address is none of this machine's: listen on one that is (0.0.0.0 for all), and tell clients the other with \
             --advertised-kafka-addr"
        }
        io::ErrorKind::PermissionDenied => {
            "Ports below 1024 need a right to them: use a higher one"
        }
        _ => "See that the address is one of this machine's and the port is free",
    }
}

/// Ends the process: something it stands on is broken.
pub(crate) fn fatal(message: &str) -> ! {
    crate::log::end(&message);
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that ends the process"
    )]
    std::process::exit(1)
}

/// Ends the process because the disk failed: what it holds is not known any more (rule S10).
fn fatal_disk(message: &str) -> ! {
    let message = format!("the disk failed, and nothing more is acknowledged: {message}");
    crate::log::end(&message);
    #[allow(
        clippy::disallowed_methods,
        reason = "the disk is not to be trusted any more"
    )]
    std::process::exit(DISK_FAILED)
}

/// What every shard is started with.
struct Context {
    info: Arc<NodeInfo>,
    handle: ShardHandle,
    data: PathBuf,
    /// Whether a node has served from the data directory before.
    initialised: bool,
    factory: Factory,
    listener: Mutex<Option<TcpListener>>,
    /// When the process began, and where the admin API listens: for the line that says that it serves.
    started: time::Instant,
    admin: SocketAddr,
    kafka: SocketAddr,
    mailboxes: Mutex<Vec<Option<mailbox::Receiver<Job>>>>,
}

/// Runs a broker until SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// [`BootError`] when it cannot start. What breaks later ends the process with a message.
pub(crate) fn run(config: BrokerConfig) -> Result<(), BootError> {
    let started = time::Instant::now();
    memory::keep_freed();
    signals::block();
    if let Err(error) = net::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    die_on_panic();
    warn_if_exposed(&config);
    for warning in crate::config::warnings(&config.settings) {
        tracing::warn!("this machine cannot give what the settings ask for: {warning}");
    }
    let kafka_listener = bind(config.kafka_addr, "Kafka clients", "--kafka-addr")?;
    let admin_listener = bind(config.admin_addr, "the admin API", "--admin-addr")?;
    let engine = runtime::resolve(config.engine)?;
    let data = open_data_dir(&config)?;
    let info = Arc::new(node_info(&config, &data, engine)?);
    let (handle, mailboxes) = ShardHandle::new(info.shards);
    let context = Arc::new(Context {
        info: info.clone(),
        handle: handle.clone(),
        data: config.data_dir.clone(),
        initialised: data.identity().initialised,
        factory: Factory::new(HostConfig {
            cache_dir: Some(config.data_dir.join("code-cache")),
            compiler: Some(compiler::process(&config.settings.transforms)),
        }),
        listener: Mutex::new(Some(kafka_listener)),
        started,
        admin: config.admin_addr,
        kafka: config.kafka_addr,
        mailboxes: Mutex::new(mailboxes.into_iter().map(Some).collect()),
    });
    let shards = RuntimeConfig {
        engine: match engine {
            EngineKind::Uring => EngineChoice::Uring,
            EngineKind::Epoll | EngineKind::Sim => EngineChoice::Epoll,
        },
        shards: info.shards,
        pin: info.shards > 1,
    };
    let factory = context.factory.clone();
    let shards = runtime::start(&shards, move |shard| {
        let context = context.clone();
        async move { shard_main(&context, ShardId(shard)).await }
    })?;
    let service = Arc::new(Service::new(handle.clone(), info.clone(), factory));
    let guard = admin::Guard::new(config.admin_addr.ip(), config.admin_names.iter().cloned());
    let admin = admin::start(
        admin_listener,
        guard,
        service,
        config.settings.admin.connections_max,
    )
    .map_err(|source| BootError::Setup {
        what: "the admin server",
        source,
    })?;
    let signal = signals::wait();
    tracing::info!("{signal}: shutting down");
    signals::end_on_the_next();
    info.ending.store(true, Ordering::Relaxed);
    admin.stop();
    stop_shards(&handle);
    shards.join().map_err(BootError::Shard)?;
    drop(data);
    tracing::info!("stopped cleanly");
    Ok(())
}

/// Binds `addr`. A port in use is tried again for a while: the kernel closes the sockets of a process that used io_uring
/// and was killed only some ms after its end.
fn bind(
    addr: SocketAddr,
    what: &'static str,
    flag: &'static str,
) -> Result<TcpListener, BootError> {
    let deadline = time::Instant::now() + BIND_RETRY_MAX;
    let mut told = false;
    loop {
        match net::bind(addr) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && time::Instant::now() < deadline => {
                if !told {
                    tracing::warn!(
                        "{addr} is in use; trying for {} s",
                        BIND_RETRY_MAX.as_secs()
                    );
                    told = true;
                }
                #[allow(
                    clippy::disallowed_methods,
                    reason = "the main thread, before any runtime exists"
                )]
                std::thread::sleep(BIND_RETRY);
            }
            Err(source) => {
                return Err(BootError::Bind {
                    addr,
                    what,
                    flag,
                    source,
                });
            }
        }
    }
}

fn open_data_dir(config: &BrokerConfig) -> Result<DataDir, BootError> {
    let (path, shards) = (config.data_dir.clone(), config.settings.node.shards);
    let cores = runtime::allowed_cpus()
        .len()
        .clamp(1, usize::from(crate::config::SHARDS_MAX)) as u16;
    let opened = runtime::block_on(EngineChoice::Epoll, move || {
        let path = path.clone();
        async move { DataDir::open(&path, shards, cores).await }
    })?;
    Ok(opened?)
}

fn node_info(
    config: &BrokerConfig,
    data: &DataDir,
    engine: EngineKind,
) -> Result<NodeInfo, KeyFileError> {
    let key = SecretsKey::of_node(&config.settings.transforms)?;
    Ok(NodeInfo {
        secrets_key: key.map(Arc::new),
        node: NODE,
        cluster_id: data.identity().cluster.to_string(),
        advertised: config.advertised.clone(),
        shards: data.identity().shards,
        connections: kafka::ConnectionLimits::new(&config.settings.kafka, memory::available()),
        engine: engine.name(),
        data_dir: config.data_dir.clone(),
        modules_dir: config.data_dir.join("modules"),
        topic_labels: Arc::new(TopicLabels::new(config.settings.metrics.topics_max)),
        settings: config.settings.clone(),
        stated: config.stated.clone(),
        topic_defaults: config.topic_defaults.clone(),
        ending: Arc::default(),
    })
}

fn warn_if_exposed(config: &BrokerConfig) {
    for (addr, what) in [(config.kafka_addr, "Kafka"), (config.admin_addr, "admin")] {
        if !addr.ip().is_loopback() {
            tracing::warn!(
                "the {what} address {addr} is reachable from other machines, and nothing is authenticated yet: \
                 whoever can reach it can read, write and delete everything"
            );
        }
    }
}

/// How long the end of the broker waits for the last lines of transforms to be written.
const LAST_LINES_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// A panic is a bug of ours. The data is safe (everything acknowledged is in the log), the state in memory is not:
/// the process ends rather than serve on with one shard gone. Threads of guests and of the compiler have no such state: their panic is
/// told, and answered to whoever waits for them.
fn die_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        if !tidemill_wasm_host::survives_panics() {
            std::process::abort();
        }
    }));
}

fn stop_shards(handle: &ShardHandle) {
    handle.post(
        CONTROLLER_SHARD,
        Box::new(|shard| {
            drop(task::spawn(Queue::Kafka, async move {
                // While every shard still takes what the others write to it.
                let flushed = shard.handle.on_all(|s| async move { s.flush_logs().await });
                let _ = time::timeout(LAST_LINES_MAX, flushed).await;
                for each in shard.handle.all() {
                    // Within the job itself: a shard looks whether it is to end after each.
                    let stop = |shard: Rc<Shard>| {
                        shard.stop();
                        async {}
                    };
                    drop(shard.handle.submit(each, stop).await);
                }
            }));
        }),
    );
    let watchdog = std::thread::Builder::new().name("shutdown".to_owned()).spawn(|| {
        #[allow(clippy::disallowed_methods, reason = "a plain thread that only watches the clock")]
        std::thread::sleep(SHUTDOWN_MAX);
        fatal("shutdown took too long; ending without a last checkpoint (nothing acknowledged is lost)");
    });
    if let Err(error) = watchdog {
        tracing::warn!(%error, "nobody watches how long the shutdown takes");
    }
}

async fn shard_main(context: &Arc<Context>, id: ShardId) {
    let (shard, log) = match open_shard(context, id).await {
        Ok(opened) => opened,
        Err(e) => fatal(&format!("shard {}: {e}", id.0)),
    };
    let jobs = take(&context.mailboxes, |m| m[usize::from(id.0)].take());
    let runner = shard.clone();
    let jobs = task::spawn(Queue::Kafka, async move { runner.run_jobs(jobs).await });
    shard.start_transforms();
    if let Err(e) = serve(context, &shard).await
        && !shard.is_stopping()
    {
        fatal(&format!("shard {}: {e}", id.0));
    }
    shard.stopped().await;
    let _ = jobs.await;
    close_shard(&shard, &log).await;
}

fn take<T, M>(slot: &Mutex<M>, f: impl FnOnce(&mut M) -> Option<T>) -> T {
    let mut slot = slot
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    f(&mut slot).expect("each shard takes its part once")
}

/// Brings the shard's partitions in line with the controller; on shard 0, opens the door to clients when every shard has.
async fn serve(context: &Arc<Context>, shard: &Rc<Shard>) -> Result<(), String> {
    if shard.controller().is_none() {
        return Ok(());
    }
    // Whatever the admin API changes meanwhile waits, or reconciling would undo it half way.
    tracing::debug!("publishing the first image");
    let turn = shard.topic_changes.acquire(1).await;
    shard.publish().await.map_err(|e| e.to_string())?;
    tracing::debug!("reconciling");
    let checked = shard
        .handle
        .on_all(|shard| async move { shard.check_rings() });
    for result in checked.await.map_err(|e| e.to_string())? {
        result?;
    }
    shard.reconcile_all().await.map_err(|e| e.to_string())?;
    shard.publish().await.map_err(|e| e.to_string())?;
    shard.resume_deletions();
    drop(turn);
    if let Err(error) = DataDir::mark_initialised(&context.data).await {
        tracing::warn!(%error, "the identity does not say that this data directory is in use; the next start tries again");
    }
    shard.mark_ready();
    shard.start_controller_checkpoints();
    shard.start_module_sweeps();
    tell_full_disk(shard);
    let listener = take(&context.listener, Option::take);
    kafka::listen(shard, listener).map_err(|e| format!("cannot accept Kafka connections: {e}"))?;
    tracing::info!(
        kafka = %context.kafka, admin = %context.admin, runtime = context.info.engine, shards = context.info.shards,
        data = %context.data.display(), "tidemill {} serves clients, {} ms after its start",
        env!("CARGO_PKG_VERSION"), context.started.elapsed().as_millis()
    );
    Ok(())
}

/// Says when the disk has become full and when it has room again, once each. One shard speaks for all: they share the disk.
fn tell_full_disk(shard: &Rc<Shard>) {
    let space = shard.log().space().clone();
    let tell = async move {
        let mut full = false;
        loop {
            full = space.changed_from(full).await;
            match full {
                true => tracing::warn!("{}", crate::admin_service::disk_full(&space)),
                false => tracing::info!("the disk has room again; writes are taken"),
            }
        }
    };
    drop(task::spawn(Queue::Background, tell));
}

async fn open_shard(context: &Context, id: ShardId) -> Result<(Rc<Shard>, ShardLog), String> {
    let dir = context.data.join(format!("shard-{}", id.0));
    let settings = &context.info.settings;
    let config = LogConfig {
        file_bytes: settings.storage.log_file_size,
        ..LogConfig::new(
            dir.join("log"),
            Rc::new(|e| fatal_disk(&format!("write-ahead log: {e}"))),
        )
    };
    refuse_without_log(context, &config.dir).await?;
    let (log, mut recovered) = ShardLog::open(config).await.map_err(|e| e.to_string())?;
    tracing::debug!(shard = id.0, "write-ahead log open");
    let watch = SpaceConfig {
        path: context.data.clone(),
        reserve_bytes: settings
            .storage
            .reserve
            .unwrap_or_else(|| reserve_bytes(context.info.shards)),
    };
    log.watch_space(watch).await;
    let controller = async {
        if RingId::CONTROLLER.shard(context.info.shards) != id {
            return Ok(None);
        }
        let config = ControllerConfig {
            group: GroupConfig::new(RingId::CONTROLLER, context.info.node),
            checkpoint: dir.join("rings").join("0.checkpoint"),
        };
        let ring = recovered.remove(&RingId::CONTROLLER).unwrap_or_default();
        Controller::open(config, log.clone(), ring)
            .await
            .map(Some)
            .map_err(|e| e.to_string())
    };
    let controller = controller.await?;
    tracing::debug!(shard = id.0, "controller open");
    let rings = open_rings(context, id, &log, &mut recovered).await?;
    tracing::debug!(shard = id.0, "rings open");
    if let Some(ring) = recovered.keys().next() {
        return Err(format!(
            "the log has entries of ring {ring}, which does not belong to this shard"
        ));
    }
    let shard = Shard::new(ShardParts {
        id,
        info: context.info.clone(),
        handle: context.handle.clone(),
        transforms: TransformManager::new(context.factory.clone(), id, settings),
        rings,
        controller,
        log: log.clone(),
    });
    Ok((shard, log))
}

/// A node that has served does not begin anew because its log is gone: it would be empty, and look healthy. Nothing is made before.
async fn refuse_without_log(context: &Context, dir: &Path) -> Result<(), String> {
    let there = ShardLog::is_in(dir).await.map_err(|e| e.to_string())?;
    match there || !context.initialised {
        true => Ok(()),
        false => Err(format!(
            "the write-ahead log in {} is gone: the folder is missing or was emptied, while the identity says that records were \
             served from this data directory. Put the folder back as it was; nothing was changed. To begin anew without its \
             records, name an empty data directory with --data-dir",
            dir.display()
        )),
    }
}

async fn open_rings(
    context: &Context,
    id: ShardId,
    log: &ShardLog,
    recovered: &mut BTreeMap<RingId, RecoveredRing>,
) -> Result<BTreeMap<RingId, Ring>, String> {
    let mut rings = BTreeMap::new();
    let settings = &context.info.settings;
    let memory = ShardMemory::new(MemoryConfig {
        unflushed_bytes: settings.memory.unflushed,
        delivery_bytes: settings.memory.deliveries,
        cache_bytes: settings.memory.cache,
    });
    for ring in placement::data_rings(context.info.shards) {
        if ring.shard(context.info.shards) != id {
            continue;
        }
        let dir = context.data.join(format!("shard-{}", id.0));
        let broken: Rc<dyn Fn(&RingError)> = Rc::new(|e| fatal_disk(&e.to_string()));
        let config = RingConfig {
            outbox_bytes: settings.memory.outbox,
            flush_bytes: settings.storage.flush_size,
            flush_interval: settings.storage.flush_interval,
            retention_interval: settings.topics.retention_interval,
            ..RingConfig::new(ring, context.info.node, dir, memory.clone(), broken)
        };
        let from = recovered.remove(&ring).unwrap_or_default();
        let opened = Ring::open(config, log.clone(), from)
            .await
            .map_err(|e| e.to_string())?;
        rings.insert(ring, opened);
    }
    Ok(rings)
}

async fn close_shard(shard: &Rc<Shard>, log: &ShardLog) {
    shard.stop_transforms().await;
    for (_, ring) in shard.rings() {
        ring.shutdown().await;
    }
    if let Some(controller) = shard.controller() {
        controller.shutdown().await;
    }
    log.close().await;
}

mod signals {
    //! SIGTERM, SIGINT and SIGHUP (a terminal that was closed), waited for by the main thread. Each ends the broker cleanly.

    #![allow(unsafe_code, reason = "signal masks have no safe interface in std")]

    fn set() -> libc::sigset_t {
        // SAFETY: the set is plain memory that sigemptyset initialises before it is read.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::sigaddset(&raw mut set, libc::SIGHUP);
            set
        }
    }

    /// Blocks these signals for this thread and those it starts, so that [`wait`] gets them.
    pub(super) fn block() {
        let set = set();
        // SAFETY: `set` is initialised and outlives the call; no old mask is asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    }

    /// Waits for one of them and says its name.
    pub(super) fn wait() -> &'static str {
        let set = set();
        let mut signal = 0;
        // SAFETY: both pointers are to live variables of the right types.
        while unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {}
        match signal {
            libc::SIGINT => "interrupted",
            libc::SIGHUP => "hung up",
            _ => "terminated",
        }
    }

    /// From now on a further signal ends the process at once.
    pub(super) fn end_on_the_next() {
        let set = set();
        // SAFETY: as in `block`; the default action of these signals ends the process.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    }
}
