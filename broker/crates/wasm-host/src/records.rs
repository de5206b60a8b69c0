//! Records told apart for the world `record-transform`, and its records put together to sections again.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tidemill_model::record::{BatchBuilder, NewRecord, RecordRef, Records};

use crate::bindings::records::exports::tidemill::transform::record_processor::{
    HeaderParam, InputRecord, Outcome as Returned, OutputRecord,
};
use crate::bindings::records::tidemill::transform::types;
use crate::outcome::{Outcome, Placement, Reported, Section};
use crate::types::InputBatch;

/// A section ends when it has so many bytes: it then fits a batch of Kafka's default `max.message.bytes`.
const SECTION_BYTES: usize = 900 << 10;

/// The records of a call, and what they are made of.
pub(crate) struct Apart<'a> {
    records: Vec<(i64, i64, RecordRef<'a>, std::ops::Range<usize>)>,
    headers: Vec<(Cow<'a, str>, Option<&'a [u8]>)>,
}

impl<'a> Apart<'a> {
    /// Tells the records of `batches` apart.
    ///
    /// # Errors
    /// Why they cannot be: a producer wrote them.
    pub(crate) fn of(batches: &'a [InputBatch]) -> Result<Apart<'a>, String> {
        let (mut records, mut headers) = (Vec::new(), Vec::new());
        for batch in batches {
            let count = i32::try_from(batch.record_count).map_err(|_| "too many records")?;
            for record in Records::new(&batch.records, count) {
                let record = record.map_err(|e| e.to_string())?;
                let from = headers.len();
                for header in record.headers {
                    let (key, value) = header.map_err(|e| e.to_string())?;
                    headers.push((String::from_utf8_lossy(key), value));
                }
                let offset = batch
                    .base_offset
                    .saturating_add(i64::from(record.offset_delta));
                let timestamp = batch.base_timestamp.saturating_add(record.timestamp_delta);
                records.push((offset, timestamp, record, from..headers.len()));
            }
        }
        Ok(Apart { records, headers })
    }

    /// The headers of all records, one after the other.
    pub(crate) fn headers(&self) -> Vec<HeaderParam<'_>> {
        self.headers
            .iter()
            .map(|(key, value)| HeaderParam { key, value: *value })
            .collect()
    }

    /// The records, with `headers` as [`Apart::headers`] gave them.
    pub(crate) fn records<'b>(&'b self, headers: &'b [HeaderParam<'b>]) -> Vec<InputRecord<'b>> {
        let records = self.records.iter();
        let record = |(offset, timestamp, record, at): &'b (i64, i64, RecordRef<'a>, _)| {
            let at: &std::ops::Range<usize> = at;
            InputRecord {
                offset: *offset,
                timestamp: *timestamp,
                key: record.key,
                value: record.value,
                headers: &headers[at.clone()],
            }
        };
        records.map(record).collect()
    }
}

/// What a guest returned, its records put together to sections: those of one output and placement in their order.
pub(crate) fn together(returned: Returned) -> Outcome {
    let mut sections = Vec::new();
    let mut open: BTreeMap<(u32, Placement), BatchBuilder> = BTreeMap::new();
    for record in &returned.outputs {
        let at = (record.output, placement(record.placement));
        let builder = open.entry(at).or_default();
        let full = builder.bytes() >= SECTION_BYTES || !builder.takes_timestamp(record.timestamp);
        if full && !builder.is_empty() {
            sections.push(section(at, std::mem::take(builder)));
        }
        append(builder, record);
    }
    let rest = open.into_iter().filter(|(_, b)| !b.is_empty());
    sections.extend(rest.map(|(at, builder)| section(at, builder)));
    let failure = |f: types::RecordFailure| Reported {
        offset: f.offset,
        message: f.message,
    };
    Outcome {
        outputs: sections,
        failures: returned.failures.into_iter().map(failure).collect(),
    }
}

fn placement(placement: types::Placement) -> Placement {
    match placement {
        types::Placement::ByInput => Placement::ByInput,
        types::Placement::ByKey => Placement::ByKey,
        types::Placement::Partition(index) => Placement::Partition(index),
    }
}

fn append(builder: &mut BatchBuilder, record: &OutputRecord) {
    let headers: Vec<(&[u8], Option<&[u8]>)> = record
        .headers
        .iter()
        .map(|h| (h.key.as_bytes(), h.value.as_deref()))
        .collect();
    builder.append(NewRecord {
        timestamp: record.timestamp,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    });
}

fn section((output, placement): (u32, Placement), builder: BatchBuilder) -> Section {
    let (records, count, base_timestamp, max_timestamp) = builder.into_section();
    Section {
        output,
        placement,
        base_timestamp,
        max_timestamp,
        record_count: count as u32,
        records,
    }
}
