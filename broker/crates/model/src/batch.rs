//! The layout of a record batch, magic 2 (KIP-98): a 61-byte header, then the (possibly compressed) records.

use bytes::Bytes;

use crate::ids::Offset;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 61;
/// Bytes in front of what `batch_length` counts (base offset and the length itself).
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// Fewest bytes of a record: one each for its length, attributes, timestamp, offset, key, value and header count.
pub const RECORD_BYTES_MIN: usize = 7;
/// Most bytes that the records of a compressed batch may have uncompressed: as many as a request has at most.
pub const UNCOMPRESSED_BYTES_MAX: usize = 100 << 20;
/// Where the bytes that the CRC covers begin.
pub const CRC_START: usize = 21;

/// How a batch's records are compressed (attributes, bits 0 to 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4 frames.
    Lz4,
    /// zstd.
    Zstd,
}

/// Why bytes are not a valid batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header or than its length field says.
    #[error("record batch is shorter than its length says")]
    Truncated,
    /// More bytes than the length field says: a second batch, or rubbish.
    #[error("bytes follow the record batch")]
    TrailingBytes,
    /// Another format than magic 2.
    #[error("record batch has magic {0}, only 2 is supported")]
    Magic(i8),
    /// The checksum does not match.
    #[error("record batch fails its CRC-32C")]
    Crc,
    /// Record count and last offset delta contradict each other, or are negative.
    #[error("record batch says {count} records and last offset delta {last_offset_delta}")]
    Count {
        /// The header's record count.
        count: i32,
        /// The header's last offset delta.
        last_offset_delta: i32,
    },
    /// More records than the batch has bytes for.
    #[error("record batch says {count} records, for which it has too few bytes")]
    TooMany {
        /// The header's record count.
        count: i32,
    },
    /// Attribute bits that name no compression.
    #[error("record batch has unknown compression {0}")]
    Compression(u8),
    /// A producer id without its epoch or sequence.
    #[error(
        "record batch has producer {producer_id} but epoch {producer_epoch} and sequence {base_sequence}"
    )]
    Producer {
        /// The header's producer id.
        producer_id: i64,
        /// The header's producer epoch.
        producer_epoch: i16,
        /// The header's base sequence.
        base_sequence: i32,
    },
    /// A record inside is malformed.
    #[error("malformed record: {0}")]
    Record(&'static str),
}

