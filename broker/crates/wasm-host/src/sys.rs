//! The calls into the kernel that threads of guests and of the compiler need.

#![allow(
    unsafe_code,
    reason = "libc is the only binding of these calls among our dependencies"
)]

use std::io;

/// CPU time that the current thread has used, in ns.
pub(crate) fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "every Linux has a CPU clock of the thread");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Gives the current thread this nice value; without effect where the kernel refuses.
pub(crate) fn set_nice(nice: i32) {
    // SAFETY: the calls take no pointers. On Linux a thread id stands for that thread alone.
    let result =
        unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, nice) };
    if result != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "a thread of low priority runs at the normal one");
    }
}

/// Lets the current thread run on these processors only; without effect when there are none or the kernel refuses.
pub(crate) fn set_cpus(cpus: &[usize]) {
    if cpus.is_empty() {
        return;
    }
    // SAFETY: all zeros is the empty set; CPU_SET stays within it because larger numbers are left out; the pointer and
    // size describe it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &cpu in cpus.iter().filter(|cpu| **cpu < libc::CPU_SETSIZE as usize) {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "a guest thread runs on any processor");
    }
}

/// Has the kernel end this process when the thread that started it ends.
pub(crate) fn end_with_parent() {
    // SAFETY: PR_SET_PDEATHSIG takes plain numbers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    }
}

/// Ends this process, whatever its other threads are doing.
pub(crate) fn end_at_once(code: i32) -> ! {
    // SAFETY: it takes a plain number and runs nothing of this process any more.
    unsafe { libc::_exit(code) }
}

/// Has the kernel end this process when it has used so many seconds of CPU time.
pub(crate) fn limit_cpu(seconds: u64) -> io::Result<()> {
    limit(libc::RLIMIT_CPU, seconds)
}

/// Lets this process have so many bytes of address space, and no core file.
pub(crate) fn limit_address_space(bytes: u64) -> io::Result<()> {
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_AS, bytes)
}

#[cfg(target_env = "gnu")]
type Limited = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Limited = libc::c_int;

fn limit(what: Limited, most: u64) -> io::Result<()> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `now` is a valid rlimit that lives through the call.
    if unsafe { libc::getrlimit(what, &mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The hard limit stays: SIGXCPU, which says what was too much, comes at the soft one. A lower limit from outside stays too.
    now.rlim_cur = now.rlim_cur.min(most);
    // SAFETY: as above.
    match unsafe { libc::setrlimit(what, &now) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
