//! Packs the SDKs and the project templates into the binary, so that `transform init` needs nothing else.
//!
//! Compiles the ready-made transforms of `builtins/`, too, and packs their modules.
//!
//! Writes `packed.rs` to the build directory: for each folder a list of relative paths and contents, and a
//! fingerprint of the SDK by which a project's copy is known to be out of date.

#[path = "src/fnv.rs"]
mod fnv;
#[path = "src/wasm_target.rs"]
mod wasm_target;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use fnv::Fnv;
use wasm_target::{TARGET, TARGET_CONFIG};

/// Name of the constant; folders and files relative to this package, each with the path inside a project that it has or its files begin with.
/// A template is the example in its language, with what makes a project of it.
const FOLDERS: [(&str, &[(&str, &str)]); 6] = [
    (
        "RUST_SDK",
        &[
            ("../transform-sdk/rust", "rust/"),
            ("../transform-sdk/rust-macros", "rust-macros/"),
        ],
    ),
    (
        "RUST_TEMPLATE",
        &[
            ("templates/rust", ""),
            ("../examples/mask-rust/src", "src/"),
            (EXAMPLES, "input.jsonl"),
        ],
    ),
    ("GO_SDK", &[("../transform-sdk/go", "go/")]),
    (
        "GO_TEMPLATE",
        &[
            ("templates/go", ""),
            ("../examples/mask-go/transform.go", "transform.go"),
            ("../examples/mask-go/transform_test.go", "transform_test.go"),
            (EXAMPLES, "input.jsonl"),
        ],
    ),
    ("PYTHON_SDK", &[("../transform-sdk/python", "python/")]),
    (
        "PYTHON_TEMPLATE",
        &[
            ("templates/python", ""),
            ("../examples/mask-python/transform.py", "transform.py"),
            (EXAMPLES, "input.jsonl"),
        ],
    ),
];

/// The records that every template has to try.
const EXAMPLES: &str = "../examples/mask-rust/input.jsonl";

/// The ready-made transforms: packages of the workspace `builtins/`.
const BUILTINS: [&str; 5] = ["mask", "validate", "filter", "route", "avro"];
/// Those that hide things. They get the section by which a broker refuses them with `on_error` pass-through (`wit/core-module.md`).
const HIDING: [&str; 1] = ["mask"];
/// That section: a custom one, its length, its name with its length, and nothing in it.
const NO_PASS_THROUGH: &[u8] = b"\0\x19\x18tidemill:no-pass-through";
/// Folders that are made by builds and tests, or are of no use to a project: never packed.
const LEFT_OUT: [&str; 5] = ["target", ".tidemill", "__pycache__", "tests", "conformance"];

fn main() -> io::Result<()> {
    let package =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where output goes"));
    let mut code = String::new();
    for (name, folders) in FOLDERS {
        let mut files = Vec::new();
        for (folder, prefix) in folders {
            let root = package.join(folder);
            println!("cargo::rerun-if-changed={}", root.display());
            match root.is_file() {
                true => files.push(((*prefix).to_owned(), root)),
                false => collect(&root, &root, prefix, &mut files)?,
            }
        }
        files.sort();
        pack(&mut code, name, &files)?;
    }
    fs::write(out.join("packed.rs"), code)?;
    fs::write(out.join("builtins.rs"), builtins(&package, &out)?)
}

/// Compiles the ready-made transforms; gives the constants that hold them.
fn builtins(package: &Path, out: &Path) -> io::Result<String> {
    let workspace = package.join("../builtins");
    println!("cargo::rerun-if-changed={}", workspace.display());
    // One folder for all profiles: what is compiled is the same. OUT_DIR is TARGET/PROFILE/build/PACKAGE/out.
    let shared = out.ancestors().nth(4).unwrap_or(out).join("builtins");
    let status = cargo(&workspace, &shared).status()?;
    if !status.success() {
        return Err(io::Error::other(format!(
            "the ready-made transforms of builtins/ cannot be compiled ({status}); what cargo said is above. Without the target: rustup target add {TARGET}"
        )));
    }
    let mut code = String::new();
    for name in BUILTINS {
        let module = shared.join(format!("{TARGET}/release/{name}.wasm"));
        // A copy of this build's: another may compile into the same folder meanwhile.
        let kept = out.join(format!("{name}.wasm"));
        let mut wasm = fs::read(&module)?;
        if HIDING.contains(&name) {
            wasm.extend_from_slice(NO_PASS_THROUGH);
        }
        fs::write(&kept, wasm)?;
        let constant = name.to_uppercase();
        writeln!(
            code,
            "const {constant}_WASM: &[u8] = include_bytes!({kept:?});"
        )
        .expect("a string takes what is written");
    }
    Ok(code)
}

fn cargo(workspace: &Path, target: &Path) -> Command {
    let program = env::var_os("CARGO").expect("cargo says where it is");
    let mut command = Command::new(program);
    command
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--lib",
            "--target",
            TARGET,
        ])
        .args(["--config", TARGET_CONFIG, "--target-dir"])
        .arg(target)
        .current_dir(workspace);
    // What is meant for the build around this one.
    for variable in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CLIPPY_ARGS",
        "RUSTDOC",
    ] {
        command.env_remove(variable);
    }
    command
}

fn collect(
    root: &Path,
    folder: &Path,
    prefix: &str,
    files: &mut Vec<(String, PathBuf)>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !LEFT_OUT
                .iter()
                .any(|left_out| entry.file_name() == *left_out)
            {
                collect(root, &path, prefix, files)?;
            }
            continue;
        }
        let relative = path
            .strip_prefix(root)
            .expect("it was found below the root");
        let relative = relative
            .to_str()
            .expect("our files have plain names")
            .replace('\\', "/");
        files.push((format!("{prefix}{relative}"), path));
    }
    Ok(())
}

fn pack(code: &mut String, name: &str, files: &[(String, PathBuf)]) -> io::Result<()> {
    let mut fingerprint = Fnv::new();
    writeln!(code, "pub(crate) const {name}: &[(&str, &[u8])] = &[")
        .expect("a string takes what is written");
    for (relative, path) in files {
        fingerprint.add(relative.as_bytes());
        fingerprint.add(&fs::read(path)?);
        writeln!(code, "    ({relative:?}, include_bytes!({path:?})),")
            .expect("a string takes what is written");
    }
    writeln!(
        code,
        "];\n#[allow(dead_code, reason = \"only the SDKs' are compared\")]\npub(crate) const {name}_FINGERPRINT: &str = \"{}\";",
        fingerprint.text()
    )
    .expect("a string takes what is written");
    Ok(())
}
