//! Segment files: `<base offset, 20 digits>.segment` holds committed batches one after the other, base offset and
//! leader epoch written in; `<base offset>.index` says where to begin looking.
//!
//! What of a file is valid stands in the ring's checkpoint ([`SegmentMeta`]). Bytes beyond that come from a flush whose
//! checkpoint was not reached; they are cut off before the file is written again, and never read.

use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_model::{Batch, BatchHeader, Offset, batch::HEADER_BYTES};
use tidemill_rt::fs::{self, File, OpenMode};

use crate::codec::{DecodeError, Reader};
use crate::tail::Held;

/// Bytes of a segment that one index entry stands for.
pub const INDEX_INTERVAL_BYTES: u64 = 64 * 1024;
/// Bytes read at once when looking through a segment.
pub const READ_CHUNK_BYTES: usize = 256 * 1024;
/// Bytes of a batch that are not as the producer sent them: base offset, length, leader epoch.
const FIRST_BYTES: usize = 16;
/// Bytes of an entry in an index file: offset, position, largest timestamp.
pub(crate) const ENTRY_BYTES: usize = 24;
/// Most bytes of a batch that is read from a segment: what a client may send in a request, and room for more.
const BATCH_BYTES_MAX: usize = 256 << 20;

/// Why a segment could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The disk refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file does not hold what was written.
    #[error(
        "{path} is damaged at byte {position}: {reason}; restore the file from a copy, or delete the topic"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong.
        reason: String,
    },
}

impl SegmentError {
    /// Whether the system is short of something, so that the same can work later with the same file.
    pub fn is_shortage(&self) -> bool {
        matches!(self, SegmentError::Io { error, .. } if fs::is_shortage(error))
    }

    /// Whether there is no room on the disk.
    pub fn is_full(&self) -> bool {
        matches!(self, SegmentError::Io { error, .. } if fs::is_full(error))
    }
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> SegmentError + '_ {
    move |error| SegmentError::Io {
        path: path.to_owned(),
        error,
    }
}

fn sync_error(path: &Path) -> impl FnOnce(std::io::Error) -> SegmentError + '_ {
    move |error| {
        let what = format!("cannot sync it: {error}; check the disk, then start again");
        io_error(path)(std::io::Error::new(error.kind(), what))
    }
}

pub(crate) fn damaged(path: &Path, position: u64, reason: impl Into<String>) -> SegmentError {
    SegmentError::Damaged {
        path: path.to_owned(),
        position,
        reason: reason.into(),
    }
}

/// A stretch of a segment of about [`INDEX_INTERVAL_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Base offset of its first batch.
    pub offset: Offset,
    /// Where that batch is.
    pub position: u64,
    /// Largest timestamp in it, in ms.
    pub max_timestamp: i64,
}

impl IndexEntry {
    fn encode(&self, out: &mut impl BufMut) {
        out.put_i64(self.offset);
        out.put_u64(self.position);
        out.put_i64(self.max_timestamp);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<IndexEntry, DecodeError> {
        Ok(IndexEntry {
            offset: r.i64()?,
            position: r.u64()?,
            max_timestamp: r.i64()?,
        })
    }
}

/// What of a segment is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Offset of its first record; its name.
    pub base_offset: Offset,
    /// Offset after its last record.
    pub next_offset: Offset,
    /// Bytes of the segment file.
    pub bytes: u64,
    /// Largest timestamp in it, in ms.
    pub max_timestamp: i64,
    /// What retention counts from, in ms; see [`Held::time_ms`].
    pub time_ms: i64,
    /// Entries in the index file, all finished.
    pub index_entries: u32,
    /// CRC-32C of those.
    pub index_crc: u32,
    /// The entry that is still growing.
    pub open: Option<IndexEntry>,
}

