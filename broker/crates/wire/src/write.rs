//! Writing messages, classic or flexible, with record batches taken in by reference.

use bytes::Bytes;
use tidemill_model::varint::write_u64;
use tidemill_model::{Batch, TopicId};

use crate::TopicRef;
use crate::bounded::Flexible;

/// Batches below this many bytes are copied into the response: a part of its own costs more than the copy.
const COPY_BELOW_BYTES: usize = 4096;

/// A message being written.
#[derive(Debug)]
pub struct Writer {
    flexible: Flexible,
    out: Vec<u8>,
    parts: Vec<Bytes>,
}

impl Writer {
    /// An empty message.
    pub fn new(flexible: Flexible) -> Writer {
        Writer {
            flexible,
            out: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Writes a boolean.
    pub fn boolean(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    /// Writes a 16-bit integer.
    pub fn i16(&mut self, value: i16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes a 32-bit integer.
    pub fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes a 64-bit integer.
    pub fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes a topic id.
    pub fn topic_id(&mut self, id: TopicId) {
        self.out.extend_from_slice(&id.0);
    }

    /// Writes a topic as a version that knows names or ids wants it.
    pub fn topic(&mut self, topic: &TopicRef) {
        match topic {
            TopicRef::Name(name) => self.string(Some(name)),
            TopicRef::Id(id) => self.topic_id(*id),
        }
    }

    /// Writes the count of an array.
    pub fn count(&mut self, count: usize) {
        self.length(Some(count));
    }

    /// Writes a null array or null bytes.
    pub fn null(&mut self) {
        self.length(None);
    }

    /// Writes a text, or null. Texts above 32,767 bytes are cut at a character.
    pub fn string(&mut self, text: Option<&str>) {
        let text = text.map(|t| &t[..t.floor_char_boundary(i16::MAX as usize)]);
        match (self.flexible, text) {
            (Flexible::Yes, _) => self.length(text.map(str::len)),
            (Flexible::No, Some(text)) => self.i16(text.len() as i16),
            (Flexible::No, None) => self.i16(-1),
        }
        self.out
            .extend_from_slice(text.unwrap_or_default().as_bytes());
    }

    /// Writes batches as one records field. Their memory is shared, not copied, unless they are small.
    pub fn batches(&mut self, batches: &[Batch]) {
        self.length(Some(batches.iter().map(Batch::len).sum()));
        for batch in batches {
            self.out.extend_from_slice(&batch.first_bytes());
            let rest = batch.rest();
            if rest.len() < COPY_BELOW_BYTES {
                self.out.extend_from_slice(&rest);
            } else {
                self.parts.push(Bytes::from(std::mem::take(&mut self.out)));
                self.parts.push(rest);
            }
        }
    }

    /// Writes that there are no tagged fields; nothing when the version is not flexible.
    pub fn no_tags(&mut self) {
        if self.flexible == Flexible::Yes {
            self.out.push(0);
        }
    }

    /// Writes tagged fields, which must be in ascending order; nothing when the version is not flexible.
    pub fn tags(&mut self, fields: &[(u64, Vec<u8>)]) {
        if self.flexible == Flexible::No {
            return;
        }
        write_u64(&mut self.out, fields.len() as u64);
        for (tag, value) in fields {
            write_u64(&mut self.out, *tag);
            write_u64(&mut self.out, value.len() as u64);
            self.out.extend_from_slice(value);
        }
    }

    /// What was written, flat.
    pub fn into_bytes(mut self) -> Vec<u8> {
        if self.parts.is_empty() {
            return self.out;
        }
        self.parts.push(Bytes::from(self.out));
        self.parts.concat()
    }

    /// What was written, in parts that share the batches' memory.
    pub fn into_parts(mut self) -> Vec<Bytes> {
        if !self.out.is_empty() {
            self.parts.push(Bytes::from(self.out));
        }
        self.parts
    }

    fn length(&mut self, len: Option<usize>) {
        match (self.flexible, len) {
            (Flexible::Yes, len) => write_u64(&mut self.out, len.map_or(0, |n| n as u64 + 1)),
            (Flexible::No, Some(len)) => self.i32(len as i32),
            (Flexible::No, None) => self.i32(-1),
        }
    }
}
