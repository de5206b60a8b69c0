//! `transform seek`: moves a transform to another place in its input.

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::Context;
use crate::admin::{segment, typed};
use crate::error::CliResult;
use crate::output::Table;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name
    name: String,
    /// Where to: earliest, latest, @TIME (@2026-11-27T10:00:00Z, @2h for two hours ago, or ms since 1970), +N (records after the
    /// oldest), -N (before the end) or an offset
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    to: String,
    /// The input partition to move [default: all]
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Moved {
    partitions: Vec<Partition>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    partition: i32,
    from: i64,
    to: i64,
}

/// Moves it, and says from where to where.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let path = format!("/v1/transforms/{}/seek", segment(&arguments.name));
    let request = json!({ "to": arguments.to, "partition": arguments.partition });
    let answer = context.admin()?.post(&path, &request)?;
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    let moved: Moved = typed(&answer)?;
    let mut table = Table::new(&["PARTITION", "FROM", "TO"]);
    for partition in moved.partitions {
        table.row([
            partition.partition.to_string(),
            partition.from.to_string(),
            partition.to.to_string(),
        ]);
    }
    context.output.table(&table)
}
