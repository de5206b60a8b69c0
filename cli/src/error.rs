//! What can go wrong, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

/// An error of a verb.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The whole message, what to do included.
    #[error("{0}")]
    Said(String),
    /// Nobody answers at the admin address.
    #[error(
        "no broker answers at {address} ({reason})\n\
         Start one with `tidemill start`, or say where it is with --admin HOST:PORT or TIDEMILL_ADMIN."
    )]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The broker was asked and did not answer whole: nobody knows what became of it.
    #[error(
        "the broker at {address} was asked, but no whole answer came ({reason})\n\
         What was asked may have been done, or may still be: look before asking again, with `transform list`, \
         `transform describe` or `transform topic list`."
    )]
    Lost {
        /// Who was asked.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The broker was asked to tell something, and did not answer whole.
    #[error(
        "the broker at {address} gave no whole answer ({reason})\n\
         Nothing was changed. See that it runs and that this is its admin address (9644 by default), not the Kafka one."
    )]
    Silent {
        /// Who was asked.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The broker refused; its sentence says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// The broker cannot do it now; its sentence says why.
    #[error("{0}")]
    Busy(String),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read`, `write` and such.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever read our output has gone: the normal end of `transform consume | head`.
    #[error("the output was closed")]
    OutputClosed,
}

/// The result of a verb.
pub(crate) type CliResult<T = ()> = Result<T, CliError>;

impl CliError {
    /// A message that is complete.
    pub(crate) fn said(message: impl Into<String>) -> CliError {
        CliError::Said(message.into())
    }

    /// For `map_err` on file operations.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
        let path = path.to_owned();
        move |source| CliError::File {
            action,
            path,
            source,
        }
    }
}

/// An error of writing to standard output.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> CliError {
        match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => CliError::said(format!("cannot write to standard output: {error}")),
        }
    }
}
