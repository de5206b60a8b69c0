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
    /// The version whose content is wanted, see `transform versions` [default: the one before that which runs; a second rollback
    /// undoes the first]
    #[arg(long, value_name = "VERSION")]
    to: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Deployed {
    version: u32,
    content_of: Option<u32>,
    replaced: Option<u32>,
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
    for line in told(name, &typed(&answer)?) {
        context.output.say(&line)?;
    }
    Ok(())
}

/// What happened, and how it is undone.
fn told(name: &str, deployed: &Deployed) -> Vec<String> {
    let of = match deployed.content_of {
        Some(version) => format!("version {version}"),
        None => "an earlier version".to_owned(),
    };
    let mut lines = vec![format!(
        "rolled {name} back: version {} has the content of {of}",
        deployed.version
    )];
    lines.extend(deployed.replaced.map(|version| {
        format!(
            "`transform rollback {name}` would bring version {version} back, which ran until now; --to goes further back"
        )
    }));
    if deployed.paused {
        lines.push(format!(
            "it is still paused: `transform resume {name}` lets it go on"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_came_and_went_are_named() {
        let mut deployed = Deployed {
            version: 4,
            content_of: Some(2),
            replaced: Some(3),
            paused: false,
        };
        let lines = told("m", &deployed);
        assert_eq!(
            lines[0],
            "rolled m back: version 4 has the content of version 2"
        );
        assert!(lines[1].contains("bring version 3 back"), "{}", lines[1]);
        assert_eq!(lines.len(), 2);
        deployed.paused = true;
        assert!(told("m", &deployed)[2].contains("resume m"));
    }
}