impl SegmentMeta {
    /// A segment without batches.
    pub fn new(base_offset: Offset) -> SegmentMeta {
        SegmentMeta {
            base_offset,
            next_offset: base_offset,
            bytes: 0,
            max_timestamp: i64::MIN,
            time_ms: i64::MIN,
            index_entries: 0,
            index_crc: 0,
            open: None,
        }
    }

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64(self.base_offset);
        out.put_i64(self.next_offset);
        out.put_u64(self.bytes);
        out.put_i64(self.max_timestamp);
        out.put_i64(self.time_ms);
        out.put_u32(self.index_entries);
        out.put_u32(self.index_crc);
        out.put_u8(u8::from(self.open.is_some()));
        if let Some(entry) = &self.open {
            entry.encode(out);
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(r: &mut Reader<'_>) -> Result<SegmentMeta, DecodeError> {
        let meta = SegmentMeta {
            base_offset: r.i64()?,
            next_offset: r.i64()?,
            bytes: r.u64()?,
            max_timestamp: r.i64()?,
            time_ms: r.i64()?,
            index_entries: r.u32()?,
            index_crc: r.u32()?,
            open: match r.u8()? {
                0 => None,
                _ => Some(IndexEntry::decode(r)?),
            },
        };
        match meta.is_possible() {
            true => Ok(meta),
            false => Err(DecodeError("no segment can be as it says")),
        }
    }

    /// Whether offsets, bytes and index entries fit each other.
    fn is_possible(&self) -> bool {
        let offsets = 0 <= self.base_offset
            && self.base_offset <= self.next_offset
            && self.next_offset < Offset::MAX;
        let finished = u64::from(self.index_entries) * INDEX_INTERVAL_BYTES;
        let fits = |open: IndexEntry| {
            (finished..self.bytes).contains(&open.position)
                && (self.base_offset..self.next_offset).contains(&open.offset)
        };
        offsets
            && finished <= self.bytes
            && self.bytes <= i64::MAX as u64
            && self.open.is_none_or(fits)
    }

    /// Where the segment is.
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}.segment", self.base_offset))
    }

    /// Where its index is.
    pub fn index_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}.index", self.base_offset))
    }

    /// Counts a batch in; gives back the index entry it finished.
    fn add(&mut self, header: &BatchHeader, len: u64) -> Option<IndexEntry> {
        let finished = self
            .open
            .take_if(|e| self.bytes - e.position >= INDEX_INTERVAL_BYTES);
        let entry = self.open.get_or_insert(IndexEntry {
            offset: header.base_offset,
            position: self.bytes,
            max_timestamp: i64::MIN,
        });
        entry.max_timestamp = entry.max_timestamp.max(header.max_timestamp);
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.bytes += len;
        self.next_offset = header.next_offset();
        finished
    }
}

/// Appends batches to one segment. Not thread- or task-shared: the flusher alone writes.
#[derive(Debug)]
pub struct SegmentWriter {
    dir: PathBuf,
    file: File,
    index: File,
    meta: SegmentMeta,
}

impl SegmentWriter {
    /// Opens the segment for writing behind its valid end; what lies beyond is cut off. An index that is too short is
    /// written anew from the segment.
    ///
    /// # Errors
    /// [`SegmentError`]; a segment shorter than its valid length is damaged.
    pub async fn open(dir: &Path, meta: SegmentMeta) -> Result<SegmentWriter, SegmentError> {
        let file = open_cut(&meta.path(dir), meta.bytes).await?;
        let index = open_index(dir, &meta).await?;
        Ok(SegmentWriter {
            dir: dir.to_owned(),
            file,
            index,
            meta,
        })
    }

    /// Appends `batches`. Nothing is durable before [`SegmentWriter::sync`].
    ///
    /// # Errors
    /// [`SegmentError::Io`]; the writer is then given up, and the same batches are written again later.
    pub async fn append(&mut self, batches: &[Held]) -> Result<(), SegmentError> {
        let mut entries = BytesMut::new();
        let position = self.meta.bytes;
        let path = self.meta.path(&self.dir);
        let mut firsts = BytesMut::with_capacity(FIRST_BYTES * batches.len());
        for held in batches {
            let batch = &held.batch;
            self.meta.time_ms = self.meta.time_ms.max(held.time_ms);
            if let Some(entry) = self.meta.add(&batch.header, batch.len() as u64) {
                entry.encode(&mut entries);
            }
            firsts.put_slice(&batch.first_bytes());
        }
        let mut firsts = firsts.freeze();
        let parts = batches
            .iter()
            .flat_map(|held| [firsts.split_to(FIRST_BYTES), held.batch.rest()]);
        let written = self.file.write_all_at(parts.collect(), position);
        written.await.map_err(io_error(&path))?;
        if !entries.is_empty() {
            let path = self.meta.index_path(&self.dir);
            let at = u64::from(self.meta.index_entries) * ENTRY_BYTES as u64;
            self.meta.index_entries += (entries.len() / ENTRY_BYTES) as u32;
            self.meta.index_crc = crc32c::crc32c_append(self.meta.index_crc, &entries);
            let written = self.index.write_all_at(vec![entries.freeze()], at);
            written.await.map_err(io_error(&path))?;
        }
        Ok(())
    }

