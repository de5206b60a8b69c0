//! Tests of a partition's state machine.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use tidemill_model::record::{BatchBuilder, NewRecord, Producer};
use tidemill_model::{BatchHeader, Incarnation, PartitionId, TopicId};

use super::*;
use crate::codec::Reader;
use crate::producers::{BATCHES_REMEMBERED, PRODUCER_EXPIRY_MS};

fn batch(producer: Option<Producer>, records: i32, timestamp: i64) -> (BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new();
    if let Some(producer) = producer {
        builder = builder.producer(producer);
    }
    for i in 0..records {
        builder.append(NewRecord {
            timestamp: timestamp + i64::from(i),
            key: None,
            value: Some(b"value"),
            headers: &[],
        });
    }
    let bytes = builder.build();
    (BatchHeader::validate(&bytes).expect("well formed"), bytes)
}

fn by(id: i64, epoch: i16, base_sequence: i32) -> Option<Producer> {
    Some(Producer {
        id,
        epoch,
        base_sequence,
    })
}

fn encoded(state: &PartitionState) -> Vec<u8> {
    let mut out = Vec::new();
    state.encode(&mut out);
    out
}

/// Appends if admitted; the base offset either way.
fn write(
    state: &mut PartitionState,
    (header, bytes): (BatchHeader, Bytes),
    now: i64,
) -> Result<Offset, AppendRefused> {
    match state.check_append(&header, bytes.len(), now)? {
        Admission::Duplicate { base_offset, .. } => Ok(base_offset),
        Admission::New => Ok(state.append(header, bytes, 1, now).batch.header.base_offset),
    }
}

fn fresh() -> PartitionState {
    PartitionState::new(PartitionConfig::default(), 0)
}

#[test]
fn offsets_are_given_densely_and_epoch_starts_are_kept() {
    let mut p = PartitionState::new(PartitionConfig::default(), 3);
    for (records, term) in [(2, 1), (3, 1), (1, 4)] {
        let (h, b) = batch(None, records, 0);
        let epoch = p.leader_epoch(term);
        p.append(h, b, epoch, 0);
    }
    assert_eq!(p.high_watermark(), 6);
    assert_eq!(p.epoch_end(3), (3, 0));
    assert_eq!(p.epoch_end(4), (4, 5));
    assert_eq!(p.epoch_end(6), (4, 5));
    assert_eq!(p.epoch_end(7), (7, 6));
}

#[test]
fn duplicate_of_one_of_the_last_five_gets_its_offset_and_older_is_out_of_order() {
    let mut p = fresh();
    for i in 0..8 {
        assert_eq!(
            write(&mut p, batch(by(7, 0, i * 2), 2, 0), 0),
            Ok(i64::from(i) * 2)
        );
    }
    for i in 8 - BATCHES_REMEMBERED as i32..8 {
        assert_eq!(
            write(&mut p, batch(by(7, 0, i * 2), 2, 0), 0),
            Ok(i64::from(i) * 2)
        );
    }
    assert_eq!(p.high_watermark(), 16);
    for wrong in [4, 15, 17, 100] {
        let refused = write(&mut p, batch(by(7, 0, wrong), 2, 0), 0);
        assert!(matches!(
            refused,
            Err(AppendRefused::Sequence(SequenceError::OutOfOrderSequence {
                expected: 16,
                ..
            }))
        ));
    }
}

#[test]
fn older_epoch_is_fenced_and_newer_epoch_starts_at_zero() {
    let mut p = fresh();
    write(&mut p, batch(by(7, 2, 50), 1, 0), 0).expect("an unknown producer may start anywhere");
    let older = write(&mut p, batch(by(7, 1, 51), 1, 0), 0);
    assert!(matches!(
        older,
        Err(AppendRefused::Sequence(
            SequenceError::InvalidProducerEpoch {
                current: 2,
                got: 1,
                ..
            }
        ))
    ));
    let newer = write(&mut p, batch(by(7, 3, 51), 1, 0), 0);
    assert!(matches!(
        newer,
        Err(AppendRefused::Sequence(SequenceError::OutOfOrderSequence {
            expected: 0,
            ..
        }))
    ));
    assert_eq!(write(&mut p, batch(by(7, 3, 0), 1, 0), 0), Ok(1));
    assert_eq!(write(&mut p, batch(by(7, 3, 0), 1, 0), 0), Ok(1));
}

