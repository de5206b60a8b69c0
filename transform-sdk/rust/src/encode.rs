//! Writing a record into a section (the layout of KIP-98): all lengths first, then the bytes, each once.

use crate::new_record::{NewRecord, Value};
use crate::varint::{put_varlong, varlong_len};

/// The lengths of a record about to be written.
pub(crate) struct Layout {
    timestamp_delta: i64,
    offset_delta: u32,
    value_len: usize,
    body_len: usize,
}

impl Layout {
    /// Computes the lengths of `record` as number `offset_delta` of its section.
    #[inline]
    pub(crate) fn new(record: &NewRecord<'_>, timestamp_delta: i64, offset_delta: u32) -> Layout {
        let value_len = match record.value {
            Value::Null => 0,
            Value::Whole(bytes) => bytes.len(),
            Value::Parts(parts) => parts.iter().map(|p| p.len()).sum(),
        };
        let has_value = !matches!(record.value, Value::Null);
        let added: usize = record
            .headers
            .iter()
            .map(|(k, v)| nullable_len(Some(k.len())) + nullable_len(v.map(<[u8]>::len)))
            .sum();
        let headers = record.kept_headers.len() + record.headers.len();
        let body_len = 1
            + varlong_len(timestamp_delta)
            + varlong_len(i64::from(offset_delta))
            + nullable_len(record.key.map(<[u8]>::len))
            + nullable_len(has_value.then_some(value_len))
            + varlong_len(headers as i64)
            + record.kept_headers.bytes.len()
            + added;
        Layout {
            timestamp_delta,
            offset_delta,
            value_len,
            body_len,
        }
    }

    /// Bytes of the record with its length.
    #[inline]
    pub(crate) fn total_len(&self) -> usize {
        varlong_len(self.body_len as i64) + self.body_len
    }

    /// Appends `record`, the one the layout was computed of.
    #[inline]
    pub(crate) fn put(&self, out: &mut Vec<u8>, record: &NewRecord<'_>) {
        out.reserve(self.total_len());
        put_varlong(out, self.body_len as i64);
        out.push(0);
        put_varlong(out, self.timestamp_delta);
        put_varlong(out, i64::from(self.offset_delta));
        put_nullable(out, record.key);
        match record.value {
            Value::Null => put_varlong(out, -1),
            Value::Whole(bytes) => put_nullable(out, Some(bytes)),
            Value::Parts(parts) => {
                put_varlong(out, self.value_len as i64);
                parts.iter().for_each(|part| put_bytes(out, part));
            }
        }
        put_varlong(
            out,
            (record.kept_headers.len() + record.headers.len()) as i64,
        );
        put_bytes(out, record.kept_headers.bytes);
        for (key, value) in &record.headers {
            put_nullable(out, Some(key));
            put_nullable(out, *value);
        }
    }
}

#[inline]
fn nullable_len(len: Option<usize>) -> usize {
    len.map_or(1, |len| varlong_len(len as i64) + len)
}

#[inline]
fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else {
        return put_varlong(out, -1);
    };
    put_varlong(out, bytes.len() as i64);
    put_bytes(out, bytes);
}

/// Appends `bytes`, few of them in pieces of fixed sizes: a copy of a size known only when it runs is a call out of the
/// sandbox, which costs more than they do.
#[inline]
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    const FEW: usize = 32;
    if bytes.len() > FEW {
        return out.extend_from_slice(bytes);
    }
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().for_each(|word| out.extend_from_slice(word));
    rest.iter().for_each(|byte| out.push(*byte));
}
