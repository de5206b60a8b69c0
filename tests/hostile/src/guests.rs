//! Modules as somebody deploys them, and what they return when they are called.

use bytes::Bytes;
use tidemill_model::BatchHeader;
use tidemill_model::batch::HEADER_BYTES;
use tidemill_wasm_host::foreign::{Section, core_answer, module, outcome};
use tidemill_wasm_host::{InputBatch, OutputBatch, OutputTopic, RecordFailure};

use crate::Target;
use crate::alloc::within;
use crate::choices::Choices;

/// Memory for each byte of a module: nothing of it is kept, but what is wrong is said in words.
const MODULE_FACTOR: usize = 8;
const MODULE_BYTES: usize = 64 << 10;
/// Memory for each byte of an outcome: a section in pieces, with the header of a batch before each record.
const OUTCOME_FACTOR: usize = 64;
const OUTCOME_BYTES: usize = 64 << 10;

pub(crate) const MODULE: Target = Target {
    name: "module",
    run: run_module,
    seeds: module_seeds,
};

/// A byte says whether the module is the rest, or the good one changed as the rest says.
fn run_module(input: &[u8]) {
    let mut choices = Choices::new(input);
    let wasm = match choices.below(2) {
        0 => choices.rest().to_vec(),
        _ => {
            let mut wasm = component();
            choices.damage(&mut wasm);
            wasm
        }
    };
    let allowed = MODULE_FACTOR * wasm.len() + MODULE_BYTES;
    let read = within("a module", allowed, || module(&wasm));
    assert!(read.is_err() || wasm.starts_with(b"\0asm"));
}

/// A component with what is looked for: an interface that the host gives, a core module inside, a type, the export.
fn component() -> Vec<u8> {
    let name = |text: &str| [&[0, text.len() as u8][..], text.as_bytes()].concat();
    let section = |id: u8, body: &[u8]| [&[id, body.len() as u8][..], body].concat();
    let core = [
        &b"\0asm\x01\0\0\0"[..],
        // A type without parameters and results, a function of it, its body.
        &section(1, &[1, 0x60, 0, 0])[..],
        &section(3, &[1, 0])[..],
        &section(10, &[1, 2, 0, 0x0b])[..],
    ]
    .concat();
    // An interface without anything in it.
    let instance_type = [1, 0x42, 0];
    let import = [&[1][..], &name("wasi:io/poll@0.2.0")[..], &[5, 0][..]].concat();
    let export = [
        &[1][..],
        &name("tidemill:transform/processor@0.1.0")[..],
        &[5, 0, 0][..],
    ]
    .concat();
    [
        &b"\0asm\x0d\0\x01\0"[..],
        &section(7, &instance_type)[..],
        &section(10, &import)[..],
        &section(1, &core)[..],
        &section(11, &export)[..],
    ]
    .concat()
}

fn module_seeds() -> Vec<Vec<u8>> {
    let whole = component();
    assert_eq!(module(&whole), Ok(()), "the good one is taken");
    let mut seeds = vec![
        [&[0][..], &whole[..]].concat(),
        [&[0][..], &b"\0asm\x01\0\0\0"[..]].concat(),
        vec![1],
    ];
    for at in 0..whole.len() as u8 {
        seeds.push(vec![1, 3, 0, 0, 0, at]);
    }
    seeds
}

/// Bytes of a failure's message that are kept, and the dots behind it.
const MESSAGE_BYTES_MAX: usize = 1024 + 3;

pub(crate) const OUTCOME: Target = Target {
    name: "outcome",
    run: run_outcome,
    seeds: outcome_seeds,
};

/// What the outputs of the transform take at most, in bytes.
const OUTPUT_MAX: [usize; 3] = [1_000, HEADER_BYTES + 20, 1 << 20];

/// The outputs of the transform, of which one has partitions that are known.
fn topics() -> Vec<OutputTopic> {
    let mut topics: Vec<OutputTopic> = OUTPUT_MAX.map(OutputTopic::of_max_bytes).into();
    topics[0].partitions = Some(3);
    topics
}

/// What a guest says: sections, made of good ones by choices or all its own, and failures.
fn run_outcome(input: &[u8]) {
    let mut choices = Choices::new(input);
    let sections: Vec<Section> = (0..choices.below(4))
        .map(|_| section(&mut choices))
        .collect();
    let failure = |choices: &mut Choices<'_>| {
        let text = "x".repeat(choices.below(3_000) as usize);
        (i64::from(choices.byte()) - 3, text)
    };
    let failures: Vec<_> = (0..choices.below(6))
        .map(|_| failure(&mut choices))
        .collect();
    let given = InputBatch {
        base_offset: 0,
        base_timestamp: 5,
        record_count: choices.word(),
        records: Bytes::from(vec![0; 70]),
    };
    let mut bytes = input.len();
    bytes += sections.iter().map(|s| s.records.len()).sum::<usize>();
    bytes += failures.iter().map(|(_, text)| text.len()).sum::<usize>();
    let said: u64 = sections.iter().map(|s| u64::from(s.record_count)).sum();
    let allowed = OUTCOME_FACTOR * bytes + OUTCOME_BYTES;
    let checked = within("an outcome", allowed, || {
        outcome(sections, failures, &[given], &topics())
    });
    if let Ok((batches, failures)) = checked {
        sound(&batches, &failures);
        let records: u64 = batches.iter().map(|b| u64::from(b.records)).sum();
        assert_eq!(records, said);
    }
}

