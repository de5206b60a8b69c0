//! What the requests look like that the `kafka-protocol` crate decodes, and a bounded walk over them.
//!
//! That crate makes room for as many elements as an array claims before it looks whether they are there, and a failed
//! allocation ends the process. [`walk`] visits every length and count first. The table below follows Kafka's message
//! definitions; a property test holds it against the crate's own encoder.

use crate::api;
use crate::bounded::{ELEMENTS_MAX, Flexible, Reader, WireError};

mod specimen;

pub use specimen::specimen;

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// That many bytes: integers, booleans, UUIDs.
    Fixed(usize),
    /// A text, nullable or not.
    Text,
    /// Bytes with a 32-bit length, nullable or not.
    Bytes,
    /// An array of one type.
    Array(&'static Kind),
    /// A byte, below 0 for nothing; else fields follow it.
    Maybe(&'static [Field]),
    /// Fields one after another, then tagged fields.
    Struct(&'static [Field]),
}

/// A field and the versions that have it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    name: &'static str,
    kind: Kind,
    from: i16,
    to: i16,
}

const fn field(name: &'static str, kind: Kind, from: i16, to: i16) -> Field {
    Field {
        name,
        kind,
        from,
        to,
    }
}

const fn always(name: &'static str, kind: Kind) -> Field {
    field(name, kind, 0, i16::MAX)
}

const fn since(from: i16, name: &'static str, kind: Kind) -> Field {
    field(name, kind, from, i16::MAX)
}

const BOOL: Kind = Kind::Fixed(1);
const I8: Kind = Kind::Fixed(1);
const I16: Kind = Kind::Fixed(2);
const I32: Kind = Kind::Fixed(4);
const I64: Kind = Kind::Fixed(8);
const UUID: Kind = Kind::Fixed(16);

const LIST_OFFSETS: &[Field] = &[
    always("replica id", I32),
    since(2, "isolation level", I8),
    always(
        "topics",
        Kind::Array(&Kind::Struct(&[
            always("topic name", Kind::Text),
            always(
                "partitions",
                Kind::Array(&Kind::Struct(&[
                    always("partition", I32),
                    since(4, "leader epoch", I32),
                    always("timestamp", I64),
                ])),
            ),
        ])),
    ),
    since(10, "timeout", I32),
];

const METADATA: &[Field] = &[
    always(
        "topics",
        Kind::Array(&Kind::Struct(&[
            since(10, "topic id", UUID),
            always("topic name", Kind::Text),
        ])),
    ),
    since(4, "topic creation", BOOL),
    field("cluster operations", BOOL, 8, 10),
    since(8, "topic operations", BOOL),
];

const FIND_COORDINATOR: &[Field] = &[
    field("key", Kind::Text, 0, 3),
    since(1, "key type", I8),
    since(4, "keys", Kind::Array(&Kind::Text)),
];

const API_VERSIONS: &[Field] = &[
    since(3, "client name", Kind::Text),
    since(3, "client version", Kind::Text),
];

const CREATE_TOPICS: &[Field] = &[
    always(
        "topics",
        Kind::Array(&Kind::Struct(&[
            always("topic name", Kind::Text),
            always("partition count", I32),
            always("replication factor", I16),
            always(
                "assignments",
                Kind::Array(&Kind::Struct(&[
                    always("partition", I32),
                    always("brokers", Kind::Array(&I32)),
                ])),
            ),
            always(
                "configs",
                Kind::Array(&Kind::Struct(&[
                    always("config name", Kind::Text),
                    always("config value", Kind::Text),
                ])),
            ),
        ])),
    ),
    always("timeout", I32),
    always("validate only", BOOL),
];

const DELETE_TOPICS: &[Field] = &[
    since(
        6,
        "topics",
        Kind::Array(&Kind::Struct(&[
            always("topic name", Kind::Text),
            always("topic id", UUID),
        ])),
    ),
    field("topic names", Kind::Array(&Kind::Text), 0, 5),
    always("timeout", I32),
];

const DELETE_RECORDS: &[Field] = &[
    always(
        "topics",
        Kind::Array(&Kind::Struct(&[
            always("topic name", Kind::Text),
            always(
                "partitions",
                Kind::Array(&Kind::Struct(&[
                    always("partition", I32),
                    always("offset", I64),
                ])),
            ),
        ])),
    ),
    always("timeout", I32),
];

const INIT_PRODUCER_ID: &[Field] = &[
    always("transactional id", Kind::Text),
    always("timeout", I32),
    since(3, "producer id", I64),
    since(3, "producer epoch", I16),
];

const DESCRIBE_CONFIGS: &[Field] = &[
    always(
        "resources",
        Kind::Array(&Kind::Struct(&[
            always("resource type", I8),
            always("resource name", Kind::Text),
            always("config names", Kind::Array(&Kind::Text)),
        ])),
    ),
    always("synonyms", BOOL),
    since(3, "documentation", BOOL),
];

const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    since(3, "replica id", I32),
    always(
        "topics",
        Kind::Array(&Kind::Struct(&[
            always("topic name", Kind::Text),
            always(
                "partitions",
                Kind::Array(&Kind::Struct(&[
                    always("partition", I32),
                    always("current leader epoch", I32),
                    always("leader epoch", I32),
                ])),
            ),
        ])),
    ),
];

