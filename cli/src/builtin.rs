//! The ready-made transforms, whose modules travel inside this binary.

use serde_json::{Map, Value};
use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::record::{BatchBuilder, NewRecord};
use tidemill_wasm_host::{
    Factory, HostConfig, InputBatch, Limits, LocalRunner, Module, OutputTopic, guest_env,
};

use crate::error::{CliError, CliResult};

include!(concat!(env!("OUT_DIR"), "/builtins.rs"));

/// The environment variable in which a ready-made transform finds its settings.
pub(crate) const CONFIG_VARIABLE: &str = "TRANSFORM_CONFIG";
/// The variable in which mask finds its key when its settings name no other.
const MASK_KEY_VARIABLE: &str = "MASK_KEY";
/// The one that writes to more than its first output.
const SEVERAL_OUTPUTS: &str = "route";
/// How its messages begin that are about its settings.
const WRONG: &str = "the configuration is wrong: ";
/// Bytes that the probe's outputs take; it writes nothing of size.
const OUTPUT_MAX_BYTES: usize = 1_048_588;

/// A ready-made transform.
#[derive(Debug)]
pub(crate) struct Builtin {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it does, in a line.
    pub(crate) about: &'static str,
    /// Its settings: name, and what it says.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// Its module.
    pub(crate) wasm: &'static [u8],
}

const ON_INVALID: (&str, &str) = (
    "on_invalid",
    "what becomes of a record whose value does not do: fail (default), pass or drop",
);

const REPEATED_NAMES: (&str, &str) = (
    "repeated_names",
    "what becomes of a value with two members of one name: fail (default), or last, which takes the last of them",
);

/// All there are.
pub(crate) const BUILTINS: [Builtin; 5] = [
    Builtin {
        name: "mask",
        about: "hides fields of JSON values; everything else stays as it is",
        settings: &[
            (
                "fields",
                "paths, such as [\"$.card\", \"$.items[*].ssn\", \"$..email\"], or {\"path\": .., \"action\": .., \"keep_last\": ..}",
            ),
            (
                "action",
                "mask (default), redact, hash (HMAC-SHA-256) or tokenize (other characters of the same kinds; one way)",
            ),
            ("keep_last", "characters that mask leaves at the end [0]"),
            ("replacement", "text that redact leaves [null]"),
            (
                "key_env",
                "the variable with the key of hash and tokenize, 16 bytes or more: --secret MASK_KEY=@FILE, not --env, which is shown [MASK_KEY]",
            ),
            (
                "on_invalid",
                "what becomes of a record whose value cannot be masked: fail (default) or drop",
            ),
        ],
        wasm: MASK_WASM,
    },
    Builtin {
        name: "validate",
        about: "hands on what a JSON Schema allows; the rest fails, and goes where --on-error says",
        settings: &[
            ("schema", "the schema: --set-file schema=FILE"),
            ("formats", "whether `format` is checked [false]"),
            REPEATED_NAMES,
            ON_INVALID,
        ],
        wasm: VALIDATE_WASM,
    },
    Builtin {
        name: "filter",
        about: "keeps the records for which a condition holds",
        settings: &[
            (
                "condition",
                "such as `$.amount > 100 and $.country in [\"DE\", \"AT\"] or header(\"source\") == \"web\" or not key matches \"^test-\" or exists $.email`",
            ),
            ON_INVALID,
        ],
        wasm: FILTER_WASM,
    },
    Builtin {
        name: "route",
        about: "chooses the output by the value of a field",
        settings: &[
            ("field", "the field's path, such as $.country"),
            (
                "routes",
                "which value goes to which output, such as {\"DE\": \"orders-de\"}",
            ),
            (
                "default",
                "where other records go: an output, drop, or fail (default)",
            ),
            (
                "on_invalid",
                "what becomes of a record whose value is not JSON: fail (default), drop, or default",
            ),
        ],
        wasm: ROUTE_WASM,
    },
    Builtin {
        name: "avro",
        about: "converts JSON to Avro, or Avro to JSON",
        settings: &[
            ("direction", "to-avro or to-json"),
            ("schema", "the Avro schema: --set-file schema=FILE"),
            (
                "schema_id",
                "number of the schema in a registry; it stands in front of each value [none: the bare datum]",
            ),
            (
                "unknown_fields",
                "what becomes of members that the schema does not have: fail (default) or drop",
            ),
            REPEATED_NAMES,
            ON_INVALID,
        ],
        wasm: AVRO_WASM,
    },
];

/// The one called `name`.
///
/// # Errors
/// When there is none; the message names those there are.
pub(crate) fn find(name: &str) -> CliResult<&'static Builtin> {
    BUILTINS.iter().find(|b| b.name == name).ok_or_else(|| {
        let names: Vec<&str> = BUILTINS.iter().map(|b| b.name).collect();
        CliError::said(format!(
            "there is no ready-made transform '{name}'; there are {} (see `transform builtins`)",
            names.join(", ")
        ))
    })
}

/// The settings as one JSON object: values are JSON where they are, else text.
///
/// # Errors
/// When one is given twice.
pub(crate) fn config(pairs: impl IntoIterator<Item = (String, Value)>) -> CliResult<String> {
    let mut config = Map::new();
    for (key, value) in pairs {
        if config.insert(key.clone(), value).is_some() {
            return Err(CliError::said(format!("the setting {key} is given twice")));
        }
    }
    Ok(Value::Object(config).to_string())
}

/// A setting's value as it was typed.
pub(crate) fn typed_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

