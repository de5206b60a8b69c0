//! Slices that make up one value.

use std::ops::Deref;

/// Slices kept without memory of their own.
const FEW: usize = 6;

/// The parts of a value, in order, for [`NewRecord::value_parts`](crate::NewRecord::value_parts). Few of them take no memory from
/// the heap, which costs more in a sandbox than what is done with them.
#[derive(Debug, Clone, Default)]
pub struct Parts<'a> {
    few: [&'a [u8]; FEW],
    len: usize,
    /// All of them, once they are many.
    many: Vec<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// No parts yet.
    #[inline]
    pub fn new() -> Parts<'a> {
        Parts::default()
    }

    /// Adds a part.
    #[inline]
    pub fn push(&mut self, part: &'a [u8]) {
        if let Some(place) = self.few.get_mut(self.len)
            && self.many.is_empty()
        {
            *place = part;
            self.len += 1;
            return;
        }
        self.push_beyond(part);
    }

    #[cold]
    fn push_beyond(&mut self, part: &'a [u8]) {
        if self.many.is_empty() {
            self.many.extend(self.few);
        }
        self.many.push(part);
    }
}

impl<'a> Deref for Parts<'a> {
    type Target = [&'a [u8]];

    #[inline]
    fn deref(&self) -> &[&'a [u8]] {
        match self.many.is_empty() {
            true => &self.few[..self.len],
            false => &self.many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Parts;

    #[test]
    fn parts_come_back_in_order_however_many() {
        let bytes: Vec<u8> = (0..20).collect();
        let mut parts = Parts::new();
        for (n, part) in bytes.chunks(1).enumerate() {
            assert_eq!(parts.len(), n);
            parts.push(part);
            assert_eq!(parts.concat(), bytes[..=n]);
        }
    }
}
