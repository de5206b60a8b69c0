//! `transform produce`: writes records to a topic, a record a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::separator;
use crate::Context;
use crate::admin::{Admin, segment, typed};
use crate::error::{CliError, CliResult};
use crate::output;
use crate::progress::Progress;

/// A request is sent when it holds so many bytes or records.
const CHUNK_BYTES: usize = 1 << 20;
const CHUNK_RECORDS: usize = 10_000;
/// A line that is longer is refused; the broker takes no such request.
const LINE_MAX: usize = 8 << 20;
/// Lines read ahead.
const AHEAD: usize = 1_000;
/// How long a line that was typed or trickles in waits for others to join it.
const LINGER: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The topic to write to
    topic: String,
    /// A file with a record a line [default: standard input]
    file: Option<PathBuf>,
    /// What stands between key and value in a line, `\t` for a tab; without it lines are values
    #[arg(long, value_name = "SEPARATOR", value_parser = separator)]
    key_separator: Option<String>,
    /// The partition to write to [default: by key, as Kafka's clients choose it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Make the topic if it does not exist, with the broker's defaults
    #[arg(long)]
    create: bool,
}

#[derive(Debug, Deserialize)]
struct Written {
    written: u64,
}

/// Reads lines, writes them in chunks, says how many there were.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let admin = context.admin()?;
    let topic = format!("/v1/topics/{}", segment(&arguments.topic));
    if !arguments.create {
        // A name that was mistyped must not become a topic.
        admin.get(&topic)?;
    }
    let lines = read_ahead(arguments.file.as_deref())?;
    let progress = Progress::start(format!("writing to {}", arguments.topic));
    let mut writer = Writer {
        admin,
        path: format!("/v1/topics/{}/records", segment(&arguments.topic)),
        written: 0,
        empty: 0,
    };
    let result = writer.write_all(&lines, arguments, &progress);
    drop(progress);
    let written = output::count(writer.written, "record");
    if let Err(error) = result {
        return Err(CliError::said(format!(
            "{error}\n{written} had been written to {} before",
            arguments.topic
        )));
    }
    if context.output.is_json() {
        return context.output.json(&json!({
            "topic": arguments.topic, "written": writer.written, "empty_lines": writer.empty
        }));
    }
    let empty = match writer.empty {
        0 => String::new(),
        empty => format!(" ({} left out)", output::count(empty, "empty line")),
    };
    context
        .output
        .say(&format!("wrote {written} to {}{empty}", arguments.topic))
}

/// Lines of the file or of standard input, read by a thread of their own.
fn read_ahead(file: Option<&Path>) -> CliResult<Receiver<io::Result<Vec<u8>>>> {
    let source: Box<dyn Read + Send> = match file {
        Some(path) => Box::new(File::open(path).map_err(CliError::file("read", path))?),
        None => {
            if io::stdin().is_terminal() {
                tell!("type a record a line; Ctrl-D ends");
            }
            Box::new(io::stdin())
        }
    };
    let (sender, receiver) = sync_channel(AHEAD);
    let reader = thread::Builder::new().name("lines".to_owned());
    reader
        .spawn(move || read_lines(source, &sender))
        .map_err(|error| CliError::said(format!("cannot start a thread: {error}")))?;
    Ok(receiver)
}

fn read_lines(source: impl Read, lines: &SyncSender<io::Result<Vec<u8>>>) {
    let mut source = BufReader::with_capacity(64 << 10, source);
    loop {
        let mut line = Vec::new();
        let read = (&mut source)
            .take(LINE_MAX as u64 + 1)
            .read_until(b'\n', &mut line);
        let message = match read {
            Ok(0) => return,
            Ok(_) if line.len() > LINE_MAX => Err(io::Error::other(format!(
                "a line is longer than {}",
                output::size(LINE_MAX as u64)
            ))),
            Ok(_) => Ok(line),
            Err(error) => Err(error),
        };
        let last = message.is_err();
        if lines.send(message).is_err() || last {
            return;
        }
    }
}

