//! One instance of a module: made, called, and thrown away by whoever owns it when a call says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wasmtime::component::{Component, Linker};
use wasmtime::{Store, StoreContextMut, Trap, UpdateDeadline};

use crate::bindings::exports::tidemill::transform::processor;
use crate::bindings::{BatchTransform, BatchTransformPre};
use crate::check::{OUTPUT_BYTES_MAX, check, cut};
use crate::engine::{Host, Reservation};
use crate::sys::thread_cpu_ns;
use crate::ticker::Ticker;
use crate::types::{CallError, CallOutput, InputBatch, Limits, LogLine};

/// CPU time for making an instance, in ms: what runs before the first call.
const START_MS: u64 = 5_000;
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

/// A result with what was logged on the way.
pub(crate) struct Called {
    pub(crate) result: Result<CallOutput, CallError>,
    pub(crate) cpu_ns: u64,
    /// Lines of a call that failed; those of one that did not are in its output.
    pub(crate) logs: Vec<LogLine>,
}

/// An instance. After a failed call it must not be called again.
pub(crate) struct Instance {
    store: Store<Host>,
    bindings: BatchTransform,
    limits: Limits,
}

impl Instance {
    /// Makes one of `component`.
    pub(crate) fn new(
        component: &Component,
        setup: &Setup,
        around: &Surroundings,
    ) -> Result<Instance, CallError> {
        let unavailable = |e: wasmtime::Error| CallError::Unavailable(format!("{e:#}"));
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
            Err(error) => Err(explain(&mut store, &error, START_MS).0),
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
        // Bounds what is copied out, even when lists in the answer share memory.
        self.store.set_hostcall_fuel(2 * OUTPUT_BYTES_MAX);
        around.ticker.begin();
        let answer = self
            .bindings
            .tidemill_transform_processor()
            .call_process(&mut self.store, &lowered);
        around.ticker.end();
        let called = self.conclude(answer, batches, setup);
        Called {
            cpu_ns: thread_cpu_ns() - began,
            ..called
        }
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
            Err(mut message) => {
                cut(&mut message, TRAP_BYTES_MAX);
                Err(CallError::Trap(message))
            }
        };
        match checked {
            Ok((outputs, failures)) => Called {
                result: Ok(CallOutput {
                    outputs,
                    failures,
                    logs,
                    cpu_ns: 0,
                }),
                cpu_ns: 0,
                logs: Vec::new(),
            },
            Err(error) => failed(error, logs),
        }
    }
}

fn failed(error: CallError, logs: Vec<LogLine>) -> Called {
    Called {
        result: Err(error),
        cpu_ns: 0,
        logs,
    }
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
    let mut message = if stderr.is_empty() {
        error.root_cause().to_string()
    } else {
        let start = stderr.floor_char_boundary(stderr.len().saturating_sub(TRAP_BYTES_MAX));
        stderr[start..].to_owned()
    };
    cut(&mut message, TRAP_BYTES_MAX + 4);
    (CallError::Trap(message), logs)
}
