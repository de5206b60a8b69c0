//! `transform rollback`: deploys the content of an earlier version again.

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::Context;
use crate::admin::{segment, typed};
use crate::error::CliResult;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name
    name: String,
    /// The version whose content is wanted [default: the one before that which runs]; see `transform versions`
    #[arg(long, value_name = "VERSION")]
    to: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Deployed {
    version: u32,
    #[serde(default)]
    paused: bool,
}

/// Rolls back; the transform keeps its place.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let name = &arguments.name;
    let path = format!("/v1/transforms/{}/rollback", segment(name));
    let answer = context
        .admin()?
        .post(&path, &json!({ "to": arguments.to }))?;
    if context.output.is_json() {
        return context.output.json(&answer);
    }
    let deployed: Deployed = typed(&answer)?;
    let of = match arguments.to {
        Some(version) => format!("version {version}"),
        None => "the version before".to_owned(),
    };
    let paused = match deployed.paused {
        true => format!("; it is still paused: `transform resume {name}` lets it go on"),
        false => String::new(),
    };
    context.output.say(&format!(
        "rolled {name} back: version {} has the content of {of}{paused}",
        deployed.version
    ))
}
