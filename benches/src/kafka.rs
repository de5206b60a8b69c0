//! Requests that the measurement programs need beside those of `tidemill_tests::raw`.

use tidemill_tests::raw::{Header, Reader, api, batches, frame, put_string, put_unsigned};

/// API key of ListOffsets.
const LIST_OFFSETS: i16 = 2;

/// CreateTopics v4 for one topic with replication factor 1.
#[must_use]
pub fn create_topic(name: &str, partitions: i32, configs: &[(String, String)]) -> Vec<u8> {
    let mut body = 1i32.to_be_bytes().to_vec();
    put_string(&mut body, name);
    body.extend(partitions.to_be_bytes());
    body.extend(1i16.to_be_bytes());
    body.extend(0i32.to_be_bytes());
    body.extend(count(configs.len()).to_be_bytes());
    for (key, value) in configs {
        put_string(&mut body, key);
        put_string(&mut body, value);
    }
    body.extend(120_000i32.to_be_bytes());
    body.push(0);
    frame(api::CREATE_TOPICS, 4, Header::Plain, &body)
}

/// The error code in the answer to [`create_topic`]; `None` when it is too short.
#[must_use]
pub fn created(answer: &[u8], name: &str) -> Option<i16> {
    // Correlation id, throttle time, count, name.
    let at = 4 + 4 + 4 + 2 + name.len();
    let code = answer.get(at..at + 2)?;
    Some(i16::from_be_bytes([code[0], code[1]]))
}

/// Produce v9 with `acks=all`: the same batch for each of some partitions.
#[must_use]
pub fn produce_to(topic: &str, partitions: &[i32], batch: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    body.extend((-1i16).to_be_bytes());
    body.extend(60_000i32.to_be_bytes());
    put_unsigned(&mut body, 2);
    put_unsigned(&mut body, topic.len() as u64 + 1);
    body.extend(topic.as_bytes());
    put_unsigned(&mut body, partitions.len() as u64 + 1);
    for partition in partitions {
        body.extend(partition.to_be_bytes());
        put_unsigned(&mut body, batch.len() as u64 + 1);
        body.extend(batch);
        body.push(0);
    }
    body.extend([0, 0]);
    frame(api::PRODUCE, 9, Header::Flexible, &body)
}

/// Partition and error code of each partition in the answer to [`produce_to`]; `None` when it is no such answer.
#[must_use]
pub fn produced_to(answer: &[u8]) -> Option<Vec<(i32, i16)>> {
    let mut reader = Reader::new(answer);
    reader.take(4 + 1)?;
    let mut found = Vec::new();
    for _ in 1..reader.unsigned()? {
        reader.skip_text()?;
        for _ in 1..reader.unsigned()? {
            found.push(produced_part(&mut reader)?);
        }
        reader.take(1)?;
    }
    Some(found)
}

/// Index and error code; offsets, record errors, message and tags are passed over.
fn produced_part(reader: &mut Reader<'_>) -> Option<(i32, i16)> {
    let (index, code) = (reader.i32()?, reader.i16()?);
    reader.take(8 + 8 + 8)?;
    for _ in 1..reader.unsigned()? {
        reader.take(4)?;
        reader.skip_text()?;
        reader.take(1)?;
    }
    reader.skip_text()?;
    reader.take(1)?;
    Some((index, code))
}

fn count(number: usize) -> i32 {
    i32::try_from(number).expect("requests here have few elements")
}

/// What a Fetch brought of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedPart {
    /// The partition.
    pub partition: i32,
    /// Its error code.
    pub error: i16,
    /// Bytes of record batches, a cut-off last one included.
    pub bytes: usize,
    /// Offset after the last whole batch; `None` when there is none.
    pub next_offset: Option<i64>,
}

/// Fetch v4 of some partitions from an offset each: long poll of `wait_ms`, at most `max_bytes` of all of them.
#[must_use]
pub fn fetch_from(topic: &str, from: &[(i32, i64)], wait_ms: i32, max_bytes: i32) -> Vec<u8> {
    fetch_up_to(topic, from, (wait_ms, max_bytes, max_bytes))
}

