//! Topic configuration: which settings exist, their defaults, and how values are checked.

use std::collections::BTreeMap;

/// Kafka's default of `max.message.bytes`: 1 MiB and the overhead of a batch.
pub const MAX_MESSAGE_BYTES_DEFAULT: i64 = 1_048_588;
/// Largest `max.message.bytes`: what a request may be.
pub const MAX_MESSAGE_BYTES_MAX: i64 = 100 * 1024 * 1024;

/// What kind of value a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An integer of 32 bits between two bounds.
    Int(i64, i64),
    /// An integer of 64 bits between two bounds.
    Long(i64, i64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of words of which each must be one of these.
    List(&'static [&'static str]),
}

/// A setting of a topic.
#[derive(Debug, Clone, Copy)]
pub struct ConfigDef {
    /// Kafka's name.
    pub name: &'static str,
    /// Its value when not set.
    pub default: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What it does.
    pub doc: &'static str,
}

const MAX: i64 = i64::MAX;

/// Every setting a topic has.
pub const CONFIGS: &[ConfigDef] = &[
    ConfigDef {
        name: "cleanup.policy",
        default: "delete",
        kind: Kind::List(&["delete"]),
        doc: "What happens to old segments. Only 'delete' exists yet.",
    },
    ConfigDef {
        name: "compression.type",
        default: "producer",
        kind: Kind::Word(&["producer"]),
        doc: "Batches are kept as the producer compressed them.",
    },
    ConfigDef {
        name: "flush.messages",
        default: "9223372036854775807",
        kind: Kind::Long(1, MAX),
        doc: "Without effect: every record is on disk before it is acknowledged.",
    },
    ConfigDef {
        name: "flush.ms",
        default: "9223372036854775807",
        kind: Kind::Long(0, MAX),
        doc: "Without effect: every record is on disk before it is acknowledged.",
    },
    ConfigDef {
        name: "max.message.bytes",
        default: "1048588",
        kind: Kind::Int(1, MAX_MESSAGE_BYTES_MAX),
        doc: "Largest record batch a producer may send, in bytes, its header included.",
    },
    ConfigDef {
        name: "message.timestamp.after.max.ms",
        default: "3600000",
        kind: Kind::Long(0, MAX),
        doc: "How far a producer's timestamps may be ahead of the broker's clock, in ms; without effect under LogAppendTime.",
    },
    ConfigDef {
        name: "message.timestamp.type",
        default: "CreateTime",
        kind: Kind::Word(&["CreateTime", "LogAppendTime"]),
        doc: "Whether records carry the producer's time or the time of the append.",
    },
    ConfigDef {
        name: "min.insync.replicas",
        default: "1",
        kind: Kind::Int(1, 1),
        doc: "How many replicas must have a record before it is acknowledged.",
    },
    ConfigDef {
        name: "preallocate",
        default: "false",
        kind: Kind::Word(&["false"]),
        doc: "Segments grow as they are written; the write-ahead log is always preallocated.",
    },
    ConfigDef {
        name: "retention.bytes",
        default: "-1",
        kind: Kind::Long(-1, MAX),
        doc: "Bytes of a partition to keep; its oldest segments are removed while at least that many are left. -1 for all.",
    },
    ConfigDef {
        name: "retention.ms",
        default: "604800000",
        kind: Kind::Long(-1, MAX),
        doc: "How long a segment is kept after its newest record, in ms; -1 for ever.",
    },
    ConfigDef {
        name: "segment.bytes",
        default: "1073741824",
        kind: Kind::Int(1_048_576, i32::MAX as i64),
        doc: "Size at which a new segment file is begun, in bytes.",
    },
    ConfigDef {
        name: "segment.ms",
        default: "604800000",
        kind: Kind::Long(1, MAX),
        doc: "Age at which a new segment file is begun, in ms, so that retention can remove the old one.",
    },
    ConfigDef {
        name: "unclean.leader.election.enable",
        default: "false",
        kind: Kind::Word(&["false"]),
        doc: "Records that were acknowledged are never given up for a leader.",
    },
];

const COMPACTION: &str = "there is no log compaction yet; use cleanup.policy=delete, and retention.ms=-1 where everything is to be kept";
const TIERED: &str = "there is no tiered storage; everything is kept on the node";
const REPLICAS: &str = "this cluster has one node";