/// Topics by name, each with partitions.
const PARTITIONS_BY_TOPIC: Kind = Kind::Array(&Kind::Struct(&[
    always("topic name", Kind::Text),
    always("partitions", Kind::Array(&I32)),
]));

const ALTER_CONFIGS: &[Field] = &[
    always(
        "resources",
        Kind::Array(&Kind::Struct(&[
            always("resource type", I8),
            always("resource name", Kind::Text),
            always(
                "configs",
                Kind::Array(&Kind::Struct(&[
                    always("config name", Kind::Text),
                    always("config value", Kind::Text),
                ])),
            ),
        ])),
    ),
    always("validate only", BOOL),
];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    always(
        "resources",
        Kind::Array(&Kind::Struct(&[
            always("resource type", I8),
            always("resource name", Kind::Text),
            always(
                "configs",
                Kind::Array(&Kind::Struct(&[
                    always("config name", Kind::Text),
                    always("operation", I8),
                    always("config value", Kind::Text),
                ])),
            ),
        ])),
    ),
    always("validate only", BOOL),
];

const DESCRIBE_LOG_DIRS: &[Field] = &[always("topics", PARTITIONS_BY_TOPIC)];

const CREATE_PARTITIONS: &[Field] = &[
    always(
        "topics",
        Kind::Array(&Kind::Struct(&[
            always("topic name", Kind::Text),
            always("partition count", I32),
            always(
                "assignments",
                Kind::Array(&Kind::Struct(&[always("brokers", Kind::Array(&I32))])),
            ),
        ])),
    ),
    always("timeout", I32),
    always("validate only", BOOL),
];

const ELECT_LEADERS: &[Field] = &[
    since(1, "election type", I8),
    always("topics", PARTITIONS_BY_TOPIC),
    always("timeout", I32),
];

const LIST_PARTITION_REASSIGNMENTS: &[Field] = &[
    always("timeout", I32),
    always("topics", PARTITIONS_BY_TOPIC),
];

const DESCRIBE_CLUSTER: &[Field] = &[
    always("cluster operations", BOOL),
    since(1, "endpoint type", I8),
    since(2, "fenced brokers", BOOL),
];

const DESCRIBE_PRODUCERS: &[Field] = &[always("topics", PARTITIONS_BY_TOPIC)];

const LIST_CONFIG_RESOURCES: &[Field] = &[since(1, "resource types", Kind::Array(&I8))];

const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    always(
        "topics",
        Kind::Array(&Kind::Struct(&[always("topic name", Kind::Text)])),
    ),
    always("partition limit", I32),
    always(
        "cursor",
        Kind::Maybe(&[always("topic name", Kind::Text), always("partition", I32)]),
    ),
];

mod groups;

/// Most array elements of a request that carries no data and names no partitions.
const ELEMENTS_FEW: usize = 20_000;

/// Most array elements of a request.
fn elements_max(api_key: i16) -> usize {
    match api_key {
        // It names partitions, as data requests do.
        api::LIST_OFFSETS
        | api::OFFSET_FOR_LEADER_EPOCH
        | api::OFFSET_DELETE
        | api::DELETE_RECORDS => ELEMENTS_MAX,
        _ => ELEMENTS_FEW,
    }
}

