//! Making batches: from records, from a section a guest returned, with another timestamp.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::{RecordRef, Records};
use crate::batch::{BatchError, CRC_START, Compression, HEADER_BYTES, LENGTH_PREFIX_BYTES};
use crate::compression::{CompressionError, compress};
use crate::varint::{varlong_len, write_varint, write_varlong};

/// Bit of the attributes that says: timestamps are the broker's append time.
const LOG_APPEND_TIME: i16 = 0x08;

/// Where a batch's length stands.
const LENGTH_AT: usize = 8;
/// Where its attributes stand.
const ATTRIBUTES_AT: usize = 21;

/// A record to be appended to a [`BatchBuilder`].
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// In ms since the Unix epoch.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

/// An idempotent producer's fields of a batch header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence of the batch's first record.
    pub base_sequence: i32,
}

/// Gathers records into one batch.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    section: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: Option<Producer>,
    attributes: i16,
}

impl BatchBuilder {
    /// A batch without records.
    pub fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// Sets the producer fields.
    pub fn producer(mut self, producer: Producer) -> BatchBuilder {
        self.producer = Some(producer);
        self
    }

    /// Sets attribute bits beside the compression, e.g. 0x10 for a transaction.
    pub fn attributes(mut self, attributes: i16) -> BatchBuilder {
        self.attributes = attributes & !7;
        self
    }

    /// Appends a record.
    pub fn append(&mut self, record: NewRecord<'_>) -> &mut BatchBuilder {
        if self.count == 0 {
            self.base_timestamp = record.timestamp;
            self.max_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let mut body = Vec::new();
        put_nullable(&mut body, record.key);
        put_nullable(&mut body, record.value);
        write_varint(&mut body, record.headers.len() as i32);
        for (key, value) in record.headers {
            put_nullable(&mut body, Some(key));
            put_nullable(&mut body, *value);
        }
        let delta = record.timestamp.wrapping_sub(self.base_timestamp);
        put_record(&mut self.section, 0, delta, self.count, &body);
        self.count += 1;
        self
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are no records yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the uncompressed batch so far.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.section.len()
    }

    /// The batch, uncompressed, base offset 0. It has at least one record only if one was appended.
    pub fn build(self) -> Bytes {
        let spec = self.spec(self.attributes);
        spec.batch(&self.section)
    }

    /// The records alone: the section, its number of records, the timestamp they count from and the largest, in ms.
    pub fn into_section(self) -> (Vec<u8>, i32, i64, i64) {
        let (base, max) = (self.base_timestamp, self.max_timestamp);
        (self.section, self.count, base, max)
    }

    /// Whether a record of `timestamp` ms can stand in this batch: no difference of timestamps says one too far from the first.
    pub fn takes_timestamp(&self, timestamp: i64) -> bool {
        self.count == 0 || timestamp.checked_sub(self.base_timestamp).is_some()
    }

    /// The batch, compressed, base offset 0.
    ///
    /// # Errors
    /// [`CompressionError`] when the codec fails.
    pub fn build_compressed(self, codec: Compression) -> Result<Bytes, CompressionError> {
        let packed = compress(codec, &self.section)?;
        let attributes = self.attributes | i16::from(codec_bits(codec));
        Ok(self.spec(attributes).batch(&packed))
    }

    fn spec(&self, attributes: i16) -> Spec {
        Spec {
            attributes,
            count: self.count,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer: self.producer,
        }
    }
}

/// What a header says beside lengths and checksum.
struct Spec {
    attributes: i16,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: Option<Producer>,
}

impl Spec {
    fn batch(&self, section: &[u8]) -> Bytes {
        let none = Producer {
            id: -1,
            epoch: -1,
            base_sequence: -1,
        };
        let producer = self.producer.unwrap_or(none);
        let mut b = BytesMut::with_capacity(HEADER_BYTES + section.len());
        b.put_i64(0);
        b.put_i32((HEADER_BYTES - LENGTH_PREFIX_BYTES + section.len()) as i32);
        b.put_i32(-1);
        b.put_i8(2);
        b.put_u32(0);
        b.put_i16(self.attributes);
        b.put_i32(self.count - 1);
        b.put_i64(self.base_timestamp);
        b.put_i64(self.max_timestamp);
        b.put_i64(producer.id);
        b.put_i16(producer.epoch);
        b.put_i32(producer.base_sequence);
        b.put_i32(self.count);
        b.put_slice(section);
        write_crc(&mut b);
        b.freeze()
    }
}

/// A batch of an uncompressed section: header and CRC in front, no producer, base offset 0. The section is copied,
/// not looked at; [`super::check_section`] comes first where it is foreign.
pub fn batch_from_section(
    section: &[u8],
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
) -> Bytes {
    Spec {
        attributes: 0,
        count,
        base_timestamp,
        max_timestamp,
        producer: None,
    }
    .batch(section)
}

/// Why a section could not be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A record does not fit into a batch of its own.
    #[error(
        "record {index} makes a batch of {bytes} bytes, the limit is {max_bytes}; raise max.message.bytes or make it smaller"
    )]
    RecordTooLarge {
        /// The record's place in the section, from 0.
        index: i32,
        /// Bytes of a batch with this record alone.
        bytes: usize,
        /// The limit that was given.
        max_bytes: usize,
    },
    /// The section is malformed.
    #[error(transparent)]
    Section(#[from] BatchError),
}

/// A batch of one destination, made by [`split_section_by`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitBatch<K> {
    /// Where it goes.
    pub to: K,
    /// Records in it.
    pub records: i32,
    /// The batch: base offset 0, no producer.
    pub batch: Bytes,
}

