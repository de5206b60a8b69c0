//! The broker's settings for topics as values of the topics' own settings.

use std::time::Duration;

use tidemill_controller::configs::Defaults;

use super::Name;
use super::sources::Stated;
use super::table::{Settings, Topics};

/// A setting of `[topics]` and the topics' own setting whose default it is.
pub(crate) const NAMES: [(&str, &str); 5] = [
    ("message_size_max", "max.message.bytes"),
    ("retention", "retention.ms"),
    ("retention_size", "retention.bytes"),
    ("segment_age", "segment.ms"),
    ("segment_size", "segment.bytes"),
];

/// What topics have that set nothing themselves: what was stated, of the settings that are theirs.
///
/// # Errors
/// The first setting whose value no topic takes, or that no client could reach. What is built in may be more than requests can be.
pub(super) fn of(settings: &Settings, stated: &Stated) -> Result<Defaults, (Name, String)> {
    const LARGEST: Name = ("topics", "message_size_max");
    let topics = &settings.topics;
    let unreachable = topics.message_size_max > settings.kafka.request_size_max as u64;
    if stated.contains(LARGEST.0, LARGEST.1) && unreachable {
        let problem = "is more than kafka.request_size_max: no such batch could be sent";
        return Err((LARGEST, problem.to_owned()));
    }
    let mut given = Vec::new();
    for (key, name) in NAMES {
        if stated.contains("topics", key) {
            let one = (name, value(topics, key));
            Defaults::new([one.clone()]).map_err(|e| (("topics", key), e.to_string()))?;
            given.push(one);
        }
    }
    Defaults::new(given).map_err(|e| (("topics", "retention"), e.to_string()))
}

/// The value of `[topics]` `key` as a topic would set it: bytes and ms, -1 for no limit.
fn value(topics: &Topics, key: &str) -> String {
    let ms = |time: Duration| time.as_millis().to_string();
    let unlimited = || "-1".to_owned();
    match key {
        "message_size_max" => topics.message_size_max.to_string(),
        "retention" => topics.retention.map_or_else(unlimited, ms),
        "retention_size" => topics
            .retention_size
            .map_or_else(unlimited, |n| n.to_string()),
        "segment_age" => ms(topics.segment_age),
        _ => topics.segment_size.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tidemill_controller::configs;

    use super::super::{Flags, Values};
    use super::*;

    #[test]
    fn defaults_of_the_table_are_what_is_built_in_for_topics() {
        let topics = Values::new().settings().topics;
        for (key, name) in NAMES {
            let built_in = configs::definition(name).map(|d| d.default.to_owned());
            assert_eq!(Some(value(&topics, key)), built_in, "{key}");
        }
    }

    #[test]
    fn only_what_was_set_is_the_brokers_and_a_value_no_topic_takes_is_told() {
        let checked = |text: &str| {
            let mut values = Values::new();
            values.file(text);
            let checked = values.checked(&Flags::default());
            checked.map_err(|e| e.to_string())
        };
        let told = checked("[topics]\nretention = 'forever'\nsegment_size = '1 GiB'\n");
        let defaults = told.expect("it is valid").topic_defaults;
        assert_eq!(defaults.given("retention.ms"), Some("-1"));
        assert_eq!(defaults.given("segment.bytes"), Some("1073741824"));
        assert_eq!(defaults.given("retention.bytes"), None);
        let told = checked("[topics]\nretention = '0.5 ms'\nsegment_size = '1 KiB'\n");
        let told = told.expect_err("refused");
        assert!(told.contains("topics.retention = "), "{told}");
        assert!(told.contains("topics.segment_size = "), "{told}");
        let told =
            checked("[topics]\nmessage_size_max = '9 MiB'\n[kafka]\nrequest_size_max = '8 MiB'\n");
        let told = told.expect_err("refused");
        assert!(
            told.contains("topics.message_size_max: is more than"),
            "{told}"
        );
        let small = checked("[kafka]\nrequest_size_max = '1 MiB'\n");
        assert!(small.is_ok(), "{small:?}");
    }
}
