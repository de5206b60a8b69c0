//! Modules for tests: the project that `transform init` makes, built once per run.

use crate::cli::Cli;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

/// The module of a fresh `transform init` project: masks `email`, hands every record on, keeps its key.
///
/// # Panics
/// When the command line cannot make or build it.
pub fn mask() -> PathBuf {
    build("masked", None)
}

/// Makes a project with `transform init`, with another `src/lib.rs` if one is given, and builds it; one of a name is made once in a run.
///
/// It lies beside the brokers' folders and stays after the run, since several tests use the file.
///
/// # Panics
/// When the command line cannot make or build it.
#[must_use]
pub fn build(name: &str, source: Option<&str>) -> PathBuf {
    static BUILT: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);
    // Held while building: the same test on the other engine wants the same folder.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = built.get(name) {
        return module.clone();
    }
    let module = make(name, source);
    built.insert(name.to_owned(), module.clone());
    module
}

fn make(name: &str, source: Option<&str>) -> PathBuf {
    let folder = crate::build_folder().join("e2e").join("projects");
    let project = folder.join(name);
    let _ = std::fs::remove_dir_all(&project);
    std::fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    let cli = Cli::offline(&folder);
    cli.ok(&["init", name, "--language", "rust"]);
    if let Some(source) = source {
        std::fs::write(project.join("src/lib.rs"), source).expect("the new project can be written");
    }
    cli.within(&project).ok(&["build"]);
    built_in(&project)
}

/// The module that `transform build` left in a project.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn built_in(project: &std::path::Path) -> PathBuf {
    let folder = project.join("target/transform");
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("no module in {}: {error}", folder.display()));
    let mut modules = entries.flatten().map(|entry| entry.path());
    modules
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
        .unwrap_or_else(|| panic!("no module in {}", folder.display()))
}
