//! Every reader of foreign bytes against every input kept for it and some thousand mutations of them, with an allocator
//! that counts.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tidemill_hostile::alloc::{self, Counting};
use tidemill_hostile::mutate::{Numbers, mutated};
use tidemill_hostile::{TARGETS, Target, corpus, find};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Mutations of each reader's inputs; `TIDEMILL_MUTATIONS` widens the search.
const MUTATIONS: usize = 10_000;
/// Bytes of all inputs kept, at most.
const CORPUS_BYTES_MAX: u64 = 2 << 20;
/// Inputs kept, at least: nothing is to get lost when they are packed again.
const CORPUS_INPUTS_MIN: usize = 2_400;

fn mutations() -> usize {
    let asked = std::env::var("TIDEMILL_MUTATIONS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(MUTATIONS)
}

/// What is kept for a reader, and its seeds.
fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    inputs.extend(kept(target.name));
    inputs
}

/// What is kept for a reader; nothing for one that was never fuzzed.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let path = corpus::path(name);
    match std::fs::read(&path) {
        Ok(packed) => corpus::unpack(&packed).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

/// Runs `target`; a failure says the input, so that it can be kept.
fn run(target: &Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        panic!("{} fails on the input {}", target.name, hex(input));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn all_of(name: &str) {
    let target = find(name).expect("there is such a reader");
    let inputs = inputs(target);
    assert!(!inputs.is_empty());
    for input in &inputs {
        run(target, input);
    }
    let mut numbers = Numbers::new(1 + name.len() as u64);
    for _ in 0..mutations() {
        let (one, other) = (numbers.below(inputs.len()), numbers.below(inputs.len()));
        let input = mutated(&inputs[one], &inputs[other], &mut numbers);
        run(target, &input);
    }
}

macro_rules! readers {
    ($($test:ident: $name:literal),+ $(,)?) => {
        $(#[test] fn $test() { all_of($name) })+

        #[test]
        fn every_reader_has_a_test() {
            let tested = [$($name),+];
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, tested);
        }
    };
}

readers!(
    frames_and_headers_are_read_within_their_memory: "frame",
    requests_of_the_table_are_read_within_their_memory: "request",
    produce_is_read_within_its_memory: "produce",
    fetch_is_read_within_its_memory: "fetch",
    batches_are_unpacked_within_their_memory: "batch",
    sections_of_guests_are_cut_within_their_memory: "section",
    stored_states_are_read_within_their_memory: "state",
    damaged_files_are_read_within_their_memory: "file",
    damaged_segments_are_read_within_their_memory: "segment",
    records_of_groups_are_read_within_their_memory: "groups",
    admin_bodies_are_read_within_their_memory: "admin",
    modules_are_looked_through_within_their_memory: "module",
    outcomes_of_guests_are_checked_within_their_memory: "outcome",
    answers_of_core_modules_are_read_within_their_memory: "core_answer",
);

#[test]
fn counting_sees_what_a_reader_takes() {
    let taken = alloc::within("a vector", 1 << 20, || vec![1u8; 100_000]);
    assert!(alloc::peak() >= taken.len());
    let over = catch_unwind(|| alloc::within("a vector", 1 << 10, || vec![1u8; 100_000]));
    assert!(over.is_err(), "a reader that takes too much is found");
}

#[test]
fn corpus_stays_small_and_names_readers_only() {
    let (mut bytes, mut count) = (0, 0);
    for file in std::fs::read_dir(corpus::folder()).expect("it is there") {
        let file = file.expect("it can be listed");
        let name = file.file_name().to_string_lossy().into_owned();
        let reader = corpus::reader_of(&name).filter(|reader| find(reader).is_some());
        let reader = reader.unwrap_or_else(|| panic!("{name} belongs to no reader"));
        bytes += file.metadata().expect("a file").len();
        count += kept(reader).len();
    }
    assert!(bytes < CORPUS_BYTES_MAX, "{bytes} bytes are kept");
    assert!(count >= CORPUS_INPUTS_MIN, "only {count} inputs are kept");
}
