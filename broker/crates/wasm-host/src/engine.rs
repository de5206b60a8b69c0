//! How the engine is set up, and what a guest finds around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::component::{Linker, Resource, WasmStr};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, ResourceLimiter,
    StoreContextMut,
};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::{WasiCtxBuilder, WasiCtxView, WasiView};

use crate::bindings::batch::tidemill::transform::log;
use crate::captured::Captured;
use crate::check::head;
use crate::types::{LogLevel, LogLine, MEMORY_BYTES_MAX};

/// Instances that a pool holds at once; of more transforms on a shard, the one idle for longest gives up its instance.
pub(crate) const INSTANCES_MAX: u32 = 32;
/// Core modules of one component; those of interpreters link several.
const CORE_INSTANCES_PER_COMPONENT: u32 = 24;
const TABLES_PER_COMPONENT: u32 = 8;
const TABLE_ELEMENTS_MAX: usize = 50_000;
/// Bytes of stack for WebAssembly.
const WASM_STACK_BYTES: usize = 1 << 20;
/// Bytes of a call's whole stack: what the host does for a guest runs on it, too.
const CALL_STACK_BYTES: usize = 2 << 20;
/// Bytes of stack that a thread needs to run guests.
pub(crate) const THREAD_STACK_BYTES: usize = 4 << 20;
/// Lines of log kept of one call.
const LOG_LINES_MAX: usize = 64;
/// Bytes kept of a line.
const LOG_LINE_BYTES_MAX: usize = 1024;
/// Random bytes a guest may ask for at once.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// Things of the host, such as streams, that an instance may hold at once: they take memory that is not counted as its own.
pub(crate) const HANDLES_MAX: usize = 1_024;
/// Bytes that a guest may hand over in one call of the host, as long as no answer of its own is due.
pub(crate) const HOST_CALL_BYTES_MAX: usize = 1 << 20;
/// The interface of `wit/log.wit`, which is the same in both versions.
const LOG: [&str; 2] = [
    "tidemill:transform/log@0.1.0",
    "tidemill:transform/log@0.2.0",
];
/// The version that wasmtime-wasi 48 links; another patch of it would not replace its functions.
const MONOTONIC_CLOCK: &str = "wasi:clocks/monotonic-clock@0.2.12";

/// The configuration of every engine in the process: machine code fits all of them.
fn config() -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(INSTANCES_MAX)
        .total_core_instances(INSTANCES_MAX * CORE_INSTANCES_PER_COMPONENT)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .total_memories(INSTANCES_MAX)
        .max_memories_per_component(1)
        .total_stacks(INSTANCES_MAX)
        .max_memory_size(MEMORY_BYTES_MAX)
        .total_tables(INSTANCES_MAX * TABLES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_tables_per_module(TABLES_PER_COMPONENT)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_unused_warm_slots(1);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .wasm_component_model(true)
        .wasm_memory64(false)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(CALL_STACK_BYTES)
        .wasm_backtrace_max_frames(None);
    config
}

/// A new engine, with a pool of its own (address space, no memory yet).
pub(crate) fn engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// What guests find around them, by the kind of their module.
pub(crate) struct Linkers {
    pub(crate) components: Linker<Host>,
    pub(crate) core: wasmtime::Linker<Host>,
}

impl Linkers {
    pub(crate) fn new(engine: &Engine) -> wasmtime::Result<Linkers> {
        Ok(Linkers {
            components: linker(engine)?,
            core: crate::core_module::linker(engine)?,
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.components.engine()
    }
}

/// Everything a component may import: WASI without files, sockets, input and waiting, and the log.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
    for log in LOG {
        linker.instance(log)?.func_wrap("write", write_log)?;
    }
    // A guest that sleeps would hold its thread without using CPU time.
    linker.allow_shadowing(true);
    let mut clock = linker.instance(MONOTONIC_CLOCK)?;
    for name in ["subscribe-duration", "subscribe-instant"] {
        clock.func_wrap(name, |_: StoreContextMut<'_, Host>, _: (u64,)| {
            refuse_to_wait()
        })?;
    }
    linker.allow_shadowing(false);
    Ok(linker)
}

fn refuse_to_wait() -> wasmtime::Result<(Resource<DynPollable>,)> {
    Err(wasmtime::Error::msg("a transform may not wait (sleep)"))
}

/// Takes a line straight from the guest's memory: what is cut off is never copied.
fn write_log(
    mut store: StoreContextMut<'_, Host>,
    (level, line): (log::Level, WasmStr),
) -> wasmtime::Result<()> {
    if !store.data_mut().has_room_for_log() {
        return Ok(());
    }
    let level = match level {
        log::Level::Debug => LogLevel::Debug,
        log::Level::Info => LogLevel::Info,
        log::Level::Warn => LogLevel::Warn,
        log::Level::Error => LogLevel::Error,
    };
    let message = head(&line.to_str(&store)?, LOG_LINE_BYTES_MAX);
    store.data_mut().keep_line(level, message);
    Ok(())
}

/// The line in these bytes, cut as every line is.
pub(crate) fn log_line(bytes: &[u8]) -> String {
    // A character has four bytes at most, so that nothing of what is kept is lost.
    let enough = &bytes[..bytes.len().min(LOG_LINE_BYTES_MAX + 4)];
    head(&String::from_utf8_lossy(enough), LOG_LINE_BYTES_MAX)
}

