//! `transform builtins`, and what `--builtin` adds to the command lines of `deploy` and `test`.

use std::fs;
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::pair;
use crate::Context;
use crate::builtin::{self, BUILTINS, Builtin};
use crate::error::{CliError, CliResult};
use crate::output;

/// Bytes of a file that `--set-file` takes; the broker takes 64 KiB of environment in all.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// The setting that is long, and therefore in a file.
const SCHEMA: &str = "schema";

/// Which ready-made transform, with which settings.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// A ready-made transform, instead of the project here (`transform builtins` lists them); to deploy it takes --input and --output
    #[arg(long, value_name = "NAME", conflicts_with = "module")]
    builtin: Option<String>,
    /// A setting of the ready-made transform, JSON or text; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair, requires = "builtin", conflicts_with = "module")]
    settings: Vec<(String, String)>,
    /// A setting of the ready-made transform that is the content of a file
    #[arg(long = "set-file", value_name = "KEY=FILE", value_parser = pair, requires = "builtin", conflicts_with = "module")]
    files: Vec<(String, String)>,
}

impl Choice {
    /// The transform that was asked for.
    ///
    /// # Errors
    /// When there is none of that name.
    pub(crate) fn builtin(&self) -> CliResult<Option<&'static Builtin>> {
        self.builtin.as_deref().map(builtin::find).transpose()
    }

    /// Refuses a variable among `names` that would take the place of its settings: what --set says would not hold.
    ///
    /// # Errors
    /// Which flag gives settings.
    pub(crate) fn settings_alone<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> CliResult {
        let refused = self.builtin.is_some() && names.any(|name| name == builtin::CONFIG_VARIABLE);
        match refused {
            true => Err(CliError::said(format!(
                "{} holds the settings of a ready-made transform, and is not given itself: --set KEY=VALUE and --set-file KEY=FILE give them",
                builtin::CONFIG_VARIABLE
            ))),
            false => Ok(()),
        }
    }

    /// Its settings, for the environment.
    ///
    /// # Errors
    /// When a file cannot be read or a setting is given twice.
    pub(crate) fn variable(&self) -> CliResult<(String, String)> {
        let typed = self.settings.iter().map(|(key, value)| {
            let value = builtin::typed_value(value);
            is_meant(key, &value)?;
            Ok((key.clone(), value))
        });
        let read = self
            .files
            .iter()
            .map(|(key, file)| Ok((key.clone(), Value::from(contents(file)?))));
        let pairs: CliResult<Vec<(String, Value)>> = typed.chain(read).collect();
        Ok((
            builtin::CONFIG_VARIABLE.to_owned(),
            builtin::config(pairs?)?,
        ))
    }
}

/// Refuses what was certainly meant otherwise: the name of a file for its content, a text for a list or an object.
fn is_meant(key: &str, value: &Value) -> CliResult {
    let refused = |message| Err(CliError::said(message));
    match (key, value.as_str()) {
        (SCHEMA, Some(file)) if Path::new(file).is_file() => refused(format!(
            "{key} is to be the schema itself, and {file} is a file: --set-file {key}={file} takes what stands in it"
        )),
        ("fields", Some(text)) => refused(format!(
            "fields is a list of paths, in JSON, and {text} is none: --set 'fields=[\"$.card\", \"$..email\"]'"
        )),
        ("routes", Some(text)) => refused(format!(
            "routes is a JSON object, and {text} is none: --set 'routes={{\"DE\": \"orders-de\"}}'"
        )),
        _ => Ok(()),
    }
}

fn contents(file: &str) -> CliResult<String> {
    let path = Path::new(file);
    let length = fs::metadata(path)
        .map_err(CliError::file("read", path))?
        .len();
    if length > FILE_BYTES_MAX {
        return Err(CliError::said(format!(
            "{file} has {length} bytes; a setting has at most {FILE_BYTES_MAX}"
        )));
    }
    fs::read_to_string(path).map_err(CliError::file("read", path))
}

/// Lists the ready-made transforms with their settings.
pub(crate) fn run(context: &mut Context) -> CliResult {
    if context.output.is_json() {
        let shown = |b: &Builtin| {
            let settings: serde_json::Map<String, Value> = b
                .settings
                .iter()
                .map(|(name, about)| ((*name).to_owned(), json!(about)))
                .collect();
            json!({"name": b.name, "about": b.about, "bytes": b.wasm.len(), "settings": settings})
        };
        let all: Vec<Value> = BUILTINS.iter().map(shown).collect();
        return context.output.json(&Value::Array(all));
    }
    for builtin in &BUILTINS {
        let size = output::size(builtin.wasm.len() as u64);
        context
            .output
            .say(&format!("{} ({size}): {}", builtin.name, builtin.about))?;
        for (name, about) in builtin.settings {
            context.output.say(&format!("    {name:<15} {about}"))?;
        }
    }
    context.output.say(
        "\ntransform test --builtin mask --set 'fields=[\"$.card\"]' --set keep_last=4 --input payments.jsonl\n\
         transform deploy --builtin mask --set 'fields=[\"$.card\"]' --set keep_last=4 --input payments --output payments-masked",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_that_is_a_file_is_refused_with_what_takes_its_content() {
        let file = std::env::temp_dir().join(format!("schema-{}.json", std::process::id()));
        fs::write(&file, "{}").expect("it can be written");
        let path = file.display().to_string();
        let refused = is_meant(SCHEMA, &json!(path)).expect_err("it is a file");
        let another = is_meant("default", &json!(path));
        fs::remove_file(&file).expect("it was ours");
        let said = refused.to_string();
        assert!(
            said.contains(&format!("--set-file schema={path}")),
            "{said}"
        );
        assert!(another.is_ok());
        assert!(
            is_meant(SCHEMA, &json!(path)).is_ok(),
            "there is no such file"
        );
        assert!(is_meant(SCHEMA, &json!({"type": "object"})).is_ok());
    }
}
