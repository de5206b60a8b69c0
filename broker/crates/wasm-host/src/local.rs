//! Running a transform on the current thread.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::engine::{self, Linkers, Reservation};
use crate::factory::{Loaded, Module};
use crate::instance::{Instance, Setup, Surroundings, call_on, timed};
use crate::meter::{Meter, Sliced};
use crate::ticker::Ticker;
use crate::types::{CallError, CallOutput, FailedCall, InputBatch, Limits, LogLine, OutputTopic};

/// Lines kept of failed calls until they are asked for, at most.
const LOGS_KEPT_MAX: usize = 256;

/// One transform on the current thread, with the limits it has in a broker. The thread needs 2 MiB of stack and must not be run by an
/// engine of `rt`.
pub struct LocalRunner {
    module: Loaded,
    setup: Setup,
    around: Surroundings,
    instance: Option<Instance>,
    runtime: tokio::runtime::Runtime,
    logs: Vec<LogLine>,
}

impl std::fmt::Debug for LocalRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalRunner")
    }
}

impl LocalRunner {
    /// Gets `module` ready, with this environment (see [`crate::guest_env`]) and these outputs.
    ///
    /// # Errors
    /// [`CallError::Unavailable`] when the engine cannot be started.
    pub fn new(
        module: &Module,
        env: Vec<(String, String)>,
        limits: Limits,
        outputs: Vec<OutputTopic>,
    ) -> Result<LocalRunner, CallError> {
        let around = surroundings(limits.memory_bytes, Arc::default())?;
        let module = module
            .loaded(around.linkers.engine())
            .map_err(|e| CallError::Unavailable(format!("{e:#}")))?;
        let setup = Setup {
            env,
            limits,
            outputs,
        };
        Ok(LocalRunner {
            module,
            setup,
            around,
            instance: None,
            runtime: wasi_runtime()?,
            logs: Vec::new(),
        })
    }

    /// Runs the transform over `batches`, which come from the input's partition `partition`. A failed call costs the instance; the next
    /// has a new one.
    ///
    /// # Errors
    /// [`CallError`]; what the guest logged before is in [`LocalRunner::take_logs`].
    pub fn call(
        &mut self,
        partition: i32,
        batches: &[InputBatch],
    ) -> Result<CallOutput, CallError> {
        let _entered = self.runtime.enter();
        let idle = self.instance.take();
        let meter = idle.as_ref().map_or_else(Meter::default, Instance::meter);
        let before = meter.spent_ns();
        let (module, setup, around) = (&self.module, &self.setup, &self.around);
        let work = async {
            let make = async || Instance::new(module, setup, around, meter.clone()).await;
            call_on(idle, make, (partition, batches), setup).await
        };
        let (instance, called) = Sliced::new(meter.clone(), &around.ticker, work).finish();
        self.instance = instance;
        let called = timed(called, meter.spent_ns() - before);
        called.map_err(|failed| self.keep_logs(failed))
    }

    fn keep_logs(&mut self, failed: FailedCall) -> CallError {
        self.logs.extend(failed.logs);
        let excess = self.logs.len().saturating_sub(LOGS_KEPT_MAX);
        self.logs.drain(..excess);
        failed.error
    }

    /// What failed calls logged since the last time; of more than 256 lines, the last.
    pub fn take_logs(&mut self) -> Vec<LogLine> {
        std::mem::take(&mut self.logs)
    }
}

/// An engine and what is around its instances.
pub(crate) fn surroundings(
    memory_bytes: usize,
    stop: Arc<AtomicBool>,
) -> Result<Surroundings, CallError> {
    let unavailable = |e: wasmtime::Error| CallError::Unavailable(format!("{e:#}"));
    let engine = engine::engine().map_err(unavailable)?;
    let linkers = Linkers::new(&engine).map_err(unavailable)?;
    let ticker = Ticker::start(engine).map_err(|e| CallError::Unavailable(e.to_string()))?;
    Ok(Surroundings {
        linkers,
        ticker,
        reservation: Reservation::new(memory_bytes),
        stop,
    })
}

/// What WASI's streams want to be called in; it has no threads and no I/O. Without it they would start one with as many threads as
/// there are processors.
pub(crate) fn wasi_runtime() -> Result<tokio::runtime::Runtime, CallError> {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|e| CallError::Unavailable(e.to_string()))
}
