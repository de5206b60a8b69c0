//! What people and Prometheus are told about transforms.

use std::rc::Rc;

use tidemill_controller::image::{ErrorPolicy, TopicRef};
use tidemill_controller::{Image, TransformSpec, TransformStatus};
use tidemill_transform::{ProcessorState, ProcessorStats};
use tidemill_wasm_host::Limits;

use super::request::limits_that_hold;
use super::versions::declared;
use crate::admin::ApiError;
use crate::admin::types::{
    LimitsSpec, OnError, TransformDetail, TransformPartition, TransformState, TransformSummary,
};
use crate::admin_service::disk_full;
use crate::metrics::Sample;
use crate::records::gone;
use crate::shard::Shard;
use crate::topics::CONTROLLER_SHARD;

/// What one shard knows of one transform.
#[derive(Debug, Default)]
struct Part {
    partitions: Vec<TransformPartition>,
    records_in: u64,
    records_out: u64,
    failed: u64,
    last_error: Option<(i64, String)>,
}

/// States of a transform on a partition, and how metrics call them.
const STATES: [(TransformState, &str); 6] = [
    (TransformState::Starting, "starting"),
    (TransformState::Running, "running"),
    (TransformState::Paused, "paused"),
    (TransformState::Failing, "failing"),
    (TransformState::InputGone, "input-gone"),
    (TransformState::OutputGone, "output-gone"),
];

/// That there is no such transform.
pub(crate) fn no_such_transform(name: &str) -> ApiError {
    let message = format!("transform '{name}' does not exist; see: transform list");
    ApiError::not_found("transform_not_found", message)
}

/// What is wrong with the topics of a transform: it stands still until that is mended.
pub(super) fn trouble(image: &Image, spec: &TransformSpec) -> Option<(TransformState, String)> {
    let name = &spec.name;
    let gone = |topic: &TopicRef| image.topic_by_id(topic.id).is_none();
    let anew = |topic: &TopicRef| image.topic(&topic.name).is_some();
    let input = &spec.input;
    if gone(input) {
        let message = match anew(input) {
            true => format!(
                "the input topic '{0}' was deleted and made anew, which is another topic: deploy '{name}' again to read it, with --from to \
                 say from where",
                input.name
            ),
            false => format!(
                "the input topic '{0}' was deleted; make it anew and deploy '{name}' again, or: transform delete {name}",
                input.name
            ),
        };
        return Some((TransformState::InputGone, message));
    }
    let output = spec.outputs.iter().find(|output| gone(output))?;
    let message = match anew(output) {
        true => format!(
            "the output topic '{}' was deleted and made anew, which is another topic: deploy '{name}' again to write to it",
            output.name
        ),
        false => format!(
            "the output topic '{}' was deleted; deploy '{name}' again: with it, so that it is made anew, or without it. Input waits until then",
            output.name
        ),
    };
    Some((TransformState::OutputGone, message))
}

