//! `cargo xtask soak`: a node under everything at once; the verdict goes to `benches/results/soak.md`. With `--transforms`, transforms
//! deployed, rolled back, paused, deleted at random while the broker is killed: `soak-transforms.md`.

use crate::process::{self, cargo, program, root, target_dir};
use crate::setup;

const USAGE: &str =
    "usage: cargo xtask soak [--transforms] [--minutes N] [--runtime uring|epoll] [--debug]";

/// Minutes of the soak in `cargo xtask test`: enough for some dozen deployments and a kill.
const SHORT_MINUTES: &str = "1";

/// A short soak of transforms with the programs that the tests use, which are built; the verdict goes to `target/`.
pub(crate) fn short_of_transforms() -> Result<(), String> {
    let report = target_dir().join("soak-transforms.md");
    let binary = target_dir().join("debug/soak_transforms");
    let mut command = program(&binary, &[SHORT_MINUTES, "epoll"]);
    process::run(command.arg(&report))
}

/// Builds (release, or what tests use with `--debug`) and runs.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (mut minutes, mut engine, mut release) = ("5".to_owned(), "uring".to_owned(), true);
    let (mut name, mut page) = ("soak", "soak.md");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--minutes" => minutes = args.next().ok_or(USAGE)?.clone(),
            "--runtime" => engine = args.next().ok_or(USAGE)?.clone(),
            "--transforms" => (name, page) = ("soak_transforms", "soak-transforms.md"),
            "--debug" => release = false,
            _ => return Err(USAGE.to_owned()),
        }
    }
    setup::writable_target()?;
    setup::wasm_target()?;
    setup::python()?;
    let mut build = cargo(&["build", "--workspace", "--bins", "--locked"]);
    let folder = match release {
        true => {
            build.arg("--release");
            "release"
        }
        false => {
            build.arg("--tests");
            "debug"
        }
    };
    process::run(&mut build)?;
    let report = root().join("benches/results").join(page);
    let binary = target_dir().join(folder).join(name);
    let mut command = program(&binary, &[&minutes, &engine]);
    process::run(command.arg(&report))
}
