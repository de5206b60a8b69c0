//! Looking at segment and index files by themselves, without the checkpoint that says what of them is valid.

use std::path::{Path, PathBuf};

use tidemill_model::Offset;
use tidemill_rt::fs::{File, OpenMode};

use crate::codec::Reader;
use crate::segment::{ENTRY_BYTES, IndexEntry, SegmentError, SegmentMeta, io_error};

/// Entries of an index that are read at once.
const ENTRIES_AT_ONCE: usize = 4_096;
/// Largest base offset that a segment can be named by: offsets behind it must have room.
const BASE_OFFSET_MAX: Offset = Offset::MAX / 2;

/// The folder of the segment at `path`, and the segment as if the whole file were valid. `None` when the name is none of a
/// segment.
///
/// # Errors
/// [`SegmentError::Io`].
pub async fn whole_segment(path: &Path) -> Result<Option<(PathBuf, SegmentMeta)>, SegmentError> {
    let stem = path.file_stem().and_then(|s| s.to_str());
    let base = stem.and_then(|s| s.parse::<Offset>().ok());
    let Some(base) = base.filter(|b| (0..=BASE_OFFSET_MAX).contains(b)) else {
        return Ok(None);
    };
    let file = File::open(path, OpenMode::Read)
        .await
        .map_err(io_error(path))?;
    let bytes = file.len().await.map_err(io_error(path))?;
    let meta = SegmentMeta {
        bytes,
        ..SegmentMeta::new(base)
    };
    let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
    Ok(Some((dir, meta)))
}

/// Shows `visit` every entry of the index file at `path`; how many bytes are left over at its end.
///
/// # Errors
/// [`SegmentError::Io`].
pub async fn index_file(
    path: &Path,
    visit: &mut dyn FnMut(IndexEntry),
) -> Result<u64, SegmentError> {
    let file = File::open(path, OpenMode::Read)
        .await
        .map_err(io_error(path))?;
    let bytes = file.len().await.map_err(io_error(path))?;
    let mut at = 0;
    while bytes - at >= ENTRY_BYTES as u64 {
        let want =
            (ENTRIES_AT_ONCE as u64).min((bytes - at) / ENTRY_BYTES as u64) as usize * ENTRY_BYTES;
        let read = file.read_at(at, want).await.map_err(io_error(path))?;
        if read.len() < ENTRY_BYTES {
            break;
        }
        let mut r = Reader::new(&read);
        while let Ok(entry) = IndexEntry::decode(&mut r) {
            visit(entry);
            at += ENTRY_BYTES as u64;
        }
    }
    Ok(bytes - at)
}
