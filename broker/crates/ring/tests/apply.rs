//! The pure state machine of a ring.

use bytes::Bytes;
use proptest::prelude::*;
use tidemill_consensus::AppliedAt;
use tidemill_model::record::{BatchBuilder, NewRecord, Producer};
use tidemill_model::{Incarnation, PartitionId, TopicId};
use tidemill_partition::codec::Reader;
use tidemill_partition::state::OutcomeRefused;
use tidemill_partition::{PartitionConfig, SenderId, StartAt};
use tidemill_ring::command::{Body, Copying, Entry, Op, WHOLE_RING};
use tidemill_ring::state::{Done, Effect, PRODUCERS_MAX, Refused, RingState};

const LIFE: Incarnation = Incarnation(5);

fn id(topic: u8) -> PartitionId {
    PartitionId {
        topic: TopicId([topic; 16]),
        index: 0,
    }
}

fn body(records: usize, producer: Option<Producer>) -> Body {
    let mut builder = BatchBuilder::new();
    if let Some(producer) = producer {
        builder = builder.producer(producer);
    }
    for _ in 0..records {
        builder.append(NewRecord {
            timestamp: 1,
            key: None,
            value: Some(b"v"),
            headers: &[],
        });
    }
    Body::new(builder.build()).expect("a batch")
}

/// A ring's state, driven through the binary form of commands as the log would.
#[derive(Default)]
struct Driven {
    state: RingState,
    index: u64,
    appended: Vec<(PartitionId, i64)>,
}

impl Driven {
    fn entry(&mut self, ops: Vec<(PartitionId, Op)>) -> Result<Vec<Done>, Refused> {
        let command = Entry { now_ms: 1, ops }.into_command();
        let entry = Entry::decode(&command, Copying::Small)?;
        self.index += 1;
        let at = AppliedAt {
            index: self.index,
            term: 1,
        };
        let mut effects = Vec::new();
        let done = self.state.apply(at, entry, &mut effects);
        for effect in effects {
            if let Effect::Appended(id, placed) = effect {
                self.appended.push((id, placed.batch.header.base_offset));
            }
        }
        done
    }

    fn one(&mut self, id: PartitionId, op: Op) -> Result<Done, Refused> {
        self.entry(vec![(id, op)]).map(|mut done| done.remove(0))
    }

    fn open(&mut self, id: PartitionId) {
        let config = PartitionConfig::default();
        let op = Op::Open {
            config,
            epoch_base: 0,
        };
        self.one(id, op).expect("opens");
    }

    fn append(&mut self, id: PartitionId, records: usize) {
        let batch = body(records, None);
        self.one(id, Op::Append { batch }).expect("appends");
    }

    fn attach(&mut self, id: PartitionId) {
        let op = Op::Attach {
            incarnation: LIFE,
            start: StartAt::Earliest,
        };
        self.one(id, op).expect("attaches");
    }

    fn end(&self, id: PartitionId) -> i64 {
        self.state.partitions()[&id].high_watermark()
    }

    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.state.encode(&mut out);
        out
    }
}

fn outcome(first: i64, next: i64, outputs: &[PartitionId]) -> Op {
    Op::Outcome {
        incarnation: LIFE,
        moves: 0,
        version: 1,
        first,
        next,
        outputs: outputs.iter().map(|to| (*to, body(1, None))).collect(),
    }
}

fn delivery(sequence: u64, records: usize) -> Op {
    let sender = SenderId {
        incarnation: LIFE,
        input: id(1),
    };
    Op::Deliver {
        sender,
        sequence,
        previous: sequence - 1,
        batches: vec![body(records, None)],
    }
}

/// An input (1) with ten records, an output here (2), and one elsewhere (9).
fn ready() -> Driven {
    let mut ring = Driven::default();
    ring.open(id(1));
    ring.open(id(2));
    ring.append(id(1), 10);
    ring.attach(id(1));
    ring
}

