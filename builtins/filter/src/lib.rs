//! `filter`: keeps the records for which a condition holds. They are handed on as they came.

mod condition;
mod evaluate;
mod lexer;

use serde::Deserialize;
use tidemill_builtin::config::{Kept, OnInvalid, settings};
use tidemill_builtin::configured;
use tidemill_sdk::{Output, Record, Result};

pub use condition::Condition;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    condition: String,
    #[serde(default)]
    on_invalid: OnInvalid,
}

/// What to keep.
#[derive(Debug)]
pub struct Config {
    condition: Condition,
    on_invalid: OnInvalid,
}

thread_local! {
    static CONFIG: Kept<Config> = const { Kept::new() };
}

/// Hands on what the condition holds for.
#[tidemill_sdk::transform]
pub fn filter(record: Record<'_>, output: &mut Output) -> Result<()> {
    configured(&CONFIG, Config::read, |config| {
        apply(config, record, output)
    })
}

impl Config {
    /// The settings in `text`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(text: &str) -> Result<Config, String> {
        let settings: Settings = settings(text)?;
        Ok(Config {
            condition: Condition::parse(&settings.condition)?,
            on_invalid: settings.on_invalid,
        })
    }
}

/// Hands `record` on if `config` wants it.
///
/// # Errors
/// When the condition asks for something in a value that is not JSON, unless `on_invalid` says otherwise.
pub fn apply(config: &Config, record: Record<'_>, output: &mut Output) -> Result<()> {
    match config.condition.holds(&record) {
        Ok(true) => output.forward(&record),
        Ok(false) => Ok(()),
        Err(error) => match config.on_invalid {
            OnInvalid::Fail => Err(error.into()),
            OnInvalid::Pass => output.forward(&record),
            OnInvalid::Drop => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests;
