//! Batches in memory and in segments, on the simulated disk.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidemill_model::record::{BatchBuilder, NewRecord};
use tidemill_model::{BatchHeader, batch::Compression};
use tidemill_partition::log::{Bounds, Unsynced};
use tidemill_partition::segment::SegmentError;
use tidemill_partition::tail::{Held, MemoryConfig, compact};
use tidemill_partition::{
    Isolation, PartitionConfig, PartitionLog, PartitionState, ReadError, ShardMemory, StoredLog,
};
use tidemill_rt::sim::Sim;

const DIR: &str = "/shard-0/partitions/t-0";

struct Partition {
    state: PartitionState,
    log: PartitionLog,
    memory: ShardMemory,
}

fn memory(cache_bytes: u64) -> ShardMemory {
    ShardMemory::new(MemoryConfig {
        cache_bytes,
        ..MemoryConfig::default()
    })
}

fn bytes(records: i64, timestamp: i64, codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new();
    let value = [b'v'; 100];
    for i in 0..records {
        builder.append(NewRecord {
            timestamp: timestamp + i,
            key: None,
            value: Some(&value),
            headers: &[],
        });
    }
    builder.build_compressed(codec).expect("compresses")
}

impl Partition {
    fn new(cache_bytes: u64, segment_bytes: u32) -> Partition {
        let config = PartitionConfig {
            segment_bytes,
            ..PartitionConfig::default()
        };
        let memory = memory(cache_bytes);
        Partition {
            state: PartitionState::new(config, 0),
            log: PartitionLog::new(PathBuf::from(DIR), StoredLog::default(), memory.clone()),
            memory,
        }
    }

    fn append(&mut self, bytes: Bytes) {
        let header = BatchHeader::validate(&bytes).expect("well formed");
        let placed = self.state.append(header, compact(bytes), 1, 0);
        self.log.push(Held {
            batch: placed.batch,
            starts_segment: placed.starts_segment,
            time_ms: placed.time_ms,
        });
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            log_start_offset: 0,
            high_watermark: self.state.high_watermark(),
            last_stable_offset: self.state.last_stable_offset(),
        }
    }

    /// Flushes, syncs, and counts what was flushed as settled.
    async fn flush(&self) {
        let mut unsynced = Unsynced::default();
        let end = self.state.high_watermark();
        self.log
            .flush(end, &mut unsynced)
            .await
            .expect("disk works");
        unsynced.sync().await.expect("disk works");
        self.log.tail().settle(self.log.segments_end(), end);
    }

    async fn read_all(&self, max_bytes: usize) -> Vec<i64> {
        let (mut from, mut offsets) = (0, Vec::new());
        while from < self.state.high_watermark() {
            let read = self
                .log
                .read(self.bounds(), from, max_bytes, Isolation::ReadUncommitted)
                .await;
            let batches = read.expect("readable").batches;
            assert!(!batches.is_empty(), "nothing at {from}");
            for batch in batches {
                assert_eq!(batch.header.base_offset, from, "offsets are dense");
                offsets.push(from);
                from = batch.header.next_offset();
            }
        }
        offsets
    }
}

fn sim<T>(seed: u64, f: impl Future<Output = T>) -> T {
    Sim::new(seed).block_on(f).expect("ends")
}