impl Builtin {
    /// Lets the module itself look at its settings, here, before anything is deployed.
    ///
    /// # Errors
    /// What it says of them.
    pub(crate) fn check(&self, outputs: &[String], env: &[(String, String)]) -> CliResult {
        let module = Factory::new(HostConfig::default())
            .load_here(self.wasm)
            .map_err(|error| self.broken(error.to_string()))?;
        self.judge(&module, outputs, env)
    }

    /// As [`Builtin::check`], of the module that is loaded already.
    ///
    /// # Errors
    /// What it says of its settings.
    pub(crate) fn judge(
        &self,
        module: &Module,
        outputs: &[String],
        env: &[(String, String)],
    ) -> CliResult {
        if outputs.len() > 1 && self.name != SEVERAL_OUTPUTS {
            return Err(CliError::said(format!(
                "{0} writes to one output: {1} would get nothing; only {SEVERAL_OUTPUTS} chooses among several, and {0} can be deployed twice, with \
                 two names",
                self.name, outputs[1]
            )));
        }
        let topics = vec![OutputTopic::of_max_bytes(OUTPUT_MAX_BYTES); outputs.len()];
        let env = guest_env(self.name, "input", outputs, env);
        let mut runner = LocalRunner::new(module, env, Limits::default(), topics)
            .map_err(|error| self.broken(error.to_string()))?;
        // Settings are read with the first record; of a tombstone nothing else is expected.
        let ran = runner.call(0, &[probe()]);
        let ran = ran.map_err(|error| self.broken(error.to_string()))?;
        let said = ran.failures.iter().map(|failure| failure.message.as_str());
        match said
            .filter_map(|message| message.strip_prefix(WRONG))
            .next()
        {
            Some(reason) => Err(CliError::said(format!(
                "the settings of {} are wrong: {reason}; `transform builtins` shows them",
                self.name
            ))),
            None => Ok(()),
        }
    }

    /// The variable with the key that would be readable by whoever may look at the transform, were it deployed with `config` and `env`.
    pub(crate) fn key_in_clear(&self, config: &Value, env: &Map<String, Value>) -> Option<String> {
        if self.name != "mask" {
            return None;
        }
        let name = config.get("key_env").and_then(Value::as_str);
        let name = name.unwrap_or(MASK_KEY_VARIABLE);
        env.contains_key(name).then(|| name.to_owned())
    }

    fn broken(&self, error: String) -> CliError {
        CliError::said(format!("the transform {}: {error}", self.name))
    }
}

fn probe() -> InputBatch {
    let mut batch = BatchBuilder::new();
    batch.append(NewRecord::default());
    InputBatch {
        base_offset: 0,
        base_timestamp: 0,
        record_count: 1,
        records: batch.build().slice(HEADER_BYTES..),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(name: &str, config: &Value, env: &[(&str, &str)]) -> Result<(), String> {
        let mut all = vec![(CONFIG_VARIABLE.to_owned(), config.to_string())];
        all.extend(env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let builtin = find(name).map_err(|error| error.to_string())?;
        let checked = builtin.check(&["out".to_owned()], &all);
        checked.map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_judged_by_the_module_itself() {
        let key = [("MASK_KEY", "0123456789abcdef")];
        for (name, config, env) in [
            (
                "mask",
                json!({"fields": ["$.card"], "keep_last": 4}),
                &[][..],
            ),
            (
                "mask",
                json!({"fields": ["$.card"], "action": "hash"}),
                &key,
            ),
            ("validate", json!({"schema": "{\"type\":\"object\"}"}), &[]),
            ("filter", json!({"condition": "$.a > 1"}), &[]),
            (
                "route",
                json!({"field": "$.a", "routes": {"x": "out"}}),
                &[],
            ),
            (
                "avro",
                json!({"direction": "to-json", "schema": "\"int\""}),
                &[],
            ),
        ] {
            assert_eq!(checked(name, &config, env), Ok(()), "{name} {config}");
        }
        for (name, config, says) in [
            (
                "mask",
                json!({"feilds": ["$.card"]}),
                "unknown setting `feilds`",
            ),
            (
                "mask",
                json!({"fields": ["$.card"], "action": "hash"}),
                "MASK_KEY",
            ),
            (
                "validate",
                json!({"schema": {"type": "text"}}),
                "cannot be used",
            ),
            ("filter", json!({"condition": "$.a >"}), "at the end"),
            (
                "route",
                json!({"field": "$.a", "routes": {"x": "nowhere"}}),
                "\"nowhere\" is not among the outputs",
            ),
            (
                "avro",
                json!({"direction": "up", "schema": "\"int\""}),
                "unknown variant `up`",
            ),
            (
                "blur",
                json!({}),
                "there are mask, validate, filter, route, avro",
            ),
        ] {
            let error = checked(name, &config, &[]).expect_err(name);
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn key_of_mask_in_the_environment_is_found() {
        let env = json!({"MASK_KEY": "k", "OTHER": "k"});
        let env = env.as_object().expect("an object");
        let found = |name, config: Value| {
            let builtin = find(name).expect("it is there");
            builtin.key_in_clear(&config, env)
        };
        assert_eq!(found("mask", json!({})).as_deref(), Some("MASK_KEY"));
        let other = json!({"key_env": "OTHER"});
        assert_eq!(found("mask", other).as_deref(), Some("OTHER"));
        assert_eq!(found("mask", json!({"key_env": "ABSENT"})), None);
        assert_eq!(found("route", json!({})), None);
    }

    #[test]
    fn typed_values_are_json_where_they_are() {
        assert_eq!(typed_value("[\"$.a\"]"), json!(["$.a"]));
        assert_eq!(typed_value("4"), json!(4));
        assert_eq!(typed_value("$.a > 1"), json!("$.a > 1"));
        let twice = [("a".to_owned(), json!(1)), ("a".to_owned(), json!(2))];
        assert!(config(twice).is_err());
    }
}
