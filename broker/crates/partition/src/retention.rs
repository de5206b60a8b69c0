//! Which segments have had their time, as Kafka counts it: pure decisions, to be proposed to the ring (rule S9).

use tidemill_model::Offset;

use crate::config::PartitionConfig;
use crate::segment::SegmentMeta;
use crate::state::ActiveSegment;
use crate::tail::Held;

/// A segment as retention sees it, wherever its batches are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset after its last record.
    pub next_offset: Offset,
    /// Bytes of its batches.
    pub bytes: u64,
    /// What its age is counted from, in ms: its largest timestamp, or the time of an append of records that have none.
    pub time_ms: i64,
}

impl Span {
    /// A segment without batches.
    pub fn new(base_offset: Offset) -> Span {
        Span {
            base_offset,
            next_offset: base_offset,
            bytes: 0,
            time_ms: i64::MIN,
        }
    }

    /// A segment in a file.
    pub fn of(meta: &SegmentMeta) -> Span {
        Span {
            base_offset: meta.base_offset,
            next_offset: meta.next_offset,
            bytes: meta.bytes,
            time_ms: meta.time_ms,
        }
    }

    /// Counts a batch in.
    pub fn add(&mut self, held: &Held) {
        self.next_offset = held.batch.header.next_offset();
        self.bytes += held.batch.len() as u64;
        self.time_ms = self.time_ms.max(held.time_ms);
    }
}

/// What is due at a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// Where its log is to start.
    pub start: Option<Offset>,
    /// Base offset of the segment that takes appends, if it is to be sealed.
    pub seal: Option<Offset>,
}

/// What is due at `now_ms` at a partition with these segments. `active` is the one of them that takes appends.
///
/// As in Kafka, the oldest segments go while their newest record is older than `retention.ms`, and while the partition is
/// at least `retention.bytes` large without them. The one that takes appends may be among the former.
pub fn due(
    config: &PartitionConfig,
    spans: &[Span],
    active: Option<ActiveSegment>,
    log_start: Offset,
    now_ms: i64,
) -> Due {
    let gone = expired(config, spans, now_ms).max(oversize(config, spans));
    let start = gone.checked_sub(1).and_then(|at| spans.get(at));
    let start = start.map(|s| s.next_offset).filter(|to| *to > log_start);
    let old = |a: &ActiveSegment| now_ms.saturating_sub(a.opened_ms) >= config.segment_ms;
    let seal = active.filter(old).map(|a| a.base_offset);
    Due { start, seal }
}

fn expired(config: &PartitionConfig, spans: &[Span], now_ms: i64) -> usize {
    if config.retention_ms < 0 {
        return 0;
    }
    let old = |s: &&Span| now_ms.saturating_sub(s.time_ms) > config.retention_ms;
    spans.iter().take_while(old).count()
}

fn oversize(config: &PartitionConfig, spans: &[Span]) -> usize {
    let Ok(keep) = u64::try_from(config.retention_bytes) else {
        return 0;
    };
    let mut bytes: u64 = spans.iter().map(|s| s.bytes).sum();
    let more = |s: &&Span| {
        bytes -= s.bytes;
        bytes >= keep
    };
    spans.iter().take_while(more).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn config(retention_ms: i64, retention_bytes: i64) -> PartitionConfig {
        PartitionConfig {
            retention_ms,
            retention_bytes,
            segment_ms: 500,
            ..PartitionConfig::default()
        }
    }

    /// Segments of ten records and 100 bytes each, with these times.
    fn spans(times: &[i64]) -> Vec<Span> {
        let span = |(i, time_ms): (usize, &i64)| Span {
            base_offset: i as i64 * 10,
            next_offset: i as i64 * 10 + 10,
            bytes: 100,
            time_ms: *time_ms,
        };
        times.iter().enumerate().map(span).collect()
    }

    fn active(spans: &[Span], opened_ms: i64) -> Option<ActiveSegment> {
        spans.last().map(|s| ActiveSegment {
            base_offset: s.base_offset,
            opened_ms,
        })
    }

    fn start(config: PartitionConfig, spans: &[Span]) -> Option<Offset> {
        due(&config, spans, active(spans, NOW), 0, NOW).start
    }

    #[test]
    fn segments_older_than_retention_go_up_to_the_first_that_is_not() {
        let all = spans(&[NOW - 101, NOW - 101, NOW - 100, NOW - 500, NOW]);
        assert_eq!(start(config(100, -1), &all), Some(20));
        assert_eq!(start(config(99, -1), &all), Some(40));
        assert_eq!(start(config(1000, -1), &all), None);
        assert_eq!(start(config(-1, -1), &all), None);
    }

    #[test]
    fn record_with_a_time_to_come_holds_its_segment_and_those_after_it() {
        let all = spans(&[NOW - 101, NOW + 3_600_000, NOW - 101]);
        assert_eq!(start(config(100, -1), &all), Some(10));
    }

    #[test]
    fn everything_goes_when_everything_is_old_the_segment_that_takes_appends_too() {
        let all = spans(&[NOW - 101, NOW - 102]);
        assert_eq!(start(config(100, -1), &all), Some(20));
        assert_eq!(start(config(0, -1), &spans(&[NOW])), None);
    }

    #[test]
    fn segments_go_by_size_while_enough_is_left_without_them() {
        let all = spans(&[NOW; 5]);
        assert_eq!(start(config(-1, 500), &all), None);
        assert_eq!(start(config(-1, 401), &all), None);
        assert_eq!(start(config(-1, 400), &all), Some(10));
        assert_eq!(start(config(-1, 250), &all), Some(20));
        assert_eq!(start(config(-1, 0), &all), Some(50));
        assert_eq!(start(config(-1, 1), &[]), None);
    }

    #[test]
    fn log_start_that_is_there_already_is_not_asked_for_again() {
        let all = spans(&[NOW - 101, NOW]);
        let asked = |log_start| due(&config(100, -1), &all, None, log_start, NOW).start;
        assert_eq!(asked(9), Some(10));
        assert_eq!(asked(10), None);
        assert_eq!(asked(15), None);
    }

    #[test]
    fn segment_is_sealed_when_its_first_append_is_long_ago() {
        let all = spans(&[NOW, NOW]);
        let seal = |opened| due(&config(-1, -1), &all, active(&all, opened), 0, NOW).seal;
        assert_eq!(seal(NOW - 499), None);
        assert_eq!(seal(NOW - 500), Some(10));
        assert_eq!(due(&config(-1, -1), &all, None, 0, NOW), Due::default());
    }
}
