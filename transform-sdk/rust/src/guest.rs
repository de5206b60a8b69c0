//! The module's side of the contract in `wit/`. Code made by [`crate::transform`] uses it; nobody else need.

#![allow(
    unsafe_code,
    missing_debug_implementations,
    unreachable_pub,
    reason = "the canonical ABI is raw pointers; its code is made by a program"
)]

mod bindings;
mod rt;

use std::cell::RefCell;

use crate::output::Outputs;
use crate::section::InputSection;
use crate::{Output, Record, Result, placement};

pub use bindings::{export, exports};
pub use exports::tidemill::transform::processor::{
    Guest, InputBatch, Outcome, OutputSection, Placement, RecordFailure,
};

thread_local! {
    static OUTPUT: RefCell<Option<Outputs>> = const { RefCell::new(None) };
}

/// Runs `transform` over a call's batches, which come from the input's partition `partition`.
///
/// # Errors
/// A text, when the input is malformed or the module has no outputs.
pub fn process(
    transform: impl Fn(Record<'_>, &mut Output<'_>) -> Result<()>,
    partition: u32,
    batches: &[InputBatch],
) -> std::result::Result<Outcome, String> {
    OUTPUT.with_borrow_mut(|slot| {
        let output = match slot {
            Some(output) => output,
            None => slot.insert(declared_outputs()?),
        };
        output.reserve(batches.iter().map(|b| b.records.len() + 64).sum());
        let sections = batches.iter().map(|b| InputSection {
            partition,
            base_offset: b.base_offset,
            base_timestamp: b.base_timestamp,
            record_count: b.record_count,
            records: &b.records,
        });
        let ran = output.run(transform, sections);
        let outputs = output.take();
        let failures = ran.map_err(|reason| format!("the input cannot be read: {reason}"))?;
        Ok(Outcome {
            outputs: outputs
                .into_iter()
                .map(|(output, section)| OutputSection {
                    output,
                    placement: placed(section.placement),
                    base_timestamp: section.base_timestamp,
                    max_timestamp: section.max_timestamp,
                    record_count: section.record_count,
                    records: section.records,
                })
                .collect(),
            failures: failures
                .into_iter()
                .map(|f| RecordFailure {
                    offset: f.offset,
                    message: f.message,
                })
                .collect(),
        })
    })
}

fn placed(placement: placement::Placement) -> Placement {
    match placement {
        placement::Placement::ByInput => Placement::ByInput,
        placement::Placement::ByKey => Placement::ByKey,
        placement::Placement::Partition(partition) => Placement::Partition(partition),
    }
}

fn declared_outputs() -> std::result::Result<Outputs, String> {
    let names = std::env::var("TIDEMILL_OUTPUTS").unwrap_or_default();
    let names = names.split(',').filter(|name| !name.is_empty());
    Outputs::new(names).ok_or_else(|| "TIDEMILL_OUTPUTS names no output topic".to_owned())
}

/// Hands one line to the broker.
pub(crate) fn log(level: crate::log::Level, message: &str) {
    use bindings::tidemill::transform::log::{Level, write};
    let level = match level {
        crate::log::Level::Debug => Level::Debug,
        crate::log::Level::Info => Level::Info,
        crate::log::Level::Warn => Level::Warn,
        crate::log::Level::Error => Level::Error,
    };
    write(level, message);
}
