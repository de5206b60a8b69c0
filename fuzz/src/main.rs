//! One reader of foreign bytes under libFuzzer. `cargo xtask fuzz` sets the environment: `TIDEMILL_FUZZ_TARGET` names
//! the reader, `TIDEMILL_FUZZ_SEEDS` the folder that its seeds are written to first; with `TIDEMILL_FUZZ_LIST` the
//! readers are listed.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use tidemill_hostile::alloc::Counting;
use tidemill_hostile::{TARGETS, Target, find};

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
    let Some(folder) = std::env::var_os("TIDEMILL_FUZZ_SEEDS").map(PathBuf::from) else {
        return;
    };
    for (number, seed) in (TARGET.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed).expect("the folder is there");
    }
}
