//! A Kafka client of a page, written against the protocol guide and independent of the broker's codec.
//!
//! It says exactly the bytes that a test wants said, malformed ones included, and costs next to nothing,
//! so that benchmarks measure the broker.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// API keys of the requests used here.
pub mod api {
    /// Produce.
    pub const PRODUCE: i16 = 0;
    /// Fetch.
    pub const FETCH: i16 = 1;
    /// Metadata.
    pub const METADATA: i16 = 3;
    /// OffsetCommit.
    pub const OFFSET_COMMIT: i16 = 8;
    /// OffsetFetch.
    pub const OFFSET_FETCH: i16 = 9;
    /// FindCoordinator.
    pub const FIND_COORDINATOR: i16 = 10;
    /// ApiVersions.
    pub const API_VERSIONS: i16 = 18;
    /// CreateTopics.
    pub const CREATE_TOPICS: i16 = 19;
    /// DeleteRecords.
    pub const DELETE_RECORDS: i16 = 21;
}

/// Bytes of a record batch before its records (KIP-98).
pub const BATCH_HEADER_BYTES: usize = 61;
/// The largest answer this client takes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects; reads give up after 30 s.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open(address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Connection { stream })
    }

    /// How long reads wait from now on.
    ///
    /// # Errors
    /// For a time of 0.
    pub fn set_patience(&mut self, time: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(time))
    }

    /// A second handle on the same connection, to read on one thread and write on another.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn split(&self) -> io::Result<Connection> {
        Ok(Connection {
            stream: self.stream.try_clone()?,
        })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer without its length.
    ///
    /// # Errors
    /// `UnexpectedEof` or `ConnectionReset` when the broker closed the connection; `WouldBlock` after 30 s.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > ANSWER_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an answer of more than 256 MiB",
            ));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// Sends a frame and reads its answer.
    ///
    /// # Errors
    /// As [`Connection::send`] and [`Connection::receive`].
    pub fn call(&mut self, frame: &[u8]) -> io::Result<Vec<u8>> {
        self.send(frame)?;
        self.receive()
    }

    /// Whether the broker closes the connection, rather than answer.
    #[must_use]
    pub fn is_closed_by_peer(&mut self) -> bool {
        match self.receive() {
            Ok(_) => false,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
        }
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish_writing(&mut self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }
}

/// Header versions: flexible ones end in tagged fields (KIP-482).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Version 1.
    Plain,
    /// Version 2.
    Flexible,
}

/// A request with its length in front.
#[must_use]
pub fn frame(api_key: i16, version: i16, header: Header, body: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(body.len() + 20);
    rest.extend(api_key.to_be_bytes());
    rest.extend(version.to_be_bytes());
    rest.extend(7i32.to_be_bytes());
    put_string(&mut rest, "raw");
    if header == Header::Flexible {
        rest.push(0);
    }
    rest.extend(body);
    let mut framed = length_of(&rest).to_be_bytes().to_vec();
    framed.extend(rest);
    framed
}

fn length_of(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).expect("what tests send is below 2 GiB")
}

/// Appends a text with its length in two bytes.
pub fn put_string(to: &mut Vec<u8>, text: &str) {
    to.extend(
        i16::try_from(text.len())
            .expect("names are short")
            .to_be_bytes(),
    );
    to.extend(text.as_bytes());
}

/// Appends a number as an unsigned varint.
pub fn put_unsigned(to: &mut Vec<u8>, mut number: u64) {
    while number > 127 {
        to.push((number & 127) as u8 | 128);
        number >>= 7;
    }
    to.push(number as u8);
}

fn put_zigzag(to: &mut Vec<u8>, number: i64) {
    put_unsigned(to, ((number << 1) ^ (number >> 63)) as u64);
}

/// The time now, in ms since 1970: records that are much older are removed by retention.
#[must_use]
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("the clock is right").as_millis()).expect("it is not that late")
}

/// One record batch (magic 2, uncompressed, no producer) with the given keys and values.
#[must_use]
pub fn batch(records: &[(&[u8], &[u8])], timestamp_ms: i64) -> Vec<u8> {
    let timed: Vec<_> = records
        .iter()
        .map(|(key, value)| (timestamp_ms, *key, *value))
        .collect();
    batch_of_times(&timed)
}

