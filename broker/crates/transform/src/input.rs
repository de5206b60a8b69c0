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

/// One record's place in a section.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: Offset,
    start: usize,
    end: usize,
}

/// A batch ready to be run, whole or in part. Its records are told apart only when somebody needs them one by one: usually
/// the guest is the first to look inside.
#[derive(Debug, Clone)]
pub struct Section {
    base_timestamp: i64,
    base_offset: Offset,
    next: Offset,
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
        next: header.next_offset(),
        count: header.record_count,
        bytes,
        raw,
        places: OnceCell::new(),
    };
    if header.base_offset < from {
        let mut places = section.find_places()?;
        places.retain(|p| p.offset >= from);
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

    /// Records below `decided`.
    pub fn count_below(&self, decided: Offset) -> u64 {
        if self.next <= decided {
            return self.len() as u64;
        }
        match self.pieces() {
            Ok(pieces) => (0..self.len())
                .filter(|at| pieces.offset(*at) < decided)
                .count() as u64,
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
    /// [`Unreadable`] when a producer wrote something that is no record.
    pub fn pieces(&self) -> Result<Pieces<'_>, &Unreadable> {
        let places = self.places.get_or_init(|| self.find_places());
        places.as_ref().map(|places| Pieces {
            section: self,
            places,
        })
    }

    fn find_places(&self) -> Result<Vec<Place>, Unreadable> {
        let mut places = Vec::with_capacity(self.count.clamp(0, 65_536) as usize);
        let mut records = Records::new(&self.bytes, self.count);
        let mut start = 0;
        while let Some(record) = records.next() {
            let record = record.map_err(|e| Unreadable {
                base_offset: self.base_offset,
                next: self.next,
                message: e.to_string(),
                raw: self.raw.clone(),
            })?;
            let end = self.bytes.len() - records.bytes_left();
            let offset = self.base_offset + i64::from(record.offset_delta);
            places.push(Place { offset, start, end });
            start = end;
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
        self.places[at].offset
    }

    /// The index of the record at `offset`.
    pub fn find(&self, offset: Offset) -> Option<usize> {
        self.places.iter().position(|p| p.offset == offset)
    }

    /// Records `range` as the guest gets them. Deltas go on counting from the batch's base, so nothing is rewritten.
    pub fn input(&self, range: std::ops::Range<usize>) -> InputBatch {
        let (start, end) = match (self.places.get(range.start), range.end.checked_sub(1)) {
            (Some(first), Some(last)) => (first.start, self.places[last].end),
            _ => (0, 0),
        };
        InputBatch {
            base_offset: self.section.base_offset,
            base_timestamp: self.section.base_timestamp,
            record_count: range.len() as _,
            records: self.section.bytes.slice(start..end),
        }
    }

    /// Record `at` and its timestamp, for policies that hand it on.
    pub fn record(&self, at: usize) -> Option<(RecordRef<'a>, i64)> {
        let place = self.places.get(at)?;
        let record = Records::new(&self.section.bytes[place.start..place.end], 1)
            .next()?
            .ok()?;
        Some((record, self.section.base_timestamp + record.timestamp_delta))
    }
}
