//! From a module's bytes to machine code: checked, compiled, kept on disk.

#![allow(
    clippy::disallowed_types,
    reason = "the queue of the compile threads is filled from every shard"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tidemill_rt::mailbox::reply::{ReplyReceiver, ReplySender, reply};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::{Cache, hex, path_of};
use crate::compile::CompilerProcess;
use crate::engine::Linkers;
use crate::instance::{Instance, Setup};
use crate::local::{surroundings, wasi_runtime};
use crate::meter::{Meter, Sliced};
use crate::scan::{Seen, World, scan};
use crate::survival::{self, panic_message};
use crate::types::{CallError, Limits};
use crate::{engine, shape, sys};

/// Threads that compile, at most; they end when there is nothing to do.
const COMPILE_THREADS: usize = 2;
/// Threads that look modules up in the cache.
const LOOK_UP_THREADS: usize = 1;
/// Threads that try out whether an instance can be made.
const TRY_OUT_THREADS: usize = 2;
/// Modules waiting to be compiled or tried out, at most.
const COMPILE_QUEUE_MAX: usize = 64;
/// Nice value of the compile threads: shards take the processor from them as soon as they wake, and on a machine that is busy they still get
/// a quarter of it. With the lowest priority, a Python module (10 s of CPU time) takes minutes there.
pub(crate) const COMPILE_NICE: i32 = 5;
/// Bytes of a compile thread's stack; the compiler recurses by the nesting of blocks.
pub(crate) const COMPILE_STACK_BYTES: usize = 16 << 20;

/// What modules are checked against.
const CONTRACT: [&str; 9] = [
    include_str!("../../../../wit/core-module.md"),
    include_str!("../../../../wit/log.wit"),
    include_str!("../../../../wit/processor.wit"),
    include_str!("../../../../wit/record-processor.wit"),
    include_str!("../../../../wit/types.wit"),
    include_str!("../../../../wit/world.wit"),
    include_str!("../../../../wit/v0.1/log.wit"),
    include_str!("../../../../wit/v0.1/processor.wit"),
    include_str!("../../../../wit/v0.1/world.wit"),
];

/// How the factory works.
#[derive(Debug, Clone, Default)]
pub struct HostConfig {
    /// Where machine code is kept; nowhere when `None`.
    pub cache_dir: Option<PathBuf>,
    /// Where modules are compiled that are not trusted; in this process when `None`.
    pub compiler: Option<CompilerProcess>,
}

/// Why a module is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// The bytes are not WebAssembly.
    #[error("this is not a WebAssembly module; build one with `transform build`")]
    NotWasm,
    /// A core module without the exports of a transform.
    #[error(
        "this core module does not export `{0}`, so it is no transform; in Go, hand your function to tidemill.Register; in Rust, build for the target wasm32-wasip2, as `transform build` does"
    )]
    CoreModule(String),
    /// A component that is not a transform.
    #[error(
        "this component does not export `tidemill:transform/processor@0.2.0` or `record-processor@0.2.0`, so it is no transform; in Rust, mark one function with #[tidemill_sdk::transform], in Python with @transform"
    )]
    NoExport,
    /// A transform for another version of the contract.
    #[error(
        "this module was made for `{0}`, which this broker does not know: it serves versions 0.1 and 0.2 of the contract, and tidemill_contract_1; build it with this version's SDK"
    )]
    Contract(String),
    /// A module that wants what a transform cannot have.
    #[error("this module imports `{0}`, which a transform cannot have")]
    UnknownImport(String),
    /// It was cut or damaged.
    #[error("this module is damaged: {0}")]
    Malformed(String),
    /// Larger than can be compiled safely.
    #[error("this module is too large: {0}")]
    TooLarge(String),
    /// Compiling it would take more memory or time than it may.
    #[error("compiling this module took {0}")]
    Costly(String),
    /// The engine refuses it.
    #[error("this module cannot be compiled: {0}")]
    Refused(String),
    /// No instance of it can be made with the environment and the limits it is to have.
    #[error("no instance of this module can be made: {0}")]
    Start(String),
    /// Too many are waiting.
    #[error("{COMPILE_QUEUE_MAX} modules are waiting to be compiled or tried out; try again later")]
    Busy,
    /// The machine code could not be kept, or the engine not be started.
    #[error("this module cannot be made ready here: {0}")]
    Unavailable(String),
}

