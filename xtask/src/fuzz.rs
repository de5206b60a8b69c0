//! `cargo xtask fuzz`: libFuzzer over every reader of foreign bytes, one after the other.
//!
//! What it finds on the way stays in `target/fuzz/`. What is kept lies in `fuzz/corpus/`, one packed file for each reader
//! (`tests/hostile/src/corpus.rs` says how), and the test `corpus` of `tests/hostile` runs it; here it is unpacked to
//! `target/fuzz/kept/` first. With `--keep` the inputs that reach more are added to it, with `--add` one input, such as
//! one that found something.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{self, root, target_dir};

const USAGE: &str = "usage: cargo xtask fuzz [TARGET] [--seconds N] [--keep]
       cargo xtask fuzz TARGET --add INPUT";
/// How long each target runs.
const SECONDS: u64 = 60;
/// Bytes of an input at most: lengths that are wrong need no long inputs.
const INPUT_BYTES_MAX: u32 = 4096;
/// Bytes of an input that is kept at most.
const KEPT_BYTES_MAX: u32 = 1024;
/// An input that takes longer is a finding, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// Memory of the fuzzer at most, in MiB; the readers' own bounds are far below.
const MEMORY_MIB_MAX: u32 = 2048;

/// Coverage counters for libFuzzer, as the compiler of the workspace makes them; no sanitizer, since the code that is
/// reached has no `unsafe` of ours.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Named, so that the flags are not for build scripts.
const TRIPLE: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

struct Options {
    target: Option<String>,
    seconds: u64,
    keep: bool,
    add: Option<PathBuf>,
}

/// Builds the fuzzer and runs one target, or all.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let options = options(args)?;
    let fuzzer = build()?;
    let folder = target_dir().join("fuzz");
    let all = targets(&fuzzer)?;
    let chosen: Vec<&String> = match &options.target {
        Some(name) => all.iter().filter(|target| *target == name).collect(),
        None => all.iter().collect(),
    };
    if chosen.is_empty() {
        return Err(format!("there is no such target, only {}", all.join(", ")));
    }
    if let Some(input) = &options.add {
        let target = options.target.as_deref().ok_or(USAGE)?;
        return add(&fuzzer, &folder, target, input);
    }
    for target in chosen {
        println!("\n== {target}");
        one(&fuzzer, &folder, target, &options)?;
    }
    println!("\nnothing was found");
    Ok(())
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options {
        target: None,
        seconds: SECONDS,
        keep: false,
        add: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--keep" => options.keep = true,
            "--add" => options.add = Some(args.next().ok_or(USAGE)?.into()),
            "--seconds" => {
                let number = args.next().and_then(|n| n.parse().ok());
                options.seconds = number.ok_or(USAGE)?;
            }
            name if !name.starts_with('-') && options.target.is_none() => {
                options.target = Some(name.to_owned());
            }
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(options)
}

fn build() -> Result<PathBuf, String> {
    let folder = target_dir().join("fuzz/build");
    // The versions of the workspace; Cargo drops what is not used.
    let lock = root().join("fuzz/Cargo.lock");
    std::fs::copy(root().join("Cargo.lock"), &lock)
        .map_err(|error| format!("cannot write {}: {error}", lock.display()))?;
    let mut command = process::cargo(&["build", "--release", "--target", TRIPLE]);
    command
        .current_dir(root().join("fuzz"))
        .env("CARGO_TARGET_DIR", &folder)
        .env("RUSTFLAGS", FLAGS);
    process::run(&mut command)?;
    Ok(folder.join(TRIPLE).join("release/tidemill-fuzz"))
}

fn targets(fuzzer: &Path) -> Result<Vec<String>, String> {
    let mut command = Command::new(fuzzer);
    command.env("TIDEMILL_FUZZ_LIST", "1");
    let listed = process::output(&mut command)?;
    Ok(listed.lines().map(str::to_owned).collect())
}

fn one(fuzzer: &Path, folder: &Path, target: &str, options: &Options) -> Result<(), String> {
    let (found, failures) = (folder.join("corpus").join(target), folder.join("failures"));
    for folder in [&found, &failures] {
        make(folder)?;
    }
    let kept = fresh_kept(folder, target)?;
    let mut command = fuzzer_for(fuzzer, target);
    command
        .args([&found, &kept])
        .env("TIDEMILL_FUZZ_SEEDS", &found)
        .env("TIDEMILL_FUZZ_KEPT", &kept)
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-artifact_prefix={}/{target}-", failures.display()))
        .args([
            "-print_final_stats=1",
            "-verbosity=0",
            "-use_value_profile=1",
        ]);
    process::run(&mut command).map_err(|error| {
        format!(
            "{error}\nthe input is in {}; once it is mended, keep it with `cargo xtask fuzz {target} --add INPUT`",
            failures.display(),
        )
    })?;
    if options.keep {
        keep(fuzzer, target, &found, &kept)?;
    }
    Ok(())
}

/// Adds to what is kept, unpacked in `kept`, what reaches more.
fn keep(fuzzer: &Path, target: &str, found: &Path, kept: &Path) -> Result<(), String> {
    let mut command = fuzzer_for(fuzzer, target);
    command
        .args([kept, found])
        .args(["-set_cover_merge=1", "-verbosity=0"])
        .arg(format!("-max_len={KEPT_BYTES_MAX}"));
    process::run(&mut command)?;
    pack(fuzzer, target, kept)
}

/// Adds one input to what is kept.
fn add(fuzzer: &Path, folder: &Path, target: &str, input: &Path) -> Result<(), String> {
    let kept = fresh_kept(folder, target)?;
    let mut unpack = fuzzer_for(fuzzer, target);
    unpack.env("TIDEMILL_FUZZ_KEPT", &kept).arg(input);
    // It is run once, too: what is kept must be mended.
    process::run(&mut unpack)?;
    std::fs::copy(input, kept.join("added"))
        .map_err(|error| format!("cannot copy {}: {error}", input.display()))?;
    pack(fuzzer, target, &kept)
}

fn pack(fuzzer: &Path, target: &str, folder: &Path) -> Result<(), String> {
    process::run(fuzzer_for(fuzzer, target).env("TIDEMILL_FUZZ_PACK", folder))
}

/// An empty folder for what is kept.
fn fresh_kept(folder: &Path, target: &str) -> Result<PathBuf, String> {
    let kept = folder.join("kept").join(target);
    let _ = std::fs::remove_dir_all(&kept);
    make(&kept)?;
    Ok(kept)
}

fn make(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))
}

fn fuzzer_for(fuzzer: &Path, target: &str) -> Command {
    let mut command = Command::new("nice");
    command
        .args(["-n", "19"])
        .arg(fuzzer)
        .env("TIDEMILL_FUZZ_TARGET", target);
    command
}
