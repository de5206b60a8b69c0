//! Everything in Tidemill that reads bytes from outside, as functions of bytes: what clients send, what a guest puts
//! out, what lies on disk. libFuzzer drives them (`cargo xtask fuzz`), and so does the test `corpus`, with every input
//! kept ([`corpus`]) and some thousand mutations.
//!
//! A reader must not panic, must not run for ever, and must not take more memory than a named multiple of what it was
//! given: [`alloc::within`] counts.

mod admin;
pub mod alloc;
mod batches;
pub mod choices;
pub mod corpus;
mod disk;
mod groups;
mod guests;
pub mod mutate;
mod requests;
mod segments;
mod states;

/// A reader of foreign bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is also that of the file of its inputs.
    pub name: &'static str,
    /// Reads an input; panics where something is wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin with, made by the encoders that the readers belong to.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Reads an input whose first byte says what the rest is: its kind, or its version. An empty one is nothing.
pub(crate) fn read_marked(input: &[u8], read: impl FnOnce(u8, &[u8])) {
    if let Some((mark, bytes)) = input.split_first() {
        read(*mark, bytes);
    }
}

/// An input for [`read_marked`].
pub(crate) fn marked(mark: u8, bytes: &[u8]) -> Vec<u8> {
    [&[mark], bytes].concat()
}

/// Every reader.
pub const TARGETS: [Target; 14] = [
    requests::FRAME,
    requests::REQUEST,
    requests::PRODUCE,
    requests::FETCH,
    batches::BATCH,
    batches::SECTION,
    states::STATE,
    disk::FILE,
    segments::SEGMENT,
    groups::GROUPS,
    admin::ADMIN,
    guests::MODULE,
    guests::OUTCOME,
    guests::CORE_ANSWER,
];

/// The reader called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
