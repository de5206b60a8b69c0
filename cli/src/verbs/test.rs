//! `transform test`: runs a project's module on records, here, in the broker's engine.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};

use super::produce::split_key;
use super::separator;
use crate::Context;
use crate::compile;
use crate::error::{CliError, CliResult};
use crate::local::{Local, LocalRecord, Ran};
use crate::manifest::Project;
use crate::output;
use crate::progress::Progress;

/// Where a project keeps its example records.
const EXAMPLES: &str = "input.jsonl";
/// A line that is longer is refused.
const LINE_MAX: usize = 8 << 20;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A file with a record a line [default: standard input, or the project's input.jsonl]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// What stands between key and value in a line, `\t` for a tab; without it lines are values
    #[arg(long, value_name = "SEPARATOR", value_parser = separator)]
    key_separator: Option<String>,
    /// The project's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Test the module as it was built last
    #[arg(long)]
    no_build: bool,
}

#[derive(Debug, Default)]
struct Counts {
    read: u64,
    written: u64,
    dropped: u64,
    failed: u64,
}

/// Runs every record and prints before and after; fails where a record failed.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let project = Project::find(&arguments.dir)?;
    if !arguments.no_build {
        compile::compile(&project)?;
    }
    let mut local = {
        let _progress = Progress::start("preparing the module");
        Local::load(&project)?
    };
    let mut lines = Lines::open(arguments.input.as_deref(), &project)?;
    let mut counts = Counts::default();
    let progress =
        Progress::start("waiting for records on standard input (--input FILE reads a file)");
    while let Some(line) = lines.next()? {
        if counts.read == 0 {
            progress.set("running");
        }
        let (key, value) = split_key(&line, arguments.key_separator.as_deref());
        let record = LocalRecord {
            key: key.map(<[u8]>::to_vec),
            value: Some(value.to_vec()),
            headers: Vec::new(),
        };
        let ran = local.run(&record)?;
        counts.add(&ran);
        show(&counts, &record, &ran, context)?;
    }
    drop(progress);
    conclude(&counts, context)
}

impl Counts {
    fn add(&mut self, ran: &Ran) {
        self.read += 1;
        self.written += ran.outputs.len() as u64;
        self.failed += u64::from(ran.error.is_some());
        self.dropped += u64::from(ran.error.is_none() && ran.outputs.is_empty());
    }
}

/// Lines of a file, of standard input, or, where that is empty or a terminal, of the project's examples.
struct Lines {
    source: Box<dyn BufRead>,
    name: String,
    number: u64,
}

