//! Where a transform begins, and moving it: `earliest`, `latest`, `@TIME`, `+N`, `-N`, or an offset.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::stream::{self, StreamExt};
use tidemill_controller::{StartPosition, TransformSpec, TransformStatus};
use tidemill_model::{Offset, PartitionId, moment};
use tidemill_ring::Ring;

use crate::admin::ApiError;
use crate::admin::types::{Moved, MovedPartition, SeekRequest};
use crate::records::gone;
use crate::shard::Shard;
use crate::topics::CONTROLLER_SHARD;
use crate::transforms::manager::CHANGES_AT_ONCE;

/// How a start is written; shown where a text is none.
const FORMS: &str = "earliest, latest, @TIME (@2026-11-27T10:00:00Z, @2h for two hours ago, or ms since 1970), +N (records after the oldest) or -N (before the end)";

/// Where a transform is to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// As a new one begins.
    Start(StartPosition),
    /// At this offset.
    Offset(Offset),
}

/// A position as people write it.
///
/// # Errors
/// What is wrong with it, and how it is written.
pub(crate) fn target(text: &str, now_ms: i64) -> Result<Target, String> {
    read(text, now_ms, ", or an offset")
}

/// As [`target`]; `besides` is what may be written besides [`FORMS`], for errors.
fn read(text: &str, now_ms: i64, besides: &str) -> Result<Target, String> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<i64>().ok()).flatten()
    };
    let start = match text {
        "earliest" => StartPosition::Earliest,
        "latest" => StartPosition::Latest,
        _ => {
            let none = || format!("'{text}' is no position: write {FORMS}{besides}");
            let (first, rest) = text.split_at_checked(1).ok_or_else(none)?;
            match first {
                "@" => {
                    let at = moment::parse(rest, now_ms)
                        .map_err(|e| format!("'{text}' is no position; behind the @: {e}"))?;
                    StartPosition::Timestamp(at)
                }
                "+" => StartPosition::AfterStart(number(rest).ok_or_else(none)?),
                "-" => StartPosition::BeforeEnd(number(rest).ok_or_else(none)?),
                _ => return number(text).map(Target::Offset).ok_or_else(none),
            }
        }
    };
    Ok(Target::Start(start))
}

/// Where a new transform begins, as people write it.
///
/// # Errors
/// As [`target`]; offsets are different in every partition.
pub(crate) fn start(text: &str, now_ms: i64) -> Result<StartPosition, String> {
    match read(text, now_ms, "")? {
        Target::Start(start) => Ok(start),
        Target::Offset(offset) => Err(format!(
            "a transform begins in every partition, so '{offset}' is no start: write {FORMS}. An offset of one partition is for \
             `transform seek NAME --to {offset} --partition P`"
        )),
    }
}

/// Where a reading of all partitions of a topic begins, as people write it.
///
/// # Errors
/// As [`start`].
pub(crate) fn reading(text: &str, now_ms: i64) -> Result<StartPosition, String> {
    match read(text, now_ms, "")? {
        Target::Start(start) => Ok(start),
        Target::Offset(offset) => Err(format!(
            "every partition is read, so '{offset}' is no start: write {FORMS}"
        )),
    }
}

/// The offset that `at` is in `partition` now.
///
/// # Errors
/// Why it cannot be told.
pub(crate) async fn resolve(
    ring: &Ring,
    partition: PartitionId,
    at: StartPosition,
) -> Result<Offset, String> {
    let view = ring
        .view(partition)
        .ok_or_else(|| format!("partition {} is not open here", partition.index))?;
    let (first, end) = (view.log_start_offset, view.last_stable_offset);
    Ok(match at {
        StartPosition::Earliest => first,
        StartPosition::Latest => end,
        StartPosition::AfterStart(n) => first.saturating_add(n).min(end),
        StartPosition::BeforeEnd(n) => end.saturating_sub(n).max(first),
        StartPosition::Timestamp(ms) => {
            let found = ring.offset_for_timestamp(partition, ms).await;
            let found = found.map_err(|e| e.to_string())?;
            found.map_or(end, |(offset, _)| offset.clamp(first, end))
        }
    })
}

