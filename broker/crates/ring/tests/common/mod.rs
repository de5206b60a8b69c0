//! What the simulations of rings share: records that can be told apart and checked, and a shard with its rings.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::record::{BatchBuilder, NewRecord, Producer, Records};
use tidemill_model::{Batch, BatchHeader, NodeId, Offset, PartitionId, RingId, TopicId};
use tidemill_ring::{MemoryConfig, Ring, RingConfig, ShardMemory};
use tidemill_rt::sim::Sim;
use tidemill_rt::time;
use tidemill_shardlog::{LogConfig, LogError, RecoveredRing, ShardLog};

const SHARD_DIR: &str = "/data/shard-0";
/// Values are from 8 to so many bytes large.
const VALUE_BYTES_MAX: usize = 8_000;

/// Partition `index` of the topic with this number.
pub(crate) fn partition(topic: u8, index: i32) -> PartitionId {
    PartitionId {
        topic: TopicId([topic; 16]),
        index,
    }
}

/// A value that says its number, of a length that follows from it.
fn value(number: u64) -> Vec<u8> {
    let len = 8 + (number as usize * 7919) % (VALUE_BYTES_MAX - 8);
    let mut v = vec![number as u8; len];
    v[..8].copy_from_slice(&number.to_be_bytes());
    v
}

/// A batch of the values with these numbers.
pub(crate) fn batch(
    numbers: &[u64],
    timestamp: i64,
    producer: Option<Producer>,
) -> (BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new();
    if let Some(producer) = producer {
        builder = builder.producer(producer);
    }
    for number in numbers {
        builder.append(NewRecord {
            timestamp,
            key: None,
            value: Some(&value(*number)),
            headers: &[],
        });
    }
    let bytes = builder.build();
    let header = BatchHeader::validate(&bytes).expect("well formed");
    (header, bytes)
}

/// The numbers of the values in a batch, each of which is whole.
pub(crate) fn numbers(batch: &Batch) -> Vec<u64> {
    let records = Records::new(&batch.bytes[HEADER_BYTES..], batch.header.record_count);
    let number = |v: &[u8]| u64::from_be_bytes(v[..8].try_into().expect("8 bytes"));
    records
        .map(|record| {
            let v = record.expect("it is whole").value.expect("it has a value");
            assert_eq!(v, value(number(v)), "the record is whole");
            number(v)
        })
        .collect()
}

/// Opens the log of the shard.
pub(crate) async fn open_log(
    file_bytes: u64,
) -> Result<(ShardLog, BTreeMap<RingId, RecoveredRing>), LogError> {
    let dir = PathBuf::from(SHARD_DIR).join("log");
    let config = LogConfig {
        file_bytes,
        ..LogConfig::new(dir, Rc::new(|e| panic!("{e}")))
    };
    ShardLog::open(config).await
}

/// Opens the rings 1 to `count` with little memory, and with the settings that `set` makes.
pub(crate) async fn open_rings(
    log: &ShardLog,
    mut recovered: BTreeMap<RingId, RecoveredRing>,
    count: u32,
    set: impl Fn(&mut RingConfig),
) -> Vec<Ring> {
    let memory = ShardMemory::new(MemoryConfig {
        unflushed_bytes: 96 * 1024,
        delivery_bytes: 32 * 1024,
        cache_bytes: 16 * 1024,
    });
    let mut rings = Vec::new();
    for ring in (1..=count).map(RingId) {
        let mut config = RingConfig::new(
            ring,
            NodeId(1),
            PathBuf::from(SHARD_DIR),
            memory.clone(),
            Rc::new(|e| panic!("{e}")),
        );
        set(&mut config);
        let found = recovered.remove(&ring).unwrap_or_default();
        let opened = Ring::open(config, log.clone(), found).await;
        rings.push(opened.expect("the ring is sound"));
    }
    rings
}

/// Opens the log of the shard, with files of `file_bytes`, and the rings 1 to `count` with the settings that `set` makes.
pub(crate) async fn start_rings(
    file_bytes: u64,
    count: u32,
    set: impl Fn(&mut RingConfig),
) -> (ShardLog, Vec<Ring>) {
    let (log, recovered) = open_log(file_bytes).await.expect("the log is sound");
    let rings = open_rings(&log, recovered, count, set).await;
    (log, rings)
}

/// Writes checkpoints until no file is to be removed any more.
pub(crate) async fn remove_old_files(ring: &Ring) {
    for _ in 0..2 {
        assert!(ring.checkpoint_now().await);
        while ring.stats().removals_waiting > 0 {
            time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

/// Base offsets of the segment files that there are of a partition, sorted.
pub(crate) fn segment_files(sim: &Sim, id: PartitionId) -> Vec<Offset> {
    let folder = format!("{SHARD_DIR}/partitions/{}-{}/", id.topic, id.index);
    let all = sim.disk().files();
    let names = all.iter().filter_map(|f| f.to_str()?.strip_prefix(&folder));
    let bases = names.filter_map(|n| n.strip_suffix(".segment")?.parse().ok());
    let mut bases: Vec<Offset> = bases.collect();
    bases.sort_unstable();
    bases
}
