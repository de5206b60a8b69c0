//! Randomness: from the kernel on real engines, from the seed under `sim`.

use crate::context::{self, EngineKind};
use crate::sim;

/// Fills `buf` with random bytes. Works on every thread.
///
/// # Panics
/// When the kernel refuses `getrandom`, which no supported kernel does.
pub fn fill(buf: &mut [u8]) {
    if context::try_current() == Some(EngineKind::Sim) {
        sim::fill_random(buf);
        return;
    }
    let mut done = 0;
    while done < buf.len() {
        #[allow(
            unsafe_code,
            reason = "getrandom(2) has no safe binding among our dependencies"
        )]
        // SAFETY: the pointer and length describe the unfilled rest of `buf`, which outlives the call.
        let n = unsafe { libc::getrandom(buf[done..].as_mut_ptr().cast(), buf.len() - done, 0) };
        if n > 0 {
            done += n as usize;
        } else if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            panic!("getrandom failed: {}", std::io::Error::last_os_error());
        }
    }
}

/// A random number. Works on every thread.
pub fn u64() -> u64 {
    let mut b = [0; 8];
    fill(&mut b);
    u64::from_le_bytes(b)
}

/// A random number below `bound`; 0 when `bound` is 0. Its bias is below 2^-32 for bounds below 2^32.
pub fn below(bound: u64) -> u64 {
    if bound == 0 { 0 } else { u64() % bound }
}
