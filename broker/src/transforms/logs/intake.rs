//! What is kept of the lines that come, and what is not: pure, time comes in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tidemill_rt::time::Instant;

use super::About;
use crate::admin::types::{LogLevel, LogSource};

/// Bytes of lines that wait on a shard to be written.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Of them, bytes for lines of transforms that have no more than [`CALM_BYTES`] waiting: floods of others do not cost them theirs.
const KEPT_FOR_CALM_BYTES: usize = WAITING_BYTES_MAX / 8;
/// Bytes waiting up to which a transform is calm.
const CALM_BYTES: usize = 8 << 10;
/// With so many bytes waiting, writing does not wait for more.
const PLENTY_BYTES: usize = WAITING_BYTES_MAX / 4;
/// What a line counts beside its message, bytes.
const LINE_OVERHEAD_BYTES: usize = 128;
/// How often a transform is told of lines that were dropped, at the most.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// When it came, ms since the Unix epoch.
    pub(crate) at_ms: i64,
    /// What it is about.
    pub(crate) about: About,
    /// How much it matters.
    pub(crate) level: LogLevel,
    /// Who says so.
    pub(crate) source: LogSource,
    /// What.
    pub(crate) message: String,
}

impl Line {
    fn bytes(&self) -> usize {
        self.message.len() + LINE_OVERHEAD_BYTES
    }
}

/// Lines that were lost, by why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// They came faster than the transform's rate.
    pub(crate) rate: u64,
    /// The topic takes them more slowly than they came.
    pub(crate) full: u64,
    /// The topic did not take them.
    pub(crate) unwritten: u64,
}

impl Dropped {
    fn sum(self) -> u64 {
        self.rate + self.full + self.unwritten
    }
}

/// One transform's share: a bucket of tokens, one a line, that fills with the rate.
#[derive(Debug)]
struct Lane {
    tokens: f64,
    /// Bytes of its lines that wait.
    waiting_bytes: usize,
    filled_at: Instant,
    written: u64,
    dropped: Dropped,
    /// How many of them were told.
    told: u64,
    told_at: Option<Instant>,
    /// What the last line that was dropped was about.
    last: About,
}

/// The lines of a shard that wait to be written.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Lines a second that a transform may write ...
    rate: f64,
    /// ... after so many at once.
    burst: f64,
    lanes: BTreeMap<String, Lane>,
    waiting: VecDeque<Line>,
    waiting_bytes: usize,
}

impl Intake {
    /// Nothing yet; a transform may write `rate` lines a second, and `burst` at once.
    pub(crate) fn new(rate: u32, burst: u32) -> Intake {
        Intake {
            rate: f64::from(rate),
            burst: f64::from(burst),
            lanes: BTreeMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Keeps a line, or counts it as dropped.
    pub(crate) fn push(&mut self, now: Instant, line: Line) {
        let (rate, burst) = (self.rate, self.burst);
        let waiting_bytes = self.waiting_bytes + line.bytes();
        let lane = self
            .lanes
            .entry(line.about.transform.to_string())
            .or_insert_with(|| Lane {
                tokens: burst,
                waiting_bytes: 0,
                filled_at: now,
                written: 0,
                dropped: Dropped::default(),
                told: 0,
                told_at: None,
                last: line.about.clone(),
            });
        let elapsed = now.since(lane.filled_at).as_secs_f64();
        lane.tokens = (lane.tokens + elapsed * rate).min(burst);
        lane.filled_at = now;
        if lane.tokens < 1.0 {
            lane.dropped.rate += 1;
            lane.last = line.about;
            return;
        }
        let of_it = lane.waiting_bytes + line.bytes();
        let kept_back = if of_it > CALM_BYTES {
            KEPT_FOR_CALM_BYTES
        } else {
            0
        };
        if waiting_bytes > WAITING_BYTES_MAX - kept_back {
            lane.dropped.full += 1;
            lane.last = line.about;
            return;
        }
        lane.tokens -= 1.0;
        lane.waiting_bytes = of_it;
        self.waiting_bytes = waiting_bytes;
        self.waiting.push_back(line);
    }

    /// Whether there is so much that it should be written at once.
    pub(crate) fn is_plenty(&self) -> bool {
        self.waiting_bytes >= PLENTY_BYTES
    }

    /// Whether anything is to be written, now or once it may be told.
    pub(crate) fn is_empty(&self) -> bool {
        let untold = |lane: &Lane| lane.dropped.sum() > lane.told;
        self.waiting.is_empty() && !self.lanes.values().any(untold)
    }

    /// Everything that waits, and a line for each transform that has lost some, once a second.
    pub(crate) fn take(&mut self, now: Instant, now_ms: i64) -> Vec<Line> {
        let mut lines: Vec<Line> = std::mem::take(&mut self.waiting).into();
        self.waiting_bytes = 0;
        for lane in self.lanes.values_mut() {
            lane.waiting_bytes = 0;
            let untold = lane.dropped.sum() - lane.told;
            let due = lane
                .told_at
                .is_none_or(|told_at| now.since(told_at) >= TELL_EVERY);
            if untold == 0 || !due {
                continue;
            }
            lane.told += untold;
            lane.told_at = Some(now);
            let noun = if untold == 1 {
                "line was"
            } else {
                "lines were"
            };
            lines.push(Line {
                at_ms: now_ms,
                about: About {
                    offset: None,
                    ..lane.last.clone()
                },
                level: LogLevel::Warn,
                source: LogSource::Broker,
                message: format!(
                    "{untold} {noun} dropped: a transform may log {} a second, {} at once (transforms.log_rate and log_burst), and those of \
                     a shard no more together than __transform_logs takes",
                    self.rate, self.burst
                ),
            });
        }
        lines
    }

    /// Notes what became of lines that were taken.
    pub(crate) fn written<'a>(&mut self, lines: impl Iterator<Item = &'a Line>) {
        for line in lines {
            if let Some(lane) = self.lanes.get_mut(&*line.about.transform) {
                lane.written += 1;
            }
        }
    }

    /// Notes lines that were taken and could not be written.
    pub(crate) fn lost<'a>(&mut self, lines: impl Iterator<Item = &'a Line>) {
        for line in lines {
            if let Some(lane) = self.lanes.get_mut(&*line.about.transform) {
                lane.dropped.unwritten += 1;
                // It stands in the broker's own log: telling it here would be the next line to be lost.
                lane.told += 1;
            }
        }
    }

