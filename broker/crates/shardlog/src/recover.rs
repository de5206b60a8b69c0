//! Reading the log at start: what is there, where it ends, and whether what is missing at the end may be missing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidemill_model::RingId;
use tidemill_rt::buf::BLOCK_BYTES;
use tidemill_rt::fs::{self, DirectFile, Durable, OpenMode};

use crate::catalog::{Catalog, Mark};
use crate::error::LogError;
use crate::files::{path_of, sequence_of};
use crate::format::salted_crc;
use crate::format::{
    FILE_HEADER_BYTES, FRAME_DATA_MAX, FileHeader, Frame, GROUP_HEADER_BYTES, GroupHeader,
};
use crate::track::Replay;

/// Bytes read at once. What a start has taken stays resident while the broker is idle, so it is little: with 1 MiB four MB of 25 were
/// buffers of the start.
const READ_BYTES: usize = 128 << 10;
/// Data from so many bytes on keeps its group's memory where it is most of it.
const KEPT_WITH_GROUP_BYTES: usize = 1 << 20;
/// Most bytes of a group: one frame of the largest size, or several of [`crate::DEFAULT_GROUP_BYTES_MAX`] together. Memory is
/// taken for no more.
const GROUP_BYTES_MAX: u64 = FRAME_DATA_MAX as u64 + (16 << 20);
const BLOCK: u64 = BLOCK_BYTES as u64;

/// What recovery found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) rings: BTreeMap<RingId, Replay>,
    pub(crate) catalog: Catalog,
    /// The newest file and where its valid part ends; nothing when there is no file.
    pub(crate) end: Option<(u64, u64)>,
    /// What was begun behind the valid end.
    pub(crate) torn: Option<Torn>,
    /// Number of the next group.
    pub(crate) next_group: u64,
    /// Groups read.
    pub(crate) groups: u64,
    /// The entries asked for, when it is not all: per ring, the first and the last index.
    wanted: Option<BTreeMap<RingId, (u64, u64)>>,
}

/// Something that was begun behind the valid end of the newest file and is not whole; nothing says that it was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Torn {
    /// The file.
    pub(crate) sequence: u64,
    /// Where it begins, in bytes.
    pub(crate) position: u64,
    /// Where what can be told of it ends, in bytes.
    pub(crate) end: u64,
    /// What is wrong with it.
    pub(crate) what: &'static str,
}

impl Recovered {
    fn wants(&self, ring: RingId, index: u64) -> bool {
        let Some(wanted) = &self.wanted else {
            return true;
        };
        wanted
            .get(&ring)
            .is_some_and(|(first, last)| (*first..=*last).contains(&index))
    }
}

/// The entries of file `sequence` that are `wanted` (per ring, the first and the last index), as far as they are valid at the end of
/// that file. Its successor exists and says where it ends.
///
/// # Errors
/// [`LogError::Corrupt`], [`LogError::Io`].
pub(crate) async fn read_entries(
    dir: &Path,
    sequence: u64,
    wanted: BTreeMap<RingId, (u64, u64)>,
) -> Result<BTreeMap<RingId, BTreeMap<u64, Bytes>>, LogError> {
    let header = read_header(dir, sequence, sequence).await?;
    let next = read_header(dir, sequence + 1, sequence).await?;
    let mut out = Recovered {
        wanted: Some(wanted),
        ..Recovered::default()
    };
    read_file(dir, header, Some(next.predecessor_end), &mut out).await?;
    let rings = out.rings.into_iter();
    Ok(rings.map(|(ring, r)| (ring, r.ring.entries)).collect())
}

