//! What the measurement programs share. Each program measures one thing, prints what it found for people,
//! and ends with one line of JSON that `cargo xtask bench` writes into the report.

#![forbid(unsafe_code)]

pub mod broker;
pub mod kafka;
pub mod load;
pub mod saturate;
pub mod stats;
pub mod users;

use std::process::ExitCode;

/// Ends a measurement program: its line of figures on standard output, or what went wrong on standard error.
#[must_use]
pub fn finish(outcome: Result<String, String>) -> ExitCode {
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
