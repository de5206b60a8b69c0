//! What travels inside this binary: the SDKs and the templates.

use std::fs;
use std::path::Path;

use crate::error::{CliError, CliResult};
use crate::manifest::{Language, Project};

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

/// Files by their path.
type Files = &'static [(&'static str, &'static [u8])];

/// What there is for a language.
struct Kit {
    template: Files,
    sdk: Files,
    fingerprint: &'static str,
    /// The project's file that names its copy of the SDK, if one has to; a project that names none uses another.
    names_sdk: Option<&'static str>,
}

fn kit(language: Language) -> Kit {
    match language {
        Language::Rust => Kit {
            template: RUST_TEMPLATE,
            sdk: RUST_SDK,
            fingerprint: RUST_SDK_FINGERPRINT,
            names_sdk: Some("Cargo.toml"),
        },
        Language::Go => Kit {
            template: GO_TEMPLATE,
            sdk: GO_SDK,
            fingerprint: GO_SDK_FINGERPRINT,
            names_sdk: Some("go.mod"),
        },
        Language::Python => Kit {
            template: PYTHON_TEMPLATE,
            sdk: PYTHON_SDK,
            fingerprint: PYTHON_SDK_FINGERPRINT,
            names_sdk: None,
        },
    }
}

/// Writes the template of a language into `project`, and the SDK beside it.
///
/// # Errors
/// Where a file cannot be written.
pub(crate) fn write_project(project: &Path, language: Language, names: &Names<'_>) -> CliResult {
    for (relative, contents) in kit(language).template {
        let target = project.join(template_path(relative, names));
        let contents = match std::str::from_utf8(contents) {
            Ok(text) => names.fill(text).into_bytes(),
            Err(_) => contents.to_vec(),
        };
        write(&target, &contents)?;
    }
    if language == Language::Rust {
        stand_alone(&project.join("Cargo.toml"))?;
    }
    write_sdk(project, language)
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
pub(crate) fn refresh_sdk(project: &Project) -> CliResult<bool> {
    let (folder, language) = (&project.folder, project.manifest.language);
    if let Some(file) = kit(language).names_sdk {
        let file = folder.join(file);
        let text = fs::read_to_string(&file).map_err(CliError::file("read", &file))?;
        if !text.contains(SDK_FOLDER) {
            return Ok(false);
        }
    }
    let stamp = fs::read_to_string(folder.join(SDK_FOLDER).join(STAMP)).unwrap_or_default();
    if stamp.trim() == version_stamp(language) {
        return Ok(false);
    }
    write_sdk(folder, language)?;
    Ok(true)
}

fn write_sdk(project: &Path, language: Language) -> CliResult {
    let sdk = project.join(SDK_FOLDER);
    if sdk.exists() {
        // Files that the SDK no longer has must not be compiled with it.
        fs::remove_dir_all(&sdk).map_err(CliError::file("replace", &sdk))?;
    }
    for (relative, contents) in kit(language).sdk {
        write(&sdk.join(relative), contents)?;
    }
    // Last, so that a copy that broke off is made again.
    write(
        &sdk.join(STAMP),
        format!("{}\n", version_stamp(language)).as_bytes(),
    )
}

/// Which copy of a language's SDK this binary has.
pub(crate) fn version_stamp(language: Language) -> String {
    format!(
        "{}-{}",
        env!("CARGO_PKG_VERSION"),
        kit(language).fingerprint
    )
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
        let names = Names { project: "x" };
        for (language, own) in [
            (Language::Rust, ["Cargo.toml", "src/lib.rs", "input.jsonl"]),
            (
                Language::Go,
                ["go.mod", "transform.go", "transform_test.go"],
            ),
            (
                Language::Python,
                ["transform.py", "test_transform.py", "input.jsonl"],
            ),
        ] {
            for file in own
                .into_iter()
                .chain(["README.md", "transform.toml", ".gitignore"])
            {
                let has = |(path, _): &(&str, &[u8])| template_path(path, &names) == file;
                assert!(
                    kit(language).template.iter().any(has),
                    "{language:?}: {file}"
                );
            }
        }
        for (language, file) in [
            (Language::Go, "go/go.mod"),
            (Language::Python, "python/build.py"),
        ] {
            assert!(
                kit(language).sdk.iter().any(|(path, _)| *path == file),
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
