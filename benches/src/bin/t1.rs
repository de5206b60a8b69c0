//! T1: the mask of `examples/mask-rust` in the sandbox, as fast as what fraction of the same code compiled natively?
//!
//! Both sides take the same record sections and end with complete record batches, checksum included. Calls carry about 1 MB in
//! batches of 100 records, the module is interruptible, on one thread. Native and sandboxed rounds alternate; the median counts.

#![forbid(unsafe_code)]

#[path = "../../../examples/mask-rust/src/lib.rs"]
#[allow(unreachable_pub, reason = "an example is a crate of its own")]
mod mask;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use tidemill_benches::stats::percentile;
use tidemill_benches::users;
use tidemill_model::record::batch_from_section;
use tidemill_sdk::testing::Native;
use tidemill_wasm_host::{
    Factory, HostConfig, InputBatch, Limits, LocalRunner, OutputTopic, guest_env,
};

/// Bytes of the values that are measured.
const VALUE_BYTES: [usize; 2] = [163, 1024];
const RECORDS_PER_BATCH: usize = 100;
/// Bytes of input in one call.
const CALL_BYTES: usize = 1 << 20;
const ROUNDS: usize = 9;
const CALLS_PER_ROUND: usize = 200;
/// Of native speed, at each size.
const TARGET: f64 = 0.6;
const BATCH_BYTES_MAX: usize = 1_048_588;

// As the broker has it.
#[global_allocator]
static ALLOCATOR: tidemill_rt::memory::Allocator = tidemill_rt::memory::Allocator;

fn main() -> ExitCode {
    // As the broker does.
    tidemill_rt::memory::keep_pages_small();
    tidemill_rt::memory::keep_freed();
    match measure_all() {
        Ok(ratios) => {
            let holds = ratios.iter().all(|r| *r >= TARGET);
            let summary = format!(
                "masking in the sandbox at {:.2} (163 B) and {:.2} (1 KB) of native speed; target {TARGET}",
                ratios[0], ratios[1]
            );
            println!(
                "{}",
                serde_json::json!({ "holds": holds, "summary": summary, "ratios": ratios })
            );
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("t1: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all() -> Result<Vec<f64>, String> {
    let wasm = build_module()?;
    let module = Factory::new(HostConfig::default())
        .load_here(&wasm)
        .map_err(|e| e.to_string())?;
    let env = guest_env("t1", "in", &["out".to_owned()], &[]);
    let mut runner = LocalRunner::new(
        &module,
        env,
        Limits::default(),
        vec![OutputTopic::of_max_bytes(BATCH_BYTES_MAX)],
    )
    .map_err(|e| e.to_string())?;
    VALUE_BYTES
        .iter()
        .map(|bytes| measure(&mut runner, *bytes))
        .collect()
}

/// The ratio for values of this size.
fn measure(runner: &mut LocalRunner, value_bytes: usize) -> Result<f64, String> {
    let input = users::batches(value_bytes, RECORDS_PER_BATCH, CALL_BYTES);
    let records: usize = input.iter().map(|b| b.record_count as usize).sum();
    let mut native = Native::new(&["out"]).ok_or("an output was given")?;
    let (expected, sandboxed) = (
        native_call(&mut native, &input)?,
        sandboxed_call(runner, &input)?,
    );
    if expected != sandboxed {
        return Err(format!(
            "native code wrote {expected} bytes, the module {sandboxed}"
        ));
    }
    let (mut native_rates, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        native_rates.push(rate(records, || native_call(&mut native, &input))?);
        rates.push(rate(records, || sandboxed_call(runner, &input))?);
    }
    let (native, sandboxed) = (
        percentile(&mut native_rates, 50.0),
        percentile(&mut rates, 50.0),
    );
    let ratio = sandboxed / native;
    println!(
        "{value_bytes:>5} B values: native {:.2} M records/s, sandboxed {:.2} M records/s, ratio {ratio:.2}",
        native / 1e6,
        sandboxed / 1e6
    );
    Ok(ratio)
}

/// Records per second of a round.
fn rate(records: usize, mut call: impl FnMut() -> Result<usize, String>) -> Result<f64, String> {
    let began = Instant::now();
    for _ in 0..CALLS_PER_ROUND {
        std::hint::black_box(call()?);
    }
    Ok((records * CALLS_PER_ROUND) as f64 / began.elapsed().as_secs_f64())
}

/// Bytes of batches written.
fn native_call(native: &mut Native, input: &[InputBatch]) -> Result<usize, String> {
    let mut bytes = 0;
    let batches = input.iter().map(|b| {
        (
            b.base_offset,
            b.base_timestamp,
            b.record_count,
            &b.records[..],
        )
    });
    let failed = native.process(mask::mask_email, batches, |_, base, max, count, section| {
        bytes += std::hint::black_box(batch_from_section(&section, count as i32, base, max)).len();
    })?;
    if failed == 0 {
        Ok(bytes)
    } else {
        Err(format!("{failed} records failed natively"))
    }
}

fn sandboxed_call(runner: &mut LocalRunner, input: &[InputBatch]) -> Result<usize, String> {
    let output = runner.call(0, input).map_err(|e| e.to_string())?;
    match output.failures.first() {
        None => Ok(output.outputs.iter().map(|o| o.batch.len()).sum()),
        Some(failure) => Err(failure.message.clone()),
    }
}

fn build_module() -> Result<Vec<u8>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target: PathBuf = root.join("target/guests");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--target", "wasm32-wasip2"])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", "-C target-feature=+simd128")
        .current_dir(root.join("examples/mask-rust"))
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err("examples/mask-rust does not build".to_owned());
    }
    std::fs::read(target.join("wasm32-wasip2/release/mask_rust.wasm")).map_err(|e| e.to_string())
}
