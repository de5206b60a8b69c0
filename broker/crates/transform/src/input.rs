//! From committed batches to what a guest is called with: uncompressed sections, cut to ranges of records.

use std::cell::OnceCell;

use bytes::Bytes;
use tidemill_model::batch::{Compression, HEADER_BYTES};
use tidemill_model::record::{RecordRef, Records};
use tidemill_model::{Batch, Offset, compression};
use tidemill_rt::task;
use tidemill_wasm_host::InputBatch;

/// Largest uncompressed record section of one compressed batch, in bytes. A batch that has more is not run: a few KiB may
/// hold a hundred MiB.
pub const SECTION_BYTES_MAX: usize = 32 << 20;
/// Memory that unpacked input may take on one shard, in bytes: that of all its transforms together.
pub const UNPACKED_BYTES_MAX: u64 = 128 << 20;
/// Sections above this many bytes are told apart on a helper thread: that may take ms.
const TOLD_APART_HERE_BYTES_MAX: usize = 1 << 20;

/// A batch whose records cannot be read: all of them fail together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset after its last.
    pub next: Offset,
    /// Why.
    pub message: String,
    /// What stands after its header.
    pub raw: Bytes,
}

/// Where a record begins in a section; it ends where the next one begins. Small, since a hostile section has millions.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset_delta: i32,
    start: u32,
}

/// A batch ready to be run, whole or in part. Its records are told apart only when somebody needs them one by one: usually
/// the guest is the first to look inside.
///
/// The function sees the timestamps that the producer wrote, also on a topic with `LogAppendTime`: the append time is one
/// number in the batch's header, and showing it in every record would mean to write the whole section anew.
#[derive(Debug, Clone)]
pub struct Section {
    base_timestamp: i64,
    base_offset: Offset,
    first: Offset,
    next: Offset,
    last_offset_delta: i32,
    count: i32,
    compressed: bool,
    bytes: Bytes,
    raw: Bytes,
    places: OnceCell<Result<Vec<Place>, Unreadable>>,
}

/// What [`unpack`] made of a batch.
pub type Unpacked = Result<Section, Unreadable>;

/// Batches made ready to be run.
#[derive(Debug)]
pub struct Taken {
    /// What came out, batch by batch.
    pub sections: Vec<Unpacked>,
    /// The batches that were not looked at.
    pub rest: Vec<Batch>,
}

/// Bytes of memory that [`unpack`] may take for `batches`; 0 when none is compressed.
pub fn unpacking_bytes_max(batches: &[Batch], enough_bytes: usize) -> u64 {
    match batches.iter().any(is_compressed) {
        true => (enough_bytes + SECTION_BYTES_MAX) as u64,
        false => 0,
    }
}

/// Uncompresses `batches` until they have `enough_bytes` bytes or there are no more, leaving out records below `from`. In one
/// go on a helper thread, when some are compressed: that may take ms.
pub async fn unpack(batches: Vec<Batch>, from: Offset, enough_bytes: usize) -> Taken {
    let cut = |b: &Batch| b.header.base_offset < from && b.len() > TOLD_APART_HERE_BYTES_MAX;
    if batches.iter().any(is_compressed) || batches.first().is_some_and(cut) {
        return task::blocking(move || unpack_here(batches, from, enough_bytes)).await;
    }
    unpack_here(batches, from, enough_bytes)
}

fn is_compressed(batch: &Batch) -> bool {
    !matches!(batch.header.compression(), Ok(Compression::None))
}

fn unpack_here(batches: Vec<Batch>, from: Offset, enough_bytes: usize) -> Taken {
    let mut batches = batches.into_iter();
    let (mut sections, mut bytes) = (Vec::with_capacity(batches.len()), 0);
    while bytes < enough_bytes
        && let Some(batch) = batches.next()
    {
        let section = unpack_one(&batch, from);
        bytes += bytes_of(&section);
        sections.push(section);
    }
    Taken {
        sections,
        rest: batches.collect(),
    }
}

fn unpack_one(batch: &Batch, from: Offset) -> Unpacked {
    let raw = batch.bytes.slice(HEADER_BYTES..);
    let header = &batch.header;
    let unreadable = |message: String| Unreadable {
        base_offset: header.base_offset.max(from),
        next: header.next_offset(),
        message,
        raw: raw.clone(),
    };
    let codec = header
        .compression()
        .map_err(|e| unreadable(e.to_string()))?;
    let bytes = match codec {
        Compression::None => raw.clone(),
        codec => {
            let plain = compression::decompress(codec, &raw, SECTION_BYTES_MAX);
            let mut plain = plain.map_err(|e| unreadable(e.to_string()))?;
            plain.shrink_to_fit();
            Bytes::from(plain)
        }
    };
    let mut section = Section {
        base_timestamp: header.base_timestamp,
        base_offset: header.base_offset,
        first: header.base_offset.max(from),
        next: header.next_offset(),
        last_offset_delta: header.last_offset_delta,
        count: header.record_count,
        compressed: codec != Compression::None,
        bytes,
        raw,
        places: OnceCell::new(),
    };
    if header.base_offset < from {
        let mut places = section.find_places()?;
        places.retain(|p| header.base_offset + i64::from(p.offset_delta) >= from);
        section.count = places.len() as i32;
        section.places = OnceCell::from(Ok(places));
    }
    Ok(section)
}

/// Bytes of a batch's records as they came out.
pub fn bytes_of(section: &Unpacked) -> usize {
    match section {
        Ok(section) => section.bytes(),
        Err(unreadable) => unreadable.raw.len(),
    }
}

