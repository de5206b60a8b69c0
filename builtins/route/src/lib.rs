//! `route`: chooses the output by the value of a field. Records are handed on as they came.

use std::collections::BTreeMap;

use serde::Deserialize;
use tidemill_builtin::config::{Kept, settings};
use tidemill_builtin::{Kind, Paths, configured, find};
use tidemill_sdk::{Output, Record, Result, json};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    field: String,
    routes: BTreeMap<String, String>,
    #[serde(default)]
    default: Elsewhere,
    #[serde(default)]
    on_invalid: Invalid,
}

/// Where a record goes whose field has no route of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
enum Elsewhere {
    #[default]
    Fail,
    Drop,
    Topic(String),
}

impl From<String> for Elsewhere {
    fn from(word: String) -> Elsewhere {
        match word.as_str() {
            "fail" => Elsewhere::Fail,
            "drop" => Elsewhere::Drop,
            _ => Elsewhere::Topic(word),
        }
    }
}

/// What becomes of a record whose value is not JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Invalid {
    #[default]
    Fail,
    Drop,
    Default,
}

/// Which value goes where.
#[derive(Debug)]
pub struct Config {
    paths: Paths,
    field: String,
    routes: BTreeMap<String, String>,
    elsewhere: Elsewhere,
    on_invalid: Invalid,
}

thread_local! {
    static CONFIG: Kept<Config> = const { Kept::new() };
}

/// Routes a record.
#[tidemill_sdk::transform]
pub fn route(record: Record<'_>, output: &mut Output) -> Result<()> {
    configured(&CONFIG, Config::from_environment, |config| {
        apply(config, record, output)
    })
}

impl Config {
    fn from_environment(text: &str) -> Result<Config, String> {
        let outputs = std::env::var("TIDEMILL_OUTPUTS").unwrap_or_default();
        Config::read(text, &outputs.split(',').collect::<Vec<_>>())
    }

    /// The settings in `text`, for a transform with these outputs.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(text: &str, outputs: &[&str]) -> Result<Config, String> {
        let settings: Settings = settings(text)?;
        let mut paths = Paths::new();
        paths.add(&settings.field)?;
        let default = match &settings.default {
            Elsewhere::Topic(topic) => Some(topic),
            Elsewhere::Fail | Elsewhere::Drop => None,
        };
        for topic in settings.routes.values().chain(default) {
            if !outputs.contains(&topic.as_str()) {
                return Err(format!(
                    "\"{topic}\" is not among the outputs, {}; give it with --output",
                    outputs.join(", ")
                ));
            }
        }
        Ok(Config {
            paths,
            field: settings.field,
            routes: settings.routes,
            elsewhere: settings.default,
            on_invalid: settings.on_invalid,
        })
    }
}

/// Writes `record` to where `config` sends it.
///
/// # Errors
/// When it has no route and nothing says where else it goes.
pub fn apply(config: &Config, record: Record<'_>, output: &mut Output) -> Result<()> {
    let value = match value_of(config, &record) {
        Ok(value) => value,
        Err(error) => match config.on_invalid {
            Invalid::Fail => return Err(error),
            Invalid::Drop => return Ok(()),
            Invalid::Default => None,
        },
    };
    if let Some(topic) = value.as_ref().and_then(|value| config.routes.get(value)) {
        return output.to(topic)?.forward(&record);
    }
    match &config.elsewhere {
        Elsewhere::Topic(topic) => output.to(topic)?.forward(&record),
        Elsewhere::Drop => Ok(()),
        Elsewhere::Fail if value.is_none() => Err(format!(
            "the record has no {}, or one that is no text, number or word",
            config.field
        )
        .into()),
        // The value itself may be private.
        Elsewhere::Fail => {
            Err(format!("no route is given for the value of {}", config.field).into())
        }
    }
}

