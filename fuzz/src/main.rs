//! One reader of foreign bytes under libFuzzer. `cargo xtask fuzz` sets the environment:
//!
//! * `TIDEMILL_FUZZ_LIST`: the readers are listed, nothing else.
//! * `TIDEMILL_FUZZ_TARGET` names the reader.
//! * `TIDEMILL_FUZZ_PACK`: the inputs in this folder become those that are kept for it, nothing else.
//! * `TIDEMILL_FUZZ_SEEDS`, `TIDEMILL_FUZZ_KEPT`: the folders that its seeds, and what is kept for it, are written to
//!   first.

#![no_main]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tidemill_hostile::alloc::Counting;
use tidemill_hostile::{TARGETS, Target, corpus, find};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("TIDEMILL_FUZZ_TARGET").unwrap_or_default();
    find(&name).expect("TIDEMILL_FUZZ_TARGET names a reader; use `cargo xtask fuzz`")
});

libfuzzer_sys::fuzz_target!(init: prepare(), |input: &[u8]| (TARGET.run)(input));

fn prepare() {
    if std::env::var_os("TIDEMILL_FUZZ_LIST").is_some() {
        TARGETS
            .iter()
            .for_each(|target| println!("{}", target.name));
        std::process::exit(0);
    }
    if let Some(folder) = folder_in("TIDEMILL_FUZZ_PACK") {
        pack(&folder);
        std::process::exit(0);
    }
    if let Some(folder) = folder_in("TIDEMILL_FUZZ_SEEDS") {
        write_all(&folder, "seed", &(TARGET.seeds)());
    }
    if let Some(folder) = folder_in("TIDEMILL_FUZZ_KEPT") {
        write_all(&folder, "kept", &kept());
    }
}

fn folder_in(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

fn write_all(folder: &Path, prefix: &str, inputs: &[Vec<u8>]) {
    for (number, input) in inputs.iter().enumerate() {
        let path = folder.join(format!("{prefix}-{number}"));
        std::fs::write(path, input).expect("the folder is there");
    }
}

/// What is kept for the reader; nothing before it was fuzzed for the first time.
fn kept() -> Vec<Vec<u8>> {
    match std::fs::read(corpus::path(TARGET.name)) {
        Ok(packed) => corpus::unpack(&packed).expect("it is whole"),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("what is kept for {} cannot be read: {error}", TARGET.name),
    }
}

fn pack(folder: &Path) {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read(entry.expect("it can be listed").path()).expect("it can be read")
    };
    let packed = corpus::pack(entries.map(read).collect());
    std::fs::write(corpus::path(TARGET.name), packed).expect("it can be written");
}
