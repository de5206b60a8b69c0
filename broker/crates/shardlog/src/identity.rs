//! The identity of a data directory: a small text file of `key = value` lines.

use std::fmt;

use tidemill_rt::rand;

/// Version of the layout of the data directory and of every file format in it.
pub const FORMAT_VERSION: u32 = 1;
/// Most bytes of an identity file; more is not one.
pub(crate) const IDENTITY_BYTES_MAX: usize = 4096;

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// 16 bytes in base64url without padding.
const CLUSTER_ID_CHARS: usize = 22;

/// A node's identity, a UUID made with its data directory (rule S12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeUuid(pub [u8; 16]);

impl fmt::Display for NodeUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&tidemill_model::TopicId(self.0), f)
    }
}

/// The cluster's id as Kafka shows it: a UUID in 22 characters of base64url (RFC 4648, section 5).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(String);

impl ClusterId {
    /// A new one, never with a dash in front (which tools would take for an option).
    pub fn random() -> ClusterId {
        let mut bytes = random_uuid();
        // The first character is the upper six bits: 62 is the dash.
        if bytes[0] >> 2 == 62 {
            bytes[0] = 0;
        }
        let value = u128::from_be_bytes(bytes);
        let text = (0..CLUSTER_ID_CHARS).map(|i| {
            // 22 characters carry 132 bits: the last four are zero.
            let shift = 122 - 6 * i as i32;
            let bits = if shift >= 0 {
                value >> shift
            } else {
                value << -shift
            };
            BASE64URL[(bits & 63) as usize] as char
        });
        ClusterId(text.collect())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<ClusterId> {
        let sound = text.len() == CLUSTER_ID_CHARS && text.bytes().all(|b| BASE64URL.contains(&b));
        sound.then(|| ClusterId(text.to_owned()))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a data directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeUuid,
    /// The cluster.
    pub cluster: ClusterId,
    /// Number of shards, fixed when the directory is made.
    pub shards: u16,
    /// Whether a node has begun to serve from it: every shard has a log since then.
    pub initialised: bool,
}

/// Why a text is not an identity.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IdentityError {
    Version(String),
    Malformed(String),
}

impl Identity {
    /// A new node in a new cluster.
    pub(crate) fn random(shards: u16) -> Identity {
        Identity {
            node: NodeUuid(random_uuid()),
            cluster: ClusterId::random(),
            shards,
            initialised: false,
        }
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = format!(
            "# Identity of this Tidemill node. Do not edit, and never copy it to another node.\n\
             format_version = {FORMAT_VERSION}\nnode_id = {}\ncluster_id = {}\nshards = {}\n",
            self.node, self.cluster, self.shards
        );
        if self.initialised {
            text.push_str("initialised = true\n");
        }
        text
    }

    pub(crate) fn decode(text: &str) -> Result<Identity, IdentityError> {
        let malformed = |what: &str| IdentityError::Malformed(what.to_owned());
        let mut lines = Vec::new();
        for line in text.lines().map(str::trim) {
            if !line.is_empty() && !line.starts_with('#') {
                let pair = line
                    .split_once('=')
                    .ok_or_else(|| malformed("a line without ="))?;
                lines.push((pair.0.trim(), pair.1.trim()));
            }
        }
        let get = |key: &str| {
            let mut values = lines.iter().filter(|(k, _)| *k == key).map(|(_, v)| *v);
            match (values.next(), values.next()) {
                (Some(value), None) => Ok(value),
                (None, _) => Err(malformed(&format!("{key} is missing"))),
                _ => Err(malformed(&format!("{key} is there twice"))),
            }
        };
        // First: what other versions write besides is theirs to know.
        let version = get("format_version")?;
        if version != FORMAT_VERSION.to_string() {
            return Err(IdentityError::Version(version.to_owned()));
        }
        let node = get("node_id")?.parse::<tidemill_model::TopicId>();
        let shards = get("shards")?.parse().ok().filter(|n| *n > 0);
        Ok(Identity {
            node: NodeUuid(node.map_err(|_| malformed("node_id is no UUID"))?.0),
            cluster: ClusterId::parse(get("cluster_id")?)
                .ok_or_else(|| malformed("cluster_id is not 22 characters of base64url"))?,
            shards: shards.ok_or_else(|| malformed("shards is no number from 1 to 65535"))?,
            // Directories of before this was written do not say it.
            initialised: lines.contains(&("initialised", "true")),
        })
    }
}

fn random_uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes);
    tidemill_model::TopicId::from_random(bytes).0
}