/// As [`batch`], with a timestamp, key and value for each record.
#[must_use]
pub fn batch_of_times(records: &[(i64, &[u8], &[u8])]) -> Vec<u8> {
    let first_ms = records.first().map_or(-1, |record| record.0);
    let largest_ms = records.iter().map(|record| record.0).max().unwrap_or(-1);
    let mut section = Vec::new();
    for (number, (timestamp_ms, key, value)) in records.iter().enumerate() {
        let mut body = vec![0];
        put_zigzag(&mut body, timestamp_ms - first_ms);
        put_zigzag(&mut body, number as i64);
        put_zigzag(&mut body, key.len() as i64);
        body.extend(*key);
        put_zigzag(&mut body, value.len() as i64);
        body.extend(*value);
        put_zigzag(&mut body, 0);
        put_zigzag(&mut section, body.len() as i64);
        section.extend(body);
    }
    let count = i32::try_from(records.len()).expect("a batch has few records");
    let mut checked = Vec::with_capacity(section.len() + 40);
    checked.extend(0i16.to_be_bytes());
    checked.extend((count - 1).to_be_bytes());
    checked.extend(first_ms.to_be_bytes());
    checked.extend(largest_ms.to_be_bytes());
    checked.extend((-1i64).to_be_bytes());
    checked.extend((-1i16).to_be_bytes());
    checked.extend((-1i32).to_be_bytes());
    checked.extend(count.to_be_bytes());
    checked.extend(section);
    let mut whole = 0i64.to_be_bytes().to_vec();
    whole.extend((length_of(&checked) + 9).to_be_bytes());
    whole.extend((-1i32).to_be_bytes());
    whole.push(2);
    whole.extend(crc32c::crc32c(&checked).to_be_bytes());
    whole.extend(checked);
    whole
}

/// Produce v9 with `acks=all`: one batch for one partition.
#[must_use]
pub fn produce(topic: &str, partition: i32, batch: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    body.extend((-1i16).to_be_bytes());
    body.extend(30_000i32.to_be_bytes());
    put_unsigned(&mut body, 2);
    put_unsigned(&mut body, topic.len() as u64 + 1);
    body.extend(topic.as_bytes());
    put_unsigned(&mut body, 2);
    body.extend(partition.to_be_bytes());
    put_unsigned(&mut body, batch.len() as u64 + 1);
    body.extend(batch);
    body.extend([0, 0, 0]);
    frame(api::PRODUCE, 9, Header::Flexible, &body)
}

/// Error code and base offset in the answer to [`produce`]; `None` when it is too short.
#[must_use]
pub fn produced(answer: &[u8], topic: &str) -> Option<(i16, i64)> {
    // Correlation id, tags, two array lengths and the name's length (one byte each), name, partition.
    let mut reader = Reader::new(answer.get(5 + 1 + 1 + topic.len() + 1 + 4..)?);
    Some((reader.i16()?, reader.i64()?))
}

/// Metadata v4 for one topic, which it makes if the broker makes topics by itself.
#[must_use]
pub fn metadata(topic: &str) -> Vec<u8> {
    let mut body = 1i32.to_be_bytes().to_vec();
    put_string(&mut body, topic);
    body.push(1);
    frame(api::METADATA, 4, Header::Plain, &body)
}

/// Metadata v4 for no topic: whether a broker answers.
#[must_use]
pub fn metadata_of_none() -> Vec<u8> {
    let mut body = 0i32.to_be_bytes().to_vec();
    body.push(0);
    frame(api::METADATA, 4, Header::Plain, &body)
}

/// DeleteRecords v0: what lies below `offset` in one partition.
#[must_use]
pub fn delete_records(topic: &str, partition: i32, offset: i64) -> Vec<u8> {
    let mut body = 1i32.to_be_bytes().to_vec();
    put_string(&mut body, topic);
    body.extend(1i32.to_be_bytes());
    body.extend(partition.to_be_bytes());
    body.extend(offset.to_be_bytes());
    body.extend(30_000i32.to_be_bytes());
    frame(api::DELETE_RECORDS, 0, Header::Plain, &body)
}

