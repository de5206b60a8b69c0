//! What a start finds behind the end of the log and drops is kept in files beside it: none of it was acknowledged, but who looks for
//! the cause of a crash, or for the work of a failing disk, can still read it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidemill_rt::fs;

use crate::error::LogError;
use crate::files::path_of;
use crate::recover::{Reader, Torn};

/// Bytes of a piece that are kept at most, from its beginning.
const PIECE_BYTES_MAX: u64 = 16 << 20;
/// Pieces that are kept at most; the oldest go.
const PIECES_MAX: usize = 8;
const PREFIX: &str = "torn-";
const ENDING: &str = ".piece";

/// Keeps `torn`, whose bytes are overwritten or cut off next, and says so. That it cannot be kept ends nothing.
pub(crate) async fn keep(dir: &Path, torn: &Torn) {
    let kept = try_keep(dir, torn).await;
    let file = path_of(dir, torn.sequence);
    let (position, bytes, what) = (torn.position, torn.end - torn.position, torn.what);
    match kept {
        Ok(path) => tracing::warn!(
            file = %file.display(), position, bytes, what, kept = %path.display(),
            "the end of the write-ahead log was not written whole when the process or the machine stopped; it is dropped, and none of \
             it was acknowledged; its bytes are kept aside"
        ),
        Err(error) => tracing::warn!(
            file = %file.display(), position, bytes, what, %error,
            "the end of the write-ahead log was not written whole when the process or the machine stopped; it is dropped, and none of \
             it was acknowledged; its bytes could not be kept aside"
        ),
    }
}

async fn try_keep(dir: &Path, torn: &Torn) -> Result<PathBuf, LogError> {
    let mut reader = Reader::open(path_of(dir, torn.sequence)).await?;
    let len = (torn.end - torn.position).min(PIECE_BYTES_MAX) as usize;
    let piece: Bytes = reader.get(torn.position, len).await?;
    reader.close().await?;
    let (sequence, position) = (torn.sequence, torn.position);
    let path = dir.join(format!("{PREFIX}{sequence:016x}-{position:016x}{ENDING}"));
    let written = fs::write_atomic(&path, vec![piece]).await;
    written.map_err(LogError::io("write", &path))?;
    remove_oldest(dir).await?;
    Ok(path)
}

async fn remove_oldest(dir: &Path) -> Result<(), LogError> {
    let names = fs::list_dir(dir).await.map_err(LogError::io("list", dir))?;
    // Sorted, as their numbers are.
    let is_piece = |name: &String| name.starts_with(PREFIX) && name.ends_with(ENDING);
    let pieces: Vec<String> = names.into_iter().filter(is_piece).collect();
    let more = pieces.len().saturating_sub(PIECES_MAX);
    for name in &pieces[..more] {
        let path = dir.join(name);
        let removed = fs::remove_file(&path).await;
        removed.map_err(LogError::io("remove", &path))?;
    }
    Ok(())
}
