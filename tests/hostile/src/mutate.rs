//! Mutations from a seed, for runs without libFuzzer.

/// A generator of numbers that needs no quality (xorshift, Marsaglia 2003).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Numbers that follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() >> 16) as usize % bound.max(1)
    }
}

/// What lengths and counts are replaced by: limits of every width, in the forms that the readers know.
const TELLING: [&[u8]; 10] = [
    &[0xff, 0xff, 0xff, 0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x7f, 0xff],
    &[0xff, 0xff],
    &[0, 1, 0, 0],
    &[0xff, 0x7f],
    &[0, 0, 0, 0],
];

/// `input` after some changes; `other` is another input, of which a piece may be taken over.
#[must_use]
pub fn mutated(input: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(bytes.len());
        match numbers.below(7) {
            0 => flip(&mut bytes, at, numbers),
            1 => overwrite(&mut bytes, at, TELLING[numbers.below(TELLING.len())]),
            2 => bytes.truncate(at.max(1)),
            3 => {
                let end = (at + 1 + numbers.below(8)).min(bytes.len());
                drop(bytes.drain(at.min(end)..end));
            }
            4 => {
                let piece = bytes[at..(at + numbers.below(16)).min(bytes.len())].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            5 => {
                let from = numbers.below(other.len());
                let to = (from + numbers.below(24)).min(other.len());
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
            _ => drop(bytes.splice(
                at..at,
                TELLING[numbers.below(TELLING.len())].iter().copied(),
            )),
        }
    }
    bytes
}

fn flip(bytes: &mut [u8], at: usize, numbers: &mut Numbers) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << numbers.below(8);
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes[at..].iter_mut().zip(with) {
        *byte = *new;
    }
}
