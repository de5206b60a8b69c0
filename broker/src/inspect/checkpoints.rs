//! Checkpoint files: of rings, and of the controller.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use serde_json::json;
use tidemill_model::TopicId;
use tidemill_ring::inspect::{RingSummary, checkpoint_content};
use tidemill_shardlog::checkpoint;

use super::report::Report;

/// Names of topics by their ids.
pub(super) type Names = BTreeMap<TopicId, String>;

/// What a checkpoint is of.
pub(super) enum Checkpoint {
    /// A ring with partitions.
    Ring(Box<RingSummary>),
    /// The controller: names of topics.
    Controller(Names),
    /// It cannot be read.
    Unreadable,
}

/// One checkpoint file.
pub(super) async fn file(path: &Path, report: &mut Report) -> Checkpoint {
    let content = match checkpoint::read(path).await {
        Ok(Some(content)) => content,
        Ok(None) => return Checkpoint::Unreadable,
        Err(error) => {
            report.problem(1, path, None, error.to_string());
            return Checkpoint::Unreadable;
        }
    };
    let read = match super::is_controller(path) {
        true => controller(path, &content, report),
        false => ring(path, &content, report),
    };
    read.unwrap_or_else(|what| {
        report.problem(1, path, None, what);
        Checkpoint::Unreadable
    })
}

fn controller(path: &Path, content: &Bytes, report: &mut Report) -> Result<Checkpoint, String> {
    let (point, state) = tidemill_controller::handle::checkpoint_content(content)?;
    let point = tidemill_consensus::inspect::point(point).map_err(|e| e.0.to_owned())?;
    let image = state.image();
    report.say(
        1,
        "checkpoint",
        [
            ("path", json!(path.display().to_string())),
            ("of", json!("controller")),
            ("bytes", json!(content.len())),
            ("term", json!(point.term)),
            ("index", json!(point.index)),
            ("topics", json!(image.topics().count())),
            ("transforms", json!(image.transforms().count())),
        ],
    );
    for topic in image.topics() {
        report.say(
            2,
            "topic",
            [
                ("name", json!(topic.name)),
                ("id", json!(topic.id.to_string())),
                ("partitions", json!(topic.partition_count())),
                ("configs", json!(topic.configs)),
            ],
        );
    }
    for transform in image.transforms() {
        report.say(
            2,
            "transform",
            [
                ("name", json!(transform.name)),
                ("version", json!(transform.version)),
                ("incarnation", json!(transform.incarnation)),
                ("input", json!(transform.input.name)),
            ],
        );
    }
    Ok(Checkpoint::Controller(
        image.topics().map(|t| (t.id, t.name.clone())).collect(),
    ))
}

fn ring(path: &Path, content: &Bytes, report: &mut Report) -> Result<Checkpoint, String> {
    let summary = checkpoint_content(content).map_err(|e| e.0.to_owned())?;
    report.say(
        1,
        "checkpoint",
        [
            ("path", json!(path.display().to_string())),
            ("of", json!("ring")),
            ("bytes", json!(content.len())),
            ("term", json!(summary.point.term)),
            ("index", json!(summary.point.index)),
            ("partitions", json!(summary.partitions.len())),
            ("outbox_items", json!(summary.outbox_items)),
            ("outbox_bytes", json!(summary.outbox_bytes)),
            ("folders_to_remove", json!(summary.dropped.len())),
        ],
    );
    Ok(Checkpoint::Ring(Box::new(summary)))
}
