//! The configuration: a JSON object in the environment variable `TRANSFORM_CONFIG`, read once, by the first record.

use std::cell::OnceCell;
use std::thread::LocalKey;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tidemill_sdk::Result;

/// The environment variable.
pub const VARIABLE: &str = "TRANSFORM_CONFIG";
/// How every message begins that is about the configuration and no record; who deploys looks for it.
pub const WRONG: &str = "the configuration is wrong: ";

/// What settings take, those that are no plain words.
const EXAMPLES: [(&str, &str); 8] = [
    (
        "fields",
        r#"fields=["$.card", {"path": "$.name", "action": "redact"}]"#,
    ),
    ("keep_last", "keep_last=4"),
    ("replacement", "replacement=hidden"),
    ("formats", "formats=true"),
    ("condition", "condition='$.amount > 100'"),
    ("field", "field=$.country"),
    ("routes", r#"routes={"DE": "orders-de"}"#),
    ("schema_id", "schema_id=7"),
];

/// What becomes of a record whose value is not what the transform can work with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInvalid {
    /// It fails; the transform's `on_error` policy decides.
    #[default]
    Fail,
    /// It is handed on as it came.
    Pass,
    /// It is left out.
    Drop,
}

/// What a module keeps of its configuration.
pub type Kept<T> = OnceCell<Result<T, String>>;

/// Runs `then` with the configuration, which `check` makes of the object's text when the first record comes.
///
/// # Errors
/// What `then` says; a message that begins with [`WRONG`] when there is no configuration or `check` refuses it.
pub fn configured<T: 'static, R>(
    kept: &'static LocalKey<Kept<T>>,
    check: fn(&str) -> Result<T, String>,
    then: impl FnOnce(&T) -> Result<R>,
) -> Result<R> {
    kept.with(|kept| {
        let read = || match std::env::var(VARIABLE) {
            Ok(text) => check(&text).map_err(|reason| format!("{WRONG}{reason}")),
            Err(_) => Err(format!("{WRONG}{VARIABLE} is not set")),
        };
        match kept.get_or_init(read) {
            Ok(config) => then(config),
            Err(reason) => Err(reason.clone().into()),
        }
    })
}

/// The settings in `text`.
///
/// # Errors
/// Unknown settings, missing ones and such of a wrong type, each with its name.
pub fn settings<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| match culprit::<T>(text) {
        Some((name, reason)) => wrong_value(&name, &reason),
        None => plain(&error),
    })
}

/// The setting whose value is refused, and why: of each alone, what is refused besides what is missing is its value.
fn culprit<T: DeserializeOwned>(text: &str) -> Option<(String, String)> {
    let all: Map<String, Value> = serde_json::from_str(text).ok()?;
    all.into_iter().find_map(|(name, value)| {
        let alone = Value::Object(Map::from_iter([(name.clone(), value)]));
        let reason = plain(&serde_json::from_str::<T>(&alone.to_string()).err()?);
        let of_others = reason.starts_with("missing setting")
            || reason.starts_with(&format!("unknown setting `{name}`"));
        (!of_others).then_some((name, reason))
    })
}

/// What is said of an error, without the place in a text that nobody wrote by hand.
fn plain(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let end = said.rfind(" at line ").unwrap_or(said.len());
    said[..end]
        .replace("unknown field", "unknown setting")
        .replace("missing field", "missing setting")
}

/// What is said of the value of the setting `name`, with an example of what it takes.
fn wrong_value(name: &str, reason: &str) -> String {
    let bare = reason.strip_prefix("invalid type: ");
    let bare = bare.or_else(|| reason.strip_prefix("invalid value: "));
    let parts = bare.and_then(|bare| bare.rsplit_once(", expected "));
    let told = match parts {
        Some((found, wanted)) => format!("{name} is {found}, not {}", in_words(wanted)),
        None => format!("{name}: {reason}"),
    };
    match EXAMPLES.iter().find(|(setting, _)| *setting == name) {
        Some((_, example)) => format!("{told}; for example {example}"),
        None => told,
    }
}

/// A type as people call it.
fn in_words(wanted: &str) -> &str {
    match wanted {
        "usize" | "u32" | "u64" => "a whole number, 0 or more",
        "i32" | "i64" => "a whole number",
        "a sequence" => "a list",
        "a map" => "a JSON object",
        "a boolean" => "true or false",
        "a string" => "a text",
        other => other,
    }
}
