//! DescribeLogDirsResponse, versions 1 to 5. The message crate ends with version 4; the request of 5 is that of 4.

use crate::bounded::Flexible;
use crate::write::Writer;

const FLEXIBLE_FROM: i16 = 2;
/// Newest version that the message crate knows.
pub const MESSAGES_MAX: i16 = 4;

/// A DescribeLogDirsResponse.
#[derive(Debug, Clone)]
pub struct LogDirsResponse {
    /// An error of the whole request, 0 for none.
    pub error_code: i16,
    /// The folders.
    pub dirs: Vec<LogDir>,
}

/// A folder with partitions.
#[derive(Debug, Clone)]
pub struct LogDir {
    /// A Kafka error code, 0 for none.
    pub error_code: i16,
    /// Its path.
    pub path: String,
    /// What is in it.
    pub topics: Vec<LogDirTopic>,
    /// Size of the file system in bytes, -1 when unknown.
    pub total_bytes: i64,
    /// What of it can still be written, in bytes, -1 when unknown.
    pub usable_bytes: i64,
}

/// A topic in a folder.
#[derive(Debug, Clone)]
pub struct LogDirTopic {
    /// Its name.
    pub name: String,
    /// Its partitions there.
    pub partitions: Vec<LogDirPartition>,
}

/// A partition in a folder.
#[derive(Debug, Clone, Copy)]
pub struct LogDirPartition {
    /// Its index.
    pub index: i32,
    /// Its size in bytes.
    pub bytes: u64,
}

impl LogDirsResponse {
    /// The body in `version`; what that version does not know is left out.
    pub fn encode(&self, version: i16) -> Vec<u8> {
        let mut w = Writer::new(Flexible::of(version, FLEXIBLE_FROM));
        w.i32(0);
        if version >= 3 {
            w.i16(self.error_code);
        }
        w.count(self.dirs.len());
        for dir in &self.dirs {
            dir.encode(&mut w, version);
        }
        w.no_tags();
        w.into_bytes()
    }
}

impl LogDir {
    fn encode(&self, w: &mut Writer, version: i16) {
        w.i16(self.error_code);
        w.string(Some(&self.path));
        w.count(self.topics.len());
        for topic in &self.topics {
            w.string(Some(&topic.name));
            w.count(topic.partitions.len());
            for partition in &topic.partitions {
                w.i32(partition.index);
                w.i64(i64::try_from(partition.bytes).unwrap_or(i64::MAX));
                // No replica lags here, and none moves between folders.
                w.i64(0);
                w.boolean(false);
                w.no_tags();
            }
            w.no_tags();
        }
        if version >= 4 {
            w.i64(self.total_bytes);
            w.i64(self.usable_bytes);
        }
        if version >= 5 {
            // Folders cannot be cordoned (KIP-1066).
            w.boolean(false);
        }
        w.no_tags();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::messages::DescribeLogDirsResponse;
    use kafka_protocol::protocol::Decodable;

    use super::*;

    fn response() -> LogDirsResponse {
        let partition = LogDirPartition {
            index: 3,
            bytes: 1 << 40,
        };
        LogDirsResponse {
            error_code: 0,
            dirs: vec![LogDir {
                error_code: 56,
                path: "/data".to_owned(),
                topics: vec![LogDirTopic {
                    name: "t".to_owned(),
                    partitions: vec![partition; 200],
                }],
                total_bytes: 500,
                usable_bytes: 400,
            }],
        }
    }

    #[test]
    fn response_is_what_the_message_crate_reads() {
        for version in 1..=MESSAGES_MAX {
            let mut body = Bytes::from(response().encode(version));
            let read = DescribeLogDirsResponse::decode(&mut body, version).unwrap();
            assert!(body.is_empty(), "version {version}");
            let dir = &read.results[0];
            assert_eq!((dir.error_code, &*dir.log_dir), (56, "/data"));
            let partition = &dir.topics[0].partitions[199];
            assert_eq!(
                (partition.partition_index, partition.partition_size),
                (3, 1 << 40)
            );
            let room = if version >= 4 { (500, 400) } else { (-1, -1) };
            assert_eq!((dir.total_bytes, dir.usable_bytes), room);
        }
    }

    #[test]
    fn version_5_says_that_no_folder_is_cordoned() {
        let (older, newer) = (response().encode(4), response().encode(5));
        assert_eq!(newer.len(), older.len() + 1);
        assert_eq!(newer[..older.len() - 2], older[..older.len() - 2]);
        assert_eq!(newer[older.len() - 2..], [0, 0, 0]);
    }
}