#[test]
fn sequence_wraps_from_largest_to_zero() {
    let mut p = fresh();
    assert_eq!(write(&mut p, batch(by(7, 0, i32::MAX - 1), 3, 0), 0), Ok(0));
    assert_eq!(write(&mut p, batch(by(7, 0, 1), 1, 0), 0), Ok(3));
    assert_eq!(write(&mut p, batch(by(7, 0, i32::MAX - 1), 3, 0), 0), Ok(0));
    assert_eq!(write(&mut p, batch(by(8, 0, i32::MAX), 1, 0), 0), Ok(4));
    assert_eq!(write(&mut p, batch(by(8, 0, 0), 1, 0), 0), Ok(5));
}

#[test]
fn idle_producer_is_forgotten_by_the_time_in_entries() {
    let mut p = fresh();
    write(&mut p, batch(by(7, 5, 0), 1, 0), 1000).expect("first");
    let later = 1000 + PRODUCER_EXPIRY_MS;
    assert!(write(&mut p, batch(by(7, 5, 9), 1, 0), later - 1).is_err());
    write(&mut p, batch(by(8, 0, 0), 1, 0), later).expect("another one");
    assert_eq!(p.producers().len(), 1);
    assert_eq!(write(&mut p, batch(by(7, 0, 9), 1, 0), 0), Ok(2));
}

#[test]
fn least_recently_used_producer_makes_room_and_is_counted() {
    let mut producers = Producers::default();
    let (header, _) = batch(by(0, 0, 0), 1, 0);
    for id in 0..=crate::producers::PRODUCERS_MAX as i64 {
        let header = BatchHeader {
            producer_id: id,
            ..header
        };
        producers.appended(&header, id, -1, 0);
    }
    assert_eq!(producers.len(), crate::producers::PRODUCERS_MAX);
    assert_eq!(producers.evicted_total(), 1);
    assert_eq!(
        producers.check(
            &BatchHeader {
                base_sequence: 9,
                ..header
            },
            0
        ),
        Ok(Admission::New)
    );
}

#[test]
fn log_append_time_comes_from_the_entry_and_is_repeated_for_duplicates() {
    let config = PartitionConfig {
        timestamp_type: TimestampType::LogAppendTime,
        ..PartitionConfig::default()
    };
    let mut p = PartitionState::new(config, 0);
    let (h, b) = batch(by(7, 0, 0), 2, 5);
    let placed = p.append(h, b.clone(), 1, 777);
    assert_eq!(placed.batch.header.max_timestamp, 777);
    assert!(BatchHeader::validate(&placed.batch.bytes).is_ok_and(|h| h.is_log_append_time()));
    assert_eq!(
        p.check_append(&h, b.len(), 999),
        Ok(Admission::Duplicate {
            base_offset: 0,
            log_append_time_ms: 777
        })
    );
}

#[test]
fn malformed_transactional_and_control_batches_are_refused() {
    let (h, b) = batch(None, 2, 0);
    let p = fresh();
    assert_eq!(
        p.check_append(&h, b.len() - 1, 0),
        Err(AppendRefused::Malformed)
    );
    let counts = BatchHeader {
        record_count: 3,
        ..h
    };
    assert_eq!(
        p.check_append(&counts, b.len(), 0),
        Err(AppendRefused::Malformed)
    );
    for bit in [0x10, 0x20] {
        let special = BatchHeader {
            attributes: bit,
            ..h
        };
        assert_eq!(
            p.check_append(&special, b.len(), 0),
            Err(AppendRefused::Transactional)
        );
    }
}

#[test]
fn segments_begin_at_batch_boundaries_decided_by_the_state() {
    let config = PartitionConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        ..PartitionConfig::default()
    };
    let mut p = PartitionState::new(config, 0);
    let (h, b) = batch(None, 400, 0);
    let each = SEGMENT_BYTES_MIN as usize / b.len();
    for i in 0..3 * each {
        let placed = p.append(h, b.clone(), 1, 0);
        assert_eq!(placed.starts_segment, i % each == 0);
    }
}

#[test]
fn s9_log_start_moves_up_to_the_high_watermark_and_never_back() {
    let mut p = fresh();
    for i in 0..4 {
        write(&mut p, batch(None, 5, i), i).expect("taken");
    }
    assert!(p.advance_start(7));
    assert!(!p.advance_start(7) && !p.advance_start(3));
    assert_eq!((p.log_start_offset(), p.removable_below()), (7, 0));
    assert!(p.active_segment().is_some(), "something is left of it");
    assert!(p.advance_start(100));
    assert_eq!((p.log_start_offset(), p.removable_below()), (20, 20));
    assert_eq!(p.active_segment(), None);
    let (header, bytes) = batch(None, 1, 9);
    let placed = p.append(header, bytes, 1, 9);
    assert!(placed.starts_segment);
    let stored = encoded(&p);
    let read = PartitionState::decode(&mut Reader::new(&stored)).expect("its own form");
    assert_eq!(read.log_start_offset(), 20);
    assert_eq!(read.active_segment(), p.active_segment());
    assert_eq!(encoded(&read), stored);
}

