//! A reader that believes nothing: every length and count is checked against the bytes that are left before anything
//! is made of it.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use tidemill_model::TopicId;
use tidemill_model::varint::read_u32;

/// Most elements that the arrays of one request may hold together. Small elements on the wire are large in memory;
/// without this a frame of the largest size would be worth gigabytes. A topic may have 100,000 partitions, and a request
/// may name each.
pub const ELEMENTS_MAX: usize = 200_000;

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field or an element reaches beyond the end.
    #[error("request ends inside {0}")]
    Truncated(&'static str),
    /// A length or count that cannot be.
    #[error("{0} has an impossible length")]
    Length(&'static str),
    /// A null where there must be something.
    #[error("{0} is null")]
    Null(&'static str),
    /// A text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    Utf8(&'static str),
    /// More array elements than a request of its kind may have: its limit.
    #[error("request has more than {0} array elements; send several requests")]
    TooManyElements(usize),
    /// An API or version that is not served.
    #[error("API {api} is not served in version {version}")]
    Version {
        /// The API key.
        api: i16,
        /// The version asked for.
        version: i16,
    },
    /// The message codec refuses what it was given.
    #[error("message codec: {0}")]
    Codec(String),
}

/// A cursor over a request. Methods name the field they read, for the error.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    /// Array elements that may still come, of so many.
    elements_left: usize,
    elements_max: usize,
}

impl<'a> Reader<'a> {
    /// A cursor at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader::limited(bytes, ELEMENTS_MAX)
    }

    /// A cursor at the start of `bytes` whose arrays may hold `elements_max` elements together.
    pub fn limited(bytes: &'a [u8], elements_max: usize) -> Reader<'a> {
        Reader {
            rest: bytes,
            elements_left: elements_max,
            elements_max,
        }
    }

    fn take_elements(&mut self, count: usize) -> Result<(), WireError> {
        let left = self.elements_left.checked_sub(count);
        self.elements_left = left.ok_or(WireError::TooManyElements(self.elements_max))?;
        Ok(())
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(WireError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array_of<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(WireError::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A boolean; every byte but 0 is true.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn boolean(&mut self, what: &'static str) -> Result<bool, WireError> {
        Ok(self.i8(what)? != 0)
    }

    /// An 8-bit integer.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn i8(&mut self, what: &'static str) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.array_of(what)?))
    }

    /// A 16-bit integer.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn i16(&mut self, what: &'static str) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array_of(what)?))
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn i32(&mut self, what: &'static str) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array_of(what)?))
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn i64(&mut self, what: &'static str) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.array_of(what)?))
    }

    /// A topic id.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn topic_id(&mut self, what: &'static str) -> Result<TopicId, WireError> {
        Ok(TopicId(self.array_of(what)?))
    }

    fn unsigned(&mut self, what: &'static str) -> Result<u32, WireError> {
        let (value, used) = read_u32(self.rest).map_err(|e| match e {
            tidemill_model::varint::VarintError::Truncated => WireError::Truncated(what),
            tidemill_model::varint::VarintError::TooLong => WireError::Length(what),
        })?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    /// A length or count of the flexible form (plus one, 0 is null).
    fn compact(&mut self, what: &'static str) -> Result<Option<usize>, WireError> {
        Ok(self.unsigned(what)?.checked_sub(1).map(|n| n as usize))
    }

    /// Bytes with a 32-bit length, or null. `flexible` chooses the compact form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn nullable_bytes(
        &mut self,
        flexible: Flexible,
        what: &'static str,
    ) -> Result<Option<&'a [u8]>, WireError> {
        let len = match flexible {
            Flexible::Yes => self.compact(what)?,
            Flexible::No => signed(i64::from(self.i32(what)?), what)?,
        };
        len.map(|len| self.take(len, what)).transpose()
    }

    /// A text with a 16-bit length, or null. `flexible` chooses the compact form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn nullable_string(
        &mut self,
        flexible: Flexible,
        what: &'static str,
    ) -> Result<Option<&'a str>, WireError> {
        let len = match flexible {
            Flexible::Yes => self.compact(what)?,
            Flexible::No => signed(i64::from(self.i16(what)?), what)?,
        };
        if len.is_some_and(|len| len > i16::MAX as usize) {
            return Err(WireError::Length(what));
        }
        let bytes = len.map(|len| self.take(len, what)).transpose()?;
        bytes
            .map(|b| std::str::from_utf8(b).map_err(|_| WireError::Utf8(what)))
            .transpose()
    }

    /// A text that is not null.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn string(&mut self, flexible: Flexible, what: &'static str) -> Result<&'a str, WireError> {
        self.nullable_string(flexible, what)?
            .ok_or(WireError::Null(what))
    }

    /// The count of an array whose elements have at least `element_bytes_min` bytes, or null.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when that many elements cannot be there; [`WireError::TooManyElements`].
    pub fn nullable_count(
        &mut self,
        flexible: Flexible,
        element_bytes_min: usize,
        what: &'static str,
    ) -> Result<Option<usize>, WireError> {
        let count = match flexible {
            Flexible::Yes => self.compact(what)?,
            Flexible::No => signed(i64::from(self.i32(what)?), what)?,
        };
        let Some(count) = count else { return Ok(None) };
        if count.saturating_mul(element_bytes_min.max(1)) > self.rest.len() {
            return Err(WireError::Truncated(what));
        }
        self.take_elements(count)?;
        Ok(Some(count))
    }

    /// The count of an array that is not null.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn count(
        &mut self,
        flexible: Flexible,
        element_bytes_min: usize,
        what: &'static str,
    ) -> Result<usize, WireError> {
        self.nullable_count(flexible, element_bytes_min, what)?
            .ok_or(WireError::Null(what))
    }

    /// An array of elements read by `element`.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn array<T>(
        &mut self,
        flexible: Flexible,
        element_bytes_min: usize,
        what: &'static str,
        mut element: impl FnMut(&mut Reader<'a>) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.count(flexible, element_bytes_min, what)?;
        (0..count).map(|_| element(self)).collect()
    }

    /// Tagged fields (KIP-482), each given to `field`; nothing when the version is not flexible. Unknown ones are
    /// simply not looked at by `field`.
    ///
    /// # Errors
    /// [`WireError`]; also what `field` returns.
    pub fn tagged(
        &mut self,
        flexible: Flexible,
        mut field: impl FnMut(u32, &'a [u8]) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if flexible == Flexible::No {
            return Ok(());
        }
        let count = self.unsigned("tagged fields")? as usize;
        // A tagged field is at least its tag and its length.
        if count.saturating_mul(2) > self.rest.len() {
            return Err(WireError::Truncated("tagged fields"));
        }
        self.take_elements(count)?;
        for _ in 0..count {
            let tag = self.unsigned("a tagged field")?;
            let len = self.unsigned("a tagged field")? as usize;
            field(tag, self.take(len, "a tagged field")?)?;
        }
        Ok(())
    }

    /// Skips tagged fields.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn skip_tagged(&mut self, flexible: Flexible) -> Result<(), WireError> {
        self.tagged(flexible, |_, _| Ok(()))
    }
}

