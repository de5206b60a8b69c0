//! Changing the settings of a topic: all at once (AlterConfigs) or one by one (IncrementalAlterConfigs, KIP-339).

use std::collections::BTreeMap;

use crate::configs::{self, ConfigError, Kind};

/// What happens to one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigOp {
    /// It gets this value.
    Set(String),
    /// It has its default again.
    Delete,
    /// These words, with commas between them, are added to a list; those it has already stay where they are.
    Append(String),
    /// These words are taken out of a list; those it does not have are no error.
    Subtract(String),
}

/// A change of a topic's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// These are set from now on, and no others.
    Replace(BTreeMap<String, String>),
    /// One after the other.
    Each(Vec<(String, ConfigOp)>),
}

/// Why a change was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigChangeError {
    /// A name or value that is none.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A list operation on something else.
    #[error(
        "topic config '{0}' is no list: it can be set and deleted, not appended to or subtracted from"
    )]
    NoList(String),
}

impl ConfigChange {
    /// The settings after the change of a topic that has `current`.
    ///
    /// # Errors
    /// [`ConfigChangeError`].
    pub fn apply(
        self,
        current: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, ConfigChangeError> {
        let changed = match self {
            ConfigChange::Replace(configs) => configs,
            ConfigChange::Each(ops) => {
                let mut configs = current.clone();
                for (name, op) in ops {
                    change(&mut configs, name, op)?;
                }
                configs
            }
        };
        configs::validate(&changed)?;
        Ok(changed)
    }
}

fn change(
    configs: &mut BTreeMap<String, String>,
    name: String,
    op: ConfigOp,
) -> Result<(), ConfigChangeError> {
    let definition =
        configs::definition(&name).ok_or_else(|| ConfigError::Unknown(name.clone()))?;
    let words = |list: &str| -> Vec<String> {
        let words = list.split(',').map(|w| w.trim().to_owned());
        words.filter(|w| !w.is_empty()).collect()
    };
    let mut list = words(configs::value(configs, &name));
    match op {
        ConfigOp::Set(value) => {
            configs.insert(name, value);
            return Ok(());
        }
        ConfigOp::Delete => {
            configs.remove(&name);
            return Ok(());
        }
        _ if !matches!(definition.kind, Kind::List(_)) => {
            return Err(ConfigChangeError::NoList(name));
        }
        ConfigOp::Append(value) => {
            for word in words(&value) {
                if !list.contains(&word) {
                    list.push(word);
                }
            }
        }
        ConfigOp::Subtract(value) => {
            let gone = words(&value);
            list.retain(|word| !gone.contains(word));
        }
    }
    configs.insert(name, list.join(","));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn each(ops: &[(&str, ConfigOp)]) -> ConfigChange {
        ConfigChange::Each(
            ops.iter()
                .map(|(n, op)| ((*n).to_owned(), op.clone()))
                .collect(),
        )
    }

    #[test]
    fn settings_that_are_not_named_stay_only_where_each_is_changed() {
        let before = set(&[("retention.ms", "5000"), ("max.message.bytes", "100")]);
        let one = each(&[
            ("retention.ms", ConfigOp::Delete),
            ("segment.bytes", ConfigOp::Set("2000000".to_owned())),
        ]);
        assert_eq!(
            one.apply(&before),
            Ok(set(&[
                ("max.message.bytes", "100"),
                ("segment.bytes", "2000000")
            ]))
        );
        let all = ConfigChange::Replace(set(&[("retention.ms", "6000")]));
        assert_eq!(all.apply(&before), Ok(set(&[("retention.ms", "6000")])));
    }

    #[test]
    fn appending_to_a_list_keeps_what_it_has_and_begins_with_the_default() {
        let append = each(&[("cleanup.policy", ConfigOp::Append("delete".to_owned()))]);
        let before = set(&[]);
        assert_eq!(
            append.apply(&before),
            Ok(set(&[("cleanup.policy", "delete")]))
        );
        let subtract = each(&[("cleanup.policy", ConfigOp::Subtract("nothing".to_owned()))]);
        assert_eq!(
            subtract.apply(&before),
            Ok(set(&[("cleanup.policy", "delete")]))
        );
    }

    #[test]
    fn list_operations_and_unknown_names_are_refused_with_the_reason() {
        let append = each(&[("retention.ms", ConfigOp::Append("1".to_owned()))]);
        let no_list = ConfigChangeError::NoList("retention.ms".to_owned());
        assert_eq!(append.apply(&set(&[])), Err(no_list));
        for op in [ConfigOp::Delete, ConfigOp::Set("1".to_owned())] {
            let unknown = ConfigError::Unknown("nope".to_owned());
            let refused = each(&[("nope", op)]).apply(&set(&[]));
            assert_eq!(refused, Err(ConfigChangeError::Config(unknown)));
        }
        let value = each(&[("max.message.bytes", ConfigOp::Set("-4".to_owned()))]);
        assert!(value.apply(&set(&[])).is_err());
    }
}