#[test]
fn appends_gathered_into_one_operation_are_taken_or_refused_each_for_itself() {
    let mut ring = Driven::default();
    ring.open(id(1));
    ring.open(id(2));
    let producer = |base_sequence| {
        Some(Producer {
            id: 7,
            epoch: 0,
            base_sequence,
        })
    };
    let batches = vec![
        (id(1), body(2, None)),
        (id(9), body(1, None)),
        (id(1), body(1, producer(0))),
        (id(2), body(1, None)),
        (id(1), body(1, producer(5))),
        (id(1), body(1, producer(0))),
        (id(1), body(3, producer(1))),
    ];
    let done = ring.one(WHOLE_RING, Op::Appends { batches });
    let Ok(Done::Each(results)) = done else {
        panic!("{done:?}");
    };
    let places: Vec<_> = results
        .iter()
        .map(|result| match result {
            Ok(Done::Appended {
                base_offset,
                duplicate,
                ..
            }) => Ok((*base_offset, *duplicate)),
            Ok(other) => panic!("{other:?}"),
            Err(refused) => Err(*refused),
        })
        .collect();
    assert_eq!(places[0], Ok((0, false)));
    assert_eq!(places[1], Err(Refused::UnknownPartition));
    assert_eq!(places[2], Ok((2, false)));
    assert_eq!(places[3], Ok((0, false)));
    assert!(matches!(places[4], Err(Refused::Append(_))), "a gap");
    assert_eq!(places[5], Ok((2, true)), "a repetition within the entry");
    assert_eq!(places[6], Ok((3, false)));
    assert_eq!((ring.end(id(1)), ring.end(id(2))), (6, 1));
}

#[test]
fn r3_entry_is_applied_whole_or_not_at_all() {
    let mut ring = ready();
    let before = ring.encoded();
    let good = || Op::Append {
        batch: body(1, None),
    };
    for bad in [
        (id(1), outcome(3, 4, &[])),
        (id(9), good()),
        (id(2), delivery(1, 1)),
    ] {
        let first = if bad.0 == id(2) { id(1) } else { id(2) };
        assert!(ring.entry(vec![(first, good()), bad]).is_err());
        assert_eq!(ring.encoded(), before);
    }
    let twice = ring.entry(vec![(id(2), good()), (id(2), good())]);
    assert_eq!(twice, Err(Refused::Conflict));
    assert_eq!(
        ring.entry(vec![(id(1), good()), (id(2), good())])
            .map(|d| d.len()),
        Ok(2)
    );
}

#[test]
fn x2_repeated_outcome_is_stale_and_changes_nothing() {
    let mut ring = ready();
    ring.one(id(1), outcome(0, 4, &[id(2)])).expect("taken");
    let before = ring.encoded();
    let again = ring.one(id(1), outcome(0, 4, &[id(2)]));
    assert_eq!(
        again,
        Err(Refused::Outcome(OutcomeRefused::Stale { stands_at: 4 }))
    );
    assert_eq!(ring.encoded(), before);
    assert_eq!(ring.end(id(2)), 1);
}

#[test]
fn x3_apply_decides_between_append_and_outbox() {
    let mut ring = ready();
    let done = ring
        .one(id(1), outcome(0, 1, &[id(2), id(9)]))
        .expect("taken");
    let expected = Done::Outcome {
        appended: vec![(id(2), 0)],
        outboxed: 1,
    };
    assert_eq!(done, expected);
    // The output moves into this ring while something of it is still on its way: the next output must not overtake.
    ring.open(id(9));
    ring.one(id(1), outcome(1, 2, &[id(9)])).expect("taken");
    assert_eq!(ring.end(id(9)), 0);
    let heads = ring.state.outbox().heads(10);
    let tickets: Vec<_> = heads[0]
        .1
        .iter()
        .map(|i| (i.sequence, i.previous))
        .collect();
    assert_eq!(tickets, [(1, 0), (2, 1)]);
    let ticket = heads[0].1[1].ticket;
    ring.one(id(9), Op::OutboxArrived { ticket })
        .expect("recorded");
    ring.one(id(1), outcome(2, 3, &[id(9)])).expect("taken");
    assert_eq!(ring.end(id(9)), 1);
}

