//! The rules of storage, one test each.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_model::RingId;
use tidemill_rt::sim::{DiskOp, Sim};
use tidemill_rt::time;

use super::{count, open, small_config};
use crate::format::{FileHeader, GroupHeader};
use crate::{Frame, LogError, RecoveredRing, ShardLog};

const RING: RingId = RingId(7);
const FIRST: &str = "/data/shard-0/log/0000000000000001.log";

fn entry(index: u64, bytes: usize) -> Frame {
    Frame::Entry {
        index,
        data: vec![Bytes::from(vec![(index as u8).wrapping_add(1); bytes])],
    }
}

/// Appends frames and waits until they are durable.
async fn append(log: &ShardLog, ring: RingId, frames: Vec<Frame>) {
    log.append(ring, frames, Box::new(|| {}));
    log.barrier().await;
}

/// What frees everything up to `upto`.
fn purge(upto: u64) -> Frame {
    Frame::Purge {
        upto,
        data: Bytes::from_static(b"p"),
    }
}

/// A log with files of `file_bytes` bytes, of entries 1 to `entries`, each in a group of its own of one block, killed without
/// closing.
fn written(sim: &Sim, file_bytes: u64, entries: u64) -> crate::LogConfig {
    let (config, _) = small_config(file_bytes);
    let used = config.clone();
    sim.block_on(async move {
        let log = open(&used).await;
        for index in 1..=entries {
            append(&log, RING, vec![entry(index, 100)]).await;
        }
    })
    .expect("it ends");
    sim.kill();
    config
}

type Opened = (ShardLog, BTreeMap<RingId, RecoveredRing>);

fn reopened(sim: &Sim, config: &crate::LogConfig) -> Result<Opened, LogError> {
    let opened = sim.block_on(ShardLog::open(config.clone()));
    opened.expect("it ends")
}

fn entries_of(sim: &Sim, config: &crate::LogConfig) -> Result<Vec<u64>, LogError> {
    let opened = reopened(sim, config);
    let entries = opened.map(|(_, rings)| {
        let ring = rings.get(&RING);
        ring.map(|r| r.entries.keys().copied().collect())
            .unwrap_or_default()
    });
    sim.kill();
    entries
}

#[test]
fn start_does_not_read_what_was_never_written() {
    let sim = Sim::new(1);
    let config = written(&sim, 64 << 20, 1);
    let each = Duration::from_millis(1);
    sim.disk().set_latency(DiskOp::Read, each, each);
    let before = sim.now();
    assert_eq!(entries_of(&sim, &config).expect("it opens"), [1]);
    let reads = sim.now().since(before).as_millis();
    assert!(reads < 20, "a file of 64 MiB took {reads} reads");
}

#[test]
fn s1_group_of_another_generation_is_not_replayed() {
    let sim = Sim::new(1);
    let config = written(&sim, 1 << 20, 2);
    let old = sim.disk().read(FIRST).expect("it is there");
    // The same blocks, as a recycled file would hold them behind a new header.
    let header = FileHeader {
        sequence: 1,
        generation: 99,
        predecessor: 0,
        predecessor_end: 0,
    };
    let mut new = old.clone();
    header.encode(&mut new[..4096]);
    sim.disk().put(FIRST, &new).expect("it can be put");
    assert_eq!(
        entries_of(&sim, &config).expect("it opens"),
        Vec::<u64>::new()
    );
    let old_header = FileHeader::decode(&old[..4096]).expect("it is sound");
    assert!(GroupHeader::decode(&old[4096..], old_header.generation).is_some());
    assert!(GroupHeader::decode(&old[4096..], 99).is_none());
}

#[test]
fn s2_damage_in_last_group_is_a_torn_tail() {
    let sim = Sim::new(2);
    let config = written(&sim, 1 << 20, 3);
    sim.disk()
        .flip_bytes(FIRST, 3 * 4096 + 80, 1)
        .expect("it is there");
    assert_eq!(entries_of(&sim, &config).expect("it opens"), vec![1, 2]);
}