/// Reads every file of `dir`. Changes nothing, except that the newest file is synced first: what a killed process
/// had written but not synced is relied on from now on.
///
/// # Errors
/// [`LogError::Corrupt`], [`LogError::Missing`], [`LogError::Io`].
pub(crate) async fn recover(dir: &Path) -> Result<Recovered, LogError> {
    let names = fs::list_dir(dir).await.map_err(LogError::io("list", dir))?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|n| sequence_of(n)).collect();
    sequences.sort_unstable();
    let mut out = Recovered::default();
    let Some((&first, &last)) = sequences.first().zip(sequences.last()) else {
        return Ok(out);
    };
    if let Some(gap) = (first..=last).find(|s| sequences.binary_search(s).is_err()) {
        return Err(LogError::Missing {
            file: path_of(dir, gap),
        });
    }
    sync_newest(&path_of(dir, last)).await?;
    let mut headers = Vec::new();
    for sequence in first..=last {
        headers.push(read_header(dir, sequence, first).await?);
    }
    for (i, header) in headers.iter().enumerate() {
        let end = headers.get(i + 1).map(|next| next.predecessor_end);
        read_file(dir, *header, end, &mut out).await?;
    }
    for (ring, replay) in &mut out.rings {
        replay.settle();
        if let Some(hole) = replay.hole() {
            return Err(LogError::Corrupt {
                file: path_of(dir, first),
                position: FILE_HEADER_BYTES,
                what: format!("entry {hole} of ring {ring} is missing"),
            });
        }
    }
    Ok(out)
}

async fn sync_newest(path: &Path) -> Result<(), LogError> {
    let file = DirectFile::open(path, OpenMode::ReadWrite, Durable::WhenSynced)
        .await
        .map_err(LogError::io("open", path))?;
    file.sync_data().await.map_err(LogError::io("sync", path))?;
    file.close().await.map_err(LogError::io("close", path))
}

async fn read_header(dir: &Path, sequence: u64, first: u64) -> Result<FileHeader, LogError> {
    let mut reader = Reader::open(path_of(dir, sequence)).await?;
    let block = reader.get(0, BLOCK_BYTES).await?;
    let header = FileHeader::decode(&block).map_err(|what| reader.corrupt(0, what))?;
    let linked = header.predecessor + 1 == sequence;
    if header.sequence != sequence || (sequence > first && !linked) {
        let what = "the file header names another place in the sequence".to_owned();
        return Err(reader.corrupt(0, what));
    }
    reader.close().await?;
    Ok(header)
}

/// Reads the groups of one file, up to `end` when its successor says where that is.
async fn read_file(
    dir: &Path,
    header: FileHeader,
    end: Option<u64>,
    out: &mut Recovered,
) -> Result<(), LogError> {
    let mut reader = Reader::open(path_of(dir, header.sequence)).await?;
    out.catalog.add_file(header.sequence, reader.bytes);
    if let Some(end) = end
        && (end < FILE_HEADER_BYTES || end > reader.bytes || !end.is_multiple_of(BLOCK))
    {
        let what = format!("the next file says that this one ends at {end}, it cannot");
        return Err(reader.corrupt(reader.bytes, what));
    }
    let mut at = FILE_HEADER_BYTES;
    while end.is_none_or(|end| at < end) && at < reader.bytes {
        let limit = end.unwrap_or(reader.bytes);
        match read_group(&mut reader, &header, at, limit).await? {
            Ok((group, payload)) => {
                if out.groups > 0 && group.number != out.next_group {
                    let what = format!(
                        "group {} stands where {} must",
                        group.number, out.next_group
                    );
                    return Err(reader.corrupt(at, what));
                }
                replay_group(&reader, at, &header, (&group, &payload), out)?;
                out.groups += 1;
                out.next_group = group.number + 1;
                at += GroupHeader::total_len(group.payload_len).unwrap_or(0);
            }
            Err(what) if end.is_some() => return Err(reader.corrupt(at, what.into())),
            Err(what) => {
                out.torn = look_at_torn(&mut reader, &header, at, what).await?;
                break;
            }
        }
    }
    out.end = Some((header.sequence, at));
    reader.close().await
}

