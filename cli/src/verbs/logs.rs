//! `transform logs`: what a transform logged.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::following;
use crate::Context;
use crate::admin::{segment, typed};
use crate::error::CliResult;
use crate::output;

/// Lines asked for at once.
const PAGE: usize = 1_000;
/// How long the broker may hold a question back until there is a line, milliseconds.
const WAIT_MS: u64 = 10_000;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name
    name: String,
    /// Go on with new lines until interrupted
    #[arg(short, long)]
    follow: bool,
}

#[derive(Debug, Deserialize)]
struct Page {
    lines: Vec<Value>,
    next: u64,
}

#[derive(Debug, Deserialize)]
struct Line {
    timestamp: i64,
    level: String,
    partition: i32,
    message: String,
}

/// Prints the lines that the broker still has; with `--follow`, then the new ones.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let admin = context.admin()?;
    let name = segment(&arguments.name);
    let (mut after, mut answered, mut wait_ms, mut shown) = (0, false, 0, 0_u64);
    loop {
        let path =
            format!("/v1/transforms/{name}/logs?after={after}&limit={PAGE}&wait_ms={wait_ms}");
        let page: Page = typed(&following(answered, || admin.get(&path))?)?;
        answered = true;
        shown += page.lines.len() as u64;
        for line in &page.lines {
            print(line, context)?;
        }
        context.output.flush()?;
        // The first answer has the newest lines up to now: what came since is not asked for, or a busy transform would
        // keep this going.
        if !arguments.follow {
            break;
        }
        if page.lines.is_empty() {
            wait_ms = WAIT_MS;
        }
        // The broker numbers anew when it restarts; its word counts, also downwards.
        after = page.next;
    }
    if shown == 0 {
        context
            .output
            .say(&format!("{} has logged nothing", arguments.name))?;
    }
    Ok(())
}

fn print(value: &Value, context: &mut Context) -> CliResult {
    if context.output.is_json() {
        return context.output.json_line(value);
    }
    let line: Line = typed(value)?;
    let message = line.message.trim_end();
    let time = output::utc(line.timestamp);
    context.output.foreign_line(&format!(
        "{time} {:<5} p{} {message}",
        line.level, line.partition
    ))
}
