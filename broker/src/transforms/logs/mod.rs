//! What transforms log and what befalls them, in the internal topic `__transform_logs`.
//!
//! A processor hands its lines to [`Logs`], which never blocks: what comes faster than the transform's rate, or than the
//! topic takes, is dropped and counted ([`intake`]). One task of each shard writes what was kept, every
//! [`writer::WRITE_EVERY`] or earlier when there is much ([`writer`]): a crash costs at most what came since. The admin
//! API reads the topic ([`read`]); a record's value is one OTLP log record ([`otlp`]).

pub(crate) mod intake;
mod otlp;
mod read;
mod writer;

use std::cell::RefCell;
use std::rc::Rc;

use tidemill_model::Offset;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::semaphore::Semaphore;
use tidemill_rt::time::{self, Instant};
use tidemill_transform::{Happening, Observer};
use tidemill_wasm_host::{LogLevel as HostLevel, LogLine as GuestLine};

use crate::admin::types::{LogLevel, LogSource};
use crate::config::table::Transforms;
use intake::{Dropped, Intake, Line};

/// Bytes of a message that are kept.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// The log lines of a shard's transforms, until they are written. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    intake: Rc<RefCell<Intake>>,
    /// Something is to be written.
    arrived: Notify,
    /// So much that it should not wait.
    plenty: Notify,
    /// One writes at a time, so that lines keep their order.
    turn: Semaphore,
}

/// What a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    /// The transform.
    pub(crate) transform: Rc<str>,
    /// Its version.
    pub(crate) version: u32,
    /// Its input topic.
    pub(crate) topic: Rc<str>,
    /// The input partition, where it is about one.
    pub(crate) partition: Option<i32>,
    /// The input offset, where it is about one.
    pub(crate) offset: Option<Offset>,
}

impl Logs {
    /// No lines yet.
    pub(crate) fn new(settings: &Transforms) -> Logs {
        Logs {
            intake: Rc::new(RefCell::new(Intake::new(
                settings.log_rate,
                settings.log_burst,
            ))),
            arrived: Notify::new(),
            plenty: Notify::new(),
            turn: Semaphore::new(1),
        }
    }

    /// Takes a line of a guest, within its transform's rate.
    fn guest(&self, about: About, level: LogLevel, message: &str) {
        self.push(about, level, LogSource::Transform, message);
    }

    /// Takes a line of the broker about a transform.
    pub(crate) fn event(&self, about: About, level: LogLevel, message: &str) {
        self.push(about, level, LogSource::Broker, message);
    }

    fn push(&self, about: About, level: LogLevel, source: LogSource, message: &str) {
        let line = Line {
            at_ms: time::unix_ms(),
            about,
            level,
            source,
            message: cut(message).to_owned(),
        };
        let plenty = {
            let mut intake = self.intake.borrow_mut();
            intake.push(Instant::now(), line);
            intake.is_plenty()
        };
        self.arrived.notify_all();
        if plenty {
            self.plenty.notify_all();
        }
    }

    /// Lines written and lines lost so far, by transform.
    pub(crate) fn counts(&self) -> Vec<(String, u64, Dropped)> {
        self.intake.borrow().counts()
    }

    /// Forgets transforms that are gone.
    pub(crate) fn retain(&self, lives: impl Fn(&str) -> bool) {
        self.intake.borrow_mut().retain(lives);
    }
}

/// At most [`MESSAGE_BYTES_MAX`] bytes of `message`, cut between characters.
fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

/// Hands on what one processor sees.
#[derive(Debug)]
pub(crate) struct PartitionObserver {
    /// Where to.
    pub(crate) logs: Logs,
    /// The transform, its version and the input partition.
    pub(crate) about: About,
}

impl PartitionObserver {
    fn about(&self, offset: Option<Offset>) -> About {
        About {
            offset,
            ..self.about.clone()
        }
    }
}

impl Observer for PartitionObserver {
    fn guest_line(&self, line: &GuestLine, offset: Option<Offset>) {
        let about = self.about(offset);
        self.logs.guest(about, level(line.level), &line.message);
    }

    fn event(&self, happening: Happening<'_>) {
        let about = self.about(happening.offset);
        self.logs
            .event(about, level(happening.level), happening.message);
    }
}

fn level(level: HostLevel) -> LogLevel {
    match level {
        HostLevel::Debug => LogLevel::Debug,
        HostLevel::Info => LogLevel::Info,
        HostLevel::Warn => LogLevel::Warn,
        HostLevel::Error => LogLevel::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = format!("x{}", "ä".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(cut(&long).len(), MESSAGE_BYTES_MAX - 1);
    }
}