    /// Lines written and lines lost so far, by transform.
    pub(crate) fn counts(&self) -> Vec<(String, u64, Dropped)> {
        let lanes = self.lanes.iter();
        lanes
            .map(|(name, lane)| (name.clone(), lane.written, lane.dropped))
            .collect()
    }

    /// Forgets transforms that are gone, whatever was still said of them since: nobody would count what they lost.
    pub(crate) fn retain(&mut self, lives: impl Fn(&str) -> bool) {
        self.lanes.retain(|name, _| lives(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn line(transform: &str, message: &str) -> Line {
        Line {
            at_ms: 0,
            about: About {
                transform: transform.into(),
                version: 1,
                topic: "in".into(),
                partition: Some(0),
                offset: Some(7),
            },
            level: LogLevel::Info,
            source: LogSource::Transform,
            message: message.to_owned(),
        }
    }

    #[test]
    fn transform_that_floods_loses_its_own_lines_only_and_is_told_how_many() {
        let mut intake = Intake::new(10, 20);
        for _ in 0..100 {
            intake.push(at(0), line("loud", "x"));
        }
        intake.push(at(0), line("calm", "y"));
        let lines = intake.take(at(0), 5);
        let of = |name: &str| lines.iter().filter(|l| &*l.about.transform == name).count();
        assert_eq!((of("loud"), of("calm")), (20 + 1, 1));
        let told = lines.last().expect("a line that tells it");
        assert!(
            told.message.starts_with("80 lines were dropped"),
            "{}",
            told.message
        );
        assert_eq!(
            (told.source, told.at_ms, told.about.offset),
            (LogSource::Broker, 5, None)
        );
        assert!(intake.is_empty(), "it was told");
        let counts = intake.counts();
        assert_eq!((counts[1].0.as_str(), counts[1].2.rate), ("loud", 80));
    }

    #[test]
    fn bucket_fills_with_the_rate_and_not_beyond_the_burst() {
        let mut intake = Intake::new(10, 20);
        for _ in 0..20 {
            intake.push(at(0), line("t", "x"));
        }
        for _ in 0..20 {
            intake.push(at(500), line("t", "x"));
        }
        assert_eq!(intake.take(at(500), 0).len(), 20 + 5 + 1);
        for _ in 0..50 {
            intake.push(at(3_600_000), line("t", "x"));
        }
        assert_eq!(intake.take(at(3_600_000), 0).len(), 20 + 1);
    }

    #[test]
    fn what_was_dropped_is_told_once_a_second_also_when_nothing_more_comes() {
        let mut intake = Intake::new(1, 1);
        for _ in 0..3 {
            intake.push(at(0), line("t", "x"));
        }
        assert_eq!(intake.take(at(0), 0).len(), 2);
        intake.push(at(100), line("t", "x"));
        assert!(intake.take(at(200), 0).is_empty() && !intake.is_empty());
        assert_eq!(intake.take(at(1_000), 0).len(), 1);
        assert!(intake.is_empty());
    }

    #[test]
    fn waiting_lines_are_bounded_in_bytes_whatever_the_rate() {
        let mut intake = Intake::new(1_000_000, 1_000_000);
        let long = "x".repeat(4_000);
        for _ in 0..1_000 {
            intake.push(at(0), line("t", &long));
        }
        assert!(intake.is_plenty());
        let dropped = intake.counts()[0].2;
        let kept = intake.take(at(0), 0).len() - 1;
        assert!(
            kept * long.len() <= WAITING_BYTES_MAX && kept > 200,
            "{kept}"
        );
        assert_eq!(dropped.full, 1_000 - kept as u64);
        assert!(!intake.is_plenty());
    }

    #[test]
    fn calm_transform_keeps_its_lines_beside_floods_that_fill_what_may_wait() {
        let mut intake = Intake::new(1_000_000, 1_000_000);
        let long = "x".repeat(4_000);
        for n in 0..2_000 {
            intake.push(at(0), line(["loud", "louder"][n % 2], &long));
        }
        for _ in 0..10 {
            intake.push(at(0), line("calm", "y"));
        }
        let lines = intake.take(at(0), 0);
        let calm = |l: &&Line| &*l.about.transform == "calm";
        assert_eq!(lines.iter().filter(calm).count(), 10);
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted_and_not_told_in_the_same_place() {
        let mut intake = Intake::new(10, 10);
        intake.push(at(0), line("t", "x"));
        let lines = intake.take(at(0), 0);
        intake.lost(lines.iter());
        assert_eq!(intake.counts()[0].2.unwritten, 1);
        assert!(intake.is_empty());
        intake.retain(|name| name != "t");
        intake.written(lines.iter());
        assert!(intake.counts().is_empty());
    }
}