#[test]
fn x4_delivery_is_taken_once_and_a_gap_is_refused() {
    let mut ring = ready();
    ring.one(WHOLE_RING, Op::RegisterSender { incarnation: LIFE })
        .expect("registered");
    assert_eq!(
        ring.one(id(2), delivery(1, 3)),
        Ok(Done::Delivered { duplicate: false })
    );
    assert_eq!(
        ring.one(id(2), delivery(1, 3)),
        Ok(Done::Delivered { duplicate: true })
    );
    assert!(matches!(
        ring.one(id(2), delivery(3, 1)),
        Err(Refused::Receive(_))
    ));
    assert_eq!(
        ring.one(id(2), delivery(2, 1)),
        Ok(Done::Delivered { duplicate: false })
    );
    assert_eq!(ring.end(id(2)), 4);
}

#[test]
fn x5_deliveries_ignore_topic_settings_and_a_deleted_topic_is_dropped_by_a_counted_entry() {
    let mut ring = ready();
    ring.one(WHOLE_RING, Op::RegisterSender { incarnation: LIFE })
        .expect("registered");
    let config = PartitionConfig {
        max_message_bytes: 1,
        ..PartitionConfig::default()
    };
    ring.one(id(2), Op::Configure { config })
        .expect("configured");
    assert!(ring.one(id(2), delivery(1, 3)).is_ok());
    ring.one(id(1), outcome(0, 1, &[id(9), id(9)]))
        .expect("taken");
    assert_eq!(ring.one(id(9), Op::DropOutboxFor), Ok(Done::Dropped(2)));
    assert_eq!(
        (
            ring.state.outbox().bytes(),
            ring.state.outbox().dropped_records()
        ),
        (0, 2)
    );
}

#[test]
fn x6_outbox_outlives_its_transform_and_its_input() {
    let mut ring = ready();
    ring.one(id(1), outcome(0, 1, &[id(9)])).expect("taken");
    ring.one(id(1), Op::Detach { incarnation: LIFE })
        .expect("detached");
    ring.one(id(1), Op::Drop).expect("dropped");
    assert_eq!(ring.state.outbox().items(), 1);
    let retire = || Op::RetireSender { incarnation: LIFE };
    assert_eq!(ring.one(WHOLE_RING, retire()), Err(Refused::StillInUse));
    ring.one(id(9), Op::OutboxArrived { ticket: 0 })
        .expect("recorded");
    assert_eq!(ring.one(WHOLE_RING, retire()), Ok(Done::Ok));
}

#[test]
fn x7_unregistered_and_retired_senders_are_refused() {
    let mut ring = ready();
    assert_eq!(ring.one(id(2), delivery(1, 1)), Err(Refused::UnknownSender));
    ring.one(WHOLE_RING, Op::RegisterSender { incarnation: LIFE })
        .expect("registered");
    ring.one(id(2), delivery(1, 1)).expect("taken");
    let retire = || Op::RetireSender { incarnation: LIFE };
    assert_eq!(ring.one(WHOLE_RING, retire()), Err(Refused::StillInUse));
    ring.one(id(1), Op::Detach { incarnation: LIFE })
        .expect("detached");
    ring.one(WHOLE_RING, retire()).expect("retired");
    assert_eq!(ring.one(id(2), delivery(1, 1)), Err(Refused::UnknownSender));
    assert_eq!(ring.end(id(2)), 1);
}

#[test]
fn x11_new_topic_of_an_old_name_has_no_progress() {
    let mut ring = ready();
    ring.one(id(1), outcome(0, 10, &[])).expect("taken");
    ring.one(id(1), Op::Drop).expect("dropped");
    ring.open(id(3));
    ring.append(id(3), 4);
    assert_eq!(ring.state.partitions()[&id(3)].progress(LIFE), None);
    ring.attach(id(3));
    assert_eq!(ring.state.partitions()[&id(3)].progress(LIFE), Some(0));
}

#[test]
fn rubbish_in_the_log_is_refused_and_never_panics() {
    let mut ring = ready();
    let good = Entry::one(1, id(1), outcome(0, 4, &[id(2), id(9)])).into_command();
    for cut in 0..good.head.len() {
        let mut command = good.clone();
        command.head = command.head.slice(..cut);
        assert!(Entry::decode(&command, Copying::Never).is_err());
    }
    let mut short = good.clone();
    short.bodies.pop();
    assert!(Entry::decode(&short, Copying::Never).is_err());
    let mut long = good;
    long.bodies.push(Bytes::from_static(b"x"));
    assert!(Entry::decode(&long, Copying::Never).is_err());
    let mut cut = body(2, None);
    cut.bytes = cut.bytes.slice(..cut.bytes.len() - 1);
    assert!(ring.one(id(1), Op::Append { batch: cut }).is_err());
}

