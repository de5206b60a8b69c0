//! `transform pause`: holds a transform.

use clap::Args;

use crate::Context;
use crate::admin::segment;
use crate::error::CliResult;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name
    name: String,
}

/// Pauses it.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let answer = context.admin()?.post_empty(&format!(
        "/v1/transforms/{}/pause",
        segment(&arguments.name)
    ))?;
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    context.output.say(&format!(
        "paused {}; `transform resume {}` lets it go on",
        arguments.name, arguments.name
    ))
}
