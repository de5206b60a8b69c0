//! `transform logs`: what a transform logged.

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::Value;
use tidemill_model::moment;

use super::following;
use crate::Context;
use crate::admin::{segment, typed};
use crate::error::CliResult;
use crate::when;

/// Lines asked for at once.
const PAGE: u64 = 1_000;
/// How long the broker may hold a question back until there is a line, milliseconds.
const WAIT_MS: u64 = 10_000;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name; one that was deleted will do
    name: String,
    /// Go on with new lines until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only lines since a time: 2026-11-27T10:00:00Z, 2026-11-27 10:00 (UTC), 2026-11-27, 10m, 2h or 3d (back from now), or
    /// ms since 1970
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    since: Option<i64>,
    /// Only lines of this level or above
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Only the newest N lines, 1000 at most; with 0 and --follow only new ones [default: 1000, or all with --since]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=PAGE))]
    tail: Option<u64>,
    /// Only lines about this partition of the input
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    lines: Vec<Value>,
    next: i64,
    at_end: bool,
    older: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Line {
    timestamp: i64,
    level: String,
    version: u32,
    partition: Option<i32>,
    offset: Option<i64>,
    message: String,
}

/// Prints the lines that are there; with `--follow`, then the new ones.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let admin = context.admin()?;
    let (mut position, mut wait_ms, mut shown) = (None, 0, 0_u64);
    loop {
        let path = question(arguments, position, wait_ms);
        let page: Page = typed(&following(position.is_some(), || admin.get(&path))?)?;
        shown += page.lines.len() as u64;
        if page.older {
            tell!("older lines were not looked for: they are too far back; --since goes there");
        }
        for line in &page.lines {
            print(line, context)?;
        }
        context.output.flush()?;
        if page.at_end && !arguments.follow {
            break;
        }
        // What is there comes at once; only at the end it is waited.
        wait_ms = if page.at_end { WAIT_MS } else { 0 };
        position = Some(page.next);
    }
    if shown == 0 && arguments.tail != Some(0) {
        let of = if arguments.since.is_some()
            || arguments.level.is_some()
            || arguments.partition.is_some()
        {
            " that was asked for"
        } else {
            ""
        };
        context
            .output
            .say(&format!("{} has logged nothing{of}", arguments.name))?;
    }
    Ok(())
}

fn question(arguments: &Arguments, position: Option<i64>, wait_ms: u64) -> String {
    let name = segment(&arguments.name);
    let mut path = format!("/v1/transforms/{name}/logs?limit={PAGE}&wait_ms={wait_ms}");
    let first_only = position.is_none().then_some(arguments.tail).flatten();
    let parts = [
        ("position", position.map(|p| p.to_string())),
        ("since", arguments.since.map(|ms| ms.to_string())),
        ("tail", first_only.map(|tail| tail.to_string())),
        (
            "level",
            arguments.level.map(|level| level.name().to_owned()),
        ),
        ("partition", arguments.partition.map(|p| p.to_string())),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={value}"));
        }
    }
    path
}

fn print(value: &Value, context: &mut Context) -> CliResult {
    if context.output.is_json() {
        return context.output.json_line(value);
    }
    context.output.foreign_line(&typed::<Line>(value)?.shown())
}

impl Line {
    /// On one line: time, level, version, partition and offset, message.
    pub(crate) fn shown(&self) -> String {
        let place = match (self.partition, self.offset) {
            (Some(partition), Some(offset)) => format!(" p{partition}@{offset}"),
            (Some(partition), None) => format!(" p{partition}"),
            (None, _) => String::new(),
        };
        let time = moment::shown(self.timestamp);
        let (level, version) = (&self.level, self.version);
        let message = self.message.trim_end();
        format!("{time} {level:<5} v{version}{place} {message}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_they_are_about() {
        let line = |partition, offset| Line {
            timestamp: 0,
            level: "warn".to_owned(),
            version: 3,
            partition,
            offset,
            message: "x\n".to_owned(),
        };
        let shown = |partition, offset| line(partition, offset).shown();
        assert_eq!(
            shown(Some(2), Some(17)),
            "1970-01-01T00:00:00.000Z warn  v3 p2@17 x"
        );
        assert_eq!(
            shown(Some(2), None),
            "1970-01-01T00:00:00.000Z warn  v3 p2 x"
        );
        assert_eq!(shown(None, None), "1970-01-01T00:00:00.000Z warn  v3 x");
    }

    #[test]
    fn tail_is_asked_for_once() {
        let arguments = Arguments {
            name: "a/b".to_owned(),
            follow: true,
            since: Some(5),
            level: Some(Level::Warn),
            tail: Some(3),
            partition: None,
        };
        assert_eq!(
            question(&arguments, None, 0),
            "/v1/transforms/a%2Fb/logs?limit=1000&wait_ms=0&since=5&tail=3&level=warn"
        );
        assert_eq!(
            question(&arguments, Some(9), 10),
            "/v1/transforms/a%2Fb/logs?limit=1000&wait_ms=10&position=9&since=5&level=warn"
        );
    }
}