/// Settings of Kafka's that are refused, and why: taken in and ignored, they would promise what is not kept.
pub const UNSUPPORTED: &[(&str, &str)] = &[
    ("delete.retention.ms", COMPACTION),
    (
        "file.delete.delay.ms",
        "files of removed segments go at once; who reads one is not disturbed",
    ),
    ("follower.replication.throttled.replicas", REPLICAS),
    (
        "index.interval.bytes",
        "the index has an entry for each 64 KiB",
    ),
    ("leader.replication.throttled.replicas", REPLICAS),
    ("local.retention.bytes", TIERED),
    ("local.retention.ms", TIERED),
    ("max.compaction.lag.ms", COMPACTION),
    (
        "message.downconversion.enable",
        "Kafka 4 has no older message formats, nor has this broker",
    ),
    (
        "message.format.version",
        "Kafka 4 has no older message formats, nor has this broker",
    ),
    (
        "message.timestamp.before.max.ms",
        "timestamps may lie in the past as far as they want; retention.ms removes what is old",
    ),
    (
        "message.timestamp.difference.max.ms",
        "Kafka 4 has it no more; use message.timestamp.after.max.ms",
    ),
    ("min.cleanable.dirty.ratio", COMPACTION),
    ("min.compaction.lag.ms", COMPACTION),
    ("remote.log.copy.disable", TIERED),
    ("remote.log.delete.on.disable", TIERED),
    ("remote.storage.enable", TIERED),
    (
        "segment.index.bytes",
        "indexes are as large as their segments need",
    ),
    (
        "segment.jitter.ms",
        "segments are sealed one by one; they need no jitter",
    ),
];

fn unsupported(name: &str, value: &str) -> Option<&'static str> {
    if name == "cleanup.policy" && value.split(',').any(|word| word.trim() == "compact") {
        return Some(COMPACTION);
    }
    let found = UNSUPPORTED.iter().find(|(refused, _)| *refused == name);
    found.map(|(_, why)| *why)
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such setting.
    #[error("unknown topic config '{name}'; known are: {known}", name = .0, known = known())]
    Unknown(String),
    /// A setting of Kafka's that cannot be had here.
    #[error("topic config '{name}' is not supported: {why}")]
    Unsupported {
        /// The setting.
        name: String,
        /// Why, and what to do instead.
        why: &'static str,
    },
    /// A value it cannot take.
    #[error("topic config '{name}' cannot be '{value}': it takes {wants}")]
    Value {
        /// The setting.
        name: String,
        /// The value.
        value: String,
        /// What would do.
        wants: String,
    },
}

fn known() -> String {
    let names: Vec<&str> = CONFIGS.iter().map(|c| c.name).collect();
    names.join(", ")
}

/// The definition of a setting.
pub fn definition(name: &str) -> Option<&'static ConfigDef> {
    CONFIGS.iter().find(|c| c.name == name)
}

/// Checks every setting of `configs`.
///
/// # Errors
/// The first [`ConfigError`].
pub fn validate(configs: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (name, value) in configs {
        if let Some(why) = unsupported(name, value) {
            let name = name.clone();
            return Err(ConfigError::Unsupported { name, why });
        }
        let def = definition(name).ok_or_else(|| ConfigError::Unknown(name.clone()))?;
        if !accepts(def.kind, value) {
            return Err(ConfigError::Value {
                name: name.clone(),
                value: value.clone(),
                wants: describe(def.kind),
            });
        }
    }
    Ok(())
}

fn accepts(kind: Kind, value: &str) -> bool {
    match kind {
        Kind::Int(min, max) | Kind::Long(min, max) => {
            value.parse::<i64>().is_ok_and(|v| (min..=max).contains(&v))
        }
        Kind::Word(words) => words.contains(&value),
        Kind::List(words) => {
            !value.is_empty() && value.split(',').all(|v| words.contains(&v.trim()))
        }
    }
}

fn describe(kind: Kind) -> String {
    match kind {
        Kind::Int(min, max) | Kind::Long(min, max) if min == max => format!("only {min}"),
        Kind::Int(min, max) => format!("an integer from {min} to {max}"),
        Kind::Long(min, _) => format!("an integer of at least {min}"),
        Kind::Word(words) | Kind::List(words) => words.join(" or "),
    }
}

