//! `transform`: makes, builds, tries and deploys transforms, and looks after topics.

/// Writes a line to standard error; where nobody reads that any more, there is nobody to tell, and no reason to end otherwise.
macro_rules! tell {
    ($($words:tt)*) => {
        crate::output::to_stderr(format_args!("{}\n", format_args!($($words)*)))
    };
}

mod admin;
mod builtin;
mod compile;
mod embedded;
mod error;
mod fnv;
mod local;
mod manifest;
mod output;
mod progress;
mod secrets;
mod verbs;
mod wasm_target;
mod when;

use std::process::ExitCode;

use clap::Parser;

use crate::admin::Admin;
use crate::error::{CliError, CliResult};
use crate::output::{Output, OutputFormat};
use crate::verbs::Verb;

/// Make, try and deploy functions that run inside a Tidemill broker.
#[derive(Debug, Parser)]
#[command(
    name = "transform",
    version,
    about,
    max_term_width = 100,
    after_help = "\
To begin: transform init mask --language rust (or go, python), then in ./mask: transform build,
transform test, transform topic create mask-in, transform deploy.
A broker is started by `tidemill start`."
)]
struct Cli {
    /// The broker's admin address
    #[arg(long, global = true, value_name = "HOST:PORT", env = "TIDEMILL_ADMIN", hide_env_values = true, default_value = admin::DEFAULT_ADDRESS)]
    admin: String,
    /// Tables and sentences for people, or JSON for scripts
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table"
    )]
    output_format: OutputFormat,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb works with.
struct Context {
    address: String,
    output: Output,
}

impl Context {
    /// A client of the broker; nothing is sent yet.
    fn admin(&self) -> CliResult<Admin> {
        Admin::new(&self.address)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut context = Context {
        address: cli.admin,
        output: Output::new(cli.output_format),
    };
    let result = cli
        .verb
        .run(&mut context)
        .and_then(|()| context.output.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::OutputClosed) => {
            // Dropping the buffer would try to write once more; there is nobody to tell of it.
            ExitCode::SUCCESS
        }
        Err(error) => {
            // What came before the error still belongs to the output.
            let _ = context.output.flush();
            // A module may have written a part of it. Its lines stay lines.
            for (n, line) in error.to_string().lines().enumerate() {
                let label = if n == 0 { "error: " } else { "" };
                tell!("{label}{}", output::printable(line));
            }
            ExitCode::FAILURE
        }
    }
}
