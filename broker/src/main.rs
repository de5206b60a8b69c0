//! `tidemill`: the broker binary.

mod admin;
mod admin_service;
mod ask;
mod boot;
mod compiler;
mod config;
mod groups;
mod guide;
mod health;
mod inspect;
mod kafka;
mod log;
mod metrics;
mod process;
mod records;
mod shard;
mod topic_changes;
mod topics;
mod transforms;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::compiler::CompileArgs;
use crate::config::{ConfigCommand, Flags};
use crate::health::HealthArgs;
use crate::inspect::InspectArgs;

#[global_allocator]
static ALLOCATOR: tidemill_rt::memory::Allocator = tidemill_rt::memory::Allocator;

/// A Kafka-compatible broker that runs your functions beside the data.
#[derive(Debug, Parser)]
#[command(
    name = "tidemill",
    version,
    about,
    after_help = "\
Environment: TIDEMILL_LOG sets what is logged (default: info), for example TIDEMILL_LOG=debug.
Deploy functions with the 'transform' command; see 'transform --help'."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a broker; it runs until SIGTERM or Ctrl-C
    Start(Flags),
    /// Check, show and print settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at a data directory, or a file of one, while no broker runs on it; changes nothing
    ///
    /// Exit code 0: what was read is sound. 1: something is damaged. 2: it could not be looked at.
    Inspect(InspectArgs),
    /// Ask a running broker whether it serves clients; exit code 0 when it does
    Health(HealthArgs),
    /// Print completions for a shell, to be sourced or installed
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Compile a module from standard input; the broker runs it for itself
    #[command(hide = true)]
    CompileModule(CompileArgs),
    /// Write man pages to a folder
    #[command(hide = true)]
    Man {
        /// The folder; made if missing
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    tidemill_rt::memory::keep_pages_small();
    match Cli::parse().command {
        Command::Start(flags) => start(&flags),
        Command::Config(command) => config::run(command),
        Command::Inspect(args) => inspect::run(args),
        Command::Health(args) => health::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tidemill", &mut script);
            print(&script)
        }
        Command::CompileModule(args) => args.run(),
        Command::Man { dir } => man(&dir),
    }
}

/// Writes to standard output. Whoever reads may have seen enough and gone; any other failure is said.
pub(crate) fn print(text: &[u8]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("error: cannot write to standard output: {e}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Writes the man pages of all verbs to `dir`.
#[allow(clippy::disallowed_methods, reason = "no runtime exists")]
fn man(dir: &Path) -> ExitCode {
    let written =
        std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: cannot write man pages to {}: {e}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn start(flags: &Flags) -> ExitCode {
    let config = match flags.resolve() {
        Ok(config) => config,
        Err(e) => {
            // Settings say how to log; these cannot be used.
            eprintln!("error: {e}");
            return ExitCode::FAILURE;
        }
    };
    log::start(&config.settings);
    match boot::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::end(&e);
            ExitCode::FAILURE
        }
    }
}