impl Shard {
    /// The summaries of all transforms that are not being deleted.
    pub(crate) async fn transform_list(
        self: &Rc<Shard>,
    ) -> Result<Vec<TransformSummary>, ApiError> {
        let mut list = Vec::new();
        for spec in self.image().transforms() {
            if spec.status != TransformStatus::Deleting {
                match self.transform_detail(&spec.name).await {
                    Ok(detail) => list.push(detail.summary),
                    // Deleted meanwhile.
                    Err(e) if e.code == "transform_not_found" => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(list)
    }

    /// Everything about one transform, gathered from all shards.
    pub(crate) async fn transform_detail(
        self: &Rc<Shard>,
        name: &str,
    ) -> Result<TransformDetail, ApiError> {
        let image = self.image();
        let spec = image
            .transform(name)
            .filter(|t| t.status != TransformStatus::Deleting);
        let Some(spec) = spec.cloned() else {
            return Err(no_such_transform(name));
        };
        let parts = {
            let spec = spec.clone();
            self.handle.on_all(move |shard| {
                let part = shard.transform_part(&spec);
                async move { part }
            })
        };
        let mut whole = Part::default();
        for part in parts.await.map_err(gone)? {
            whole.partitions.extend(part.partitions);
            whole.records_in += part.records_in;
            whole.records_out += part.records_out;
            whole.failed += part.failed;
            whole.last_error = whole.last_error.max(part.last_error);
        }
        whole.partitions.sort_by_key(|p| p.partition);
        let mut detail = detail(&spec, whole);
        let holds = limits_that_hold(&spec, &self.info.settings.transforms);
        detail.notes = notes(&image, &spec, &holds);
        detail.limits = LimitsSpec {
            time_ms: Some(holds.time_ms),
            memory_bytes: Some(holds.memory_bytes as u64),
        };
        if let Some((state, message)) = trouble(&image, &spec) {
            detail.summary.state = state;
            detail.summary.last_error = Some(message);
        }
        Ok(detail)
    }

    fn transform_part(&self, spec: &TransformSpec) -> Part {
        let mut part = Part::default();
        let image = self.image();
        let active = self.transforms.active.borrow();
        let active = active.get(&spec.name);
        let trouble = trouble(&image, spec);
        for (ring, partition) in self.inputs_here(&image, spec) {
            let running = active.and_then(|a| a.processors.get(&partition.index));
            let position = ring.progress(partition, spec.incarnation()).unwrap_or(0);
            let high_watermark = ring
                .view(partition)
                .map_or(position, |v| v.last_stable_offset);
            let load_error = active.and_then(|a| a.load_error.clone());
            let state = match (running, spec.status) {
                _ if let Some((state, _)) = &trouble => *state,
                (_, TransformStatus::Paused) => TransformState::Paused,
                _ if load_error.is_some() => TransformState::Failing,
                (None, _) => TransformState::Starting,
                (Some(r), _) => match r.stats.state.get() {
                    ProcessorState::Starting => TransformState::Starting,
                    ProcessorState::Running => TransformState::Running,
                    ProcessorState::Paused => TransformState::Paused,
                    ProcessorState::Failing => TransformState::Failing,
                },
            };
            let error = running.and_then(|r| r.stats.last_error.borrow().clone());
            let waits_for_disk = position < high_watermark
                && state != TransformState::Paused
                && self.log().space().is_full();
            let last_error = load_error.or_else(|| {
                if waits_for_disk {
                    return Some(disk_full(self.log().space()));
                }
                error.as_ref().map(|e| match e.offset {
                    Some(offset) => format!(
                        "partition {}, offset {offset}: {}",
                        partition.index, e.message
                    ),
                    None => format!("partition {}: {}", partition.index, e.message),
                })
            });
            if let Some(running) = running {
                part.records_in += running.stats.records_in.get();
                part.records_out += running
                    .stats
                    .out
                    .borrow()
                    .iter()
                    .map(|(records, _)| records)
                    .sum::<u64>();
                part.failed += running.stats.failed.get();
            }
            if let Some(message) = &last_error {
                let at = error.map_or(i64::MAX, |e| e.at_ms);
                part.last_error = part.last_error.take().max(Some((at, message.clone())));
            }
            part.partitions.push(TransformPartition {
                partition: partition.index,
                state,
                position,
                high_watermark,
                lag: (high_watermark - position).max(0),
                last_error,
            });
        }
        part
    }

    /// Adds samples of this shard's transforms to `out`.
    pub(crate) fn collect_transforms(&self, out: &mut Vec<Sample>) {
        for (name, active) in self.transforms.active.borrow().iter() {
            let histogram = self
                .transforms
                .latency
                .borrow_mut()
                .entry(name.clone())
                .or_default()
                .clone();
            for (index, running) in &active.processors {
                let stats = &running.stats;
                let latencies = std::mem::take(&mut *stats.latencies.borrow_mut());
                latencies.into_iter().for_each(|d| histogram.observe(d));
                collect_processor(&active.spec, stats, out);
                let lag = self.lag(&active.spec, *index);
                let labels = vec![("transform", name.clone())];
                out.push(Sample::plain(
                    "tidemill_transform_lag_records",
                    labels,
                    lag as f64,
                ));
            }
            let part = self.transform_part(&active.spec);
            for state in STATES {
                let labels = vec![("transform", name.clone()), ("state", state.1.to_owned())];
                let count = part
                    .partitions
                    .iter()
                    .filter(|p| p.state == state.0)
                    .count();
                out.push(Sample::plain(
                    "tidemill_transform_partitions",
                    labels,
                    count as f64,
                ));
            }
            let labels = vec![("transform", name.clone())];
            // The processors share one instance.
            let memory = active
                .processors
                .values()
                .map(|r| r.stats.memory_bytes.get());
            out.push(Sample::plain(
                "tidemill_transform_memory_bytes",
                labels.clone(),
                memory.max().unwrap_or(0) as f64,
            ));
            out.push(Sample::plain(
                "tidemill_transform_waits_total",
                labels.clone(),
                active.stretches.waits_total() as f64,
            ));
            histogram.collect("tidemill_transform_latency_seconds", &labels, out);
        }
        if let Some(guest) = &*self.transforms.guest.borrow() {
            let mut plain = |family, value| out.push(Sample::plain(family, Vec::new(), value));
            plain("tidemill_guest_calls_waiting", guest.waiting() as f64);
            plain(
                "tidemill_guest_calls_given_up_total",
                guest.given_up() as f64,
            );
        }
        self.collect_troubled(out);
        self.collect_logs(out);
    }

    fn collect_logs(&self, out: &mut Vec<Sample>) {
        for (name, written, dropped) in self.transforms.logs.counts() {
            let labels = |reason: Option<&str>| {
                let mut labels = vec![("transform", name.clone())];
                labels.extend(reason.map(|reason| ("reason", reason.to_owned())));
                labels
            };
            out.push(Sample::plain(
                "tidemill_transform_log_lines_total",
                labels(None),
                written as f64,
            ));
            for (reason, count) in [
                ("rate", dropped.rate),
                ("full", dropped.full),
                ("unwritten", dropped.unwritten),
            ] {
                out.push(Sample::plain(
                    "tidemill_transform_log_dropped_total",
                    labels(Some(reason)),
                    count as f64,
                ));
            }
        }
    }

    /// Those whose topics are gone are at work nowhere: shard 0 tells of each of them once.
    fn collect_troubled(&self, out: &mut Vec<Sample>) {
        if self.id != CONTROLLER_SHARD {
            return;
        }
        let image = self.image();
        for spec in image.transforms() {
            let deleting = spec.status == TransformStatus::Deleting;
            let Some((found, _)) = trouble(&image, spec).filter(|_| !deleting) else {
                continue;
            };
            let state = STATES.iter().find(|(state, _)| *state == found);
            let word = state.map_or("", |(_, word)| word).to_owned();
            let labels = vec![("transform", spec.name.clone()), ("state", word)];
            out.push(Sample::plain("tidemill_transform_partitions", labels, 1.0));
        }
    }

    fn lag(&self, spec: &TransformSpec, index: i32) -> i64 {
        let image = self.image();
        let here = self.inputs_here(&image, spec);
        let Some((ring, partition)) = here.into_iter().find(|(_, p)| p.index == index) else {
            return 0;
        };
        let end = ring.view(partition).map_or(0, |v| v.last_stable_offset);
        (end - ring.progress(partition, spec.incarnation()).unwrap_or(end)).max(0)
    }
}

/// Adds the samples of one processor.
fn collect_processor(spec: &TransformSpec, stats: &ProcessorStats, out: &mut Vec<Sample>) {
    let mut plain = |family, extra: Option<(&'static str, String)>, value: f64| {
        let mut labels = vec![("transform", spec.name.clone())];
        labels.extend(extra);
        out.push(Sample::plain(family, labels, value));
    };
    plain(
        "tidemill_transform_records_in_total",
        None,
        stats.records_in.get() as f64,
    );
    plain(
        "tidemill_transform_bytes_in_total",
        None,
        stats.bytes_in.get() as f64,
    );
    let cpu_seconds = stats.cpu_ns.get() as f64 / 1e9;
    plain("tidemill_transform_cpu_seconds_total", None, cpu_seconds);
    for (kind, cell) in [
        ("failed", &stats.failed),
        ("skipped", &stats.skipped),
        ("dead_lettered", &stats.dead_lettered),
        ("passed_through", &stats.passed_through),
        ("missed", &stats.missed),
    ] {
        let label = Some(("outcome", kind.to_owned()));
        plain(
            "tidemill_transform_records_failed_total",
            label,
            cell.get() as f64,
        );
    }
    for (output, (records, bytes)) in stats.out.borrow().iter().enumerate() {
        let topic = spec.outputs.get(output).map_or("", |o| o.name.as_str());
        let label = || Some(("topic", topic.to_owned()));
        plain(
            "tidemill_transform_records_out_total",
            label(),
            *records as f64,
        );
        plain("tidemill_transform_bytes_out_total", label(), *bytes as f64);
    }
}

fn detail(spec: &TransformSpec, whole: Part) -> TransformDetail {
    let states = || whole.partitions.iter().map(|p| p.state);
    let state = [
        TransformState::Failing,
        TransformState::Starting,
        TransformState::Running,
    ]
    .into_iter()
    .find(|s| states().any(|p| p == *s))
    .unwrap_or(TransformState::Paused);
    let state = match spec.status {
        TransformStatus::Paused => TransformState::Paused,
        TransformStatus::Running | TransformStatus::Deleting => state,
    };
    TransformDetail {
        summary: TransformSummary {
            name: spec.name.clone(),
            version: spec.version,
            state,
            input: spec.input.name.clone(),
            outputs: declared(spec),
            dead_letter: dead_letter(spec),
            lag: whole.partitions.iter().map(|p| p.lag).sum(),
            records_in: whole.records_in,
            records_out: whole.records_out,
            failed: whole.failed,
            last_error: whole.last_error.map(|(_, message)| message),
        },
        incarnation: spec.incarnation,
        module: spec.module.clone(),
        env: spec.env.clone(),
        limits: LimitsSpec {
            time_ms: Some(spec.time_ms),
            memory_bytes: Some(spec.memory_bytes),
        },
        on_error: policy(spec),
        attempts: spec.attempts,
        compression: spec.compression,
        weight: spec.weight,
        partition_by: spec.partition_by,
        secrets: spec.secrets.keys().cloned().collect(),
        deployed_ms: spec.deployed_ms,
        content_of: spec.content_of,
        notes: Vec::new(),
        partitions: whole.partitions,
    }
}

/// What is not wrong, but may surprise: outputs with another number of partitions than the input.
fn notes(image: &Image, spec: &TransformSpec, holds: &Limits) -> Vec<String> {
    let mut notes = Vec::new();
    if holds.time_ms < spec.time_ms || (holds.memory_bytes as u64) < spec.memory_bytes {
        notes.push(format!(
            "it was deployed with {} ms and {} MiB; the limits of this broker (transforms.call_time_max, transforms.instance_memory_max) \
             are smaller by now and hold",
            spec.time_ms,
            spec.memory_bytes >> 20
        ));
    }
    let count = |id| image.topic_by_id(id).map(|t| t.partition_count());
    let Some(input) = count(spec.input.id) else {
        return notes;
    };
    let fewer = spec.outputs.iter().filter_map(|output| {
        let has = count(output.id).filter(|has| *has < input)?;
        Some(format!(
            "'{}' has {has} of the {input} partitions of '{}': input partition i is written to partition i modulo {has}. \
             Nothing is lost; add partitions to '{}' to have one for each",
            output.name, spec.input.name, output.name
        ))
    });
    notes.extend(fewer);
    notes
}

/// What happens to a record it cannot handle.
pub(super) fn policy(spec: &TransformSpec) -> OnError {
    match spec.on_error {
        ErrorPolicy::Fail => OnError::Fail,
        ErrorPolicy::Skip => OnError::Skip,
        ErrorPolicy::DeadLetter => OnError::DeadLetter,
        ErrorPolicy::PassThrough => OnError::PassThrough,
    }
}

/// The topic for such records.
pub(super) fn dead_letter(spec: &TransformSpec) -> Option<String> {
    let output = spec.outputs.get(spec.dead_letter? as usize)?;
    Some(output.name.clone())
}
