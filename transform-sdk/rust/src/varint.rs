//! Kafka's zigzag variable-length numbers (the encoding of Protocol Buffers' sint32 and sint64).

/// Bytes that a 64-bit number takes at most.
pub(crate) const VARLONG_BYTES_MAX: usize = 10;

/// Takes a 64-bit number off the front of `bytes`; `None` when it is cut or too long.
#[inline]
pub(crate) fn take_varlong(bytes: &mut &[u8]) -> Option<i64> {
    match **bytes {
        [first, ..] if first < 0x80 => {
            *bytes = &bytes[1..];
            Some(unzigzag(u64::from(first)))
        }
        // Most lengths of records and values; a call would cost the sandbox more.
        [first, second, ..] if second < 0x80 => {
            *bytes = &bytes[2..];
            let value = u64::from(first & 0x7f) | u64::from(second) << 7;
            Some(unzigzag(value))
        }
        _ => take_long_varlong(bytes),
    }
}

fn take_long_varlong(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(VARLONG_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            if i == VARLONG_BYTES_MAX - 1 && byte > 1 {
                return None;
            }
            *bytes = &bytes[i + 1..];
            return Some(unzigzag(value));
        }
    }
    None
}

/// Takes a 32-bit number off the front of `bytes`; `None` when it is cut, too long or out of range.
#[inline]
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<i32> {
    i32::try_from(take_varlong(bytes)?).ok()
}

/// Bytes that `value` takes: a seventh of its bits, rounded up, without a division.
#[inline]
pub(crate) fn varlong_len(value: i64) -> usize {
    let bits = 64 - zigzag(value).leading_zeros() as usize;
    (9 * bits + 64) >> 6
}

/// Appends `value`.
#[inline]
pub(crate) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    if rest < 0x80 {
        out.push(rest as u8);
        return;
    }
    // Of fixed sizes: a copy of a size known only when it runs is a call out of the sandbox, which costs more than a number.
    if rest < 1 << 14 {
        return out.extend_from_slice(&[rest as u8 | 0x80, (rest >> 7) as u8]);
    }
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_come_back() {
        for bits in 0..64 {
            for value in [
                1i64 << bits,
                (1i64 << bits).wrapping_sub(1),
                (1i64 << bits).wrapping_neg(),
            ] {
                let mut bytes = Vec::new();
                put_varlong(&mut bytes, value);
                assert_eq!(bytes.len(), varlong_len(value), "{value}");
                let mut rest = &bytes[..];
                assert_eq!(take_varlong(&mut rest), Some(value));
                assert!(rest.is_empty());
                assert_eq!(take_varlong(&mut &bytes[..bytes.len() - 1]), None);
            }
        }
    }

    #[test]
    fn number_with_too_many_bytes_is_refused() {
        assert_eq!(take_varlong(&mut &[0xff; 11][..]), None);
        let mut overflowing = [0x80; 10];
        overflowing[9] = 2;
        assert_eq!(take_varlong(&mut &overflowing[..]), None);
        assert_eq!(
            take_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 1][..]),
            None
        );
    }
}