#[test]
fn trim_gives_up_whole_segments_in_files_and_in_memory_and_nothing_else() {
    for (flushed, below) in [
        (0, 100),
        (1, 100),
        (5, 100),
        (9, 57),
        (9, 58),
        (9, 0),
        (5, 43),
    ] {
        sim(1, async {
            // Segments of two batches each.
            let mut p = Partition::new(0, 1);
            for i in 0..20 {
                p.append(bytes(70, i, Compression::None));
                if i / 2 + 1 == flushed && i % 2 == 1 {
                    p.flush().await;
                }
            }
            let (end, before) = (p.state.high_watermark(), p.log.bytes());
            let spans = p.log.spans();
            assert_eq!(spans.iter().map(|s| s.bytes).sum::<u64>(), before);
            let below = below * end / 100;
            p.state.advance_start(below);
            p.log.trim(p.state.removable_below());
            let kept: Vec<_> = spans
                .iter()
                .filter(|s| s.next_offset > below)
                .copied()
                .collect();
            assert_eq!(p.log.spans(), kept);
            assert_eq!(p.log.bytes(), kept.iter().map(|s| s.bytes).sum::<u64>());
            let floor = kept.first().map_or(end, |s| s.base_offset);
            assert_eq!(p.log.floor(), floor);
            let gone: Vec<_> = spans
                .iter()
                .map(|s| s.base_offset)
                .filter(|b| *b < floor)
                .collect();
            assert_eq!(p.log.leaving(), gone);
            p.append(bytes(3, 5, Compression::None));
            p.flush().await;
            assert_eq!(p.log.spans().last().map(|s| s.next_offset), Some(end + 3));
            assert_eq!(p.log.segments().first().map(|s| s.base_offset), Some(floor));
        });
    }
}

#[test]
fn batches_are_read_back_from_memory_and_from_segments() {
    for seed in 0..10 {
        sim(seed, async {
            let mut p = Partition::new(0, 40_000);
            for i in 0..60 {
                p.append(bytes(1 + i % 7, i * 10, Compression::None));
                if i % 13 == 12 {
                    p.flush().await;
                }
            }
            assert!(p.log.segments().len() == 1 || p.log.segments().len() > 1);
            assert_eq!(p.read_all(1).await.len(), 60);
            assert_eq!(p.read_all(20_000).await.len(), 60);
            p.flush().await;
            assert!(
                p.log.tail().is_empty(),
                "nothing is cached with a budget of nothing"
            );
            assert_eq!(p.read_all(1 << 20).await.len(), 60);
        });
    }
}

#[test]
fn segments_are_rolled_by_size_at_batch_boundaries() {
    sim(1, async {
        let mut p = Partition::new(0, 40_000);
        for i in 0..100 {
            p.append(bytes(10, i, Compression::None));
            if i % 7 == 0 {
                p.flush().await;
            }
        }
        p.flush().await;
        let segments = p.log.segments();
        assert!(segments.len() >= 2);
        assert!(segments.iter().all(|s| s.bytes <= 40_000));
        let dense = segments
            .windows(2)
            .all(|w| w[0].next_offset == w[1].base_offset);
        assert!(dense);
    });
}

#[test]
fn reads_end_at_the_limit_and_outside_is_out_of_range() {
    sim(2, async {
        let mut p = Partition::new(1 << 20, 1 << 20);
        p.append(bytes(5, 0, Compression::None));
        p.append(bytes(5, 0, Compression::None));
        let bounds = Bounds {
            high_watermark: 5,
            last_stable_offset: 5,
            ..p.bounds()
        };
        let read = p
            .log
            .read(bounds, 3, 1 << 20, Isolation::ReadCommitted)
            .await
            .expect("in range");
        assert_eq!(read.batches.len(), 1);
        let at_end = p
            .log
            .read(bounds, 5, 1, Isolation::ReadUncommitted)
            .await
            .expect("at the end");
        assert!(at_end.batches.is_empty());
        for from in [-1, 6] {
            let out = p
                .log
                .read(bounds, from, 1, Isolation::ReadUncommitted)
                .await;
            assert!(matches!(out, Err(ReadError::OffsetOutOfRange { .. })));
        }
    });
}

#[test]
fn offset_for_timestamp_is_exact_to_the_record() {
    for codec in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        sim(3, async {
            let mut p = Partition::new(0, 30_000);
            for i in 0..50 {
                p.append(bytes(20, 1000 + i * 20, codec));
                if i == 20 || i == 40 {
                    p.flush().await;
                }
            }
            for (wanted, found) in [
                (0, Some((0, 1000))),
                (1000, Some((0, 1000))),
                (1999, Some((999, 1999))),
                (2000, None),
            ] {
                assert_eq!(
                    p.log
                        .offset_for_timestamp(p.bounds(), wanted)
                        .await
                        .expect("readable"),
                    found
                );
            }
            for i in (0..1000).step_by(37) {
                let found = p
                    .log
                    .offset_for_timestamp(p.bounds(), 1000 + i)
                    .await
                    .expect("readable");
                assert_eq!(found, Some((i, 1000 + i)), "{codec:?}");
            }
            let max = p.state.max_timestamp().expect("not empty");
            let found = p
                .log
                .max_timestamp(p.bounds(), max)
                .await
                .expect("readable");
            assert_eq!(found, Some((999, 1999)));
        });
    }
}

