//! Running a transform in an ordinary unit test, without WebAssembly: the same reading, writing and taking back of what a
//! refused record wrote.
//!
//! ```
//! # use tidemill_sdk::{Output, Record, Result, testing::{TestRecord, run_with_outputs}};
//! fn by_key(record: Record<'_>, output: &mut Output) -> Result<()> {
//!     let topic = std::str::from_utf8(record.key().ok_or("no key")?)?;
//!     output.to(topic)?.forward(&record)
//! }
//! let ran = run_with_outputs(by_key, &["red", "blue"], [
//!     TestRecord::new().key("blue").value("sky"),
//!     TestRecord::new().value("lost"),
//! ]);
//! assert_eq!(ran.topic("blue")[0].value_str(), Some("sky"));
//! assert_eq!(ran.failures(), [(1, "no key".to_owned())]);
//! ```

use crate::encode::Layout;
use crate::new_record::{NewRecord, Value};
use crate::output::{Output, Outputs, Section};
use crate::placement::Placement;
use crate::record::Record;
use crate::section::InputSection;

/// The default output's name in [`run`].
pub const DEFAULT_OUTPUT: &str = "output";

/// A record that owns its parts. Its offset is its place in what it was read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestRecord {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    timestamp: i64,
    placement: Placement,
}

impl TestRecord {
    /// A record without key, value or headers, at timestamp 0.
    pub fn new() -> TestRecord {
        TestRecord::default()
    }

    /// Sets the key.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> TestRecord {
        self.key = Some(key.as_ref().to_vec());
        self
    }

    /// Sets the value.
    pub fn value(mut self, value: impl AsRef<[u8]>) -> TestRecord {
        self.value = Some(value.as_ref().to_vec());
        self
    }

    /// Adds a header.
    pub fn header(mut self, key: &str, value: impl AsRef<[u8]>) -> TestRecord {
        self.headers
            .push((key.into(), Some(value.as_ref().to_vec())));
        self
    }

    /// Adds a header without a value.
    pub fn null_header(mut self, key: &str) -> TestRecord {
        self.headers.push((key.into(), None));
        self
    }

    /// Sets the timestamp, in ms.
    pub fn timestamp(mut self, timestamp: i64) -> TestRecord {
        self.timestamp = timestamp;
        self
    }

    /// Sets which partition a record that is expected goes to; of an input record it means nothing.
    pub fn placed(mut self, placement: Placement) -> TestRecord {
        self.placement = placement;
        self
    }

    /// Which partition a record that was written goes to.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// The key as text, if there is one and it is UTF-8.
    pub fn key_str(&self) -> Option<&str> {
        std::str::from_utf8(self.key.as_deref()?).ok()
    }

    /// The value as text, if there is one and it is UTF-8.
    pub fn value_str(&self) -> Option<&str> {
        std::str::from_utf8(self.value.as_deref()?).ok()
    }

    fn as_new(&self) -> NewRecord<'_> {
        NewRecord {
            key: self.key.as_deref(),
            value: self.value.as_deref().map_or(Value::Null, Value::Whole),
            headers: self
                .headers
                .iter()
                .map(|(k, v)| (&k[..], v.as_deref()))
                .collect(),
            timestamp: Some(self.timestamp),
            ..NewRecord::default()
        }
    }
}

impl From<Record<'_>> for TestRecord {
    fn from(record: Record<'_>) -> TestRecord {
        TestRecord {
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec)))
                .collect(),
            timestamp: record.timestamp,
            placement: Placement::ByInput,
        }
    }
}

/// What a transform did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    outputs: Vec<(String, Vec<TestRecord>)>,
    failures: Vec<(i64, String)>,
}

impl Ran {
    /// What was written to the default output; records placed alike in the order they were written.
    pub fn records(&self) -> &[TestRecord] {
        &self.outputs[0].1
    }

    /// What was written to `topic`; records placed alike in the order they were written.
    ///
    /// # Panics
    /// When there is no such output.
    pub fn topic(&self, topic: &str) -> &[TestRecord] {
        let found = self.outputs.iter().find(|(name, _)| name == topic);
        &found
            .unwrap_or_else(|| panic!("there is no output \"{topic}\""))
            .1
    }