/// A move of one partition that can be made.
#[derive(Debug, Clone, Copy)]
struct Step {
    partition: i32,
    /// How often it was moved before.
    moves: u32,
    from: Offset,
    to: Offset,
}

impl Shard {
    /// Moves a transform; it may run or be paused. What it had proposed and was undecided comes to nothing (rule X2).
    pub(crate) async fn seek(
        self: &Rc<Shard>,
        name: String,
        request: SeekRequest,
    ) -> Result<Moved, ApiError> {
        let moved = self.on(CONTROLLER_SHARD, move |shard| async move {
            let _turn = shard.deployments.acquire(1).await;
            shard.seek_here(name, request).await
        });
        moved.await.map_err(gone)?
    }

    async fn seek_here(
        self: &Rc<Shard>,
        name: String,
        request: SeekRequest,
    ) -> Result<Moved, ApiError> {
        let target = target(&request.to, tidemill_rt::time::unix_ms())
            .map_err(|message| ApiError::bad_request("invalid_position", message))?;
        let spec = self.seekable(&name, request.partition)?;
        // Everything is looked up, and refused if need be, before anything moves.
        let look = {
            let spec = spec.clone();
            move |shard: Rc<Shard>| {
                let spec = spec.clone();
                async move { shard.steps_here(&spec, request.partition, target).await }
            }
        };
        let mut steps = BTreeMap::new();
        for found in self.handle.on_all(look).await.map_err(gone)? {
            let found = found.map_err(|message| ApiError::conflict("cannot_seek", message))?;
            steps.extend(found.into_iter().map(|step| (step.partition, step)));
        }
        let go = {
            let (spec, steps) = (spec.clone(), steps.clone());
            move |shard: Rc<Shard>| {
                let (spec, steps) = (spec.clone(), steps.clone());
                async move { shard.seek_partitions(&spec, &steps).await }
            }
        };
        for done in self.handle.on_all(go).await.map_err(gone)? {
            done.map_err(|message| {
                let message = format!(
                    "not every partition was moved: {message}; `transform describe {name}` shows where each stands"
                );
                ApiError::unavailable("cannot_seek", message)
            })?;
        }
        tracing::info!(
            target: tidemill_controller::TRAIL_TARGET,
            "transform '{name}' moved to {}; partitions moved: {}",
            request.to,
            steps.len()
        );
        let moved = steps.into_values().map(|step| MovedPartition {
            partition: step.partition,
            from: step.from,
            to: step.to,
        });
        Ok(Moved {
            name,
            partitions: moved.collect(),
        })
    }

    fn seekable(&self, name: &str, partition: Option<i32>) -> Result<TransformSpec, ApiError> {
        let image = self.controller_here().image();
        let spec = image
            .transform(name)
            .filter(|t| t.status != TransformStatus::Deleting)
            .ok_or_else(|| super::status::no_such_transform(name))?;
        let Some(input) = image.topic_by_id(spec.input.id) else {
            let message = format!(
                "the input topic '{}' of '{name}' was deleted; make it anew and deploy again, with --from",
                spec.input.name
            );
            return Err(ApiError::conflict("input_gone", message));
        };
        match partition {
            Some(p) if !(0..input.partition_count()).contains(&p) => Err(ApiError::bad_request(
                "invalid_partition",
                format!(
                    "topic '{}' has partitions 0 to {}, not {p}",
                    input.name,
                    input.partition_count() - 1
                ),
            )),
            _ => Ok(TransformSpec::clone(spec)),
        }
    }

    async fn steps_here(
        self: &Rc<Shard>,
        spec: &TransformSpec,
        only: Option<i32>,
        target: Target,
    ) -> Result<Vec<Step>, String> {
        let image = self.image();
        let mut steps = Vec::new();
        for (ring, partition) in self.inputs_here(&image, spec) {
            if only.is_some_and(|only| only != partition.index) {
                continue;
            }
            let index = partition.index;
            let standing = ring.standing(partition, spec.incarnation());
            let standing = standing.ok_or_else(|| {
                format!("it is not attached to partition {index} yet; try again in a moment")
            })?;
            let to = match target {
                Target::Start(at) => resolve(&ring, partition, at).await?,
                Target::Offset(offset) => within(&ring, partition, offset)?,
            };
            steps.push(Step {
                partition: index,
                moves: standing.moves,
                from: standing.position,
                to,
            });
        }
        Ok(steps)
    }

