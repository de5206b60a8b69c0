//! `avro`: JSON to Avro and back (Apache Avro 1.12), with a schema from a file.

mod read;
mod schema;
mod write;

use serde::Deserialize;
use serde_json::Value;
use tidemill_builtin::config::{Kept, OnInvalid, settings};
use tidemill_builtin::configured;
use tidemill_builtin::names::{self, Repeated};
use tidemill_sdk::{Output, Record, Result};

use schema::Schemas;

/// First byte of a datum with the number of its schema, as Confluent's clients write and read it; four bytes follow.
const MAGIC: u8 = 0;
/// Bytes in front of such a datum.
const HEADER_BYTES: usize = 5;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    direction: Direction,
    /// The schema, or its text.
    schema: Value,
    #[serde(default)]
    schema_id: Option<u32>,
    #[serde(default)]
    unknown_fields: Unknown,
    #[serde(default)]
    repeated_names: Repeated,
    #[serde(default)]
    on_invalid: OnInvalid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Direction {
    ToAvro,
    ToJson,
}

/// What becomes of members of a JSON object that its record in the schema does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unknown {
    #[default]
    Fail,
    Drop,
}

/// What to make of a value.
#[derive(Debug)]
pub struct Config {
    direction: Direction,
    schemas: Schemas,
    schema_id: Option<u32>,
    unknown_fields: Unknown,
    repeated_names: Repeated,
    on_invalid: OnInvalid,
}

thread_local! {
    static CONFIG: Kept<Config> = const { Kept::new() };
}

/// Converts a record's value.
#[tidemill_sdk::transform]
pub fn avro(record: Record<'_>, output: &mut Output) -> Result<()> {
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
        let schema = match settings.schema {
            Value::String(text) if text.trim_start().starts_with(['{', '[', '"']) => {
                serde_json::from_str(&text)
                    .map_err(|error| format!("the schema is not JSON: {error}"))?
            }
            schema => schema,
        };
        Ok(Config {
            direction: settings.direction,
            schemas: Schemas::parse(&schema)?,
            schema_id: settings.schema_id,
            unknown_fields: settings.unknown_fields,
            repeated_names: settings.repeated_names,
            on_invalid: settings.on_invalid,
        })
    }

    /// The Avro datum, with its header if there is to be one, of a JSON text.
    ///
    /// # Errors
    /// When it is not JSON, or does not fit the schema.
    pub fn to_avro(&self, json: &[u8]) -> Result<Vec<u8>, String> {
        names::check(json, self.repeated_names)?;
        let value: Value =
            serde_json::from_slice(json).map_err(|error| format!("not JSON: {error}"))?;
        let mut datum = Vec::with_capacity(HEADER_BYTES + json.len());
        if let Some(id) = self.schema_id {
            datum.push(MAGIC);
            datum.extend(id.to_be_bytes());
        }
        write::write(&self.schemas, self.unknown_fields, &value, &mut datum)?;
        Ok(datum)
    }

    /// The JSON text of an Avro datum, its header, if it is to have one, checked.
    ///
    /// # Errors
    /// When it is not a datum of the schema.
    pub fn to_json(&self, datum: &[u8]) -> Result<String, String> {
        let datum = match self.schema_id {
            None => datum,
            Some(id) => match datum.split_at_checked(HEADER_BYTES) {
                Some(([MAGIC, written @ ..], datum)) if *written == id.to_be_bytes() => datum,
                Some(([MAGIC, a, b, c, d], _)) => {
                    let written = u32::from_be_bytes([*a, *b, *c, *d]);
                    return Err(format!("its schema has the number {written}, not {id}"));
                }
                _ => {
                    return Err(format!(
                        "it does not begin with the number of a schema ({HEADER_BYTES} bytes)"
                    ));
                }
            },
        };
        read::read(&self.schemas, datum)
    }
}

/// Writes `record` with its value converted.
///
/// # Errors
/// When it cannot be, unless `on_invalid` says otherwise.
pub fn apply(config: &Config, record: Record<'_>, output: &mut Output) -> Result<()> {
    let Some(value) = record.value() else {
        // A tombstone is one in every format.
        return output.forward(&record);
    };
    let converted = match config.direction {
        Direction::ToAvro => config.to_avro(value),
        Direction::ToJson => config.to_json(value).map(String::into_bytes),
    };
    match converted {
        Ok(converted) => output.write(record.edit().value(&converted)),
        Err(reason) => match config.on_invalid {
            OnInvalid::Fail => Err(reason.into()),
            OnInvalid::Pass => output.forward(&record),
            OnInvalid::Drop => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests;
