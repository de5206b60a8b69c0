//! Rules of storage as a ring keeps them, each under the name it has in the design.

mod common;

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::batch::Compression;
use tidemill_model::record::{BatchBuilder, NewRecord, Producer};
use tidemill_model::{BatchHeader, NodeId, Offset, PartitionId, RingId, TopicId};
use tidemill_partition::segment::SegmentError;
use tidemill_ring::{
    AppendError, Isolation, MemoryConfig, PartitionConfig, RECORDS_NAMED_MAX, Ring, RingConfig,
    RingError, ShardMemory,
};
use tidemill_rt::sim::{DiskOp, Sim, SimDisk};
use tidemill_rt::{fs, time};
use tidemill_shardlog::{LogConfig, ShardLog};

const PARTITION: PartitionId = PartitionId {
    topic: TopicId([1; 16]),
    index: 0,
};

fn batch(value_bytes: usize) -> Bytes {
    batch_of(value_bytes, None)
}

fn batch_of(value_bytes: usize, producer: Option<Producer>) -> Bytes {
    let mut builder = BatchBuilder::new();
    if let Some(producer) = producer {
        builder = builder.producer(producer);
    }
    builder.append(NewRecord {
        timestamp: 1,
        key: None,
        value: Some(&vec![7; value_bytes]),
        headers: &[],
    });
    builder.build()
}

async fn append(ring: &Ring, bytes: Bytes) {
    append_to(ring, PARTITION, bytes).await;
}

async fn append_to(ring: &Ring, id: PartitionId, bytes: Bytes) {
    let header = BatchHeader::parse(&bytes).expect("a batch");
    let appended = ring.append(id, header, bytes, 1).await;
    appended.expect("it is taken");
}

/// A ring with one partition; `fatal` is told what ends the process.
async fn start(fatal: Rc<dyn Fn(&RingError)>) -> Ring {
    let dir = PathBuf::from("/data/shard-0");
    let config = LogConfig::new(dir.join("log"), Rc::new(|e| panic!("{e}")));
    let (log, mut recovered) = ShardLog::open(config).await.expect("the log is sound");
    let memory = ShardMemory::new(MemoryConfig::default());
    let config = RingConfig::new(RingId(1), NodeId(1), dir, memory, fatal);
    let found = recovered.remove(&RingId(1)).unwrap_or_default();
    let ring = Ring::open(config, log, found).await.expect("opens");
    let config = PartitionConfig::default();
    let opened = ring.open_partition(PARTITION, config, 0).await;
    opened.expect("opens");
    ring
}

/// Appends what does not fit into a checkpoint, then writes one while `plan` is in force; whether it was written, and whether
/// the process was to end.
fn checkpoint_under(plan: impl Fn(&SimDisk)) -> (bool, bool) {
    let sim = Sim::new(1);
    let disk = sim.disk();
    sim.block_on(async {
        let ended = Rc::new(Cell::new(false));
        let told = ended.clone();
        let ring = start(Rc::new(move |_: &RingError| told.set(true))).await;
        append(&ring, batch(200_000)).await;
        plan(&disk);
        let written = ring.checkpoint_now().await;
        (written, ended.get())
    })
    .expect("ends")
}

#[test]
fn s10_failed_sync_of_a_segment_ends_the_process() {
    let failed = checkpoint_under(|disk| {
        disk.fail_next(DiskOp::Sync, "/partitions/", 1, io::ErrorKind::Other);
    });
    assert_eq!(failed, (false, true));
}

#[test]
fn partition_whose_segment_cannot_be_written_stops_nothing_and_loses_nothing() {
    let sim = Sim::new(1);
    let disk = sim.disk();
    let fatal = || -> Rc<dyn Fn(&RingError)> { Rc::new(|e| panic!("{e}")) };
    sim.block_on(async {
        let ring = start(fatal()).await;
        let opened = ring.open_partition(OTHER, PartitionConfig::default(), 0);
        opened.await.expect("opens");
        append(&ring, batch(200_000)).await;
        append_to(&ring, OTHER, batch(200_000)).await;
        let folder = format!("/partitions/{}-0", PARTITION.topic);
        disk.fail_next(DiskOp::Write, &folder, 9, io::ErrorKind::StorageFull);
        assert!(ring.checkpoint_now().await, "the other one is written");
        assert_eq!(ring.stats().segment_failures_total, 1);
        assert_eq!(ring.stats().memory.unflushed_bytes, 0);
    })
    .expect("ends");
    sim.crash();
    sim.block_on(async {
        disk.heal();
        let ring = start(fatal()).await;
        for id in [PARTITION, OTHER] {
            let end = ring.view(id).map(|v| v.high_watermark);
            assert_eq!(end, Some(1), "{id}");
        }
        append(&ring, batch(10)).await;
        assert!(ring.checkpoint_now().await);
    })
    .expect("ends");
    let segments = |topic: TopicId| {
        let folder = format!("/data/shard-0/partitions/{topic}-0");
        let files = sim.disk().files();
        files.iter().filter(|f| f.starts_with(&folder)).count()
    };
    assert_eq!(segments(PARTITION.topic), segments(OTHER.topic));
    assert!(segments(OTHER.topic) > 0);
}

