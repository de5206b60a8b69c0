//! Zigzag variable-length integers, as Kafka's records use them (Protocol Buffers' `sint32` and `sint64`), and the
//! unsigned form that flexible protocol versions use for lengths (KIP-482).

/// Most bytes of an encoded 32-bit integer.
pub const VARINT_BYTES_MAX: usize = 5;
/// Most bytes of an encoded 64-bit integer.
pub const VARLONG_BYTES_MAX: usize = 10;

/// Bytes that are not a variable-length integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VarintError {
    /// The bytes end inside it.
    #[error("the bytes end inside a variable-length integer")]
    Truncated,
    /// It has more bits than its type.
    #[error("a variable-length integer has too many bits")]
    TooLong,
}

/// Reads an unsigned 64-bit integer at the start of `b`; also how many bytes it took.
///
/// # Errors
/// [`VarintError`].
pub fn read_u64(b: &[u8]) -> Result<(u64, usize), VarintError> {
    let mut value = 0u64;
    for (i, byte) in b.iter().take(VARLONG_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if i == VARLONG_BYTES_MAX - 1 && bits > 1 {
            return Err(VarintError::TooLong);
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((value, i + 1));
        }
    }
    Err(if b.len() < VARLONG_BYTES_MAX {
        VarintError::Truncated
    } else {
        VarintError::TooLong
    })
}

/// Reads an unsigned 32-bit integer at the start of `b`; also how many bytes it took.
///
/// # Errors
/// [`VarintError`].
pub fn read_u32(b: &[u8]) -> Result<(u32, usize), VarintError> {
    if let Some(first) = b.first()
        && first & 0x80 == 0
    {
        return Ok((u32::from(*first), 1));
    }
    let (value, used) = match read_u64(&b[..b.len().min(VARINT_BYTES_MAX)]) {
        Err(VarintError::Truncated) if b.len() >= VARINT_BYTES_MAX => {
            return Err(VarintError::TooLong);
        }
        other => other?,
    };
    let value = u32::try_from(value).map_err(|_| VarintError::TooLong)?;
    Ok((value, used))
}

/// Reads a zigzag 32-bit integer (Kafka's `varint`) at the start of `b`; also how many bytes it took.
///
/// # Errors
/// [`VarintError`].
pub fn read_varint(b: &[u8]) -> Result<(i32, usize), VarintError> {
    let (raw, used) = read_u32(b)?;
    Ok(((raw >> 1) as i32 ^ -((raw & 1) as i32), used))
}

/// Reads a zigzag 64-bit integer (Kafka's `varlong`) at the start of `b`; also how many bytes it took.
///
/// # Errors
/// [`VarintError`].
pub fn read_varlong(b: &[u8]) -> Result<(i64, usize), VarintError> {
    let (raw, used) = read_u64(b)?;
    Ok(((raw >> 1) as i64 ^ -((raw & 1) as i64), used))
}

/// Appends an unsigned integer.
pub fn write_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a zigzag 32-bit integer.
pub fn write_varint(out: &mut Vec<u8>, value: i32) {
    write_varlong(out, i64::from(value));
}

/// Appends a zigzag 64-bit integer. For values of 32 bits the bytes are those of [`write_varint`].
pub fn write_varlong(out: &mut Vec<u8>, value: i64) {
    write_u64(out, zigzag(value));
}

/// Bytes that [`write_u64`] appends.
pub fn u64_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Bytes that [`write_varint`] and [`write_varlong`] append.
pub fn varlong_len(value: i64) -> usize {
    u64_len(zigzag(value))
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extremes_have_the_bytes_of_protocol_buffers() {
        for (value, bytes) in [
            (0, vec![0]),
            (-1, vec![1]),
            (1, vec![2]),
            (-64, vec![127]),
            (64, vec![128, 1]),
        ] {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            assert_eq!(out, bytes);
        }
        assert_eq!(
            read_varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]),
            Ok((i32::MIN, 5))
        );
        assert_eq!(
            read_varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
            Err(VarintError::TooLong)
        );
        assert_eq!(read_varint(&[0xff; 6]), Err(VarintError::TooLong));
        assert_eq!(read_varint(&[0xff; 4]), Err(VarintError::Truncated));
        assert_eq!(read_varint(&[]), Err(VarintError::Truncated));
        assert_eq!(read_varlong(&[0xff; 11]), Err(VarintError::TooLong));
    }

    proptest! {
        #[test]
        fn integers_round_trip_and_every_cut_is_refused(small: i32, large: i64, unsigned: u64) {
            let mut out = Vec::new();
            write_varint(&mut out, small);
            prop_assert_eq!(read_varint(&out), Ok((small, out.len())));
            prop_assert_eq!(varlong_len(i64::from(small)), out.len());
            out.clear();
            write_varlong(&mut out, large);
            prop_assert_eq!(read_varlong(&out), Ok((large, out.len())));
            prop_assert_eq!(varlong_len(large), out.len());
            prop_assert_eq!(read_varlong(&out[..out.len() - 1]), Err(VarintError::Truncated));
            out.clear();
            write_u64(&mut out, unsigned);
            prop_assert_eq!(read_u64(&out), Ok((unsigned, out.len())));
        }
    }
}
