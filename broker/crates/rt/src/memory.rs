//! How the process keeps memory it has freed.

/// Allocations up to so many bytes come from memory that is kept, in bytes: the most glibc allows (mallopt(3)), and more than
/// any buffer on a hot path. Larger ones go back to the kernel at once.
const KEPT_ALLOCATION_BYTES: libc::c_int = 32 << 20;
/// Free memory kept at the top of each heap, in bytes.
const KEPT_FREE_BYTES: libc::c_int = 64 << 20;

/// Lets the allocator keep what was freed, to be called once when the process starts. Left alone, glibc gives buffers of some
/// 100 KB back to the kernel as soon as they are free, and each new one is paid for in page faults: masking 1 KB records in
/// calls of 1 MB ran at half its speed. What is kept is bounded by what was in use at once. Does nothing with other allocators.
pub fn keep_freed() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "mallopt has no safe binding")]
    // SAFETY: mallopt takes plain numbers; a value it refuses changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_ALLOCATION_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_FREE_BYTES);
    }
}