    /// The records that were refused: place in the input, and why.
    pub fn failures(&self) -> &[(i64, String)] {
        &self.failures
    }
}

/// Runs `transform` on `records` with one output.
pub fn run(
    transform: impl FnMut(Record<'_>, &mut Output<'_>) -> crate::Result<()>,
    records: impl IntoIterator<Item = TestRecord>,
) -> Ran {
    run_with_outputs(transform, &[DEFAULT_OUTPUT], records)
}

/// Runs `transform` on `records` with these outputs, the first being the default.
///
/// # Panics
/// Without any output.
pub fn run_with_outputs(
    transform: impl FnMut(Record<'_>, &mut Output<'_>) -> crate::Result<()>,
    outputs: &[&str],
    records: impl IntoIterator<Item = TestRecord>,
) -> Ran {
    run_in_partition(transform, 0, outputs, records)
}

/// Runs `transform` on `records` from this partition of the input, with these outputs, the first being the default.
///
/// # Panics
/// Without any output.
pub fn run_in_partition(
    transform: impl FnMut(Record<'_>, &mut Output<'_>) -> crate::Result<()>,
    partition: u32,
    outputs: &[&str],
    records: impl IntoIterator<Item = TestRecord>,
) -> Ran {
    let mut input = Vec::new();
    let mut record_count = 0;
    for record in records {
        let record = record.as_new();
        Layout::new(&record, record.timestamp.unwrap_or(0), record_count).put(&mut input, &record);
        record_count += 1;
    }
    let batch = InputSection {
        partition,
        base_offset: 0,
        base_timestamp: 0,
        record_count,
        records: &input,
    };
    let mut output = Outputs::new(outputs.iter().copied()).expect("a transform has an output");
    let failures = output
        .run(transform, [batch].into_iter())
        .expect("the batch was encoded above");
    let mut ran = Ran {
        outputs: outputs
            .iter()
            .map(|name| ((*name).to_owned(), Vec::new()))
            .collect(),
        failures: failures
            .into_iter()
            .map(|f| (f.offset, f.message))
            .collect(),
    };
    for (index, section) in output.take() {
        ran.outputs[index as usize].1.extend(decode(&section));
    }
    ran
}

fn decode(section: &Section) -> Vec<TestRecord> {
    let mut input = InputSection {
        partition: 0,
        base_offset: 0,
        base_timestamp: section.base_timestamp,
        record_count: section.record_count,
        records: &section.records,
    };
    (0..section.record_count)
        .map(|_| input.take_record().expect("the SDK wrote it"))
        .map(|record| TestRecord::from(record).placed(section.placement))
        .collect()
}

/// A transform with its outputs, run over raw record sections as the broker hands them over: for benchmarks that compare
/// native code with the module.
#[derive(Debug)]
pub struct Native {
    output: Outputs,
}

impl Native {
    /// With these outputs, the first being the default; `None` without any.
    pub fn new(outputs: &[&str]) -> Option<Native> {
        let output = Outputs::new(outputs.iter().copied())?;
        Some(Native { output })
    }

    /// Runs `transform` over batches of (base offset, base timestamp, record count, section) and hands every section written to
    /// `sink` as (output, base timestamp, max timestamp, record count, section).
    ///
    /// # Errors
    /// Why the input cannot be read.
    pub fn process<'a>(
        &mut self,
        transform: crate::TransformFn,
        batches: impl IntoIterator<Item = (i64, i64, u32, &'a [u8])>,
        mut sink: impl FnMut(u32, i64, i64, u32, Vec<u8>),
    ) -> Result<usize, &'static str> {
        let batches =
            batches
                .into_iter()
                .map(
                    |(base_offset, base_timestamp, record_count, records)| InputSection {
                        partition: 0,
                        base_offset,
                        base_timestamp,
                        record_count,
                        records,
                    },
                );
        let batches: Vec<InputSection<'a>> = batches.collect();
        self.output
            .reserve(batches.iter().map(|b| b.records.len() + 64).sum());
        let failures = self.output.run(transform, batches.into_iter())?;
        for (index, s) in self.output.take() {
            sink(
                index,
                s.base_timestamp,
                s.max_timestamp,
                s.record_count,
                s.records,
            );
        }
        Ok(failures.len())
    }
}

#[cfg(test)]
mod tests;
