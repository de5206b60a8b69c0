//! What can go wrong with the write-ahead log.

use std::io;
use std::path::{Path, PathBuf};

use tidemill_model::RingId;
use tidemill_rt::fs;

/// Why the log cannot be opened or can no longer be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused an operation.
    #[error("cannot {action} {}: {source}; check the disk, then start again", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no room for the next file.
    #[error(
        "the disk is full: the next write-ahead log file in {} needs {bytes} bytes ({source}); \
         free that much and a little more; nothing acknowledged is lost",
        dir.display()
    )]
    Full {
        /// The directory of the log.
        dir: PathBuf,
        /// Bytes of the file.
        bytes: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// Bytes that were durable are damaged.
    #[error(
        "write-ahead log is corrupt: {} at position {position}: {what}; the data behind it was acknowledged, \
         so the node does not start. Keep the data directory as it is, delete nothing: restore the disk, or the whole directory \
         from a copy; `tidemill inspect` shows what can still be read",
        file.display()
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Byte position of the damage.
        position: u64,
        /// What is wrong there.
        what: String,
    },
    /// A file of the sequence is gone.
    #[error("write-ahead log file {} is missing; restore it, the files after it depend on it", file.display())]
    Missing {
        /// The file that should be there.
        file: PathBuf,
    },
    /// An entry was appended that does not follow its predecessor: a bug of the caller, stopped before it is written.
    #[error("ring {ring} appended entry {index} where {expected} must come next")]
    OutOfOrder {
        /// The ring.
        ring: RingId,
        /// Index of the entry.
        index: u64,
        /// The index that had to come.
        expected: u64,
    },
    /// One frame is larger than the format can say.
    #[error("ring {ring} appended a frame of {bytes} bytes, at most {max} are possible")]
    TooLarge {
        /// The ring.
        ring: RingId,
        /// Bytes of the frame.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
}

impl LogError {
    /// Whether the disk has no room, so that the same can work later. Never of a sync: what a failed sync has written is not
    /// known (rule S10).
    pub fn is_full(&self) -> bool {
        match self {
            LogError::Full { .. } => true,
            LogError::Io { action, source, .. } => *action != "sync" && fs::is_full(source),
            _ => false,
        }
    }

    /// Whether the system is short of something, room or descriptors or memory, so that the same can work later. Never of a sync, and
    /// of a write only for want of room: what else such an error leaves behind is not known (rule S10).
    pub fn is_shortage(&self) -> bool {
        let of_opening = matches!(
            self,
            LogError::Io { action, source, .. }
                if !matches!(*action, "sync" | "write") && fs::is_shortage(source)
        );
        of_opening || self.is_full()
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let path = path.to_owned();
        move |source| LogError::Io {
            action,
            path,
            source,
        }
    }
}
