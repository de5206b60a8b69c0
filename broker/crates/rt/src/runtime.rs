//! Starting and joining shard threads.

use std::future::Future;
use std::io;
use std::thread;

use crate::context::{self, EngineKind};

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// `uring` where it works, else `epoll`.
    Auto,
    /// `uring`, or an error.
    Uring,
    /// `epoll`.
    Epoll,
}

/// Why shards could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// io_uring was asked for and the system refuses it.
    #[error("io_uring is not usable here ({0}); start with --runtime epoll, or allow io_uring")]
    UringRefused(String),
    /// A thread could not be made.
    #[error("a shard thread could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// How shards are started.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Which engine.
    pub engine: EngineChoice,
    /// Number of shard threads.
    pub shards: u16,
    /// Whether shard *i* is bound to the *i*-th processor this process may use. Ignored when there are
    /// fewer processors than shards.
    pub pin: bool,
}

/// The engine that `choice` means on this machine, decided by setting up a small ring. Works on every thread.
/// `Auto` falls back to `epoll` and says so in one log line.
///
/// # Errors
/// [`StartError::UringRefused`] when `uring` was asked for by name and is refused.
pub fn resolve(choice: EngineChoice) -> Result<EngineKind, StartError> {
    match choice {
        EngineChoice::Epoll => Ok(EngineKind::Epoll),
        EngineChoice::Uring => match crate::uring::probe() {
            Ok(()) => Ok(EngineKind::Uring),
            Err(reason) => Err(StartError::UringRefused(reason)),
        },
        EngineChoice::Auto => match crate::uring::probe() {
            Ok(()) => Ok(EngineKind::Uring),
            Err(reason) => {
                tracing::warn!(%reason, "io_uring is refused here; running on epoll");
                Ok(EngineKind::Epoll)
            }
        },
    }
}

/// Running shards.
#[derive(Debug)]
pub struct Shards<T> {
    /// The engine in use.
    pub engine: EngineKind,
    threads: Vec<thread::JoinHandle<T>>,
}

/// Starts `config.shards` threads; thread *i* runs `main(i)` to its end, then drops its remaining tasks.
///
/// # Errors
/// [`StartError`]; threads already started then run on until their `main` ends.
pub fn start<T, F, Fut>(config: &RuntimeConfig, main: F) -> Result<Shards<T>, StartError>
where
    T: Send + 'static,
    F: Fn(u16) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let engine = resolve(config.engine)?;
    if engine == EngineKind::Uring {
        crate::uring::prepare_process();
    }
    let cpus = allowed_cpus();
    let mut threads = Vec::new();
    let shards = config.shards;
    for shard in 0..shards {
        let main = main.clone();
        let cpu = (config.pin && cpus.len() >= usize::from(config.shards))
            .then(|| cpus[usize::from(shard)]);
        let run = move || match engine {
            EngineKind::Uring => crate::uring::run(shard, shards, cpu, main),
            EngineKind::Epoll | EngineKind::Sim => run_epoll(cpu, || main(shard)),
        };
        let name = format!("shard-{shard}");
        threads.push(thread::Builder::new().name(name).spawn(run)?);
    }
    Ok(Shards { engine, threads })
}

impl<T> Shards<T> {
    /// Waits for every shard to end.
    ///
    /// # Errors
    /// The message of the first shard that panicked.
    pub fn join(self) -> Result<Vec<T>, String> {
        let mut results = Vec::new();
        for thread in self.threads {
            match thread.join() {
                Ok(v) => results.push(v),
                Err(payload) => return Err(crate::task::panic_message(payload.as_ref())),
            }
        }
        Ok(results)
    }
}

/// Runs `main` on the current thread on `engine` (`uring` or `epoll`), for tools and tests.
///
/// # Errors
/// As [`start`].
pub fn block_on<T, F, Fut>(engine: EngineChoice, main: F) -> Result<T, StartError>
where
    T: Send + 'static,
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let config = RuntimeConfig {
        engine,
        shards: 1,
        pin: false,
    };
    let shards = start(&config, move |_| main())?;
    match shards.join() {
        Ok(mut results) => Ok(results.remove(0)),
        Err(message) => panic!("{message}"),
    }
}

fn run_epoll<T, Fut: Future<Output = T>>(cpu: Option<usize>, main: impl FnOnce() -> Fut) -> T {
    if let Some(cpu) = cpu {
        pin_to(cpu);
    }
    context::enter(EngineKind::Epoll);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(std::time::Duration::from_secs(60))
        .max_blocking_threads(4)
        .build()
        .expect("tokio starts where threads and epoll exist");
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, async { main().await });
    drop(local);
    context::leave();
    result
}

/// Binds the current thread to processor `cpu`; a refusal is ignored, the thread then floats.
pub(crate) fn pin_to(cpu: usize) {
    #[allow(unsafe_code, reason = "std offers no affinity")]
    // SAFETY: `set` is a plain bit set owned by this frame, and the call reads it only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// The processors this process may use. Works on every thread.
pub fn allowed_cpus() -> Vec<usize> {
    #[allow(unsafe_code, reason = "std offers no affinity")]
    // SAFETY: `set` is a plain bit set owned by this frame; the call fills it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize)
            .filter(|cpu| libc::CPU_ISSET(*cpu, &set))
            .collect()
    }
}