#[test]
fn what_lies_beyond_the_checkpoint_is_cut_and_written_again() {
    for seed in 0..20 {
        sim(seed, async {
            let mut p = Partition::new(0, 30_000);
            for i in 0..40 {
                p.append(bytes(10, i, Compression::None));
            }
            p.flush().await;
            let checkpoint = p.log.segments();
            let state_then = p.state.clone();
            for i in 0..40 {
                p.append(bytes(7, i, Compression::None));
            }
            p.flush().await;
            // A start from the checkpoint: other batches follow.
            p.state = state_then;
            let stored = StoredLog {
                segments: checkpoint,
                ..StoredLog::default()
            };
            p.log = PartitionLog::new(PathBuf::from(DIR), stored, p.memory.clone());
            for i in 0..50 {
                p.append(bytes(9, i, Compression::None));
            }
            assert_eq!(p.read_all(1 << 20).await.len(), 90);
            p.flush().await;
            assert_eq!(p.read_all(1 << 20).await.len(), 90);
            assert_eq!(p.state.high_watermark(), 850);
        });
    }
}

#[test]
fn damage_is_an_error_with_file_and_position_and_never_skipped() {
    let sim = Sim::new(4);
    let p = sim
        .block_on(async {
            let mut p = Partition::new(0, 1 << 20);
            for i in 0..30 {
                p.append(bytes(10, i, Compression::None));
            }
            p.flush().await;
            p
        })
        .expect("ends");
    let path = Path::new(DIR).join(format!("{:020}.segment", 0));
    let mut content = sim.disk().read(&path).expect("is there");
    let at = content.len() / 2;
    content[at] ^= 1;
    sim.disk().put(&path, &content).expect("is there");
    sim.block_on(async {
        let mut from = 0;
        let error = loop {
            match p
                .log
                .read(p.bounds(), from, 1, Isolation::ReadUncommitted)
                .await
            {
                Ok(read) => {
                    from = read
                        .batches
                        .last()
                        .expect("not the end")
                        .header
                        .next_offset()
                }
                Err(e) => break e,
            }
        };
        let ReadError::Segment(SegmentError::Damaged {
            path: file,
            position,
            ..
        }) = &error
        else {
            panic!("{error}")
        };
        assert_eq!(file, &path);
        assert!(*position <= at as u64 && at as u64 - position < 4096);
        assert!(from < 300);
    })
    .expect("ends");
}

#[test]
fn damaged_index_is_made_anew_from_the_segment() {
    let sim = Sim::new(5);
    let p = sim
        .block_on(async {
            let mut p = Partition::new(0, 16 << 20);
            for i in 0..200 {
                p.append(bytes(20, i * 20, Compression::None));
            }
            p.flush().await;
            p
        })
        .expect("ends");
    assert!(p.log.segments()[0].index_entries > 3);
    let path = Path::new(DIR).join(format!("{:020}.index", 0));
    let mut content = sim.disk().read(&path).expect("is there");
    content[30] ^= 0xff;
    sim.disk().put(&path, &content).expect("is there");
    sim.block_on(async {
        assert_eq!(p.read_all(1).await.len(), 200);
        let found = p
            .log
            .offset_for_timestamp(p.bounds(), 3333)
            .await
            .expect("readable");
        assert_eq!(found, Some((3333, 3333)));
    })
    .expect("ends");
}

