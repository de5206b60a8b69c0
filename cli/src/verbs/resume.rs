//! `transform resume`: lets a paused transform go on.

use clap::Args;

use crate::Context;
use crate::admin::segment;
use crate::error::CliResult;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name
    name: String,
}

/// Resumes it.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let answer = context.admin()?.post_empty(&format!(
        "/v1/transforms/{}/resume",
        segment(&arguments.name)
    ))?;
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    context.output.say(&format!("resumed {}", arguments.name))
}
