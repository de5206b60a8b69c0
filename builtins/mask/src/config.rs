//! The settings of `mask`.

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;
use tidemill_builtin::config::{OnInvalid, settings};
use tidemill_builtin::path::Paths;

use crate::action::{Action, Key};

/// The environment variable with the key, where `key_env` names no other.
const KEY_VARIABLE: &str = "MASK_KEY";
/// Characters that `keep_last` may leave, at most.
const KEEP_MAX: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    fields: Vec<Field>,
    #[serde(default)]
    action: Word,
    #[serde(default)]
    keep_last: usize,
    #[serde(default)]
    replacement: Option<String>,
    #[serde(default)]
    key_env: Option<String>,
    #[serde(default)]
    on_invalid: OnInvalid,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
enum Field {
    Path(String),
    Own(OwnAction),
}

/// Not `untagged`, which does not tell what is wrong with an object.
impl TryFrom<Value> for Field {
    type Error = serde_json::Error;

    fn try_from(value: Value) -> Result<Field, serde_json::Error> {
        match value {
            Value::String(path) => Ok(Field::Path(path)),
            Value::Object(_) => serde_json::from_value(value).map(Field::Own),
            _ => Err(serde_json::Error::custom(
                "a field is a path, or an object with a path",
            )),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnAction {
    path: String,
    action: Option<Word>,
    keep_last: Option<usize>,
    replacement: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    #[default]
    Mask,
    Redact,
    Hash,
    Tokenize,
}

/// What to hide, and how.
#[derive(Debug)]
pub struct Config {
    pub(crate) paths: Paths,
    /// For each path.
    pub(crate) actions: Vec<Action>,
    pub(crate) key: Option<Key>,
    pub(crate) on_invalid: OnInvalid,
}

impl Config {
    /// The settings in `text`; the key comes from the environment.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(text: &str) -> Result<Config, String> {
        Config::with_key(text, |name| std::env::var(name).ok())
    }

    /// The settings in `text`, with the key that `variable` gives for a name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn with_key(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, String> {
        let settings: Settings = settings(text)?;
        if settings.fields.is_empty() {
            return Err("fields is empty; name at least one path, such as \"$.card\"".to_owned());
        }
        if settings.on_invalid == OnInvalid::Pass {
            return Err(
                "on_invalid is pass, which would hand on in the clear what cannot be masked; use fail or drop".to_owned(),
            );
        }
        let mut paths = Paths::new();
        let mut actions = Vec::new();
        for field in &settings.fields {
            let own = match field {
                Field::Path(path) => &OwnAction {
                    path: path.clone(),
                    action: None,
                    keep_last: None,
                    replacement: None,
                },
                Field::Own(own) => own,
            };
            paths.add(&own.path)?;
            actions.push(action(&settings, own)?);
        }
        let name = settings.key_env.as_deref().unwrap_or(KEY_VARIABLE);
        let needs_key = actions
            .iter()
            .any(|a| matches!(a, Action::Hash | Action::Tokenize));
        let key = needs_key
            .then(|| Key::new(name, variable(name)))
            .transpose()?;
        Ok(Config {
            paths,
            actions,
            key,
            on_invalid: settings.on_invalid,
        })
    }
}

fn action(settings: &Settings, own: &OwnAction) -> Result<Action, String> {
    let keep_last = own.keep_last.unwrap_or(settings.keep_last);
    let replacement = own.replacement.as_ref().or(settings.replacement.as_ref());
    if keep_last > KEEP_MAX {
        return Err(format!(
            "keep_last is {keep_last}, it may be at most {KEEP_MAX}"
        ));
    }
    Ok(match own.action.unwrap_or(settings.action) {
        Word::Mask => Action::Mask { keep_last },
        Word::Redact => Action::Redact {
            replacement: replacement.cloned(),
        },
        Word::Hash => Action::Hash,
        Word::Tokenize => Action::Tokenize,
    })
}
