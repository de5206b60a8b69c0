//! The process in which the broker compiles modules: its own binary once more, with limits.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tidemill_wasm_host::{CompileLimits, CompilerProcess, compile_for_parent};

use crate::config::table::Transforms;

/// This binary, also where another has taken its name meanwhile.
const THIS_BINARY: &str = "/proc/self/exe";

/// Arguments of the hidden verb, see [`process`].
#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// Most resident memory
    #[arg(long, value_name = "BYTES")]
    memory_bytes: u64,
    /// Most CPU time
    #[arg(long, value_name = "MS")]
    cpu_ms: u64,
}

impl CompileArgs {
    /// Compiles what comes on standard input.
    pub(crate) fn run(&self) -> ExitCode {
        compile_for_parent(CompileLimits {
            memory_bytes: self.memory_bytes,
            cpu_time: Duration::from_millis(self.cpu_ms),
        })
    }
}

/// How a broker with these settings compiles.
pub(crate) fn process(settings: &Transforms) -> CompilerProcess {
    let limits = CompileLimits {
        memory_bytes: settings.compile_memory,
        cpu_time: settings.compile_time,
    };
    CompilerProcess {
        program: THIS_BINARY.into(),
        arguments: vec![
            "compile-module".to_owned(),
            format!("--memory-bytes={}", limits.memory_bytes),
            format!("--cpu-ms={}", limits.cpu_time.as_millis()),
        ],
        limits,
    }
}
