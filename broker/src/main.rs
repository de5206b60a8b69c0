//! `tidemill`: the broker binary.

mod admin;
mod admin_service;
mod boot;
mod config;
mod groups;
mod guide;
mod kafka;
mod log;
mod metrics;
mod records;
mod shard;
mod topic_changes;
mod topics;
mod transforms;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{ConfigCommand, Flags};

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
}

fn main() -> ExitCode {
    tidemill_rt::memory::keep_pages_small();
    match Cli::parse().command {
        Command::Start(flags) => start(&flags),
        Command::Config(command) => config::run(command),
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
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    }
}
