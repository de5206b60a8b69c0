//! T5: a module that masks users, in the sandbox on one thread, as `cargo xtask bench T5` compares it with the same function run by its own
//! language.
//!
//! `t5 MODULE`; `t5 --input VALUE_BYTES` prints the values of the users, one a line, and `t5 --call VALUE_BYTES` the call of a core
//! module with their records.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use tidemill_benches::stats::percentile;
use tidemill_benches::users;
use tidemill_wasm_host::foreign::core_call;
use tidemill_wasm_host::{
    CallOutput, Factory, HostConfig, InputBatch, Limits, LocalRunner, OutputTopic, guest_env,
};

/// Bytes of the values that are measured.
const VALUE_BYTES: [usize; 2] = [250, 1024];
/// Records of a call, in one batch.
const RECORDS: usize = 1_000;
const ROUNDS: usize = 9;
/// Time of a round, at least.
const ROUND_SECONDS: f64 = 0.5;
const BATCH_BYTES_MAX: usize = 4 << 20;
const MEMORY_BYTES: usize = 256 << 20;

// As the broker has it.
#[global_allocator]
static ALLOCATOR: tidemill_rt::memory::Allocator = tidemill_rt::memory::Allocator;

fn main() -> ExitCode {
    tidemill_rt::memory::keep_freed();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["--input", bytes] => number(bytes).map(print_input),
        ["--call", bytes] => number(bytes).and_then(print_call),
        [module] => measure(Path::new(module)),
        _ => Err("t5 MODULE, or t5 --input VALUE_BYTES, or t5 --call VALUE_BYTES".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("t5: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn print_input(bytes: usize) {
    (0..RECORDS).for_each(|n| println!("{}", users::value(n, bytes)));
}

fn print_call(bytes: usize) -> Result<(), String> {
    let call = core_call(0, &users::batches(bytes, RECORDS, 1));
    let written = std::io::stdout().write_all(&call);
    written.map_err(|e| e.to_string())
}

fn measure(path: &Path) -> Result<(), String> {
    let wasm = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let began = Instant::now();
    let factory = Factory::new(HostConfig::default());
    let module = factory.load_here(&wasm).map_err(|e| e.to_string())?;
    let compiled = began.elapsed();
    let env = guest_env("t5", "in", &["out".to_owned()], &[]);
    let limits = Limits {
        time_ms: 10_000,
        memory_bytes: MEMORY_BYTES,
    };
    let outputs = vec![OutputTopic::of_max_bytes(BATCH_BYTES_MAX)];
    let mut runner = LocalRunner::new(&module, env, limits, outputs).map_err(|e| e.to_string())?;
    let (mut rates, mut memory) = (Vec::new(), 0);
    for bytes in VALUE_BYTES {
        let input = users::batches(bytes, RECORDS, 1);
        rates.push(rate(&mut runner, &input, &mut memory)?);
    }
    println!(
        "{}",
        serde_json::json!({
            "module_bytes": wasm.len(), "compile_s": compiled.as_secs_f64(), "memory_bytes": memory,
            "value_bytes": VALUE_BYTES, "records_per_s": rates,
        })
    );
    Ok(())
}

/// Records a second, the median of the rounds.
fn rate(runner: &mut LocalRunner, input: &[InputBatch], memory: &mut u64) -> Result<f64, String> {
    call(runner, input)?;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (began, mut calls) = (Instant::now(), 0);
        while began.elapsed().as_secs_f64() < ROUND_SECONDS {
            *memory = call(runner, input)?.memory_bytes;
            calls += 1;
        }
        rates.push((RECORDS * calls) as f64 / began.elapsed().as_secs_f64());
    }
    Ok(percentile(&mut rates, 50.0))
}

fn call(runner: &mut LocalRunner, input: &[InputBatch]) -> Result<CallOutput, String> {
    let output = runner.call(0, input).map_err(|e| e.to_string())?;
    let written: u32 = output.outputs.iter().map(|o| o.records).sum();
    match output.failures.first() {
        Some(failure) => Err(failure.message.clone()),
        None if written as usize != RECORDS => Err(format!("{written} of {RECORDS} written")),
        None => Ok(output),
    }
}