#[test]
fn segments_that_cannot_be_written_beyond_what_a_checkpoint_carries_are_tried_again() {
    let sim = Sim::new(1);
    let disk = sim.disk();
    sim.block_on(async {
        let ring = start(Rc::new(|e: &RingError| panic!("{e}"))).await;
        let kind = io::ErrorKind::StorageFull;
        disk.fail_next(DiskOp::Write, "/partitions/", u32::MAX, kind);
        for _ in 0..36 {
            append(&ring, batch(1_000_000)).await;
        }
        assert!(!ring.checkpoint_now().await);
        disk.heal();
        assert!(ring.checkpoint_now().await);
    })
    .expect("ends");
}

/// The segment files of a partition, sorted.
fn segments_of(disk: &SimDisk, id: PartitionId) -> Vec<PathBuf> {
    let folder = format!("/data/shard-0/partitions/{}-{}/", id.topic, id.index);
    let files = disk.files().into_iter();
    files
        .filter(|f| f.starts_with(&folder) && f.extension().is_some_and(|e| e == "segment"))
        .collect()
}

/// Another partition beside [`PARTITION`].
const OTHER: PartitionId = PartitionId {
    topic: TopicId([2; 16]),
    index: 0,
};

async fn start_with_two() -> Ring {
    let ring = start(Rc::new(|e: &RingError| panic!("{e}"))).await;
    let opened = ring.open_partition(OTHER, PartitionConfig::default(), 0);
    opened.await.expect("opens");
    ring
}

async fn is_readable(ring: &Ring, id: PartitionId, from: Offset) -> bool {
    let read = ring.read(id, from, 1 << 20, Isolation::ReadUncommitted);
    read.await.is_ok_and(|read| !read.batches.is_empty())
}

#[test]
fn segment_that_is_short_or_missing_is_left_and_another_one_begun_behind_it() {
    for missing in [false, true] {
        let sim = Sim::new(1);
        let disk = sim.disk();
        sim.block_on(async {
            let ring = start_with_two().await;
            append(&ring, batch(200_000)).await;
            assert!(ring.checkpoint_now().await);
            let first = segments_of(&disk, PARTITION).remove(0);
            let whole = disk.read(&first).expect("it is there");
            match missing {
                true => fs::remove_file(&first).await.expect("it is there"),
                false => disk.put(&first, &whole[..whole.len() - 1]).expect("there"),
            }
            for _ in 0..45 {
                append(&ring, batch(1_000_000)).await;
            }
            append_to(&ring, OTHER, batch(200_000)).await;
            assert!(ring.checkpoint_now().await, "the others go on");
            let stats = ring.stats();
            assert_eq!(stats.segment_damage_total, 1);
            assert_eq!(
                (stats.partitions_set_aside, stats.memory.unflushed_bytes),
                (0, 0)
            );
            append(&ring, batch(200_000)).await;
            assert!(ring.checkpoint_now().await);
            assert_eq!(ring.stats().segment_damage_total, 1, "it was left alone");
            assert!(segments_of(&disk, PARTITION).len() <= 2);
        })
        .expect("ends");
        sim.crash();
        sim.block_on(async {
            let ring = start_with_two().await;
            assert_eq!(ring.view(PARTITION).map(|v| v.high_watermark), Some(47));
            assert!(!is_readable(&ring, PARTITION, 0).await, "it is damaged");
            for offset in 1..47 {
                assert!(is_readable(&ring, PARTITION, offset).await, "{offset}");
            }
        })
        .expect("ends");
    }
}

