//! Checking what a guest returned, and making batches of it. Pure.

use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::record::{SplitError, batch_from_section, check_section, split_section};

use crate::bindings::exports::tidemill::transform::processor::{Outcome, OutputSection};
use crate::types::{CallError, InputBatch, OutputBatch, RecordFailure};

/// Bytes that a call may put out. A call's input is about 1 MB.
pub(crate) const OUTPUT_BYTES_MAX: usize = 64 << 20;
/// Bytes kept of a failure's message.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Checks `outcome` of a call with `input`; output *i* takes batches of `output_max_bytes[i]` bytes.
pub(crate) fn check(
    outcome: Outcome,
    input: &[InputBatch],
    output_max_bytes: &[usize],
) -> Result<(Vec<OutputBatch>, Vec<RecordFailure>), CallError> {
    let total: usize = outcome.outputs.iter().map(|s| s.records.len()).sum();
    if total > OUTPUT_BYTES_MAX {
        return Err(CallError::Garbage(format!(
            "{total} bytes of output for one call, the limit is {OUTPUT_BYTES_MAX}"
        )));
    }
    let failures = check_failures(outcome.failures, input)?;
    let mut batches = Vec::with_capacity(outcome.outputs.len());
    for (index, section) in outcome.outputs.into_iter().enumerate() {
        let max_bytes = usize::try_from(section.output)
            .ok()
            .and_then(|output| output_max_bytes.get(output))
            .ok_or_else(|| {
                let (output, count) = (section.output, output_max_bytes.len());
                CallError::Garbage(format!(
                    "section {index} is for output {output}, but there are {count}"
                ))
            })?;
        let garbage = |reason: String| CallError::Garbage(format!("section {index}: {reason}"));
        check_one(&section).map_err(garbage)?;
        push_batches(&section, *max_bytes, &mut batches)?;
    }
    Ok((batches, failures))
}

fn check_failures(
    failures: Vec<crate::bindings::exports::tidemill::transform::processor::RecordFailure>,
    input: &[InputBatch],
) -> Result<Vec<RecordFailure>, CallError> {
    let records: u64 = input.iter().map(|b| u64::from(b.record_count)).sum();
    if failures.len() as u64 > records {
        let count = failures.len();
        return Err(CallError::Garbage(format!(
            "{count} failures for {records} records"
        )));
    }
    let mut lowest = input.first().map_or(0, |b| b.base_offset);
    let mut checked = Vec::with_capacity(failures.len());
    for failure in failures {
        if failure.offset < lowest {
            let offset = failure.offset;
            return Err(CallError::Garbage(format!(
                "offset {offset} of a failure is not in the input or out of order"
            )));
        }
        lowest = failure.offset.saturating_add(1);
        let mut message = failure.message;
        cut(&mut message, MESSAGE_BYTES_MAX);
        checked.push(RecordFailure {
            offset: failure.offset,
            message,
        });
    }
    Ok(checked)
}

fn check_one(section: &OutputSection) -> Result<(), String> {
    let count = i32::try_from(section.record_count).map_err(|_| "too many records".to_owned())?;
    let info = check_section(&section.records, count).map_err(|e| e.to_string())?;
    let max = section.base_timestamp.checked_add(info.max_timestamp_delta);
    let min = section.base_timestamp.checked_add(info.min_timestamp_delta);
    if min.is_none() || max != Some(section.max_timestamp) {
        return Err(format!(
            "its largest timestamp is not {}, as it says",
            section.max_timestamp
        ));
    }
    Ok(())
}

fn push_batches(
    section: &OutputSection,
    max_bytes: usize,
    batches: &mut Vec<OutputBatch>,
) -> Result<(), CallError> {
    let count = section.record_count as i32;
    if HEADER_BYTES + section.records.len() <= max_bytes {
        let batch = batch_from_section(
            &section.records,
            count,
            section.base_timestamp,
            section.max_timestamp,
        );
        batches.push(OutputBatch {
            output: section.output,
            records: section.record_count,
            batch,
        });
        return Ok(());
    }
    let parts =
        split_section(&section.records, count, section.base_timestamp, max_bytes).map_err(|e| {
            match e {
                SplitError::RecordTooLarge { .. } => CallError::TooLarge(e.to_string()),
                SplitError::Section(e) => CallError::Garbage(e.to_string()),
            }
        })?;
    for batch in parts {
        let header = tidemill_model::BatchHeader::parse(&batch)
            .map_err(|e| CallError::Garbage(e.to_string()))?;
        batches.push(OutputBatch {
            output: section.output,
            records: header.record_count as u32,
            batch,
        });
    }
    Ok(())
}

/// Cuts `text` to `bytes` bytes, at a character.
pub(crate) fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push_str("...");
    }
}
