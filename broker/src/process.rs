//! What the process uses, from procfs, under the names that Prometheus' own clients give (process_*).

use crate::metrics::Sample;

/// What is read, in units of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    resident_pages: u64,
}

/// Adds what the process uses to `out`; what cannot be read is left out. Called on the control thread.
pub(crate) fn collect(out: &mut Vec<Sample>) {
    let mut plain = |family, value: f64| out.push(Sample::plain(family, Vec::new(), value));
    if let Some(stat) = read("/proc/self/stat").and_then(|text| parse(&text)) {
        let ticks = constant(libc::_SC_CLK_TCK).max(1) as f64;
        plain("process_cpu_seconds_total", stat.cpu_ticks as f64 / ticks);
        plain("process_threads", stat.threads as f64);
        let resident = stat.resident_pages * constant(libc::_SC_PAGESIZE);
        plain("process_resident_memory_bytes", resident as f64);
        if let Some(boot) = read("/proc/stat").and_then(|text| boot_seconds(&text)) {
            plain(
                "process_start_time_seconds",
                boot as f64 + stat.start_ticks as f64 / ticks,
            );
        }
    }
    if let Some(open) = open_descriptors() {
        plain("process_open_fds", open as f64);
    }
    if let Some(max) = read("/proc/self/limits").and_then(|text| descriptor_limit(&text)) {
        plain("process_max_fds", max as f64);
    }
}

/// The fields of proc_pid_stat(5) that are counted. The name in parentheses may hold anything.
fn parse(text: &str) -> Option<Stat> {
    let rest = text.get(text.rfind(')')? + 1..)?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field 3 of the page is the first here.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        threads: field(20)?,
        start_ticks: field(22)?,
        resident_pages: field(24)?,
    })
}

fn boot_seconds(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn descriptor_limit(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[allow(
    clippy::disallowed_methods,
    reason = "procfs does not block, and this is the control thread"
)]
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[allow(
    clippy::disallowed_methods,
    reason = "procfs does not block, and this is the control thread"
)]
fn open_descriptors() -> Option<u64> {
    // The one that lists them is among them.
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as u64)
}

fn constant(name: libc::c_int) -> u64 {
    #[allow(unsafe_code, reason = "std does not tell these")]
    // SAFETY: sysconf reads a constant of the system.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name_of_the_process_is() {
        let line = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 100 23 12 13 14 15 7 17 5000 19 2500 21";
        let stat = parse(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                cpu_ticks: 123,
                threads: 7,
                start_ticks: 5000,
                resident_pages: 2500
            }
        );
        assert_eq!(parse("12 (a"), None);
        assert_eq!(parse("12 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_told_with_all_its_families() {
        let mut samples = Vec::new();
        collect(&mut samples);
        assert_eq!(samples.len(), 6);
        let text = crate::metrics::render(samples);
        assert!(
            text.contains("process_open_fds ") && text.contains("process_max_fds "),
            "{text}"
        );
    }
}