#[test]
fn s9_seal_ends_the_segment_it_means_and_no_other() {
    let mut p = fresh();
    write(&mut p, batch(None, 5, 0), 10).expect("taken");
    let active = ActiveSegment {
        base_offset: 0,
        opened_ms: 10,
    };
    assert_eq!(p.active_segment(), Some(active));
    p.seal(3);
    assert_eq!(p.active_segment(), Some(active));
    p.seal(0);
    assert_eq!(p.active_segment(), None);
    let (header, bytes) = batch(None, 1, 9);
    assert!(p.append(header, bytes.clone(), 1, 20).starts_segment);
    // Proposed before that, and applied late.
    p.seal(0);
    assert!(!p.append(header, bytes, 1, 20).starts_segment);
}

#[test]
fn records_can_be_deleted_up_to_the_high_watermark() {
    let mut p = fresh();
    write(&mut p, batch(None, 5, 0), 0).expect("taken");
    assert_eq!(p.check_delete(-1), Ok(5));
    assert_eq!(p.check_delete(0), Ok(0));
    assert_eq!(p.check_delete(5), Ok(5));
    for before in [6, -2, i64::MAX, i64::MIN] {
        let refused = DeleteOutOfRange {
            before,
            high_watermark: 5,
        };
        assert_eq!(p.check_delete(before), Err(refused));
    }
}

#[test]
fn leader_epochs_below_the_log_start_are_forgotten_but_for_the_one_it_lies_in() {
    let mut p = fresh();
    for epoch in 1..=4 {
        let (header, bytes) = batch(None, 10, 0);
        p.append(header, bytes, epoch, 0);
    }
    p.advance_start(25);
    assert_eq!(
        [p.epoch_at(15), p.epoch_at(25), p.epoch_at(39)],
        [None, Some(3), Some(4)]
    );
    p.advance_start(30);
    assert_eq!([p.epoch_at(25), p.epoch_at(30)], [None, Some(4)]);
}

#[test]
fn batch_without_a_timestamp_ages_from_its_append() {
    let mut p = fresh();
    let time = |p: &mut PartitionState, timestamp, now| {
        let (header, bytes) = batch(None, 1, timestamp);
        p.append(header, bytes, 1, now).time_ms
    };
    assert_eq!(time(&mut p, 17, 1000), 17);
    assert_eq!(time(&mut p, -1, 1000), 1000);
}

fn input() -> PartitionId {
    PartitionId {
        topic: TopicId([1; 16]),
        index: 0,
    }
}

const LIFE: Incarnation = Incarnation(11);

#[test]
fn x1_attach_fixes_the_start_once() {
    let mut p = fresh();
    write(&mut p, batch(None, 5, 0), 0).expect("appended");
    assert_eq!(p.attach(LIFE, StartAt::Latest), Ok(5));
    write(&mut p, batch(None, 5, 0), 0).expect("appended");
    assert_eq!(p.attach(LIFE, StartAt::Latest), Ok(5));
    assert_eq!(p.attach(LIFE, StartAt::Earliest), Ok(5));
    assert_eq!(p.attach(Incarnation(12), StartAt::Earliest), Ok(0));
    assert_eq!(p.attach(Incarnation(13), StartAt::Offset(99)), Ok(10));
}

fn at(position: Offset) -> Standing {
    Standing { position, moves: 0 }
}

#[test]
fn x2_outcome_of_before_a_seek_is_refused_although_it_begins_where_the_transform_was_moved_to() {
    let mut p = fresh();
    write(&mut p, batch(None, 5, 0), 0).expect("appended");
    let no_seek = p.check_seek(LIFE, 0);
    assert_eq!(no_seek, Err(SeekRefused::NotAttached));
    p.attach(LIFE, StartAt::Earliest).expect("attached");
    p.advance(LIFE, 4);
    assert_eq!(p.check_seek(LIFE, 0), Ok(()));
    assert_eq!(p.seek(LIFE, 2), Some(2));
    let stale = Err(OutcomeRefused::Stale { stands_at: 2 });
    assert_eq!(p.check_outcome(LIFE, at(2), 4), stale);
    let now = p.standing(LIFE).expect("attached");
    assert_eq!(p.check_outcome(LIFE, now, 4), Ok(()));
    // Asked for before the first one took effect.
    assert_eq!(p.check_seek(LIFE, 0), Err(SeekRefused::Moved(now)));
    assert_eq!(p.seek(LIFE, 99), Some(5));
    let mut bytes = Vec::new();
    p.encode(&mut bytes);
    let again = PartitionState::decode(&mut Reader::new(&bytes)).expect("readable");
    assert_eq!(again.standing(LIFE), p.standing(LIFE));
}

