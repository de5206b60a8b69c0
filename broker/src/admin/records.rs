//! Records of the admin API: lines in, lines out, and the partition that a key belongs to.
//!
//! Keys, values and header values are text where they are UTF-8; otherwise their `_base64` twin carries them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::service::ApiError;

/// Records that one request may carry.
pub(crate) const RECORDS_PER_REQUEST_MAX: usize = 100_000;

/// A record to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NewRecord {
    /// The partition it must go to, where its writer says so.
    pub(crate) partition: Option<i32>,
    /// Its key.
    pub(crate) key: Option<Bytes>,
    /// Its value; none is a tombstone.
    pub(crate) value: Option<Bytes>,
    /// Its headers, in order.
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadRecord {
    /// Its partition.
    pub(crate) partition: i32,
    /// Its offset.
    pub(crate) offset: i64,
    /// Its timestamp.
    pub(crate) timestamp: i64,
    /// Its key.
    pub(crate) key: Option<Bytes>,
    /// Its value.
    pub(crate) value: Option<Bytes>,
    /// Its headers, in order.
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
}

/// A reading, checked and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadQuery {
    /// Where to begin in partitions that have no position, as `from` of a deploy is written.
    pub(crate) from: String,
    /// Offsets to go on from, by partition.
    pub(crate) positions: BTreeMap<i32, i64>,
    /// Records at most, over all partitions.
    pub(crate) max: usize,
    /// Bytes of keys, values and headers at most, over all partitions; one record may pass it.
    pub(crate) max_bytes: usize,
    /// How long to wait for a record where there is none, milliseconds.
    pub(crate) wait_ms: u64,
}

/// What a reading found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ReadRecords {
    /// The records; in order within each partition.
    pub(crate) records: Vec<ReadRecord>,
    /// Where to go on, for **every** partition of the topic, with records or not.
    pub(crate) next: BTreeMap<i32, i64>,
    /// What is there and cannot be shown; `next` is beyond it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unreadable: Vec<Unreadable>,
}

impl ReadRecords {
    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.unreadable.is_empty()
    }
}

/// A record, or the rest of a batch, that cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Unreadable {
    /// Its partition.
    pub(crate) partition: i32,
    /// Its offset, or the first of the batch's rest.
    pub(crate) offset: i64,
    /// Why.
    pub(crate) message: String,
}

/// A record as a line of NDJSON says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    partition: Option<i32>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    key_base64: Option<String>,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    value_base64: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Option<String>)>,
}

/// The records of an NDJSON body, empty lines left out.
///
/// # Errors
/// `invalid_record` with the line's number where a line is not a record, and `too_many_records` above
/// [`RECORDS_PER_REQUEST_MAX`].
pub(crate) fn parse_lines(body: &[u8]) -> Result<Vec<NewRecord>, ApiError> {
    let mut records = Vec::new();
    for (index, line) in body.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if records.len() == RECORDS_PER_REQUEST_MAX {
            return Err(ApiError::new(
                413,
                "too_many_records",
                format!(
                    "a request carries at most {RECORDS_PER_REQUEST_MAX} records; send the rest in another"
                ),
            ));
        }
        records.push(parse_line(line).map_err(|reason| {
            ApiError::bad_request(
                "invalid_record",
                format!("line {} is not a record: {reason}", index + 1),
            )
        })?);
    }
    Ok(records)
}

fn parse_line(line: &[u8]) -> Result<NewRecord, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    Ok(NewRecord {
        partition: line.partition,
        key: text_or_base64("key", line.key, line.key_base64)?,
        value: text_or_base64("value", line.value, line.value_base64)?,
        headers: line
            .headers
            .into_iter()
            .map(|(name, value)| (name, value.map(Bytes::from)))
            .collect(),
    })
}

fn text_or_base64(
    field: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("give `{field}` or `{field}_base64`, not both")),
        (Some(text), None) => Ok(Some(Bytes::from(text))),
        (None, Some(encoded)) => match STANDARD.decode(encoded) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(error) => Err(format!("`{field}_base64`: {error}")),
        },
        (None, None) => Ok(None),
    }
}

impl Serialize for ReadRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("partition", &self.partition)?;
        map.serialize_entry("offset", &self.offset)?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        serialize_text(&mut map, ("key", "key_base64"), self.key.as_deref())?;
        serialize_text(&mut map, ("value", "value_base64"), self.value.as_deref())?;
        let headers: Vec<(&str, HeaderValue<'_>)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), HeaderValue(value.as_deref())))
            .collect();
        map.serialize_entry("headers", &headers)?;
        map.end()
    }
}

fn serialize_text<M: SerializeMap>(
    map: &mut M,
    names: (&str, &str),
    bytes: Option<&[u8]>,
) -> Result<(), M::Error> {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => map.serialize_entry(names.0, &()),
        Some((_, Ok(text))) => map.serialize_entry(names.0, text),
        Some((bytes, Err(_))) => map.serialize_entry(names.1, &STANDARD.encode(bytes)),
    }
}

/// A header's value: text, `null`, or an object with `base64`.
struct HeaderValue<'a>(Option<&'a [u8]>);

impl Serialize for HeaderValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => serializer.serialize_unit(),
            Some((_, Ok(text))) => serializer.serialize_str(text),
            Some((bytes, Err(_))) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(bytes))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_give_text_binary_and_tombstones() {
        let body = b"{\"key\":\"k\",\"value\":\"v\",\"headers\":[[\"a\",\"1\"],[\"b\",null]]}\n\n{\"value_base64\":\"/w==\",\"partition\":2}\n{}";
        let records = parse_lines(body).expect("lines are records");
        assert_eq!(records.len(), 3);
        assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
        assert_eq!(records[0].headers[1], ("b".to_owned(), None));
        assert_eq!(records[1].value.as_deref(), Some(&[0xff][..]));
        assert_eq!(records[1].partition, Some(2));
        assert_eq!(records[2], NewRecord::default());
    }

    #[test]
    fn line_that_is_no_record_is_refused_with_its_number() {
        for bad in [
            "{\"value\":\"v\",\"value_base64\":\"\"}",
            "{\"val\":\"v\"}",
            "no",
            "{\"key_base64\":\"*\"}",
        ] {
            let error =
                parse_lines(format!("{{}}\n{bad}\n").as_bytes()).expect_err("line 2 is bad");
            assert_eq!((error.status, &*error.code), (400, "invalid_record"));
            assert!(error.message.contains("line 2"), "{}", error.message);
        }
    }

    #[test]
    fn read_record_carries_binary_as_base64() {
        let record = ReadRecord {
            partition: 1,
            offset: 5,
            timestamp: 7,
            key: None,
            value: Some(Bytes::from_static(&[0xff, 0])),
            headers: vec![
                ("h".into(), Some(Bytes::from_static(b"x"))),
                ("b".into(), Some(Bytes::from_static(&[0xfe]))),
            ],
        };
        let json = serde_json::to_string(&record).expect("serializes");
        assert_eq!(
            json,
            r#"{"partition":1,"offset":5,"timestamp":7,"key":null,"value_base64":"/wA=","headers":[["h","x"],["b",{"base64":"/g=="}]]}"#
        );
    }
}
