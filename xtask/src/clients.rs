//! Clients of other ecosystems that the end-to-end tests run: Java's from Maven Central, franz-go. Both stay under
//! `target/clients`.

use crate::process::{self, program, root, target_dir};
use std::path::{Path, PathBuf};

/// The goal that copies the jars; pinned like everything else that is downloaded.
const COPY_JARS: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// Copies the jars of `tests/clients/java/pom.xml` to `target/clients/java/libs` and compiles the programs beside it.
pub(crate) fn java() -> Result<(), String> {
    let source = root().join("tests/clients/java");
    let folder = target_dir().join("clients/java");
    let (libs, classes) = (folder.join("libs"), folder.join("classes"));
    let pom = read(&source.join("pom.xml"))?;
    done_for(&folder.join("libs.made-for"), &pom, || {
        println!("copying Java clients to {}", libs.display());
        fresh(&libs)?;
        let output = format!("-DoutputDirectory={}", libs.display());
        let mut copy = program("mvn", &["-q", "-B", COPY_JARS, "-DincludeScope=runtime"]);
        process::output(copy.arg(output).current_dir(&source)).map_err(|error| {
            format!("the jars of tests/clients/java/pom.xml cannot be copied; is Maven Central reachable?\n{error}")
        })
    })?;
    let sources = files(&source, "java")?;
    let texts: Result<Vec<String>, String> = sources.iter().map(|path| read(path)).collect();
    done_for(
        &folder.join("classes.made-for"),
        &(pom + &texts?.concat()),
        || {
            fresh(&classes)?;
            let jars = format!("{}/*", libs.display());
            let mut compile = program("javac", &["-nowarn", "-cp", &jars, "-d"]);
            process::output(compile.arg(&classes).args(&sources))
        },
    )
}

/// Builds `tests/clients/go` to `target/clients/go/clients`. Go itself knows what is up to date.
pub(crate) fn go() -> Result<(), String> {
    let binary = target_dir().join("clients/go/clients");
    let mut build = program("go", &["build", "-trimpath", "-o"]);
    build.arg(&binary).arg(".");
    build.current_dir(root().join("tests/clients/go"));
    process::output(&mut build).map(drop).map_err(|error| {
        format!("tests/clients/go cannot be built; is the Go module proxy reachable?\n{error}")
    })
}

/// Does `work` unless `stamp` says that it was done for `wanted`.
fn done_for(
    stamp: &Path,
    wanted: &str,
    work: impl FnOnce() -> Result<String, String>,
) -> Result<(), String> {
    if std::fs::read_to_string(stamp).is_ok_and(|made_for| made_for == wanted) {
        return Ok(());
    }
    work()?;
    std::fs::write(stamp, wanted)
        .map_err(|error| format!("cannot write {}: {error}", stamp.display()))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// An empty folder.
fn fresh(folder: &Path) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    Ok(files)
}