/// Compiled code, ready for every shard. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Module {
    sha256: [u8; 32],
    seen: Seen,
    code: Code,
}

/// Code that an engine can make instances of.
pub(crate) enum Loaded {
    Component(Component, World),
    Core(wasmtime::Module),
}

#[derive(Debug, Clone)]
enum Code {
    /// Verified; the open file stays the same whatever becomes of its name.
    File(Arc<File>),
    Memory(Bytes),
    /// Stands for a bug of the engine.
    #[cfg(test)]
    Panics,
}

impl Module {
    /// One whose load panics.
    #[cfg(test)]
    pub(crate) fn that_panics() -> Module {
        Module {
            sha256: [0; 32],
            seen: Seen {
                world: World::Core,
                no_pass_through: false,
            },
            code: Code::Panics,
        }
    }

    /// Whether it forbids that records it fails on are handed on as they came (`wit/core-module.md`).
    pub fn forbids_pass_through(&self) -> bool {
        self.seen.no_pass_through
    }

    /// SHA-256 of the WebAssembly bytes.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Maps or loads the code.
    #[allow(unsafe_code, reason = "the engine cannot check machine code")]
    pub(crate) fn loaded(&self, engine: &Engine) -> wasmtime::Result<Loaded> {
        let core = self.seen.world == World::Core;
        let component = |component| Loaded::Component(component, self.seen.world);
        match &self.code {
            // SAFETY: the file was written by this program with an engine of the same configuration, its digest was checked after it
            // was opened, only this user may write it, and it is never changed in place.
            Code::File(file) => unsafe {
                match core {
                    true => {
                        wasmtime::Module::deserialize_file(engine, path_of(file)).map(Loaded::Core)
                    }
                    false => Component::deserialize_file(engine, path_of(file)).map(component),
                }
            },
            // SAFETY: the bytes came from the compiler in this process, or in one that runs this same binary.
            Code::Memory(code) => unsafe {
                match core {
                    true => wasmtime::Module::deserialize(engine, code).map(Loaded::Core),
                    false => Component::deserialize(engine, code).map(component),
                }
            },
            #[cfg(test)]
            Code::Panics => panic!("a bug of the engine"),
        }
    }
}

/// Makes modules. Clones share one queue.
#[derive(Clone)]
pub struct Factory(Arc<Shared>);

struct Shared {
    cache: Option<Cache>,
    compiler: Option<CompilerProcess>,
    /// Modules that the compiler gave no code for.
    failures: AtomicU64,
    /// What has to be compiled.
    compiling: Mutex<Queue>,
    /// What has to be tried out. Apart from what is compiled, which may take minutes each.
    trying_out: Mutex<Queue>,
    /// What may lie in the cache. Apart from the other, so that a transform that is deployed anew never waits for somebody
    /// else's module to be compiled.
    looking_up: Mutex<Queue>,
}

/// Which queue work stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Compile,
    LookUp,
    TryOut,
}

impl Lane {
    fn threads_max(self) -> usize {
        match self {
            Lane::Compile => COMPILE_THREADS,
            Lane::LookUp => LOOK_UP_THREADS,
            Lane::TryOut => TRY_OUT_THREADS,
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    threads: usize,
}

/// Does the work and answers, or, given a reason why not, answers that. It does not panic.
type Job = Box<dyn FnOnce(Result<&Shared, ModuleError>) + Send>;

impl std::fmt::Debug for Factory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Factory")
            .field("cache", &self.0.cache)
            .finish_non_exhaustive()
    }
}

impl Factory {
    /// A factory without threads yet. Works on every thread.
    pub fn new(config: HostConfig) -> Factory {
        Factory(Arc::new(Shared {
            cache: config.cache_dir.map(Cache::new),
            compiler: config.compiler,
            failures: AtomicU64::new(0),
            compiling: Mutex::default(),
            trying_out: Mutex::default(),
            looking_up: Mutex::default(),
        }))
    }

