//! Compiles a project to its module; a file for each language.

mod go;
mod python;
mod rust;
mod tool;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::{CliError, CliResult};
use crate::manifest::{Language, Project};

/// Bytes kept of what a compiler says, for when it fails.
const TRANSCRIPT_MAX: usize = 1 << 20;

/// A module that was compiled.
#[derive(Debug)]
pub(crate) struct Built {
    /// Where it is: `target/transform/NAME.wasm` of the project.
    pub(crate) module: PathBuf,
    /// Its size.
    pub(crate) bytes: u64,
    /// Time it took, seconds.
    pub(crate) seconds: f64,
}

/// Compiles a project and leaves the module where [`Project::module`] says.
///
/// # Errors
/// Where the compiler or its target is missing, or the project does not compile; what the compiler said is the message.
pub(crate) fn compile(project: &Project) -> CliResult<Built> {
    let began = Instant::now();
    let artifact = match project.manifest.language {
        Language::Rust => rust::compile(project)?,
        Language::Go => go::compile(project)?,
        Language::Python => python::compile(project)?,
    };
    let module = project.module();
    let bytes = place(&artifact, &module)?;
    Ok(Built {
        module,
        bytes,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Where a compiler leaves what [`compile`] then puts in its place.
fn unplaced(project: &Project) -> CliResult<PathBuf> {
    let folder = project.folder.join("target").join("build");
    fs::create_dir_all(&folder).map_err(CliError::file("make", &folder))?;
    Ok(folder.join(format!("{}.wasm", project.manifest.name)))
}

/// Puts the module where it belongs, whole or not at all, and alone. Gives its size, bytes.
fn place(artifact: &Path, module: &Path) -> CliResult<u64> {
    let folder = module.parent().expect("it lies in target/transform");
    fs::create_dir_all(folder).map_err(CliError::file("make", folder))?;
    for entry in fs::read_dir(folder)
        .map_err(CliError::file("read", folder))?
        .flatten()
    {
        let path = entry.path();
        if path != module
            && path
                .extension()
                .is_some_and(|extension| extension == "wasm")
        {
            fs::remove_file(&path).map_err(CliError::file("remove", &path))?;
        }
    }
    let partial = module.with_extension("wasm.part");
    let bytes = fs::copy(artifact, &partial).map_err(CliError::file("write", &partial))?;
    fs::rename(&partial, module).map_err(CliError::file("write", module))?;
    Ok(bytes)
}