/// As [`fetch_from`], with (ms to wait, most bytes of all, most bytes of one partition).
#[must_use]
pub fn fetch_up_to(
    topic: &str,
    from: &[(i32, i64)],
    (wait_ms, max_bytes, partition_bytes): (i32, i32, i32),
) -> Vec<u8> {
    let mut body = (-1i32).to_be_bytes().to_vec();
    body.extend(wait_ms.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend(max_bytes.to_be_bytes());
    body.push(0);
    body.extend(1i32.to_be_bytes());
    put_string(&mut body, topic);
    body.extend(count(from.len()).to_be_bytes());
    for (partition, offset) in from {
        body.extend(partition.to_be_bytes());
        body.extend(offset.to_be_bytes());
        body.extend(partition_bytes.to_be_bytes());
    }
    frame(api::FETCH, 4, Header::Plain, &body)
}

/// The partitions in the answer to [`fetch_from`] for one topic; `None` when it is no such answer.
#[must_use]
pub fn fetched_from(answer: &[u8]) -> Option<Vec<FetchedPart>> {
    let mut reader = Reader::new(answer);
    reader.take(4 + 4)?;
    let mut found = Vec::new();
    for _ in 0..reader.i32()? {
        let name = usize::try_from(reader.i16()?).ok()?;
        reader.take(name)?;
        for _ in 0..reader.i32()? {
            found.push(fetched_part(&mut reader)?);
        }
    }
    Some(found)
}

fn fetched_part(reader: &mut Reader<'_>) -> Option<FetchedPart> {
    let (partition, error) = (reader.i32()?, reader.i16()?);
    reader.take(8 + 8)?;
    let aborted = usize::try_from(reader.i32()?).unwrap_or(0);
    reader.take(aborted * 16)?;
    let bytes = usize::try_from(reader.i32()?).unwrap_or(0);
    let whole = batches(reader.take(bytes)?)?;
    Some(FetchedPart {
        partition,
        error,
        bytes,
        next_offset: whole.last().map(|batch| batch.last_offset + 1),
    })
}

/// ListOffsets v1 for the end of a partition.
#[must_use]
pub fn list_end(topic: &str, partition: i32) -> Vec<u8> {
    let mut body = (-1i32).to_be_bytes().to_vec();
    body.extend(1i32.to_be_bytes());
    put_string(&mut body, topic);
    body.extend(1i32.to_be_bytes());
    body.extend(partition.to_be_bytes());
    body.extend((-1i64).to_be_bytes());
    frame(LIST_OFFSETS, 1, Header::Plain, &body)
}

/// The offset in the answer to [`list_end`]; `None` for an error.
#[must_use]
pub fn listed_end(answer: &[u8], topic: &str) -> Option<i64> {
    let mut reader = Reader::new(answer);
    // Correlation id, topics, name, partitions, partition.
    reader.take(4 + 4 + 2 + topic.len() + 4 + 4)?;
    let error = reader.i16()?;
    reader.take(8)?;
    let offset = reader.i64()?;
    (error == 0).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_per_partition_and_messages_passed_over() {
        let mut answer = vec![0, 0, 0, 7, 0, 2, 2, b't', 3];
        for (index, code, message) in [(4i32, 0i16, &b""[..]), (9, 3, b"no")] {
            answer.extend(index.to_be_bytes());
            answer.extend(code.to_be_bytes());
            answer.extend([0; 24]);
            answer.push(1);
            match message.len() {
                0 => answer.push(0),
                n => {
                    answer.push(n as u8 + 1);
                    answer.extend(message);
                }
            }
            answer.push(0);
        }
        answer.extend([0, 0, 0, 0, 0, 0]);
        assert_eq!(produced_to(&answer), Some(vec![(4, 0), (9, 3)]));
        assert_eq!(produced_to(&answer[..30]), None);
    }
}