#[test]
fn state_of_a_version_that_knew_no_seek_is_read() {
    let mut p = fresh();
    write(&mut p, batch(None, 5, 0), 0).expect("appended");
    let mut alone = Vec::new();
    p.encode(&mut alone);
    p.attach(LIFE, StartAt::Latest).expect("attached");
    let mut bytes = Vec::new();
    p.encode(&mut bytes);
    // What was put in between: how often it was moved.
    let before = alone.len() - 8 + 4 + 8 + 8;
    assert_eq!(bytes[before..before + 4], [0; 4]);
    bytes.drain(before..before + 4);
    bytes[0] = 2;
    let read = PartitionState::decode(&mut Reader::new(&bytes)).expect("readable");
    let now = Standing {
        position: 5,
        moves: 0,
    };
    assert_eq!(read.standing(LIFE), Some(now));
}

#[test]
fn x2_outcome_is_taken_only_where_the_transform_stands() {
    let mut p = fresh();
    write(&mut p, batch(None, 5, 0), 0).expect("appended");
    assert_eq!(
        p.check_outcome(LIFE, at(0), 5),
        Err(OutcomeRefused::NotAttached)
    );
    p.attach(LIFE, StartAt::Earliest).expect("attached");
    assert_eq!(p.check_outcome(LIFE, at(0), 6), Err(OutcomeRefused::Range));
    assert_eq!(p.check_outcome(LIFE, at(0), 0), Err(OutcomeRefused::Range));
    assert_eq!(p.check_outcome(LIFE, at(0), 3), Ok(()));
    p.advance(LIFE, 3);
    assert_eq!(
        p.check_outcome(LIFE, at(0), 3),
        Err(OutcomeRefused::Stale { stands_at: 3 })
    );
    p.detach(LIFE);
    assert_eq!(
        p.check_outcome(LIFE, at(3), 5),
        Err(OutcomeRefused::NotAttached)
    );
    assert_eq!(p.attach(LIFE, StartAt::Latest), Ok(3));
}

#[test]
fn x4_receiver_takes_only_the_successor_of_the_last_sequence() {
    let mut p = fresh();
    let sender = SenderId {
        incarnation: LIFE,
        input: input(),
    };
    assert_eq!(
        p.check_receive(sender, 2, 1),
        Err(ReceiveError::Gap { last: 0 })
    );
    assert_eq!(p.check_receive(sender, 1, 0), Ok(true));
    p.received(sender, 1);
    assert_eq!(p.check_receive(sender, 1, 0), Ok(false));
    assert_eq!(
        p.check_receive(sender, 3, 2),
        Err(ReceiveError::Gap { last: 1 })
    );
    assert_eq!(p.check_receive(sender, 2, 1), Ok(true));
}

#[test]
fn x7_sender_and_receiver_state_stay_until_retired() {
    let mut p = fresh();
    p.attach(LIFE, StartAt::Earliest).expect("attached");
    let first = p.next_outgoing(LIFE, input()).map(|o| o.sequence);
    p.detach(LIFE);
    let second = p
        .next_outgoing(LIFE, input())
        .map(|o| (o.sequence, o.previous));
    assert_eq!((first, second), (Some(1), Some((2, 1))));
    let sender = SenderId {
        incarnation: LIFE,
        input: input(),
    };
    p.received(sender, 4);
    p.retire(LIFE);
    assert_eq!(p.next_outgoing(LIFE, input()), None);
    assert_eq!(p.last_received(sender), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Plain(i32),
    Idempotent {
        id: i64,
        epoch: i16,
        sequence: i32,
        records: i32,
    },
    Repeat(usize),
    Attach(u64),
    Advance(u64, i64),
    Receive(u64, u64),
    Later(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4).prop_map(Step::Plain),
        (0..3i64, 0..2i16, 0..12i32, 1..4i32).prop_map(|(id, epoch, sequence, records)| {
            Step::Idempotent {
                id,
                epoch,
                sequence,
                records,
            }
        }),
        (0..8usize).prop_map(Step::Repeat),
        (0..3u64).prop_map(Step::Attach),
        (0..3u64, 1..4i64).prop_map(|(i, n)| Step::Advance(i, n)),
        (0..3u64, 0..4u64).prop_map(|(i, s)| Step::Receive(i, s)),
        prop_oneof![Just(1), Just(PRODUCER_EXPIRY_MS / 2)].prop_map(Step::Later),
    ]
}

