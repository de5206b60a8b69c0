//! `transform build`: compiles a project to its module.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::Context;
use crate::compile::{self, Built};
use crate::error::CliResult;
use crate::manifest::Project;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The project's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// Compiles and says where the module is.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let project = Project::find(&arguments.dir)?;
    let built = compile::compile(&project)?;
    if context.output.is_json() {
        let seconds = (built.seconds * 1000.0).round() / 1000.0;
        return context
            .output
            .json(&json!({ "module": built.module, "bytes": built.bytes, "seconds": seconds }));
    }
    context.output.say(&sentence(&built))
}

fn sentence(built: &Built) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let module: &Path = built.module.strip_prefix(here).unwrap_or(&built.module);
    format!(
        "built {} ({}) in {:.1} s",
        module.display(),
        output::size(built.bytes),
        built.seconds
    )
}
