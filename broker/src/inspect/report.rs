//! Findings, printed one a line as they come: for people or as JSON.

use std::io::{BufWriter, Stdout, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::log::visible;

/// Bytes gathered for one write to standard output.
const BUFFER_BYTES: usize = 64 << 10;

/// A field of a finding.
pub(super) type Field = (&'static str, Value);

/// Prints findings and counts what is damaged.
pub(super) struct Report {
    json: bool,
    out: BufWriter<Stdout>,
    problems: u64,
}

impl Report {
    pub(super) fn new(json: bool) -> Report {
        Report {
            json,
            out: BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout()),
            problems: 0,
        }
    }

    /// Prints a finding of the kind `what`, `depth` steps indented.
    pub(super) fn say(
        &mut self,
        depth: usize,
        what: &'static str,
        fields: impl IntoIterator<Item = Field>,
    ) {
        let line = match self.json {
            true => json_line(what, fields),
            false => text_line(depth, what, fields),
        };
        self.print(line);
    }

    /// Prints something that is damaged, with its position in the file where there is one.
    pub(super) fn problem(
        &mut self,
        depth: usize,
        path: &Path,
        position: Option<u64>,
        message: String,
    ) {
        self.problems += 1;
        let at = position.map(|position| ("position", json!(position)));
        let mut fields = vec![("path", json!(path.display().to_string()))];
        fields.extend(at);
        fields.push(("message", json!(message)));
        self.say(depth, "DAMAGED", fields);
    }

    fn print(&mut self, line: String) {
        // Whoever reads may have seen enough.
        let _ = writeln!(self.out, "{line}");
    }

    /// Prints what is left and says how much is damaged.
    pub(super) fn finish(mut self) -> u64 {
        if !self.json {
            let line = match self.problems {
                0 => "everything that was read is sound".to_owned(),
                n => format!("{n} damaged: see the lines that say DAMAGED"),
            };
            self.print(line);
        }
        let _ = self.out.flush();
        self.problems
    }
}

fn text_line(depth: usize, what: &str, fields: impl IntoIterator<Item = Field>) -> String {
    let mut line = "  ".repeat(depth);
    line.push_str(what);
    for (name, value) in fields {
        line.push_str(&format!(" {name}="));
        match value {
            Value::String(text) if text.contains([' ', '"']) || text.is_empty() => {
                line.push_str(&Value::String(text).to_string());
            }
            Value::String(text) => visible(&text, &mut line),
            other => line.push_str(&other.to_string()),
        }
    }
    line
}

fn json_line(what: &str, fields: impl IntoIterator<Item = Field>) -> String {
    let mut line = format!("{{\"what\":{}", json!(what.to_ascii_lowercase()));
    for (name, value) in fields {
        line.push_str(&format!(",{}:{value}", json!(name)));
    }
    line.push('}');
    line
}
