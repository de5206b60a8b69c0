//! What transforms log, kept in memory until somebody reads it: a bounded buffer for each transform on each shard.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tidemill_rt::chan::notify::Notify;
use tidemill_transform::Observer;
use tidemill_wasm_host::LogLine as GuestLine;

use crate::admin::types::{LogLevel, LogLine};

/// Bytes of a line that are kept.
pub(crate) const LINE_BYTES_MAX: usize = 4 << 10;

#[derive(Debug, Default)]
struct Buffer {
    lines: VecDeque<LogLine>,
    dropped: u64,
}

/// The log lines of a shard's transforms.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    /// Lines kept for a transform; the oldest give way.
    lines_max: usize,
    buffers: Rc<RefCell<BTreeMap<String, Buffer>>>,
    last_seq: Rc<std::cell::Cell<u64>>,
    arrived: Notify,
}

impl Logs {
    /// No lines yet; at most `lines_max` are kept of each transform.
    pub(crate) fn new(lines_max: usize) -> Logs {
        Logs {
            lines_max,
            buffers: Rc::default(),
            last_seq: Rc::default(),
            arrived: Notify::new(),
        }
    }

    /// Keeps a line. `seq` is a time in µs made unique, so that lines of several shards merge in order.
    pub(crate) fn push(&self, transform: &str, partition: i32, level: LogLevel, message: &str) {
        let now_ms = tidemill_rt::time::unix_ms();
        let seq = (now_ms as u64 * 1000).max(self.last_seq.get() + 1);
        self.last_seq.set(seq);
        let mut buffers = self.buffers.borrow_mut();
        let buffer = buffers.entry(transform.to_owned()).or_default();
        if buffer.lines.len() >= self.lines_max {
            buffer.lines.pop_front();
            buffer.dropped += 1;
        }
        buffer.lines.push_back(LogLine {
            seq,
            timestamp: now_ms,
            level,
            partition,
            message: cut(message).to_owned(),
        });
        drop(buffers);
        self.arrived.notify_all();
    }

    /// The lines of `transform` after `after`: the first `limit` of them, or the newest when `after` is 0.
    pub(crate) fn read(&self, transform: &str, after: u64, limit: usize) -> Vec<LogLine> {
        let buffers = self.buffers.borrow();
        let Some(buffer) = buffers.get(transform) else {
            return Vec::new();
        };
        let new: Vec<&LogLine> = buffer.lines.iter().filter(|l| l.seq > after).collect();
        let skip = if after == 0 {
            new.len().saturating_sub(limit)
        } else {
            0
        };
        new.into_iter().skip(skip).take(limit).cloned().collect()
    }

    /// Lines that gave way, by transform.
    pub(crate) fn dropped(&self) -> Vec<(String, u64)> {
        let buffers = self.buffers.borrow();
        buffers
            .iter()
            .map(|(name, b)| (name.clone(), b.dropped))
            .collect()
    }

    /// Forgets a transform that is gone.
    pub(crate) fn forget(&self, transform: &str) {
        self.buffers.borrow_mut().remove(transform);
    }
}

/// At most [`LINE_BYTES_MAX`] bytes of `message`, cut between characters.
fn cut(message: &str) -> &str {
    if message.len() <= LINE_BYTES_MAX {
        return message;
    }
    let mut end = LINE_BYTES_MAX;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// Writes what one processor sees into the shard's logs.
#[derive(Debug)]
pub(crate) struct PartitionObserver {
    /// The logs.
    pub(crate) logs: Logs,
    /// The transform.
    pub(crate) transform: String,
    /// The input partition.
    pub(crate) partition: i32,
}

impl Observer for PartitionObserver {
    fn guest_line(&self, line: &GuestLine) {
        let level = match line.level {
            tidemill_wasm_host::LogLevel::Debug => LogLevel::Debug,
            tidemill_wasm_host::LogLevel::Info => LogLevel::Info,
            tidemill_wasm_host::LogLevel::Warn => LogLevel::Warn,
            tidemill_wasm_host::LogLevel::Error => LogLevel::Error,
        };
        self.logs
            .push(&self.transform, self.partition, level, &line.message);
    }

    fn event(&self, message: &str) {
        self.logs
            .push(&self.transform, self.partition, LogLevel::Error, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES_MAX: usize = 1_000;

    #[test]
    fn buffer_is_bounded_and_counts_what_gave_way() {
        let logs = Logs::new(LINES_MAX);
        for i in 0..LINES_MAX + 5 {
            logs.push("t", 0, LogLevel::Info, &i.to_string());
        }
        assert_eq!(logs.read("t", 0, usize::MAX).len(), LINES_MAX);
        assert_eq!(logs.dropped(), vec![("t".to_owned(), 5)]);
        let newest = logs.read("t", 0, 1);
        assert_eq!(newest[0].message, (LINES_MAX + 4).to_string());
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let line = "ä".repeat(LINE_BYTES_MAX);
        assert!(cut(&line).len() <= LINE_BYTES_MAX);
    }
}