#[test]
fn partition_whose_files_cannot_be_written_is_set_aside_until_they_can() {
    let sim = Sim::new(1);
    let disk = sim.disk();
    let folder = format!("/partitions/{}-0", PARTITION.topic);
    let taken = sim.block_on(async {
        let ring = start_with_two().await;
        let denied = io::ErrorKind::PermissionDenied;
        disk.fail_next(DiskOp::Open, &folder, u32::MAX, denied);
        let mut taken = 0;
        let refused = loop {
            let bytes = batch(1_000_000);
            let header = BatchHeader::parse(&bytes).expect("a batch");
            match ring.append(PARTITION, header, bytes, 1).await {
                Ok(appended) => taken = appended.base_offset + 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, AppendError::SetAside);
        append_to(&ring, OTHER, batch(200_000)).await;
        assert!(ring.checkpoint_now().await, "the others go on");
        let stats = ring.stats();
        let found = (stats.partitions_set_aside, stats.memory.unflushed_bytes);
        assert_eq!(found, (1, 0), "what it has is in the checkpoint");
        assert!(is_readable(&ring, PARTITION, taken - 1).await);
        taken
    });
    let taken = taken.expect("ends");
    sim.crash();
    sim.block_on(async {
        let ring = start_with_two().await;
        assert_eq!(ring.view(PARTITION).map(|v| v.high_watermark), Some(taken));
        for aside in [1, 0] {
            append_to(&ring, OTHER, batch(200_000)).await;
            assert!(ring.checkpoint_now().await);
            assert_eq!(ring.stats().partitions_set_aside, aside);
            disk.heal();
        }
        append(&ring, batch(10)).await;
        for offset in 0..=taken {
            assert!(is_readable(&ring, PARTITION, offset).await, "{offset}");
        }
    })
    .expect("ends");
}

#[test]
fn round_that_failed_is_tried_again_soon_also_when_memory_is_full_of_what_it_is_to_write() {
    let sim = Sim::new(1);
    let disk = sim.disk();
    sim.block_on(async {
        let interval = Duration::from_secs(40);
        let set = |config: &mut RingConfig| config.flush_interval = interval;
        let ring = common::start_rings(4 << 20, 1, set).await.1.remove(0);
        let opened = ring.open_partition(PARTITION, PartitionConfig::default(), 0);
        opened.await.expect("opens");
        let refused = io::ErrorKind::StorageFull;
        disk.fail_next(DiskOp::Write, ".checkpoint", 3, refused);
        let began = time::Instant::now();
        for _ in 0..30 {
            append(&ring, batch(10_000)).await;
        }
        let stats = ring.stats();
        assert_eq!(stats.checkpoint_failures_total, 3);
        assert!(began.elapsed() < interval / 4, "{:?}", began.elapsed());
    })
    .expect("ends");
}

#[test]
fn s11_deletions_give_room_on_a_disk_without_any_for_a_checkpoint() {
    const DELETED: PartitionId = OTHER;
    for whole_topic in [true, false] {
        let sim = Sim::new(1);
        let disk = sim.disk();
        sim.block_on(async {
            let ring = start_with_two().await;
            append(&ring, batch(200_000)).await;
            for _ in 0..40 {
                append_to(&ring, DELETED, batch(1_000_000)).await;
            }
            assert!(ring.checkpoint_now().await);
            append_to(&ring, DELETED, batch(200_000)).await;
            assert!(!segments_of(&disk, DELETED).is_empty());
            disk.set_capacity(Some(disk.used()));
            match whole_topic {
                true => ring.drop_partition(DELETED).await.expect("it is dropped"),
                false => drop(ring.delete_records(DELETED, -1).await.expect("all")),
            }
            let full = disk.used();
            // The flusher finds no room for its checkpoint, then some, all by itself.
            while disk.used() > full - 30_000_000 || ring.stats().removals_waiting > 0 {
                time::sleep(Duration::from_millis(10)).await;
            }
            assert!(segments_of(&disk, DELETED).is_empty());
            assert!(ring.stats().checkpoint_failures_total > 0);
            // The power goes before there is a checkpoint that says so.
            disk.set_capacity(Some(0));
        })
        .expect("ends");
        sim.crash();
        disk.set_capacity(None);
        sim.block_on(async {
            let ring = start(Rc::new(|e: &RingError| panic!("{e}"))).await;
            let left = ring.view(DELETED);
            match whole_topic {
                true => assert_eq!(left, None),
                false => {
                    let range = left.map(|v| (v.log_start_offset, v.high_watermark));
                    assert_eq!(range, Some((41, 41)));
                }
            }
            assert!(is_readable(&ring, PARTITION, 0).await);
            assert!(ring.checkpoint_now().await);
            append(&ring, batch(200_000)).await;
            assert!(ring.checkpoint_now().await);
        })
        .expect("ends");
    }
}

#[test]
fn file_that_cannot_be_removed_keeps_no_other_from_going() {
    let sim = Sim::new(1);
    let disk = sim.disk();
    sim.block_on(async {
        let ring = start_with_two().await;
        for id in [PARTITION, OTHER] {
            append_to(&ring, id, batch(200_000)).await;
        }
        assert!(ring.checkpoint_now().await);
        // Somebody put a folder there, which goes too.
        let foreign = format!("/data/shard-0/partitions/{}-0/x/y", PARTITION.topic);
        disk.put(&foreign, b"z").expect("it can be put there");
        let stuck = segments_of(&disk, PARTITION).remove(0);
        let stuck = stuck.to_str().expect("it is text");
        let denied = io::ErrorKind::PermissionDenied;
        disk.fail_next(DiskOp::Names, stuck, u32::MAX, denied);
        ring.drop_partitions(&[PARTITION, OTHER])
            .await
            .expect("dropped");
        assert!(ring.checkpoint_now().await);
        while !segments_of(&disk, OTHER).is_empty() || ring.stats().removals_waiting > 1 {
            time::sleep(Duration::from_millis(1)).await;
        }
        assert!(disk.read(&foreign).is_err());
        assert_eq!(ring.stats().removals_waiting, 1);
        disk.heal();
        while ring.stats().removals_waiting > 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
        assert!(
            disk.files()
                .iter()
                .all(|f| !f.starts_with("/data/shard-0/partitions"))
        );
    })
    .expect("ends");
}

#[test]
fn s13_small_batch_that_was_appended_does_not_hold_on_to_the_buffer_it_came_in() {
    let fatal: Rc<dyn Fn(&RingError)> = Rc::new(|e| panic!("{e}"));
    Sim::new(1)
        .block_on(async {
            let ring = start(fatal).await;
            let small = batch(1_000);
            let mut received = vec![0; 256 * 1024];
            received[..small.len()].copy_from_slice(&small);
            let received = Bytes::from(received);
            append(&ring, received.slice(..small.len())).await;
            assert!(received.is_unique(), "nothing of it is still in use");
        })
        .expect("ends");
}

#[test]
fn entries_that_no_tail_holds_take_memory_until_a_checkpoint_lets_them_go() {
    let fatal: Rc<dyn Fn(&RingError)> = Rc::new(|e| panic!("{e}"));
    Sim::new(1)
        .block_on(async {
            let ring = start(fatal).await;
            let producer = Producer {
                id: 7,
                epoch: 0,
                base_sequence: 0,
            };
            let bytes = batch_of(100_000, Some(producer));
            for _ in 0..3 {
                append(&ring, bytes.clone()).await;
            }
            let taken = ring.stats().memory.unflushed_bytes;
            assert!(taken > 300_000, "two repetitions are in the log: {taken}");
            assert!(ring.checkpoint_now().await);
            let taken = ring.stats().memory.unflushed_bytes;
            assert!(taken < 1_000, "{taken}");
        })
        .expect("ends");
}

#[test]
fn s7_ten_thousand_partitions_that_trickle_take_few_entries_and_no_segment() {
    let ids: Vec<PartitionId> = (0..10_000)
        .map(|index| PartitionId { index, ..PARTITION })
        .collect();
    let sim = Sim::new(1);
    let disk = sim.disk();
    sim.block_on(async {
        let ring = start(Rc::new(|e| panic!("{e}"))).await;
        let before = ring.stats().group.last_index;
        let opens: Vec<_> = ids
            .iter()
            .map(|id| (*id, PartitionConfig::default()))
            .collect();
        let opened = ring.open_partitions(&opens, 0).await;
        opened.expect("all open");
        let entries = ring.stats().group.last_index.unwrap_or(0) - before.unwrap_or(0);
        assert!(
            entries <= 10,
            "{entries} entries open {} partitions",
            ids.len()
        );
        assert_eq!(ring.partitions(), ids);
        for id in &ids {
            append_to(&ring, *id, batch(1_000)).await;
        }
        disk.fail_next(DiskOp::Write, "/partitions/", 1, io::ErrorKind::Other);
        assert!(ring.checkpoint_now().await);
        let stats = ring.stats();
        assert!(stats.checkpoint_bytes > 10_000_000, "they are in there");
        assert_eq!(stats.segment_failures_total, 0, "no segment was written");
        ring.drop_partitions(&ids).await.expect("all are dropped");
        assert!(ring.partitions().is_empty());
    })
    .expect("ends");
}

#[test]
fn ring_knows_whether_anything_of_it_was_on_disk() {
    let sim = Sim::new(1);
    for first in [true, false] {
        let fatal: Rc<dyn Fn(&RingError)> = Rc::new(|e| panic!("{e}"));
        let began_empty = sim.block_on(async { start(fatal).await.began_empty() });
        assert_eq!(began_empty.expect("ends"), first);
        sim.crash();
    }
}

#[test]
fn errors_of_segments_name_the_file() {
    let error = RingError::from(SegmentError::Io {
        path: PathBuf::from("/data/x"),
        error: io::ErrorKind::Other.into(),
    });
    assert!(error.to_string().contains("/data/x"), "{error}");
}

#[test]
fn small_appends_share_entries_and_keep_their_order_among_large_ones() {
    let sim = Sim::new(1);
    sim.block_on(async {
        let ring = start(Rc::new(|e: &RingError| panic!("{e}"))).await;
        let before = ring.stats().group.last_index;
        let large = |i: usize| i % 50 == 49;
        let appends: Vec<_> = (0..200)
            .map(|i| {
                let bytes = batch(if large(i) { 40_000 } else { 100 });
                let header = BatchHeader::parse(&bytes).expect("a batch");
                ring.append(PARTITION, header, bytes, 1)
            })
            .collect();
        for (i, append) in appends.into_iter().enumerate() {
            assert_eq!(append.await.expect("it is taken").base_offset, i as i64);
        }
        let entries = ring
            .stats()
            .group
            .last_index
            .zip(before)
            .map(|(a, b)| a - b);
        // Two go at once; what gathers is proposed with each of the four large ones.
        assert!(entries.is_some_and(|n| n <= 10), "{entries:?}");
    })
    .expect("ends");
}

#[test]
fn gathered_appends_of_a_ring_that_stops_are_answered() {
    let sim = Sim::new(1);
    sim.block_on(async {
        let ring = start(Rc::new(|e: &RingError| panic!("{e}"))).await;
        let appends: Vec<_> = (0..20)
            .map(|_| {
                let bytes = batch(100);
                let header = BatchHeader::parse(&bytes).expect("a batch");
                ring.append(PARTITION, header, bytes, 1)
            })
            .collect();
        ring.shutdown().await;
        let mut taken = 0;
        for append in appends {
            taken += usize::from(append.await.is_ok());
        }
        let end = ring.view(PARTITION).map(|v| v.high_watermark);
        assert!(end >= Some(taken as i64), "{end:?}, {taken} acknowledged");
    })
    .expect("ends");
}

#[test]
fn records_far_ahead_of_the_clock_are_named_where_that_costs_nothing() {
    const NOW: i64 = 1_000_000;
    let named = |codec: Compression, count: i64, ahead: fn(i64) -> bool| {
        let mut builder = BatchBuilder::new();
        for place in 0..count {
            builder.append(NewRecord {
                timestamp: if ahead(place) { NOW + 101 } else { NOW + 100 },
                key: None,
                value: Some(b"v"),
                headers: &[],
            });
        }
        let bytes = builder.build_compressed(codec).expect("it compresses");
        let header = BatchHeader::validate(&bytes).expect("a batch");
        let appended = Sim::new(1).block_on(async {
            let ring = start(Rc::new(|e: &RingError| panic!("{e}"))).await;
            let config = PartitionConfig {
                timestamp_after_max_ms: 100,
                ..PartitionConfig::default()
            };
            ring.configure(PARTITION, config).await.expect("it is open");
            ring.append(PARTITION, header, bytes, NOW).await
        });
        match appended.expect("ends") {
            Err(error @ AppendError::Timestamp { .. }) => error.records().to_vec(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(named(Compression::None, 5, |place| place > 2), [3, 4]);
    assert_eq!(named(Compression::Zstd, 5, |place| place > 2), []);
    let most = RECORDS_NAMED_MAX as i64;
    assert_eq!(
        named(Compression::None, most, |_| true).len(),
        most as usize
    );
    assert_eq!(named(Compression::None, most + 1, |_| true), []);
}
