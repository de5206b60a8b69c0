//! Looking at log files without opening the log: nothing is written, and a file is read a group at a time.

use std::path::{Path, PathBuf};

use tidemill_model::RingId;
use tidemill_rt::buf::BLOCK_BYTES;
use tidemill_rt::fs;

use crate::error::LogError;
use crate::files::{path_of, sequence_of};
use crate::format::{FILE_HEADER_BYTES, FileHeader, Frame, GroupHeader};
use crate::recover::{Reader, check_torn, read_group};

/// Something in a log file, in the order in which it lies there.
#[derive(Debug)]
pub enum Found {
    /// The header of the file.
    File {
        /// Its place in the sequence.
        sequence: u64,
        /// Salt of its checksums.
        generation: u64,
        /// Where the valid part of the file before ends.
        predecessor_end: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// A sound group; its frames follow.
    Group {
        /// Where it begins.
        position: u64,
        /// Its number since the log began.
        number: u64,
        /// Frames in it.
        frames: u32,
        /// Bytes of them.
        bytes: u64,
    },
    /// A frame of the last group.
    Frame {
        /// Whose it is.
        ring: RingId,
        /// What it is.
        frame: Frame,
        /// Bytes of its data.
        bytes: usize,
    },
    /// The end of what is valid.
    End {
        /// Where it is.
        position: u64,
        /// What stands there, where it is no sound group: the torn tail of a crash, dropped at the next start.
        torn: Option<&'static str>,
    },
}

/// The log files in `dir`, oldest first.
///
/// # Errors
/// [`LogError::Io`].
pub async fn log_files(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let names = fs::list_dir(dir).await.map_err(LogError::io("list", dir))?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|n| sequence_of(n)).collect();
    sequences.sort_unstable();
    Ok(sequences.into_iter().map(|s| path_of(dir, s)).collect())
}

/// Shows `visit` everything in the log file at `path`. Its end is where the next file in the same folder says; the newest
/// may have a torn tail.
///
/// # Errors
/// [`LogError::Corrupt`] with the position of what is damaged, [`LogError::Io`].
pub async fn log_file(path: &Path, visit: &mut dyn FnMut(Found)) -> Result<(), LogError> {
    let (header, bytes) = header(path).await?;
    visit(Found::File {
        sequence: header.sequence,
        generation: header.generation,
        predecessor_end: header.predecessor_end,
        bytes,
    });
    let end = successor_end(path, &header).await;
    let mut reader = Reader::open(path.to_owned()).await?;
    let mut at = FILE_HEADER_BYTES;
    let mut torn = None;
    while at < end.unwrap_or(bytes).min(bytes) {
        match read_group(&mut reader, &header, at, end.unwrap_or(bytes)).await? {
            Ok((group, payload)) => {
                visit(Found::Group {
                    position: at,
                    number: group.number,
                    frames: group.frames,
                    bytes: group.payload_len,
                });
                let mut from = 0;
                for _ in 0..group.frames {
                    let (ring, frame, next) = Frame::decode(&payload, from)
                        .map_err(|what| reader.corrupt(at, what.to_owned()))?;
                    let bytes = frame.data_len();
                    visit(Found::Frame { ring, frame, bytes });
                    from = next;
                }
                at += GroupHeader::total_len(group.payload_len).unwrap_or(0);
            }
            Err(what) if end.is_some() => return Err(reader.corrupt(at, what.to_owned())),
            Err(what) => {
                check_torn(&mut reader, &header, at, what).await?;
                let block = reader.get(at, BLOCK_BYTES).await?;
                torn = block.iter().any(|b| *b != 0).then_some(what);
                break;
            }
        }
    }
    if let Some(end) = end.filter(|end| *end > bytes) {
        return Err(reader.corrupt(
            bytes,
            format!("the next file says that this one ends at {end}"),
        ));
    }
    visit(Found::End { position: at, torn });
    reader.close().await
}

async fn header(path: &Path) -> Result<(FileHeader, u64), LogError> {
    let mut reader = Reader::open(path.to_owned()).await?;
    let block = reader.get(0, BLOCK_BYTES).await?;
    let header = FileHeader::decode(&block).map_err(|what| reader.corrupt(0, what))?;
    let bytes = reader.bytes;
    reader.close().await?;
    Ok((header, bytes))
}

/// Where the next file says that this one ends, if there is a next one with a sound header.
async fn successor_end(path: &Path, of: &FileHeader) -> Option<u64> {
    let next = path_of(path.parent()?, of.sequence.checked_add(1)?);
    let (header, _) = header(&next).await.ok()?;
    (header.predecessor == of.sequence).then_some(header.predecessor_end)
}
