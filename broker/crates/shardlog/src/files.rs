//! Names of log files, making them, and the record of what each still holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use tidemill_model::RingId;
use tidemill_rt::buf::{AlignedBuf, BLOCK_BYTES};
use tidemill_rt::fs::{self, DirectFile, OpenMode};

use crate::error::LogError;
use crate::format::{FILE_HEADER_BYTES, FileHeader, Frame};

/// Name of the file that is prepared to become the next one.
const SPARE_NAME: &str = "spare.tmp";

/// Makes the log's directory and makes its name durable, with those of all directories above it.
pub(crate) async fn make_dir(dir: &Path) -> Result<(), LogError> {
    fs::create_dir_all(dir)
        .await
        .map_err(LogError::io("make", dir))?;
    for above in dir.ancestors() {
        // The last ancestor of a relative path is the working directory.
        let above = match above.as_os_str().is_empty() {
            true => Path::new("."),
            false => above,
        };
        match fs::sync_dir(above).await {
            Err(e) if above != dir && is_foreign(&e) => break,
            result => result.map_err(LogError::io("sync", above))?,
        }
    }
    Ok(())
}

/// Whether a directory refuses to be synced in a way that says it was not made by this user on this file system:
/// not readable, read-only, or of a file system that has nothing to sync.
fn is_foreign(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Unsupported
    )
}

/// The path of file `sequence`.
pub(crate) fn path_of(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.log"))
}

/// The sequence that a file's name says.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|d| d.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The file that groups are written to.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: DirectFile,
    pub(crate) path: PathBuf,
    pub(crate) header: FileHeader,
    /// Where the next group begins.
    pub(crate) position: u64,
    /// Bytes of the file.
    pub(crate) bytes: u64,
}

/// A file with its disk reserved and no header yet; only its name tells it from rubbish, and it is removed at every start.
#[derive(Debug)]
pub(crate) struct Spare {
    file: DirectFile,
    pub(crate) bytes: u64,
}

/// Makes a spare of `bytes`, durable up to its length.
pub(crate) async fn make_spare(dir: &Path, bytes: u64) -> Result<Spare, LogError> {
    let path = dir.join(SPARE_NAME);
    let file = DirectFile::open(&path, OpenMode::CreateNew)
        .await
        .map_err(LogError::io("make", &path))?;
    file.preallocate(bytes)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::Full {
                dir: dir.to_owned(),
                bytes,
                source,
            },
            _ => LogError::io("reserve disk for", &path)(source),
        })?;
    file.sync_data()
        .await
        .map_err(LogError::io("sync", &path))?;
    Ok(Spare { file, bytes })
}

/// Makes a spare of the log file at `path`, which is not needed any more. When this returns, the file is out of the sequence for good:
/// only then may it be written, or a crash could bring back its name over a content that is gone (rule S1 tells what it held
/// before from what it will hold). `None` when it cannot be opened; it is removed then.
pub(crate) async fn reuse(dir: &Path, path: &Path, bytes: u64) -> Result<Option<Spare>, LogError> {
    let spare = dir.join(SPARE_NAME);
    fs::rename(path, &spare)
        .await
        .map_err(LogError::io("rename", path))?;
    fs::sync_dir(dir).await.map_err(LogError::io("sync", dir))?;
    match DirectFile::open(&spare, OpenMode::ReadWrite).await {
        Ok(file) => Ok(Some(Spare { file, bytes })),
        Err(error) => {
            tracing::warn!(%error, "a log file could not be kept for the next use");
            remove_spare(dir).await?;
            Ok(None)
        }
    }
}