/// The field's value as text: of several, the last, as most readers of JSON take it. Of a record without a value there is none.
fn value_of(config: &Config, record: &Record<'_>) -> Result<Option<String>> {
    let Some(text) = record.value() else {
        return Ok(None);
    };
    let mut last = None;
    find(text, &config.paths, |_, value| last = Some(value))?;
    Ok(last.and_then(|value| match value.kind {
        Kind::String => Some(json::meaning(&text[value.place]).into_owned()),
        Kind::Number | Kind::Word => Some(String::from_utf8_lossy(&text[value.place]).into_owned()),
        Kind::Container => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::testing::{Ran, TestRecord, run_with_outputs};

    const OUTPUTS: [&str; 3] = ["orders-de", "orders-us", "rest"];

    fn routed(settings: &str, values: &[&str]) -> Ran {
        let config = Config::read(settings, &OUTPUTS).unwrap();
        let records = values.iter().map(|v| TestRecord::new().key("k").value(v));
        run_with_outputs(
            |record, output| apply(&config, record, output),
            &OUTPUTS,
            records,
        )
    }

    fn values(ran: &Ran, topic: &str) -> Vec<String> {
        ran.topic(topic)
            .iter()
            .map(|r| r.value_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn field_decides_however_it_is_written() {
        let ran = routed(
            r#"{"field":"$.c","routes":{"DE":"orders-de","7":"orders-us","true":"rest","ü":"rest"}}"#,
            &[
                r#"{"c":"DE"}"#,
                r#"{"\u0063":"\u0044E"}"#,
                r#"{"c":7}"#,
                r#"{"c":"7"}"#,
                r#"{"c":true}"#,
                r#"{"c":"\u00fc"}"#,
                r#"{"c":"DE","c":7}"#,
            ],
        );
        assert_eq!(values(&ran, "orders-de").len(), 2);
        assert_eq!(values(&ran, "orders-us").len(), 3);
        assert_eq!(values(&ran, "rest").len(), 2);
        assert_eq!(ran.failures(), []);
    }

    #[test]
    fn what_has_no_route_goes_where_default_says() {
        let all = [r#"{"c":"JP"}"#, "{}", r#"{"c":{"x":1}}"#, "17"];
        let base = r#"{"field":"$.c","routes":{"DE":"orders-de"}"#;
        assert_eq!(routed(&format!("{base}}}"), &all).failures().len(), 4);
        let dropped = routed(&format!(r#"{base},"default":"drop"}}"#), &all);
        assert_eq!(
            (
                dropped.failures().len(),
                values(&dropped, "orders-de").len()
            ),
            (0, 0)
        );
        assert_eq!(
            values(
                &routed(&format!(r#"{base},"default":"rest"}}"#), &all),
                "rest"
            ),
            all
        );
    }

    #[test]
    fn what_is_not_json_fails_or_goes_where_it_is_told() {
        let all = ["", "{", "hello", "{\"c\":\"DE\"}x"];
        let base = r#"{"field":"$.c","routes":{"DE":"orders-de"},"default":"rest""#;
        assert_eq!(routed(&format!("{base}}}"), &all).failures().len(), 4);
        assert_eq!(
            routed(&format!(r#"{base},"on_invalid":"drop"}}"#), &all)
                .failures()
                .len(),
            0
        );
        assert_eq!(
            values(
                &routed(&format!(r#"{base},"on_invalid":"default"}}"#), &all),
                "rest"
            ),
            all
        );
    }

    #[test]
    fn failure_does_not_tell_the_value() {
        let ran = routed(r#"{"field":"$.c","routes":{}}"#, &[r#"{"c":"private"}"#]);
        assert!(!ran.failures()[0].1.contains("private"));
    }

    #[test]
    fn wrong_settings_are_refused_with_a_sentence() {
        for (text, says) in [
            (
                r#"{"field":"$.c","routes":{"DE":"elsewhere"}}"#,
                "\"elsewhere\" is not among the outputs, orders-de, orders-us, rest",
            ),
            (
                r#"{"field":"$.c","routes":{},"default":"nowhere"}"#,
                "\"nowhere\" is not among",
            ),
            (r#"{"field":"$.c"}"#, "missing setting `routes`"),
            (r#"{"field":"c","routes":{}}"#, "begins with `$`"),
            (
                r#"{"field":"$.c","routes":"DE:x"}"#,
                "routes is string \"DE:x\", not a JSON object; for example routes={\"DE\": \"orders-de\"}",
            ),
        ] {
            let error = Config::read(text, &OUTPUTS).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
