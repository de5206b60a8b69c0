//! Names of members: whether each is there once, and none is one that the reader of JSON takes for something of its own.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Deserialize;
use tidemill_sdk::json::{self, Event};

use crate::path::{NESTING_MAX, Unreadable};

/// How names begin that serde_json, built to keep numbers exactly, gives a meaning of its own: an object with one is read as a number.
const PRIVATE: &str = "$serde_json::private::";

/// What becomes of a value in which an object has two members of one name. Readers of JSON differ in which of them they take, so that what
/// was checked here need not be what is read later (RFC 8259, section 4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repeated {
    /// It is not valid.
    #[default]
    Fail,
    /// The last counts, as for most readers.
    Last,
}

/// Why the names are not as they should be.
enum Wrong {
    Text(Unreadable),
    Repeated,
    Private,
}

impl From<json::NotJson> for Wrong {
    fn from(error: json::NotJson) -> Wrong {
        Wrong::Text(error.into())
    }
}

/// Looks at all names in `text`.
///
/// # Errors
/// When `text` is not JSON or nested too deep, a name is there twice and should not be, or is one of serde_json's own. No name is told.
pub fn check(text: &[u8], repeated: Repeated) -> Result<(), String> {
    let mut levels: Vec<HashSet<Cow<'_, str>>> = Vec::new();
    let walked = json::walk(text, |event| {
        match event {
            Event::Open { .. } if levels.len() == NESTING_MAX => {
                return Err(Wrong::Text(Unreadable::TooDeep));
            }
            Event::Open { .. } => levels.push(HashSet::new()),
            Event::Close { .. } => drop(levels.pop()),
            Event::Name(place) => {
                let name = json::meaning(&text[place]);
                if name.starts_with(PRIVATE) {
                    return Err(Wrong::Private);
                }
                let names = levels.last_mut();
                if repeated == Repeated::Fail && names.is_some_and(|names| !names.insert(name)) {
                    return Err(Wrong::Repeated);
                }
            }
            Event::String(_) | Event::Number(_) | Event::Word(_) => {}
        }
        Ok(())
    });
    walked.map_err(|wrong| match wrong {
        Wrong::Text(error) => error.to_string(),
        Wrong::Repeated => {
            "an object has two members of one name, of which readers take the first or the last; \
             write each once (repeated_names=last takes the last)"
                .to_owned()
        }
        Wrong::Private => format!("a member's name begins with {PRIVATE}, which cannot be read"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_values_and_other_texts_are_refused() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert_eq!(
            check(nested(NESTING_MAX).as_bytes(), Repeated::Fail),
            Ok(())
        );
        for text in [nested(NESTING_MAX + 1), "{".to_owned(), String::new()] {
            assert!(
                check(text.as_bytes(), Repeated::Last).is_err(),
                "{text:.40}"
            );
        }
    }
}
