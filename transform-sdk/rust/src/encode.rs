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
        // Short pieces are written as words, which reach a little beyond them.
        out.reserve(self.total_len() + 8);
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
/// sandbox, which costs more than they do, and so does a loop over bytes, which looks at the sandbox's clock for each.
#[inline]
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    const FEW: usize = 96;
    const BLOCK: usize = 32;
    if bytes.len() > FEW {
        return out.extend_from_slice(bytes);
    }
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    blocks.iter().for_each(|b| out.extend_from_slice(b));
    let (half, rest) = match rest.split_first_chunk::<16>() {
        Some((half, rest)) => (Some(half), rest),
        None => (None, rest),
    };
    if let Some(half) = half {
        out.extend_from_slice(half);
    }
    put_below_16(out, rest);
}

/// Appends fewer than 16 bytes: the first and the last of them, which overlap, put together in a number.
#[inline]
fn put_below_16(out: &mut Vec<u8>, bytes: &[u8]) {
    let end = out.len() + bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        out.extend_from_slice(first);
        // Of the last, what is not among the first.
        let shift = 8 * (16 - bytes.len() as u32);
        let rest = u64::from_le_bytes(*last).checked_shr(shift).unwrap_or(0);
        out.extend_from_slice(&rest.to_le_bytes());
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let first = u64::from(u32::from_le_bytes(*first));
        let last = u64::from(u32::from_le_bytes(*last)) << (8 * (bytes.len() - 4));
        out.extend_from_slice(&(first | last).to_le_bytes());
    } else if let [first, .., last] = *bytes {
        out.extend_from_slice(&[first, bytes[bytes.len() / 2], last]);
    } else if let [one] = *bytes {
        out.push(one);
    }
    out.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::put_bytes;

    #[test]
    fn bytes_of_every_number_are_appended_as_they_are() {
        let all: Vec<u8> = (0..200).collect();
        for len in 0..all.len() {
            let mut out = vec![0xff];
            put_bytes(&mut out, &all[7..][..len.min(193)]);
            assert_eq!(out[0], 0xff);
            assert_eq!(out[1..], all[7..][..len.min(193)], "{len}");
        }
    }
}
