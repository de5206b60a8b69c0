//! A line as one OTLP log record in JSON, and back.
//!
//! Source: `opentelemetry/proto/logs/v1/logs.proto` in the JSON mapping that the OTLP specification demands: field names in
//! lowerCamelCase, 64-bit integers as strings, enums as numbers.

use serde::{Deserialize, Serialize};
use tidemill_model::NodeId;

use super::intake::Line;
use crate::admin::types::{LogLevel, LogLine, LogSource};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogRecord {
    time_unix_nano: String,
    severity_number: u32,
    severity_text: String,
    body: AnyValue,
    attributes: Vec<KeyValue>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyValue {
    key: String,
    value: AnyValue,
}

/// The two of OTLP's kinds of values that occur here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum AnyValue {
    StringValue(String),
    IntValue(String),
}

impl AnyValue {
    fn text(&self) -> &str {
        match self {
            AnyValue::StringValue(text) | AnyValue::IntValue(text) => text,
        }
    }
}

/// `SeverityNumber` and text of a level.
fn severity(level: LogLevel) -> (u32, &'static str) {
    match level {
        LogLevel::Debug => (5, "DEBUG"),
        LogLevel::Info => (9, "INFO"),
        LogLevel::Warn => (13, "WARN"),
        LogLevel::Error => (17, "ERROR"),
    }
}

/// Each level has four numbers; `TRACE` counts as debug, `FATAL` as error.
fn level(severity: u32) -> LogLevel {
    match severity {
        0..9 => LogLevel::Debug,
        9..13 => LogLevel::Info,
        13..17 => LogLevel::Warn,
        _ => LogLevel::Error,
    }
}

/// The record's value.
pub(super) fn encode(line: &Line, node: NodeId) -> Vec<u8> {
    let text = |key: &str, value: &str| KeyValue {
        key: key.to_owned(),
        value: AnyValue::StringValue(value.to_owned()),
    };
    let number = |key: &str, value: i64| KeyValue {
        key: key.to_owned(),
        value: AnyValue::IntValue(value.to_string()),
    };
    let about = &line.about;
    let mut attributes = vec![
        text("transform_name", &about.transform),
        number("transform_version", i64::from(about.version)),
        text("topic", &about.topic),
    ];
    attributes.extend(about.partition.map(|p| number("partition", i64::from(p))));
    attributes.extend(about.offset.map(|offset| number("offset", offset)));
    attributes.push(number("node", i64::from(node.0)));
    attributes.push(text("source", line.source.name()));
    let (severity_number, severity_text) = severity(line.level);
    let record = LogRecord {
        time_unix_nano: format!("{}", i128::from(line.at_ms.max(0)) * 1_000_000),
        severity_number,
        severity_text: severity_text.to_owned(),
        body: AnyValue::StringValue(line.message.clone()),
        attributes,
    };
    serde_json::to_vec(&record).expect("strings and numbers always become JSON")
}

/// A line from the value of the record at `position`; `None` where it is something else.
pub(super) fn decode(position: i64, value: &[u8]) -> Option<LogLine> {
    let record: LogRecord = serde_json::from_slice(value).ok()?;
    let attribute = |name: &str| {
        let found = record.attributes.iter().find(|a| a.key == name);
        found.map(|a| a.value.text())
    };
    Some(LogLine {
        position,
        timestamp: record.time_unix_nano.parse::<i64>().ok()? / 1_000_000,
        level: level(record.severity_number),
        source: match attribute("source") {
            Some("broker") => LogSource::Broker,
            _ => LogSource::Transform,
        },
        version: attribute("transform_version")?.parse().ok()?,
        topic: attribute("topic")?.to_owned(),
        partition: attribute("partition").and_then(|p| p.parse().ok()),
        offset: attribute("offset").and_then(|o| o.parse().ok()),
        node: attribute("node")?.parse().ok()?,
        message: record.body.text().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::About;
    use super::*;

    fn line(message: &str) -> Line {
        Line {
            at_ms: 1_767_225_599_999,
            about: About {
                transform: "mask".into(),
                version: 3,
                topic: "orders".into(),
                partition: Some(2),
                offset: Some(17),
            },
            level: LogLevel::Warn,
            source: LogSource::Transform,
            message: message.to_owned(),
        }
    }

    #[test]
    fn line_is_an_otlp_log_record() {
        let json: serde_json::Value =
            serde_json::from_slice(&encode(&line("a \u{1b}[2J\n"), NodeId(1))).expect("JSON");
        let expected = serde_json::json!({
            "timeUnixNano": "1767225599999000000",
            "severityNumber": 13,
            "severityText": "WARN",
            "body": {"stringValue": "a \u{1b}[2J\n"},
            "attributes": [
                {"key": "transform_name", "value": {"stringValue": "mask"}},
                {"key": "transform_version", "value": {"intValue": "3"}},
                {"key": "topic", "value": {"stringValue": "orders"}},
                {"key": "partition", "value": {"intValue": "2"}},
                {"key": "offset", "value": {"intValue": "17"}},
                {"key": "node", "value": {"intValue": "1"}},
                {"key": "source", "value": {"stringValue": "transform"}},
            ],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn line_is_read_as_it_was_written() {
        let read = decode(5, &encode(&line("\u{0}ä"), NodeId(1))).expect("our own record");
        assert_eq!((read.position, read.timestamp), (5, 1_767_225_599_999));
        assert_eq!(
            (read.level, read.source),
            (LogLevel::Warn, LogSource::Transform)
        );
        assert_eq!(
            (read.partition, read.offset, read.version),
            (Some(2), Some(17), 3)
        );
        assert_eq!(read.message, "\u{0}ä");
        assert_eq!(decode(5, b"{}"), None);
        assert_eq!(decode(5, b"\xff"), None);
    }
}
