//! Write-ahead log files.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use serde_json::json;
use tidemill_model::RingId;
use tidemill_ring::inspect::Removals;
use tidemill_shardlog::inspect::{Found, log_file, log_files};
use tidemill_shardlog::{Frame, LogError};

use super::report::{Field, Report};

/// What a ring has in a file.
#[derive(Debug, Default)]
struct OfRing {
    frames: u64,
    bytes: u64,
    first: Option<u64>,
    last: Option<u64>,
}

/// What the entries of each ring do away with.
pub(super) type Removed = BTreeMap<RingId, Removals>;

/// Every file of a log, oldest first.
pub(super) async fn folder(dir: &Path, details: bool, report: &mut Report) -> Removed {
    let mut removed = Removed::new();
    match log_files(dir).await {
        Ok(files) => {
            for path in files {
                look_at(&path, details, &mut removed, report).await;
            }
        }
        Err(error) => report.problem(1, dir, None, error.to_string()),
    }
    removed
}

/// One file by itself.
pub(super) async fn file(path: &Path, details: bool, report: &mut Report) {
    look_at(path, details, &mut Removed::new(), report).await;
}

/// One file: its frames where `details` are wanted, and what each ring has in it.
async fn look_at(path: &Path, details: bool, removed: &mut Removed, report: &mut Report) {
    let mut looked = Looked::default();
    let result = log_file(path, &mut |found| {
        if let Found::Frame { ring, frame, .. } = &found {
            note_removals(*ring, frame, removed);
        }
        looked.take(path, found, details, report);
    })
    .await;
    for (ring, of) in looked.rings {
        let fields = [
            ("ring", json!(ring.0)),
            ("frames", json!(of.frames)),
            ("bytes", json!(of.bytes)),
            ("first_index", json!(of.first)),
            ("last_index", json!(of.last)),
        ];
        report.say(2, "ring", fields);
    }
    if let Some((position, torn)) = looked.end {
        let fields = [
            ("position", json!(position)),
            ("groups", json!(looked.groups)),
            // What a crash leaves: it was never acknowledged and is dropped at the next start.
            ("torn_tail", json!(torn)),
        ];
        report.say(2, "end", fields);
    }
    match result {
        Ok(()) => {}
        Err(LogError::Corrupt {
            file,
            position,
            what,
        }) => report.problem(2, &file, Some(position), what),
        Err(error) => report.problem(2, path, None, error.to_string()),
    }
}

fn note_removals(ring: RingId, frame: &Frame, removed: &mut Removed) {
    let (index, data) = match frame {
        Frame::Entry { index, data } => (*index, data.first().cloned().unwrap_or_default()),
        Frame::Carried { index, data } => (*index, data.clone()),
        Frame::Truncate { .. } | Frame::Vote { .. } | Frame::Purge { .. } => return,
    };
    if ring == RingId::CONTROLLER {
        return;
    }
    // One that cannot be read is told of where its fields are shown.
    if let Ok(Some(command)) = tidemill_consensus::inspect::command(index, data) {
        removed.entry(ring).or_default().note(index, &command);
    }
}

/// What was found in a file so far.
#[derive(Debug, Default)]
struct Looked {
    rings: BTreeMap<RingId, OfRing>,
    groups: u64,
    end: Option<(u64, Option<&'static str>)>,
}

impl Looked {
    fn take(&mut self, path: &Path, found: Found, details: bool, report: &mut Report) {
        match found {
            Found::File {
                sequence,
                generation,
                predecessor_end,
                bytes,
            } => {
                let fields = [
                    ("path", json!(path.display().to_string())),
                    ("sequence", json!(sequence)),
                    ("generation", json!(format!("{generation:016x}"))),
                    ("bytes", json!(bytes)),
                    ("predecessor_end", json!(predecessor_end)),
                ];
                report.say(1, "log", fields);
            }
            Found::Group {
                position,
                number,
                frames,
                bytes,
            } => {
                self.groups += 1;
                let fields = [
                    ("position", json!(position)),
                    ("number", json!(number)),
                    ("frames", json!(frames)),
                    ("bytes", json!(bytes)),
                ];
                if details {
                    report.say(2, "group", fields);
                }
            }
            Found::Frame { ring, frame, bytes } => {
                self.rings.entry(ring).or_default().count(&frame, bytes);
                if details {
                    frame_line(ring, &frame, bytes, report);
                }
            }
            Found::End { position, torn } => self.end = Some((position, torn)),
        }
    }
}

impl OfRing {
    fn count(&mut self, frame: &Frame, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
        if let Frame::Entry { index, .. } | Frame::Carried { index, .. } = frame {
            self.first = Some(self.first.map_or(*index, |first| first.min(*index)));
            self.last = Some(self.last.map_or(*index, |last| last.max(*index)));
        }
    }
}

fn frame_line(ring: RingId, frame: &Frame, bytes: usize, report: &mut Report) {
    let head = |kind: &str| vec![("ring", json!(ring.0)), ("kind", json!(kind))];
    let fields = match frame {
        Frame::Entry { index, data } => {
            let data = data.first().cloned().unwrap_or_default();
            entry_fields(head("entry"), *index, data)
        }
        Frame::Carried { index, data } => entry_fields(head("carried"), *index, data.clone()),
        Frame::Truncate { after } => {
            let mut fields = head("truncate");
            fields.push(("after", json!(after)));
            fields
        }
        Frame::Vote { .. } => head("vote"),
        Frame::Purge { upto, .. } => {
            let mut fields = head("purge");
            fields.push(("upto", json!(upto)));
            fields
        }
    };
    report.say(
        3,
        "frame",
        fields.into_iter().chain([("bytes", json!(bytes))]),
    );
}

/// `fields` and what an entry, or the copy of one, holds.
fn entry_fields(mut fields: Vec<Field>, index: u64, data: Bytes) -> Vec<Field> {
    fields.push(("index", json!(index)));
    match tidemill_consensus::inspect::entry(index, data) {
        Ok((term, what)) => fields.extend([("term", json!(term)), ("entry", json!(what))]),
        Err(error) => fields.push(("unreadable", json!(error.0))),
    }
    fields
}
