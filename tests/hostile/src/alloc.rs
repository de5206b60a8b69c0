//! An allocator that counts what a thread holds, and the check that a reader stays within its bound.

#![allow(
    unsafe_code,
    reason = "an allocator cannot be written without; it hands everything on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting. A program that wants [`within`] to check makes it its global one.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    /// Bytes that this thread allocated and did not free, since [`within`] began; below 0 when it freed older ones.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The largest value of `HELD`.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn note(bytes: isize) {
    // A thread that ends has no cells any more, and nothing to count.
    let _ = HELD.try_with(|held| {
        let now = held.get() + bytes;
        held.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

// SAFETY: every call is handed on to `System` unchanged; counting neither allocates nor touches the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new are both there while the content moves.
        note(size as isize);
        note(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Calls `read` and checks that it never held more than `bytes_max` bytes beyond what was there before.
///
/// # Panics
/// When it did.
pub fn within<T>(what: &str, bytes_max: usize, read: impl FnOnce() -> T) -> T {
    HELD.set(0);
    PEAK.set(0);
    let result = read();
    let peak = PEAK.get();
    assert!(
        peak <= bytes_max as isize,
        "{what} took {peak} bytes of memory, it may take {bytes_max}"
    );
    result
}

/// The most that the reading checked last held, in bytes.
#[must_use]
pub fn peak() -> usize {
    PEAK.get().max(0) as usize
}
