//! Where the records to test with come from.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Arguments;
use crate::Context;
use crate::admin::{Admin, segment, typed};
use crate::error::{CliError, CliResult};
use crate::local::LocalRecord;
use crate::manifest::Project;
use crate::output;
use crate::progress::Progress;
use crate::verbs::produce::split_key;
use crate::when::now_ms;

/// Where a project keeps its example records.
const EXAMPLES: &str = "input.jsonl";
/// What it is called in messages.
const STDIN: &str = "standard input";
/// A line that is longer is refused.
const LINE_MAX: usize = 8 << 20;
/// Records asked of the broker at once.
const PAGE: u64 = 1_000;
/// Questions to the broker without an answer that has records, before what is there counts as all.
const IDLE_MAX: u32 = 3;

/// Records, one after the other.
pub(super) enum Source {
    /// Of a file, of standard input, or the project's examples.
    Lines(Lines, Form),
    /// Of a topic.
    Topic(VecDeque<LocalRecord>),
}

/// What a line is.
pub(super) enum Form {
    /// A value, with its key in front where there is a separator.
    Text(Option<String>),
    /// A record in JSON.
    Json,
}

impl Source {
    /// As the command line says.
    ///
    /// # Errors
    /// Where there is nothing to read, or it cannot be read.
    pub(super) fn open(
        arguments: &Arguments,
        project: Option<&Project>,
        context: &Context,
    ) -> CliResult<Source> {
        if let Some(topic) = &arguments.from_topic {
            let _progress = Progress::start(format!("reading the newest records of {topic}"));
            let records = newest(&context.admin()?, topic, arguments.last)?;
            return Ok(Source::Topic(records.into()));
        }
        let form = match arguments.json_records {
            true => Form::Json,
            false => Form::Text(arguments.key_separator.clone()),
        };
        let lines = Lines::open(arguments.input.as_deref(), project)?;
        Ok(Source::Lines(lines, form))
    }

    /// The error of a source that had nothing.
    pub(super) fn was_empty(&self, project: Option<&Project>) -> CliError {
        let what = match (self, project) {
            (Source::Topic(_), _) => "the topic has none".to_owned(),
            (Source::Lines(lines, _), Some(_)) if lines.name == STDIN => format!(
                "{STDIN} is empty; where it is piped into, nothing else is read: --input {EXAMPLES} takes the project's examples"
            ),
            (Source::Lines(lines, _), None) if lines.name == STDIN => format!(
                "{STDIN} is empty; pipe them in, or give --input FILE or --from-topic TOPIC"
            ),
            (Source::Lines(lines, _), _) => format!("{} is empty", lines.name),
        };
        CliError::said(format!("there were no records to test with: {what}"))
    }

    /// The next record.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn next(&mut self) -> CliResult<Option<LocalRecord>> {
        let (lines, form) = match self {
            Source::Topic(records) => return Ok(records.pop_front()),
            Source::Lines(lines, form) => (lines, form),
        };
        let Some(line) = lines.next()? else {
            return Ok(None);
        };
        match form {
            Form::Text(separator) => {
                let (key, value) = split_key(&line, separator.as_deref());
                Ok(Some(LocalRecord {
                    key: key.map(<[u8]>::to_vec),
                    value: Some(value.to_vec()),
                    timestamp: now_ms(),
                    ..LocalRecord::default()
                }))
            }
            Form::Json => record_of(&line).map(Some).map_err(|reason| {
                let (number, name) = (lines.number, &lines.name);
                CliError::said(format!("line {number} of {name} is no record: {reason}"))
            }),
        }
    }
}

/// A record as `transform consume --output-format json` prints it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(default)]
    partition: i32,
    offset: Option<i64>,
    timestamp: Option<i64>,
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Option<HeaderValue>)>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Text(String),
    Bytes { base64: String },
}

fn record_of(line: &[u8]) -> Result<LocalRecord, String> {
    let record: Record = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    record.try_into()
}

