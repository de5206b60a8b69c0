//! The verdict, and the page that says it.

use std::fmt::Write;

use crate::clients::Tally;
use crate::watch::Sample;

/// What the last third may take beyond the middle one: so many percent, and so much.
const RESIDENT_MARGIN: (f64, f64) = (5.0, 32.0);
const DESCRIPTORS_MARGIN: (f64, f64) = (5.0, 24.0);
const DISK_MARGIN: (f64, f64) = (10.0, 128.0);
/// Lines of the table; more samples are thinned out.
const LINES_MAX: usize = 60;

/// What a soak found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) engine: &'static str,
    pub(crate) minutes: f64,
    /// Whether topics had retention.
    pub(crate) retained: bool,
    /// Whether consumers were in a group.
    pub(crate) groups: bool,
    pub(crate) samples: Vec<Sample>,
    pub(crate) tally: Tally,
    pub(crate) counts: [(&'static str, u64); 3],
    pub(crate) problems: Vec<String>,
}

/// Something that must not grow.
struct Growth {
    what: &'static str,
    middle: f64,
    last: f64,
    limit: f64,
}

impl Growth {
    fn holds(&self) -> bool {
        self.last <= self.limit
    }
}

impl Outcome {
    /// Whether nothing is wrong.
    pub(crate) fn holds(&self) -> bool {
        self.problems.is_empty()
            && !self.samples.is_empty()
            && self.growth().iter().all(Growth::holds)
    }

    fn growth(&self) -> Vec<Growth> {
        let third = self.samples.len() / 3;
        let middle = &self.samples[third..self.samples.len() - third];
        let last = &self.samples[self.samples.len() - third..];
        let of = |what, value: fn(&Sample) -> f64, (percent, fixed): (f64, f64)| {
            let mean = |samples: &[Sample]| {
                samples.iter().map(value).sum::<f64>() / samples.len().max(1) as f64
            };
            let middle = mean(middle);
            Growth {
                what,
                middle,
                last: mean(last),
                limit: middle * (1.0 + percent / 100.0) + fixed,
            }
        };
        let mut growth = vec![
            of("resident memory, MiB", |s| s.resident, RESIDENT_MARGIN),
            of("descriptors", |s| s.descriptors, DESCRIPTORS_MARGIN),
        ];
        if self.retained {
            growth.push(of("disk, MiB", |s| s.disk, DISK_MARGIN));
        }
        growth
    }
}

/// The page.
pub(crate) fn render(outcome: &Outcome) -> String {
    let mut out = String::new();
    let verdict = if outcome.holds() { "holds" } else { "FAILS" };
    let _ = writeln!(
        out,
        "# A node under everything at once\n\n\
         `cargo xtask soak --minutes {} --runtime {}`: **{verdict}**.\n",
        outcome.minutes, outcome.engine
    );
    let tally = &outcome.tally;
    let _ = writeln!(
        out,
        "* clients of librdkafka: {} records acknowledged, {} came out{}\n* a raw producer and what a transform made of its \
         records: every number once and in order, in both topics",
        tally.acknowledged,
        tally.seen,
        match outcome.groups {
            true => format!(", {} delivered again to a group", tally.redelivered),
            false => " (consumers without a group: the broker has none)".to_owned(),
        }
    );
    for (what, count) in outcome.counts {
        let _ = writeln!(out, "* {what}: {count}");
    }
    if !outcome.retained {
        let _ = writeln!(out, "* the disk is not judged: the broker has no retention");
    }
    for problem in &outcome.problems {
        let _ = writeln!(out, "* **wrong**: {problem}");
    }
    let _ = writeln!(
        out,
        "\nMeans of the middle and the last third of the time:\n\n| | middle | last | may be | |\n|---|---|---|---|---|"
    );
    for g in outcome.growth() {
        let verdict = if g.holds() { "holds" } else { "**grows**" };
        let _ = writeln!(
            out,
            "| {} | {:.1} | {:.1} | {:.1} | {verdict} |",
            g.what, g.middle, g.last, g.limit
        );
    }
    table(&mut out, &outcome.samples);
    out
}

fn table(out: &mut String, samples: &[Sample]) {
    let _ = writeln!(
        out,
        "\n| s | records/s | resident MiB | descriptors | disk MiB | connections |\n|---|---|---|---|---|---|"
    );
    let step = samples.len().div_ceil(LINES_MAX).max(1);
    for s in samples.iter().step_by(step) {
        let _ = writeln!(
            out,
            "| {} | {:.0} | {:.1} | {} | {:.1} | {} |",
            s.at.as_secs(),
            s.records_per_second,
            s.resident,
            s.descriptors,
            s.disk,
            s.connections
        );
    }
}
