//! The calls into the kernel that threads of guests and of the compiler need.

#![allow(
    unsafe_code,
    reason = "libc is the only binding of these calls among our dependencies"
)]

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