#[test]
fn index_that_lost_its_end_is_read_and_written_on_as_if_it_were_whole() {
    let sim = Sim::new(5);
    let mut p = Partition::new(0, 16 << 20);
    let path = Path::new(DIR).join(format!("{:020}.index", 0));
    let fill = async |p: &mut Partition, batches: std::ops::Range<i64>| {
        batches.for_each(|i| p.append(bytes(20, i * 20, Compression::None)));
        p.flush().await;
    };
    sim.block_on(fill(&mut p, 0..200)).expect("ends");
    let whole = sim.disk().read(&path).expect("is there");
    for left in [0, whole.len() - 7] {
        sim.disk().put(&path, &whole[..left]).expect("is there");
        sim.block_on(async {
            let written = p.log.segments()[0].bytes;
            let next = p.bounds().high_watermark / 20;
            fill(&mut p, next..next + 1).await;
            assert!(p.log.segments()[0].bytes > written);
            let found = p.log.offset_for_timestamp(p.bounds(), 3333).await;
            assert_eq!(found.expect("readable"), Some((3333, 3333)));
        })
        .expect("ends");
        let again = sim.disk().read(&path).expect("is there");
        assert_eq!(again[..whole.len()], whole);
    }
}

#[test]
fn s13_small_batches_are_copied_out_of_the_buffer_they_came_in() {
    let receive_buffer = Bytes::from(vec![0; 256 * 1024]);
    let small = compact(receive_buffer.slice(..1000));
    let large = compact(receive_buffer.slice(..100_000));
    drop(receive_buffer);
    assert!(
        small.is_unique(),
        "it shares nothing with the receive buffer"
    );
    assert!(
        large.is_unique(),
        "nothing else holds the receive buffer any more"
    );
    assert_eq!(small.try_into_mut().map(|m| m.capacity()).ok(), Some(1000));
}

#[test]
fn flushed_batches_stay_until_the_cache_is_full_and_unflushed_ones_always() {
    sim(6, async {
        let mut p = Partition::new(20_000, 1 << 20);
        for i in 0..40 {
            p.append(bytes(10, i, Compression::None));
        }
        assert_eq!(p.log.tail().len(), 40);
        assert!(p.memory.stats().unflushed_bytes > 40_000);
        p.flush().await;
        let stats = p.memory.stats();
        assert_eq!(stats.unflushed_bytes, 0);
        assert!(stats.cached_bytes <= 20_000 && stats.cached_bytes > 15_000);
        assert!(p.log.tail().len() < 20 && stats.evicted_total > 20);
        assert_eq!(p.read_all(1 << 20).await.len(), 40);
    });
}

#[test]
fn damaged_batch_hides_neither_what_is_before_it_nor_what_is_behind_it() {
    let sim = Sim::new(7);
    let mut p = Partition::new(0, 16 << 20);
    sim.block_on(async {
        (0..20).for_each(|i| p.append(bytes(5, i * 5, Compression::None)));
        p.flush().await;
    })
    .expect("ends");
    let path = p.log.segments()[0].path(Path::new(DIR));
    let len = p.log.segments()[0].bytes / 20;
    // The last byte of the batch with offsets 50 to 54.
    sim.disk()
        .flip_bytes(&path, 11 * len - 1, 1)
        .expect("it is there");
    sim.block_on(async {
        let read = async |from, isolation| p.log.read(p.bounds(), from, 1 << 20, isolation).await;
        let read = async |from| read(from, Isolation::ReadUncommitted).await;
        let before = read(3).await.expect("readable").batches;
        let range = |batches: &[tidemill_model::Batch]| {
            let last = batches.last().map(|b| b.header.next_offset());
            (batches[0].header.base_offset, last)
        };
        assert_eq!(range(&before), (0, Some(50)));
        for inside in 50..55 {
            let error = read(inside).await.expect_err("it is damaged");
            assert!(matches!(
                error,
                ReadError::Segment(SegmentError::Damaged { .. })
            ));
            assert_eq!(p.log.behind_damage(inside).await, 55);
        }
        let behind = read(57).await.expect("readable").batches;
        assert_eq!(range(&behind), (55, Some(100)));
    })
    .expect("ends");
    // Without a header to be believed, the index says where it goes on: here behind the segment.
    sim.disk()
        .flip_bytes(&path, 10 * len + 8, 4)
        .expect("it is there");
    let next = sim.block_on(async { p.log.behind_damage(50).await });
    assert_eq!(next, Ok(100));
}
