//! What a processor counts. Plain cells: read on the same shard.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tidemill_model::Offset;

/// What a processor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProcessorState {
    /// Not reading yet.
    #[default]
    Starting,
    /// Reading, running, or waiting for input.
    Running,
    /// Told to stand still.
    Paused,
    /// Stuck at an error, trying again with back-off.
    Failing,
}

/// The last thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// What.
    pub message: String,
    /// At which input offset, where that is known.
    pub offset: Option<Offset>,
    /// When, in ms since the Unix epoch.
    pub at_ms: i64,
}

/// Counters of one processor.
#[derive(Debug, Default)]
pub struct ProcessorStats {
    /// What it is doing.
    pub state: Cell<ProcessorState>,
    /// Input records decided.
    pub records_in: Cell<u64>,
    /// Bytes of input batches decided.
    pub bytes_in: Cell<u64>,
    /// Output records and bytes committed, by output index.
    pub out: RefCell<Vec<(u64, u64)>>,
    /// Failures of records, whatever became of them.
    pub failed: Cell<u64>,
    /// Records left out by `skip`.
    pub skipped: Cell<u64>,
    /// Records that went to the dead-letter topic.
    pub dead_lettered: Cell<u64>,
    /// Records handed on unchanged.
    pub passed_through: Cell<u64>,
    /// Input records deleted by retention before they were read.
    pub missed: Cell<u64>,
    /// Calls of the function.
    pub calls: Cell<u64>,
    /// CPU time of calls, in ns.
    pub cpu_ns: Cell<u64>,
    /// Largest memory of an instance seen, in bytes.
    pub memory_bytes: Cell<u64>,
    /// The last thing that went wrong.
    pub last_error: RefCell<Option<LastError>>,
    /// Durations from reading a run to its outcome being committed, not yet collected.
    pub latencies: RefCell<Vec<Duration>>,
}

/// Latencies kept until they are collected; further ones are left out.
const LATENCIES_MAX: usize = 4096;

impl ProcessorStats {
    pub(crate) fn add(cell: &Cell<u64>, n: u64) {
        cell.set(cell.get() + n);
    }

    pub(crate) fn wrote(&self, output: u32, records: u64, bytes: u64) {
        let mut out = self.out.borrow_mut();
        let at = output as usize;
        if out.len() <= at {
            out.resize(at + 1, (0, 0));
        }
        out[at].0 += records;
        out[at].1 += bytes;
    }

    pub(crate) fn latency(&self, d: Duration) {
        let mut latencies = self.latencies.borrow_mut();
        if latencies.len() < LATENCIES_MAX {
            latencies.push(d);
        }
    }

    pub(crate) fn error(&self, message: String, offset: Option<Offset>) {
        *self.last_error.borrow_mut() = Some(LastError {
            message,
            offset,
            at_ms: tidemill_rt::time::unix_ms(),
        });
    }
}
