//! The settings of the broker that DescribeConfigs tells, by Kafka's names.

use std::time::Duration;

use super::describe_configs::{
    SOURCE_BROKER, SOURCE_DEFAULT, Setting, TYPE_BOOLEAN, TYPE_INT, TYPE_LONG,
};
use crate::config::Settings;
use crate::shard::NodeInfo;
use crate::topics::REPLICAS_DEFAULT;

/// A setting of the broker's and what Kafka calls it.
pub(super) struct BrokerSetting {
    /// Kafka's name.
    name: &'static str,
    /// Section and key of the settings it stands in; `None` for what cannot be set.
    of: Option<(&'static str, &'static str)>,
    kind: i8,
    doc: &'static str,
    value: fn(&Settings) -> String,
}

fn ms(time: Duration) -> String {
    time.as_millis().to_string()
}

fn or_unlimited(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-1".to_owned())
}

/// All that are told, by name.
pub(super) const BROKER_SETTINGS: &[BrokerSetting] = &[
    BrokerSetting {
        name: "auto.create.topics.enable",
        of: Some(("topics", "auto_create")),
        kind: TYPE_BOOLEAN,
        doc: "Topics asked for are made.",
        value: |s| s.topics.auto_create.to_string(),
    },
    BrokerSetting {
        name: "connections.max.idle.ms",
        of: Some(("kafka", "idle_timeout")),
        kind: TYPE_LONG,
        doc: "Idle connections are closed.",
        value: |s| ms(s.kafka.idle_timeout),
    },
    BrokerSetting {
        name: "default.replication.factor",
        of: None,
        kind: TYPE_INT,
        doc: "Of topics made without one.",
        value: |_| REPLICAS_DEFAULT.to_string(),
    },
    BrokerSetting {
        name: "log.retention.bytes",
        of: Some(("topics", "retention_size")),
        kind: TYPE_LONG,
        doc: "Default of the topic setting retention.bytes.",
        value: |s| or_unlimited(s.topics.retention_size.map(|n| n.to_string())),
    },
    BrokerSetting {
        name: "log.retention.check.interval.ms",
        of: Some(("topics", "retention_interval")),
        kind: TYPE_LONG,
        doc: "How often is looked for what retention removes.",
        value: |s| ms(s.topics.retention_interval),
    },
    BrokerSetting {
        name: "log.retention.ms",
        of: Some(("topics", "retention")),
        kind: TYPE_LONG,
        doc: "Default of the topic setting retention.ms.",
        value: |s| or_unlimited(s.topics.retention.map(ms)),
    },
    BrokerSetting {
        name: "log.roll.ms",
        of: Some(("topics", "segment_age")),
        kind: TYPE_LONG,
        doc: "Default of the topic setting segment.ms.",
        value: |s| ms(s.topics.segment_age),
    },
    BrokerSetting {
        name: "log.segment.bytes",
        of: Some(("topics", "segment_size")),
        kind: TYPE_INT,
        doc: "Default of the topic setting segment.bytes.",
        value: |s| s.topics.segment_size.to_string(),
    },
    BrokerSetting {
        name: "message.max.bytes",
        of: Some(("topics", "message_size_max")),
        kind: TYPE_INT,
        doc: "Default of the topic setting max.message.bytes.",
        value: |s| s.topics.message_size_max.to_string(),
    },
    BrokerSetting {
        name: "num.partitions",
        of: Some(("topics", "partitions")),
        kind: TYPE_INT,
        doc: "Of topics made without a number.",
        value: |s| s.topics.partitions.to_string(),
    },
    BrokerSetting {
        name: "socket.request.max.bytes",
        of: Some(("kafka", "request_size_max")),
        kind: TYPE_INT,
        doc: "Largest request.",
        value: |s| s.kafka.request_size_max.to_string(),
    },
];

impl BrokerSetting {
    /// The setting as it is answered.
    pub(super) fn told(&self, info: &NodeInfo) -> Setting {
        let value = (self.value)(&info.settings);
        let stated = self.of.is_some_and(|(s, k)| info.stated.contains(s, k));
        Setting {
            name: self.name,
            default_name: self.name,
            default: (self.value)(&Settings::default()),
            source: if stated {
                SOURCE_BROKER
            } else {
                SOURCE_DEFAULT
            },
            given: stated.then(|| value.clone()),
            value,
            kind: self.kind,
            read_only: true,
            doc: self.doc,
        }
    }
}
