//! Names of log files, and making them.

use std::io;
use std::path::{Path, PathBuf};

use tidemill_rt::buf::{AlignedBuf, BLOCK_BYTES};
use tidemill_rt::fs::{self, DirectFile, Durable, OpenMode};

use crate::error::LogError;
use crate::format::{FILE_HEADER_BYTES, FileHeader};

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
    /// Its writes are durable when they return.
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
    let file = DirectFile::open(&path, OpenMode::CreateNew, Durable::WhenWritten)
        .await
        .map_err(LogError::io("make", &path))?;
    file.preallocate(bytes)
        .await
        .map_err(|source| match fs::is_full(&source) {
            true => LogError::Full {
                dir: dir.to_owned(),
                bytes,
                source,
            },
            false => LogError::io("reserve disk for", &path)(source),
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
    match DirectFile::open(&spare, OpenMode::ReadWrite, Durable::WhenWritten).await {
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
