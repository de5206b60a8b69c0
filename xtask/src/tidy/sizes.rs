//! Module docs, lengths of functions, lengths of files.

use super::waivers::Waivers;
use super::{read, scan};
use std::path::PathBuf;

/// Lines a function's body may have.
const FUNCTION_LINES: usize = 70;
/// Lines a file may have.
const FILE_LINES: usize = 1_000;

/// Files that a program made: their functions are as long as it makes them, and nobody edits them. Each says how to make it anew.
const MADE: [&str; 1] = ["transform-sdk/rust/src/guest/bindings.rs"];

/// Findings in every Rust file, less what is waived, plus waivers that nothing needs.
pub(super) fn check(files: &[PathBuf]) -> Result<Vec<String>, String> {
    let mut waivers = Waivers::load()?;
    let mut findings = Vec::new();
    for file in files {
        let path = file.to_string_lossy();
        let source = read(file)?;
        if !begins_with_doc(&source) {
            findings.push(format!(
                "{path}: a module begins with `//!` that says what it is for"
            ));
        }
        let lines = source.lines().count();
        if lines > FILE_LINES && !waivers.allows(&path) {
            findings.push(format!(
                "{path}: {lines} lines, {FILE_LINES} are allowed; split it"
            ));
        }
        if MADE.contains(&path.as_ref()) {
            continue;
        }
        for function in scan::functions(&source) {
            if function.body_lines > FUNCTION_LINES
                && !waivers.allows(&format!("{path}::{}", function.name))
            {
                findings.push(format!(
                    "{path}:{}: `{}` has {} lines, {FUNCTION_LINES} are allowed; split it",
                    function.line, function.name, function.body_lines
                ));
            }
        }
    }
    findings.extend(waivers.findings());
    Ok(findings)
}

/// The first thing in the file, but for blank lines and a leading licence comment, is an inner doc comment.
fn begins_with_doc(source: &str) -> bool {
    source
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && (line.starts_with("//!") || !line.starts_with("//")))
        .is_some_and(|line| line.starts_with("//!"))
}