/// The header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record (0 from clients; given by the broker).
    pub base_offset: Offset,
    /// Bytes after this field.
    pub batch_length: i32,
    /// Leader epoch of the partition when the batch was appended; outside the CRC.
    pub leader_epoch: i32,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Compression, timestamp type (bit 3), transactional (4), control (5), delete horizon (6).
    pub attributes: i16,
    /// Offset of the last record minus the base offset.
    pub last_offset_delta: i32,
    /// Timestamp that record deltas count from, in ms.
    pub base_timestamp: i64,
    /// Largest timestamp of a record, in ms.
    pub max_timestamp: i64,
    /// Producer id, -1 for none.
    pub producer_id: i64,
    /// Producer epoch, -1 for none.
    pub producer_epoch: i16,
    /// Sequence of the first record, -1 for none.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `b`, checking nothing but magic and that it is all there.
    ///
    /// # Errors
    /// [`BatchError::Truncated`], [`BatchError::Magic`].
    pub fn parse(b: &[u8]) -> Result<BatchHeader, BatchError> {
        let h: &[u8; HEADER_BYTES] = b.first_chunk().ok_or(BatchError::Truncated)?;
        if h[16] != 2 {
            return Err(BatchError::Magic(h[16] as i8));
        }
        Ok(BatchHeader {
            base_offset: i64_at(h, 0),
            batch_length: i32_at(h, 8),
            leader_epoch: i32_at(h, 12),
            crc: i32_at(h, 17) as u32,
            attributes: i16_at(h, 21),
            last_offset_delta: i32_at(h, 23),
            base_timestamp: i64_at(h, 27),
            max_timestamp: i64_at(h, 35),
            producer_id: i64_at(h, 43),
            producer_epoch: i16_at(h, 51),
            base_sequence: i32_at(h, 53),
            record_count: i32_at(h, 57),
        })
    }

    /// Checks that `b` is exactly one batch: length, magic, CRC, count, compression bits and producer fields agree, and
    /// that as many records as it says can be in it. Records are not looked at, nor whether the batch is a control batch, which clients may not send.
    ///
    /// # Errors
    /// The first [`BatchError`] found.
    pub fn validate(b: &[u8]) -> Result<BatchHeader, BatchError> {
        let h = BatchHeader::parse(b)?;
        let want = usize::try_from(h.batch_length).map_err(|_| BatchError::Truncated)?
            + LENGTH_PREFIX_BYTES;
        if want < HEADER_BYTES || b.len() < want {
            return Err(BatchError::Truncated);
        }
        if b.len() > want {
            return Err(BatchError::TrailingBytes);
        }
        if h.record_count < 1 || h.last_offset_delta != h.record_count - 1 {
            return Err(BatchError::Count {
                count: h.record_count,
                last_offset_delta: h.last_offset_delta,
            });
        }
        let section_bytes = match h.compression()? {
            Compression::None => want - HEADER_BYTES,
            _ => UNCOMPRESSED_BYTES_MAX,
        };
        if h.record_count as usize > section_bytes / RECORD_BYTES_MIN {
            return Err(BatchError::TooMany {
                count: h.record_count,
            });
        }
        // Transaction markers carry a producer without a sequence.
        let unnumbered = h.base_sequence < 0 && !h.is_control();
        if h.producer_id >= 0 && (h.producer_epoch < 0 || unnumbered) {
            return Err(BatchError::Producer {
                producer_id: h.producer_id,
                producer_epoch: h.producer_epoch,
                base_sequence: h.base_sequence,
            });
        }
        if crc32c::crc32c(&b[CRC_START..]) != h.crc {
            return Err(BatchError::Crc);
        }
        Ok(h)
    }

    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> usize {
        self.batch_length.max(0) as usize + LENGTH_PREFIX_BYTES
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta) + 1
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`BatchError::Compression`] for bits that mean nothing.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        match self.attributes & 7 {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            other => Err(BatchError::Compression(other as u8)),
        }
    }

    /// Whether timestamps are the broker's append time.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Whether the batch is a control batch (a transaction marker), never shown to applications.
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}

/// A batch at its place in a partition. `bytes` are as the producer sent them; base offset and leader epoch, which lie
/// outside the CRC, are kept beside and written over the first 16 bytes on the way out.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The header, base offset and leader epoch as given by the partition.
    pub header: BatchHeader,
    /// The whole batch; its first 16 bytes are stale.
    pub bytes: Bytes,
}

impl Batch {
    /// The right first 16 bytes: base offset, length, leader epoch.
    pub fn first_bytes(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.header.base_offset.to_be_bytes());
        out[8..12].copy_from_slice(&self.header.batch_length.to_be_bytes());
        out[12..].copy_from_slice(&self.header.leader_epoch.to_be_bytes());
        out
    }

    /// Everything after the first 16 bytes, sharing memory.
    pub fn rest(&self) -> Bytes {
        self.bytes.slice(16..)
    }

    /// Bytes of the whole batch.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never true: a batch has a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn i16_at(b: &[u8; HEADER_BYTES], at: usize) -> i16 {
    i16::from_be_bytes([b[at], b[at + 1]])
}

fn i32_at(b: &[u8; HEADER_BYTES], at: usize) -> i32 {
    i32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn i64_at(b: &[u8; HEADER_BYTES], at: usize) -> i64 {
    let mut v = [0; 8];
    v.copy_from_slice(&b[at..at + 8]);
    i64::from_be_bytes(v)
}