/// The group at `at`, or what is wrong with it.
pub(crate) async fn read_group(
    reader: &mut Reader,
    file: &FileHeader,
    at: u64,
    limit: u64,
) -> Result<Result<(GroupHeader, Bytes), &'static str>, LogError> {
    let block = reader.get(at, BLOCK_BYTES).await?;
    let Some(header) = GroupHeader::decode(&block, file.generation) else {
        return Ok(Err("no sound group header"));
    };
    let total = GroupHeader::total_len(header.payload_len);
    let Some(total) = total.filter(|t| *t <= limit.saturating_sub(at)) else {
        return Ok(Err("the group is longer than the file"));
    };
    if total > GROUP_BYTES_MAX {
        return Ok(Err("the group is longer than a group can be"));
    }
    let whole = reader.get(at, total as usize).await?;
    let end = GROUP_HEADER_BYTES + header.payload_len as usize;
    if whole.len() < end {
        return Ok(Err("the file ends inside the group"));
    }
    let payload = whole.slice(GROUP_HEADER_BYTES..end);
    if salted_crc(file.generation, &payload) != header.payload_crc {
        return Ok(Err("the group fails its checksum"));
    }
    if whole[end..].iter().any(|b| *b != 0) {
        return Ok(Err("the padding of the group is damaged"));
    }
    Ok(Ok((header, payload)))
}

fn replay_group(
    reader: &Reader,
    at: u64,
    file: &FileHeader,
    group: (&GroupHeader, &Bytes),
    out: &mut Recovered,
) -> Result<(), LogError> {
    let (header, payload) = group;
    let mut from = 0;
    for _ in 0..header.frames {
        let (ring, frame, next) =
            Frame::decode(payload, from).map_err(|what| reader.corrupt(at, what.into()))?;
        from = next;
        out.catalog.note(file.sequence, ring, Mark::of(&frame));
        if let Frame::Entry { index, .. } | Frame::Carried { index, .. } = &frame
            && !out.wants(ring, *index)
        {
            continue;
        }
        let replay = out.rings.entry(ring).or_default();
        match frame {
            Frame::Entry { index, data } => {
                let data = detach(&data[0], payload.len());
                let taken = match out.wanted {
                    None => replay.entry(index, data),
                    // Entries between may not have been asked for: their order says nothing.
                    Some(_) => {
                        replay.ring.entries.insert(index, data);
                        Ok(())
                    }
                };
                taken.map_err(|what| reader.corrupt(at, format!("ring {ring}: {what}")))?;
            }
            Frame::Carried { index, data } => replay.carried(index, detach(&data, payload.len())),
            Frame::Truncate { after } => replay.truncate(after),
            Frame::Vote { data } => replay.ring.vote = Some(detach(&data, payload.len())),
            Frame::Purge { upto, data } => replay.purge(upto, detach(&data, payload.len())),
        }
    }
    if from != payload.len() {
        return Err(reader.corrupt(at, "bytes follow the last frame of the group".into()));
    }
    Ok(())
}

/// `data`, copied out of its group unless it is most of it (rule S13).
fn detach(data: &Bytes, group_bytes: usize) -> Bytes {
    if data.len() >= KEPT_WITH_GROUP_BYTES && data.len() > group_bytes / 2 {
        data.clone()
    } else {
        Bytes::copy_from_slice(data)
    }
}

/// The group at `at` of the newest file is unreadable: fine if nothing behind it says that it was durable (rule S2). Where the last
/// group behind it ends, if there is one.
pub(crate) async fn check_torn(
    reader: &mut Reader,
    file: &FileHeader,
    at: u64,
    what: &str,
) -> Result<Option<u64>, LogError> {
    let mut end = None;
    let mut block_at = at + BLOCK;
    while block_at < reader.bytes {
        let block = reader.get(block_at, BLOCK_BYTES).await?;
        if block.iter().all(|b| *b == 0) {
            // Most of the file was never written: the file system knows, and it need not be read.
            block_at = reader.next_data(block_at + BLOCK).await?;
            continue;
        }
        if let Some(later) = GroupHeader::decode(&block, file.generation) {
            if later.durable > (file.sequence, at) {
                let what = format!("{what}, and the group at {block_at} says that it was durable");
                return Err(reader.corrupt(at, what));
            }
            end = Some(group_end(&later, block_at, reader.bytes));
        }
        block_at += BLOCK;
    }
    Ok(end)
}

