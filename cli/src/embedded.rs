//! What travels inside this binary: the SDK and the templates.

use std::fs;
use std::path::Path;

use crate::error::{CliError, CliResult};

include!(concat!(env!("OUT_DIR"), "/packed.rs"));

/// Where a project keeps its copy of the SDK.
pub(crate) const SDK_FOLDER: &str = ".tidemill/sdk";
/// In that folder: which copy it is.
const STAMP: &str = "VERSION";

/// Names that a template may use, and what they become.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    /// The project's name: `{{name}}`; with underscores: `{{crate_name}}`.
    pub(crate) project: &'a str,
}

impl Names<'_> {
    fn fill(&self, text: &str) -> String {
        text.replace("{{name}}", self.project)
            .replace("{{crate_name}}", &self.project.replace('-', "_"))
    }
}

/// Writes the Rust template into `project`, and the SDK beside it.
///
/// # Errors
/// Where a file cannot be written.
pub(crate) fn write_rust_project(project: &Path, names: &Names<'_>) -> CliResult {
    for (relative, contents) in RUST_TEMPLATE {
        let target = project.join(template_path(relative, names));
        let contents = match std::str::from_utf8(contents) {
            Ok(text) => names.fill(text).into_bytes(),
            Err(_) => contents.to_vec(),
        };
        write(&target, &contents)?;
    }
    stand_alone(&project.join("Cargo.toml"))?;
    write_sdk(project)
}

/// A template's file may carry the suffix `.tmpl`, so that no tool takes it for what it is not yet.
fn template_path(relative: &str, names: &Names<'_>) -> String {
    let relative = relative.strip_suffix(".tmpl").unwrap_or(relative);
    let relative = if relative == "gitignore" {
        ".gitignore"
    } else {
        relative
    };
    names.fill(relative)
}

/// Makes the package the root of a workspace of its own: cargo would otherwise look for one in the folders above.
fn stand_alone(manifest: &Path) -> CliResult {
    let text = fs::read_to_string(manifest).map_err(CliError::file("read", manifest))?;
    if text.lines().any(|line| line.trim() == "[workspace]") {
        return Ok(());
    }
    write(
        manifest,
        format!("{}\n\n[workspace]\n", text.trim_end()).as_bytes(),
    )
}

/// Brings the project's copy of the SDK up to this binary's, if the project uses one. Says whether anything changed.
///
/// # Errors
/// Where a file cannot be read or written.
pub(crate) fn refresh_sdk(project: &Path) -> CliResult<bool> {
    let manifest = project.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(CliError::file("read", &manifest))?;
    let stamp = fs::read_to_string(project.join(SDK_FOLDER).join(STAMP)).unwrap_or_default();
    if !text.contains(SDK_FOLDER) || stamp.trim() == version_stamp() {
        return Ok(false);
    }
    write_sdk(project)?;
    Ok(true)
}

fn write_sdk(project: &Path) -> CliResult {
    let sdk = project.join(SDK_FOLDER);
    if sdk.exists() {
        // Files that the SDK no longer has must not be compiled with it.
        fs::remove_dir_all(&sdk).map_err(CliError::file("replace", &sdk))?;
    }
    for (relative, contents) in RUST_SDK {
        write(&sdk.join(relative), contents)?;
    }
    // Last, so that a copy that broke off is made again.
    write(
        &sdk.join(STAMP),
        format!("{}\n", version_stamp()).as_bytes(),
    )
}

fn version_stamp() -> String {
    format!("{}-{RUST_SDK_FINGERPRINT}", env!("CARGO_PKG_VERSION"))
}

fn write(path: &Path, contents: &[u8]) -> CliResult {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(CliError::file("make", folder))?;
    }
    fs::write(path, contents).map_err(CliError::file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdk_and_template_are_inside() {
        for file in [
            "rust/Cargo.toml",
            "rust/src/lib.rs",
            "rust-macros/Cargo.toml",
            "rust-macros/src/lib.rs",
        ] {
            assert!(RUST_SDK.iter().any(|(path, _)| *path == file), "{file}");
        }
        for file in ["Cargo.toml", "src/lib.rs", "transform.toml"] {
            let names = Names { project: "x" };
            assert!(
                RUST_TEMPLATE
                    .iter()
                    .any(|(path, _)| template_path(path, &names) == file),
                "{file}"
            );
        }
    }

    #[test]
    fn template_names_are_filled_in() {
        let names = Names {
            project: "mask-email",
        };
        assert_eq!(
            names.fill("{{name}} {{crate_name}} {{other}}"),
            "mask-email mask_email {{other}}"
        );
        assert_eq!(template_path("gitignore.tmpl", &names), ".gitignore");
        assert_eq!(
            template_path("src/{{crate_name}}.rs", &names),
            "src/mask_email.rs"
        );
    }
}
