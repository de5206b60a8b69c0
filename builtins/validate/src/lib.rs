//! `validate`: hands on the records whose JSON value a schema allows; the others fail, each with the place and the rule.

mod place;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ReferencingError, ValidationError, Validator};
use serde::Deserialize;
use serde_json::Value;
use tidemill_builtin::config::{Kept, OnInvalid, settings};
use tidemill_builtin::configured;
use tidemill_builtin::names::{self, Repeated};
use tidemill_sdk::{Output, Record, Result};

/// Errors told of one record.
const ERRORS_MAX: usize = 5;
/// Bytes that a regular expression of the schema may take when compiled.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// The types of JSON Schema.
const TYPES: &str = "array, boolean, integer, null, number, object and string";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The schema, or its text.
    schema: Value,
    #[serde(default)]
    formats: bool,
    #[serde(default)]
    repeated_names: Repeated,
    #[serde(default)]
    on_invalid: OnInvalid,
}

/// What is allowed.
#[derive(Debug)]
pub struct Config {
    validator: Validator,
    /// Names that the schema itself tells.
    told: place::Told,
    repeated_names: Repeated,
    on_invalid: OnInvalid,
}

thread_local! {
    static CONFIG: Kept<Config> = const { Kept::new() };
}

/// Hands on what the schema allows.
#[tidemill_sdk::transform]
pub fn validate(record: Record<'_>, output: &mut Output) -> Result<()> {
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
            Value::String(text) => serde_json::from_str(&text)
                .map_err(|error| format!("the schema is not JSON: {error}"))?,
            schema => schema,
        };
        if !schema.is_object() && !schema.is_boolean() {
            return Err(
                "the schema is a JSON object; give it with --set-file schema=FILE".to_owned(),
            );
        }
        let mut options = jsonschema::options();
        // Expressions that take linear time, and nothing fetched from anywhere.
        options = options
            .with_pattern_options(PatternOptions::regex().size_limit(REGEX_BYTES_MAX))
            .should_validate_formats(settings.formats);
        let validator = options
            .build(&schema)
            .map_err(|error| format!("the schema cannot be used: {}", unusable(&error)))?;
        Ok(Config {
            validator,
            told: place::Told::of(&schema),
            repeated_names: settings.repeated_names,
            on_invalid: settings.on_invalid,
        })
    }
}

/// What is wrong with a schema, and where in it.
fn unusable(error: &ValidationError<'_>) -> String {
    let at = error.instance_path().as_str();
    match error.kind() {
        ValidationErrorKind::Referencing(ReferencingError::Unretrievable { uri, .. }) => format!(
            "{uri} stands elsewhere, and nothing is fetched; take it into the schema, below $defs, and refer to it as \"#/$defs/NAME\""
        ),
        _ if at.ends_with("/type") => format!(
            "at {at}: {} is no type; there are {TYPES}",
            error.instance()
        ),
        _ if at.is_empty() => error.to_string(),
        _ => format!("at {at}: {error}"),
    }
}

/// Hands `record` on if `config` allows its value.
///
/// # Errors
/// When it does not, unless `on_invalid` says otherwise.
pub fn apply(config: &Config, record: Record<'_>, output: &mut Output) -> Result<()> {
    let Some(value) = record.value() else {
        // A tombstone is no document.
        return output.forward(&record);
    };
    match check(config, value) {
        Ok(()) => output.forward(&record),
        Err(reason) => match config.on_invalid {
            OnInvalid::Fail => Err(reason.into()),
            OnInvalid::Pass => output.forward(&record),
            OnInvalid::Drop => Ok(()),
        },
    }
}

/// Why the schema does not allow `value`. What stands there is not told, names that the schema does not tell included: it may be private.
fn check(config: &Config, value: &[u8]) -> Result<(), String> {
    names::check(value, config.repeated_names)?;
    let value: Value =
        serde_json::from_slice(value).map_err(|error| format!("not JSON: {error}"))?;
    if config.validator.is_valid(&value) {
        return Ok(());
    }
    let mut errors: Vec<String> = config
        .validator
        .iter_errors(&value)
        .take(ERRORS_MAX + 1)
        .map(|error| {
            let place = config.told.place(&value, error.instance_path().as_str());
            format!("{place}: {}", rule(&error))
        })
        .collect();
    if errors.len() > ERRORS_MAX {
        errors.truncate(ERRORS_MAX);
        errors.push("and more".to_owned());
    }
    Err(format!(
        "the schema does not allow it: {}",
        errors.join("; ")
    ))
}

