//! What goes to standard output: tables and lines for people, JSON for scripts.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use clap::ValueEnum;
use serde_json::Value;

use crate::error::CliResult;

/// For whom the output is: people, or scripts, which get JSON as the admin API gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Table,
    Json,
}

/// Standard output, buffered; flushed when dropped or told to.
pub(crate) struct Output {
    format: OutputFormat,
    terminal: bool,
    to: BufWriter<StdoutLock<'static>>,
}

impl Output {
    /// Standard output in a format.
    pub(crate) fn new(format: OutputFormat) -> Output {
        let stdout = io::stdout();
        Output {
            format,
            terminal: stdout.is_terminal(),
            to: BufWriter::new(stdout.lock()),
        }
    }

    /// Whether scripts read it.
    pub(crate) fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// A sentence for people; scripts get none.
    pub(crate) fn say(&mut self, text: &str) -> CliResult {
        if !self.is_json() {
            writeln!(self.to, "{text}")?;
        }
        Ok(())
    }

    /// JSON over several lines, for scripts.
    pub(crate) fn json(&mut self, value: &Value) -> CliResult {
        serde_json::to_writer_pretty(&mut self.to, value).map_err(io::Error::from)?;
        writeln!(self.to)?;
        Ok(())
    }

    /// JSON on one line: one of many.
    pub(crate) fn json_line(&mut self, value: &Value) -> CliResult {
        serde_json::to_writer(&mut self.to, value).map_err(io::Error::from)?;
        writeln!(self.to)?;
        Ok(())
    }

    /// A table for people.
    pub(crate) fn table(&mut self, table: &Table) -> CliResult {
        self.to.write_all(table.render().as_bytes())?;
        Ok(())
    }

    /// A line of somebody else's text: on a terminal, without what would steer it.
    pub(crate) fn foreign_line(&mut self, text: &str) -> CliResult {
        if self.terminal {
            writeln!(self.to, "{}", printable(text))?;
        } else {
            writeln!(self.to, "{text}")?;
        }
        Ok(())
    }

    /// Hands on what is buffered. An error when nobody reads any more, also where there was nothing to hand on: whoever follows a
    /// quiet topic through `head` would otherwise wait for its next record.
    pub(crate) fn flush(&mut self) -> CliResult {
        self.to.flush()?;
        if reader_is_gone() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Ok(())
    }
}

/// Writes to standard error, as `eprint!` does, which panics where nobody reads it.
pub(crate) fn to_stderr(text: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Whether standard output is a pipe whose reader has closed it.
fn reader_is_gone() -> bool {
    let mut watched = libc::pollfd {
        fd: libc::STDOUT_FILENO,
        events: 0,
        revents: 0,
    };
    #[allow(unsafe_code, reason = "std does not tell whether a pipe has a reader")]
    // SAFETY: one structure, which lives in this frame, is read and filled; with a timeout of 0 the call returns at once.
    let ready = unsafe { libc::poll(&raw mut watched, 1, 0) };
    ready == 1 && watched.revents & libc::POLLERR != 0
}

/// Characters that turn the direction of the text around them, or end its line: what is shown would not be what is there.
fn misleads(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with control characters, and those that turn its direction, escaped; tabs apart.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push(c),
            c if c.is_control() || misleads(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Rows below headings; numbers stand right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Table {
        Table {
            rows: vec![
                headings
                    .iter()
                    .map(|heading| (*heading).to_owned())
                    .collect(),
            ],
        }
    }

    /// Adds a row; it has as many cells as there are headings.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let numeric = |column: usize| {
            self.rows.len() > 1
                && self.rows[1..]
                    .iter()
                    .all(|row| row[column].parse::<f64>().is_ok())
        };
        let shape: Vec<(usize, bool)> = (0..columns)
            .map(|column| (width(column), numeric(column)))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, (width, right)) in row.iter().zip(&shape) {
                let pad = " ".repeat(width - cell.chars().count());
                let (before, after) = if *right {
                    (pad.as_str(), "")
                } else {
                    ("", pad.as_str())
                };
                line.push_str(&format!("{before}{cell}{after}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 10.0 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// `1 record`, `2 records`.
pub(crate) fn count(n: u64, one: &str) -> String {
    if n == 1 {
        format!("1 {one}")
    } else {
        format!("{n} {one}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_aligns_columns_and_puts_numbers_right() {
        let mut table = Table::new(&["NAME", "LAG", "ERROR"]);
        table.row(["mask".to_owned(), "5".to_owned(), String::new()]);
        table.row([
            "route-by-country".to_owned(),
            "12".to_owned(),
            "x\u{1b}[2J".to_owned(),
        ]);
        assert_eq!(
            table.render(),
            "NAME              LAG  ERROR\nmask                5\nroute-by-country   12  x\\u{1b}[2J\n"
        );
        assert_eq!(Table::new(&["A", "B"]).render(), "A  B\n");
    }

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(
            [size(0), size(999), size(1_500), size(88_200), size(999_999)].join(" "),
            "0 B 999 B 1.5 KB 88 KB 1.0 MB"
        );
        assert_eq!(
            format!("{} {}", count(1, "record"), count(0, "record")),
            "1 record 0 records"
        );
    }

    #[test]
    fn text_of_others_neither_commands_the_terminal_nor_turns_around() {
        assert_eq!(
            printable("a\u{1b}[2J\tb\n\u{202e}c\u{2066}\u{9b}d ünï"),
            "a\\u{1b}[2J\tb\\n\\u{202e}c\\u{2066}\\u{9b}d ünï"
        );
    }
}
