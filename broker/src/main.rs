//! `tidemill`: the broker binary.

mod admin;
mod admin_service;
mod boot;
mod config;
mod kafka;
mod metrics;
mod records;
mod shard;
mod topics;
mod transforms;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::StartArgs;

/// A Kafka-compatible broker that runs your functions beside the data.
#[derive(Debug, Parser)]
#[command(
    name = "tidemill",
    version,
    about,
    after_help = "\
Environment: TIDEMILL_LOG sets the log filter (default: info), for example TIDEMILL_LOG=debug.
Deploy functions with the 'transform' command; see 'transform --help'."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a broker; it runs until SIGTERM or Ctrl-C
    Start(StartArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_logs();
    let Command::Start(args) = cli.command;
    let result = args
        .resolve()
        .map_err(boot::BootError::from)
        .and_then(boot::run);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn init_logs() {
    let filter = EnvFilter::try_from_env("TIDEMILL_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .init();
}
