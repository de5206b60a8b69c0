//! Checkpoint files: one payload with a checksum, replaced atomically.
//!
//! Format, little endian: magic, version `u32`, payload length `u64`, CRC-32C `u32` of the payload, CRC-32C `u32` of
//! the fields before it, payload.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidemill_rt::fs;

const MAGIC: [u8; 8] = *b"TIDECKPT";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 28;

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot {action} checkpoint {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is there and damaged.
    #[error("checkpoint {} is damaged: {what}; it stands for \
         acknowledged records, so the node does not start. Keep the data directory as it is, delete nothing: restore the disk, or \
         the whole directory from a copy; `tidemill inspect` shows what can still be read", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl CheckpointError {
    /// Whether there is no room on the disk.
    pub fn is_full(&self) -> bool {
        matches!(self, CheckpointError::Io { source, .. } if fs::is_full(source))
    }
}

/// Replaces the checkpoint at `path`, durably; after a crash the old or the new one is there.
///
/// # Errors
/// [`CheckpointError::Io`].
pub async fn write(path: &Path, parts: Vec<Bytes>) -> Result<(), CheckpointError> {
    let len: usize = parts.iter().map(Bytes::len).sum();
    let crc = parts
        .iter()
        .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    let mut head = Vec::with_capacity(HEADER_BYTES);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(len as u64).to_le_bytes());
    head.extend_from_slice(&crc.to_le_bytes());
    let head_crc = crc32c::crc32c(&head);
    head.extend_from_slice(&head_crc.to_le_bytes());
    let mut all = vec![Bytes::from(head)];
    all.extend(parts);
    fs::write_atomic(path, all)
        .await
        .map_err(|source| CheckpointError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
}

/// The checkpoint at `path`; nothing when there is none.
///
/// # Errors
/// [`CheckpointError`]; a damaged checkpoint is never taken for a missing one.
pub async fn read(path: &Path) -> Result<Option<Bytes>, CheckpointError> {
    let bytes = match fs::read(path).await {
        Ok(bytes) => Bytes::from(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(CheckpointError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    match payload(&bytes) {
        Ok(payload) => Ok(Some(payload)),
        Err(what) => Err(CheckpointError::Corrupt {
            path: path.to_owned(),
            what,
        }),
    }
}

fn payload(bytes: &Bytes) -> Result<Bytes, String> {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(format!("{} bytes are too few", bytes.len()));
    };
    let u32_at =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if head[..8] != MAGIC || crc32c::crc32c(&head[..24]) != u32_at(24) {
        return Err("its header is damaged".into());
    }
    if u32_at(8) != VERSION {
        return Err(format!(
            "it has format version {}, this tidemill reads {VERSION}",
            u32_at(8)
        ));
    }
    let len = u64::from(u32_at(12)) | u64::from(u32_at(16)) << 32;
    let payload = bytes.slice(HEADER_BYTES..);
    if payload.len() as u64 != len {
        return Err(format!("it has {} bytes instead of {len}", payload.len()));
    }
    if crc32c::crc32c(&payload) != u32_at(20) {
        return Err("its content fails its checksum".into());
    }
    Ok(payload)
}
