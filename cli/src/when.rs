//! Points in time as people write them.

use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_model::moment::{self, MomentError};

/// Milliseconds since the Unix epoch, now.
pub(crate) fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| {
        i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
    })
}

/// A point in time, ms since the Unix epoch, as clap's value parser. An `@` before it, as positions of transforms have it, is left out.
///
/// # Errors
/// The forms there are, where it is none.
pub(crate) fn parse(text: &str) -> Result<i64, MomentError> {
    parse_at(text, now_ms())
}

fn parse_at(text: &str, now_ms: i64) -> Result<i64, MomentError> {
    moment::parse(text.strip_prefix('@').unwrap_or(text), now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_positions_of_transforms_are_written() {
        let now = 1_767_225_599_999;
        for text in ["1767225599999", "2025-12-31T23:59:59.999Z", "0s"] {
            assert_eq!(parse_at(text, now), Ok(now), "{text}");
            assert_eq!(parse_at(&format!("@{text}"), now), Ok(now), "{text}");
        }
        for text in ["", "@", "@@0", "yesterday"] {
            assert!(parse_at(text, now).is_err(), "{text}");
        }
    }
}
