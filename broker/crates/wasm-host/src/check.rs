//! Checking what a guest returned, and making batches of it. Pure.

use bytes::Bytes;
use tidemill_model::batch::{Compression, HEADER_BYTES};
use tidemill_model::partitioner::partition_for_key;
use tidemill_model::record::{
    RecordRef, SplitError, batch_from_section, check_section, compress_batch, split_section_by,
};

use crate::outcome::{Outcome, Placement, Reported, Section};
use crate::types::{CallError, Destination, InputBatch, OutputBatch, OutputTopic, RecordFailure};

/// Bytes of record sections that a call may put out: no more fits an outcome. A call's input is about 1 MB.
pub(crate) const OUTPUT_BYTES_MAX: usize = 32 << 20;
/// Batches that a call may put out; an outcome, which may gather as many again, fits into one entry.
pub(crate) const OUTPUT_BATCHES_MAX: usize = 16_384;
/// A record has at least so many bytes: length, attributes, two deltas, two absent fields, number of headers.
const RECORD_BYTES_MIN: usize = 7;
/// Bytes kept of a failure's message.
const MESSAGE_BYTES_MAX: usize = 1024;
/// What stands for what was cut off.
const DOTS: &str = "...";

/// Checks `outcome` of a call with `input` for a transform with these outputs.
pub(crate) fn check(
    outcome: Outcome,
    input: &[InputBatch],
    outputs: &[OutputTopic],
) -> Result<(Vec<OutputBatch>, Vec<RecordFailure>), CallError> {
    let total: usize = outcome.outputs.iter().map(|s| s.records.len()).sum();
    if total > OUTPUT_BYTES_MAX {
        return Err(CallError::TooMuch(format!(
            "{total} bytes of records in one call, the limit is {OUTPUT_BYTES_MAX}"
        )));
    }
    within_batches(outcome.outputs.len())?;
    let failures = check_failures(outcome.failures, input)?;
    let mut batches = Vec::with_capacity(outcome.outputs.len());
    for (index, section) in outcome.outputs.into_iter().enumerate() {
        let topic = usize::try_from(section.output)
            .ok()
            .and_then(|output| outputs.get(output))
            .ok_or_else(|| {
                let (output, count) = (section.output, outputs.len());
                CallError::Garbage(format!(
                    "section {index} is for output {output}, but there are {count}"
                ))
            })?;
        let garbage = |reason: String| CallError::Garbage(format!("section {index}: {reason}"));
        check_one(&section).map_err(garbage)?;
        push_batches(&section, topic, &mut batches)?;
        within_batches(batches.len())?;
    }
    for batch in &mut batches {
        let codec = outputs[batch.output as usize].compression;
        batch.batch = compressed(&batch.batch, codec)?;
    }
    Ok((batches, failures))
}

/// `batch` as its topic wants it, or as it is where that is smaller.
fn compressed(batch: &Bytes, codec: Compression) -> Result<Bytes, CallError> {
    if codec == Compression::None {
        return Ok(batch.clone());
    }
    let packed = compress_batch(batch, codec).map_err(|e| CallError::TooMuch(e.to_string()))?;
    Ok(packed.unwrap_or_else(|| batch.clone()))
}

fn within_batches(count: usize) -> Result<(), CallError> {
    if count <= OUTPUT_BATCHES_MAX {
        return Ok(());
    }
    Err(CallError::TooMuch(format!(
        "{count} batches in one call, the limit is {OUTPUT_BATCHES_MAX}"
    )))
}

/// The records that `batch` can have: its count is what a producer says.
fn records_at_most(batch: &InputBatch) -> usize {
    (batch.records.len() / RECORD_BYTES_MIN).min(batch.record_count as usize)
}

fn check_failures(
    failures: Vec<Reported>,
    input: &[InputBatch],
) -> Result<Vec<RecordFailure>, CallError> {
    let records: usize = input.iter().map(records_at_most).sum();
    if failures.len() > records {
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
        checked.push(RecordFailure {
            offset: failure.offset,
            message: cut(failure.message, MESSAGE_BYTES_MAX),
        });
    }
    Ok(checked)
}

