//! Go, compiled by the standard compiler to a core module.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::tool;
use crate::embedded;
use crate::error::{CliError, CliResult};
use crate::manifest::Project;
use crate::progress::Progress;

/// The oldest Go that knows `go:wasmexport` and reactors: 1.24.
const OLDEST: (u32, u32) = (1, 24);
const MISSING: &str =
    "Go is not there: no `go` in PATH; install Go 1.24 or newer as https://go.dev/doc/install says";
/// What a module of the SDK exports (`wit/core-module.md`).
const EXPORT: &[u8] = b"tidemill_process";
/// What only `tidemill.Register` says: the linker leaves it out where nothing calls that.
const REGISTER: &[u8] = b"tidemill: Register was called twice";

/// Compiles the project's package; gives the file that is the module.
///
/// # Errors
/// Where Go is missing or too old, the package does not compile, or registers no transform.
pub(super) fn compile(project: &Project) -> CliResult<PathBuf> {
    let manifest = project.folder.join("go.mod");
    if !manifest.is_file() {
        return Err(CliError::said(format!(
            "{} is missing; a Go project has it beside transform.toml",
            manifest.display()
        )));
    }
    embedded::refresh_sdk(project)?;
    check_version(project)?;
    let artifact = super::unplaced(project)?;
    let progress = Progress::start(format!("compiling {}", project.manifest.name));
    let mut command = go(project);
    command
        .args([
            "build",
            "-buildmode=c-shared",
            "-trimpath",
            "-ldflags=-s -w",
            "-o",
        ])
        .arg(&artifact)
        .arg(".")
        .env("GOOS", "wasip1")
        .env("GOARCH", "wasm")
        .env("CGO_ENABLED", "0");
    let is_step = |line: &str| line.starts_with("go: downloading ");
    let ran = tool::run(&mut command, &progress, is_step, MISSING)?;
    drop(progress);
    if !ran.ok {
        return Err(CliError::said(format!(
            "{}\nthe module was not built{}",
            ran.said.trim_end(),
            advice(&ran.said)
        )));
    }
    check_exports(&artifact)?;
    Ok(artifact)
}

/// Go in the project's folder, as if nothing were set in the environment that is meant for other programs.
fn go(project: &Project) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(&project.folder)
        // Set to nothing: what `go env -w` wrote would hold otherwise.
        .env("GOFLAGS", "")
        .env("GOEXPERIMENT", "")
        .env("GOWASM", "")
        .env("GO111MODULE", "")
        .env("GOWORK", "off");
    command
}

/// Refuses early, and in one line, what the compiler would say in many.
fn check_version(project: &Project) -> CliResult {
    let output = go(project)
        .arg("version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => CliError::said(MISSING),
            _ => CliError::said(format!("go cannot be started: {error}")),
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(CliError::said(format!("go does not run: {}", said.trim())));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    match version(&said) {
        Some(found) if found < OLDEST => Err(CliError::said(format!(
            "Go {}.{} is too old: transforms need 1.24 or newer; install it as https://go.dev/doc/install says",
            found.0, found.1
        ))),
        // One that does not say which it is gets its chance.
        _ => Ok(()),
    }
}

/// From `go version go1.26.8 linux/amd64`.
fn version(said: &str) -> Option<(u32, u32)> {
    let number = said.split_whitespace().nth(2)?.strip_prefix("go")?;
    let mut parts = number.split(['.', '-', 'r', 'b']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn advice(said: &str) -> &'static str {
    if said.contains("requires exactly one main package") || said.contains("not a main package") {
        "; a transform is a `package main`, with `func main() {}` and a function handed to tidemill.Register in `init`"
    } else if said.contains("missing go.sum entry") || said.contains("go mod tidy") {
        "; run `go mod tidy` and build again"
    } else {
        ""
    }
}

fn check_exports(artifact: &std::path::Path) -> CliResult {
    let wasm = fs::read(artifact).map_err(CliError::file("read", artifact))?;
    let has = |text: &[u8]| wasm.windows(text.len()).any(|bytes| bytes == text);
    // Names of exports stand in the module as they are, and nothing else in it has this name once symbols are stripped.
    if has(EXPORT) && has(REGISTER) {
        return Ok(());
    }
    Err(CliError::said(
        "the package registers no transform: import tidemill \"tidemill.dev/sdk\" and write \
         `func init() { tidemill.Register(yourFunction) }`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_what_go_says() {
        assert_eq!(version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(version("go version go1.24rc1 linux/amd64"), Some((1, 24)));
        assert_eq!(version("go version go1.9 X:foo darwin/arm64"), Some((1, 9)));
        assert_eq!(version("go version devel +abc"), None);
    }
}
