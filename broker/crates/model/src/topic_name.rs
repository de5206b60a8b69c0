//! What a topic may be called, by Kafka's rules (`org.apache.kafka.common.internals.Topic`).

/// Most characters of a topic name.
pub const NAME_CHARS_MAX: usize = 249;

/// What transforms log, and what befalls them.
pub const TRANSFORM_LOGS: &str = "__transform_logs";

/// Topics that the broker keeps for itself and marks as internal in its metadata: Kafka's, and the one that Kafka has not.
pub const INTERNAL: [&str; 4] = [
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
    TRANSFORM_LOGS,
];

/// Why a text cannot be the name of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// It is empty.
    #[error("a topic name is empty; give it 1 to {NAME_CHARS_MAX} characters")]
    Empty,
    /// It is `.` or `..`.
    #[error("a topic cannot be called \".\" or \"..\"; choose another name")]
    Dots,
    /// It is too long.
    #[error("a topic name has {0} characters; at most {NAME_CHARS_MAX} are allowed")]
    TooLong(usize),
    /// It has a character that is not allowed.
    #[error(
        "a topic name has the character {0:?}; only ASCII letters, digits, '.', '_' and '-' are allowed"
    )]
    Character(char),
}

/// Checks that `name` may be the name of a topic.
///
/// # Errors
/// The first rule it breaks.
pub fn check(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots);
    }
    if name.len() > NAME_CHARS_MAX {
        return Err(TopicNameError::TooLong(name.chars().count()));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|c| !legal(*c)) {
        Some(c) => Err(TopicNameError::Character(c)),
        None => Ok(()),
    }
}

/// Whether the topic is marked as internal.
pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// Names with the same key would be one name to Kafka's metrics, where `.` becomes `_`; Kafka refuses the second one.
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_kafka() {
        assert_eq!(check("orders.eu_1-x"), Ok(()));
        assert_eq!(check(&"a".repeat(249)), Ok(()));
        assert_eq!(check(&"a".repeat(250)), Err(TopicNameError::TooLong(250)));
        assert_eq!(check(""), Err(TopicNameError::Empty));
        assert_eq!(check(".."), Err(TopicNameError::Dots));
        assert_eq!(check("..."), Ok(()));
        assert_eq!(check("a b"), Err(TopicNameError::Character(' ')));
        assert_eq!(check("é"), Err(TopicNameError::Character('é')));
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert_eq!(collision_key("a.b"), collision_key("a_b"));
        assert_ne!(collision_key("a.b"), collision_key("a-b"));
        assert!(is_internal("__consumer_offsets") && !is_internal("orders"));
    }
}
