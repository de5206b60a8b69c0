//! `transform delete`: removes a transform.

use clap::Args;

use crate::Context;
use crate::admin::segment;
use crate::error::CliResult;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name
    name: String,
}

/// Deletes it.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let answer = context
        .admin()?
        .delete(&format!("/v1/transforms/{}", segment(&arguments.name)))?;
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    context.output.say(&format!(
        "deleted the transform {}; its topics are untouched",
        arguments.name
    ))
}