    /// Opens the segment and appends `batches`: see [`SegmentWriter::open`] and [`SegmentWriter::append`].
    pub(crate) async fn write(
        dir: &Path,
        meta: SegmentMeta,
        batches: &[Held],
    ) -> Result<SegmentWriter, SegmentError> {
        let mut writer = SegmentWriter::open(dir, meta).await?;
        writer.append(batches).await?;
        Ok(writer)
    }

    /// What is valid now.
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// Makes segment and index durable.
    ///
    /// # Errors
    /// [`SegmentError::Io`], after which the process must end (rule S10).
    pub async fn sync(&self) -> Result<(), SegmentError> {
        self.file
            .sync_data()
            .await
            .map_err(sync_error(&self.meta.path(&self.dir)))?;
        self.index
            .sync_data()
            .await
            .map_err(sync_error(&self.meta.index_path(&self.dir)))
    }
}

/// Opens the index of a segment for writing behind its valid end.
async fn open_index(dir: &Path, meta: &SegmentMeta) -> Result<File, SegmentError> {
    let path = meta.index_path(dir);
    let valid = u64::from(meta.index_entries) * ENTRY_BYTES as u64;
    match open_cut(&path, valid).await {
        Err(SegmentError::Damaged { .. }) => {}
        opened => return opened,
    }
    tracing::warn!(path = %path.display(), "index is too short; writing it anew");
    let mut bytes = BytesMut::new();
    let entries = rebuild_index(dir, meta).await?;
    let finished = entries.iter().take(meta.index_entries as usize);
    finished.for_each(|entry| entry.encode(&mut bytes));
    if crc32c::crc32c(&bytes) != meta.index_crc {
        return Err(damaged(&path, 0, "it cannot be made from the segment"));
    }
    let file = File::open(&path, OpenMode::CreateOrOpen).await;
    let file = file.map_err(io_error(&path))?;
    let written = file.write_all_at(vec![bytes.freeze()], 0).await;
    written.map_err(io_error(&path))?;
    Ok(file)
}

async fn open_cut(path: &Path, valid: u64) -> Result<File, SegmentError> {
    // A file that was written and is gone is not made anew: empty, it would stand in the way of one that is restored.
    let mode = match valid {
        0 => OpenMode::CreateOrOpen,
        _ => OpenMode::ReadWrite,
    };
    let file = match File::open(path, mode).await {
        Err(e) if valid > 0 && e.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged(path, 0, "it is missing"));
        }
        opened => opened.map_err(io_error(path))?,
    };
    let len = file.len().await.map_err(io_error(path))?;
    if len < valid {
        return Err(damaged(
            path,
            len,
            format!("it ends here, {valid} bytes were written"),
        ));
    }
    if len > valid {
        file.set_len(valid).await.map_err(io_error(path))?;
    }
    Ok(file)
}

/// The index of a segment: its file's entries and the open one. A damaged index is made anew from the segment.
///
/// # Errors
/// [`SegmentError`] when the segment itself cannot be read.
pub async fn load_index(dir: &Path, meta: &SegmentMeta) -> Result<Vec<IndexEntry>, SegmentError> {
    let path = meta.index_path(dir);
    let want = meta.index_entries as usize * ENTRY_BYTES;
    let mut entries = Vec::new();
    if want > 0 {
        let bytes = read_index(&path, want).await.map_err(io_error(&path))?;
        if bytes.len() != want || crc32c::crc32c(&bytes) != meta.index_crc {
            tracing::warn!(path = %path.display(), "index is damaged; reading the segment instead");
            return rebuild_index(dir, meta).await;
        }
        entries.reserve_exact(meta.index_entries as usize + 1);
        let mut r = Reader::new(&bytes);
        while let Ok(entry) = IndexEntry::decode(&mut r) {
            entries.push(entry);
        }
    }
    entries.extend(meta.open);
    Ok(entries)
}

/// The first `want` bytes of an index file; nothing if it is shorter, so that there is no room made for what is not there.
async fn read_index(path: &Path, want: usize) -> std::io::Result<Vec<u8>> {
    if !fs::exists(path).await? {
        return Ok(Vec::new());
    }
    let file = File::open(path, OpenMode::Read).await?;
    match file.len().await? < want as u64 {
        true => Ok(Vec::new()),
        false => file.read_at(0, want).await,
    }
}

async fn rebuild_index(dir: &Path, meta: &SegmentMeta) -> Result<Vec<IndexEntry>, SegmentError> {
    let mut fresh = SegmentMeta::new(meta.base_offset);
    let mut entries = Vec::new();
    let mut scan = Scan::open(dir, meta, None, READ_CHUNK_BYTES).await?;
    while let Some(batch) = scan.next().await? {
        entries.extend(fresh.add(&batch.header, batch.len() as u64));
    }
    entries.extend(fresh.open);
    Ok(entries)
}