/// What a reader would find, kept beside the state.
#[derive(Default)]
struct Model {
    end: Offset,
    now: i64,
    /// Where each batch of a producer was put, in the order they were sent.
    sent: Vec<(BatchHeader, Bytes, Offset)>,
    received: BTreeMap<u64, u64>,
}

fn run(state: &mut PartitionState, model: &mut Model, step: &Step) {
    match step {
        Step::Plain(records) => {
            let at = write(state, batch(None, *records, model.now), model.now);
            assert_eq!(at, Ok(model.end));
            model.end += i64::from(*records);
        }
        Step::Idempotent {
            id,
            epoch,
            sequence,
            records,
        } => {
            let (h, b) = batch(by(*id, *epoch, *sequence), *records, model.now);
            let admitted = state.check_append(&h, b.len(), model.now);
            if admitted == Ok(Admission::New) {
                assert_eq!(write(state, (h, b.clone()), model.now), Ok(model.end));
                model.sent.push((h, b, model.end));
                model.end += i64::from(*records);
            }
        }
        Step::Repeat(back) => {
            let Some(at) = model.sent.len().checked_sub(back + 1) else {
                return;
            };
            let (h, b, offset) = model.sent[at].clone();
            // A duplicate is answered with where some batch of that very producer and sequence is, or refused, or
            // (where it was forgotten) new; it is never put a second time while it is remembered.
            if let Ok(Admission::Duplicate { base_offset, .. }) =
                state.check_append(&h, b.len(), model.now)
            {
                assert!(
                    base_offset >= offset,
                    "an offset that was never given to it"
                );
            }
        }
        Step::Attach(_) | Step::Advance(..) | Step::Receive(..) => {
            run_transform(state, model, step)
        }
        Step::Later(ms) => model.now += ms,
    }
    assert_eq!(state.high_watermark(), model.end);
}

fn run_transform(state: &mut PartitionState, model: &mut Model, step: &Step) {
    match step {
        Step::Attach(i) => {
            let stands = state.progress(Incarnation(*i));
            let got = state
                .attach(Incarnation(*i), StartAt::Latest)
                .expect("few are attached");
            assert_eq!(got, stands.unwrap_or(model.end));
        }
        Step::Advance(i, n) => {
            let Some(first) = state.progress(Incarnation(*i)) else {
                return;
            };
            let allowed = state
                .check_outcome(Incarnation(*i), at(first), first + n)
                .is_ok();
            assert_eq!(allowed, first + n <= model.end);
            if allowed {
                state.advance(Incarnation(*i), first + n);
                assert!(
                    state
                        .check_outcome(Incarnation(*i), at(first), first + n)
                        .is_err()
                );
            }
        }
        Step::Receive(i, sequence) => {
            let sender = SenderId {
                incarnation: Incarnation(*i),
                input: input(),
            };
            let last = model.received.entry(*i).or_default();
            if state.check_receive(sender, *sequence, sequence.saturating_sub(1)) == Ok(true) {
                assert_eq!(*sequence, *last + 1);
                state.received(sender, *sequence);
                *last = *sequence;
            }
        }
        Step::Plain(_) | Step::Idempotent { .. } | Step::Repeat(_) | Step::Later(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn random_commands_keep_offsets_dense_and_survive_encoding(steps in prop::collection::vec(step(), 0..60), cut in 0..60usize) {
        let (mut a, mut b) = (fresh(), fresh());
        let (mut ma, mut mb) = (Model::default(), Model::default());
        for (i, step) in steps.iter().enumerate() {
            run(&mut a, &mut ma, step);
            run(&mut b, &mut mb, step);
            if i == cut {
                // One of the two goes through a checkpoint.
                let bytes = encoded(&b);
                let mut r = Reader::new(&bytes);
                b = PartitionState::decode(&mut r).expect("decodes what was encoded");
                r.finish().expect("whole");
            }
            prop_assert_eq!(encoded(&a), encoded(&b));
        }
        let bytes = encoded(&a);
        for cut in 0..bytes.len() {
            prop_assert!(PartitionState::decode(&mut Reader::new(&bytes[..cut])).is_err());
        }
    }
}