/// The value of a setting where the broker sets nothing for topics: what was set, else what is built in.
pub(crate) fn value<'a>(configs: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    match configs.get(name) {
        Some(v) => v,
        None => definition(name).map_or("", |d| d.default),
    }
}

/// What a topic has that does not set a value itself: the broker's settings for topics, over what is built in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults(BTreeMap<&'static str, String>);

impl Defaults {
    /// The values that the broker was given, by the name of the topic's setting.
    ///
    /// # Errors
    /// The first [`ConfigError`]: a broker's value must be one that a topic takes.
    pub fn new(
        given: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Defaults, ConfigError> {
        let given: BTreeMap<&'static str, String> = given.into_iter().collect();
        let owned = given.iter().map(|(n, v)| ((*n).to_owned(), v.clone()));
        validate(&owned.collect())?;
        Ok(Defaults(given))
    }

    /// What the broker was given for `name`, if anything.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of a setting: what was set for the topic, else for the broker, else what is built in.
    pub fn value<'a>(&'a self, configs: &'a BTreeMap<String, String>, name: &str) -> &'a str {
        match (configs.get(name), self.given(name)) {
            (Some(own), _) => own,
            (None, Some(given)) => given,
            (None, None) => value(configs, name),
        }
    }

    /// The value of an integer setting.
    pub fn integer(&self, configs: &BTreeMap<String, String>, name: &str) -> i64 {
        self.value(configs, name).parse().expect(
            "integer settings are checked before they are stored, and have integer defaults",
        )
    }
}

/// Whether records of a topic may be removed while newer ones are kept: its `cleanup.policy` has `delete`.
pub fn deletes(configs: &BTreeMap<String, String>) -> bool {
    let policy = value(configs, "cleanup.policy");
    policy.split(',').any(|word| word.trim() == "delete")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn defaults_are_accepted_by_their_own_definition() {
        for def in CONFIGS {
            assert_eq!(
                validate(&one(def.name, def.default)),
                Ok(()),
                "{}",
                def.name
            );
        }
    }

    #[test]
    fn validate_refuses_unknown_names_and_impossible_values() {
        assert!(matches!(
            validate(&one("nope", "1")),
            Err(ConfigError::Unknown(_))
        ));
        assert!(validate(&one("max.message.bytes", "0")).is_err());
        assert!(validate(&one("cleanup.policy", "compact")).is_err());
        assert!(validate(&one("message.timestamp.type", "LogAppendTime")).is_ok());
    }

    #[test]
    fn what_kafka_has_and_this_broker_has_not_is_refused_with_a_reason() {
        for (name, _) in UNSUPPORTED {
            assert_eq!(
                definition(name).map(|d| d.name),
                None,
                "it is in both tables"
            );
            let refused = validate(&one(name, "1"));
            assert!(
                matches!(refused, Err(ConfigError::Unsupported { .. })),
                "{name}"
            );
        }
        for policy in ["compact", "compact,delete", "delete, compact"] {
            let refused = validate(&one("cleanup.policy", policy)).map_err(|e| e.to_string());
            assert!(
                refused.is_err_and(|e| e.contains("no log compaction")),
                "{policy}"
            );
        }
    }

    #[test]
    fn topic_has_its_own_value_else_the_brokers_else_what_is_built_in() {
        const NAME: &str = "max.message.bytes";
        let (none, own) = (BTreeMap::new(), one(NAME, "7"));
        let built_in = Defaults::default();
        assert_eq!(built_in.integer(&none, NAME), MAX_MESSAGE_BYTES_DEFAULT);
        let given = Defaults::new([(NAME, "9".to_owned())]).expect("topics take it");
        assert_eq!(given.integer(&none, NAME), 9);
        assert_eq!(given.integer(&own, NAME), 7);
        assert_eq!(given.integer(&none, "retention.bytes"), -1);
    }

    #[test]
    fn brokers_value_that_no_topic_takes_is_refused() {
        assert!(Defaults::new([("segment.bytes", "1".to_owned())]).is_err());
        assert!(Defaults::new([("nope", "1".to_owned())]).is_err());
    }
}
