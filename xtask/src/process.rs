//! Running other programs, with errors that say which program and what to do.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end after SIGTERM before it is killed.
const TERMINATE_WAIT: Duration = Duration::from_secs(15);

/// The project's root folder: the one that holds `xtask/`.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the project's root")
        .to_path_buf()
}

/// Where Cargo puts what it builds: `CARGO_TARGET_DIR`, else `target` in the root.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A command of the Cargo that runs us, in the project's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// A program with arguments, in the project's root.
pub(crate) fn program(name: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(args).current_dir(root());
    command
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs to the end with output passed through; an error unless the status is 0.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let line = shown(command);
    let status = command
        .status()
        .map_err(|error| format!("cannot run `{line}`: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{line}` failed ({status})"))
    }
}

/// Runs to the end and returns standard output; standard error is part of the error message.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let line = shown(command);
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run `{line}`: {error}"))?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&out.stderr);
    Err(format!(
        "`{line}` failed ({})\n{stdout}{stderr}",
        out.status
    ))
}

/// Whether a program of that name can be found and started.
pub(crate) fn exists(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// Asks a process to end with SIGTERM, waits, and kills it if it does not.
///
/// Returns whether it ended by itself with status 0.
pub(crate) fn terminate(child: &mut Child) -> bool {
    // The standard library sends no signal but SIGKILL; every POSIX shell has `kill` built in.
    let asked = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", child.id())])
        .status();
    let deadline = Instant::now() + TERMINATE_WAIT;
    while asked.is_ok() && Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Waits until a condition holds; false when the time is over or `gone` says it never will.
pub(crate) fn wait_until(
    limit: Duration,
    mut holds: impl FnMut() -> bool,
    mut gone: impl FnMut() -> bool,
) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if holds() {
            return true;
        }
        if gone() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