/// Reads the batches of a segment one after the other, and checks each: CRC, length, and that offsets are dense.
#[derive(Debug)]
pub struct Scan {
    file: File,
    path: PathBuf,
    position: u64,
    end: u64,
    expected: Offset,
    chunk_bytes: usize,
    buffer: Bytes,
}

impl Scan {
    /// Begins at `entry`, or at the segment's start, and reads `chunk_bytes` at once.
    ///
    /// # Errors
    /// [`SegmentError::Io`].
    pub async fn open(
        dir: &Path,
        meta: &SegmentMeta,
        entry: Option<IndexEntry>,
        chunk_bytes: usize,
    ) -> Result<Scan, SegmentError> {
        let path = meta.path(dir);
        let file = File::open(&path, OpenMode::Read)
            .await
            .map_err(io_error(&path))?;
        Ok(Scan {
            file,
            path,
            position: entry.map_or(0, |e| e.position),
            end: meta.bytes,
            expected: entry.map_or(meta.base_offset, |e| e.offset),
            chunk_bytes,
            buffer: Bytes::new(),
        })
    }

    /// The next batch; `None` at the segment's valid end.
    ///
    /// # Errors
    /// [`SegmentError`]; damage is never skipped.
    pub async fn next(&mut self) -> Result<Option<Batch>, SegmentError> {
        let Some((_, len)) = self.peek().await? else {
            return Ok(None);
        };
        self.fill(len).await?;
        let bytes = self.buffer.split_to(len);
        let header = match BatchHeader::validate(&bytes) {
            Ok(header) => header,
            Err(e) => return Err(damaged(&self.path, self.position, e.to_string())),
        };
        self.position += len as u64;
        self.expected = header.next_offset();
        Ok(Some(Batch { header, bytes }))
    }

    /// Passes over the batches that end at or below `offset`. Of these nothing but the header is looked at: what is wrong inside one of
    /// them is no reason not to read what follows it.
    ///
    /// # Errors
    /// [`SegmentError`], when it cannot be told where a batch ends.
    pub async fn skip_below(&mut self, offset: Offset) -> Result<(), SegmentError> {
        while let Some((header, len)) = self.peek().await?
            && header.next_offset() <= offset
        {
            self.pass(&header, len);
        }
        Ok(())
    }

    /// Passes over one batch as [`Scan::skip_below`] does; the offset after it, if the segment goes on there.
    ///
    /// # Errors
    /// As [`Scan::skip_below`], also when what follows does not begin where the batch says that it ends.
    pub(crate) async fn skip_one(&mut self) -> Result<Option<Offset>, SegmentError> {
        let Some((header, len)) = self.peek().await? else {
            return Ok(None);
        };
        self.pass(&header, len);
        Ok(self.peek().await?.map(|(next, _)| next.base_offset))
    }

    fn pass(&mut self, header: &BatchHeader, len: usize) {
        self.buffer = self.buffer.split_off(len.min(self.buffer.len()));
        self.position += len as u64;
        self.expected = header.next_offset();
    }

    /// Header and length of the next batch, as far as they are possible there; `None` at the segment's valid end.
    async fn peek(&mut self) -> Result<Option<(BatchHeader, usize)>, SegmentError> {
        if self.position >= self.end {
            return Ok(None);
        }
        self.fill(HEADER_BYTES).await?;
        let bad = |reason: String| damaged(&self.path, self.position, reason);
        let header = BatchHeader::parse(&self.buffer).map_err(|e| bad(e.to_string()))?;
        let len = header.total_bytes();
        let possible = (HEADER_BYTES..=BATCH_BYTES_MAX).contains(&len);
        if !possible || self.position + len as u64 > self.end {
            return Err(bad(format!("it claims a batch of {len} bytes")));
        }
        if header.base_offset != self.expected {
            let reason = format!(
                "offset {} where {} belongs",
                header.base_offset, self.expected
            );
            return Err(bad(reason));
        }
        Ok(Some((header, len)))
    }

    /// Where the next batch begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    async fn fill(&mut self, need: usize) -> Result<(), SegmentError> {
        if self.buffer.len() >= need {
            return Ok(());
        }
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let len = need.max(self.chunk_bytes).min(left);
        let read = self.file.read_at(self.position, len).await;
        self.buffer = Bytes::from(read.map_err(io_error(&self.path))?);
        if self.buffer.len() < need.min(left) || self.buffer.len() < need {
            return Err(damaged(&self.path, self.position, "it ends within a batch"));
        }
        Ok(())
    }
}
