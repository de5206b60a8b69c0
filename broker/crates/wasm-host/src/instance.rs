//! One instance of a module: made, called, and thrown away by whoever owns it when a call says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmtime::component::Component;
use wasmtime::{Store, StoreContextMut, Trap, UpdateDeadline};

use crate::bindings::{batch, records as record_world, v0_1};
use crate::check::{OUTPUT_BYTES_MAX, check, cut};
use crate::core_module::CoreInstance;
use crate::engine::{HANDLES_MAX, HOST_CALL_BYTES_MAX, Host, Linkers, Reservation};
use crate::factory::Loaded;
use crate::meter::Meter;
use crate::outcome::Outcome;
use crate::records::{Apart, together};
use crate::scan::World;
use crate::ticker::Ticker;
use crate::types::{CallError, CallOutput, FailedCall, InputBatch, Limits, LogLine, OutputTopic};

/// CPU time for making an instance, in ms: what runs before the first call.
const START_MS: u64 = 5_000;
/// Bytes of the answer as the engine counts them: the sections, and what tells them and the failures apart.
pub(crate) const ANSWER_BYTES_MAX: usize = 2 * OUTPUT_BYTES_MAX;
/// How the engine's error begins when a guest hands over more than that: its type is not public.
const TOO_MUCH_COPIED: &str = "too much data is being copied between the host and the guest";
/// Bytes kept of a trap's message: the last ones.
const TRAP_BYTES_MAX: usize = 2 << 10;

/// When a running guest must end.
#[derive(Default)]
pub(crate) struct Deadline {
    meter: Meter,
    /// By the meter.
    spent_ns_max: u64,
    passed: bool,
    stop: Option<Arc<AtomicBool>>,
}

/// What an instance is made for.
pub(crate) struct Setup {
    pub(crate) env: Vec<(String, String)>,
    pub(crate) limits: Limits,
    pub(crate) outputs: Vec<OutputTopic>,
}

/// What surrounds the instances of a thread.
pub(crate) struct Surroundings {
    pub(crate) linkers: Linkers,
    pub(crate) ticker: Ticker,
    pub(crate) reservation: Arc<Reservation>,
    /// Ends running calls.
    pub(crate) stop: Arc<AtomicBool>,
}

/// The result of a call, its CPU time known.
pub(crate) type Called = Result<CallOutput, FailedCall>;

/// `called`, of which all in all took `cpu_ns`, in ns.
pub(crate) fn timed(mut called: Called, cpu_ns: u64) -> Called {
    match &mut called {
        Ok(output) => output.cpu_ns = cpu_ns,
        Err(failed) => failed.cpu_ns = cpu_ns,
    }
    called
}

/// An instance. After a failed call it must not be called again.
pub(crate) struct Instance {
    store: Store<Host>,
    exports: Exports,
    limits: Limits,
    meter: Meter,
    calls: u64,
}

/// The exports, by the world that a module was made for.
enum Exports {
    Batch(batch::BatchTransform),
    Records(record_world::RecordTransform),
    BatchV0_1(v0_1::BatchTransform),
    Core(CoreInstance),
}

/// What a call came to: the outer error is the engine's, the middle one says what is wrong with the answer, the inner one is the
/// module's own.
type Answer = wasmtime::Result<Result<Result<Outcome, String>, CallError>>;

impl Instance {
    /// Makes one of `module`, which counts its CPU time with `meter`: in slices, see [`crate::meter::Sliced`].
    ///
    /// # Errors
    /// [`CallError::Unavailable`], or [`CallError::Stopped`] when the thread is stopped meanwhile: no input has been seen yet, so none is to
    /// blame.
    pub(crate) async fn new(
        module: &Loaded,
        setup: &Setup,
        around: &Surroundings,
        meter: Meter,
    ) -> Result<Instance, FailedCall> {
        let host = Host::new(
            &setup.env,
            setup.limits.memory_bytes,
            around.reservation.clone(),
        );
        let mut store = Store::new(around.linkers.engine(), host);
        store.limiter(Host::limiter);
        store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        store.epoch_deadline_callback(on_epoch);
        store.data_mut().deadline.stop = Some(around.stop.clone());
        store.data_mut().deadline.meter = meter.clone();
        arm(&mut store, START_MS);
        match exports(module, &around.linkers, &mut store).await {
            Ok(exports) => Ok(Instance {
                store,
                exports,
                limits: setup.limits,
                meter,
                calls: 0,
            }),
            Err(error) => {
                let (error, logs) = explain(&mut store, &error, START_MS);
                Err(FailedCall {
                    error: not_started(error),
                    logs,
                    cpu_ns: 0,
                })
            }
        }
    }

    /// Memory and tables that it holds, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }

