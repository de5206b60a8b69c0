//! What this crate reads of bytes that others made, as functions of bytes: for the tests that throw hostile ones at it; and what it
//! hands to a core module, for measurements of the same function outside of one.

use tidemill_model::Offset;

use crate::check::check;
use crate::core_module::{call_bytes, lay_out, parse_answer};
use crate::factory::ModuleError;
use crate::outcome::{Outcome, Placement, Reported, Section as Returned};
use crate::scan::scan;
use crate::types::{CallError, InputBatch, OutputBatch, OutputTopic, RecordFailure};

/// Looks through a module as a deployment does before the engine sees it.
///
/// # Errors
/// [`ModuleError`]: why it is not compiled.
pub fn module(wasm: &[u8]) -> Result<(), ModuleError> {
    scan(wasm).map(drop)
}

/// A section of records as a guest returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Index of the output, as it says.
    pub output: u32,
    /// The partition it names: -1 the input's, -2 the key's.
    pub partition: i32,
    /// Records in it, as it says.
    pub record_count: u32,
    /// What timestamps count from, in ms.
    pub base_timestamp: i64,
    /// The largest timestamp, in ms, as it says.
    pub max_timestamp: i64,
    /// The records.
    pub records: Vec<u8>,
}

/// Checks what a guest returned for a call with `input`, as the host does.
///
/// # Errors
/// [`CallError`]: what is wrong with it.
pub fn outcome(
    sections: Vec<Section>,
    failures: Vec<(Offset, String)>,
    input: &[InputBatch],
    outputs: &[OutputTopic],
) -> Result<(Vec<OutputBatch>, Vec<RecordFailure>), CallError> {
    let section = |s: Section| Returned {
        output: s.output,
        placement: match s.partition {
            -1 => Placement::ByInput,
            -2 => Placement::ByKey,
            partition => Placement::Partition(partition as u32),
        },
        base_timestamp: s.base_timestamp,
        max_timestamp: s.max_timestamp,
        record_count: s.record_count,
        records: s.records,
    };
    let failure = |(offset, message)| Reported { offset, message };
    let outcome = Outcome {
        outputs: sections.into_iter().map(section).collect(),
        failures: failures.into_iter().map(failure).collect(),
    };
    check(outcome, input, outputs)
}

/// A call of a core module with these batches of the input's partition `partition`, as it finds them in its memory.
pub fn core_call(partition: i32, batches: &[InputBatch]) -> Vec<u8> {
    let mut call = vec![0; call_bytes(batches)];
    lay_out(&mut call, partition, batches);
    call
}

/// Reads the answer of a core module and checks it, as the host does.
///
/// # Errors
/// [`CallError`]: what is wrong with it.
pub fn core_answer(
    answer: &[u8],
    input: &[InputBatch],
    outputs: &[OutputTopic],
) -> Result<(Vec<OutputBatch>, Vec<RecordFailure>), CallError> {
    match parse_answer(answer) {
        Ok(Ok(outcome)) => check(outcome, input, outputs),
        Ok(Err(message)) => Err(CallError::Trap(message)),
        Err(reason) => Err(CallError::Garbage(reason)),
    }
}
