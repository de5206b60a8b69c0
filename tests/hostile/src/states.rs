//! What rings and the controller store and read again: states, commands, segments' descriptions. Their checksums have
//! been checked before, so this is what a bug or a newer version would give them.

use bytes::Bytes;
use tidemill_controller::state::ControllerState;
use tidemill_model::{Command, Incarnation, PartitionId, TopicId};
use tidemill_partition::codec::Reader;
use tidemill_partition::segment::SegmentMeta;
use tidemill_partition::{PartitionConfig, PartitionState, SenderId, StartAt};
use tidemill_ring::command::{Body, Copying, Entry, Op, WHOLE_RING};
use tidemill_ring::state::RingState;

use crate::alloc::within;
use crate::{Target, marked, read_marked};

/// Memory for each byte of a stored state: a counted element becomes a node of a tree.
const STATE_FACTOR: usize = 128;
const STATE_BYTES: usize = 16 << 10;

pub(crate) const STATE: Target = Target {
    name: "state",
    run: run_state,
    seeds: state_seeds,
};

const KINDS: u8 = 6;

fn run_state(input: &[u8]) {
    read_marked(input, read_kind);
}

fn read_kind(kind: u8, bytes: &[u8]) {
    let allowed = STATE_FACTOR * bytes.len() + STATE_BYTES;
    match kind % KINDS {
        0 => read_command(bytes, allowed),
        1 => read_ring(bytes, allowed),
        2 => read_partition(bytes, allowed),
        3 => read_controller(bytes),
        4 => within("a segment's description", allowed, || {
            let _ = SegmentMeta::decode(&mut Reader::new(bytes));
        }),
        _ => within("a partition's settings", allowed, || {
            let _ = PartitionConfig::decode(&mut Reader::new(bytes));
        }),
    }
}

fn read_command(bytes: &[u8], allowed: usize) {
    let shared = Bytes::copy_from_slice(bytes);
    let command = within("a command", allowed, || Command::decode(&shared));
    let Ok(command) = command else { return };
    assert_eq!(command.encode().concat(), bytes);
    for copying in [Copying::Never, Copying::Small] {
        let entry = within("an entry", allowed, || Entry::decode(&command, copying));
        let Ok(entry) = entry else { continue };
        let again = Entry::decode(&entry.into_command(), Copying::Never);
        again.expect("what was read can be written and read");
    }
}

fn read_ring(bytes: &[u8], allowed: usize) {
    let state = within("a ring's state", allowed, || {
        RingState::decode(&mut Reader::new(bytes))
    });
    let Ok(state) = state else { return };
    let mut stored = Vec::new();
    state.encode(&mut stored);
    let again = RingState::decode(&mut Reader::new(&stored)).expect("it was just written");
    let mut twice = Vec::new();
    again.encode(&mut twice);
    assert_eq!(stored, twice);
}

fn read_partition(bytes: &[u8], allowed: usize) {
    let state = within("a partition's state", allowed, || {
        PartitionState::decode(&mut Reader::new(bytes))
    });
    let Ok(state) = state else { return };
    let mut stored = Vec::new();
    state.encode(&mut stored);
    PartitionState::decode(&mut Reader::new(&stored)).expect("it was just written");
}

fn read_controller(bytes: &[u8]) {
    // JSON; serde makes room for no more elements than it has read.
    let allowed = STATE_FACTOR * bytes.len() + STATE_BYTES;
    let state = within("the controller's state", allowed, || {
        ControllerState::decode(bytes)
    });
    if let Ok(state) = state {
        ControllerState::decode(&state.encode()).expect("it was just written");
    }
}

fn partition() -> PartitionId {
    PartitionId {
        topic: TopicId([3; 16]),
        index: 1,
    }
}

fn entries() -> Vec<Entry> {
    let body = || Body::new(crate::batches::plain()).expect("a batch");
    let life = Incarnation(5);
    let sender = SenderId {
        incarnation: life,
        input: partition(),
    };
    let ops = vec![
        Op::Open {
            config: PartitionConfig::default(),
            epoch_base: 2,
        },
        Op::Append { batch: body() },
        Op::Attach {
            incarnation: life,
            start: StartAt::Earliest,
        },
        Op::Seek {
            incarnation: life,
            moves: 0,
            to: 1,
        },
        Op::Outcome {
            incarnation: life,
            moves: 1,
            version: 1,
            first: 0,
            next: 2,
            outputs: vec![(partition(), body()), (partition(), body())],
        },
        Op::Deliver {
            sender,
            sequence: 2,
            previous: 1,
            batches: vec![body()],
        },
        Op::OutboxArrived { ticket: 9 },
        Op::Detach { incarnation: life },
        Op::Drop,
    ];
    let mut entries: Vec<Entry> = ops
        .iter()
        .map(|op| Entry::one(1, partition(), op.clone()))
        .collect();
    let register = Op::RegisterSender { incarnation: life };
    entries.push(Entry::one(1, WHOLE_RING, register));
    entries.push(Entry {
        now_ms: 4,
        ops: ops.into_iter().map(|op| (partition(), op)).collect(),
    });
    entries
}

fn state_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut ring = RingState::new();
    for (index, entry) in (1..).zip(entries()) {
        let command = entry.clone().into_command();
        seeds.push(marked(0, &command.encode().concat()));
        let at = tidemill_consensus::AppliedAt { index, term: 1 };
        let mut effects = Vec::new();
        let _ = ring.apply(at, entry, &mut effects);
        let mut stored = Vec::new();
        ring.encode(&mut stored);
        seeds.push(marked(1, &stored));
    }
    let config = PartitionConfig::default();
    let mut stored = Vec::new();
    PartitionState::new(config, 0).encode(&mut stored);
    seeds.push(marked(2, &stored));
    seeds.push(marked(3, &ControllerState::default().encode()));
    let mut stored = Vec::new();
    SegmentMeta::new(7).encode(&mut stored);
    seeds.push(marked(4, &stored));
    let mut stored = Vec::new();
    config.encode(&mut stored);
    seeds.push(marked(5, &stored));
    seeds
}
