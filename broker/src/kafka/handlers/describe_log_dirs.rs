//! DescribeLogDirs: how large partitions are, and what room the disk has.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use kafka_protocol::messages::DescribeLogDirsRequest;
use tidemill_model::{PartitionId, TopicId};
use tidemill_rt::fs;
use tidemill_rt::task;
use tidemill_wire::WireError;
use tidemill_wire::log_dirs::{
    LogDir, LogDirPartition, LogDirTopic, LogDirsResponse, MESSAGES_MAX,
};

use super::super::answers::{Answer, Body, Pending};
use super::super::dispatch::Request;
use super::super::error_map::code;
use crate::shard::Shard;

/// Bytes of an answer for a partition, about; for a topic beside its name; and for all else.
const PARTITION_BYTES: usize = 24;
const TOPIC_BYTES: usize = 16;
const ANSWER_BYTES: usize = 256;
/// Partitions looked at before other tasks have their turn.
const PARTITIONS_PER_TURN: usize = 256;

/// The partitions that are asked for; none named means all.
type Asked = Option<BTreeMap<String, BTreeSet<i32>>>;

pub(in super::super) fn start(request: Request) -> Result<Pending, WireError> {
    let body: DescribeLogDirsRequest = request.decode_as(request.version.min(MESSAGES_MAX))?;
    let asked = body.topics.map(|topics| {
        let mut by_name: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for topic in topics {
            let partitions = by_name.entry(topic.topic.to_string()).or_default();
            partitions.extend(topic.partitions);
        }
        by_name
    });
    Ok(Box::pin(async move { answer(&request, asked).await }))
}

async fn answer(request: &Request, asked: Asked) -> Answer {
    let shard = &request.shard;
    let image = shard.image();
    let wanted = |t: &str| asked.as_ref().is_none_or(|asked| asked.contains_key(t));
    let topics: Vec<_> = image
        .topics()
        .filter(|t| wanted(&t.name))
        .cloned()
        .collect();
    let bytes = topics
        .iter()
        .map(|t| t.name.len() + TOPIC_BYTES + t.rings.len() * PARTITION_BYTES);
    let dir = &shard.info.data_dir;
    let bytes = bytes.sum::<usize>() + ANSWER_BYTES + dir.as_os_str().len();
    let room = request.room(bytes).await;
    let ids: BTreeSet<TopicId> = topics.iter().map(|t| t.id).collect();
    let sizes = sizes(shard, ids).await;
    let mut described = Vec::with_capacity(topics.len());
    for topic in &topics {
        let partitions = (0..topic.partition_count()).filter(|index| {
            let named = asked.as_ref().and_then(|asked| asked.get(&topic.name));
            named.is_none_or(|named| named.contains(index))
        });
        let partitions = partitions.filter_map(|index| {
            let bytes = *sizes.get(&topic.partition(index))?;
            Some(LogDirPartition { index, bytes })
        });
        described.push(LogDirTopic {
            name: topic.name.clone(),
            partitions: partitions.collect(),
        });
    }
    // A request that names partitions is answered with those there are.
    described.retain(|t| !t.partitions.is_empty());
    let (error_code, space) = match fs::space(dir).await {
        Ok(space) => (code::NONE, Some(space)),
        Err(error) => {
            tracing::warn!(%error, dir = %dir.display(), "the room on the disk cannot be told");
            (code::KAFKA_STORAGE_ERROR, None)
        }
    };
    let response = LogDirsResponse {
        error_code: code::NONE,
        dirs: vec![LogDir {
            error_code,
            path: dir.to_string_lossy().into_owned(),
            topics: described,
            total_bytes: space.map_or(-1, |s| s.total_bytes),
            usable_bytes: space.map_or(-1, |s| s.usable_bytes),
        }],
    };
    let body = Bytes::from(response.encode(request.version));
    Answer::Body(Body::within(room, vec![body]))
}

/// The bytes of every partition of `topics`, asked of all shards.
async fn sizes(shard: &Rc<Shard>, topics: BTreeSet<TopicId>) -> BTreeMap<PartitionId, u64> {
    let asked = shard.handle.on_all(move |shard| {
        let topics = topics.clone();
        async move { sizes_here(&shard, &topics).await }
    });
    asked
        .await
        .unwrap_or_default()
        .into_iter()
        .flatten()
        .collect()
}

async fn sizes_here(shard: &Rc<Shard>, topics: &BTreeSet<TopicId>) -> Vec<(PartitionId, u64)> {
    let mut out = Vec::new();
    for (_, ring) in shard.rings() {
        let wanted = ring
            .partitions()
            .into_iter()
            .filter(|p| topics.contains(&p.topic));
        for (i, partition) in wanted.enumerate() {
            if i % PARTITIONS_PER_TURN == PARTITIONS_PER_TURN - 1 {
                task::yield_now().await;
            }
            out.extend(ring.stored_bytes(partition).map(|bytes| (partition, bytes)));
        }
    }
    out
}
