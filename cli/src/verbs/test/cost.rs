//! What a record costs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::local::{Local, LocalRecord, Ran};
use crate::output;

/// Bytes of records kept for the batched run.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// The batched run is repeated for this long, for a stable figure ...
const MEASURE_FOR: Duration = Duration::from_millis(300);
/// ... but not more often than so.
const ROUNDS_MAX: u32 = 1_000;

/// What single calls cost, and records for a run of many at once.
#[derive(Debug, Default)]
pub(super) struct Costs {
    /// CPU time of each call, ns, and its record's number; the first, which makes the instance, is not among them.
    calls: Vec<(u64, u64)>,
    memory_bytes: u64,
    kept: Vec<LocalRecord>,
    kept_bytes: usize,
}

/// The figures.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// CPU time of a record among many in a call, ns, and records a second of one core.
    batched: Option<(f64, f64)>,
    /// CPU time of a call of one record: the 99th percentile, the longest with its record's number, ns.
    single: Option<(u64, u64, u64)>,
    memory_bytes: u64,
}

impl Costs {
    /// Takes in what became of record `number`.
    pub(super) fn add(&mut self, number: u64, record: LocalRecord, ran: &Ran) {
        self.memory_bytes = self.memory_bytes.max(ran.memory_bytes);
        if ran.error.is_some() {
            return;
        }
        if number > 1 {
            self.calls.push((ran.cpu_ns, number));
        }
        self.kept_bytes += record.bytes();
        if self.kept_bytes <= KEPT_BYTES_MAX {
            self.kept.push(record);
        }
    }

    /// Runs the records that went well together, again and again, and sums up.
    pub(super) fn measured(mut self, local: &mut Local) -> Summary {
        let batched = self.batched(local);
        self.calls.sort_unstable();
        let single = self.calls.last().map(|(slowest, number)| {
            let p99 = self.calls[(self.calls.len() - 1) * 99 / 100].0;
            (p99, *slowest, *number)
        });
        Summary {
            batched,
            single,
            memory_bytes: self.memory_bytes,
        }
    }

    fn batched(&self, local: &mut Local) -> Option<(f64, f64)> {
        if self.kept.is_empty() {
            return None;
        }
        // Once for what is done once.
        local.run_together(&self.kept).ok()?;
        let (mut cpu_ns, mut rounds) = (0_u64, 0);
        let began = Instant::now();
        while rounds < ROUNDS_MAX && (rounds == 0 || began.elapsed() < MEASURE_FOR) {
            cpu_ns += local.run_together(&self.kept).ok()?.0;
            rounds += 1;
        }
        let records = self.kept.len() as f64 * f64::from(rounds);
        let of_one = cpu_ns.max(1) as f64 / records;
        Some((of_one, 1e9 / of_one))
    }
}

impl Summary {
    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some((of_one, per_second)) = self.batched {
            lines.push(format!(
                "cost: {} of CPU time a record, many in a call as in the broker: {} records/s on one core; memory {}",
                time(of_one),
                thousands(per_second),
                output::size(self.memory_bytes)
            ));
        }
        if let Some((p99, slowest, number)) = self.single {
            lines.push(format!(
                "alone in a call: 99 of 100 records within {}; the slowest, #{number}, took {}",
                time(p99 as f64),
                time(slowest as f64)
            ));
        }
        lines
    }

    /// For scripts.
    pub(super) fn json(&self) -> Value {
        json!({
            "cpu_ns_per_record": self.batched.map(|(of_one, _)| of_one.round()),
            "records_per_second": self.batched.map(|(_, per_second)| per_second.round()),
            "single_p99_ns": self.single.map(|(p99, _, _)| p99),
            "slowest_ns": self.single.map(|(_, slowest, _)| slowest),
            "slowest_record": self.single.map(|(_, _, number)| number),
            "memory_bytes": self.memory_bytes,
        })
    }
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

fn thousands(n: f64) -> String {
    match n {
        n if n >= 1e6 => format!("{:.1} million", n / 1e6),
        n if n >= 1e4 => format!("{:.0} thousand", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [time(812.0), time(1_250.0), time(2.5e6)].join(" "),
            "812 ns 1.2 us 2.5 ms"
        );
        assert_eq!(
            [thousands(1.25e6), thousands(90_123.0), thousands(12.0)].join(" "),
            "1.2 million 90 thousand 12"
        );
        let summary = Summary {
            batched: Some((1_000.0, 1e6)),
            single: Some((2_000, 9_000, 17)),
            memory_bytes: 1_500_000,
        };
        let text = summary.lines().join("\n");
        for part in ["1.0 us", "1.0 million records/s", "1.5 MB", "#17", "9.0 us"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(Summary::default().lines().is_empty());
    }
}