struct Writer {
    admin: Admin,
    path: String,
    written: u64,
    empty: u64,
}

impl Writer {
    fn write_all(
        &mut self,
        lines: &Receiver<io::Result<Vec<u8>>>,
        arguments: &Arguments,
        progress: &Progress,
    ) -> CliResult {
        let mut chunk = Vec::new();
        let mut records = 0;
        loop {
            let next = if records == 0 {
                lines.recv().map_err(RecvTimeoutError::from)
            } else {
                lines.recv_timeout(LINGER)
            };
            match next {
                Ok(line) => {
                    let line = line.map_err(|error| {
                        CliError::said(format!("cannot read the records: {error}"))
                    })?;
                    records += usize::from(self.add(&mut chunk, &line, arguments));
                    if chunk.len() < CHUNK_BYTES && records < CHUNK_RECORDS {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if records == 0 => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {}
            }
            if records > 0 {
                self.send(&chunk)?;
                progress.set(format!(
                    "writing to {}: {} so far",
                    arguments.topic,
                    output::count(self.written, "record")
                ));
            }
            chunk.clear();
            records = 0;
        }
    }

    /// Adds a line to the chunk as the API wants it; an empty one is only counted.
    fn add(&mut self, chunk: &mut Vec<u8>, line: &[u8], arguments: &Arguments) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.empty += 1;
            return false;
        }
        let (key, value) = split_key(line, arguments.key_separator.as_deref());
        let mut record = serde_json::Map::new();
        if let Some(partition) = arguments.partition {
            record.insert("partition".to_owned(), json!(partition));
        }
        for (name, bytes) in [("key", key), ("value", Some(value))] {
            match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
                Some((_, Ok(text))) => record.insert(name.to_owned(), json!(text)),
                Some((bytes, Err(_))) => {
                    record.insert(format!("{name}_base64"), json!(STANDARD.encode(bytes)))
                }
                None => None,
            };
        }
        chunk.extend_from_slice(json!(record).to_string().as_bytes());
        chunk.push(b'\n');
        true
    }

    fn send(&mut self, chunk: &[u8]) -> CliResult {
        let written: Written = typed(&self.admin.post_lines(&self.path, chunk)?)?;
        self.written += written.written;
        Ok(())
    }
}

/// Key and value of a line; a line without the separator is a value without a key.
pub(super) fn split_key<'a>(
    line: &'a [u8],
    separator: Option<&str>,
) -> (Option<&'a [u8]>, &'a [u8]) {
    let Some(separator) = separator.map(str::as_bytes) else {
        return (None, line);
    };
    match line
        .windows(separator.len())
        .position(|window| window == separator)
    {
        Some(position) => (Some(&line[..position]), &line[position + separator.len()..]),
        None => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_what_stands_before_the_first_separator() {
        assert_eq!(
            split_key(b"k::v::w", Some("::")),
            (Some(&b"k"[..]), &b"v::w"[..])
        );
        assert_eq!(split_key(b"kv", Some("::")), (None, &b"kv"[..]));
        assert_eq!(split_key(b"k\tv", None), (None, &b"k\tv"[..]));
        assert_eq!(split_key(b"", Some("\t")), (None, &b""[..]));
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_the_last_needs_none() {
        let (sender, lines) = sync_channel(10);
        read_lines(&b"a\n\nb"[..], &sender);
        drop(sender);
        let lines: Vec<Vec<u8>> = lines
            .iter()
            .map(|line| line.expect("it is readable"))
            .collect();
        assert_eq!(lines, [b"a\n".to_vec(), b"\n".to_vec(), b"b".to_vec()]);
    }

    #[test]
    fn line_without_end_is_refused() {
        let (sender, lines) = sync_channel(10);
        read_lines(io::repeat(b'x'), &sender);
        assert!(lines.recv().expect("a message").is_err());
    }
}