/// The rule that was broken.
fn rule(error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let count = unexpected.len();
            format!("members that the schema does not name are not allowed, there are {count}")
        }
        ValidationErrorKind::UnevaluatedItems { unexpected } => {
            let count = unexpected.len();
            format!("items beyond those of the schema are not allowed, there are {count}")
        }
        ValidationErrorKind::PropertyNames { .. } => {
            "a member has a name that is not allowed".to_owned()
        }
        _ => error.masked().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::testing::{Ran, TestRecord, run};

    const SCHEMA: &str = r##"{
        "type": "object", "required": ["id", "email"],
        "properties": {
            "id": {"type": "integer", "minimum": 1, "maximum": 18446744073709551616},
            "email": {"type": "string", "pattern": "^[^@]+@[^@]+$"},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}}
        },
        "$defs": {"tag": {"enum": ["a", "b"]}}
    }"##;

    fn ran(extra: &str, values: &[&str]) -> Ran {
        let settings = format!("{{\"schema\":{}{extra}}}", Value::from(SCHEMA));
        let config = Config::read(&settings).unwrap();
        let records = values.iter().map(|v| TestRecord::new().key("k").value(v));
        run(|record, output| apply(&config, record, output), records)
    }

    #[test]
    fn what_the_schema_allows_passes_byte_for_byte() {
        let good = [
            r#" {"id": 1, "email":"a@b", "more":1e400 }"#,
            r#"{"id":18446744073709551616,"email":"a@b","tags":["a","b"]}"#,
        ];
        let ran = ran("", &good);
        assert_eq!(ran.failures(), []);
        let values: Vec<_> = ran
            .records()
            .iter()
            .map(|r| r.value_str().unwrap())
            .collect();
        assert_eq!(values, good);
    }

    #[test]
    fn what_it_does_not_allow_fails_with_place_and_rule_but_without_the_value() {
        let deep = "[".repeat(1 << 16);
        let ran = ran(
            "",
            &[
                r#"{"id":0,"email":"secret"}"#,
                r#"{"id":18446744073709551617,"email":"a@b"}"#,
                r#"{"id":1.5,"email":"a@b","tags":["a","secret"]}"#,
                "[]",
                "",
                "{",
                "nul",
                &deep,
                r#"{"id":1,"email":"\ud800"}"#,
            ],
        );
        assert_eq!((ran.records().len(), ran.failures().len()), (0, 9));
        let said: Vec<&str> = ran.failures().iter().map(|f| f.1.as_str()).collect();
        assert!(
            said[0].contains("/id") && said[0].contains("/email"),
            "{}",
            said[0]
        );
        assert!(said[1].contains("/id"), "{}", said[1]);
        assert!(said[2].contains("/tags/1"), "{}", said[2]);
        assert!(said[4].contains("not JSON") && said[7].contains("nested deeper"));
        assert!(said.iter().all(|s| !s.contains("secret")), "{said:?}");
    }

    #[test]
    fn refused_records_may_pass_or_be_dropped() {
        assert_eq!(
            ran(",\"on_invalid\":\"pass\"", &["{}", "x"])
                .records()
                .len(),
            2
        );
        let dropped = ran(",\"on_invalid\":\"drop\"", &["{}", "x"]);
        assert_eq!((dropped.records().len(), dropped.failures().len()), (0, 0));
    }

    #[test]
    fn tombstones_pass() {
        let config = Config::read("{\"schema\":{\"type\":\"object\"}}").unwrap();
        let tombstone = TestRecord::new().key("k");
        assert_eq!(
            run(|r, o| apply(&config, r, o), [tombstone.clone()]).records(),
            [tombstone]
        );
    }

    #[test]
    fn wrong_settings_are_refused_with_a_sentence() {
        for (text, says) in [
            ("{}", "missing setting `schema`"),
            (r#"{"schema":"{"}"#, "the schema is not JSON"),
            (r#"{"schema":5}"#, "--set-file schema=FILE"),
            (
                r#"{"schema":{"properties":{"a":{"type":"text"}}}}"#,
                "the schema cannot be used: at /properties/a/type: \"text\" is no type; there are array,",
            ),
            (r#"{"schema":{"pattern":"("}}"#, "the schema cannot be used"),
            (
                r#"{"schema":{"$ref":"http://example.com/schema.json"}}"#,
                "the schema cannot be used: http://example.com/schema.json stands elsewhere, and nothing is fetched",
            ),
            (r#"{"schema":{},"shcema":1}"#, "unknown setting `shcema`"),
        ] {
            let error = Config::read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn repeated_names_are_refused_unless_the_last_is_asked_for() {
        let twice = [
            r#"{"id":0,"id":7,"email":"a@b"}"#,
            r#"{"\u0069d":7,"id":7,"email":"a@b"}"#,
            r#"{"id":7,"email":"a@b","x":[{"y":{"z":1,"a":2,"z":1}}]}"#,
        ];
        let refused = ran("", &twice);
        assert_eq!((refused.records().len(), refused.failures().len()), (0, 3));
        assert!(refused.failures()[0].1.contains("repeated_names"));
        let taken = ran(",\"repeated_names\":\"last\"", &twice);
        assert_eq!(taken.records().len(), 3);
        let same_name_elsewhere = r#"{"id":7,"email":"a@b","x":{"id":1},"y":[{"id":1},{"id":1}]}"#;
        assert_eq!(ran("", &[same_name_elsewhere]).failures(), []);
    }

    #[test]
    fn object_is_no_number_whatever_its_members_are_called() {
        let ran = ran(
            ",\"repeated_names\":\"last\"",
            &[
                r#"{"id":{"$serde_json::private::Number":"7"},"email":"a@b"}"#,
                r#"{"id":{"\u0024serde_json::private::Number":"7"},"email":"a@b"}"#,
            ],
        );
        assert_eq!((ran.records().len(), ran.failures().len()), (0, 2));
    }

    #[test]
    fn names_that_only_the_value_tells_are_not_told() {
        let config = Config::read(
            r##"{"schema":{
                "properties": {
                    "patients": {"additionalProperties": {"properties": {"age": {"maximum": 200}}}},
                    "closed": {"additionalProperties": false},
                    "open": {"properties": {"a": true}, "unevaluatedProperties": false},
                    "names": {"propertyNames": {"maxLength": 3}},
                    "items": {"prefixItems": [true], "unevaluatedItems": false},
                    "tuple": {"prefixItems": [true], "items": false},
                    "ids": {"uniqueItems": true},
                    "one": {"oneOf": [{"const": 1}, {"const": 2}]},
                    "not": {"not": {"type": "string"}}
                }}}"##,
        )
        .unwrap();
        let values = [
            r#"{"patients":{"secret/~x":{"age":201}}}"#,
            r#"{"patients":{"123":{"age":201}}}"#,
            r#"{"closed":{"secret":1}}"#,
            r#"{"open":{"secret":1}}"#,
            r#"{"names":{"secret":1}}"#,
            r#"{"items":[1,"secret"]}"#,
            r#"{"tuple":[1,"secret"]}"#,
            r#"{"ids":["secret","secret"]}"#,
            r#"{"one":"secret"}"#,
            r#"{"not":"secret"}"#,
        ];
        let records = values.map(|v| TestRecord::new().value(v));
        let ran = run(|record, output| apply(&config, record, output), records);
        assert_eq!(
            (ran.records().len(), ran.failures().len()),
            (0, values.len())
        );
        let said: Vec<&str> = ran.failures().iter().map(|f| f.1.as_str()).collect();
        assert!(
            said.iter()
                .all(|s| !s.contains("secret") && !s.contains("123")),
            "{said:?}"
        );
        assert!(said[0].contains("/patients/*/age: "), "{}", said[0]);
        assert!(said[6].contains("/tuple/1: "), "{}", said[6]);
    }
}
