//! The bytes of a log file.
//!
//! A file is a header block, then groups, each beginning on a block. Integers are little endian.
//! Every checksum is a CRC-32C that begins with the file's generation, a random number, so that what an earlier life of
//! the same disk blocks left behind is never taken for ours (rule S1).
//!
//! Group: a header of [`GROUP_HEADER_BYTES`] with its own checksum and that of the payload, then the payload: frames.
//! Frame: ring `u32`, kind `u8`, index `u64`, data length `u32`, data.

use bytes::Bytes;
use tidemill_model::RingId;
use tidemill_rt::buf::BLOCK_BYTES;

/// Bytes in front of the first group.
pub(crate) const FILE_HEADER_BYTES: u64 = BLOCK_BYTES as u64;
/// Bytes of a group's header.
pub(crate) const GROUP_HEADER_BYTES: usize = 64;
/// Bytes of a frame in front of its data.
pub(crate) const FRAME_HEADER_BYTES: usize = 17;
/// Most bytes of one frame's data: what its length field and a buffer can hold with room to spare.
pub(crate) const FRAME_DATA_MAX: usize = 1 << 30;

const FILE_MAGIC: [u8; 8] = *b"TIDEMLOG";
const GROUP_MAGIC: [u8; 8] = *b"tideGRP\0";
/// Version of this format.
pub(crate) const LOG_VERSION: u32 = 1;
const FILE_FIELDS: usize = 8 + 4 + 8 + 8 + 8 + 8;

/// What a ring writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// An entry of the ring's log. Indices of a ring are consecutive; the first ever is 0 or 1.
    Entry {
        /// Its index.
        index: u64,
        /// Its content, opaque, in parts.
        data: Vec<Bytes>,
    },
    /// A copy of an entry whose file is about to go (rule S7): it was valid where the copy stands. Voids nothing and follows
    /// no order (rule S5). Only the log itself appends these.
    Carried {
        /// The entry's index.
        index: u64,
        /// Its content.
        data: Bytes,
    },
    /// Entries above `after` are void.
    Truncate {
        /// Index of the last entry that stays.
        after: u64,
    },
    /// The ring's vote; the latest counts.
    Vote {
        /// Opaque.
        data: Bytes,
    },
    /// Entries up to `upto` are no longer needed.
    Purge {
        /// Index of the last entry that goes.
        upto: u64,
        /// Opaque, kept with it.
        data: Bytes,
    },
}

impl Frame {
    /// Bytes of the frame's data.
    pub(crate) fn data_len(&self) -> usize {
        match self {
            Frame::Entry { data, .. } => data.iter().map(Bytes::len).sum(),
            Frame::Truncate { .. } => 0,
            Frame::Vote { data } | Frame::Purge { data, .. } | Frame::Carried { data, .. } => {
                data.len()
            }
        }
    }

    /// Bytes of the frame in the file.
    pub(crate) fn encoded_len(&self) -> usize {
        FRAME_HEADER_BYTES + self.data_len()
    }

    /// Appends the frame's bytes, in parts that share its memory.
    pub(crate) fn encode(self, ring: RingId, parts: &mut Vec<Bytes>) {
        let len = self.data_len() as u32;
        let (kind, index, data) = match self {
            Frame::Entry { index, data } => (1u8, index, data),
            Frame::Truncate { after } => (2, after, Vec::new()),
            Frame::Vote { data } => (3, 0, vec![data]),
            Frame::Purge { upto, data } => (4, upto, vec![data]),
            Frame::Carried { index, data } => (5, index, vec![data]),
        };
        let mut head = Vec::with_capacity(FRAME_HEADER_BYTES);
        head.extend_from_slice(&ring.0.to_le_bytes());
        head.push(kind);
        head.extend_from_slice(&index.to_le_bytes());
        head.extend_from_slice(&len.to_le_bytes());
        parts.push(head.into());
        parts.extend(data.into_iter().filter(|d| !d.is_empty()));
    }

    /// Reads the frame at `at` of a group's payload; also where the next begins. Data shares `payload`.
    pub(crate) fn decode(
        payload: &Bytes,
        at: usize,
    ) -> Result<(RingId, Frame, usize), &'static str> {
        let head = payload
            .get(at..at + FRAME_HEADER_BYTES)
            .ok_or("a frame header is cut")?;
        let ring = RingId(u32_at(head, 0));
        let index = u64_at(head, 5);
        let from = at + FRAME_HEADER_BYTES;
        let end = from + u32_at(head, 13) as usize;
        if end > payload.len() {
            return Err("a frame is longer than its group");
        }
        let data = payload.slice(from..end);
        let frame = match head[4] {
            1 => Frame::Entry {
                index,
                data: vec![data],
            },
            2 => Frame::Truncate { after: index },
            3 => Frame::Vote { data },
            4 => Frame::Purge { upto: index, data },
            5 => Frame::Carried { index, data },
            _ => return Err("a frame has an unknown kind"),
        };
        Ok((ring, frame, end))
    }
}

/// The header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// Its place in the sequence, from 1.
    pub(crate) sequence: u64,
    /// Random; salt of every checksum in the file.
    pub(crate) generation: u64,
    /// The file before, 0 for none.
    pub(crate) predecessor: u64,
    /// Where the valid part of the file before ends (rule S3).
    pub(crate) predecessor_end: u64,
}

