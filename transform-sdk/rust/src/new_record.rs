//! A record to be written.

use crate::placement::Placement;
use crate::record::{Headers, Record};

/// A record to be written: borrowed parts, put together in the output's batch when it is written.
///
/// Made by [`Record::edit`] (keeps key, value, headers and timestamp) or [`NewRecord::new`] (nothing; its timestamp is the
/// input record's).
#[derive(Debug, Clone, Default)]
pub struct NewRecord<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Value<'a>,
    pub(crate) kept_headers: Headers<'a>,
    pub(crate) headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) placement: Option<Placement>,
}

/// Where the bytes of a value come from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Value<'a> {
    #[default]
    Null,
    Whole(&'a [u8]),
    Parts(&'a [&'a [u8]]),
}

impl<'a> NewRecord<'a> {
    /// A record without key, value or headers. Its timestamp is that of the input record it is written for.
    pub fn new() -> NewRecord<'a> {
        NewRecord::default()
    }

    /// Sets the key.
    pub fn key<K: AsRef<[u8]> + ?Sized>(mut self, key: &'a K) -> NewRecord<'a> {
        self.key = Some(key.as_ref());
        self
    }

    /// Takes the key away.
    pub fn no_key(mut self) -> NewRecord<'a> {
        self.key = None;
        self
    }

    /// Sets the value.
    pub fn value<V: AsRef<[u8]> + ?Sized>(mut self, value: &'a V) -> NewRecord<'a> {
        self.value = Value::Whole(value.as_ref());
        self
    }

    /// Sets the value to `parts`, one after the other, without a buffer to put them together in.
    pub fn value_parts(mut self, parts: &'a [&'a [u8]]) -> NewRecord<'a> {
        self.value = Value::Parts(parts);
        self
    }

    /// Takes the value away, which makes a tombstone.
    pub fn no_value(mut self) -> NewRecord<'a> {
        self.value = Value::Null;
        self
    }

    /// Adds a header after the others. Headers of the same key stay beside it.
    pub fn header<V: AsRef<[u8]> + ?Sized>(mut self, key: &'a str, value: &'a V) -> NewRecord<'a> {
        self.headers.push((key.as_bytes(), Some(value.as_ref())));
        self
    }

    /// Adds a header without a value after the others.
    pub fn null_header(mut self, key: &'a str) -> NewRecord<'a> {
        self.headers.push((key.as_bytes(), None));
        self
    }

    /// Takes all headers away.
    pub fn no_headers(mut self) -> NewRecord<'a> {
        self.kept_headers = Headers::default();
        self.headers.clear();
        self
    }

    /// Sets the timestamp, in ms since the Unix epoch.
    pub fn timestamp(mut self, timestamp: i64) -> NewRecord<'a> {
        self.timestamp = Some(timestamp);
        self
    }

    /// Puts it into the partition that Kafka's clients choose for its key. A record whose key differs from the input record's goes there
    /// anyway; any other goes to the partition with the input partition's number.
    pub fn by_key(mut self) -> NewRecord<'a> {
        self.placement = Some(Placement::ByKey);
        self
    }

    /// Puts it into this partition of the output, whatever its key. The record fails where the output has no such partition.
    pub fn partition(mut self, partition: u32) -> NewRecord<'a> {
        self.placement = Some(Placement::Partition(partition));
        self
    }

    /// Where it goes when written for an input record with the key `input_key`.
    #[inline]
    pub(crate) fn placed(&self, input_key: Option<&[u8]>) -> Placement {
        match self.placement {
            Some(placement) => placement,
            None if same(self.key, input_key) => Placement::ByInput,
            None => Placement::ByKey,
        }
    }
}

impl<'a> From<Record<'a>> for NewRecord<'a> {
    #[inline]
    fn from(record: Record<'a>) -> NewRecord<'a> {
        NewRecord {
            key: record.key,
            value: record.value.map_or(Value::Null, Value::Whole),
            kept_headers: record.headers,
            headers: Vec::new(),
            timestamp: Some(record.timestamp),
            placement: None,
        }
    }
}

/// Whether two keys are the same; mostly they are the same bytes in memory.
#[inline]
fn same(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => std::ptr::eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    }
}
