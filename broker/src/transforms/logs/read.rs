//! Reads a transform's lines back from the topic, for the admin API.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidemill_controller::{Topic, TransformStatus};
use tidemill_model::partitioner::partition_for_key;
use tidemill_model::{Offset, topic_name};
use tidemill_ring::ReadError;
use tidemill_rt::time::{self, Instant};

use super::otlp;
use crate::admin::ApiError;
use crate::admin::records::ReadRecord;
use crate::admin::types::{LogLine, LogLines, LogQuery};
use crate::records::gone;
use crate::shard::Shard;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// Bytes that one question may read: what lies beyond is asked for again, or, going backwards, is not looked at.
const SCAN_BYTES_MAX: usize = 64 << 20;
/// Records of the first step backwards; each further step is twice as long.
const STEP_BACK: Offset = 2_048;
/// How long a waiting reader waits at once, so that it notices the end of the broker.
const WAIT_AT_ONCE: Duration = Duration::from_millis(500);
/// How often is looked whether the topic has been made.
const LOOK: Duration = Duration::from_millis(200);
/// How long is waited for lines that are on their way into the topic.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// The lines of one transform in its partition of the topic.
struct Scan {
    shard: Rc<Shard>,
    topic: Arc<Topic>,
    index: i32,
    transform: String,
    query: LogQuery,
    /// Bytes that may still be read.
    budget: usize,
}

/// A stretch of the partition, as far as it was read.
struct Stretch {
    lines: Vec<LogLine>,
    /// Where to go on.
    next: Offset,
    /// Nothing more is there.
    at_end: bool,
}

impl Shard {
    /// What a transform logged, also one that was deleted since: from a position or a time on, or the newest.
    pub(crate) async fn transform_logs(
        self: &Rc<Shard>,
        name: String,
        query: LogQuery,
    ) -> Result<LogLines, ApiError> {
        let deadline = Instant::now() + Duration::from_millis(query.wait_ms);
        if query.position.is_none() {
            // What was logged before the question is in the answer.
            let flushed = self
                .handle
                .on_all(|shard| async move { shard.flush_logs().await });
            let _ = time::timeout(FLUSH_WAIT, flushed).await;
        }
        let Some(topic) = self.log_topic_until(deadline).await else {
            self.must_be_known(&name)?;
            return Ok(LogLines::none(query.position.unwrap_or(0)));
        };
        let index = partition_for_key(name.as_bytes(), topic.partition_count());
        let mut scan = Scan {
            shard: self.clone(),
            topic,
            index,
            transform: name.clone(),
            query,
            budget: SCAN_BYTES_MAX,
        };
        let asked_anew = scan.query.position.is_none();
        let lines = scan.answer(deadline).await?;
        if asked_anew && lines.lines.is_empty() {
            self.must_be_known(&name)?;
        }
        Ok(lines)
    }

    fn must_be_known(&self, name: &str) -> Result<(), ApiError> {
        let image = self.image();
        let known = image
            .transform(name)
            .is_some_and(|t| t.status != TransformStatus::Deleting);
        let message = || {
            format!(
                "transform '{name}' does not exist and nothing it logged is there; see: transform list"
            )
        };
        match known {
            true => Ok(()),
            false => Err(ApiError::not_found("transform_not_found", message())),
        }
    }

    /// The topic; where it has not been made yet, that is waited for.
    async fn log_topic_until(&self, deadline: Instant) -> Option<Arc<Topic>> {
        loop {
            let image = self.image();
            if let Some(topic) = image.topic(topic_name::TRANSFORM_LOGS) {
                return Some(topic.clone());
            }
            if Instant::now() >= deadline || self.is_ending() {
                return None;
            }
            time::sleep(LOOK.min(deadline.since(Instant::now()))).await;
        }
    }
}

impl Scan {
    async fn answer(&mut self, deadline: Instant) -> Result<LogLines, ApiError> {
        let standing = self.standing().await?;
        let (start, end) = standing;
        let since = match self.query.since {
            Some(since) => self.offset_at(since).await?.unwrap_or(end),
            None => start,
        };
        match (self.query.position, self.query.tail) {
            (Some(position), _) => self.onward(position, deadline).await,
            (None, Some(tail)) => self.newest(since, end, tail).await,
            (None, None) if self.query.since.is_some() => self.onward(since, deadline).await,
            (None, None) => self.newest(since, end, self.query.limit).await,
        }
    }