/// Fetch v4 of one partition: long poll of `wait_ms`, at most `max_bytes`.
#[must_use]
pub fn fetch(topic: &str, partition: i32, offset: i64, wait_ms: i32, max_bytes: i32) -> Vec<u8> {
    let mut body = (-1i32).to_be_bytes().to_vec();
    body.extend(wait_ms.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend(max_bytes.to_be_bytes());
    body.push(0);
    body.extend(1i32.to_be_bytes());
    put_string(&mut body, topic);
    body.extend(1i32.to_be_bytes());
    body.extend(partition.to_be_bytes());
    body.extend(offset.to_be_bytes());
    body.extend(max_bytes.to_be_bytes());
    frame(api::FETCH, 4, Header::Plain, &body)
}

/// What [`fetch`] brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Kafka error code of the partition.
    pub error: i16,
    /// High watermark.
    pub high_watermark: i64,
    /// Whole record batches.
    pub batches: Vec<FetchedBatch>,
}

/// One record batch as it came, and what its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedBatch {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Codec in its attributes: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub codec: u8,
    /// All of its bytes.
    pub bytes: Vec<u8>,
}

/// Reads the answer to [`fetch`]; `None` when it is not what Fetch v4 answers.
#[must_use]
pub fn fetched(answer: &[u8]) -> Option<Fetched> {
    let mut reader = Reader::new(answer);
    reader.take(4 + 4 + 4)?;
    let name = usize::try_from(reader.i16()?).ok()?;
    reader.take(name + 4 + 4)?;
    let error = reader.i16()?;
    let high_watermark = reader.i64()?;
    reader.take(8)?;
    let aborted = usize::try_from(reader.i32()?).unwrap_or(0);
    reader.take(aborted * 16)?;
    let length = usize::try_from(reader.i32()?).unwrap_or(0);
    let records = reader.take(length)?;
    let own = |batch: &BatchRef<'_>| FetchedBatch {
        base_offset: batch.base_offset,
        last_offset: batch.last_offset,
        codec: batch.codec,
        bytes: batch.bytes.to_vec(),
    };
    Some(Fetched {
        error,
        high_watermark,
        batches: batches(records)?.iter().map(own).collect(),
    })
}

/// One record batch where it lies in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRef<'a> {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Codec in its attributes.
    pub codec: u8,
    /// All of its bytes.
    pub bytes: &'a [u8],
}

/// Splits a record section into batches; a cut-off last one is left out, as clients must. `None` for what is no such section.
#[must_use]
pub fn batches(mut records: &[u8]) -> Option<Vec<BatchRef<'_>>> {
    let mut found = Vec::new();
    while records.len() >= BATCH_HEADER_BYTES {
        let mut reader = Reader::new(records);
        let base_offset = reader.i64()?;
        let length = 12 + usize::try_from(reader.i32()?).ok()?;
        let Some((bytes, rest)) = records.split_at_checked(length) else {
            break;
        };
        let last = Reader::new(bytes.get(23..)?).i32()?;
        found.push(BatchRef {
            base_offset,
            last_offset: base_offset + i64::from(last),
            codec: bytes.get(22)? & 7,
            bytes,
        });
        records = rest;
    }
    Some(found)
}

/// Reads what answers are made of off the front of one; `None` where it ends too early.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `answer`.
    #[must_use]
    pub fn new(answer: &'a [u8]) -> Reader<'a> {
        Reader { rest: answer }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Two bytes, big-endian.
    pub fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// An unsigned varint.
    pub fn unsigned(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(number);
            }
        }
        None
    }

    /// Passes over a compact text, or none.
    pub fn skip_text(&mut self) -> Option<()> {
        let length = self.unsigned()?.saturating_sub(1);
        self.take(usize::try_from(length).ok()?).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_states_its_length_and_records() {
        let bytes = batch(&[(b"k", b"v"), (b"", b"w")], 5);
        let split = batches(&bytes).unwrap();
        assert_eq!(split.len(), 1);
        assert_eq!(
            (split[0].base_offset, split[0].last_offset, split[0].codec),
            (0, 1, 0)
        );
        assert_eq!(split[0].bytes, bytes);
    }

    #[test]
    fn cut_off_last_batch_is_left_out() {
        let mut bytes = batch(&[(b"k", b"v")], 5);
        let whole = bytes.clone();
        bytes.extend(&whole[..whole.len() - 1]);
        assert_eq!(batches(&bytes).unwrap().len(), 1);
    }
}