    /// Makes `wasm` ready, on a thread for that: from the cache in a moment, whatever is being compiled meanwhile, otherwise by
    /// compiling, in up to seconds. Works on every thread. The reply is `None` only when the thread was killed by a bug.
    pub fn load(&self, wasm: Bytes) -> ReplyReceiver<Result<Module, ModuleError>> {
        let (done, receiver) = reply();
        let factory = self.clone();
        let job = move |shared: Result<&Shared, ModuleError>| {
            let found = shared.and_then(|shared| guarded(|| from_cache(&wasm, shared)));
            match found.transpose() {
                Some(answer) => done.send(answer),
                None => factory.enqueue(
                    Lane::Compile,
                    answering(done, move |shared| make(&wasm, shared)),
                ),
            }
        };
        self.enqueue(Lane::LookUp, Box::new(job));
        receiver
    }

    /// Makes one instance of `module` with this environment (see [`crate::guest_env`]) and these limits, on a thread for that, and throws it
    /// away: whether a transform can start is known before it is deployed.
    pub fn try_out(
        &self,
        module: Module,
        env: Vec<(String, String)>,
        limits: Limits,
    ) -> ReplyReceiver<Result<(), ModuleError>> {
        let setup = Setup {
            env,
            limits,
            outputs: Vec::new(),
        };
        self.queue(Lane::TryOut, move |_| try_out(&module, &setup))
    }

    /// Has `work` done on a thread of `lane`. A panic there is a refusal.
    fn queue<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&Shared) -> Result<T, ModuleError> + Send + 'static,
    ) -> ReplyReceiver<Result<T, ModuleError>> {
        let (done, receiver) = reply();
        self.enqueue(lane, answering(done, work));
        receiver
    }

    fn enqueue(&self, lane: Lane, job: Job) {
        let mut queue = self.0.lock(lane);
        if queue.waiting.len() >= COMPILE_QUEUE_MAX {
            drop(queue);
            return job(Err(ModuleError::Busy));
        }
        queue.waiting.push_back(job);
        if queue.threads < lane.threads_max() {
            self.start_thread(lane, &mut queue);
        }
    }

    /// The same on the current thread, which it blocks: for tools.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn load_here(&self, wasm: &[u8]) -> Result<Module, ModuleError> {
        make(wasm, &self.0)
    }

    /// Removes what is kept on disk of the module with this SHA-256 in lower-case hexadecimal, whatever engine it was made for. Code in use
    /// stays so. Reads and changes a directory: not for a shard's thread.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn forget(&self, sha256: &str) -> std::io::Result<()> {
        match &self.0.cache {
            Some(cache) => cache.remove(sha256),
            None => Ok(()),
        }
    }

    /// Modules that could not be compiled since the start: refused by the compiler, or beyond what it may take.
    pub fn compile_failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    fn start_thread(&self, lane: Lane, queue: &mut Queue) {
        let shared = self.0.clone();
        let started = std::thread::Builder::new()
            .name("compile".into())
            .stack_size(COMPILE_STACK_BYTES)
            .spawn(move || work_off(&shared, lane));
        match started {
            Ok(_) => queue.threads += 1,
            Err(e) if queue.threads == 0 => {
                let reason = format!("no thread to compile in: {e}");
                for job in queue.waiting.drain(..) {
                    job(Err(ModuleError::Unavailable(reason.clone())));
                }
            }
            Err(_) => {}
        }
    }
}

impl Shared {
    fn lock(&self, lane: Lane) -> MutexGuard<'_, Queue> {
        let queue = match lane {
            Lane::Compile => &self.compiling,
            Lane::LookUp => &self.looking_up,
            Lane::TryOut => &self.trying_out,
        };
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `work` comes to; a panic is a refusal.
fn guarded<T>(work: impl FnOnce() -> Result<T, ModuleError>) -> Result<T, ModuleError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let reason = panic_message(&*payload);
        Err(ModuleError::Refused(format!(
            "the compiler failed: {reason}"
        )))
    })
}

