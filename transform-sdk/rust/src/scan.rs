//! Looking through many bytes at once: where the compiler targets vectors of WebAssembly, 16 at a time.

/// Bytes at the start of `text` that end neither a JSON string nor its plain part: no quote, backslash or control character.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline]
pub(crate) fn plain_bytes(text: &[u8]) -> usize {
    use core::arch::wasm32::{v128_any_true, v128_or};
    // A sandbox looks at its clock wherever a loop begins: long texts take four blocks at a time.
    let (fours, after) = text.as_chunks::<64>();
    let mut at = 0;
    for four in fours {
        let (blocks, _) = four.as_chunks::<16>();
        let marks = [0, 1, 2, 3].map(|n| special(&blocks[n]));
        let any = v128_or(v128_or(marks[0], marks[1]), v128_or(marks[2], marks[3]));
        if v128_any_true(any) {
            let low = marked(marks[0]) | marked(marks[1]) << 16;
            let high = marked(marks[2]) | marked(marks[3]) << 16;
            return at + (low | high << 32).trailing_zeros() as usize;
        }
        at += 64;
    }
    let (blocks, rest) = after.as_chunks::<16>();
    for block in blocks {
        let special = marked(special(block));
        if special != 0 {
            return at + special.trailing_zeros() as usize;
        }
        at += 16;
    }
    at + rest.iter().take_while(|b| is_plain(**b)).count()
}

/// The bytes of a block that are not plain, all bits of each.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline]
fn special(block: &[u8; 16]) -> core::arch::wasm32::v128 {
    use core::arch::wasm32::{u8x16_eq, u8x16_lt, u8x16_splat, v128_or};
    let block = vector(block);
    let quote = u8x16_eq(block, u8x16_splat(b'"'));
    let backslash = u8x16_eq(block, u8x16_splat(b'\\'));
    let control = u8x16_lt(block, u8x16_splat(0x20));
    v128_or(v128_or(quote, backslash), control)
}

/// A bit for each byte of [`special`].
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline]
fn marked(special: core::arch::wasm32::v128) -> u64 {
    u64::from(core::arch::wasm32::u8x16_bitmask(special))
}

/// Whether every byte is below 128.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(crate) fn is_ascii(text: &[u8]) -> bool {
    use core::arch::wasm32::{u8x16_bitmask, u8x16_splat, v128_or};
    let (runs, rest) = text.as_chunks::<128>();
    let ascii = |run: &[u8; 128]| {
        let (blocks, _) = run.as_chunks::<16>();
        let or = |a: usize, b: usize| v128_or(vector(&blocks[a]), vector(&blocks[b]));
        let (front, back) = (v128_or(or(0, 1), or(2, 3)), v128_or(or(4, 5), or(6, 7)));
        u8x16_bitmask(v128_or(front, back)) == 0
    };
    if !runs.iter().all(ascii) {
        return false;
    }
    let (blocks, rest) = rest.as_chunks::<16>();
    let mut seen = u8x16_splat(0);
    blocks.iter().for_each(|b| seen = v128_or(seen, vector(b)));
    let (words, rest) = rest.as_chunks::<8>();
    let words = words
        .iter()
        .fold(0, |seen, w| seen | u64::from_le_bytes(*w));
    u8x16_bitmask(seen) == 0
        && words & u64::from_ne_bytes([0x80; 8]) == 0
        && rest.iter().all(u8::is_ascii)
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline]
fn vector(block: &[u8; 16]) -> core::arch::wasm32::v128 {
    let (words, _) = block.as_chunks::<8>();
    let [low, high] = [words[0], words[1]].map(u64::from_le_bytes);
    core::arch::wasm32::u64x2(low, high)
}

/// Bytes at the start of `text` that end neither a JSON string nor its plain part: no quote, backslash or control character.
/// Eight at a time, by the test for a zero byte in a word (Warren, Hacker's Delight, 6-1).
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline]
pub(crate) fn plain_bytes(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let (words, _) = text.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let special = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        // Borrows spread upwards only, so the lowest bit set is exact.
        if special & HIGH != 0 {
            return at + (special & HIGH).trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + text[at..].iter().take_while(|b| is_plain(**b)).count()
}

/// Whether every byte is below 128.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
pub(crate) fn is_ascii(text: &[u8]) -> bool {
    text.is_ascii()
}

/// The place of the last `byte` in `text`.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub fn find_last(text: &[u8], byte: u8) -> Option<usize> {
    use core::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_splat};
    let (rest, blocks) = text.as_rchunks::<16>();
    for (n, block) in blocks.iter().enumerate().rev() {
        let found = u8x16_bitmask(u8x16_eq(vector(block), u8x16_splat(byte)));
        if found != 0 {
            return Some(rest.len() + n * 16 + found.ilog2() as usize);
        }
    }
    rest.iter().rposition(|b| *b == byte)
}

/// The place of the last `byte` in `text`.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
pub fn find_last(text: &[u8], byte: u8) -> Option<usize> {
    text.iter().rposition(|b| *b == byte)
}

/// Decimal digits at the start of `text`, eight at a time.
#[inline]
pub(crate) fn digits(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let (words, _) = text.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let digits = u64::from_le_bytes(*word) ^ (ONES * b'0' as u64);
        // What is more than 9 reaches the highest bit of its byte; carries spread upwards only, so the lowest bit set is exact.
        let others = (digits.wrapping_add(ONES * 0x76) | digits) & (ONES << 7);
        if others != 0 {
            return at + others.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + text[at..].iter().take_while(|b| b.is_ascii_digit()).count()
}

#[inline]
fn is_plain(b: u8) -> bool {
    b >= 0x20 && b != b'"' && b != b'\\'
}

#[cfg(test)]
mod tests {
    use super::{digits, find_last, is_ascii, is_plain, plain_bytes};

    #[test]
    fn every_byte_is_found_at_every_place() {
        for len in 0..150 {
            for at in 0..len {
                for byte in 0..=255 {
                    let mut text = vec![b'a'; len];
                    text[at] = byte;
                    let plain = if is_plain(byte) { len } else { at };
                    assert_eq!(plain_bytes(&text), plain, "{byte} at {at} of {len}");
                    assert_eq!(is_ascii(&text), byte < 0x80, "{byte} at {at} of {len}");
                    text.fill(b'7');
                    text[at] = byte;
                    let count = if byte.is_ascii_digit() { len } else { at };
                    assert_eq!(digits(&text), count, "{byte} at {at} of {len}");
                    text.fill(b'a');
                    text[at] = byte;
                    let last = if byte == b'a' { len - 1 } else { at };
                    assert_eq!(find_last(&text, byte), Some(last), "{byte} of {len}");
                }
            }
        }
    }
}