/// Removes a spare that is too small or left over.
pub(crate) async fn remove_spare(dir: &Path) -> Result<(), LogError> {
    let path = dir.join(SPARE_NAME);
    match fs::remove_file(&path).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(LogError::io("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Turns a spare into the log file that `header` says. When it returns, header and name are durable.
pub(crate) async fn commission(
    dir: &Path,
    spare: Spare,
    header: FileHeader,
) -> Result<OpenFile, LogError> {
    let path = path_of(dir, header.sequence);
    let mut block: AlignedBuf = spare.file.alloc(BLOCK_BYTES);
    header.encode(&mut block);
    let file = spare.file;
    file.write_at(block, 0)
        .await
        .map_err(LogError::io("write", &path))?;
    file.sync_data()
        .await
        .map_err(LogError::io("sync", &path))?;
    fs::rename(&dir.join(SPARE_NAME), &path)
        .await
        .map_err(LogError::io("name", &path))?;
    fs::sync_dir(dir).await.map_err(LogError::io("sync", dir))?;
    Ok(OpenFile {
        file,
        path,
        header,
        position: FILE_HEADER_BYTES,
        bytes: spare.bytes,
    })
}

/// What each file holds that is still needed, and what pins it.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// Per file: its bytes, and the largest index of an entry of each ring in it.
    files: BTreeMap<u64, (u64, BTreeMap<RingId, u64>)>,
    /// The file with the latest vote of each ring.
    votes: BTreeMap<RingId, u64>,
    /// The file with the latest purge of each ring, and its index.
    purges: BTreeMap<RingId, (u64, u64)>,
}

/// What must happen for the oldest file to go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Oldest {
    /// Entries in it are needed, or it is the only one.
    Needed,
    /// The votes and purges of these rings must be carried forward first.
    Pinned {
        /// Rings whose latest vote stands in it.
        votes: BTreeSet<RingId>,
        /// Rings whose latest purge stands in it.
        purges: BTreeSet<RingId>,
    },
    /// This file can be removed.
    Free(u64),
}

/// The part of a frame that the catalog keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    Entry(u64),
    Vote,
    Purge(u64),
    Nothing,
}

impl Mark {
    pub(crate) fn of(frame: &Frame) -> Mark {
        match frame {
            Frame::Entry { index, .. } => Mark::Entry(*index),
            Frame::Vote { .. } => Mark::Vote,
            Frame::Purge { upto, .. } => Mark::Purge(*upto),
            Frame::Truncate { .. } => Mark::Nothing,
        }
    }
}

impl Catalog {
    pub(crate) fn add_file(&mut self, sequence: u64, bytes: u64) {
        self.files.insert(sequence, (bytes, BTreeMap::new()));
    }

    pub(crate) fn resize_file(&mut self, sequence: u64, bytes: u64) {
        if let Some(file) = self.files.get_mut(&sequence) {
            file.0 = bytes;
        }
    }

    pub(crate) fn remove_file(&mut self, sequence: u64) {
        self.files.remove(&sequence);
    }

    /// Notes that a frame is durable in file `sequence`.
    pub(crate) fn note(&mut self, sequence: u64, ring: RingId, mark: Mark) {
        match mark {
            Mark::Entry(index) => {
                if let Some((_, largest)) = self.files.get_mut(&sequence) {
                    let at = largest.entry(ring).or_default();
                    *at = index.max(*at);
                }
            }
            Mark::Vote => {
                self.votes.insert(ring, sequence);
            }
            Mark::Purge(upto) => {
                let latest = self.purges.entry(ring).or_insert((sequence, upto));
                if upto >= latest.1 {
                    *latest = (sequence, upto);
                }
            }
            Mark::Nothing => {}
        }
    }

    pub(crate) fn oldest(&self) -> Oldest {
        let Some((sequence, (_, largest))) = self.files.first_key_value() else {
            return Oldest::Needed;
        };
        let needed = largest
            .iter()
            .any(|(ring, index)| self.purges.get(ring).is_none_or(|p| p.1 < *index));
        if self.files.len() < 2 || needed {
            return Oldest::Needed;
        }
        let votes: BTreeSet<_> = self
            .votes
            .iter()
            .filter_map(|(ring, file)| (file <= sequence).then_some(*ring))
            .collect();
        let purges: BTreeSet<_> = self
            .purges
            .iter()
            .filter_map(|(ring, (file, _))| (file <= sequence).then_some(*ring))
            .collect();
        if votes.is_empty() && purges.is_empty() {
            return Oldest::Free(*sequence);
        }
        Oldest::Pinned { votes, purges }
    }

    pub(crate) fn bytes_of(&self, sequence: u64) -> u64 {
        self.files.get(&sequence).map_or(0, |(bytes, _)| *bytes)
    }

    pub(crate) fn count(&self) -> u64 {
        self.files.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|(bytes, _)| bytes).sum()
    }
}
