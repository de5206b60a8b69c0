//! `cargo xtask test`: set-up, then everything there is to test, each step with its duration.

use crate::process::{self, cargo, root, target_dir};
use crate::steps::{SET_UP, Steps};
use crate::{clients, setup, sim, soak, tidy};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package whose tests start brokers; they run last, a few at a time.
const END_TO_END: &str = "tidemill-tests";
/// End-to-end tests that run at once: each has a broker and a client of its own.
const END_TO_END_AT_ONCE: &str = "2";

/// One test program that Cargo has built.
#[derive(Debug, Clone)]
pub(crate) struct TestProgram {
    pub(crate) package: String,
    pub(crate) target: String,
    pub(crate) executable: PathBuf,
    pub(crate) folder: PathBuf,
}

/// Runs all steps, or those whose name begins with what `--only` says.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let only = match args {
        [] => None,
        [flag, name] if flag == "--only" => Some(name.clone()),
        _ => return Err("usage: cargo xtask test [--only STEP]".to_owned()),
    };
    let mut steps = Steps::new(only);
    steps.step(SET_UP, || {
        setup::writable_target()?;
        setup::wasm_target()?;
        setup::packages()?;
        setup::python()?;
        clients::java()?;
        clients::go()
    })?;
    steps.step("format", || {
        process::run(&mut cargo(&["fmt", "--all", "--check"]))
    })?;
    steps.step("tidy", tidy::run)?;
    steps.step("build", || build().map(|_| ()))?;
    steps.step("lints", lints)?;
    steps.step("unit and simulation tests", || {
        let programs = build()?;
        run_all(
            programs
                .iter()
                .filter(|program| program.package != END_TO_END),
            &[],
        )
    })?;
    steps.step("simulations", || sim::run_in_test(&build()?))?;
    steps.step("documentation tests", || {
        process::run(&mut cargo(&[
            "test",
            "--workspace",
            "--locked",
            "--quiet",
            "--doc",
        ]))
    })?;
    steps.step("ready-made transforms", builtins)?;
    steps.step("examples", examples)?;
    steps.step("end-to-end tests", || {
        let programs = build()?;
        let flags = ["--test-threads", END_TO_END_AT_ONCE];
        run_all(
            programs
                .iter()
                .filter(|program| program.package == END_TO_END),
            &flags,
        )
    })?;
    steps.step("short soak of transforms", || {
        build()?;
        soak::short_of_transforms()
    })?;
    if steps.is_empty() {
        return Err("there is no step with that name".to_owned());
    }
    steps.summary();
    println!("\nevery step passed");
    Ok(())
}

/// Builds every program and every test in one go, so that nothing is built twice with other features;
/// returns the test programs.
pub(crate) fn build() -> Result<Vec<TestProgram>, String> {
    let format = "--message-format=json-render-diagnostics";
    let mut command = cargo(&[
        "build",
        "--workspace",
        "--bins",
        "--tests",
        "--locked",
        format,
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    let stdout = child.stdout.take().expect("standard output is piped");
    let mut programs: Vec<TestProgram> = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| test_program(&serde_json::from_str(&line).ok()?))
        .collect();
    let status = child
        .wait()
        .map_err(|error| format!("cargo was lost: {error}"))?;
    if !status.success() {
        return Err("the build failed; the errors are above".to_owned());
    }
    programs.sort_by(|a, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
    Ok(programs)
}

/// Reads one message of Cargo: an artifact that is a test and has an executable.
fn test_program(message: &Value) -> Option<TestProgram> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let text = std::fs::read_to_string(manifest).ok()?;
    let parsed: toml::Table = toml::from_str(&text).ok()?;
    Some(TestProgram {
        package: parsed.get("package")?.get("name")?.as_str()?.to_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        executable: PathBuf::from(message["executable"].as_str()?),
        folder: manifest.parent()?.to_path_buf(),
    })
}

/// Runs test programs one after another in the folders of their packages, as `cargo test` does.
fn run_all<'a>(
    programs: impl Iterator<Item = &'a TestProgram>,
    flags: &[&str],
) -> Result<(), String> {
    let mut failed = Vec::new();
    for program in programs {
        println!("-- {} ({})", program.package, program.target);
        let mut command = Command::new(&program.executable);
        command
            .args(["--quiet"])
            .args(flags)
            .current_dir(&program.folder)
            .env("CARGO_MANIFEST_DIR", &program.folder);
        if process::run(&mut command).is_err() {
            failed.push(format!("{} ({})", program.package, program.target));
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("tests failed in {}", failed.join(", ")))
}

fn lints() -> Result<(), String> {
    let args = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    process::run(&mut cargo(&args))
}

/// The ready-made transforms' own tests, native.
fn builtins() -> Result<(), String> {
    let workspace = root().join("builtins");
    let mut format = cargo(&["fmt", "--all", "--check"]);
    process::run(format.current_dir(&workspace))?;
    let mut command = cargo(&["test", "--locked", "--quiet"]);
    command
        .current_dir(&workspace)
        .env("CARGO_TARGET_DIR", target_dir().join("builtins"));
    process::run(&mut command)
}

/// The examples' own tests, native, as their authors would run them.
fn examples() -> Result<(), String> {
    let folder = root().join("examples");
    let entries = std::fs::read_dir(&folder)
        .map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
    let mut projects: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("transform.toml").is_file())
        .collect();
    projects.sort();
    projects.iter().try_for_each(|project| {
        println!("-- {}", project.display());
        example(project)
    })
}

fn example(project: &Path) -> Result<(), String> {
    if project.join("go.mod").is_file() {
        for verb in ["vet", "test"] {
            let mut command = process::program("go", &[verb, "./..."]);
            process::run(command.current_dir(project))?;
        }
        return Ok(());
    }
    if project.join("Cargo.toml").is_file() {
        let mut format = cargo(&["fmt", "--check"]);
        process::run(format.current_dir(project))?;
        let mut command = cargo(&["test", "--quiet"]);
        command
            .current_dir(project)
            .env("CARGO_TARGET_DIR", target_dir().join("examples"));
        return process::run(&mut command);
    }
    let mut command = process::program("python3", &["-m", "unittest"]);
    command
        .current_dir(project)
        .env("PYTHONPATH", root().join("transform-sdk/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    process::run(&mut command)
}
