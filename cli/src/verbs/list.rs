//! `transform list`: the transforms of the broker.

use serde::Deserialize;

use crate::Context;
use crate::admin::typed;
use crate::error::CliResult;
use crate::output::Table;

/// Characters of an error in the table; `describe` has all of it.
const ERROR_SHOWN: usize = 60;

#[derive(Debug, Deserialize)]
struct Transforms {
    transforms: Vec<Transform>,
}

#[derive(Debug, Deserialize)]
struct Transform {
    name: String,
    version: u32,
    state: String,
    input: String,
    outputs: Vec<String>,
    lag: i64,
    records_in: u64,
    records_out: u64,
    failed: u64,
    last_error: Option<String>,
}

/// Prints them.
pub(crate) fn run(context: &mut Context) -> CliResult {
    let answer = context.admin()?.get("/v1/transforms")?;
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    let answer: Transforms = typed(&answer)?;
    if answer.transforms.is_empty() {
        return context
            .output
            .say("no transforms; deploy one with `transform deploy`");
    }
    let mut table = Table::new(&[
        "NAME",
        "VERSION",
        "STATE",
        "INPUT",
        "OUTPUTS",
        "LAG",
        "IN",
        "OUT",
        "FAILED",
        "LAST ERROR",
    ]);
    for transform in answer.transforms {
        table.row([
            transform.name,
            transform.version.to_string(),
            transform.state,
            transform.input,
            transform.outputs.join(","),
            transform.lag.to_string(),
            transform.records_in.to_string(),
            transform.records_out.to_string(),
            transform.failed.to_string(),
            shortened(&transform.last_error.unwrap_or_default()),
        ]);
    }
    context.output.table(&table)
}

fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= ERROR_SHOWN && line.len() == text.len() {
        return line.to_owned();
    }
    format!("{}...", line.chars().take(ERROR_SHOWN).collect::<String>())
}