/// Bytes of memory that were taken to unpack a batch.
pub fn unpacked_bytes(section: &Unpacked) -> u64 {
    match section {
        Ok(section) if section.compressed => section.bytes() as u64,
        _ => 0,
    }
}

impl Section {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.count.max(0) as usize
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Offset of the first record it is about: its batch's base, or where reading began.
    pub fn first(&self) -> Offset {
        self.first
    }

    /// Offset after its last record.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Bytes of its uncompressed records, those left out counted.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Records below `decided`.
    pub fn count_below(&self, decided: Offset) -> u64 {
        if self.next <= decided {
            return self.len() as u64;
        }
        if decided <= self.first {
            return 0;
        }
        match self.pieces() {
            Ok(pieces) => pieces.below(decided) as u64,
            Err(_) => 0,
        }
    }

    /// All of it as the guest gets it.
    pub fn whole(&self) -> InputBatch {
        match self.places.get() {
            Some(Ok(_)) => match self.pieces() {
                Ok(pieces) => pieces.input(0..self.len()),
                Err(_) => self.untouched(),
            },
            _ => self.untouched(),
        }
    }

    fn untouched(&self) -> InputBatch {
        InputBatch {
            base_offset: self.base_offset,
            base_timestamp: self.base_timestamp,
            record_count: self.count as _,
            records: self.bytes.clone(),
        }
    }

    /// Its records, told apart where that holds up nobody else on the shard.
    ///
    /// # Errors
    /// As [`Section::pieces`].
    pub async fn told_apart(&self) -> Result<Pieces<'_>, &Unreadable> {
        if self.places.get().is_none() && self.bytes.len() > TOLD_APART_HERE_BYTES_MAX {
            let section = self.clone();
            let places = task::blocking(move || section.find_places()).await;
            // Whoever told them apart meanwhile found the same.
            let _ = self.places.set(places);
        }
        self.pieces()
    }

    /// Its records, told apart.
    ///
    /// # Errors
    /// [`Unreadable`] when a producer wrote something that is no record, or offsets that do not ascend within the batch.
    pub fn pieces(&self) -> Result<Pieces<'_>, &Unreadable> {
        let places = self.places.get_or_init(|| self.find_places());
        places.as_ref().map(|places| Pieces {
            section: self,
            places,
        })
    }

    /// Offsets are checked too: policies decide ranges by them, and one that points outside its batch would move a
    /// transform back or past records.
    fn find_places(&self) -> Result<Vec<Place>, Unreadable> {
        let unreadable = |message: String| Unreadable {
            base_offset: self.first,
            next: self.next,
            message,
            raw: self.raw.clone(),
        };
        let mut places: Vec<Place> = Vec::with_capacity(self.count.clamp(0, 65_536) as usize);
        let mut records = Records::new(&self.bytes, self.count);
        let mut start = 0;
        while let Some(record) = records.next() {
            let offset_delta = record.map_err(|e| unreadable(e.to_string()))?.offset_delta;
            let last = places.last().map_or(-1, |p| p.offset_delta);
            if offset_delta <= last || offset_delta > self.last_offset_delta {
                let message = format!("offset delta {offset_delta} of a record is out of order");
                return Err(unreadable(message));
            }
            places.push(Place {
                offset_delta,
                start,
            });
            start = (self.bytes.len() - records.bytes_left()) as u32;
        }
        Ok(places)
    }
}

/// The records of a section, told apart.
#[derive(Debug, Clone, Copy)]
pub struct Pieces<'a> {
    section: &'a Section,
    places: &'a [Place],
}

impl<'a> Pieces<'a> {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The offset of record `at`.
    pub fn offset(&self, at: usize) -> Offset {
        self.section.base_offset + i64::from(self.places[at].offset_delta)
    }

    /// Number of records below `offset`.
    pub fn below(&self, offset: Offset) -> usize {
        let base = self.section.base_offset;
        self.places
            .partition_point(|p| base + i64::from(p.offset_delta) < offset)
    }

    /// The index of the record at `offset`.
    pub fn find(&self, offset: Offset) -> Option<usize> {
        let at = self.below(offset);
        (at < self.len() && self.offset(at) == offset).then_some(at)
    }

    /// Where record `at` begins in the section; for the one after the last, where the section ends.
    fn start(&self, at: usize) -> usize {
        let place = self.places.get(at);
        place.map_or(self.section.bytes.len(), |p| p.start as usize)
    }

    /// Records `range` as the guest gets them. Deltas go on counting from the batch's base, so nothing is rewritten.
    pub fn input(&self, range: std::ops::Range<usize>) -> InputBatch {
        let (start, end) = (self.start(range.start), self.start(range.end));
        InputBatch {
            base_offset: self.section.base_offset,
            base_timestamp: self.section.base_timestamp,
            record_count: range.len() as _,
            records: self.section.bytes.slice(start..end),
        }
    }

    /// Record `at` and the timestamp its producer wrote, for policies that hand it on.
    pub fn record(&self, at: usize) -> Option<(RecordRef<'a>, i64)> {
        if at >= self.len() {
            return None;
        }
        let bytes = &self.section.bytes[self.start(at)..self.start(at + 1)];
        let record = Records::new(bytes, 1).next()?.ok()?;
        let timestamp = (self.section.base_timestamp).saturating_add(record.timestamp_delta);
        Some((record, timestamp))
    }
}
