//! Whether io_uring can be used here, found out without risk: glommio ends the process when it meets what it does not expect.

#![allow(unsafe_code, reason = "io_uring's system calls have no safe binding")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// glommio refuses to start with less, in bytes.
const MEMLOCK_MIN: u64 = 512 << 10;

/// Entries of the ring made for the probe.
const PROBE_ENTRIES: libc::c_uint = 4;

/// Size of `struct io_uring_params` in bytes (include/uapi/linux/io_uring.h).
const PARAMS_BYTES: usize = 120;

/// Place of `flags` in `struct io_uring_params`, in words of 4 bytes.
const PARAMS_FLAGS: usize = 2;

/// `IORING_SETUP_IOPOLL`: one of glommio's three rings has it.
const SETUP_IOPOLL: u32 = 1;

/// `IORING_REGISTER_PROBE`.
const REGISTER_PROBE: libc::c_uint = 8;

/// `IO_URING_OP_SUPPORTED`.
const OP_SUPPORTED: u8 = 1;

/// Operations that `IORING_REGISTER_PROBE` is asked about.
const PROBE_OPS: usize = 64;

/// Operations that glommio uses, by their number in `enum io_uring_op`: NOP, READV, WRITEV, FSYNC, READ_FIXED, WRITE_FIXED,
/// POLL_ADD, POLL_REMOVE, SENDMSG, RECVMSG, TIMEOUT, TIMEOUT_REMOVE, ACCEPT, ASYNC_CANCEL, LINK_TIMEOUT, CONNECT, FALLOCATE,
/// OPENAT, CLOSE, STATX, READ, WRITE, SEND, RECV.
const NEEDED_OPS: [u8; 24] = [
    0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23, 26, 27,
];

/// Says why io_uring cannot be used here, if it cannot. Works on every thread and has no effect.
pub(crate) fn probe() -> Result<(), String> {
    if let Some(limit) = memlock_limit()
        && limit < MEMLOCK_MIN
    {
        return Err(format!(
            "the limit of locked memory (ulimit -l) is {limit} bytes; it must be {MEMLOCK_MIN} at least"
        ));
    }
    let refused = |e: io::Error| format!("the kernel or a seccomp filter refuses it: {e}");
    setup(SETUP_IOPOLL).map_err(refused)?;
    let ring = setup(0).map_err(refused)?;
    enter(&ring).map_err(refused)?;
    let supported = supported_ops(&ring).map_err(refused)?;
    match NEEDED_OPS.iter().find(|op| !supported[usize::from(**op)]) {
        Some(op) => Err(format!(
            "the kernel is too old: it lacks operation {op} of io_uring"
        )),
        None => Ok(()),
    }
}

/// Bytes this process may lock; `None` for no limit.
pub(crate) fn memlock_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is owned by this frame; the call fills it.
    let r = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (r == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn setup(flags: u32) -> io::Result<OwnedFd> {
    let mut params = [0_u32; PARAMS_BYTES / 4];
    params[PARAMS_FLAGS] = flags;
    // SAFETY: `params` is as large as the kernel's structure and owned by this frame.
    let r = unsafe { libc::syscall(libc::SYS_io_uring_setup, PROBE_ENTRIES, params.as_mut_ptr()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a result that is not negative is a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(r as i32) })
}

/// Submits nothing and waits for nothing: only whether the call is allowed matters.
fn enter(ring: &OwnedFd) -> io::Result<()> {
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with no flags and a null signal mask the kernel reads no memory of ours.
    let r = unsafe { libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 0, 0, 0, none, 0) };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn supported_ops(ring: &OwnedFd) -> io::Result<[bool; PROBE_OPS]> {
    // `struct io_uring_probe`: 16 bytes of head, then 8 bytes for each operation, the third of them its flags.
    let mut answer = [0_u64; 2 + PROBE_OPS];
    // SAFETY: `answer` has room for as many operations as the call names, and is zeroed as the kernel demands.
    let r = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_PROBE,
            answer.as_mut_ptr(),
            PROBE_OPS as libc::c_uint,
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(std::array::from_fn(|op| {
        answer[2 + op].to_ne_bytes()[2] & OP_SUPPORTED != 0
    }))
}
