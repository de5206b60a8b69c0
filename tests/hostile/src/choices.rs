//! An input read as a list of choices, so that what libFuzzer mutates is the decisions of a maker of valid bytes.

/// Reads choices off the front of an input; when it is used up, every choice is the first.
#[derive(Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Choices out of `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Choices<'a> {
        Choices(input)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let number = match bound {
            0 | 1 => return 0,
            2..=256 => u32::from(self.byte()),
            _ => self.word(),
        };
        number % bound
    }

    /// Four bytes as a number.
    pub fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// Whether the input is used up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left of it.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Changes `bytes` as the rest of the input says: five bytes of it for each change.
    pub fn damage(mut self, bytes: &mut Vec<u8>) {
        while !self.is_empty() && !bytes.is_empty() {
            let kind = self.byte();
            let at = self.word() as usize % bytes.len();
            match kind % 8 {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..(at + usize::from(kind)).min(bytes.len()))),
                2 => bytes.insert(at, kind),
                3 => bytes[at] = bytes[at].wrapping_add(kind | 1),
                4 => bytes[at] = 0xff,
                5 => bytes[at..].iter_mut().take(4).for_each(|b| *b = 0xff),
                6 => bytes[at..].iter_mut().take(4).for_each(|b| *b = 0),
                _ => bytes[at] ^= 1 << (kind >> 5),
            }
        }
    }
}
