//! `transform.toml`: what a project is and how it is deployed.

mod check;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidemill_model::variable;

use crate::error::{CliError, CliResult};

/// The file's name.
pub(crate) const FILE: &str = "transform.toml";

/// Languages a transform may be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Language {
    /// Rust.
    Rust,
    /// Go, as the standard compiler has it.
    Go,
    /// Python.
    Python,
}

/// Every language, by its name.
pub(crate) const LANGUAGES: [(&str, Language); 3] = [
    ("rust", Language::Rust),
    ("go", Language::Go),
    ("python", Language::Python),
];

impl Language {
    /// From what was typed.
    ///
    /// # Errors
    /// Where there is no such language.
    pub(crate) fn parse(text: &str) -> Result<Language, String> {
        let found = LANGUAGES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, language)| *language)
            .ok_or_else(|| "transforms are written in rust, go or python".to_owned())
    }

    /// The file of a new project that has the function.
    pub(crate) fn source(self) -> &'static str {
        match self {
            Language::Rust => "src/lib.rs",
            Language::Go => "transform.go",
            Language::Python => "transform.py",
        }
    }
}

/// Names of secrets. Anything is read, and refused afterwards: a message of the reader would show the line, with the value that somebody put
/// there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretNames(Option<Vec<String>>);

impl Default for SecretNames {
    fn default() -> SecretNames {
        SecretNames(Some(Vec::new()))
    }
}

impl SecretNames {
    /// The names.
    pub(crate) fn names(&self) -> &[String] {
        self.0.as_deref().unwrap_or_default()
    }

    fn check(&self) -> Result<(), String> {
        let Some(names) = &self.0 else {
            return Err(
                "`secrets` is a list of names, as [\"API_KEY\"]; values are given with: transform deploy --secret API_KEY=@FILE"
                    .to_owned(),
            );
        };
        let checked = names.iter().try_for_each(|name| variable::check(name));
        checked.map_err(|error| error.to_string())
    }
}

impl<'de> Deserialize<'de> for SecretNames {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SecretNames, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        let names = value
            .as_array()
            .map(|all| all.iter().map(|name| name.as_str().map(str::to_owned)));
        Ok(SecretNames(names.and_then(Iterator::collect)))
    }
}

/// A project as its file says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// The transform's name.
    pub(crate) name: String,
    /// What it is written in.
    pub(crate) language: Language,
    /// The Python module that has the function.
    #[serde(default)]
    pub(crate) module: Option<String>,
    /// The topic it reads.
    #[serde(default)]
    pub(crate) input: Option<String>,
    /// The topic it writes, where there is one.
    #[serde(default)]
    output: Option<String>,
    /// The topics it writes.
    #[serde(default)]
    outputs: Vec<String>,
    /// Its environment variables.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// Limits of a call.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// What happens to a record it cannot handle.
    #[serde(default)]
    pub(crate) on_error: Option<OnError>,
    /// The topic for such records.
    #[serde(default)]
    pub(crate) dead_letter: Option<String>,
    /// Runs of a record before `on_error` applies.
    #[serde(default)]
    pub(crate) attempts: Option<u32>,
    /// Names of the secrets it cannot do without; their values are given at deployment.
    #[serde(default)]
    pub(crate) secrets: SecretNames,
    /// How its output is compressed.
    #[serde(default)]
    compression: Option<Compression>,
    /// Its share of the processor, 1 to 100.
    #[serde(default)]
    weight: Option<u32>,
    /// Where records go whose partition it does not choose.
    #[serde(default)]
    partition_by: Option<PartitionBy>,
}

/// How a transform's output is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    /// Not at all
    None,
    /// As gzip
    Gzip,
    /// As Snappy
    Snappy,
    /// As LZ4
    Lz4,
    /// As Zstandard
    Zstd,
}

/// Where records go whose partition a transform does not choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PartitionBy {
    /// Where the record came from: partition i of the input writes to partition i of the output
    Input,
    /// Where Kafka's clients would put the record's key
    Key,
}

/// What becomes of a transform's work and output.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Placing {
    /// How its output is compressed.
    pub(crate) compression: Option<Compression>,
    /// Its share of the processor.
    pub(crate) weight: Option<u32>,
    /// Where records go whose partition it does not choose.
    pub(crate) partition_by: Option<PartitionBy>,
}

/// Limits of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// CPU time, milliseconds.
    #[serde(default)]
    pub(crate) time_ms: Option<u64>,
    /// Memory, MiB.
    #[serde(default)]
    pub(crate) memory_mb: Option<u64>,
}

/// What happens to a record that a transform cannot handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnError {
    /// Stop there and try again, with back-off
    Fail,
    /// Leave it out and count it
    Skip,
    /// Write it to the dead-letter topic
    DeadLetter,
    /// Write it to the first output as it came
    PassThrough,
}

impl OnError {
    /// The API's word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            OnError::Fail => "fail",
            OnError::Skip => "skip",
            OnError::DeadLetter => "dead-letter",
            OnError::PassThrough => "pass-through",
        }
    }
}

