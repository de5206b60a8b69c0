//! The batches of one partition: recent ones in memory, older ones in segments, and reads over both.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tidemill_model::{Batch, Offset};
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::fs;

use crate::retention::Span;
use crate::segment::{
    IndexEntry, READ_CHUNK_BYTES, Scan, SegmentError, SegmentMeta, SegmentWriter, damaged,
    io_error, load_index,
};
use crate::tail::{Held, ShardMemory, Tail};

/// Segments of a partition whose indexes stay in memory: a reader goes from one to the next, and few readers are at
/// different places.
const INDEXES_KEPT: usize = 4;

/// How much of a partition a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Everything committed in its ring.
    ReadUncommitted,
    /// What no open transaction can take back.
    ReadCommitted,
}

/// The offsets between which reads move, as the state machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// First offset that can be read.
    pub log_start_offset: Offset,
    /// Offset after the last committed record.
    pub high_watermark: Offset,
    /// Offset below which no transaction is open.
    pub last_stable_offset: Offset,
}

/// A transaction that was aborted, for readers that skip its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first_offset: Offset,
}

/// What a read found.
#[derive(Debug, Clone)]
pub struct Read {
    /// Whole batches, the first of which may begin before the offset asked for.
    pub batches: Vec<Batch>,
    /// Offset after the last committed record.
    pub high_watermark: Offset,
    /// Offset below which no transaction is open.
    pub last_stable_offset: Offset,
    /// First offset that can be read.
    pub log_start_offset: Offset,
    /// Aborted transactions in the range; empty as long as there are no transactions.
    pub aborted: Vec<AbortedTransaction>,
}

/// Why a read fails.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The partition is not open here.
    #[error("the partition is not open here")]
    UnknownPartition,
    /// The offset is below the first or above the last that can be read.
    #[error("offset {from} is outside {log_start_offset} to {high_watermark}")]
    OffsetOutOfRange {
        /// The offset asked for.
        from: Offset,
        /// First offset that can be read.
        log_start_offset: Offset,
        /// Offset after the last committed record.
        high_watermark: Offset,
    },
    /// A segment could not be read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) meta: SegmentMeta,
    /// The finished and the growing entry as of `meta`, once somebody looked; forgotten when the segment grows.
    index: Option<Rc<Vec<IndexEntry>>>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    tail: Tail,
    segments: RefCell<Vec<Segment>>,
    /// Offset below which segments were given up; there is none below it, whole or in part.
    floor: Cell<Offset>,
    /// Base offsets of segments that were given up and whose files may still be there.
    leaving: RefCell<Vec<Offset>>,
    /// Bytes of its segments and of what is in none yet.
    bytes: Cell<u64>,
    changed: Notify,
    /// Nothing in the folder is ours yet: what is there was left behind and goes before the first write.
    unprepared: Cell<bool>,
    /// Whether its files cannot be written for a reason of their own.
    set_aside: Cell<bool>,
}

/// What a checkpoint says of a partition's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredLog {
    /// Offset below which segments were given up.
    pub floor: Offset,
    /// Base offsets of segments that were given up and whose files may still be there.
    pub leaving: Vec<Offset>,
    /// What of its segments is valid.
    pub segments: Vec<SegmentMeta>,
}

/// The batches of one partition. A cheap handle on its shard.
#[derive(Debug, Clone)]
pub struct PartitionLog(Rc<Inner>);

/// Files that a flush wrote and that are not durable yet.
#[derive(Debug, Default)]
pub struct Unsynced {
    writers: Vec<SegmentWriter>,
    dirs: Vec<PathBuf>,
}

impl Unsynced {
    /// Makes the files and their names durable.
    ///
    /// # Errors
    /// [`SegmentError::Io`], after which the process must end (rule S10).
    pub async fn sync(self) -> Result<(), SegmentError> {
        for writer in &self.writers {
            writer.sync().await?;
        }
        for dir in &self.dirs {
            fs::sync_dir(dir).await.map_err(io_error(dir))?;
        }
        Ok(())
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.writers.is_empty() && self.dirs.is_empty()
    }

    /// Segments written.
    pub fn len(&self) -> usize {
        self.writers.len()
    }
}

impl PartitionLog {
    /// The log of a partition whose folder is `dir`, with what a checkpoint says of its files. Touches none.
    pub fn new(dir: PathBuf, stored: StoredLog, memory: ShardMemory) -> PartitionLog {
        let unprepared = Cell::new(stored.segments.is_empty());
        let bytes = stored.segments.iter().map(|s| s.bytes).sum();
        let segments = stored
            .segments
            .into_iter()
            .map(|meta| Segment { meta, index: None });
        PartitionLog(Rc::new(Inner {
            dir,
            tail: Tail::new(memory),
            segments: RefCell::new(segments.collect()),
            floor: Cell::new(stored.floor),
            leaving: RefCell::new(stored.leaving),
            bytes: Cell::new(bytes),
            changed: Notify::new(),
            unprepared,
            set_aside: Cell::new(false),
        }))
    }

