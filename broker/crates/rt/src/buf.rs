//! Aligned buffers for direct I/O.

#![allow(
    unsafe_code,
    reason = "aligned allocation has no safe interface in std"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of direct I/O in bytes: memory, file position and length are multiples of it.
pub const BLOCK_BYTES: usize = 4096;

enum Memory {
    Heap { ptr: NonNull<u8>, capacity: usize },
    Uring(glommio::io::DmaBuffer),
}

/// A buffer whose address and length are multiples of [`BLOCK_BYTES`]. Zeroed when allocated on the heap;
/// of unspecified content when it comes from the `uring` engine.
pub struct AlignedBuf(Memory);

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len())
    }
}

impl AlignedBuf {
    /// Allocates `bytes` rounded up to whole blocks (at least one), zeroed.
    pub fn zeroed(bytes: usize) -> AlignedBuf {
        let capacity = bytes.max(1).next_multiple_of(BLOCK_BYTES);
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a size above zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else {
            std::alloc::handle_alloc_error(layout)
        };
        AlignedBuf(Memory::Heap { ptr, capacity })
    }

    pub(crate) fn from_uring(buf: glommio::io::DmaBuffer) -> AlignedBuf {
        AlignedBuf(Memory::Uring(buf))
    }

    /// The glommio buffer inside, or a copy of the content made by `alloc`.
    pub(crate) fn into_uring(
        self,
        alloc: impl FnOnce(usize) -> glommio::io::DmaBuffer,
    ) -> glommio::io::DmaBuffer {
        let mut this = self;
        if let Memory::Heap { .. } = this.0 {
            let mut copy = alloc(this.len());
            copy.as_bytes_mut()[..this.len()].copy_from_slice(&this);
            return copy;
        }
        let empty = Memory::Heap {
            ptr: NonNull::dangling(),
            capacity: 0,
        };
        match std::mem::replace(&mut this.0, empty) {
            Memory::Uring(buf) => buf,
            Memory::Heap { .. } => unreachable!("checked above"),
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK_BYTES).expect("capacity is far below isize::MAX")
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            // SAFETY: `ptr` owns `capacity` initialised bytes (dangling only with capacity 0).
            Memory::Heap { ptr, capacity } => unsafe {
                std::slice::from_raw_parts(ptr.as_ptr(), *capacity)
            },
            Memory::Uring(buf) => buf.as_bytes(),
        }
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            // SAFETY: as in `deref`, and `self` is borrowed exclusively.
            Memory::Heap { ptr, capacity } => unsafe {
                std::slice::from_raw_parts_mut(ptr.as_ptr(), *capacity)
            },
            Memory::Uring(buf) => buf.as_bytes_mut(),
        }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Memory::Heap { ptr, capacity } = &self.0
            && *capacity > 0
        {
            // SAFETY: allocated by `zeroed` with this very layout, freed once.
            unsafe { dealloc(ptr.as_ptr(), Self::layout(*capacity)) }
        }
    }
}

// SAFETY: heap memory is owned exclusively; the uring variant never leaves its thread because only
// `fs::DirectFile` on that thread makes and takes it, and `epoll` hands over heap buffers only.
unsafe impl Send for AlignedBuf {}
