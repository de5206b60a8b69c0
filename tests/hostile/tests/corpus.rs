//! Every reader of foreign bytes against every input kept in `fuzz/corpus/` and some thousand mutations of them, with
//! an allocator that counts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use tidemill_hostile::alloc::{self, Counting};
use tidemill_hostile::mutate::{Numbers, mutated};
use tidemill_hostile::{TARGETS, Target, find};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Mutations of each reader's inputs; `TIDEMILL_MUTATIONS` widens the search.
const MUTATIONS: usize = 10_000;
/// Bytes of all inputs kept, at most.
const CORPUS_BYTES_MAX: u64 = 2 << 20;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

fn mutations() -> usize {
    let asked = std::env::var("TIDEMILL_MUTATIONS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(MUTATIONS)
}

/// What is kept for a reader, and its seeds.
fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus().join(target.name))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    inputs.extend(
        files
            .iter()
            .map(|file| std::fs::read(file).expect("it can be read")),
    );
    inputs
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
    admin_bodies_are_read_within_their_memory: "admin",
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
    let mut bytes = 0;
    for folder in std::fs::read_dir(corpus()).into_iter().flatten().flatten() {
        let name = folder.file_name().to_string_lossy().into_owned();
        assert!(find(&name).is_some(), "{name} is no reader");
        for file in std::fs::read_dir(folder.path())
            .expect("a folder")
            .flatten()
        {
            bytes += file.metadata().expect("a file").len();
        }
    }
    assert!(bytes < CORPUS_BYTES_MAX, "{bytes} bytes are kept");
}