fn op() -> impl Strategy<Value = (PartitionId, Op)> {
    let target = (1..6u8).prop_map(id);
    let op = prop_oneof![
        2 => Just(Op::Open { config: PartitionConfig::default(), epoch_base: 0 }),
        1 => Just(Op::Drop),
        6 => (1..4usize).prop_map(|n| Op::Append { batch: body(n, None) }),
        4 => (0..6i32).prop_map(|base_sequence| Op::Append {
            batch: body(1, Some(Producer { id: 1, epoch: 0, base_sequence })),
        }),
        2 => Just(Op::Attach { incarnation: LIFE, start: StartAt::Earliest }),
        1 => Just(Op::Detach { incarnation: LIFE }),
        6 => (0..6i64, 1..3i64, 1..8u8, 1..8u8).prop_map(|(f, n, a, b)| outcome(f, f + n, &[id(a), id(b)])),
        2 => (0..20u64).prop_map(|ticket| Op::OutboxArrived { ticket }),
        3 => (1..4u64).prop_map(|s| delivery(s, 1)),
        1 => Just(Op::DropOutboxFor),
        2 => Just(Op::RegisterSender { incarnation: LIFE }),
        1 => Just(Op::RetireSender { incarnation: LIFE }),
    ];
    (target, op)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn same_log_gives_same_bytes_and_refused_entries_change_nothing(
        entries in prop::collection::vec(prop::collection::vec(op(), 1..4), 1..60),
        cut in 0..60usize,
    ) {
        let (mut a, mut b) = (Driven::default(), Driven::default());
        for (i, ops) in entries.iter().enumerate() {
            let before = a.encoded();
            let done = a.entry(ops.clone());
            prop_assert_eq!(&b.entry(ops.clone()), &done);
            if done.is_err() {
                prop_assert_eq!(a.encoded(), before);
            }
            if i == cut {
                let bytes = b.encoded();
                let mut r = Reader::new(&bytes);
                b.state = RingState::decode(&mut r).expect("decodes what was encoded");
                r.finish().expect("whole");
            }
            prop_assert_eq!(a.encoded(), b.encoded());
        }
        prop_assert_eq!(a.appended, b.appended);
    }
}

#[test]
fn producers_of_many_partitions_are_bounded_together_and_the_newest_stay() {
    const PARTITIONS: u8 = 5;
    const EACH: i64 = 60_000;
    let mut driven = Driven::default();
    for topic in 0..PARTITIONS {
        driven.open(id(topic));
        for n in 0..EACH {
            let producer = Producer {
                id: i64::from(topic) * EACH + n,
                epoch: 0,
                base_sequence: 0,
            };
            let batch = body(1, Some(producer));
            driven.one(id(topic), Op::Append { batch }).expect("taken");
        }
    }
    let remembered = |driven: &Driven| -> Vec<usize> {
        let partitions = driven.state.partitions().values();
        partitions.map(|p| p.producers().len()).collect()
    };
    let before = remembered(&driven);
    assert_eq!(before.iter().sum::<usize>(), PRODUCERS_MAX);
    let mut bytes = Vec::new();
    driven.state.encode(&mut bytes);
    driven.state = RingState::decode(&mut Reader::new(&bytes)).expect("sound");
    let last = Producer {
        id: i64::from(PARTITIONS) * EACH - 1,
        epoch: 0,
        base_sequence: 0,
    };
    let again = driven.one(
        id(PARTITIONS - 1),
        Op::Append {
            batch: body(1, Some(last)),
        },
    );
    assert!(
        matches!(
            again,
            Ok(Done::Appended {
                duplicate: true,
                ..
            })
        ),
        "the newest is remembered: {again:?}"
    );
    driven.one(id(0), Op::Drop).expect("dropped");
    assert_eq!(remembered(&driven), before[1..]);
}