    /// Whether `failed`, the result of a call, may be owed to what earlier calls left in its memory: a module that keeps a little of each
    /// call is out of memory some day, which is no fault of the records it is at by then. Another instance is to be asked.
    pub(crate) fn may_owe_to_earlier(&self, failed: &FailedCall) -> bool {
        self.calls > 1 && matches!(failed.error, CallError::Memory { .. })
    }

    /// Counts its CPU time.
    pub(crate) fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Runs the transform over `batches` of the input's partition `partition`, in slices. The CPU time of the result is left to whoever
    /// does the slices.
    pub(crate) async fn call(
        &mut self,
        partition: i32,
        batches: &[InputBatch],
        setup: &Setup,
    ) -> Called {
        self.calls += 1;
        arm(&mut self.store, self.limits.time_ms);
        // Bounds what is copied out, even when lists in the answer share memory. The engine has one bound for the answer and for what
        // is handed over before it; none of the latter is kept, or copied at all where it is a line of log.
        self.store.set_hostcall_fuel(ANSWER_BYTES_MAX);
        let answer = self.answer(partition, batches).await;
        self.store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        self.conclude(answer, batches, setup)
    }

    async fn answer(&mut self, partition: i32, batches: &[InputBatch]) -> Answer {
        let store = &mut self.store;
        match &self.exports {
            Exports::Core(core) => core.call(store, partition, batches).await,
            Exports::Batch(exports) => {
                use batch::exports::tidemill::transform::processor::InputBatch as Lowered;
                let lowered: Vec<Lowered<'_>> = batches
                    .iter()
                    .map(|b| Lowered {
                        base_offset: b.base_offset,
                        base_timestamp: b.base_timestamp,
                        record_count: b.record_count,
                        records: &b.records,
                    })
                    .collect();
                let processor = exports.tidemill_transform_processor();
                let called = processor
                    .call_process(store, partition as u32, &lowered)
                    .await?;
                Ok(Ok(called.map(Outcome::from)))
            }
            Exports::BatchV0_1(exports) => {
                use v0_1::exports::tidemill::transform::processor::InputBatch as Lowered;
                let lowered: Vec<Lowered<'_>> = batches
                    .iter()
                    .map(|b| Lowered {
                        base_offset: b.base_offset,
                        base_timestamp: b.base_timestamp,
                        record_count: b.record_count,
                        records: &b.records,
                    })
                    .collect();
                let processor = exports.tidemill_transform_processor();
                let called = processor.call_process(store, &lowered).await?;
                Ok(Ok(called.map(Outcome::from)))
            }
            Exports::Records(exports) => {
                let apart = match Apart::of(batches) {
                    Ok(apart) => apart,
                    Err(reason) => {
                        return Ok(Ok(Err(format!("the input cannot be read: {reason}"))));
                    }
                };
                let headers = apart.headers();
                let records = apart.records(&headers);
                let processor = exports.tidemill_transform_record_processor();
                let called = processor
                    .call_process(store, partition as u32, &records)
                    .await?;
                Ok(Ok(called.map(together)))
            }
        }
    }

    fn conclude(&mut self, answer: Answer, batches: &[InputBatch], setup: &Setup) -> Called {
        let outcome = match answer {
            Ok(outcome) => outcome,
            Err(error) => {
                let (error, logs) = explain(&mut self.store, &error, self.limits.time_ms);
                return failed(error, logs);
            }
        };
        let (logs, _) = self.store.data_mut().take_logs();
        let checked = match outcome {
            Ok(Ok(outcome)) => check(outcome, batches, &setup.outputs),
            Ok(Err(message)) => Err(CallError::Trap(cut(message, TRAP_BYTES_MAX))),
            Err(error) => Err(error),
        };
        match checked {
            Ok((outputs, failures)) => Ok(CallOutput {
                outputs,
                failures,
                logs,
                cpu_ns: 0,
                memory_bytes: self.store.data().memory_bytes() as u64,
            }),
            Err(error) => failed(error, logs),
        }
    }
}

async fn exports(
    module: &Loaded,
    linkers: &Linkers,
    store: &mut Store<Host>,
) -> wasmtime::Result<Exports> {
    let linker = &linkers.components;
    let pre = |component: &Component| linker.instantiate_pre(component);
    Ok(match module {
        Loaded::Component(component, World::Batch) => {
            let pre = batch::BatchTransformPre::new(pre(component)?)?;
            Exports::Batch(pre.instantiate_async(store).await?)
        }
        Loaded::Component(component, World::Records) => {
            let pre = record_world::RecordTransformPre::new(pre(component)?)?;
            Exports::Records(pre.instantiate_async(store).await?)
        }
        Loaded::Component(component, World::BatchV0_1) => {
            let pre = v0_1::BatchTransformPre::new(pre(component)?)?;
            Exports::BatchV0_1(pre.instantiate_async(store).await?)
        }
        Loaded::Component(_, World::Core) => {
            return Err(wasmtime::Error::msg("a component is no core module"));
        }
        Loaded::Core(module) => {
            Exports::Core(CoreInstance::new(&linkers.core, store, module).await?)
        }
    })
}