impl FileHeader {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        block[..8].copy_from_slice(&FILE_MAGIC);
        block[8..12].copy_from_slice(&LOG_VERSION.to_le_bytes());
        let fields = [
            self.sequence,
            self.generation,
            self.predecessor,
            self.predecessor_end,
        ];
        for (i, field) in fields.iter().enumerate() {
            block[12 + 8 * i..20 + 8 * i].copy_from_slice(&field.to_le_bytes());
        }
        let crc = salted_crc(self.generation, &block[..FILE_FIELDS]);
        block[FILE_FIELDS..FILE_FIELDS + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header block.
    pub(crate) fn decode(block: &[u8]) -> Result<FileHeader, String> {
        if block.len() < BLOCK_BYTES {
            return Err("the file header is cut".into());
        }
        if block[..8] != FILE_MAGIC {
            return Err("the file header is damaged".into());
        }
        let header = FileHeader {
            sequence: u64_at(block, 12),
            generation: u64_at(block, 20),
            predecessor: u64_at(block, 28),
            predecessor_end: u64_at(block, 36),
        };
        if salted_crc(header.generation, &block[..FILE_FIELDS]) != u32_at(block, FILE_FIELDS) {
            return Err("the file header fails its checksum".into());
        }
        if block[FILE_FIELDS + 4..BLOCK_BYTES].iter().any(|b| *b != 0) {
            return Err("the padding of the file header is damaged".into());
        }
        match u32_at(block, 8) {
            LOG_VERSION => Ok(header),
            other => Err(format!(
                "the file has format version {other}, this tidemill reads {LOG_VERSION}"
            )),
        }
    }
}

/// The header of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// Number of the group since the log began.
    pub(crate) number: u64,
    /// Bytes after the header.
    pub(crate) payload_len: u64,
    /// Checksum of the payload.
    pub(crate) payload_crc: u32,
    /// Frames in the payload.
    pub(crate) frames: u32,
    /// File and position below which all was durable when the group was written (rule S2).
    pub(crate) durable: (u64, u64),
}

impl GroupHeader {
    pub(crate) fn encode(&self, generation: u64) -> [u8; GROUP_HEADER_BYTES] {
        let mut out = [0; GROUP_HEADER_BYTES];
        out[..8].copy_from_slice(&GROUP_MAGIC);
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..24].copy_from_slice(&self.payload_len.to_le_bytes());
        out[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[28..32].copy_from_slice(&self.frames.to_le_bytes());
        out[32..40].copy_from_slice(&self.durable.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.durable.1.to_le_bytes());
        let crc = salted_crc(generation, &out[..48]);
        out[48..52].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at the start of `block`, if there is a sound one of this generation.
    pub(crate) fn decode(block: &[u8], generation: u64) -> Option<GroupHeader> {
        let head = block.get(..GROUP_HEADER_BYTES)?;
        let sound = head[..8] == GROUP_MAGIC
            && salted_crc(generation, &head[..48]) == u32_at(head, 48)
            && head[52..].iter().all(|b| *b == 0);
        sound.then(|| GroupHeader {
            number: u64_at(head, 8),
            payload_len: u64_at(head, 16),
            payload_crc: u32_at(head, 24),
            frames: u32_at(head, 28),
            durable: (u64_at(head, 32), u64_at(head, 40)),
        })
    }

    /// Bytes the group takes in the file: whole blocks.
    pub(crate) fn total_len(payload_len: u64) -> Option<u64> {
        payload_len
            .checked_add(GROUP_HEADER_BYTES as u64)?
            .checked_next_multiple_of(BLOCK_BYTES as u64)
    }
}

/// CRC-32C of the generation, then `data`.
pub(crate) fn salted_crc(generation: u64, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&generation.to_le_bytes()), data)
}

/// CRC-32C of the generation, then all `parts`.
pub(crate) fn salted_crc_parts(generation: u64, parts: &[Bytes]) -> u32 {
    let salt = crc32c::crc32c(&generation.to_le_bytes());
    parts
        .iter()
        .fold(salt, |crc, part| crc32c::crc32c_append(crc, part))
}

/// Bytes copied before they are added to a checksum: they are then still in the processor's cache. A multiple of what
/// `crc32c` takes in one step.
const COPIED_AT_ONCE: usize = 24 << 10;

/// Copies `parts` to the beginning of `out`, fills the rest with zeros, and gives [`salted_crc_parts`] of them: one walk through memory
/// in place of two.
///
/// # Panics
/// When `out` is shorter than `parts`.
pub(crate) fn copy_salted(generation: u64, parts: &[Bytes], out: &mut [u8]) -> u32 {
    let mut crc = crc32c::crc32c(&generation.to_le_bytes());
    let mut at = 0;
    for piece in parts.iter().flat_map(|part| part.chunks(COPIED_AT_ONCE)) {
        let copy = &mut out[at..at + piece.len()];
        copy.copy_from_slice(piece);
        crc = crc32c::crc32c_append(crc, copy);
        at += piece.len();
    }
    out[at..].fill(0);
    crc
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut v = [0; 8];
    v.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_parts_have_the_checksum_of_the_parts_and_zeros_behind() {
        for lens in [&[][..], &[0, 1, 17], &[100_000, 0, 24 << 10, 3]] {
            let parts: Vec<Bytes> = lens
                .iter()
                .map(|len| (0..*len).map(|i| (i * 31 + len) as u8).collect())
                .collect();
            let whole = parts.concat();
            let mut out = vec![9; whole.len() + 50];
            let crc = copy_salted(7, &parts, &mut out);
            assert_eq!(crc, salted_crc_parts(7, &parts));
            assert_eq!(crc, salted_crc(7, &whole));
            assert_eq!(out[..whole.len()], whole);
            assert!(out[whole.len()..].iter().all(|b| *b == 0));
        }
    }
}