fn answering<T: Send + 'static>(
    done: ReplySender<Result<T, ModuleError>>,
    work: impl FnOnce(&Shared) -> Result<T, ModuleError> + Send + 'static,
) -> Job {
    Box::new(move |shared| {
        done.send(shared.and_then(|shared| guarded(|| work(shared))));
    })
}

fn work_off(shared: &Shared, lane: Lane) {
    survival::begin();
    sys::set_nice(COMPILE_NICE);
    loop {
        let job = {
            let mut queue = shared.lock(lane);
            match queue.waiting.pop_front() {
                Some(job) => job,
                None => {
                    queue.threads -= 1;
                    break;
                }
            }
        };
        job(Ok(shared));
    }
}

/// What lies in the cache was checked before it came there, so that a load from it needs neither compiler nor engine. `None` when
/// it is not there.
fn from_cache(wasm: &[u8], shared: &Shared) -> Result<Option<Module>, ModuleError> {
    let seen = scan(wasm)?;
    let Some(cache) = &shared.cache else {
        return Ok(None);
    };
    let sha256: [u8; 32] = Sha256::digest(wasm).into();
    let file = kept(cache.get(&cache_key(&sha256)?));
    Ok(file.map(|file| Module {
        sha256,
        seen,
        code: Code::File(Arc::new(file)),
    }))
}

fn cache_key(sha256: &[u8; 32]) -> Result<String, ModuleError> {
    Ok(format!("{}-{:016x}", hex(sha256), host_hash()?))
}

fn make(wasm: &[u8], shared: &Shared) -> Result<Module, ModuleError> {
    // Somebody may have compiled it since it was looked up.
    if let Some(module) = from_cache(wasm, shared)? {
        return Ok(module);
    }
    let seen = scan(wasm)?;
    let sha256: [u8; 32] = Sha256::digest(wasm).into();
    let engine = new_engine()?;
    let code = match &shared.compiler {
        Some(process) => process.compile(wasm),
        None => precompile(&engine, wasm),
    };
    let code = code.inspect_err(|_| {
        shared.failures.fetch_add(1, Ordering::Relaxed);
    })?;
    let mut module = Module {
        sha256,
        seen,
        code: Code::Memory(code.into()),
    };
    check_types(&module, &engine)?;
    if let (Some(cache), Code::Memory(code)) = (&shared.cache, &module.code)
        && let Some(file) = kept(cache.put(&cache_key(&sha256)?, code).map(Some))
    {
        module.code = Code::File(Arc::new(file));
    }
    Ok(module)
}

/// The cache saves time and memory; nothing depends on it.
fn kept(file: std::io::Result<Option<File>>) -> Option<File> {
    file.unwrap_or_else(|error| {
        tracing::warn!(%error, "machine code is not kept on disk: it is compiled at each start and held in memory");
        None
    })
}

fn try_out(module: &Module, setup: &Setup) -> Result<(), ModuleError> {
    let unavailable = |e: CallError| ModuleError::Unavailable(e.to_string());
    let around = surroundings(setup.limits.memory_bytes, Arc::default()).map_err(unavailable)?;
    let runtime = wasi_runtime().map_err(unavailable)?;
    let _entered = runtime.enter();
    let loaded = module.loaded(around.linkers.engine()).map_err(refused)?;
    let meter = Meter::default();
    let made = Instance::new(&loaded, setup, &around, meter.clone());
    match Sliced::new(meter, &around.ticker, made).finish() {
        Ok(_) => Ok(()),
        Err(failed) => Err(ModuleError::Start(match failed.error {
            CallError::Unavailable(reason) => reason,
            error => error.to_string(),
        })),
    }
}

