//! Everything in Tidemill that reads bytes from outside, as functions of bytes: what clients send, what a guest puts
//! out, what lies on disk. libFuzzer drives them (`cargo xtask fuzz`), and so does the test `corpus`, with every input
//! kept in `fuzz/corpus/` and some thousand mutations.
//!
//! A reader must not panic, must not run for ever, and must not take more memory than a named multiple of what it was
//! given: [`alloc::within`] counts.

mod admin;
pub mod alloc;
mod batches;
pub mod choices;
mod disk;
pub mod mutate;
mod requests;
mod states;

/// A reader of foreign bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is that of its folder in `fuzz/corpus/`.
    pub name: &'static str,
    /// Reads an input; panics where something is wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin with, made by the encoders that the readers belong to.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every reader.
pub const TARGETS: [Target; 9] = [
    requests::FRAME,
    requests::REQUEST,
    requests::PRODUCE,
    requests::FETCH,
    batches::BATCH,
    batches::SECTION,
    states::STATE,
    disk::FILE,
    admin::ADMIN,
];

/// The reader called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