/// The pieces set aside, with their content.
fn pieces(sim: &Sim) -> Vec<(String, Vec<u8>)> {
    let files = sim.disk().files().into_iter();
    let pieces = files.filter(|f| f.extension().is_some_and(|e| e == "piece"));
    let named = pieces.map(|path| {
        let name = path.file_name().expect("a file").to_string_lossy();
        let content = sim.disk().read(&path).expect("it is there");
        (name.into_owned(), content)
    });
    named.collect()
}

#[test]
fn torn_piece_is_kept_aside_before_it_is_cut_off() {
    let sim = Sim::new(2);
    let config = written(&sim, 1 << 20, 3);
    entries_of(&sim, &config).expect("it opens");
    assert_eq!(pieces(&sim), [], "a killed process leaves nothing torn");
    let sim = Sim::new(2);
    let config = written(&sim, 1 << 20, 3);
    sim.disk()
        .flip_bytes(FIRST, 3 * 4096 + 80, 1)
        .expect("it is there");
    let torn = sim.disk().read(FIRST).expect("it is there")[3 * 4096..4 * 4096].to_vec();
    assert_eq!(entries_of(&sim, &config).expect("it opens"), vec![1, 2]);
    let name = "torn-0000000000000001-0000000000003000.piece".to_owned();
    assert_eq!(pieces(&sim), [(name, torn)]);
    let first = sim.disk().read(FIRST).expect("it is there");
    assert_eq!(first.len(), 3 * 4096, "the file itself is cut");
}

#[test]
fn few_torn_pieces_are_kept_and_those_the_newest() {
    const ROUNDS: u64 = 11;
    let sim = Sim::new(2);
    let config = written(&sim, 1 << 20, 1);
    for _ in 0..ROUNDS {
        let used = config.clone();
        let appended = sim.block_on(async move {
            let log = open(&used).await;
            append(&log, RING, vec![entry(2, 100)]).await;
        });
        appended.expect("it ends");
        sim.kill();
        let files = sim.disk().files();
        let logs = files
            .iter()
            .filter(|f| f.extension().is_some_and(|e| e == "log"));
        let newest = logs.max().expect("there are some");
        let flipped = sim.disk().flip_bytes(newest, 4096 + 80, 1);
        flipped.expect("it is there");
    }
    assert_eq!(entries_of(&sim, &config).expect("it opens"), [1]);
    let names: Vec<String> = pieces(&sim).into_iter().map(|(name, _)| name).collect();
    let kept = (ROUNDS - 6..=ROUNDS + 1).map(|n| format!("torn-{n:016x}-{:016x}.piece", 4096));
    assert_eq!(names, kept.collect::<Vec<_>>());
}

