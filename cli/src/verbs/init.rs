//! `transform init`: a new project that builds and passes its own test anywhere.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::Context;
use crate::embedded::{self, Names};
use crate::error::{CliError, CliResult};
use crate::manifest::Language;

/// Names that cargo, the compiler or the SDK need for something else.
const TAKEN: [&str; 16] = [
    "alloc",
    "build",
    "core",
    "deps",
    "example",
    "examples",
    "incremental",
    "proc-macro",
    "proc_macro",
    "self",
    "serde",
    "serde_json",
    "std",
    "test",
    "tidemill-sdk",
    "tidemill_sdk",
];

/// Rust's words (The Rust Reference, "Keywords", edition 2024).
const KEYWORDS: [&str; 51] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "static", "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe",
    "unsized", "use", "virtual", "where", "while", "yield", "union",
];

/// What Go takes a module of this name for: packages of the standard library, and words of its own (`go help packages`).
const GO_TAKEN: [&str; 60] = [
    "archive",
    "bufio",
    "builtin",
    "bytes",
    "c",
    "cmd",
    "cmp",
    "compress",
    "container",
    "context",
    "crypto",
    "database",
    "debug",
    "embed",
    "encoding",
    "errors",
    "example",
    "expvar",
    "flag",
    "fmt",
    "go",
    "hash",
    "html",
    "image",
    "index",
    "internal",
    "io",
    "iter",
    "log",
    "main",
    "maps",
    "math",
    "mime",
    "net",
    "os",
    "path",
    "plugin",
    "reflect",
    "regexp",
    "runtime",
    "slices",
    "sort",
    "std",
    "strconv",
    "strings",
    "structs",
    "sync",
    "syscall",
    "test",
    "testing",
    "text",
    "time",
    "tool",
    "unicode",
    "unique",
    "unsafe",
    "vendor",
    "weak",
    "work",
    "tidemill",
];

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The transform's name: a-z, 0-9, `-` and `_`, beginning with a letter
    #[arg(value_parser = project_name)]
    name: String,
    /// The language to write it in: rust, go or python; on a terminal it is asked for
    #[arg(long, value_parser = Language::parse)]
    language: Option<Language>,
    /// The folder to make [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A name that is good for a transform and a project, whatever it is written in.
fn project_name(name: &str) -> Result<String, String> {
    let fits = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'));
    if !fits {
        return Err("use up to 64 of a-z, 0-9, `-` and `_`, beginning with a letter".to_owned());
    }
    Ok(name.to_owned())
}

/// Refuses names that a language needs for something else.
fn check_name(name: &str, language: Language) -> Result<(), String> {
    let taken = match language {
        Language::Rust => TAKEN.contains(&name) || KEYWORDS.contains(&name),
        Language::Go => GO_TAKEN.contains(&name),
        // The module is called `transform`, whatever the project's name.
        Language::Python => false,
    };
    match taken {
        true => Err(format!(
            "`{name}` means something else to the compiler; try `{name}-records`"
        )),
        false => Ok(()),
    }
}

/// The language that was named, or is chosen now.
fn language(arguments: &Arguments) -> CliResult<Language> {
    if let Some(language) = arguments.language {
        return Ok(language);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CliError::said(
            "say which language to write it in: --language rust, --language go or --language python",
        ));
    }
    loop {
        crate::output::to_stderr(format_args!("language (rust, go, python): "));
        let mut answer = String::new();
        let read = io::stdin().read_line(&mut answer);
        if read.map_err(|error| CliError::said(format!("cannot read your answer: {error}")))? == 0 {
            return Err(CliError::said("no language was chosen"));
        }
        match Language::parse(answer.trim()) {
            Ok(language) => return Ok(language),
            Err(reason) => tell!("{reason}"),
        }
    }
}

/// Makes the project and says how to go on.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> CliResult {
    let language = language(arguments)?;
    check_name(&arguments.name, language).map_err(CliError::said)?;
    let folder = arguments
        .dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(&arguments.name));
    check_empty(&folder)?;
    fs::create_dir_all(&folder).map_err(CliError::file("make", &folder))?;
    let names = Names {
        project: &arguments.name,
    };
    embedded::write_project(&folder, language, &names)?;
    if context.output.is_json() {
        return context
            .output
            .json(&json!({ "name": arguments.name, "folder": folder }));
    }
    let shown = folder.display();
    context.output.say(&format!(
        "made the project {name} in {shown}\n\n\
         Next:\n  \
         cd {shown}\n  \
         transform build     compile it; the function is in {source}\n  \
         transform test      run it on the records of input.jsonl\n  \
         transform topic create {name}-in\n  \
         transform deploy    run it in the broker, from {name}-in to {name}-out as transform.toml says",
        name = arguments.name,
        source = language.source()
    ))
}

fn check_empty(folder: &Path) -> CliResult {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CliError::file("use", folder)(error)),
    };
    if entries.count() == 0 {
        return Ok(());
    }
    Err(CliError::said(format!(
        "{} exists and is not empty; choose another name, or another folder with --dir",
        folder.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_be_good_for_cargo_and_the_broker() {
        for name in ["a", "mask-email", "m_2"] {
            assert!(project_name(name).is_ok(), "{name}");
        }
        for name in ["", "2a", "-a", "_a", "A", "a.b", "a/b", "../a", "a b", "ä"] {
            assert!(project_name(name).is_err(), "{name}");
        }
        assert!(project_name(&"a".repeat(65)).is_err());
        for (name, language) in [
            ("fn", Language::Rust),
            ("test", Language::Rust),
            ("tidemill-sdk", Language::Rust),
            ("fmt", Language::Go),
            ("main", Language::Go),
        ] {
            assert!(check_name(name, language).is_err(), "{name}");
            assert!(check_name(name, Language::Python).is_ok(), "{name}");
        }
    }
}
