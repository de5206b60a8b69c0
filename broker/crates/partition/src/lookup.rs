//! Finding offsets by timestamp, exact to the record.

use tidemill_model::batch::{Compression, HEADER_BYTES};
use tidemill_model::compression::decompress;
use tidemill_model::record::Records;
use tidemill_model::{Batch, Offset};
use tidemill_rt::task;

use crate::log::{Bounds, PartitionLog, ReadError};
use crate::segment::{READ_CHUNK_BYTES, Scan, SegmentMeta};
use crate::state::MaxTimestamp;

/// Most bytes a batch may decompress to for a look inside; of a larger one the first record is the answer.
pub const DECOMPRESSED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Largest uncompressed batch that is looked through on the shard itself, in bytes.
const LOOK_HERE_BYTES_MAX: usize = 256 * 1024;

/// A record's offset and its timestamp in ms.
pub type Found = (Offset, i64);

impl PartitionLog {
    /// The first record with a timestamp of at least `timestamp` ms; `None` when there is none.
    ///
    /// # Errors
    /// [`ReadError::Segment`].
    pub async fn offset_for_timestamp(
        &self,
        bounds: Bounds,
        timestamp: i64,
    ) -> Result<Option<Found>, ReadError> {
        let mut from = bounds.log_start_offset;
        loop {
            let segments = self.segments();
            for meta in segments
                .iter()
                .filter(|m| m.next_offset > from && m.max_timestamp >= timestamp)
            {
                if let Some(found) = self.search_segment(meta, bounds, timestamp).await? {
                    return Ok(Some(found));
                }
            }
            from = from.max(segments.last().map_or(0, |m| m.next_offset));
            if from >= bounds.high_watermark {
                return Ok(None);
            }
            // While segments were searched, a flush may have moved batches there and the cache dropped them.
            if let Some(batches) = self
                .tail()
                .read(from, bounds.high_watermark, READ_CHUNK_BYTES)
            {
                for batch in &batches {
                    if let Some(found) = look(batch, timestamp, bounds.log_start_offset).await {
                        return Ok(Some(found));
                    }
                }
                let Some(last) = batches.last() else {
                    return Ok(None);
                };
                from = last.header.next_offset();
                task::yield_now().await;
                continue;
            }
            if self.segments_end() <= from {
                return Ok(None);
            }
        }
    }