fn fields(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        api::LIST_OFFSETS => LIST_OFFSETS,
        api::METADATA => METADATA,
        api::FIND_COORDINATOR => FIND_COORDINATOR,
        api::API_VERSIONS => API_VERSIONS,
        api::CREATE_TOPICS => CREATE_TOPICS,
        api::DELETE_TOPICS => DELETE_TOPICS,
        api::DELETE_RECORDS => DELETE_RECORDS,
        api::INIT_PRODUCER_ID => INIT_PRODUCER_ID,
        api::DESCRIBE_CONFIGS => DESCRIBE_CONFIGS,
        api::OFFSET_FOR_LEADER_EPOCH => OFFSET_FOR_LEADER_EPOCH,
        api::ALTER_CONFIGS => ALTER_CONFIGS,
        api::DESCRIBE_LOG_DIRS => DESCRIBE_LOG_DIRS,
        api::CREATE_PARTITIONS => CREATE_PARTITIONS,
        api::ELECT_LEADERS => ELECT_LEADERS,
        api::INCREMENTAL_ALTER_CONFIGS => INCREMENTAL_ALTER_CONFIGS,
        api::LIST_PARTITION_REASSIGNMENTS => LIST_PARTITION_REASSIGNMENTS,
        api::DESCRIBE_CLUSTER => DESCRIBE_CLUSTER,
        api::DESCRIBE_PRODUCERS => DESCRIBE_PRODUCERS,
        api::LIST_CONFIG_RESOURCES => LIST_CONFIG_RESOURCES,
        api::DESCRIBE_TOPIC_PARTITIONS => DESCRIBE_TOPIC_PARTITIONS,
        api::JOIN_GROUP => groups::JOIN_GROUP,
        api::SYNC_GROUP => groups::SYNC_GROUP,
        api::HEARTBEAT => groups::HEARTBEAT,
        api::LEAVE_GROUP => groups::LEAVE_GROUP,
        api::DESCRIBE_GROUPS => groups::DESCRIBE_GROUPS,
        api::LIST_GROUPS => groups::LIST_GROUPS,
        api::DELETE_GROUPS => groups::DELETE_GROUPS,
        api::OFFSET_DELETE => groups::OFFSET_DELETE,
        _ => return None,
    })
}

/// Checks that every length and count in the request body fits into it. Returns the bytes of the body that the request
/// takes up; like Kafka, nobody minds bytes after it.
///
/// # Errors
/// [`WireError`]; [`WireError::Version`] for an API that is not in the table or not served in that version.
pub fn walk(api_key: i16, version: i16, body: &[u8]) -> Result<usize, WireError> {
    let served = api::find(api_key).filter(|api| api.serves(version));
    let (Some(api), Some(fields)) = (served, fields(api_key)) else {
        return Err(WireError::Version {
            api: api_key,
            version,
        });
    };
    let mut reader = Reader::limited(body, elements_max(api_key));
    let walk = Walk {
        version,
        flexible: api.flexible(version),
    };
    walk.fields(&mut reader, fields)?;
    Ok(body.len() - reader.remaining())
}

struct Walk {
    version: i16,
    flexible: Flexible,
}

impl Walk {
    fn fields(&self, r: &mut Reader<'_>, fields: &[Field]) -> Result<(), WireError> {
        for f in fields {
            if (f.from..=f.to).contains(&self.version) {
                self.value(r, f.name, &f.kind)?;
            }
        }
        r.skip_tagged(self.flexible)
    }

    fn value(&self, r: &mut Reader<'_>, name: &'static str, kind: &Kind) -> Result<(), WireError> {
        match kind {
            Kind::Fixed(bytes) => r.take(*bytes, name).map(drop),
            Kind::Text => r.nullable_string(self.flexible, name).map(drop),
            Kind::Bytes => r.nullable_bytes(self.flexible, name).map(drop),
            Kind::Struct(fields) => self.fields(r, fields),
            Kind::Maybe(fields) => match r.i8(name)? {
                ..0 => Ok(()),
                _ => self.fields(r, fields),
            },
            Kind::Array(element) => {
                let min = self.bytes_min(element);
                let count = r.nullable_count(self.flexible, min, name)?.unwrap_or(0);
                (0..count).try_for_each(|_| self.value(r, name, element))
            }
        }
    }

    /// Fewest bytes of a value.
    fn bytes_min(&self, kind: &Kind) -> usize {
        match (kind, self.flexible) {
            (Kind::Fixed(bytes), _) => *bytes,
            (Kind::Text | Kind::Bytes | Kind::Array(_), Flexible::Yes) | (Kind::Maybe(_), _) => 1,
            (Kind::Text, Flexible::No) => 2,
            (Kind::Bytes | Kind::Array(_), Flexible::No) => 4,
            (Kind::Struct(fields), flexible) => {
                let present = fields
                    .iter()
                    .filter(|f| (f.from..=f.to).contains(&self.version));
                present.map(|f| self.bytes_min(&f.kind)).sum::<usize>()
                    + usize::from(flexible == Flexible::Yes)
            }
        }
    }
}

#[cfg(test)]
mod tests;
