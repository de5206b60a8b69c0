//! `transform completions` and the hidden `transform man`: what shells and `man` want to know, from the same definitions as the
//! help.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::Cli;
use crate::error::{CliError, CliResult};

/// What `completions` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// What `man` takes.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder; made if missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints the completions of a shell.
pub(crate) fn run(arguments: &Arguments) -> CliResult {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Cli::command(),
        "transform",
        &mut script,
    );
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(&script).and_then(|()| out.flush())?)
}

/// Writes the man pages of all verbs.
pub(crate) fn man(arguments: &Man) -> CliResult {
    let dir = &arguments.dir;
    let written =
        std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.map_err(|source| CliError::File {
        action: "write man pages to",
        path: dir.clone(),
        source,
    })
}