    async fn search_segment(
        &self,
        meta: &SegmentMeta,
        bounds: Bounds,
        timestamp: i64,
    ) -> Result<Option<Found>, ReadError> {
        let index = self.index(meta).await?;
        for (i, entry) in index
            .iter()
            .enumerate()
            .filter(|(_, e)| e.max_timestamp >= timestamp)
        {
            let end = index
                .get(i + 1)
                .map_or(meta.next_offset, |next| next.offset);
            if end <= bounds.log_start_offset {
                continue;
            }
            let _turn = self.tail().memory().read_turn().await;
            let mut scan = Scan::open(self.dir(), meta, Some(*entry), READ_CHUNK_BYTES).await?;
            while let Some(batch) = scan.next().await? {
                if batch.header.base_offset >= end {
                    break;
                }
                if let Some(found) = look(&batch, timestamp, bounds.log_start_offset).await {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The first record that has the largest timestamp of the partition, whose batch is known to the state.
    ///
    /// # Errors
    /// [`ReadError::Segment`].
    pub async fn max_timestamp(
        &self,
        bounds: Bounds,
        max: MaxTimestamp,
    ) -> Result<Option<Found>, ReadError> {
        let start = bounds.log_start_offset;
        if max.batch_offset < start {
            // That record is gone, or may be: which one is the largest of the others has to be looked for.
            let largest = self.largest_timestamp(bounds).await?;
            return match largest {
                Some(timestamp) => self.offset_for_timestamp(bounds, timestamp).await,
                None => Ok(None),
            };
        }
        let from = max.batch_offset;
        let read = self
            .read(bounds, from, 1, crate::Isolation::ReadUncommitted)
            .await?;
        match read.batches.first() {
            Some(batch) => Ok(look(batch, max.timestamp, start).await),
            None => Ok(None),
        }
    }

    /// The largest timestamp of the records from the log start on.
    async fn largest_timestamp(&self, bounds: Bounds) -> Result<Option<i64>, ReadError> {
        let start = bounds.log_start_offset;
        let read = self.read(bounds, start, 1, crate::Isolation::ReadUncommitted);
        let Some(first) = read.await?.batches.into_iter().next() else {
            return Ok(None);
        };
        let next = first.header.next_offset();
        let mut largest = task::blocking(move || largest_in_batch(&first, start)).await;
        for meta in self.segments().iter().filter(|m| m.next_offset > next) {
            let of_segment = match meta.base_offset >= next {
                true => meta.max_timestamp,
                false => self.largest_in_segment(meta, next).await?,
            };
            largest = largest.max(of_segment);
        }
        self.tail().each_unflushed(next, |held| {
            largest = largest.max(held.batch.header.max_timestamp);
        });
        Ok(Some(largest))
    }

    /// The largest timestamp of the batches of a segment from the one at `next` on.
    async fn largest_in_segment(&self, meta: &SegmentMeta, next: Offset) -> Result<i64, ReadError> {
        let index = self.index(meta).await?;
        let mut largest = i64::MIN;
        for (i, entry) in index.iter().enumerate() {
            let end = index.get(i + 1).map_or(meta.next_offset, |n| n.offset);
            if entry.offset >= next {
                largest = largest.max(entry.max_timestamp);
            } else if end > next {
                let _turn = self.tail().memory().read_turn().await;
                let mut scan = Scan::open(self.dir(), meta, Some(*entry), READ_CHUNK_BYTES).await?;
                while let Some(batch) = scan.next().await? {
                    if batch.header.base_offset >= end {
                        break;
                    }
                    if batch.header.base_offset >= next {
                        largest = largest.max(batch.header.max_timestamp);
                    }
                }
            }
        }
        Ok(largest)
    }
}

/// The largest timestamp of the records of `batch` at or after offset `start`; where they cannot be read, the header's.
fn largest_in_batch(batch: &Batch, start: Offset) -> i64 {
    let header = &batch.header;
    let whole = header.max_timestamp;
    if header.base_offset >= start || header.is_log_append_time() {
        return whole;
    }
    let section = batch.bytes.get(HEADER_BYTES..).unwrap_or_default();
    let plain = header.compression().ok();
    let plain = plain.and_then(|codec| decompress(codec, section, DECOMPRESSED_BYTES_MAX).ok());
    let Some(section) = plain else {
        return whole;
    };
    let mut largest = i64::MIN;
    for record in Records::new(&section, header.record_count) {
        let Ok(record) = record else { return whole };
        if header.base_offset + i64::from(record.offset_delta) >= start {
            largest = largest.max(header.base_timestamp.saturating_add(record.timestamp_delta));
        }
    }
    largest
}

/// [`find_in_batch`], on a helper thread where it may take long.
async fn look(batch: &Batch, timestamp: i64, start: Offset) -> Option<Found> {
    let header = &batch.header;
    if header.max_timestamp < timestamp || header.next_offset() <= start {
        return None;
    }
    let is_plain = header.compression() == Ok(Compression::None);
    if is_plain && batch.len() <= LOOK_HERE_BYTES_MAX {
        return find_in_batch(batch, timestamp, start);
    }
    let batch = batch.clone();
    task::blocking(move || find_in_batch(&batch, timestamp, start)).await
}

/// The first record of `batch` at or after offset `start` with a timestamp of at least `timestamp`. Where the records
/// cannot be read (producers may send anything) or do not reach the header's largest timestamp, it is the first one.
pub fn find_in_batch(batch: &Batch, timestamp: i64, start: Offset) -> Option<Found> {
    let header = &batch.header;
    if header.max_timestamp < timestamp || header.next_offset() <= start {
        return None;
    }
    let whole = (header.base_offset.max(start), header.max_timestamp);
    if header.is_log_append_time() {
        return Some(whole);
    }
    let Ok(codec) = header.compression() else {
        return Some(whole);
    };
    let Some(section) = batch.bytes.get(HEADER_BYTES..) else {
        return Some(whole);
    };
    let Ok(section) = decompress(codec, section, DECOMPRESSED_BYTES_MAX) else {
        return Some(whole);
    };
    for record in Records::new(&section, header.record_count) {
        let Ok(record) = record else {
            return Some(whole);
        };
        let time = header.base_timestamp.saturating_add(record.timestamp_delta);
        let offset = header.base_offset + i64::from(record.offset_delta);
        if time >= timestamp && offset >= start && offset < header.next_offset() {
            return Some((offset, time));
        }
    }
    // The right record lies below the log start.
    (start <= header.base_offset).then_some(whole)
}