/// Makes batches of at most `max_bytes` bytes each (headers counted) of an uncompressed section of `count` records,
/// in order, offset deltas counted anew in each. Base offsets are 0, there is no producer.
///
/// # Errors
/// [`SplitError`].
pub fn split_section(
    section: &[u8],
    count: i32,
    base_timestamp: i64,
    max_bytes: usize,
) -> Result<Vec<Bytes>, SplitError> {
    let batches = split_section_by(section, (count, base_timestamp), max_bytes, |_| ())?;
    Ok(batches.into_iter().map(|b| b.batch).collect())
}

/// Like [`split_section`], with batches of their own for each destination that `to` names: those of one destination are in the
/// records' order. `count` is the number of records and the timestamp that theirs count from, in ms.
///
/// # Errors
/// [`SplitError`].
pub fn split_section_by<K: Ord + Copy>(
    section: &[u8],
    (count, base_timestamp): (i32, i64),
    max_bytes: usize,
    to: impl Fn(&RecordRef<'_>) -> K,
) -> Result<Vec<SplitBatch<K>>, SplitError> {
    let mut batches = Vec::new();
    let mut parts: BTreeMap<K, Part> = BTreeMap::new();
    for (index, record) in Records::new(section, count).enumerate() {
        let record = record?;
        let alone = HEADER_BYTES + record_len(&record, 0);
        if alone > max_bytes {
            return Err(SplitError::RecordTooLarge {
                index: index as i32,
                bytes: alone,
                max_bytes,
            });
        }
        let to = to(&record);
        let part = parts.entry(to).or_default();
        let fits = HEADER_BYTES + part.section.len() + record_len(&record, part.count) <= max_bytes;
        if !fits {
            batches.push(std::mem::take(part).batch(to, base_timestamp));
        }
        part.push(&record);
    }
    let filled = parts.into_iter().filter(|(_, part)| part.count > 0);
    batches.extend(filled.map(|(to, part)| part.batch(to, base_timestamp)));
    Ok(batches)
}

#[derive(Default)]
struct Part {
    section: Vec<u8>,
    count: i32,
    max_delta: Option<i64>,
}

impl Part {
    fn push(&mut self, record: &RecordRef<'_>) {
        put_record(
            &mut self.section,
            record.attributes,
            record.timestamp_delta,
            self.count,
            record.body,
        );
        self.count += 1;
        self.max_delta = self.max_delta.max(Some(record.timestamp_delta));
    }

    fn batch<K>(self, to: K, base_timestamp: i64) -> SplitBatch<K> {
        let max = base_timestamp.saturating_add(self.max_delta.unwrap_or(0));
        SplitBatch {
            to,
            records: self.count,
            batch: batch_from_section(&self.section, self.count, base_timestamp, max),
        }
    }
}

/// `batch`, which is uncompressed, with its records compressed; `None` when that makes it no smaller. Everything else in its header
/// stays.
///
/// # Errors
/// [`CompressionError`] when the codec fails.
///
/// # Panics
/// When `batch` is shorter than a header; callers have validated it.
pub fn compress_batch(batch: &[u8], codec: Compression) -> Result<Option<Bytes>, CompressionError> {
    let packed = compress(codec, &batch[HEADER_BYTES..])?;
    if HEADER_BYTES + packed.len() >= batch.len() {
        return Ok(None);
    }
    let mut b = BytesMut::with_capacity(HEADER_BYTES + packed.len());
    b.put_slice(&batch[..HEADER_BYTES]);
    b.put_slice(&packed);
    let length = (b.len() - LENGTH_PREFIX_BYTES) as i32;
    b[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    // The codec is in the lowest bits of the attributes' second byte.
    b[ATTRIBUTES_AT + 1] = b[ATTRIBUTES_AT + 1] & !7 | codec_bits(codec);
    write_crc(&mut b);
    Ok(Some(b.freeze()))
}

fn codec_bits(codec: Compression) -> u8 {
    match codec {
        Compression::None => 0,
        Compression::Gzip => 1,
        Compression::Snappy => 2,
        Compression::Lz4 => 3,
        Compression::Zstd => 4,
    }
}

/// The batch with the broker's append time: attribute bit 3 and `now_ms` as largest timestamp, CRC made anew (both lie
/// under it). Copies the batch.
///
/// # Panics
/// When `batch` is shorter than a header; callers have validated it.
pub fn set_log_append_time(batch: &[u8], now_ms: i64) -> Bytes {
    assert!(
        batch.len() >= HEADER_BYTES,
        "a validated batch has a header"
    );
    let mut b = BytesMut::from(batch);
    let attributes = i16::from_be_bytes([b[21], b[22]]) | LOG_APPEND_TIME;
    b[21..23].copy_from_slice(&attributes.to_be_bytes());
    b[35..43].copy_from_slice(&now_ms.to_be_bytes());
    write_crc(&mut b);
    b.freeze()
}

fn write_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => write_varint(out, -1),
        Some(bytes) => {
            write_varint(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
        }
    }
}

fn inner_len(timestamp_delta: i64, offset_delta: i32, body: usize) -> usize {
    1 + varlong_len(timestamp_delta) + varlong_len(i64::from(offset_delta)) + body
}

fn record_len(record: &RecordRef<'_>, offset_delta: i32) -> usize {
    let inner = inner_len(record.timestamp_delta, offset_delta, record.body.len());
    varlong_len(inner as i64) + inner
}

fn put_record(
    out: &mut Vec<u8>,
    attributes: i8,
    timestamp_delta: i64,
    offset_delta: i32,
    body: &[u8],
) {
    write_varint(
        out,
        inner_len(timestamp_delta, offset_delta, body.len()) as i32,
    );
    out.push(attributes as u8);
    write_varlong(out, timestamp_delta);
    write_varint(out, offset_delta);
    out.extend_from_slice(body);
}
