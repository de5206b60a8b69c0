//! `transform versions`: the versions of a transform that are kept.

use clap::Args;
use serde::Deserialize;
use tidemill_model::moment;

use crate::Context;
use crate::admin::{segment, typed};
use crate::error::CliResult;
use crate::output::Table;

/// Characters of a module's hash that are shown.
const HASH_SHOWN: usize = 12;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name
    name: String,
}

#[derive(Debug, Deserialize)]
struct Versions {
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
    current: bool,
    deployed_ms: i64,
    content_of: Option<u32>,
    module: String,
    outputs: Vec<String>,
    on_error: String,
}

/// Prints them, newest first.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let path = format!("/v1/transforms/{}/versions", segment(&arguments.name));
    let answer = context.admin()?.get(&path)?;
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    let answer: Versions = typed(&answer)?;
    let mut table = Table::new(&[
        "VERSION", "RUNS", "DEPLOYED", "OF", "MODULE", "OUTPUTS", "ON ERROR",
    ]);
    for version in answer.versions {
        table.row([
            version.version.to_string(),
            if version.current { "yes" } else { "" }.to_owned(),
            moment::shown(version.deployed_ms),
            version
                .content_of
                .map_or(String::new(), |of| of.to_string()),
            version.module.chars().take(HASH_SHOWN).collect(),
            version.outputs.join(","),
            version.on_error,
        ]);
    }
    context.output.table(&table)
}
