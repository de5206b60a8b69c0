//! The verbs, one file each.

mod build;
mod builtins;
mod completions;
mod consume;
mod delete;
mod deploy;
mod describe;
mod dev;
mod init;
mod list;
mod logs;
mod pause;
mod produce;
mod resume;
mod rollback;
mod seek;
mod test;
mod topic;
mod versions;

use std::time::Duration;

use clap::Subcommand;

use crate::Context;
use crate::error::{CliError, CliResult};

/// Pause before asking a broker again that has gone away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a new project
    Init(init::Arguments),
    /// Compile a project to its module, target/transform/NAME.wasm
    Build(build::Arguments),
    /// Run a project's module on records, here, in the broker's engine
    Test(test::Arguments),
    /// Build and deploy a project at every save, and show what it logs
    #[command(
        mut_arg("module", |arg| arg.hide(true)),
        mut_arg("builtin", |arg| arg.hide(true)),
        mut_arg("settings", |arg| arg.hide(true)),
        mut_arg("files", |arg| arg.hide(true))
    )]
    Dev(dev::Arguments),
    /// Deploy a project, or a module, to the broker
    Deploy(Box<deploy::Arguments>),
    /// List the ready-made transforms, which are deployed without writing code
    Builtins,
    /// List the transforms of the broker
    List,
    /// Show all about a transform
    Describe(describe::Arguments),
    /// Show what a transform logged
    Logs(logs::Arguments),
    /// Hold a transform; it keeps its place
    Pause(pause::Arguments),
    /// Let a paused transform go on where it stood
    Resume(resume::Arguments),
    /// Move a transform to another place in its input
    Seek(seek::Arguments),
    /// List the versions of a transform that are kept
    Versions(versions::Arguments),
    /// Deploy the content of an earlier version again
    Rollback(rollback::Arguments),
    /// Remove a transform; its topics stay
    Delete(delete::Arguments),
    /// Create, list, describe and delete topics
    #[command(subcommand)]
    Topic(topic::Verb),
    /// Write records to a topic, one a line
    Produce(produce::Arguments),
    /// Read records from a topic
    Consume(consume::Arguments),
    /// Print completions for a shell, to be sourced or installed
    Completions(completions::Arguments),
    /// Write man pages to a folder
    #[command(hide = true)]
    Man(completions::Man),
}

impl Verb {
    /// Does it.
    pub(crate) fn run(self, context: &mut Context) -> CliResult {
        match self {
            Verb::Init(arguments) => init::run(&arguments, context),
            Verb::Build(arguments) => build::run(&arguments, context),
            Verb::Test(arguments) => test::run(&arguments, context),
            Verb::Dev(arguments) => dev::run(&arguments, context),
            Verb::Deploy(arguments) => deploy::run(&arguments, context),
            Verb::Builtins => builtins::run(context),
            Verb::List => list::run(context),
            Verb::Describe(arguments) => describe::run(&arguments, context),
            Verb::Logs(arguments) => logs::run(&arguments, context),
            Verb::Pause(arguments) => pause::run(&arguments, context),
            Verb::Resume(arguments) => resume::run(&arguments, context),
            Verb::Seek(arguments) => seek::run(&arguments, context),
            Verb::Versions(arguments) => versions::run(&arguments, context),
            Verb::Rollback(arguments) => rollback::run(&arguments, context),
            Verb::Delete(arguments) => delete::run(&arguments, context),
            Verb::Topic(verb) => topic::run(&verb, context),
            Verb::Produce(arguments) => produce::run(&arguments, context),
            Verb::Consume(arguments) => consume::run(&arguments, context),
            Verb::Completions(arguments) => completions::run(&arguments),
            Verb::Man(arguments) => completions::man(&arguments),
        }
    }
}

/// `K=V` as clap's value parser.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

/// A separator as typed, with `\t` for a tab.
fn separator(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("a separator has at least one character".to_owned())
    } else {
        Ok(text.replace("\\t", "\t"))
    }
}

/// An answer while following, to a question that changes nothing: a broker that is away for a moment is asked again, once it has answered before.
fn following<T>(answered_before: bool, ask: impl Fn() -> CliResult<T>) -> CliResult<T> {
    let mut said = false;
    loop {
        match ask() {
            Err(CliError::Unreachable { address, reason } | CliError::Lost { address, reason })
                if answered_before =>
            {
                if !said {
                    eprintln!(
                        "the broker at {address} went away ({reason}); going on when it is back"
                    );
                    said = true;
                }
                std::thread::sleep(RETRY_PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_separators_are_read() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("=b").is_err() && pair("a").is_err());
        assert_eq!(separator("\\t"), Ok("\t".to_owned()));
        assert!(separator("").is_err());
    }
}
