//! The configuration: a JSON object in the environment variable `TRANSFORM_CONFIG`, read once, by the first record.

use std::cell::OnceCell;
use std::thread::LocalKey;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidemill_sdk::Result;

/// The environment variable.
pub const VARIABLE: &str = "TRANSFORM_CONFIG";
/// How every message begins that is about the configuration and no record; who deploys looks for it.
pub const WRONG: &str = "the configuration is wrong: ";

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
/// Unknown settings, missing ones and such of a wrong type.
pub fn settings<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        // The place in a text that nobody wrote by hand tells nobody anything.
        let said = error.to_string();
        let end = said.rfind(" at line ").unwrap_or(said.len());
        said[..end]
            .replace("unknown field", "unknown setting")
            .replace("missing field", "missing setting")
    })
}