/// What is taken is complete batches that fit, and failures in order.
fn sound(batches: &[OutputBatch], failures: &[RecordFailure]) {
    for made in batches {
        let header = BatchHeader::validate(&made.batch).expect("it is a valid batch");
        assert_eq!(header.record_count as u32, made.records);
        assert!(made.batch.len() <= OUTPUT_MAX[made.output as usize]);
    }
    assert!(failures.is_sorted_by(|a, b| a.offset < b.offset));
    assert!(
        failures
            .iter()
            .all(|f| f.offset >= 0 && f.message.len() <= MESSAGE_BYTES_MAX)
    );
}

fn section(choices: &mut Choices<'_>) -> Section {
    let batch = crate::batches::plain();
    let header = BatchHeader::validate(&batch).expect("well formed");
    let mut section = Section {
        output: choices.below(4),
        partition: choices.below(6) as i32 - 2,
        record_count: header.record_count as u32,
        base_timestamp: header.base_timestamp,
        max_timestamp: header.max_timestamp,
        records: batch[HEADER_BYTES..].to_vec(),
    };
    for _ in 0..choices.below(5) {
        let at = choices.word() as usize % section.records.len().max(1);
        match choices.below(6) {
            0 => section.record_count = choices.word(),
            1 => section.base_timestamp = i64::MAX - i64::from(choices.byte()),
            2 => section.max_timestamp = i64::from(choices.word()),
            3 => section.records.truncate(at),
            4 => section
                .records
                .insert(at.min(section.records.len()), choices.byte()),
            _ => section
                .records
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|b| *b ^= choices.byte()),
        }
    }
    section
}

fn outcome_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new(), vec![1, 0, 0, 0], vec![2, 2, 0, 1, 0, 0]];
    for change in 0..6 {
        seeds.push(vec![1, 2, 1, 0, 0, 0, 9, change, 0, 0, 1, 7, 0]);
    }
    // Two failures: in order, and not; how many records the input has at most.
    for (first, second) in [(3u8, 4u8), (4, 4)] {
        let failure = |at| [0, 0, 0, 9, at];
        let mut seed = vec![0, 2];
        seed.extend([failure(first), failure(second)].concat());
        seed.extend([0, 0, 0, 9]);
        seeds.push(seed);
    }
    seeds
}

pub(crate) const CORE_ANSWER: Target = Target {
    name: "core_answer",
    run: run_core_answer,
    seeds: core_answer_seeds,
};

/// Records of the input that an answer is to.
const ANSWERED_RECORDS: u32 = 9;

/// A byte says whether the answer is the rest, or a good one changed as the rest says.
fn run_core_answer(input: &[u8]) {
    let mut choices = Choices::new(input);
    let answer = match choices.below(2) {
        0 => choices.rest().to_vec(),
        _ => {
            let mut answer = good_answer();
            choices.damage(&mut answer);
            answer
        }
    };
    let allowed = OUTCOME_FACTOR * answer.len() + OUTCOME_BYTES;
    let input = [answered()];
    let checked = within("an answer", allowed, || {
        core_answer(&answer, &input, &topics())
    });
    if let Ok((batches, failures)) = checked {
        sound(&batches, &failures);
        assert!(failures.len() <= ANSWERED_RECORDS as usize);
    }
}

fn answered() -> InputBatch {
    InputBatch {
        base_offset: 0,
        base_timestamp: 5,
        record_count: ANSWERED_RECORDS,
        records: Bytes::from(vec![0; 70]),
    }
}

/// Two sections, placed by the input and by the key, and two failures, laid out as `wit/core-module.md` says.
fn good_answer() -> Vec<u8> {
    let batch = crate::batches::plain();
    let header = BatchHeader::validate(&batch).expect("well formed");
    let mut answer = Vec::new();
    for number in [0_u32, 2, 2] {
        answer.extend(number.to_le_bytes());
    }
    for (output, placement) in [(0_u32, -1_i32), (2, -2)] {
        answer.extend(output.to_le_bytes());
        answer.extend(placement.to_le_bytes());
        answer.extend(header.base_timestamp.to_le_bytes());
        answer.extend(header.max_timestamp.to_le_bytes());
        answer.extend(header.record_count.to_le_bytes());
        let records = &batch[HEADER_BYTES..];
        answer.extend((records.len() as u32).to_le_bytes());
        answer.extend_from_slice(records);
    }
    for (offset, message) in [(3_i64, "no"), (4, "\u{e9}")] {
        answer.extend(offset.to_le_bytes());
        answer.extend((message.len() as u32).to_le_bytes());
        answer.extend_from_slice(message.as_bytes());
    }
    answer
}

fn core_answer_seeds() -> Vec<Vec<u8>> {
    let good = good_answer();
    let taken = core_answer(&good, &[answered()], &topics());
    let (batches, failures) = taken.expect("the good one is taken");
    assert!(!batches.is_empty() && failures.len() == 2);
    let mut seeds = vec![
        [&[0][..], &good[..]].concat(),
        // That the call failed, and what is neither.
        [&[0, 1, 0, 0, 0][..], b"it failed"].concat(),
        vec![0, 7, 0, 0, 0],
        // More sections, and more failures, than anybody has memory for.
        [0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0].to_vec(),
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff].to_vec(),
        vec![1],
    ];
    // Every kind of change at every place of the first section.
    for at in 0..good.len().min(120) as u8 {
        for kind in 0..8 {
            seeds.push(vec![1, kind, 0, 0, 0, at]);
        }
    }
    seeds
}
