//! Walking the record section of an input batch in place, trusting no length in it.

use crate::record::{Headers, Record, take_nullable};
use crate::varint::{take_varint, take_varlong};

/// A batch of the input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InputSection<'a> {
    /// The input's partition.
    pub(crate) partition: u32,
    pub(crate) base_offset: i64,
    pub(crate) base_timestamp: i64,
    pub(crate) record_count: u32,
    pub(crate) records: &'a [u8],
}

impl<'a> InputSection<'a> {
    /// Takes the next record off the front.
    #[inline]
    pub(crate) fn take_record(&mut self) -> Result<Record<'a>, &'static str> {
        let len = take_varint(&mut self.records).ok_or("a record's length is malformed")?;
        let len = usize::try_from(len).map_err(|_| "a record's length is negative")?;
        let (mut body, rest) = self
            .records
            .split_at_checked(len)
            .ok_or("a record is longer than its batch")?;
        self.records = rest;
        // The attributes of a record mean nothing so far.
        body = body.split_first().ok_or("a record is empty")?.1;
        let timestamp_delta = take_varlong(&mut body).ok_or("a record's timestamp is malformed")?;
        let offset_delta = take_varint(&mut body).ok_or("a record's offset is malformed")?;
        let key = take_nullable(&mut body).ok_or("a record's key is malformed")?;
        let value = take_nullable(&mut body).ok_or("a record's value is malformed")?;
        let headers = take_varint(&mut body).ok_or("a record's number of headers is malformed")?;
        Ok(Record {
            key,
            value,
            headers: Headers::checked(headers, body)?,
            timestamp: self.base_timestamp.wrapping_add(timestamp_delta),
            offset: self.base_offset.wrapping_add(i64::from(offset_delta)),
            partition: self.partition,
        })
    }
}
