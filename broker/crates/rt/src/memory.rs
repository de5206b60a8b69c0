//! How much memory there is, how the process allocates, and how it keeps what it has freed.

use std::path::Path;

/// The allocator of programs that run shards: `#[global_allocator] static A: Allocator = Allocator;`.
///
/// Requests of 1 to 2 KB are too large for the caches of glibc's allocator: it took a third of the processor time that a small
/// Produce request spends outside of the kernel. This one (mimalloc, docs/adr/0016) gives freed memory back to the kernel only after a
/// second, so that buffers on a hot path are not paid for in page faults.
pub use mimalloc::MiMalloc as Allocator;

/// Keeps this process's memory in pages of the ordinary size. [`Allocator`] asks the kernel for huge pages (2 MiB), of which
/// each of its many heaps then takes whole ones: an idle broker had 44 MB resident with them and was not faster. A refusal
/// is harmless.
///
/// It runs before `main` and before the allocator's first request: two huge pages (4 MB) were in use by the time `main` could
/// ask.
#[used]
#[allow(
    unsafe_code,
    reason = "the only way to run before the allocator starts"
)]
// SAFETY: the loader calls what the section holds, each with the C convention; the function touches nothing of Rust's runtime.
#[unsafe(link_section = ".init_array.00100")]
static PAGES_STAY_SMALL: extern "C" fn() = keep_pages_small;

/// Asks the kernel not to give this process and its children huge pages, see above. Needs no memory; may be called again.
pub extern "C" fn keep_pages_small() {
    #[allow(unsafe_code, reason = "prctl has no safe binding")]
    // SAFETY: PR_SET_THP_DISABLE takes plain numbers and touches no memory of ours.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

/// Allocations up to so many bytes come from memory that is kept, in bytes: the most glibc allows (mallopt(3)), and more than
/// any buffer on a hot path. Larger ones go back to the kernel at once.
const KEPT_ALLOCATION_BYTES: libc::c_int = 32 << 20;
/// Free memory kept at the top of each heap, in bytes.
const KEPT_FREE_BYTES: libc::c_int = 64 << 20;

/// Lets glibc's allocator keep what was freed, to be called once when a process without [`Allocator`] starts. Left alone, it gives buffers
/// of some 100 KB back to the kernel as soon as they are free, and each new one is paid for in page faults: masking 1 KB
/// records in calls of 1 MB ran at half its speed. What is kept is bounded by what was in use at once. Does nothing with
/// other allocators.
pub fn keep_freed() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "mallopt has no safe binding")]
    // SAFETY: mallopt takes plain numbers; a value it refuses changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_ALLOCATION_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_FREE_BYTES);
    }
}

/// Bytes of memory the process may have: the machine's, or less where its control group (cgroup v2 or v1) or one above it
/// says so. What cannot be found out counts as 1 GiB. Reads files: for the start, not for a shard.
pub fn available() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    limit(&read).unwrap_or(UNKNOWN_MEMORY_BYTES)
}

/// The memory of a machine that does not say.
const UNKNOWN_MEMORY_BYTES: u64 = 1 << 30;
/// Where the control groups of version 2 are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where the memory's control groups of version 1 are.
const CGROUPS_V1: &str = "/sys/fs/cgroup/memory";

fn limit(read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| {
        // Hierarchy, controllers, path; version 2 has neither number nor controllers.
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match controllers {
            "" => lowest(read, CGROUPS, path, "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                lowest(read, CGROUPS_V1, path, "memory.limit_in_bytes")
            }
            _ => None,
        }
    });
    machine.into_iter().chain(limits).min()
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The lowest limit of the group `path` and those above it. Inside a container the path may be the host's: then its root is
/// what the group sees of itself.
fn lowest(
    read: &impl Fn(&Path) -> Option<String>,
    root: &str,
    path: &str,
    file: &str,
) -> Option<u64> {
    let root = Path::new(root);
    let group = root.join(path.trim_start_matches('/'));
    let groups = group.ancestors().take_while(|g| g.starts_with(root));
    groups
        .filter_map(|group| read(&group.join(file))?.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Option<u64> {
        limit(&|path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    const MACHINE: (&str, &str) = ("/proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n");

    #[test]
    fn lowest_limit_of_the_groups_counts() {
        let group = ("/proc/self/cgroup", "0::/a/b\n");
        assert_eq!(of(&[MACHINE]), Some(2 << 20));
        let none = ("/sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(of(&[MACHINE, group, none]), Some(2 << 20));
        let above = ("/sys/fs/cgroup/a/memory.max", "1048576\n");
        assert_eq!(of(&[MACHINE, group, none, above]), Some(1 << 20));
        let own = ("/sys/fs/cgroup/memory.max", "4096\n");
        assert_eq!(of(&[MACHINE, group, own]), Some(4096));
    }

    #[test]
    fn version_1_says_it_in_its_own_hierarchy() {
        let group = ("/proc/self/cgroup", "3:cpu:/x\n2:memory,pids:/y\n");
        let limit = ("/sys/fs/cgroup/memory/y/memory.limit_in_bytes", "8192\n");
        assert_eq!(of(&[MACHINE, group, limit]), Some(8192));
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available() > 64 << 20);
    }
}
