//! Requests of consumer groups.

use super::{BOOL, Field, I32, Kind, always, field, since};

pub(super) const JOIN_GROUP: &[Field] = &[
    always("group id", Kind::Text),
    always("session timeout", I32),
    since(1, "rebalance timeout", I32),
    always("member id", Kind::Text),
    since(5, "group instance id", Kind::Text),
    always("protocol type", Kind::Text),
    always(
        "protocols",
        Kind::Array(&Kind::Struct(&[
            always("protocol name", Kind::Text),
            always("protocol metadata", Kind::Bytes),
        ])),
    ),
    since(8, "reason", Kind::Text),
];

pub(super) const SYNC_GROUP: &[Field] = &[
    always("group id", Kind::Text),
    always("generation id", I32),
    always("member id", Kind::Text),
    since(3, "group instance id", Kind::Text),
    since(5, "protocol type", Kind::Text),
    since(5, "protocol name", Kind::Text),
    always(
        "assignments",
        Kind::Array(&Kind::Struct(&[
            always("member id", Kind::Text),
            always("assignment", Kind::Bytes),
        ])),
    ),
];

pub(super) const HEARTBEAT: &[Field] = &[
    always("group id", Kind::Text),
    always("generation id", I32),
    always("member id", Kind::Text),
    since(3, "group instance id", Kind::Text),
];

pub(super) const LEAVE_GROUP: &[Field] = &[
    always("group id", Kind::Text),
    field("member id", Kind::Text, 0, 2),
    since(
        3,
        "members",
        Kind::Array(&Kind::Struct(&[
            always("member id", Kind::Text),
            always("group instance id", Kind::Text),
            since(5, "reason", Kind::Text),
        ])),
    ),
];

pub(super) const DESCRIBE_GROUPS: &[Field] = &[
    always("groups", Kind::Array(&Kind::Text)),
    since(3, "authorized operations", BOOL),
];

pub(super) const LIST_GROUPS: &[Field] = &[
    since(4, "states", Kind::Array(&Kind::Text)),
    since(5, "types", Kind::Array(&Kind::Text)),
];

pub(super) const DELETE_GROUPS: &[Field] = &[always("groups", Kind::Array(&Kind::Text))];

pub(super) const OFFSET_DELETE: &[Field] = &[
    always("group id", Kind::Text),
    always(
        "topics",
        Kind::Array(&Kind::Struct(&[
            always("topic name", Kind::Text),
            always(
                "partitions",
                Kind::Array(&Kind::Struct(&[always("partition", I32)])),
            ),
        ])),
    ),
];