    /// Whether both are handles on the same log.
    pub fn is(&self, other: &PartitionLog) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// The partition's folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Adds a committed batch.
    pub fn push(&self, held: Held) {
        self.0
            .bytes
            .set(self.0.bytes.get() + held.batch.len() as u64);
        self.0.tail.push(held);
    }

    /// Its batches in memory.
    pub fn tail(&self) -> &Tail {
        &self.0.tail
    }

    /// Notified when high watermark or log start moves, or when the partition goes away.
    pub fn changed(&self) -> &Notify {
        &self.0.changed
    }

    /// Offset after the last record written to a segment (durable or not).
    pub fn segments_end(&self) -> Offset {
        let segments = self.0.segments.borrow();
        let written = segments.last().map_or(0, |s| s.meta.next_offset);
        written.max(self.0.floor.get())
    }

    /// A batch in a segment has another leader epoch than it was given.
    pub fn wrong_epoch(&self, offset: Offset, epoch: i32) -> SegmentError {
        let segments = self.0.segments.borrow();
        let at = segments.partition_point(|s| s.meta.next_offset <= offset);
        let path = segments.get(at).map(|s| s.meta.path(&self.0.dir));
        let reason = format!(
            "leader epoch {epoch} of the batch at offset {offset} is not the one it was given"
        );
        damaged(&path.unwrap_or_else(|| self.0.dir.clone()), 0, reason)
    }

    /// Whether its files cannot be written for a reason of their own, so that it takes no further batches until they can.
    pub fn is_set_aside(&self) -> bool {
        self.0.set_aside.get()
    }

    /// Says whether it is set aside; gives back whether it was. The ring's flusher finds that out.
    pub fn set_aside(&self, aside: bool) -> bool {
        self.0.set_aside.replace(aside)
    }