impl Manifest {
    /// The topics it writes, `output` or `outputs`.
    pub(crate) fn outputs(&self) -> Vec<String> {
        self.output.iter().chain(&self.outputs).cloned().collect()
    }

    /// What becomes of its work and output.
    pub(crate) fn placing(&self) -> Placing {
        Placing {
            compression: self.compression,
            weight: self.weight,
            partition_by: self.partition_by,
        }
    }
}

/// A project on disk.
#[derive(Debug)]
pub(crate) struct Project {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// What its file says.
    pub(crate) manifest: Manifest,
}

impl Project {
    /// The project of a folder or of one above it.
    ///
    /// # Errors
    /// Where there is none, or its file cannot be read.
    pub(crate) fn find(from: &Path) -> CliResult<Project> {
        let from = from.canonicalize().map_err(CliError::file("open", from))?;
        for folder in from.ancestors() {
            let file = folder.join(FILE);
            if file.is_file() {
                let text = fs::read_to_string(&file).map_err(CliError::file("read", &file))?;
                let manifest = parse(&text).map_err(|error| {
                    let several = if error.contains('\n') { "\n" } else { " " };
                    CliError::said(format!("{}:{several}{error}", file.display()))
                })?;
                return Ok(Project {
                    folder: folder.to_owned(),
                    manifest,
                });
            }
        }
        Err(CliError::said(format!(
            "there is no {FILE} here nor in a folder above; go into a project, name one with --dir, \
             or make one with `transform init NAME --language rust|go|python`"
        )))
    }

    /// Where `build` leaves the module.
    pub(crate) fn module(&self) -> PathBuf {
        self.folder
            .join("target")
            .join("transform")
            .join(format!("{}.wasm", self.manifest.name))
    }
}

fn parse(text: &str) -> Result<Manifest, String> {
    check::check(text)?;
    let manifest: Manifest = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    check_name(&manifest.name)?;
    manifest.secrets.check()?;
    if manifest.module.is_some() && manifest.language != Language::Python {
        return Err(
            "`module` is for Python projects: it names the module with the function".to_owned(),
        );
    }
    if manifest.output.is_some() && !manifest.outputs.is_empty() {
        return Err("give `output` or `outputs`, not both".to_owned());
    }
    if manifest.on_error == Some(OnError::DeadLetter) && manifest.dead_letter.is_none() {
        return Err(
            "`on_error = \"dead-letter\"` needs a topic: `dead_letter = \"NAME\"`".to_owned(),
        );
    }
    Ok(manifest)
}

/// Checks a transform's name.
///
/// # Errors
/// The rule, where it is broken.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name for a transform: 1 to 128 letters, digits, `-`, `_` and `.`, the first a letter or digit"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_manifest_is_understood() {
        let manifest = parse(
            "name = \"m\"\nlanguage = \"rust\"\ninput = \"a\"\noutputs = [\"b\", \"c\"]\non_error = \"dead-letter\"\n\
             dead_letter = \"d\"\nattempts = 3\ncompression = \"zstd\"\nweight = 7\npartition_by = \"key\"\n[env]\nK = \"V\"\n[limits]\ntime_ms = 5\nmemory_mb = 8\n",
        )
        .expect("it is whole");
        assert_eq!(manifest.outputs(), ["b", "c"]);
        assert_eq!(
            manifest.limits,
            Limits {
                time_ms: Some(5),
                memory_mb: Some(8)
            }
        );
        assert_eq!(manifest.on_error, Some(OnError::DeadLetter));
        assert_eq!(manifest.env["K"], "V");
        let placing = manifest.placing();
        assert_eq!(placing.compression, Some(Compression::Zstd));
        assert_eq!(placing.partition_by, Some(PartitionBy::Key));
        assert_eq!(placing.weight, Some(7));
        let one = parse("name = \"m\"\nlanguage = \"rust\"\noutput = \"b\"\n").expect("one output");
        assert_eq!(one.outputs(), ["b"]);
    }

    #[test]
    fn unknown_key_is_refused_with_its_line() {
        for (text, line, key) in [
            (
                "name = \"m\"\nlanguage = \"rust\"\noutptu = \"b\"\n",
                "line 3",
                "outptu",
            ),
            (
                "name = \"m\"\nlanguage = \"rust\"\n[limits]\nmemory = 1\n",
                "line 4",
                "memory",
            ),
        ] {
            let error = parse(text).expect_err("the key is unknown");
            assert!(error.contains(line) && error.contains(key), "{error}");
        }
    }

    #[test]
    fn contradictions_and_bad_names_are_refused() {
        for text in [
            "name = \"m\"\nlanguage = \"rust\"\noutput = \"b\"\noutputs = [\"c\"]\n",
            "name = \"m\"\nlanguage = \"rust\"\non_error = \"dead-letter\"\n",
            "name = \"a/b\"\nlanguage = \"rust\"\n",
            "name = \"m\"\nlanguage = \"cobol\"\n",
            "name = \"m\"\nlanguage = \"go\"\nmodule = \"x\"\n",
            "language = \"rust\"\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
