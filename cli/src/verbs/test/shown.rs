//! Records as they are shown.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tidemill_wasm_host::Destination;

use crate::local::{LocalOutput, LocalRecord};

/// Key, value and headers on one line.
pub(super) fn line_of(record: &LocalRecord) -> String {
    let key = record
        .key
        .as_deref()
        .map(|key| format!("{}\t", text_of(key)))
        .unwrap_or_default();
    let value = record
        .value
        .as_deref()
        .map_or("(no value)".to_owned(), text_of);
    let headers: Vec<String> = record
        .headers
        .iter()
        .map(|(name, value)| {
            format!(
                "{name}={}",
                value.as_deref().map(text_of).unwrap_or_default()
            )
        })
        .collect();
    let headers = if headers.is_empty() {
        String::new()
    } else {
        format!("  [{}]", headers.join(", "))
    };
    format!("{key}{value}{headers}")
}

/// Text as it is; what is not text, as base64.
pub(super) fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", STANDARD.encode(bytes)),
    }
}

/// A record as the admin API would write it.
pub(super) fn object_of(record: &LocalRecord) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, bytes) in [("key", &record.key), ("value", &record.value)] {
        match bytes
            .as_deref()
            .map(|bytes| (bytes, std::str::from_utf8(bytes)))
        {
            None => object.insert(name.to_owned(), Value::Null),
            Some((_, Ok(text))) => object.insert(name.to_owned(), json!(text)),
            Some((bytes, Err(_))) => {
                object.insert(format!("{name}_base64"), json!(STANDARD.encode(bytes)))
            }
        };
    }
    let headers = record.headers.iter();
    let headers: Vec<Value> = headers
        .map(
            |(name, value)| match value.as_deref().map(|v| (v, std::str::from_utf8(v))) {
                None => json!([name, null]),
                Some((_, Ok(text))) => json!([name, text]),
                Some((bytes, Err(_))) => json!([name, { "base64": STANDARD.encode(bytes) }]),
            },
        )
        .collect();
    object.insert("headers".to_owned(), json!(headers));
    object.insert("timestamp".to_owned(), json!(record.timestamp));
    object
}

/// A record that was written, with its topic and where it goes.
pub(super) fn output(output: &LocalOutput) -> Value {
    let mut object = object_of(&output.record);
    object.insert("topic".to_owned(), json!(output.topic));
    object.insert("placement".to_owned(), json!(placed(output.to)));
    Value::Object(object)
}

/// Which partition a record goes to, in words.
pub(super) fn placed(to: Destination) -> String {
    match to {
        Destination::ByInput => "by input".to_owned(),
        Destination::ByKey => "by key".to_owned(),
        Destination::Partition(partition) => format!("partition {partition}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_shown_on_one_line() {
        let record = LocalRecord {
            key: Some(b"k".to_vec()),
            headers: vec![("h".to_owned(), Some(vec![0xff])), ("e".to_owned(), None)],
            ..LocalRecord::default()
        };
        assert_eq!(line_of(&record), "k\t(no value)  [h=base64:/w==, e=]");
        assert_eq!(
            Value::Object(object_of(&record)).to_string(),
            r#"{"headers":[["h",{"base64":"/w=="}],["e",null]],"key":"k","timestamp":0,"value":null}"#
        );
    }
}