fn bytes(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Vec<u8>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("it has `{name}` and `{name}_base64`")),
        (text, None) => Ok(text.map(String::into_bytes)),
        (None, Some(base64)) => {
            let decoded = STANDARD.decode(base64);
            decoded
                .map(Some)
                .map_err(|error| format!("`{name}_base64`: {error}"))
        }
    }
}

impl TryFrom<Record> for LocalRecord {
    type Error = String;

    fn try_from(record: Record) -> Result<LocalRecord, String> {
        let mut headers = Vec::new();
        for (name, value) in record.headers {
            let value = match value {
                None => None,
                Some(HeaderValue::Text(text)) => bytes(&name, Some(text), None)?,
                Some(HeaderValue::Bytes { base64 }) => bytes(&name, None, Some(base64))?,
            };
            headers.push((name, value));
        }
        Ok(LocalRecord {
            key: bytes("key", record.key, record.key_base64)?,
            value: bytes("value", record.value, record.value_base64)?,
            headers,
            timestamp: record.timestamp.unwrap_or_else(now_ms),
            partition: record.partition,
            offset: record.offset,
        })
    }
}

#[derive(Debug, Deserialize)]
struct Topic {
    partitions: Vec<Partition>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    index: i32,
    log_start_offset: i64,
    high_watermark: i64,
}

#[derive(Debug, Deserialize)]
struct Page {
    records: Vec<Record>,
    next: BTreeMap<i32, i64>,
}

/// The newest `last` records of all partitions together, by timestamp, the oldest first.
fn newest(admin: &Admin, topic: &str, last: u64) -> CliResult<Vec<LocalRecord>> {
    let path = format!("/v1/topics/{}", segment(topic));
    let partitions = typed::<Topic>(&admin.get(&path)?)?.partitions;
    let ends: BTreeMap<i32, i64> = partitions
        .iter()
        .map(|p| (p.index, p.high_watermark))
        .collect();
    let back = i64::try_from(last).unwrap_or(i64::MAX);
    let start = |p: &Partition| (p.high_watermark - back).max(p.log_start_offset);
    let mut positions: BTreeMap<i32, i64> =
        partitions.iter().map(|p| (p.index, start(p))).collect();
    let (mut found, mut idle) = (Vec::new(), 0);
    let behind = |positions: &BTreeMap<i32, i64>| {
        ends.iter()
            .any(|(index, end)| positions.get(index).is_some_and(|at| at < end))
    };
    while behind(&positions) && idle < IDLE_MAX {
        let question: Value =
            json!({ "from": "latest", "positions": positions, "max": PAGE, "wait_ms": 0 });
        let page: Page = typed(&admin.post(&format!("{path}/records/read"), &question)?)?;
        idle = if page.next == positions { idle + 1 } else { 0 };
        positions = page.next;
        for record in page.records {
            found.push(LocalRecord::try_from(record).map_err(CliError::said)?);
        }
        // Partitions that are read later may have newer ones, so only what is surely too old goes.
        if found.len() as u64 > last.saturating_mul(4) {
            keep_newest(&mut found, last);
        }
    }
    keep_newest(&mut found, last);
    Ok(found)
}

fn keep_newest(records: &mut Vec<LocalRecord>, last: u64) {
    records.sort_by_key(|record| (record.timestamp, record.partition, record.offset));
    let excess = records
        .len()
        .saturating_sub(usize::try_from(last).unwrap_or(usize::MAX));
    records.drain(..excess);
}

/// Lines of a file, of standard input where something was put there, or else of the project's examples.
pub(super) struct Lines {
    source: Box<dyn BufRead>,
    name: String,
    number: u64,
}

