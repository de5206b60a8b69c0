//! The inputs that are kept for a reader, packed into one file: `fuzz/corpus/READER.inputs`.
//!
//! One input follows another, four bytes before each say its length (big-endian). They are sorted, and each is there
//! once, so that packing the same inputs gives the same file.

use std::path::PathBuf;

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;
/// What the name of a packed file ends in.
const ENDING: &str = ".inputs";

/// A packed file that ends within an input.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "input {0} is cut off; the file is written by `cargo xtask fuzz` alone, take it from version control again"
)]
pub struct CutOff(usize);

/// Where the inputs of the reader `name` are kept.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    folder().join(format!("{name}{ENDING}"))
}

/// Where the inputs of all readers are kept.
#[must_use]
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

/// The reader whose inputs are kept in a file of this name.
#[must_use]
pub fn reader_of(file: &str) -> Option<&str> {
    file.strip_suffix(ENDING)
}

/// Packs inputs into one file.
#[must_use]
pub fn pack(mut inputs: Vec<Vec<u8>>) -> Vec<u8> {
    inputs.sort_unstable();
    inputs.dedup();
    let mut packed = Vec::new();
    for input in inputs {
        let length = u32::try_from(input.len()).expect("an input that is kept is small");
        packed.extend(length.to_be_bytes());
        packed.extend(input);
    }
    packed
}

/// The inputs of a packed file.
///
/// # Errors
/// [`CutOff`].
pub fn unpack(packed: &[u8]) -> Result<Vec<Vec<u8>>, CutOff> {
    let mut inputs = Vec::new();
    let mut rest = packed;
    while !rest.is_empty() {
        let cut_off = || CutOff(inputs.len() + 1);
        let (length, after) = rest
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or_else(cut_off)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (input, after) = after.split_at_checked(length).ok_or_else(cut_off)?;
        inputs.push(input.to_vec());
        rest = after;
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_back_sorted_and_once() {
        let inputs = [&b"bc"[..], b"", b"a", b"bc", &[7; 300]].map(<[u8]>::to_vec);
        let packed = pack(inputs.to_vec());
        let expected = [&[][..], &[7; 300], b"a", b"bc"].map(<[u8]>::to_vec);
        assert_eq!(unpack(&packed), Ok(expected.to_vec()));
        assert_eq!(pack(expected.to_vec()), packed);
    }

    #[test]
    fn packed_file_that_ends_within_an_input_is_refused() {
        let packed = pack(vec![b"ab".to_vec(), b"c".to_vec()]);
        assert_eq!(unpack(&packed[..packed.len() - 1]), Err(CutOff(2)));
        assert_eq!(unpack(&packed[..8]), Err(CutOff(2)));
        assert_eq!(unpack(&packed[..3]), Err(CutOff(1)));
    }
}