/// Memory that the instances of one guest thread share, in bytes.
pub(crate) struct Reservation {
    limit: usize,
    used: AtomicUsize,
}

impl Reservation {
    pub(crate) fn new(limit: usize) -> Arc<Reservation> {
        Arc::new(Reservation {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// Bytes of all of it.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes not in use.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

/// A growth that was refused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) wanted_bytes: usize,
    pub(crate) limit_bytes: usize,
}

/// Counts an instance's memory against its own limit and its thread's reservation.
struct Limiter {
    own_limit: usize,
    own_used: usize,
    reservation: Arc<Reservation>,
    refused: Option<Refused>,
}

impl Limiter {
    fn grow(&mut self, bytes: usize) -> bool {
        let wanted_bytes = self.own_used.saturating_add(bytes);
        let limit_bytes = self
            .own_limit
            .min(self.own_used.saturating_add(self.reservation.free()));
        if wanted_bytes > limit_bytes {
            self.refused = Some(Refused {
                wanted_bytes,
                limit_bytes,
            });
            return false;
        }
        self.own_used = wanted_bytes;
        self.reservation.used.fetch_add(bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.reservation
            .used
            .fetch_sub(self.own_used, Ordering::Relaxed);
    }
}

/// The engine also reports failures of growth that it never asked about, and does not say which: nothing is given back for one, or a
/// guest could have itself credited with memory that it holds. Growth past a maximum, which is sure to fail, is not counted in the first
/// place; what the kernel refuses stays counted until the instance goes.
impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(
            desired
                .saturating_sub(current)
                .saturating_mul(size_of::<usize>()),
        ))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// What belongs to one instance on the host's side.
pub(crate) struct Host {
    wasi: WasiP1Ctx,
    limiter: Limiter,
    stdout: Captured,
    stderr: Captured,
    logs: Vec<LogLine>,
    logs_dropped: u64,
    /// Set by the epoch callback.
    pub(crate) deadline: crate::instance::Deadline,
}

impl Host {
    /// For an instance with this environment, of at most `memory_bytes`.
    pub(crate) fn new(
        env: &[(String, String)],
        memory_bytes: usize,
        reservation: Arc<Reservation>,
    ) -> Host {
        let (stdout, stderr) = (Captured::default(), Captured::default());
        let mut wasi = WasiCtxBuilder::new()
            .envs(env)
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build_p1();
        wasi.ctx().table.set_max_capacity(HANDLES_MAX);
        Host {
            wasi,
            limiter: Limiter {
                own_limit: memory_bytes,
                own_used: 0,
                reservation,
                refused: None,
            },
            stdout,
            stderr,
            logs: Vec::new(),
            logs_dropped: 0,
            deadline: crate::instance::Deadline::default(),
        }
    }

    /// What the store asks before memory grows.
    pub(crate) fn limiter(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.limiter
    }

    /// Memory and tables of the instance, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.limiter.own_used
    }

    /// The last growth that was refused since the last time this was asked.
    pub(crate) fn take_refused(&mut self) -> Option<Refused> {
        self.limiter.refused.take()
    }

    /// What the guest wrote since the last time, and the text of its standard error.
    pub(crate) fn take_logs(&mut self) -> (Vec<LogLine>, String) {
        let (stdout, lost_of_stdout) = self.stdout.take();
        let (stderr, lost_of_stderr) = self.stderr.take();
        let stderr = without_noise(&stderr);
        stdout
            .lines()
            .for_each(|line| self.push_log(LogLevel::Info, line));
        stderr
            .lines()
            .for_each(|line| self.push_log(LogLevel::Warn, line));
        let mut logs = std::mem::take(&mut self.logs);
        if self.logs_dropped > 0 {
            let message = format!("{} more lines of this call were dropped", self.logs_dropped);
            logs.push(LogLine {
                level: LogLevel::Warn,
                message,
            });
            self.logs_dropped = 0;
        }
        let lost = lost_of_stdout + lost_of_stderr;
        if lost > 0 {
            let message = format!(
                "{lost} bytes that this call wrote to standard output and error before its last ones were dropped"
            );
            logs.push(LogLine {
                level: LogLevel::Warn,
                message,
            });
        }
        (logs, stderr)
    }

    fn push_log(&mut self, level: LogLevel, line: &str) {
        if self.has_room_for_log() {
            let message = head(line, LOG_LINE_BYTES_MAX);
            self.logs.push(LogLine { level, message });
        }
    }

    /// Keeps a line for which there is room.
    pub(crate) fn keep_line(&mut self, level: LogLevel, message: String) {
        self.logs.push(LogLine { level, message });
    }

    /// WASI as core modules know it.
    pub(crate) fn wasi_p1(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    /// Whether another line is kept of this call; counts it as dropped otherwise.
    pub(crate) fn has_room_for_log(&mut self) -> bool {
        let room = self.logs.len() < LOG_LINES_MAX;
        self.logs_dropped += u64::from(!room);
        room
    }
}

/// The lines of a standard error that say something. Rust's panics begin with an empty line and end with advice that does not apply
/// to a guest.
fn without_noise(stderr: &str) -> String {
    let says_something = |line: &&str| {
        !line.trim().is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE=1`")
    };
    let lines: Vec<&str> = stderr.lines().filter(says_something).collect();
    lines.join("\n")
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

#[cfg(test)]
mod tests;