/// Where a group that begins at `at` ends, in a file of `bytes` bytes.
fn group_end(group: &GroupHeader, at: u64, bytes: u64) -> u64 {
    let total = GroupHeader::total_len(group.payload_len);
    total
        .and_then(|t| at.checked_add(t))
        .map_or(bytes, |end| end.min(bytes))
}

/// What was begun at `at` of the newest file. Without a sound header there, and without a group behind it, there is nothing to tell it
/// by from what the file held before it was taken up again.
async fn look_at_torn(
    reader: &mut Reader,
    file: &FileHeader,
    at: u64,
    what: &'static str,
) -> Result<Option<Torn>, LogError> {
    let behind = check_torn(reader, file, at, what).await?;
    let block = reader.get(at, BLOCK_BYTES).await?;
    let group = GroupHeader::decode(&block, file.generation);
    let own = group.map(|group| group_end(&group, at, reader.bytes));
    Ok(behind.max(own).map(|end| Torn {
        sequence: file.sequence,
        position: at,
        end,
        what,
    }))
}

/// A file read front to back in big pieces.
pub(crate) struct Reader {
    file: DirectFile,
    path: PathBuf,
    pub(crate) bytes: u64,
    piece: Bytes,
    piece_at: u64,
}

impl Reader {
    pub(crate) async fn open(path: PathBuf) -> Result<Reader, LogError> {
        let file = DirectFile::open(&path, OpenMode::Read, Durable::WhenSynced)
            .await
            .map_err(LogError::io("open", &path))?;
        let bytes = file.len().await.map_err(LogError::io("measure", &path))?;
        Ok(Reader {
            file,
            path,
            bytes,
            piece: Bytes::new(),
            piece_at: 0,
        })
    }

    /// `len` bytes at `at`, fewer at the end of the file.
    pub(crate) async fn get(&mut self, at: u64, len: usize) -> Result<Bytes, LogError> {
        let within =
            at >= self.piece_at && at + len as u64 <= self.piece_at + self.piece.len() as u64;
        if !within {
            let left = self.bytes.next_multiple_of(BLOCK).saturating_sub(at);
            let want = (READ_BYTES as u64).max(len as u64).min(left) as usize;
            let piece = self.file.read_at(at, want).await;
            self.piece = piece.map_err(LogError::io("read", &self.path))?.into();
            self.piece_at = at;
            // Anything short of the measured length would pass for a torn tail.
            let end = at + self.piece.len() as u64;
            if end < (at + want as u64).min(self.bytes) {
                let short = io::ErrorKind::UnexpectedEof.into();
                return Err(LogError::io("read all of", &self.path)(short));
            }
        }
        let from = (at - self.piece_at) as usize;
        let end = (from + len).min(self.piece.len());
        Ok(self.piece.slice(from.min(end)..end))
    }

    /// The first block at or after `at` that may not be zeros; the end of the file when there is none.
    async fn next_data(&self, at: u64) -> Result<u64, LogError> {
        let found = self.file.next_data(at).await;
        let found = found.map_err(LogError::io("search", &self.path))?;
        Ok(found.map_or(self.bytes, |data| data / BLOCK * BLOCK))
    }

    pub(crate) fn corrupt(&self, position: u64, what: String) -> LogError {
        LogError::Corrupt {
            file: self.path.clone(),
            position,
            what,
        }
    }

    pub(crate) async fn close(self) -> Result<(), LogError> {
        self.file
            .close()
            .await
            .map_err(LogError::io("close", &self.path))
    }
}
