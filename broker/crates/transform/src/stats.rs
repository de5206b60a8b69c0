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

/// What an outcome decides, counted when it is committed, so that nothing that is run again is counted twice. (Of an
/// outcome whose fate was not known nothing is counted.)
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) records_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) missed: u64,
    pub(crate) skipped: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) passed_through: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.records_in += other.records_in;
        self.bytes_in += other.bytes_in;
        self.missed += other.missed;
        self.skipped += other.skipped;
        self.dead_lettered += other.dead_lettered;
        self.passed_through += other.passed_through;
    }
}

/// Counters of one processor.
#[derive(Debug, Default)]
pub struct ProcessorStats {
    /// What it is doing.
    pub state: Cell<ProcessorState>,
    /// Input records decided.
    pub records_in: Cell<u64>,
    /// Uncompressed bytes of the input batches decided to their end.
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
    /// Memory of the instance after the last call, in bytes; the processors of one transform on a shard share it.
    pub memory_bytes: Cell<u64>,
    /// The last thing that went wrong.
    pub last_error: RefCell<Option<LastError>>,
    /// Durations from reading a run to its outcome with output being committed, not yet collected. Progress without output
    /// has none: it is gathered on purpose.
    pub latencies: RefCell<Vec<Duration>>,
}

/// Latencies kept until they are collected; further ones are left out.
const LATENCIES_MAX: usize = 4096;

impl ProcessorStats {
    pub(crate) fn add(cell: &Cell<u64>, n: u64) {
        cell.set(cell.get() + n);
    }

    pub(crate) fn decided(&self, tally: Tally) {
        Self::add(&self.records_in, tally.records_in);
        Self::add(&self.bytes_in, tally.bytes_in);
        Self::add(&self.missed, tally.missed);
        Self::add(&self.skipped, tally.skipped);
        Self::add(&self.dead_lettered, tally.dead_lettered);
        Self::add(&self.passed_through, tally.passed_through);
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
