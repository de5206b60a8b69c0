//! Records to be masked: users, in JSON.

use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::record::{BatchBuilder, NewRecord};
use tidemill_wasm_host::InputBatch;

/// Batches of `records` users each, with values of `value_bytes` bytes, of `call_bytes` bytes in all or a little more.
pub fn batches(value_bytes: usize, records: usize, call_bytes: usize) -> Vec<InputBatch> {
    let mut batches = Vec::new();
    let mut bytes = 0;
    while bytes < call_bytes {
        let base_offset = batches.len() * records;
        let mut builder = BatchBuilder::new();
        for n in base_offset..base_offset + records {
            builder.append(NewRecord {
                timestamp: 1_700_000_000_000 + n as i64,
                key: Some(n.to_string().as_bytes()),
                value: Some(value(n, value_bytes).as_bytes()),
                headers: &[],
            });
        }
        let batch = builder.build();
        bytes += batch.len();
        batches.push(InputBatch {
            base_offset: base_offset as i64,
            base_timestamp: 1_700_000_000_000 + base_offset as i64,
            record_count: records as u32,
            records: batch.slice(HEADER_BYTES..),
        });
    }
    batches
}

/// A user of exactly `bytes` bytes, its `email` in the middle.
pub fn value(n: usize, bytes: usize) -> String {
    let head = format!(
        "{{\"id\":1{n:07},\"name\":\"Ada Lovelace\",\"email\":\"ada{n:06}@analytical.example\",\"country\":\"GB\",\"note\":\""
    );
    let note = bytes - head.len() - 2;
    let text = "counts as it always did, and then some more; ";
    format!(
        "{head}{}\"}}",
        text.chars().cycle().take(note).collect::<String>()
    )
}
