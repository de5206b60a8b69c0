//! `cargo xtask tidy`: the rules of the house that no compiler checks.

mod codemap;
mod dependencies;
mod scan;
mod sizes;
mod waivers;

use crate::process::{self, program, root};
use std::path::PathBuf;

/// Runs every check and lists every finding.
pub(crate) fn run() -> Result<(), String> {
    let files = rust_files()?;
    let mut findings = dependencies::check()?;
    findings.extend(dependencies::check_words(&files)?);
    findings.extend(sizes::check(&files)?);
    findings.extend(codemap::check()?);
    if findings.is_empty() {
        println!("tidy: {} Rust files, nothing to say", files.len());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    Err(format!("{} findings of tidy", findings.len()))
}

/// Every Rust file of the project (tracked, or new and not ignored), relative to the root, sorted.
fn rust_files() -> Result<Vec<PathBuf>, String> {
    let args = [
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        "*.rs",
    ];
    let listed = process::output(&mut program("git", &args))?;
    let mut files: Vec<PathBuf> = listed
        .lines()
        .map(PathBuf::from)
        .filter(|file| root().join(file).is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Reads a file named relative to the root.
fn read(path: impl AsRef<std::path::Path>) -> Result<String, String> {
    let path = root().join(path);
    std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}
