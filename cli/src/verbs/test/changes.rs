//! What is different between a record and what was made of it.

use serde_json::Value;
use tidemill_model::moment;
use tidemill_wasm_host::Destination;

use super::shown::{placed, text_of};
use crate::local::{LocalOutput, LocalRecord};

/// Differences shown of one record.
const SHOWN_MAX: usize = 8;
/// Characters shown of a value.
const VALUE_CHARS_MAX: usize = 60;

/// The differences, a line each: members of JSON by path, else the value as a whole; key, headers, timestamp, placement.
pub(super) fn between(before: &LocalRecord, output: &LocalOutput) -> Vec<String> {
    let after = &output.record;
    let mut found = Vec::new();
    if before.key != after.key {
        found.push(change(
            "key",
            shown(before.key.as_deref()),
            shown(after.key.as_deref()),
        ));
    }
    values(before.value.as_deref(), after.value.as_deref(), &mut found);
    for header in after.headers.iter().filter(|h| !before.headers.contains(h)) {
        found.push(format!(
            "+ header {}={}",
            header.0,
            shown(header.1.as_deref()).unwrap_or_default()
        ));
    }
    for header in before.headers.iter().filter(|h| !after.headers.contains(h)) {
        found.push(format!(
            "- header {}={}",
            header.0,
            shown(header.1.as_deref()).unwrap_or_default()
        ));
    }
    if before.timestamp != after.timestamp {
        found.push(format!(
            "~ timestamp: {} -> {}",
            moment::shown(before.timestamp),
            moment::shown(after.timestamp)
        ));
    }
    if output.to != Destination::ByInput {
        found.push(format!("~ placed: {}", placed(output.to)));
    }
    if found.len() > SHOWN_MAX {
        let more = found.len() - SHOWN_MAX;
        found.truncate(SHOWN_MAX);
        found.push(format!("and {more} more"));
    }
    found
}

fn values(before: Option<&[u8]>, after: Option<&[u8]>, found: &mut Vec<String>) {
    if before == after {
        return;
    }
    let json = |bytes: Option<&[u8]>| serde_json::from_slice::<Value>(bytes?).ok();
    match (json(before), json(after)) {
        (Some(before), Some(after)) => {
            let had = found.len();
            members("", &before, &after, found);
            if found.len() == had {
                found.push("~ the same JSON, written differently".to_owned());
            }
        }
        // The lines above show both whole.
        _ => found.push("~ value".to_owned()),
    }
}

fn members(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    if before == after {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        let name = if path.is_empty() { "value" } else { path };
        found.push(change(
            name,
            Some(short(&before.to_string())),
            Some(short(&after.to_string())),
        ));
        return;
    };
    let within = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    for (name, value) in old {
        match new.get(name) {
            Some(now) => members(&within(name), value, now, found),
            None => found.push(change(&within(name), Some(short(&value.to_string())), None)),
        }
    }
    for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        found.push(change(&within(name), None, Some(short(&value.to_string()))));
    }
}

fn change(name: &str, before: Option<String>, after: Option<String>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("~ {name}: {before} -> {after}"),
        (Some(before), None) => format!("- {name}: {before}"),
        (None, Some(after)) => format!("+ {name}: {after}"),
        (None, None) => format!("~ {name}"),
    }
}

fn shown(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| short(&text_of(bytes)))
}

fn short(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&str>, value: &str) -> LocalRecord {
        LocalRecord {
            key: key.map(|key| key.as_bytes().to_vec()),
            value: Some(value.as_bytes().to_vec()),
            ..LocalRecord::default()
        }
    }

    fn output(record: LocalRecord, to: Destination) -> LocalOutput {
        LocalOutput {
            topic: "out".to_owned(),
            to,
            record,
        }
    }

    #[test]
    fn members_of_json_are_compared_by_path() {
        let before = record(None, r#"{"a":{"b":1,"c":2},"gone":true,"same":[1]}"#);
        let after = record(Some("k"), r#"{"a":{"b":"x","c":2},"same":[1],"new":null}"#);
        assert_eq!(
            between(&before, &output(after, Destination::ByKey)),
            [
                "+ key: k",
                "~ a.b: 1 -> \"x\"",
                "- gone: true",
                "+ new: null",
                "~ placed: by key"
            ]
        );
    }

    #[test]
    fn what_is_equal_is_not_told_and_what_is_no_json_is_told_as_a_whole() {
        let of = |before: &str, after: &str| {
            between(
                &record(None, before),
                &output(record(None, after), Destination::ByInput),
            )
        };
        assert_eq!(of("x", "x"), Vec::<String>::new());
        assert_eq!(of("x", "y"), ["~ value"]);
        assert_eq!(
            of("{\"a\":1}", "{ \"a\": 1 }"),
            ["~ the same JSON, written differently"]
        );
        assert_eq!(of("[1]", "[2]"), ["~ value: [1] -> [2]"]);
    }

    #[test]
    fn headers_and_time_are_compared_and_much_is_cut() {
        let before = LocalRecord {
            headers: vec![("a".to_owned(), Some(b"1".to_vec()))],
            ..record(None, "{}")
        };
        let after = LocalRecord {
            headers: vec![("b".to_owned(), None)],
            timestamp: 1,
            ..record(None, "{}")
        };
        let found = between(&before, &output(after, Destination::Partition(3)));
        assert_eq!(found.len(), 4, "{found:?}");
        let many: String = (0..20).map(|n| format!("\"m{n}\":{n},")).collect();
        let many = format!("{{{}}}", many.trim_end_matches(','));
        let found = between(&before, &output(record(None, &many), Destination::ByInput));
        assert_eq!(
            (found.len(), found[SHOWN_MAX].as_str()),
            (SHOWN_MAX + 1, "and 13 more")
        );
    }
}
