//! TCP ports for brokers under test.
//!
//! They lie below the range from which Linux takes ports for outgoing connections (32768 and up): a client
//! that keeps reconnecting to a killed broker could otherwise be given the broker's own port, and connect
//! to itself.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of the loopback address that nobody listens on, given out once per process.
///
/// # Panics
/// When none of them is free.
#[must_use]
pub fn free_port() -> u16 {
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + number).expect("the range lies below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
