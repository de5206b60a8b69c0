//! The binary form of states and commands: big endian, lengths and counts in front, bounds checked on the way in.

use bytes::BufMut;
use tidemill_model::{Incarnation, PartitionId, TopicId};

/// Bytes that are not what they should be. A checkpoint or a log entry with a right CRC that fails to decode was
/// written by a newer version, or by a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored state cannot be read: {0}; was it written by a newer version?")]
pub struct DecodeError(pub &'static str);

/// Reads values off the front of a byte string.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

macro_rules! int {
    ($name:ident, $ty:ty) => {
        /// Takes one integer.
        ///
        /// # Errors
        /// [`DecodeError`] when fewer bytes are left.
        pub fn $name(&mut self) -> Result<$ty, DecodeError> {
            let (head, rest) = self
                .0
                .split_first_chunk()
                .ok_or(DecodeError("it is cut short"))?;
            self.0 = rest;
            Ok(<$ty>::from_be_bytes(*head))
        }
    };
}

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    int!(u8, u8);
    int!(u16, u16);
    int!(u32, u32);
    int!(u64, u64);
    int!(i16, i16);
    int!(i32, i32);
    int!(i64, i64);

    /// Takes `len` bytes.
    ///
    /// # Errors
    /// [`DecodeError`] when fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(DecodeError("it is cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    /// Takes a count that may be at most what is left allows, with elements of at least `element_bytes` bytes.
    ///
    /// # Errors
    /// [`DecodeError`] when so many elements cannot follow.
    pub fn count(&mut self, element_bytes: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        if count.saturating_mul(element_bytes) > self.0.len() {
            return Err(DecodeError("a count exceeds its bytes"));
        }
        Ok(count)
    }

    /// Takes a partition id.
    ///
    /// # Errors
    /// [`DecodeError`] when fewer bytes are left.
    pub fn partition(&mut self) -> Result<PartitionId, DecodeError> {
        let (topic, rest) = self
            .0
            .split_first_chunk()
            .ok_or(DecodeError("it is cut short"))?;
        self.0 = rest;
        Ok(PartitionId {
            topic: TopicId(*topic),
            index: self.i32()?,
        })
    }

    /// Takes an incarnation.
    ///
    /// # Errors
    /// [`DecodeError`] when fewer bytes are left.
    pub fn incarnation(&mut self) -> Result<Incarnation, DecodeError> {
        Ok(Incarnation(self.u64()?))
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError`] when bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(DecodeError("bytes follow it")),
        }
    }
}

/// Appends a partition id.
pub fn put_partition(out: &mut Vec<u8>, id: PartitionId) {
    out.put_slice(&id.topic.0);
    out.put_i32(id.index);
}

/// Appends a count.
pub fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u32(u32::try_from(count).expect("collections here have limits far below 2^32"));
}
