//! Running a compiler: what it says goes to the display while it works, and is kept for when it fails.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;

use super::TRANSCRIPT_MAX;
use crate::error::{CliError, CliResult};
use crate::progress::Progress;

/// What a tool did.
pub(super) struct Ran {
    /// Whether its status was 0.
    pub(super) ok: bool,
    /// What it said, standard error behind standard output.
    pub(super) said: String,
}

/// Runs `command` to its end. Lines of its standard error that `is_step` knows are shown while it works, and left out of what it
/// said.
///
/// # Errors
/// `missing`, where there is no such program; what the system says, where it cannot be run.
pub(super) fn run(
    command: &mut Command,
    progress: &Progress,
    is_step: fn(&str) -> bool,
    missing: &str,
) -> CliResult<Ran> {
    let name = command.get_program().to_string_lossy().into_owned();
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CliError::said(missing),
        _ => CliError::said(format!("{name} cannot be started: {error}")),
    })?;
    let stdout = child.stdout.take().expect("it is piped");
    let stderr = child.stderr.take().expect("it is piped");
    let (out, err) = thread::scope(|scope| {
        let out = scope.spawn(|| kept(stdout, |_| false));
        let err = kept(stderr, |line| {
            let step = is_step(line);
            if step {
                progress.set(line.trim());
            }
            step
        });
        (out.join().unwrap_or_default(), err)
    });
    let status = child
        .wait()
        .map_err(|error| CliError::said(format!("{name} was lost: {error}")))?;
    Ok(Ran {
        ok: status.success(),
        said: out + &err,
    })
}

/// Reads lines to their end, and keeps those that are not for the display.
fn kept(from: impl Read, mut shown: impl FnMut(&str) -> bool) -> String {
    let mut text = String::new();
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while lines
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let one = String::from_utf8_lossy(&line);
        if !shown(&one) && text.len() < TRANSCRIPT_MAX {
            text.push_str(&one);
        }
        line.clear();
    }
    text
}
