//! `tidemill config`: checking, showing and printing settings.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::machine::Machine;
use super::{ConfigError, Flags, print, resolve_values};
use crate::transforms::secrets::SecretsKey;

/// Verbs of `tidemill config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a settings file: what is wrong with it, what it changes, and what this machine cannot give
    ///
    /// Exit code 0: it can be used. 1: it can, but this machine cannot give all it asks for. 2: it cannot be used.
    Check(CheckArgs),
    /// Print the settings a start would use and where each comes from; takes the flags of 'start'
    Show(Flags),
    /// Print a complete settings file with comments; every setting is at its default
    Default,
}

/// What `config check` takes.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The settings file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// It cannot be used.
const UNUSABLE: u8 = 2;
/// It can be used, with less than it asks for.
const LESS: u8 = 1;

/// Runs a verb and says how it ended.
pub(crate) fn run(command: ConfigCommand) -> ExitCode {
    match command {
        ConfigCommand::Check(args) => check(args.file),
        ConfigCommand::Show(flags) => show(&flags),
        ConfigCommand::Default => crate::print(print::default_file().as_bytes()),
    }
}

fn check(file: PathBuf) -> ExitCode {
    let name = file.display().to_string();
    let flags = Flags {
        config: Some(file),
        ..Flags::default()
    };
    let (values, config) =
        match resolve_values(&flags).and_then(|v| v.checked(&flags).map(|c| (v, c))) {
            Ok(resolved) => resolved,
            Err(error) => return refused(&error),
        };
    if let Err(error) = SecretsKey::of_node(&config.settings.transforms) {
        eprintln!("{error}");
        return ExitCode::from(UNUSABLE);
    }
    let differences = print::differences(&values, None);
    let mut out = match differences.len() {
        0 => format!("{name} can be used; it changes nothing\n"),
        n => format!("{name} can be used; it changes {n} of the defaults:\n"),
    };
    for line in differences {
        out.push_str(&format!("  {line}\n"));
    }
    let warnings = Machine::here()
        .with_disk(&config.data_dir)
        .warnings(&config.settings);
    for warning in &warnings {
        out.push_str(&format!("this machine cannot give all of it: {warning}\n"));
    }
    let printed = crate::print(out.as_bytes());
    match warnings.is_empty() {
        true => printed,
        false => ExitCode::from(LESS),
    }
}

fn show(flags: &Flags) -> ExitCode {
    let file = flags.config.as_ref().map(|f| f.display().to_string());
    match resolve_values(flags).and_then(|values| values.checked(flags).map(|_| values)) {
        Ok(values) => crate::print(print::effective(&values, file.as_deref()).as_bytes()),
        Err(error) => refused(&error),
    }
}

fn refused(error: &ConfigError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(UNUSABLE)
}
