//! Rust, compiled by cargo.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use cargo_metadata::{Message, MetadataCommand, TargetKind};

use super::TRANSCRIPT_MAX;
use crate::embedded;
use crate::error::{CliError, CliResult};
use crate::manifest::Project;
use crate::progress::Progress;
use crate::wasm_target::{TARGET, TARGET_CONFIG};

/// Compiles the project's library; gives the file that is the module.
///
/// # Errors
/// Where the compiler or its target is missing, or the project does not compile.
pub(super) fn compile(project: &Project) -> CliResult<PathBuf> {
    let manifest = project.folder.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(CliError::said(format!(
            "{} is missing; a Rust project has it beside transform.toml",
            manifest.display()
        )));
    }
    embedded::refresh_sdk(project)?;
    check_target(&project.folder)?;
    let progress = Progress::start(format!("compiling {}", project.manifest.name));
    let library = find_library(&manifest)?;
    run_cargo(&manifest, &library, &progress)
}

/// Refuses early, and in one line, what cargo would say in many.
fn check_target(folder: &Path) -> CliResult {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(&rustc)
        .args(["--print", "sysroot"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else {
        return Err(CliError::said(
            "the Rust compiler is not there: no `rustc` in PATH; install Rust as https://rustup.rs says",
        ));
    };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !output.status.success()
        || sysroot
            .join("lib/rustlib")
            .join(TARGET)
            .join("lib")
            .is_dir()
    {
        // A compiler that cannot say where it lives gets its chance with cargo.
        return Ok(());
    }
    Err(CliError::said(format!(
        "the compiler target {TARGET} is not installed; run `rustup target add {TARGET}` and build again"
    )))
}

/// The package's library that is compiled to a module, by the name that cargo's messages use.
fn find_library(manifest: &Path) -> CliResult<String> {
    let mut command = MetadataCommand::new();
    command.manifest_path(manifest).no_deps();
    let metadata = command.exec().map_err(|error| {
        CliError::said(format!("cargo cannot read {}: {error}", manifest.display()))
    })?;
    let package = metadata
        .packages
        .iter()
        .find(|package| package.manifest_path.as_std_path() == manifest);
    let library = package.and_then(|package| {
        package
            .targets
            .iter()
            .find(|target| target.kind.contains(&TargetKind::CDyLib))
    });
    library.map(|target| target.name.clone()).ok_or_else(|| {
        CliError::said(format!(
            "{} has no library that becomes a module; it needs\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]",
            manifest.display()
        ))
    })
}

fn run_cargo(manifest: &Path, library: &str, progress: &Progress) -> CliResult<PathBuf> {
    let mut child = cargo_build(manifest).spawn().map_err(|error| {
        CliError::said(format!(
            "cargo cannot be started ({error}); install Rust as https://rustup.rs says"
        ))
    })?;
    let stderr = child.stderr.take().expect("it is piped");
    let (artifact, transcript) = thread::scope(|scope| {
        let transcript = scope.spawn(|| follow(stderr, progress));
        let artifact = find_artifact(&mut child, manifest, library);
        (artifact, transcript.join().unwrap_or_default())
    });
    let status = child
        .wait()
        .map_err(|error| CliError::said(format!("cargo was lost: {error}")))?;
    if !status.success() {
        return Err(CliError::said(format!(
            "{}\nthe module was not built",
            transcript.trim_end()
        )));
    }
    artifact.ok_or_else(|| {
        CliError::said(format!(
            "cargo built no module for the library {library}\n{transcript}"
        ))
    })
}

fn cargo_build(manifest: &Path) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--release",
            "--lib",
            "--target",
            TARGET,
            "--config",
            TARGET_CONFIG,
        ])
        .args([
            "--message-format",
            "json-render-diagnostics",
            "--color",
            "never",
            "--manifest-path",
        ])
        .arg(manifest)
        .current_dir(manifest.parent().unwrap_or(Path::new(".")))
        // Flags in the environment are meant for this machine, and would displace the target's own.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Reads cargo's messages to their end; gives the file that is the module.
fn find_artifact(child: &mut Child, manifest: &Path, library: &str) -> Option<PathBuf> {
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut found = None;
    for message in Message::parse_stream(stdout).map_while(Result::ok) {
        if let Message::CompilerArtifact(artifact) = message
            && artifact.target.name == library
            && artifact.manifest_path.as_std_path() == manifest
        {
            let module = artifact
                .filenames
                .iter()
                .find(|file| file.extension() == Some("wasm"));
            found = module
                .map(|file| file.clone().into_std_path_buf())
                .or(found);
        }
    }
    found
}

/// Reads what cargo tells people; its steps go to the display, the rest is kept for when it fails.
fn follow(stderr: impl Read, progress: &Progress) -> String {
    let mut transcript = String::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let step = line.trim_start();
        let is_step = [
            "Compiling ",
            "Downloading ",
            "Downloaded ",
            "Updating ",
            "Blocking ",
            "Locking ",
            "Adding ",
        ]
        .iter()
        .any(|word| step.starts_with(word));
        if is_step {
            let step = step.split(" (").next().unwrap_or(step);
            progress.set(format!("building: {}", step.to_lowercase()));
        } else if transcript.len() < TRANSCRIPT_MAX {
            transcript.push_str(&line);
            transcript.push('\n');
        }
    }
    transcript
}
