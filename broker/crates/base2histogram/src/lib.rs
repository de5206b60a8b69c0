//! The few histograms that openraft keeps of its batch sizes, in half a kilobyte each.
//!
//! openraft depends on the published crate `base2histogram`, which at its first use builds lookup tables of 26 MB for
//! scales nobody asks for: more than a whole idle broker may take. This crate has the part of its interface that openraft
//! uses, over powers of two.

#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;

/// Buckets: one for 0, one for each power of two.
const BUCKETS: usize = 65;

/// Counts of values by power of two. `T` is there for the interface only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    data: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Histogram::new()
    }
}

impl<T> Histogram<T> {
    /// A histogram without values.
    pub fn new() -> Self {
        Histogram {
            counts: [0; BUCKETS],
            data: PhantomData,
        }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
    }

    /// Values counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The least value of the bucket that holds the `p`-th part (0 to 1) of the values; 0 without values.
    pub fn percentile(&self, p: f64) -> u64 {
        let wanted = (p * self.total() as f64).ceil().max(1.0);
        let mut below = 0.0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += *count as f64;
            if below >= wanted {
                return if bucket == 0 { 0 } else { 1 << (bucket - 1) };
            }
        }
        0
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// Percentiles of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// 0.1 % of the values are at most about this.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// Half.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "n={} p50={} p90={} p99={} p99.9={}",
            self.samples, self.p50, self.p90, self.p99, self.p99_9
        )
    }
}

/// Named histograms, printed a line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl AsciiChart {
    /// A chart without lines.
    pub fn new() -> Self {
        AsciiChart::default()
    }

    /// Adds a line.
    #[must_use]
    #[allow(
        clippy::should_implement_trait,
        reason = "the name is given by the interface this stands in for"
    )]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.0.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_the_least_value_of_the_right_bucket() {
        let mut h = Histogram::<()>::new();
        assert_eq!(h.percentile(0.5), 0);
        h.record_n(5, 9);
        h.record(1000);
        assert_eq!(
            (h.total(), h.percentile(0.5), h.percentile(1.0)),
            (10, 4, 512)
        );
        h.record(u64::MAX);
        assert_eq!(h.percentile(1.0), 1 << 63);
    }
}
