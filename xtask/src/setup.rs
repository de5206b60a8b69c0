//! What a fresh machine lacks: a compiler target, Debian packages, a Python environment.

use crate::process::{self, exists, program, root, target_dir};
use std::path::{Path, PathBuf};

/// The target that transforms are compiled to.
const WASM_TARGET: &str = "wasm32-wasip2";

/// Programs the tests call, each with the Debian package that brings it.
const PROGRAMS: [(&str, &str); 8] = [
    ("go", "golang-go"),
    ("javac", "default-jdk-headless"),
    ("mvn", "maven"),
    ("kcat", "kcat"),
    ("make", "make"),
    ("cc", "gcc"),
    ("c++", "g++"),
    ("python3", "python3"),
];

/// Installs the compiler target for transforms where it is missing.
pub(crate) fn wasm_target() -> Result<(), String> {
    let sysroot = process::output(&mut program("rustc", &["--print", "sysroot"]))?;
    let folder = Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(WASM_TARGET);
    if folder.is_dir() {
        return Ok(());
    }
    println!("installing the compiler target {WASM_TARGET}");
    let hint = format!(
        "the Rust target {WASM_TARGET} is missing: run `rustup target add {WASM_TARGET}` in {}, \
         or install the target with whatever brought your Rust toolchain",
        root().display()
    );
    if !exists("rustup") {
        return Err(hint);
    }
    process::run(&mut program("rustup", &["target", "add", WASM_TARGET]))
        .map_err(|error| format!("{hint}\n{error}"))
}

/// Installs the Debian packages that the tests need and the machine lacks.
///
/// Needs root and `apt-get`; anywhere else it says which packages to install.
pub(crate) fn packages() -> Result<(), String> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(name, _)| !exists(name))
        .map(|(_, package)| *package)
        .collect();
    if !missing.contains(&"python3")
        && process::output(&mut program("python3", &["-c", "import venv, ensurepip"])).is_err()
    {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    println!("installing {list}");
    let hint = format!(
        "the tests need packages that are missing; install them with `sudo apt-get install {list}`"
    );
    let is_root = process::output(&mut program("id", &["-u"])).is_ok_and(|id| id.trim() == "0");
    if !exists("apt-get") || !is_root {
        return Err(hint);
    }
    let mut update = program("apt-get", &["update", "-qq"]);
    let mut install = program(
        "apt-get",
        &["install", "-y", "-qq", "--no-install-recommends"],
    );
    install
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive");
    process::output(&mut update)
        .and_then(|_| process::output(&mut install))
        .map(|_| ())
        .map_err(|error| format!("{hint}\n{error}"))
}

/// Makes `target/venv` with the Python clients of `tests/requirements.txt`; returns its interpreter.
pub(crate) fn python() -> Result<PathBuf, String> {
    let venv = target_dir().join("venv");
    let python = venv.join("bin/python");
    let requirements = root().join("tests/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)
        .map_err(|error| format!("cannot read {}: {error}", requirements.display()))?;
    let stamp = venv.join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    println!(
        "making a Python environment with real clients in {}",
        venv.display()
    );
    let folder = venv.to_string_lossy().into_owned();
    process::output(&mut program("python3", &["-m", "venv", "--clear", &folder]))?;
    let mut install = program(&python, &["-m", "pip", "install", "--quiet", "-r"]);
    install.arg(&requirements);
    process::output(&mut install).map_err(|error| {
        format!("the Python clients of tests/requirements.txt cannot be installed; is the package index reachable?\n{error}")
    })?;
    std::fs::write(&stamp, wanted)
        .map_err(|error| format!("cannot write {}: {error}", stamp.display()))?;
    Ok(python)
}

/// Refuses early, and clearly, where nothing can be built.
pub(crate) fn writable_target() -> Result<(), String> {
    let dir = target_dir();
    let probe = dir.join(".writable");
    std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&probe, b""))
        .and_then(|()| std::fs::remove_file(&probe))
        .map_err(|error| {
            format!(
                "cannot write to {}: {error}; build output goes there, so clone into a folder you may \
                 write to, or set CARGO_TARGET_DIR to one",
                dir.display()
            )
        })
}