    async fn seek_partitions(
        self: &Rc<Shard>,
        spec: &TransformSpec,
        steps: &BTreeMap<i32, Step>,
    ) -> Result<(), String> {
        let image = self.image();
        let here = self.inputs_here(&image, spec).into_iter();
        let incarnation = spec.incarnation();
        let moves = here.filter_map(|(ring, partition)| {
            let step = *steps.get(&partition.index)?;
            Some(async move {
                let moved = ring.seek(partition, incarnation, (step.moves, step.to));
                (partition.index, moved.await)
            })
        });
        let moves = stream::iter(moves).buffer_unordered(CHANGES_AT_ONCE);
        let mut refused = None;
        for (index, moved) in moves.collect::<Vec<_>>().await {
            match moved {
                Ok(_) => self.restart_processor(spec, index).await,
                Err(e) => refused = Some(format!("partition {index}: {e}")),
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

fn within(ring: &Ring, partition: PartitionId, offset: Offset) -> Result<Offset, String> {
    let view = ring
        .view(partition)
        .ok_or_else(|| format!("partition {} is not open here", partition.index))?;
    let (first, end) = (view.log_start_offset, view.last_stable_offset);
    match (first..=end).contains(&offset) {
        true => Ok(offset),
        false => Err(format!(
            "partition {} has offsets {first} (earliest) to {end} (latest), not {offset}; +N and -N stop at these",
            partition.index
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_773_600_000;

    #[test]
    fn every_form_of_a_position_is_read() {
        for (text, wanted) in [
            ("earliest", StartPosition::Earliest),
            ("latest", StartPosition::Latest),
            ("@0", StartPosition::Timestamp(0)),
            (
                "@1795773600000",
                StartPosition::Timestamp(1_795_773_600_000),
            ),
            (
                "@2026-11-27T10:00:00Z",
                StartPosition::Timestamp(1_795_773_600_000),
            ),
            (
                "@2026-11-27T12:00:00.5+02:00",
                StartPosition::Timestamp(1_795_773_600_500),
            ),
            ("@2026-11-27", StartPosition::Timestamp(1_795_737_600_000)),
            ("@2h", StartPosition::Timestamp(NOW - 7_200_000)),
            ("+7", StartPosition::AfterStart(7)),
            ("-100", StartPosition::BeforeEnd(100)),
        ] {
            assert_eq!(target(text, NOW), Ok(Target::Start(wanted)), "{text}");
            assert_eq!(start(text, NOW), Ok(wanted));
        }
        assert_eq!(target("42", NOW), Ok(Target::Offset(42)));
        let offset = start("42", NOW).expect_err("a new transform begins in every partition");
        assert!(offset.contains("seek"), "{offset}");
    }

    #[test]
    fn offsets_are_among_what_may_be_written_only_where_one_is_taken() {
        let refused = |told: Result<(), String>| told.expect_err("it is no position");
        assert!(refused(target("end", NOW).map(drop)).ends_with(", or an offset"));
        for told in [
            start("end", NOW).map(drop),
            reading("end", NOW).map(drop),
            reading("7", NOW).map(drop),
        ] {
            let told = refused(told);
            assert!(told.ends_with("(before the end)"), "{told}");
        }
        assert_eq!(reading("-3", NOW), Ok(StartPosition::BeforeEnd(3)));
    }

    #[test]
    fn what_is_no_position_is_refused_with_what_was_meant() {
        for (text, hint) in [
            ("@1795773600", "1795773600000"),
            ("@1795773600000000", "micro"),
            ("@-5", "plausible"),
            ("@2026-11-31", "2026-11-27T10"),
            ("@", "ms since 1970"),
            ("+", "earliest"),
            ("-", "earliest"),
            ("+-3", "earliest"),
            ("", "earliest"),
            ("\u{e9}5", "earliest"),
            ("99999999999999999999", "earliest"),
            ("end", "earliest"),
        ] {
            let refused = target(text, NOW).expect_err(text);
            assert!(refused.contains(hint), "{text}: {refused}");
        }
    }
}