    /// Bytes of its segments and of what is in none yet.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.get()
    }

    /// Offset below which segments were given up.
    pub fn floor(&self) -> Offset {
        self.0.floor.get()
    }

    /// Base offsets of segments that were given up and whose files may still be there.
    pub fn leaving(&self) -> Vec<Offset> {
        self.0.leaving.borrow().clone()
    }

    /// Says that the files of these segments are gone, durably.
    pub fn left(&self, gone: &[Offset]) {
        let mut leaving = self.0.leaving.borrow_mut();
        leaving.retain(|base| !gone.contains(base));
        if leaving.is_empty() {
            leaving.shrink_to_fit();
        }
    }

    /// Its segments in order: those in files, then those that are still in memory, of which the first may be the rest of
    /// the last one in a file.
    pub fn spans(&self) -> Vec<Span> {
        let segments = self.0.segments.borrow();
        let mut spans: Vec<Span> = segments.iter().map(|s| Span::of(&s.meta)).collect();
        drop(segments);
        self.0.tail.each_unflushed(self.segments_end(), |held| {
            let header = &held.batch.header;
            match spans.last_mut() {
                Some(span) if !held.starts_segment => span.add(held),
                _ => {
                    spans.push(Span::new(header.base_offset));
                    spans.last_mut().expect("it was pushed").add(held);
                }
            }
        });
        spans
    }

    /// Gives up the segments that lie below `below` as a whole, be they in files or still in memory. Their files stay until
    /// somebody removes them: after a checkpoint that no longer names them. Only the ring's flusher calls this.
    pub fn trim(&self, below: Offset) {
        if below <= self.floor() {
            return;
        }
        let spans = self.spans();
        let gone = spans.iter().take_while(|s| s.next_offset <= below).count();
        let Some(last) = gone.checked_sub(1).and_then(|at| spans.get(at)) else {
            return;
        };
        let bytes: u64 = spans[..gone].iter().map(|s| s.bytes).sum();
        self.0.bytes.set(self.0.bytes.get() - bytes);
        let bases = spans[..gone].iter().map(|s| s.base_offset);
        self.0.leaving.borrow_mut().extend(bases);
        let mut segments = self.0.segments.borrow_mut();
        let in_files = segments.partition_point(|s| s.meta.next_offset <= last.next_offset);
        segments.drain(..in_files);
        self.0.floor.set(last.next_offset);
    }

    /// What of its segments is valid.
    pub fn segments(&self) -> Vec<SegmentMeta> {
        self.0
            .segments
            .borrow()
            .iter()
            .map(|s| s.meta.clone())
            .collect()
    }

    /// Bytes that are in no segment yet.
    pub fn unflushed_bytes(&self) -> u64 {
        self.0.tail.unflushed_bytes(self.segments_end())
    }

    /// Bytes of its segments, and of what is in none yet.
    pub fn stored_bytes(&self) -> u64 {
        let segments: u64 = self.0.segments.borrow().iter().map(|s| s.meta.bytes).sum();
        segments + self.unflushed_bytes()
    }

    /// Writes the batches below `upto` that are in no segment yet. Only one call at a time: the ring's flusher.
    /// Readers see them there at once; they are durable after [`Unsynced::sync`] of `unsynced`, to which they are added.
    ///
    /// A segment that cannot be written on, because it is damaged or the disk refuses it, is left as it is, and another one is begun
    /// behind it: what is wrong with it is given back.
    ///
    /// # Errors
    /// [`SegmentError`]; what failed is written again by the next call, what succeeded before is in `unsynced`.
    pub async fn flush(
        &self,
        upto: Offset,
        unsynced: &mut Unsynced,
    ) -> Result<Option<SegmentError>, SegmentError> {
        let batches = self.0.tail.unflushed(self.segments_end(), upto);
        if batches.is_empty() {
            return Ok(None);
        }
        self.prepare().await?;
        let mut left = None;
        let mut rest = &batches[..];
        while let Some(first) = rest.first() {
            let run = 1 + rest[1..].iter().take_while(|h| !h.starts_segment).count();
            let (now, later) = rest.split_at(run);
            rest = later;
            let last = self.0.segments.borrow().last().map(|s| s.meta.clone());
            if let Some(meta) = last.filter(|_| !first.starts_segment) {
                match SegmentWriter::write(&self.0.dir, meta, now).await {
                    Ok(writer) => {
                        self.grown(writer.meta().clone(), false);
                        unsynced.writers.push(writer);
                        continue;
                    }
                    Err(e) if e.is_shortage() => return Err(e),
                    Err(e) => left = Some(e),
                }
            }
            let writer = self.begin_segment(now).await?;
            self.grown(writer.meta().clone(), true);
            unsynced.writers.push(writer);
            self.named(unsynced);
        }
        Ok(left)
    }

    /// Writes a new segment of `batches`, which are not none.
    async fn begin_segment(&self, batches: &[Held]) -> Result<SegmentWriter, SegmentError> {
        let meta = SegmentMeta::new(batches[0].batch.header.base_offset);
        let paths = [meta.path(&self.0.dir), meta.index_path(&self.0.dir)];
        let written = SegmentWriter::write(&self.0.dir, meta, batches).await;
        if written.is_err() {
            for path in &paths {
                // Half written, they would take room that others need. Gone or not, the error is the same.
                let _ = fs::remove_file(path).await;
            }
        }
        written
    }

    /// Makes the folder before the first write, without what was left behind in it.
    async fn prepare(&self) -> Result<(), SegmentError> {
        let dir = &self.0.dir;
        if !self.0.unprepared.get() {
            return Ok(());
        }
        if fs::exists(dir).await.map_err(io_error(dir))? {
            fs::remove_dir_all(dir).await.map_err(io_error(dir))?;
        }
        fs::create_dir_all(dir).await.map_err(io_error(dir))
    }

    /// Says which names a new segment has made that are to become durable with it.
    fn named(&self, unsynced: &mut Unsynced) {
        let dir = &self.0.dir;
        if self.0.unprepared.replace(false) {
            unsynced.dirs.extend(dir.parent().map(Path::to_owned));
        }
        if !unsynced.dirs.contains(dir) {
            unsynced.dirs.push(dir.clone());
        }
    }

    fn grown(&self, meta: SegmentMeta, fresh: bool) {
        let mut segments = self.0.segments.borrow_mut();
        let segment = Segment { meta, index: None };
        match segments.last_mut() {
            Some(last) if !fresh => *last = segment,
            _ => segments.push(segment),
        }
    }

    /// Removes the partition's folder, if it exists.
    ///
    /// # Errors
    /// [`SegmentError::Io`].
    pub async fn remove(dir: &Path) -> Result<(), SegmentError> {
        if fs::exists(dir).await.map_err(io_error(dir))? {
            fs::remove_dir_all(dir).await.map_err(io_error(dir))?;
        }
        Ok(())
    }

    /// Reads whole batches from the one that holds `from` on: up to `max_bytes` bytes, at least one batch if there is
    /// any, never beyond what `isolation` allows. Memory first, else a segment; one call reads from one of them only.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        bounds: Bounds,
        from: Offset,
        max_bytes: usize,
        isolation: Isolation,
    ) -> Result<Read, ReadError> {
        if from < bounds.log_start_offset || from > bounds.high_watermark {
            return Err(ReadError::OffsetOutOfRange {
                from,
                log_start_offset: bounds.log_start_offset,
                high_watermark: bounds.high_watermark,
            });
        }
        let limit = match isolation {
            Isolation::ReadUncommitted => bounds.high_watermark,
            Isolation::ReadCommitted => bounds.last_stable_offset,
        };
        let batches = match from < limit {
            true => self.read_below(from, limit, max_bytes).await?,
            false => Vec::new(),
        };
        Ok(Read {
            batches,
            high_watermark: bounds.high_watermark,
            last_stable_offset: bounds.last_stable_offset,
            log_start_offset: bounds.log_start_offset,
            aborted: Vec::new(),
        })
    }

    async fn read_below(
        &self,
        from: Offset,
        limit: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Batch>, ReadError> {
        if let Some(batches) = self.0.tail.read(from, limit, max_bytes) {
            return Ok(batches);
        }
        let Some((meta, entry)) = self.locate(from).await? else {
            return Ok(Vec::new());
        };
        let chunk = max_bytes.clamp(READ_CHUNK_BYTES, 4 * READ_CHUNK_BYTES);
        let _turn = self.0.tail.memory().read_turn().await;
        let mut scan = Scan::open(&self.0.dir, &meta, Some(entry), chunk).await?;
        scan.skip_below(from).await?;
        let (mut out, mut bytes) = (Vec::new(), 0);
        loop {
            let batch = match scan.next().await {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                // What is whole before it is read; who reads on meets the error.
                Err(_) if !out.is_empty() => break,
                Err(e) => return Err(e.into()),
            };
            bytes += batch.len();
            let below = batch.header.next_offset() <= limit;
            if !below || (bytes > max_bytes && !out.is_empty()) {
                break;
            }
            out.push(batch);
        }
        Ok(out)
    }

    /// Where reading may go on behind a batch at `from` that cannot be read: behind that batch if its header says where that is, else
    /// at the next place that the index knows, else behind the segment.
    pub async fn behind_damage(&self, from: Offset) -> Offset {
        let located = self.locate(from).await;
        if let Ok(Some((meta, entry))) = &located {
            let next = async {
                let _turn = self.0.tail.memory().read_turn().await;
                let mut scan =
                    Scan::open(&self.0.dir, meta, Some(*entry), READ_CHUNK_BYTES).await?;
                scan.skip_below(from).await?;
                scan.skip_one().await
            };
            if let Ok(Some(next)) = next.await {
                return next.max(from + 1);
            }
            if let Ok(index) = self.index(meta).await
                && let Some(entry) = index.iter().find(|e| e.offset > from)
            {
                return entry.offset;
            }
        }
        let segments = self.0.segments.borrow();
        let at = segments.partition_point(|s| s.meta.next_offset <= from);
        let end = segments.get(at).map(|s| s.meta.next_offset);
        end.unwrap_or(from + 1)
    }

    /// The segment that holds `from`, and the last index entry at or before it.
    async fn locate(
        &self,
        from: Offset,
    ) -> Result<Option<(SegmentMeta, IndexEntry)>, SegmentError> {
        let meta = {
            let segments = self.0.segments.borrow();
            let at = segments.partition_point(|s| s.meta.next_offset <= from);
            match segments.get(at) {
                Some(segment) if segment.meta.base_offset <= from => segment.meta.clone(),
                // It went while somebody was on the way there.
                _ => return Ok(None),
            }
        };
        let index = self.index(&meta).await?;
        let at = index.partition_point(|e| e.offset <= from);
        let entry = at.checked_sub(1).and_then(|at| index.get(at)).copied();
        Ok(entry.map(|entry| (meta, entry)))
    }

    /// The index of a segment as it was described by `meta`.
    pub(crate) async fn index(
        &self,
        meta: &SegmentMeta,
    ) -> Result<Rc<Vec<IndexEntry>>, SegmentError> {
        let known = |s: &Segment| s.meta == *meta;
        if let Some(segment) = self.0.segments.borrow().iter().find(|s| known(s))
            && let Some(index) = &segment.index
        {
            return Ok(index.clone());
        }
        let index = Rc::new(load_index(&self.0.dir, meta).await?);
        let mut segments = self.0.segments.borrow_mut();
        if segments.iter().filter(|s| s.index.is_some()).count() >= INDEXES_KEPT {
            segments.iter_mut().for_each(|s| s.index = None);
        }
        if let Some(segment) = segments.iter_mut().find(|s| known(s)) {
            segment.index = Some(index.clone());
        }
        Ok(index)
    }
}
