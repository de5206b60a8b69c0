//! Python, made a component by componentize-py: `build.py` of the SDK does it, in a virtual environment inside the project.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tool;
use crate::embedded::{self, SDK_FOLDER};
use crate::error::{CliError, CliResult};
use crate::fnv::Fnv;
use crate::manifest::Project;
use crate::progress::Progress;

/// The SDK's own program, in the project's copy of the SDK.
const BUILD: &str = "python/build.py";
/// The module that has the transform, where transform.toml names none.
const MODULE: &str = "transform";
/// Folders of a project that are no part of what is built.
const LEFT_OUT: [&str; 6] = [
    ".git",
    ".tidemill",
    ".venv",
    "__pycache__",
    "target",
    "venv",
];
/// A project with more than so many bytes or files is built every time: looking for changes would cost as much.
const LOOKED_AT_BYTES_MAX: u64 = 64 << 20;
const LOOKED_AT_FILES_MAX: usize = 4_096;

#[cfg(windows)]
const PYTHON: &str = "python";
#[cfg(not(windows))]
const PYTHON: &str = "python3";

/// Makes a component of the project; gives the file that is the module.
///
/// # Errors
/// Where Python, pip or the network is missing, or the project cannot be imported.
pub(super) fn compile(project: &Project) -> CliResult<PathBuf> {
    embedded::refresh_sdk(project)?;
    let artifact = super::unplaced(project)?;
    let stamp = artifact.with_extension("stamp");
    let state = state_of(project);
    let unchanged = state.is_some() && fs::read_to_string(&stamp).ok() == state;
    if unchanged && artifact.is_file() {
        return Ok(artifact);
    }
    let _ = fs::remove_file(&stamp);
    let progress = Progress::start(format!("building {}", project.manifest.name));
    let module = project.manifest.module.as_deref().unwrap_or(MODULE);
    let mut command = Command::new(PYTHON);
    command
        .arg(project.folder.join(SDK_FOLDER).join(BUILD))
        .arg("--project")
        .arg(&project.folder)
        .args(["--module", module, "--output"])
        .arg(&artifact)
        .current_dir(&project.folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // Meant for other programs: they would decide what is imported.
        .env_remove("PYTHONPATH")
        .env_remove("PYTHONHOME")
        .env_remove("PYTHONSTARTUP");
    let missing = "Python is not there: no `python3` in PATH; install Python 3.10 or newer, with venv and pip \
         (Debian and Ubuntu: apt install python3 python3-venv)";
    let ran = tool::run(&mut command, &progress, is_step, missing)?;
    drop(progress);
    if !ran.ok {
        let said = ran.said.trim();
        let said = said.strip_prefix("error: ").unwrap_or(said);
        return Err(CliError::said(format!("{said}\nthe module was not built")));
    }
    if !ran.said.trim().is_empty() {
        tell!("{}", ran.said.trim_end());
    }
    if let Some(state) = state {
        fs::write(&stamp, state).map_err(CliError::file("write", &stamp))?;
    }
    Ok(artifact)
}

/// What `build.py` says before something that takes a while.
fn is_step(line: &str) -> bool {
    ["making ", "installing "]
        .iter()
        .any(|word| line.starts_with(word))
}

/// A fingerprint of everything that the module is made of; `None` where there is too much to look at.
fn state_of(project: &Project) -> Option<String> {
    let mut files = Vec::new();
    list(&project.folder, &mut files)?;
    files.sort();
    let mut print = Fnv::new();
    print.add(embedded::version_stamp(project.manifest.language).as_bytes());
    print.add(
        project
            .manifest
            .module
            .as_deref()
            .unwrap_or(MODULE)
            .as_bytes(),
    );
    let mut left = LOOKED_AT_BYTES_MAX;
    for file in files {
        left = left.checked_sub(fs::metadata(&file).ok()?.len())?;
        print.add(file.to_string_lossy().as_bytes());
        print.add(&fs::read(&file).ok()?);
    }
    Some(print.text())
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Option<()> {
    for entry in fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        match entry.file_type().ok()? {
            kind if kind.is_dir() => list(&entry.path(), files)?,
            _ if files.len() >= LOOKED_AT_FILES_MAX => return None,
            _ => files.push(entry.path()),
        }
    }
    Some(())
}