impl Lines {
    fn open(input: Option<&Path>, project: &Project) -> CliResult<Lines> {
        if let Some(path) = input {
            return Lines::of_file(path);
        }
        let examples = project.folder.join(EXAMPLES);
        if !io::stdin().is_terminal() {
            let mut source = BufReader::new(io::stdin());
            let empty = source
                .fill_buf()
                .map_err(|error| unreadable("standard input", &error))?
                .is_empty();
            if !empty || !examples.is_file() {
                return Ok(Lines {
                    source: Box::new(source),
                    name: "standard input".to_owned(),
                    number: 0,
                });
            }
        } else if !examples.is_file() {
            return Err(CliError::said(format!(
                "there are no records: give --input FILE, pipe them in, or put some into {}",
                examples.display()
            )));
        }
        Lines::of_file(&examples)
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

fn unreadable(name: &str, error: &io::Error) -> CliError {
    CliError::said(format!("cannot read {name}: {error}"))
}

fn show(counts: &Counts, record: &LocalRecord, ran: &Ran, context: &mut Context) -> CliResult {
    if context.output.is_json() {
        let logs: Vec<Value> = ran
            .logs
            .iter()
            .map(|line| json!({ "level": line.level, "message": line.message }))
            .collect();
        let outputs: Vec<Value> = ran
            .outputs
            .iter()
            .map(|output| {
                let mut object = object_of(&output.record);
                object.insert("topic".to_owned(), json!(output.topic));
                Value::Object(object)
            })
            .collect();
        return context.output.json_line(&json!({
            "record": counts.read, "input": object_of(record), "outputs": outputs, "error": ran.error, "logs": logs
        }));
    }
    let number = format!("#{}", counts.read);
    let margin = " ".repeat(number.len());
    context
        .output
        .foreign_line(&format!("{number}  before  {}", line_of(record)))?;
    for output in &ran.outputs {
        let topic = if ran.several {
            format!("{}: ", output.topic)
        } else {
            String::new()
        };
        context.output.foreign_line(&format!(
            "{margin}  after   {topic}{}",
            line_of(&output.record)
        ))?;
    }
    match &ran.error {
        Some(error) => context
            .output
            .foreign_line(&format!("{margin}  FAILED  {error}"))?,
        None if ran.outputs.is_empty() => context
            .output
            .say(&format!("{margin}  after   (nothing: it is left out)"))?,
        None => {}
    }
    for line in &ran.logs {
        context.output.foreign_line(&format!(
            "{margin}  {:<6}  {}",
            line.level,
            line.message.trim_end()
        ))?;
    }
    Ok(())
}

/// Key, value and headers on one line.
fn line_of(record: &LocalRecord) -> String {
    let key = record
        .key
        .as_deref()
        .map(|key| format!("{}\t", text_of(key)))
        .unwrap_or_default();
    let value = record
        .value
        .as_deref()
        .map_or("(no value)".to_owned(), text_of);
    let headers: Vec<String> = record
        .headers
        .iter()
        .map(|(name, value)| {
            format!(
                "{name}={}",
                value.as_deref().map(text_of).unwrap_or_default()
            )
        })
        .collect();
    let headers = if headers.is_empty() {
        String::new()
    } else {
        format!("  [{}]", headers.join(", "))
    };
    format!("{key}{value}{headers}")
}

/// Text as it is; what is not text, as base64.
fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", STANDARD.encode(bytes)),
    }
}

/// A record as the admin API would write it.
fn object_of(record: &LocalRecord) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, bytes) in [("key", &record.key), ("value", &record.value)] {
        match bytes
            .as_deref()
            .map(|bytes| (bytes, std::str::from_utf8(bytes)))
        {
            None => object.insert(name.to_owned(), Value::Null),
            Some((_, Ok(text))) => object.insert(name.to_owned(), json!(text)),
            Some((bytes, Err(_))) => {
                object.insert(format!("{name}_base64"), json!(STANDARD.encode(bytes)))
            }
        };
    }
    let headers: Vec<Value> = record
        .headers
        .iter()
        .map(|(name, value)| json!([name, value.as_deref().map(text_of)]))
        .collect();
    object.insert("headers".to_owned(), json!(headers));
    object
}

fn conclude(counts: &Counts, context: &mut Context) -> CliResult {
    let Counts {
        read,
        written,
        dropped,
        failed,
    } = counts;
    if context.output.is_json() {
        context.output.json_line(&json!({
            "summary": { "read": read, "written": written, "dropped": dropped, "failed": failed }
        }))?;
    } else {
        let read = output::count(*read, "record");
        context.output.say(&format!(
            "\n{read} read, {written} written, {dropped} left out, {failed} failed"
        ))?;
    }
    if counts.read == 0 {
        return Err(CliError::said("there were no records to test with"));
    }
    if *failed > 0 {
        return Err(CliError::said(format!(
            "{} failed; what each said stands above",
            output::count(*failed, "record")
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_shown_on_one_line() {
        let record = LocalRecord {
            key: Some(b"k".to_vec()),
            value: None,
            headers: vec![("h".to_owned(), Some(vec![0xff])), ("e".to_owned(), None)],
        };
        assert_eq!(line_of(&record), "k\t(no value)  [h=base64:/w==, e=]");
        assert_eq!(
            Value::Object(object_of(&record)).to_string(),
            r#"{"headers":[["h","base64:/w=="],["e",null]],"key":"k","value":null}"#
        );
    }

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
}
