//! Input of every kind, honest and hostile.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use tidemill_model::batch::{CRC_START, Compression, HEADER_BYTES};
use tidemill_model::record::{BatchBuilder, NewRecord, Records, set_log_append_time};
use tidemill_model::{Batch, BatchHeader, Offset};
use tidemill_rt::time;

use super::world::{FIRST_MS, LETTERS, MAIN, World, config, simulate, simulate_with_room, start};
use crate::input::{SECTION_BYTES_MAX, UNPACKED_BYTES_MAX, Unreadable, unpack};
use crate::processor::{CALL_BYTES, STRETCHES_MAX};
use crate::{OnError, Stopped};

fn batch_of(values: &[&[u8]], codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new();
    for (n, value) in values.iter().enumerate() {
        builder.append(NewRecord {
            timestamp: FIRST_MS + n as i64,
            value: Some(value),
            ..NewRecord::default()
        });
    }
    builder.build_compressed(codec).unwrap()
}

/// The batch after `change`, with the right checksum.
fn changed(batch: &Bytes, change: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    change(&mut bytes);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[CRC_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let bytes = bytes.freeze();
    BatchHeader::validate(&bytes).expect("a producer may send this");
    bytes
}

/// Three records with these offset deltas, as a hostile producer may send them.
fn with_deltas(deltas: [i8; 3]) -> Bytes {
    let batch = batch_of(&[b"a", b"b", b"fail:c"], Compression::None);
    changed(&batch, |bytes| {
        let mut at = HEADER_BYTES;
        for delta in deltas {
            // Length, attributes, timestamp delta: one byte each. Then the offset delta, zigzag.
            bytes[at + 3] = ((delta << 1) ^ (delta >> 7)) as u8;
            at += 1 + usize::from(bytes[at] >> 1);
        }
    })
}

fn at(base_offset: Offset, bytes: Bytes) -> Batch {
    let header = BatchHeader::parse(&bytes).unwrap();
    let header = BatchHeader {
        base_offset,
        ..header
    };
    Batch { header, bytes }
}

async fn run_all(
    world: &std::rc::Rc<World>,
    on_error: OnError,
) -> std::rc::Rc<crate::ProcessorStats> {
    let running = start(world, config(on_error));
    world.all_decided().await;
    let stats = running.stats.clone();
    assert_eq!(running.stop().await, Stopped::Told);
    stats
}

#[test]
fn compressed_input_is_run_like_any_other() {
    for codec in [
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        simulate(1, |world| async move {
            world.append_with(&["0", "fail:1", "2", "3"], codec);
            let stats = run_all(&world, OnError::DeadLetter(LETTERS)).await;
            assert_eq!(
                world.values(MAIN),
                ["main 0", "main 2", "main 3"],
                "{codec:?}"
            );
            assert_eq!(world.values(LETTERS), ["fail:1"]);
            assert_eq!(stats.records_in.get(), 4);
        });
    }
}

#[test]
fn input_with_append_time_shows_its_producers_timestamps() {
    simulate(2, |world| async move {
        let batch = batch_of(&[b"0", b"fail:1"], Compression::None);
        world.append_bytes(set_log_append_time(&batch, FIRST_MS + 1_000_000));
        run_all(&world, OnError::DeadLetter(LETTERS)).await;
        assert_eq!(world.out.borrow()[&MAIN][0].timestamp, FIRST_MS);
        assert_eq!(world.out.borrow()[&LETTERS][0].timestamp, FIRST_MS + 1);
    });
}

/// Between two good batches, one whose compressed section is no such thing.
fn append_unreadable(world: &World) {
    world.append(&["0", "1"]);
    let broken = batch_of(&[b"2", b"3", b"4"], Compression::Zstd);
    world.append_bytes(changed(&broken, |b| b[HEADER_BYTES..].fill(7)));
    world.append(&["5", "6"]);
}

#[test]
fn unreadable_batch_is_one_dead_letter_and_stops_nothing_beside_it() {
    simulate(3, |world| async move {
        append_unreadable(&world);
        let stats = run_all(&world, OnError::DeadLetter(LETTERS)).await;
        assert_eq!(world.values(MAIN), ["main 0", "main 1", "main 5", "main 6"]);
        assert_eq!(world.values(LETTERS).len(), 1);
        assert_eq!((stats.dead_lettered.get(), stats.records_in.get()), (3, 7));
    });
}

#[test]
fn unreadable_batch_is_skipped_where_nothing_else_can_be_done_with_it() {
    for policy in [OnError::Skip, OnError::PassThrough] {
        simulate(4, |world| async move {
            append_unreadable(&world);
            let stats = run_all(&world, policy).await;
            assert_eq!(world.values(MAIN), ["main 0", "main 1", "main 5", "main 6"]);
            assert_eq!(stats.skipped.get(), 3);
        });
    }
}

#[test]
fn unreadable_batch_stops_a_transform_that_is_to_fail() {
    simulate(5, |world| async move {
        append_unreadable(&world);
        let running = start(&world, config(OnError::Fail));
        world.decided_to(2).await;
        time::sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(world.stands_at.get(), Some(2));
        assert_eq!(world.values(MAIN), ["main 0", "main 1"]);
        assert!(world.told("its batch cannot be read"));
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn x2_unreadable_batch_that_begins_before_the_transform_does_not_move_it_back() {
    simulate(6, |world| async move {
        let batch = batch_of(&[b"0", b"1", b"2"], Compression::None);
        world.append_bytes(changed(&batch, |b| b.put_u8(0)));
        world.stands_at.set(Some(2));
        let running = start(&world, config(OnError::Fail));
        time::sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(world.stands_at.get(), Some(2));
        assert!(world.told("record at offset 2 failed"));
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn x2_offsets_that_a_hostile_producer_wrote_move_a_transform_neither_back_nor_ahead() {
    for deltas in [[0, 1, -50], [0, 1, 100], [2, 1, 0], [0, 0, 0], [-1, 0, 1]] {
        simulate(7, |world| async move {
            world.append(&["0", "1"]);
            world.append_bytes(with_deltas(deltas));
            world.append(&["5", "6"]);
            let running = start(&world, config(OnError::Fail));
            time::sleep(std::time::Duration::from_secs(5)).await;
            assert_eq!(world.stands_at.get(), Some(2), "{deltas:?}");
            assert_eq!(running.stop().await, Stopped::Told);
            run_all(&world, OnError::Skip).await;
            assert_eq!(
                world.values(MAIN),
                ["main 0", "main 1", "main 5", "main 6"],
                "{deltas:?}"
            );
        });
    }
}

#[test]
fn timestamps_at_the_edge_of_what_there_is_harm_nobody() {
    simulate(8, |world| async move {
        let batch = batch_of(&[b"fail:0", b"fail:1"], Compression::None);
        world.append_bytes(changed(&batch, |b| {
            b[27..35].copy_from_slice(&i64::MAX.to_be_bytes())
        }));
        let stats = run_all(&world, OnError::DeadLetter(LETTERS)).await;
        assert_eq!(stats.dead_lettered.get(), 2);
        assert_eq!(world.out.borrow()[&LETTERS][1].timestamp, i64::MAX);
    });
}

#[test]
fn malformed_headers_are_named_in_a_dead_letter_and_not_passed_through() {
    // One header is announced, and its key is longer than the record.
    let batch = batch_of(&[b"fail:0xx"], Compression::None);
    let broken = || {
        changed(&batch, |b| {
            let end = b.len();
            // The value loses its last two bytes to the header; header count 1, key length 5.
            b[HEADER_BYTES + 5] = 6 << 1;
            b[end - 3] = 1 << 1;
            b[end - 2] = 5 << 1;
            b[end - 1] = 0;
        })
    };
    let (one, other) = (broken(), broken());
    simulate(9, |world| async move {
        world.append_bytes(one);
        run_all(&world, OnError::DeadLetter(LETTERS)).await;
        let letter = world.out.borrow()[&LETTERS][0].clone();
        assert_eq!(letter.value, "fail:0");
        assert!(letter.headers[0].1.contains("malformed"), "{letter:?}");
    });
    simulate(9, |world| async move {
        world.append_bytes(other);
        let stats = run_all(&world, OnError::PassThrough).await;
        assert_eq!((stats.passed_through.get(), stats.skipped.get()), (0, 1));
    });
}

#[test]
fn compressed_input_that_is_much_larger_than_it_looks_is_run_in_several_calls() {
    simulate(10, |world| async move {
        let value = vec![b'7'; 600_000];
        for _ in 0..12 {
            world.append_bytes(batch_of(&[&value], Compression::Zstd));
        }
        let stats = run_all(&world, OnError::Fail).await;
        assert_eq!(world.values(MAIN).len(), 12);
        assert!(
            world
                .call_bytes
                .borrow()
                .iter()
                .all(|b| *b < 2 * CALL_BYTES)
        );
        assert!(stats.bytes_in.get() >= 12 * 600_000);
        assert_eq!(stats.records_in.get(), 12);
    });
}

#[test]
fn first_batch_is_cut_where_the_transform_stands() {
    simulate(11, |world| async move {
        world.append(&["0", "1", "2", "3"]);
        world.stands_at.set(Some(2));
        let stats = run_all(&world, OnError::Fail).await;
        assert_eq!(world.values(MAIN), ["main 2", "main 3"]);
        assert_eq!((stats.records_in.get(), stats.missed.get()), (2, 0));
    });
}

/// A compressed batch of one quiet record of `len` bytes: small, until it is unpacked.
fn bomb(len: usize) -> Bytes {
    let mut value = b"quiet:".to_vec();
    value.resize(len, b'0');
    batch_of(&[&value], Compression::Zstd)
}

#[test]
fn batch_that_unpacks_to_more_than_a_section_may_have_is_that_batchs_error() {
    for (policy, skipped, letters) in [(OnError::Skip, 1, 0), (OnError::DeadLetter(LETTERS), 0, 1)]
    {
        simulate(12, |world| async move {
            world.append(&["0"]);
            let bomb = bomb(SECTION_BYTES_MAX + 1);
            assert!(bomb.len() < 16_384);
            world.append_bytes(bomb);
            world.append(&["2"]);
            let stats = run_all(&world, policy).await;
            assert_eq!(world.values(MAIN), ["main 0", "main 2"]);
            assert!(world.told("decompressed records exceed the limit"));
            assert_eq!(stats.skipped.get(), skipped);
            assert_eq!(world.values(LETTERS).len(), letters);
        });
    }
}

#[test]
fn input_of_many_partitions_is_not_unpacked_beyond_the_memory_of_the_shard() {
    const BOMB_BYTES: usize = 20 << 20;
    simulate_with_room(13, 1 << 30, |world| async move {
        world.call_time.set(std::time::Duration::from_secs(1));
        world.append_bytes(bomb(BOMB_BYTES));
        let running: Vec<_> = (0..10)
            .map(|_| start(&world, config(OnError::Fail)))
            .collect();
        time::sleep(std::time::Duration::from_millis(500)).await;
        let at_once = world.calls.borrow().len();
        assert!((1..=UNPACKED_BYTES_MAX as usize / BOMB_BYTES).contains(&at_once));
        world.all_decided().await;
        for running in running {
            assert_eq!(running.stop().await, Stopped::Told);
        }
        assert_eq!(world.unpacking.available(), world.unpacking.total());
    });
}

#[test]
fn processor_that_waits_for_its_turn_has_taken_neither_memory_nor_room_and_stops_when_told() {
    simulate(16, |world| async move {
        let turns = world.stretches.acquire(STRETCHES_MAX).await;
        world.append_with(&["0"], Compression::Gzip);
        let (memory, room) = (world.unpacking.available(), world.room.available());
        let running = start(&world, config(OnError::Fail));
        time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(world.calls.borrow().len(), 0);
        assert_eq!(world.unpacking.available(), memory);
        assert_eq!(world.room.available(), room);
        assert_eq!(running.stop().await, Stopped::Told);
        let running = start(&world, config(OnError::Fail));
        drop(turns);
        world.all_decided().await;
        assert_eq!(running.stop().await, Stopped::Told);
        assert_eq!(world.stretches.available(), STRETCHES_MAX);
    });
}

#[test]
fn processor_whose_outputs_cannot_be_written_leaves_the_turns_to_others() {
    simulate(18, |world| async move {
        world.unwritable.set(true);
        world.append(&["0"]);
        let turns = world.stretches.acquire(STRETCHES_MAX).await;
        let running = start(&world, config(OnError::Fail));
        time::sleep(std::time::Duration::from_secs(1)).await;
        world.unwritable.set(false);
        world.writable.notify_all();
        time::sleep(std::time::Duration::from_secs(1)).await;
        // While it waits for its turn: when that comes, it must not keep it.
        world.unwritable.set(true);
        drop(turns);
        time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(world.stretches.available(), STRETCHES_MAX);
        assert_eq!(world.calls.borrow().len(), 0);
        world.unwritable.set(false);
        world.writable.notify_all();
        world.all_decided().await;
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn turn_is_given_back_before_the_back_off() {
    simulate(17, |world| async move {
        world.append(&["fail:0"]);
        let running = start(&world, config(OnError::Fail));
        time::sleep(std::time::Duration::from_secs(20)).await;
        assert_eq!(world.stretches.available(), STRETCHES_MAX);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn processor_that_waits_for_memory_to_unpack_stops_when_told_and_keeps_none() {
    simulate(14, |world| async move {
        let taken = world.unpacking.acquire(UNPACKED_BYTES_MAX).await;
        world.append_with(&["0"], Compression::Gzip);
        let running = start(&world, config(OnError::Fail));
        time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(world.calls.borrow().len(), 0);
        assert_eq!(running.stop().await, Stopped::Told);
        drop(taken);
        assert_eq!(world.unpacking.available(), UNPACKED_BYTES_MAX);
    });
}

#[test]
fn memory_of_unpacked_input_is_given_back_before_the_back_off() {
    simulate(15, |world| async move {
        world.append_with(&["fail:0"], Compression::Gzip);
        let running = start(&world, config(OnError::Fail));
        time::sleep(std::time::Duration::from_secs(20)).await;
        assert_eq!(world.unpacking.available(), UNPACKED_BYTES_MAX);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

fn unpacked(batch: &Batch, from: Offset) -> Result<crate::input::Section, Unreadable> {
    tidemill_rt::sim::Sim::new(0)
        .block_on(async { unpack(vec![batch.clone()], from, 1).await })
        .unwrap()
        .sections
        .remove(0)
}

proptest! {
    #[test]
    fn pieces_cut_anywhere_are_the_records_of_the_batch(
        lens in prop::collection::vec(0_usize..300, 1..20), cut in 0_usize..20, from in 0_i64..20
    ) {
        let values: Vec<Vec<u8>> = lens.iter().map(|len| vec![b'v'; *len]).collect();
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let section = unpacked(&at(100, batch_of(&values, Compression::None)), 100 + from).unwrap();
        let pieces = section.pieces().unwrap();
        let skipped = (from as usize).min(lens.len());
        prop_assert_eq!(pieces.len(), lens.len() - skipped);
        let cut = cut.min(pieces.len());
        let parts = [pieces.input(0..cut), pieces.input(cut..pieces.len())];
        let mut next = skipped;
        for part in parts {
            for record in Records::new(&part.records, part.record_count as i32) {
                let record = record.unwrap();
                prop_assert_eq!(part.base_offset + i64::from(record.offset_delta), 100 + next as i64);
                prop_assert_eq!(record.value.map(<[u8]>::len), Some(lens[next]));
                prop_assert_eq!(pieces.find(100 + next as i64), Some(next - skipped));
                next += 1;
            }
        }
        prop_assert_eq!(next, lens.len());
        prop_assert_eq!(pieces.find(99), None);
        prop_assert_eq!(pieces.find(100 + lens.len() as i64), None);
    }

    #[test]
    fn sections_of_noise_are_refused_and_nothing_else(noise in prop::collection::vec(any::<u8>(), 30..200)) {
        let batch = batch_of(&[b"0", b"1", b"2"], Compression::None);
        let batch = changed(&batch, |b| {
            b.truncate(HEADER_BYTES);
            b.extend_from_slice(&noise);
        });
        if let Ok(section) = unpacked(&at(50, batch), 51)
            && let Ok(pieces) = section.pieces()
        {
            for n in 0..pieces.len() {
                prop_assert!((51..53).contains(&pieces.offset(n)));
                prop_assert!(pieces.record(n).is_some());
            }
        }
    }
}