impl Lines {
    fn open(input: Option<&Path>, project: Option<&Project>) -> CliResult<Lines> {
        if let Some(path) = input {
            return Lines::of_file(path);
        }
        let examples = project.map(|project| project.folder.join(EXAMPLES));
        let there = examples.as_deref().filter(|file| file.is_file());
        if there.is_none() && !io::stdin().is_terminal() || is_given(io::stdin().as_fd()) {
            return Ok(Lines {
                source: Box::new(BufReader::new(io::stdin())),
                name: STDIN.to_owned(),
                number: 0,
            });
        }
        match there {
            Some(file) => Lines::of_file(file),
            None => Err(CliError::said(format!(
                "there are no records: give --input FILE or --from-topic TOPIC, pipe them in, or put some into {}",
                examples
                    .as_deref()
                    .unwrap_or(Path::new("a project's input.jsonl"))
                    .display()
            ))),
        }
    }

    fn of_file(path: &Path) -> CliResult<Lines> {
        let file = File::open(path).map_err(CliError::file("read", path))?;
        Ok(Lines {
            source: Box::new(BufReader::new(file)),
            name: path.display().to_string(),
            number: 0,
        })
    }

    /// The next line that is not empty, without its end.
    fn next(&mut self) -> CliResult<Option<Vec<u8>>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.source)
                .take(LINE_MAX as u64 + 1)
                .read_until(b'\n', &mut line);
            if read.map_err(|error| unreadable(&self.name, &error))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if line.len() > LINE_MAX {
                let max = output::size(LINE_MAX as u64);
                return Err(CliError::said(format!(
                    "line {} of {} is longer than {max}",
                    self.number, self.name
                )));
            }
            while line
                .last()
                .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
            {
                line.pop();
            }
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

/// Whether somebody put records there: a pipe, a file or a socket is read, also where nothing comes; a terminal and /dev/null are not.
fn is_given(stdin: BorrowedFd<'_>) -> bool {
    let metadata = stdin.try_clone_to_owned().map(File::from);
    let kind = metadata.and_then(|file| file.metadata());
    kind.is_ok_and(|kind| !kind.file_type().is_char_device())
}

fn unreadable(name: &str, error: &io::Error) -> CliError {
    CliError::said(format!("cannot read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_empty_ones_are_left_out() {
        let source = Box::new(io::Cursor::new(b"a\r\n\n\nb".to_vec()));
        let mut lines = Lines {
            source,
            name: "x".to_owned(),
            number: 0,
        };
        assert_eq!(lines.next().expect("a line"), Some(b"a".to_vec()));
        assert_eq!(lines.next().expect("a line"), Some(b"b".to_vec()));
        assert_eq!(lines.next().expect("the end"), None);
    }

    #[test]
    fn records_in_json_are_read_as_consume_prints_them() {
        let line = br#"{"partition":2,"offset":7,"timestamp":5,"key":"k","value_base64":"/w==","headers":[["a","1"],["b",null],["c",{"base64":"/w=="}]]}"#;
        let record = record_of(line).expect("a record");
        assert_eq!(
            (record.partition, record.offset, record.timestamp),
            (2, Some(7), 5)
        );
        assert_eq!(
            (record.key.as_deref(), record.value.as_deref()),
            (Some(&b"k"[..]), Some(&[0xff][..]))
        );
        let values: Vec<Option<&[u8]>> = record.headers.iter().map(|(_, v)| v.as_deref()).collect();
        assert_eq!(values, [Some(&b"1"[..]), None, Some(&[0xff][..])]);
        for wrong in [
            &b"x"[..],
            b"{\"valeu\":\"x\"}",
            b"{\"key\":\"a\",\"key_base64\":\"YQ==\"}",
            b"{\"value_base64\":\"?\"}",
        ] {
            assert!(record_of(wrong).is_err());
        }
        assert_eq!(
            record_of(b"{\"key\":\"k\"}").expect("a tombstone").value,
            None
        );
    }

    #[test]
    fn newest_are_kept_in_order_of_time() {
        let of = |timestamp, partition| LocalRecord {
            timestamp,
            partition,
            ..LocalRecord::default()
        };
        let mut records = vec![of(3, 0), of(9, 0), of(1, 1), of(4, 1)];
        keep_newest(&mut records, 2);
        assert_eq!(records, [of(4, 1), of(9, 0)]);
    }
}
