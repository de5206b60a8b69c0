//! From committed batches to what a guest is called with: uncompressed sections, cut to ranges of records.

use std::cell::OnceCell;

use bytes::Bytes;
use tidemill_model::batch::{Compression, HEADER_BYTES};
use tidemill_model::record::{RecordRef, Records};
use tidemill_model::{Batch, Offset, compression};
use tidemill_rt::task;
use tidemill_wasm_host::InputBatch;

/// Largest uncompressed record section of one batch, in bytes: what a request may be.
pub const SECTION_BYTES_MAX: usize = 100 << 20;

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
    bytes: Bytes,
    raw: Bytes,
    places: OnceCell<Result<Vec<Place>, Unreadable>>,
}

/// What [`unpack`] made of a batch.
pub type Unpacked = Result<Section, Unreadable>;

/// Uncompresses `batch` (on a helper thread when it is compressed: that may take ms), leaving out records below `from`.
pub async fn unpack(batch: &Batch, from: Offset) -> Unpacked {
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
            let packed = raw.clone();
            let plain =
                task::blocking(move || compression::decompress(codec, &packed, SECTION_BYTES_MAX))
                    .await;
            Bytes::from(plain.map_err(|e| unreadable(e.to_string()))?)
        }
    };
    let mut section = Section {
        base_timestamp: header.base_timestamp,
        base_offset: header.base_offset,
        first: header.base_offset.max(from),
        next: header.next_offset(),
        last_offset_delta: header.last_offset_delta,
        count: header.record_count,
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

    /// The section they are in.
    pub fn section(&self) -> &'a Section {
        self.section
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