/// Whether imports and exports have the right types.
fn check_types(module: &Module, engine: &Engine) -> Result<(), ModuleError> {
    let linkers = Linkers::new(engine).map_err(refused)?;
    match module.loaded(engine).map_err(refused)? {
        Loaded::Component(component, world) => {
            shape::check(&component, world, engine)?;
            linkers
                .components
                .instantiate_pre(&component)
                .map_err(refused)?;
        }
        Loaded::Core(module) => {
            shape::check_core(&module)?;
            linkers.core.instantiate_pre(&module).map_err(refused)?;
        }
    }
    Ok(())
}

/// Machine code for `wasm`, core module or component as its first bytes say.
pub(crate) fn precompile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, ModuleError> {
    match wasmparser::Parser::is_component(wasm) {
        true => engine.precompile_component(wasm).map_err(refused),
        false => engine.precompile_module(wasm).map_err(refused),
    }
}

pub(crate) fn refused(error: wasmtime::Error) -> ModuleError {
    ModuleError::Refused(format!("{error:#}"))
}

pub(crate) fn new_engine() -> Result<Engine, ModuleError> {
    engine::engine().map_err(|e| ModuleError::Unavailable(format!("{e:#}")))
}

/// Of the engine, its configuration, and what it gives to modules: code checked and compiled under another hash is not used. An engine is
/// made once in the process to know it. The hasher's keys are fixed; that it may change with the compiler only costs a compilation.
fn host_hash() -> Result<u64, ModuleError> {
    static KNOWN: OnceLock<u64> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let engine = new_engine()?;
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    CONTRACT.hash(&mut hasher);
    Ok(*KNOWN.get_or_init(|| hasher.finish()))
}

#[cfg(test)]
mod tests {
    use tidemill_rt::runtime::{EngineChoice, block_on};

    use super::*;

    #[test]
    fn job_that_panics_is_answered_and_the_next_one_runs() {
        block_on(EngineChoice::Epoll, || async {
            let factory = Factory::new(HostConfig::default());
            let answer = factory.queue::<()>(Lane::Compile, |_| panic!("a bug of the compiler"));
            let refused = answer.recv().await.unwrap().unwrap_err();
            assert_eq!(
                refused,
                ModuleError::Refused("the compiler failed: a bug of the compiler".into())
            );
            let survives = factory.queue(Lane::Compile, |_| Ok(crate::survives_panics()));
            assert_eq!(survives.recv().await, Some(Ok(true)));
        })
        .unwrap();
        assert!(!crate::survives_panics());
    }

    #[test]
    fn module_that_was_compiled_before_does_not_wait_for_those_that_are_being_compiled() {
        let folder = std::env::temp_dir().join(format!("look-up-{}", std::process::id()));
        let cache_dir = folder.clone();
        block_on(EngineChoice::Epoll, move || {
            test_cache_beside_compilers(cache_dir.clone())
        })
        .unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }

    async fn test_cache_beside_compilers(cache_dir: PathBuf) {
        let factory = Factory::new(HostConfig {
            cache_dir: Some(cache_dir),
            ..HostConfig::default()
        });
        let wasm = wat::parse_str(
            "(module (memory (export \"memory\") 1)
                (func (export \"tidemill_reserve\") (param i32) (result i32) i32.const 0)
                (func (export \"tidemill_process\") (param i32) (result i64) i64.const 0))",
        );
        let wasm = Bytes::from(wasm.unwrap());
        let module = factory.load(wasm.clone()).recv().await.unwrap().unwrap();
        let mut ends = Vec::new();
        let mut compiling = Vec::new();
        for _ in 0..COMPILE_THREADS {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            ends.push(end);
            compiling.push(factory.queue(Lane::Compile, move |_| {
                let _ = ended.recv();
                Ok(())
            }));
        }
        let patience = std::time::Duration::from_secs(60);
        let loaded = tidemill_rt::time::timeout(patience, factory.load(wasm).recv()).await;
        let tried = factory.try_out(module, Vec::new(), Limits::default());
        let tried = tidemill_rt::time::timeout(patience, tried.recv()).await;
        drop(ends);
        for compiled in compiling {
            compiled.recv().await.unwrap().unwrap();
        }
        loaded.expect("it waits for nobody").unwrap().unwrap();
        tried.expect("it waits for nobody").unwrap().unwrap();
    }
}