/// Runs `batches` on `idle`, or on an instance that `make` gives where there is none or that one has no memory left; gives the instance
/// back when it can be called again.
pub(crate) async fn call_on(
    idle: Option<Instance>,
    make: impl AsyncFn() -> Result<Instance, FailedCall>,
    (partition, batches): (i32, &[InputBatch]),
    setup: &Setup,
) -> (Option<Instance>, Called) {
    let mut used = idle;
    loop {
        let mut instance = match used.take() {
            Some(instance) => instance,
            None => match make().await {
                Ok(instance) => instance,
                Err(failed) => return (None, Err(failed)),
            },
        };
        match instance.call(partition, batches, setup).await {
            Ok(output) => return (Some(instance), Ok(output)),
            Err(failed) if instance.may_owe_to_earlier(&failed) => {}
            Err(failed) => return (None, Err(failed)),
        }
    }
}

/// What befell an instance while it was made.
fn not_started(error: CallError) -> CallError {
    match error {
        CallError::Unavailable(_) | CallError::Stopped => error,
        error => CallError::Unavailable(format!("the module does not start: {error}")),
    }
}

fn failed(error: CallError, logs: Vec<LogLine>) -> Called {
    Err(FailedCall {
        error,
        logs,
        cpu_ns: 0,
    })
}

fn arm(store: &mut Store<Host>, time_ms: u64) {
    let deadline = &mut store.data_mut().deadline;
    let spent = deadline.meter.spent_in_slice_ns();
    deadline.spent_ns_max = spent.saturating_add(time_ms.saturating_mul(1_000_000));
    deadline.passed = false;
    store.set_epoch_deadline(1);
}

/// At every tick a guest lets its neighbours have a turn, unless its time is gone.
fn on_epoch(mut store: StoreContextMut<'_, Host>) -> wasmtime::Result<UpdateDeadline> {
    let deadline = &mut store.data_mut().deadline;
    let stopped = deadline
        .stop
        .as_ref()
        .is_some_and(|stop| stop.load(Ordering::Relaxed));
    deadline.passed = deadline.meter.spent_in_slice_ns() >= deadline.spent_ns_max;
    Ok(if stopped || deadline.passed {
        UpdateDeadline::Interrupt
    } else {
        UpdateDeadline::Yield(1)
    })
}

/// What a failure of the engine means.
fn explain(
    store: &mut Store<Host>,
    error: &wasmtime::Error,
    limit_ms: u64,
) -> (CallError, Vec<LogLine>) {
    let host = store.data_mut();
    let refused = host.take_refused();
    let (logs, stderr) = host.take_logs();
    if matches!(error.downcast_ref::<Trap>(), Some(Trap::Interrupt)) {
        let timeout = CallError::Timeout { limit_ms };
        let error = if host.deadline.passed {
            timeout
        } else {
            CallError::Stopped
        };
        return (error, logs);
    }
    if let Some(refused) = refused {
        let error = CallError::Memory {
            wanted_bytes: refused.wanted_bytes,
            limit_bytes: refused.limit_bytes,
        };
        return (error, logs);
    }
    let cause = error.root_cause().to_string();
    if cause.starts_with(TOO_MUCH_COPIED) {
        let said = format!(
            "more than {ANSWER_BYTES_MAX} bytes of records and what tells them apart in one call"
        );
        return (CallError::TooMuch(said), logs);
    }
    let stderr = stderr.trim();
    let message = if stderr.is_empty() {
        cut(cause, TRAP_BYTES_MAX)
    } else {
        let start = stderr.floor_char_boundary(stderr.len().saturating_sub(TRAP_BYTES_MAX));
        stderr[start..].to_owned()
    };
    (CallError::Trap(message), logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_goes_wrong_at_the_start_blames_no_record() {
        let memory = CallError::Memory {
            wanted_bytes: 2,
            limit_bytes: 1,
        };
        let timeout = CallError::Timeout { limit_ms: START_MS };
        for error in [CallError::Trap("unreachable".into()), timeout, memory] {
            let text = error.to_string();
            assert!(matches!(not_started(error), CallError::Unavailable(m) if m.ends_with(&text)));
        }
        assert_eq!(not_started(CallError::Stopped), CallError::Stopped);
    }
}
