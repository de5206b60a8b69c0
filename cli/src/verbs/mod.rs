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

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Subcommand;

use crate::Context;
use crate::error::{CliError, CliResult};

/// Pause before asking a broker again that has gone away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What the numbers of `list` and `describe` mean.
const COUNTED: &str = "\
Counted since a transform was deployed last, or the broker was started: IN, records read; OUT, records written, dead letters included; \
FAILED, failures, each attempt by itself. LAG is what is still to read.";

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
    #[command(after_help = COUNTED)]
    List,
    /// Show all about a transform
    #[command(after_help = COUNTED)]
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

/// Refuses a key that is given twice: nobody sees which of its values holds.
///
/// # Errors
/// Which one.
fn once(flag: &str, pairs: &[(String, String)]) -> CliResult {
    let mut seen = BTreeSet::new();
    match pairs.iter().find(|(key, _)| !seen.insert(key)) {
        Some((key, _)) => Err(CliError::said(format!("{flag} {key} is given twice"))),
        None => Ok(()),
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

/// An answer while following, to a question that changes nothing: a broker that is away or busy for a moment is asked again, once it
/// has answered before.
fn following<T>(answered_before: bool, ask: impl Fn() -> CliResult<T>) -> CliResult<T> {
    let mut said = false;
    loop {
        let error = match ask() {
            Err(error) if answered_before => error,
            result => return result,
        };
        let Some(told) = passing(&error) else {
            return Err(error);
        };
        if !said {
            tell!("{told}");
            said = true;
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// What is said of an error that will pass; nothing of another.
fn passing(error: &CliError) -> Option<String> {
    match error {
        CliError::Unreachable { address, reason }
        | CliError::Lost { address, reason }
        | CliError::Silent { address, reason } => Some(format!(
            "the broker at {address} went away ({reason}); going on when it is back"
        )),
        CliError::Busy(reason) => Some(format!(
            "the broker cannot answer now: {reason}; going on when it can"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn following_outlasts_a_broker_that_is_away_or_busy_but_no_refusal() {
        let (address, reason) = ("a:1".to_owned(), "gone".to_owned());
        let answers = RefCell::new(VecDeque::from([
            Err(CliError::Silent { address, reason }),
            Err(CliError::Busy("32 requests are under way".to_owned())),
            Ok(7),
            Err(CliError::Refused("there is none".to_owned())),
            Err(CliError::Busy("32 requests are under way".to_owned())),
        ]));
        let ask = || answers.borrow_mut().pop_front().expect("asked no more");
        assert_eq!(following(true, ask).ok(), Some(7));
        assert!(matches!(following(true, ask), Err(CliError::Refused(_))));
        // Who has not been answered yet is told.
        assert!(matches!(following(false, ask), Err(CliError::Busy(_))));
    }

    #[test]
    fn pairs_and_separators_are_read() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("=b").is_err() && pair("a").is_err());
        assert_eq!(separator("\\t"), Ok("\t".to_owned()));
        assert!(separator("").is_err());
    }
}
