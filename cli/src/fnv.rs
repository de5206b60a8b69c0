//! Fingerprints: which copy of an SDK a project has, and whether a project has changed.

/// FNV-1a, 64 bits (draft-eastlake-fnv): stable between compilers, and collisions harm nobody here.
#[derive(Debug)]
pub(crate) struct Fnv(u64);

impl Fnv {
    /// Of nothing.
    pub(crate) fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a part; parts do not run into each other.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// In hexadecimal.
    pub(crate) fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}
