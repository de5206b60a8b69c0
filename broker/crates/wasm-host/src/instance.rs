//! One instance of a module: made, called, and thrown away by whoever owns it when a call says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmtime::component::{Component, Linker};
use wasmtime::{Store, StoreContextMut, Trap, UpdateDeadline};

use crate::bindings::exports::tidemill::transform::processor;
use crate::bindings::{BatchTransform, BatchTransformPre};
use crate::check::{OUTPUT_BYTES_MAX, check, cut};
use crate::engine::{HOST_CALL_BYTES_MAX, Host, Reservation};
use crate::sys::thread_cpu_ns;
use crate::ticker::Ticker;
use crate::types::{CallError, CallOutput, FailedCall, InputBatch, Limits, LogLine};

/// CPU time for making an instance, in ms: what runs before the first call.
const START_MS: u64 = 5_000;
/// Bytes of the answer as the engine counts them: the sections, and what tells them and the failures apart.
const ANSWER_BYTES_MAX: usize = 2 * OUTPUT_BYTES_MAX;
/// Bytes kept of a trap's message: the last ones.
const TRAP_BYTES_MAX: usize = 2 << 10;

/// When a running guest must end.
#[derive(Default)]
pub(crate) struct Deadline {
    cpu_ns: u64,
    passed: bool,
    stop: Option<Arc<AtomicBool>>,
}

/// What an instance is made for.
pub(crate) struct Setup {
    pub(crate) env: Vec<(String, String)>,
    pub(crate) limits: Limits,
    /// Bytes of the largest batch that each output takes.
    pub(crate) output_max_bytes: Vec<usize>,
}

/// What surrounds the instances of a thread.
pub(crate) struct Surroundings {
    pub(crate) linker: Linker<Host>,
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
    bindings: BatchTransform,
    limits: Limits,
}

impl Instance {
    /// Makes one of `component`.
    ///
    /// # Errors
    /// [`CallError::Unavailable`], or [`CallError::Stopped`] when the thread is stopped meanwhile: no input has been seen yet, so none is to
    /// blame.
    pub(crate) fn new(
        component: &Component,
        setup: &Setup,
        around: &Surroundings,
    ) -> Result<Instance, FailedCall> {
        let began = thread_cpu_ns();
        Instance::make(component, setup, around).map_err(|(error, logs)| FailedCall {
            error: not_started(error),
            logs,
            cpu_ns: thread_cpu_ns() - began,
        })
    }

    fn make(
        component: &Component,
        setup: &Setup,
        around: &Surroundings,
    ) -> Result<Instance, (CallError, Vec<LogLine>)> {
        let unavailable =
            |e: wasmtime::Error| (CallError::Unavailable(format!("{e:#}")), Vec::new());
        let pre = around
            .linker
            .instantiate_pre(component)
            .map_err(unavailable)?;
        let pre = BatchTransformPre::new(pre).map_err(unavailable)?;
        let host = Host::new(
            &setup.env,
            setup.limits.memory_bytes,
            around.reservation.clone(),
        );
        let mut store = Store::new(around.linker.engine(), host);
        store.limiter(Host::limiter);
        store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        store.epoch_deadline_callback(on_epoch);
        store.data_mut().deadline.stop = Some(around.stop.clone());
        arm(&mut store, START_MS);
        around.ticker.begin();
        let made = pre.instantiate(&mut store);
        around.ticker.end();
        match made {
            Ok(bindings) => Ok(Instance {
                store,
                bindings,
                limits: setup.limits,
            }),
            Err(error) => Err(explain(&mut store, &error, START_MS)),
        }
    }

    /// Runs the transform over `batches`.
    pub(crate) fn call(
        &mut self,
        batches: &[InputBatch],
        setup: &Setup,
        around: &Surroundings,
    ) -> Called {
        let began = thread_cpu_ns();
        let lowered: Vec<processor::InputBatch<'_>> = batches
            .iter()
            .map(|b| processor::InputBatch {
                base_offset: b.base_offset,
                base_timestamp: b.base_timestamp,
                record_count: b.record_count,
                records: &b.records,
            })
            .collect();
        arm(&mut self.store, self.limits.time_ms);
        // Bounds what is copied out, even when lists in the answer share memory. The engine has one bound for the answer and for what
        // is handed over before it; none of the latter is kept, or copied at all where it is a line of log.
        self.store.set_hostcall_fuel(ANSWER_BYTES_MAX);
        around.ticker.begin();
        let answer = self
            .bindings
            .tidemill_transform_processor()
            .call_process(&mut self.store, &lowered);
        around.ticker.end();
        self.store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        let called = self.conclude(answer, batches, setup);
        timed(called, thread_cpu_ns() - began)
    }

    fn conclude(
        &mut self,
        answer: wasmtime::Result<Result<processor::Outcome, String>>,
        batches: &[InputBatch],
        setup: &Setup,
    ) -> Called {
        let outcome = match answer {
            Ok(outcome) => outcome,
            Err(error) => {
                let (error, logs) = explain(&mut self.store, &error, self.limits.time_ms);
                return failed(error, logs);
            }
        };
        let (logs, _) = self.store.data_mut().take_logs();
        let checked = match outcome {
            Ok(outcome) => check(outcome, batches, &setup.output_max_bytes),
            Err(message) => Err(CallError::Trap(cut(message, TRAP_BYTES_MAX))),
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
    deadline.cpu_ns = thread_cpu_ns().saturating_add(time_ms.saturating_mul(1_000_000));
    deadline.passed = false;
    store.set_epoch_deadline(1);
}

fn on_epoch(mut store: StoreContextMut<'_, Host>) -> wasmtime::Result<UpdateDeadline> {
    let deadline = &mut store.data_mut().deadline;
    let stopped = deadline
        .stop
        .as_ref()
        .is_some_and(|stop| stop.load(Ordering::Relaxed));
    deadline.passed = thread_cpu_ns() >= deadline.cpu_ns;
    Ok(if stopped || deadline.passed {
        UpdateDeadline::Interrupt
    } else {
        UpdateDeadline::Continue(1)
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
    let stderr = stderr.trim();
    let message = if stderr.is_empty() {
        cut(error.root_cause().to_string(), TRAP_BYTES_MAX)
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
