//! `mask`: hides fields of JSON values. Everything else of the text stays as it is, byte for byte.

mod action;
mod config;
mod edit;

use tidemill_builtin::config::Kept;
use tidemill_builtin::{OnInvalid, configured};
use tidemill_sdk::{Output, Record, Result};

pub use config::Config;
pub use edit::edit;

thread_local! {
    static CONFIG: Kept<Config> = const { Kept::new() };
}

/// Writes each record with its fields hidden.
#[tidemill_sdk::transform]
pub fn mask(record: Record<'_>, output: &mut Output) -> Result<()> {
    configured(&CONFIG, Config::read, |config| {
        apply(config, record, output)
    })
}

/// Writes `record` as `config` wants it.
///
/// # Errors
/// When its value is not JSON, unless `on_invalid` says that it is left out. It is never handed on.
pub fn apply(config: &Config, record: Record<'_>, output: &mut Output) -> Result<()> {
    let Some(value) = record.value() else {
        // A tombstone hides nothing, and a compacted topic needs it.
        return output.forward(&record);
    };
    match edit(config, value) {
        Ok(Some(edited)) => output.write(record.edit().value(&edited)),
        Ok(None) => output.forward(&record),
        Err(error) => match config.on_invalid {
            // No configuration of `mask` says pass.
            OnInvalid::Fail | OnInvalid::Pass => Err(error.into()),
            OnInvalid::Drop => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests;