fn check_one(section: &Section) -> Result<(), String> {
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

/// Which partition the records of a section go to; `None` where each record's key says.
fn destination(section: &Section, topic: &OutputTopic) -> Result<Option<Destination>, CallError> {
    match (section.placement, topic.partitions) {
        (Placement::ByInput, _) if !topic.by_key => Ok(Some(Destination::ByInput)),
        (Placement::ByInput | Placement::ByKey, None) => Ok(Some(Destination::ByKey)),
        (Placement::ByInput | Placement::ByKey, Some(_)) => Ok(None),
        (Placement::Partition(index), Some(has)) if index >= has => Err(CallError::NoPartition(
            format!("{index}, of output {}, which has {has}", section.output),
        )),
        (Placement::Partition(index), _) => match i32::try_from(index) {
            Ok(index) => Ok(Some(Destination::Partition(index))),
            Err(_) => Err(CallError::NoPartition(index.to_string())),
        },
    }
}

fn push_batches(
    section: &Section,
    topic: &OutputTopic,
    batches: &mut Vec<OutputBatch>,
) -> Result<(), CallError> {
    let count = section.record_count as i32;
    let max_bytes = topic.max_bytes;
    let destination = destination(section, topic)?;
    if let Some(to) = destination
        && HEADER_BYTES + section.records.len() <= max_bytes
    {
        let (base, max) = (section.base_timestamp, section.max_timestamp);
        batches.push(OutputBatch {
            output: section.output,
            to,
            records: section.record_count,
            batch: batch_from_section(&section.records, count, base, max),
        });
        return Ok(());
    }
    // Numbered anew, no record shrinks to less than half: so many batches at least, which need not be made to be refused.
    let room = max_bytes.saturating_sub(HEADER_BYTES).max(1);
    within_batches(section.records.len() / 2 / room)?;
    let partitions = topic
        .partitions
        .map_or(1, |n| n.min(i32::MAX as u32) as i32);
    let to = |record: &RecordRef<'_>| match (destination, record.key) {
        (Some(to), _) => to,
        (None, Some(key)) => Destination::Partition(partition_for_key(key, partitions)),
        (None, None) => Destination::ByInput,
    };
    let counts = (count, section.base_timestamp);
    let parts = split_section_by(&section.records, counts, max_bytes, to).map_err(|e| match e {
        SplitError::RecordTooLarge { .. } => CallError::TooLarge(e.to_string()),
        SplitError::Section(e) => CallError::Garbage(e.to_string()),
    })?;
    batches.extend(parts.into_iter().map(|part| OutputBatch {
        output: section.output,
        to: part.to,
        records: part.records as u32,
        batch: part.batch,
    }));
    Ok(())
}

/// `text`, cut as [`head`] does, in memory of its own length: a text that only forgot its end would go on holding it.
pub(crate) fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        return head(&text, bytes);
    }
    text.shrink_to_fit();
    text
}

/// The first `bytes` bytes of `text`, up to a character, with dots where something is left out.
pub(crate) fn head(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut kept = String::with_capacity(bytes + DOTS.len());
    kept.push_str(&text[..text.floor_char_boundary(bytes)]);
    kept.push_str(DOTS);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(record_count: u32, bytes: usize) -> InputBatch {
        InputBatch {
            base_offset: 0,
            base_timestamp: 0,
            record_count,
            records: Bytes::from(vec![0; bytes]),
        }
    }

    /// A section of `records` records of the least size.
    fn section(records: usize) -> Section {
        let mut bytes = Vec::new();
        for n in 0..records {
            let delta = 2 * n;
            let delta = [
                (delta | 0x80) as u8,
                (delta >> 7 | 0x80) as u8,
                (delta >> 14) as u8,
            ];
            bytes.extend([16, 0, 0]);
            bytes.extend(delta);
            bytes.extend([1, 1, 0]);
        }
        Section {
            output: 0,
            placement: Placement::ByInput,
            base_timestamp: 0,
            max_timestamp: 0,
            record_count: records as u32,
            records: bytes,
        }
    }

    fn check_sections(outputs: Vec<Section>, max_bytes: usize) -> Result<usize, CallError> {
        let outcome = Outcome {
            outputs,
            failures: Vec::new(),
        };
        check(outcome, &[], &[OutputTopic::of_max_bytes(max_bytes)])
            .map(|(batches, _)| batches.len())
    }

    #[test]
    fn failures_are_bounded_by_the_records_that_fit_not_by_the_count_claimed() {
        let reported = |count: i64| {
            let failure = |offset| Reported {
                offset,
                message: String::new(),
            };
            let failures = (0..count).map(failure).collect();
            let outcome = Outcome {
                outputs: Vec::new(),
                failures,
            };
            check(outcome, &[input(u32::MAX, 70)], &[])
        };
        assert_eq!(reported(10).unwrap().1.len(), 10);
        let error = reported(11).unwrap_err();
        assert!(
            matches!(&error, CallError::Garbage(m) if m == "11 failures for 10 records"),
            "{error:?}"
        );
    }

    #[test]
    fn more_batches_than_an_outcome_takes_are_refused() {
        let whole = |count: usize| (0..count).map(|_| section(1)).collect::<Vec<_>>();
        assert_eq!(
            check_sections(whole(OUTPUT_BATCHES_MAX), 1000),
            Ok(OUTPUT_BATCHES_MAX)
        );
        // Too many sections; few sections that the output takes in too small pieces only, seen before and after cutting.
        for (sections, max_bytes) in [
            (whole(OUTPUT_BATCHES_MAX + 1), 1000),
            (vec![section(OUTPUT_BATCHES_MAX + 1)], HEADER_BYTES + 9),
            (vec![section(80_000)], HEADER_BYTES + 9),
        ] {
            let error = check_sections(sections, max_bytes).unwrap_err();
            assert!(
                matches!(&error, CallError::TooMuch(m) if m.contains("batches")),
                "{error:?}"
            );
        }
    }

    #[test]
    fn more_bytes_than_an_outcome_takes_are_refused() {
        let large = Section {
            records: vec![0; OUTPUT_BYTES_MAX + 1],
            ..section(1)
        };
        let error = check_sections(vec![large], usize::MAX).unwrap_err();
        assert!(matches!(&error, CallError::TooMuch(_)), "{error:?}");
    }

    #[test]
    fn cut_text_keeps_no_memory_of_what_was_cut_off() {
        let text = cut("ä".repeat(1 << 20), 1023);
        assert_eq!(text.len(), 1022 + DOTS.len());
        assert!(text.capacity() < 2048);
        let mut roomy = String::with_capacity(1 << 20);
        roomy.push('a');
        assert!(cut(roomy, 1024).capacity() < 2048);
    }
}