/// Whether a version of a message is flexible (KIP-482): compact lengths and tagged fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flexible {
    /// Compact lengths, tagged fields.
    Yes,
    /// Fixed-width lengths, no tagged fields.
    No,
}

impl Flexible {
    /// Of a message that is flexible from version `from` on.
    pub fn of(version: i16, from: i16) -> Flexible {
        if version >= from {
            Flexible::Yes
        } else {
            Flexible::No
        }
    }
}

/// `text`, which lies in `frame`, sharing its memory.
pub fn shared_text(frame: &Bytes, text: &str) -> StrBytes {
    StrBytes::from_utf8(frame.slice_ref(text.as_bytes())).expect("it was a text before")
}

fn signed(len: i64, what: &'static str) -> Result<Option<usize>, WireError> {
    match len {
        -1 => Ok(None),
        len => usize::try_from(len)
            .map(Some)
            .map_err(|_| WireError::Length(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_two_billion_are_refused_before_anything_is_made() {
        let classic = i32::MAX.to_be_bytes();
        let mut r = Reader::new(&classic);
        assert_eq!(
            r.count(Flexible::No, 1, "topics"),
            Err(WireError::Truncated("topics"))
        );
        let compact = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0];
        let mut r = Reader::new(&compact);
        assert_eq!(
            r.count(Flexible::Yes, 1, "topics"),
            Err(WireError::Truncated("topics"))
        );
        let mut r = Reader::new(&compact);
        assert_eq!(
            r.skip_tagged(Flexible::Yes),
            Err(WireError::Truncated("tagged fields"))
        );
        let negative = (-2i32).to_be_bytes();
        assert_eq!(
            Reader::new(&negative).count(Flexible::No, 1, "topics"),
            Err(WireError::Length("topics"))
        );
    }

    #[test]
    fn the_elements_of_one_request_are_bounded_together() {
        let mut bytes = Vec::new();
        for _ in 0..2 {
            bytes.extend_from_slice(&(ELEMENTS_MAX as i32 / 2 + 1).to_be_bytes());
        }
        bytes.resize(2 * ELEMENTS_MAX, 0);
        let mut r = Reader::new(&bytes);
        assert!(r.count(Flexible::No, 1, "topics").is_ok());
        assert_eq!(
            r.count(Flexible::No, 1, "topics"),
            Err(WireError::TooManyElements(ELEMENTS_MAX))
        );
    }
}