    /// From `position` on; waits where there is nothing.
    async fn onward(&mut self, position: Offset, deadline: Instant) -> Result<LogLines, ApiError> {
        let mut from = position;
        loop {
            let stretch = self.forward(from, None, self.query.limit).await?;
            from = stretch.next;
            let over = Instant::now() >= deadline || self.shard.is_ending();
            if !stretch.lines.is_empty() || !stretch.at_end || over {
                return Ok(LogLines {
                    lines: stretch.lines,
                    next: from,
                    at_end: stretch.at_end,
                    older: false,
                });
            }
            self.wait(from, deadline).await?;
        }
    }

    /// The newest `count` lines of `since..end`, oldest first.
    async fn newest(
        &mut self,
        since: Offset,
        end: Offset,
        count: usize,
    ) -> Result<LogLines, ApiError> {
        let (mut lines, mut hi, mut step) = (Vec::new(), end, STEP_BACK);
        while hi > since && lines.len() < count && self.budget > 0 {
            let lo = since.max(hi - step);
            let mut found = self.forward(lo, Some(hi), usize::MAX).await?.lines;
            found.append(&mut lines);
            (lines, hi, step) = (found, lo, step * 2);
            // More than are wanted are not kept, however many a step holds.
            lines.drain(..lines.len().saturating_sub(count));
        }
        Ok(LogLines {
            older: hi > since && lines.len() < count,
            lines,
            next: end,
            at_end: true,
        })
    }

    /// At most `max` lines of `from..to`; ends early when enough was read.
    async fn forward(
        &mut self,
        from: Offset,
        to: Option<Offset>,
        max: usize,
    ) -> Result<Stretch, ApiError> {
        let mut stretch = Stretch {
            lines: Vec::new(),
            next: from,
            at_end: false,
        };
        let before_end = |offset| to.is_none_or(|to| offset < to);
        while before_end(stretch.next) && self.budget > 0 {
            let run = self
                .shard
                .read_partition(&self.topic, self.index, stretch.next, READ_BYTES)
                .await?;
            if run.next <= stretch.next && run.records.is_empty() {
                stretch.at_end = true;
                break;
            }
            self.budget = self.budget.saturating_sub(run.bytes.max(1));
            stretch.next = run.next;
            for record in &run.records {
                if !before_end(record.offset) {
                    break;
                }
                if stretch.lines.len() >= max {
                    stretch.next = record.offset;
                    return Ok(stretch);
                }
                stretch.lines.extend(self.wanted(record));
            }
        }
        Ok(stretch)
    }

    fn wanted(&self, record: &ReadRecord) -> Option<LogLine> {
        if record.key.as_deref() != Some(self.transform.as_bytes()) {
            return None;
        }
        let line = otlp::decode(record.offset, record.value.as_deref()?)?;
        let query = &self.query;
        let fits = query.level.is_none_or(|level| line.level >= level)
            && query.partition.is_none_or(|p| line.partition == Some(p))
            && query.since.is_none_or(|since| line.timestamp >= since);
        fits.then_some(line)
    }

    /// The first offset and the one after the last.
    async fn standing(&self) -> Result<(Offset, Offset), ApiError> {
        let standings = self.shard.standings(&self.topic).await?;
        let here = &standings[self.index as usize];
        Ok((here.log_start_offset, here.last_stable_offset))
    }

    /// The first record not older than `since`.
    async fn offset_at(&self, since: i64) -> Result<Option<Offset>, ApiError> {
        let partition = self.topic.partition(self.index);
        let found = self.here(move |ring| async move {
            ring.offset_for_timestamp(partition, since.max(0)).await
        });
        let found = found.await?;
        let found = found.map_err(|e: ReadError| ApiError::internal(e.to_string()))?;
        Ok(found.map(|(offset, _)| offset))
    }

    /// Waits until there is something at `from`, or a little.
    async fn wait(&self, from: Offset, deadline: Instant) -> Result<(), ApiError> {
        let partition = self.topic.partition(self.index);
        let left = WAIT_AT_ONCE.min(deadline.since(Instant::now()));
        self.here(move |ring| async move {
            let Some(changed) = ring.changed(partition).map(|c| c.notified()) else {
                return time::sleep(left).await;
            };
            let end = ring.view(partition).map_or(0, |v| v.last_stable_offset);
            if end <= from {
                let _ = time::timeout(left, changed).await;
            }
        })
        .await
    }

    /// Runs `f` where the partition's ring is.
    async fn here<T, F, Fut>(&self, f: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(tidemill_ring::Ring) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let partition = self.topic.partition(self.index);
        let unavailable = || ApiError::unavailable("unavailable", "the log topic is not open yet");
        let (ring, target) = self.shard.locate(partition).ok_or_else(unavailable)?;
        let done = self.shard.on(target, move |shard| async move {
            match shard.ring(ring).cloned() {
                Some(ring) => Some(f(ring).await),
                None => None,
            }
        });
        done.await.map_err(gone)?.ok_or_else(unavailable)
    }
}