#[test]
fn s2_damage_below_the_stated_position_is_corruption() {
    let sim = Sim::new(2);
    let config = written(&sim, 1 << 20, 3);
    sim.disk()
        .flip_bytes(FIRST, 2 * 4096 + 80, 1)
        .expect("it is there");
    match entries_of(&sim, &config) {
        Err(LogError::Corrupt { file, position, .. }) => {
            assert_eq!(file.to_string_lossy(), FIRST);
            assert_eq!(position, 2 * 4096);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn s2_lost_blocks_below_the_stated_position_are_corruption() {
    let sim = Sim::new(2);
    let config = written(&sim, 1 << 20, 3);
    let mut bytes = sim.disk().read(FIRST).expect("it is there");
    bytes[4096..8192].fill(0);
    sim.disk().put(FIRST, &bytes).expect("it can be put");
    assert!(matches!(
        entries_of(&sim, &config),
        Err(LogError::Corrupt { position: 4096, .. })
    ));
}

#[test]
fn s3_start_after_torn_tail_is_followed_by_more_starts() {
    let sim = Sim::new(3);
    let config = written(&sim, 1 << 20, 3);
    sim.disk()
        .flip_bytes(FIRST, 3 * 4096 + 80, 1)
        .expect("it is there");
    for _ in 0..4 {
        assert_eq!(entries_of(&sim, &config).expect("it opens"), vec![1, 2]);
        sim.crash();
    }
    let second = sim
        .disk()
        .read("/data/shard-0/log/0000000000000002.log")
        .expect("it is there");
    let header = FileHeader::decode(&second[..4096]).expect("it is sound");
    assert_eq!((header.predecessor, header.predecessor_end), (1, 3 * 4096));
}

#[test]
fn s3_tail_of_killed_process_survives_a_later_power_cut() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let (config, _) = small_config(1 << 20);
        let used = config.clone();
        sim.block_on(async move {
            let log = open(&used).await;
            log.append(RING, vec![entry(1, 100)], Box::new(|| {}));
            time::sleep(std::time::Duration::from_micros(seed * 20)).await;
        })
        .expect("it ends");
        sim.kill();
        let found = entries_of(&sim, &config).expect("it opens");
        sim.crash();
        assert_eq!(entries_of(&sim, &config).expect("it opens"), found);
    }
}

#[test]
fn missing_file_is_an_error_that_names_it() {
    let sim = Sim::new(4);
    let config = written(&sim, 1 << 20, 1);
    for _ in 0..2 {
        entries_of(&sim, &config).expect("it opens");
    }
    let second = config.dir.join("0000000000000002.log");
    sim.block_on(async { tidemill_rt::fs::remove_file(&second).await })
        .expect("it ends")
        .expect("it is there");
    match entries_of(&sim, &config) {
        Err(LogError::Missing { file }) => assert_eq!(file.file_name(), second.file_name()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn s10_failed_sync_is_fatal_once_and_runs_no_callback() {
    for op in [DiskOp::Sync, DiskOp::Write] {
        let sim = Sim::new(10);
        let (config, failures) = small_config(1 << 20);
        let done = Rc::new(Cell::new(0));
        sim.block_on(async {
            let log = open(&config).await;
            log.append(RING, vec![entry(1, 10)], count(&done));
            log.barrier().await;
            sim.disk().fail_next(op, "shard-0/log", 1, ErrorKind::Other);
            for index in 2..10 {
                log.append(RING, vec![entry(index, 5_000)], count(&done));
            }
            time::sleep(std::time::Duration::from_secs(10)).await;
            log.append(RING, vec![entry(10, 10)], count(&done));
            let barrier = time::timeout(std::time::Duration::from_secs(10), log.barrier()).await;
            assert!(barrier.is_err());
        })
        .expect("it ends");
        assert_eq!(done.get(), 1);
        assert_eq!(failures.borrow().len(), 1, "{:?}", failures.borrow());
    }
}

#[test]
fn s13_recovered_small_entries_have_memory_of_their_own() {
    let sim = Sim::new(13);
    let (config, _) = small_config(1 << 20);
    let used = config.clone();
    sim.block_on(async move {
        let log = open(&used).await;
        append(&log, RING, vec![entry(1, 100), entry(2, 100)]).await;
    })
    .expect("it ends");
    sim.kill();
    let (_, mut rings) = reopened(&sim, &config).expect("it opens");
    let ring = rings.remove(&RING).expect("it was written");
    for data in ring.entries.into_values() {
        // A buffer that is shared, or larger than its content, cannot become mutable as it is.
        let own = data.try_into_mut().expect("nobody shares it");
        assert!(own.capacity() < 4096);
    }
}

#[test]
fn entry_larger_than_a_file_gets_a_larger_file() {
    let sim = Sim::new(5);
    let (config, failures) = small_config(64 << 10);
    sim.block_on(async {
        let log = open(&config).await;
        append(
            &log,
            RING,
            vec![entry(1, 10), entry(2, 9 << 20), entry(3, 10)],
        )
        .await;
        assert!(log.stats().disk_bytes > 9 << 20);
    })
    .expect("it ends");
    sim.crash();
    assert_eq!(entries_of(&sim, &config).expect("it opens"), vec![1, 2, 3]);
    assert!(failures.borrow().is_empty());
}

#[test]
fn frames_queued_during_a_write_share_one_sync() {
    let sim = Sim::new(6);
    let (config, _) = small_config(1 << 20);
    sim.block_on(async {
        let log = open(&config).await;
        for index in 1..=50 {
            log.append(RING, vec![entry(index, 50)], Box::new(|| {}));
        }
        log.barrier().await;
        assert_eq!(log.stats().syncs, 1);
        assert_eq!(log.stats().queued_bytes, 0);
    })
    .expect("it ends");
}

#[test]
fn purged_files_go_and_votes_are_carried_forward() {
    let sim = Sim::new(8);
    let (config, failures) = small_config(16 << 10);
    sim.block_on(async {
        let log = open(&config).await;
        let vote = Bytes::from_static(b"vote");
        log.append(
            RING,
            vec![Frame::Vote { data: vote.clone() }],
            Box::new(|| {}),
        );
        log.append(RingId(8), vec![Frame::Vote { data: vote }], Box::new(|| {}));
        for index in 1..=200 {
            append(&log, RING, vec![entry(index, 3_000), purge(index)]).await;
        }
        log.close().await;
        let stats = log.stats();
        assert!(stats.files <= 3, "{stats:?}");
        assert!(stats.removed_files > 40, "{stats:?}");
    })
    .expect("it ends");
    sim.crash();
    let (_, rings) = reopened(&sim, &config).expect("it opens");
    for ring in [RING, RingId(8)] {
        assert_eq!(rings[&ring].vote.as_deref(), Some(&b"vote"[..]));
    }
    assert_eq!(rings[&RING].purged.as_ref().map(|p| p.0), Some(200));
    assert!(failures.borrow().is_empty());
}

#[test]
fn file_that_is_not_needed_any_more_becomes_the_next_one() {
    let sim = Sim::new(8);
    let (config, failures) = small_config(64 << 10);
    sim.block_on(async {
        let log = open(&config).await;
        for index in 1..=200 {
            // Purged long before the file is half full, as when everything is flushed early.
            append(&log, RING, vec![entry(index, 3_000), purge(index)]).await;
            time::sleep(Duration::from_millis(50)).await;
        }
        let stats = log.stats();
        assert!(stats.recycled_files > 8, "{stats:?}");
        assert!(stats.files <= 2, "{stats:?}");
    })
    .expect("it ends");
    assert!(failures.borrow().is_empty());
}

#[test]
fn s1_crash_right_after_a_file_was_taken_up_again_brings_nothing_old_back() {
    let mut recycled = 0;
    for seed in 0..300 {
        let sim = Sim::new(seed);
        let (config, failures) = small_config(32 << 10);
        let used = config.clone();
        let durable = Rc::new(Cell::new((0, 0)));
        let told = durable.clone();
        let ended = sim.run_until_crash(4_000, async move {
            let log = open(&used).await;
            for index in 1..=60 {
                append(&log, RING, vec![entry(index, 3_000), purge(index)]).await;
                told.set((index, log.stats().recycled_files));
                time::sleep(Duration::from_millis(50)).await;
            }
        });
        let _ = ended;
        sim.crash();
        let opened = reopened(&sim, &config);
        let (_, rings) = opened.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let ring = rings.get(&RING);
        let purged = ring.and_then(|r| r.purged.as_ref()).map_or(0, |p| p.0);
        let (acknowledged, kept) = durable.get();
        recycled += kept;
        assert!(purged >= acknowledged, "seed {seed}: {purged}");
        let old = ring.is_some_and(|r| r.entries.keys().any(|index| *index <= purged));
        assert!(!old, "seed {seed}: an entry that was purged is back");
        assert!(failures.borrow().is_empty());
    }
    assert!(
        recycled > 300,
        "files were hardly ever taken up again: {recycled}"
    );
}

#[test]
fn entry_out_of_order_is_fatal_and_not_written() {
    let sim = Sim::new(9);
    let (config, failures) = small_config(1 << 20);
    sim.block_on(async {
        let log = open(&config).await;
        append(&log, RING, vec![entry(1, 10)]).await;
        log.append(RING, vec![entry(3, 10)], Box::new(|| {}));
    })
    .expect("it ends");
    assert_eq!(failures.borrow().len(), 1);
}

/// Appends `from..=to` to `ring`, each purged at once: what is left behind are files that nobody needs.
async fn append_and_purge(log: &ShardLog, ring: RingId, range: std::ops::RangeInclusive<u64>) {
    for index in range {
        append(log, ring, vec![entry(index, 3_000), purge(index)]).await;
    }
}

#[test]
fn s6_file_goes_only_when_its_entries_are_purged() {
    let sim = Sim::new(6);
    let (config, failures) = small_config(16 << 10);
    sim.block_on(async {
        let log = open(&config).await;
        for index in 1..=40 {
            append(&log, RING, vec![entry(index, 3_000)]).await;
        }
        time::sleep(Duration::from_secs(1)).await;
        assert_eq!(log.stats().removed_files, 0);
        append(&log, RING, vec![purge(20)]).await;
        time::sleep(Duration::from_secs(1)).await;
        let removed = log.stats().removed_files;
        assert!((5..=7).contains(&removed), "{removed}");
    })
    .expect("it ends");
    sim.crash();
    let found = entries_of(&sim, &config).expect("it opens");
    assert_eq!(found, (21..=40).collect::<Vec<_>>());
    assert!(failures.borrow().is_empty());
}

#[test]
fn s7_entries_of_a_silent_ring_are_carried_forward_and_pin_no_files() {
    const SILENT: RingId = RingId(8);
    let sim = Sim::new(7);
    let (config, failures) = small_config(64 << 10);
    sim.block_on(async {
        let log = open(&config).await;
        let appended = (1..=9).map(|index| entry(index, 700)).collect();
        log.append(SILENT, appended, Box::new(|| {}));
        append_and_purge(&log, RING, 1..=30).await;
        // Voided and written anew in another file, before and after copies of what stands in front were made.
        let voided = vec![Frame::Truncate { after: 5 }, entry(6, 900), entry(7, 900)];
        log.append(SILENT, voided, Box::new(|| {}));
        append_and_purge(&log, RING, 31..=600).await;
        let stats = log.stats();
        assert!(stats.removed_files > 25, "{stats:?}");
        assert!(stats.files <= 6, "{stats:?}");
        assert!(stats.carried_bytes > 5_000, "{stats:?}");
        assert!(stats.carried_bytes * 8 < stats.written_bytes, "{stats:?}");
        append(&log, SILENT, vec![entry(8, 10)]).await;
    })
    .expect("it ends");
    sim.crash();
    let (log, rings) = reopened(&sim, &config).expect("it opens");
    let lens: Vec<_> = rings[&SILENT]
        .entries
        .iter()
        .map(|(i, d)| (*i, d.len()))
        .collect();
    let kept = (1..=5).map(|index| (index, 700));
    let anew = [(6, 900), (7, 900), (8, 10)];
    assert_eq!(lens, kept.chain(anew).collect::<Vec<_>>());
    sim.block_on(async {
        append(&log, SILENT, vec![entry(9, 10)]).await;
    })
    .expect("it ends");
    assert!(failures.borrow().is_empty(), "{:?}", failures.borrow());
}

#[test]
fn s11_full_disk_stalls_the_log_which_goes_on_when_there_is_room() {
    let sim = Sim::new(11);
    let (config, failures) = small_config(64 << 10);
    let done = Rc::new(Cell::new(0));
    sim.disk().set_capacity(Some(100 << 10));
    sim.block_on(async {
        let log = open(&config).await;
        for index in 1..=60 {
            log.append(RING, vec![entry(index, 3_000)], count(&done));
            let barrier = time::timeout(Duration::from_secs(10), log.barrier());
            if barrier.await.is_err() {
                break;
            }
        }
        let acknowledged = done.get();
        assert!((10..60).contains(&acknowledged), "{acknowledged}");
        assert!(log.stats().full_waits > 5);
        sim.disk().set_capacity(None);
        log.barrier().await;
        assert_eq!(done.get(), acknowledged + 1);
        let full = log.stats().full_waits;
        log.append(
            RING,
            vec![entry(acknowledged as u64 + 2, 3_000)],
            count(&done),
        );
        log.barrier().await;
        assert_eq!(log.stats().full_waits, full);
    })
    .expect("it ends");
    assert!(failures.borrow().is_empty(), "{:?}", failures.borrow());
    sim.crash();
    let found = entries_of(&sim, &config).expect("it opens");
    assert!(found.len() >= done.get());
}

#[test]
fn s11_write_that_finds_no_room_in_a_file_that_was_reserved_is_made_again() {
    let sim = Sim::new(12);
    let (config, failures) = small_config(1 << 20);
    sim.block_on(async {
        let log = open(&config).await;
        append(&log, RING, vec![entry(1, 10)]).await;
        sim.disk()
            .fail_next(DiskOp::Write, "shard-0/log", 3, ErrorKind::StorageFull);
        append(&log, RING, vec![entry(2, 5_000), entry(3, 5_000)]).await;
        assert!(log.stats().full_waits >= 3);
    })
    .expect("it ends");
    sim.crash();
    assert_eq!(entries_of(&sim, &config).expect("it opens"), vec![1, 2, 3]);
    assert!(failures.borrow().is_empty(), "{:?}", failures.borrow());
}

#[test]
fn log_waits_for_descriptors_as_it_does_for_room() {
    let sim = Sim::new(15);
    let (config, failures) = small_config(64 << 10);
    sim.block_on(async {
        let log = open(&config).await;
        for index in 1..60 {
            // Whatever is opened meanwhile, the next file, its directory, an old one to be carried forward: there are none left.
            sim.disk()
                .fail_next(DiskOp::Open, "shard-0/log/", 3, ErrorKind::OutOfMemory);
            append(&log, RING, vec![entry(index, 10_000)]).await;
            if index % 7 == 0 {
                append(&log, RING, vec![purge(index - 3)]).await;
            }
        }
        assert!(log.stats().removed_files > 3);
        sim.disk().heal();
    })
    .expect("it ends");
    sim.crash();
    let left = entries_of(&sim, &config).expect("it opens");
    assert_eq!(left, (54..60).collect::<Vec<_>>());
    assert!(failures.borrow().is_empty(), "{:?}", failures.borrow());
}

#[test]
fn s11_node_starts_on_a_full_disk_with_what_was_reserved_behind_the_end() {
    let sim = Sim::new(13);
    let config = written(&sim, 2 << 20, 1);
    sim.disk().set_capacity(Some(sim.disk().used()));
    for _ in 0..3 {
        assert_eq!(entries_of(&sim, &config).expect("it opens"), vec![1]);
        sim.crash();
    }
    sim.disk().set_capacity(Some(0));
    let refused = entries_of(&sim, &config);
    assert!(matches!(refused, Err(LogError::Full { .. })), "{refused:?}");
    sim.disk().set_capacity(None);
    assert_eq!(entries_of(&sim, &config).expect("it opens"), vec![1]);
}

#[test]
fn s11_watch_tells_when_writes_must_stop_and_when_they_may_go_on() {
    let sim = Sim::new(14);
    let (config, _) = small_config(64 << 10);
    sim.block_on(async {
        let log = open(&config).await;
        let watch = crate::SpaceConfig {
            path: config.dir.clone(),
            reserve_bytes: 1 << 20,
        };
        log.watch_space(watch).await;
        assert!(!log.space().is_full());
        sim.disk().set_capacity(Some(sim.disk().used() + 1000));
        assert!(log.space().changed_from(false).await);
        sim.disk().set_capacity(None);
        log.space().room().await;
        assert!(!log.space().is_full());
    })
    .expect("it ends");
}
