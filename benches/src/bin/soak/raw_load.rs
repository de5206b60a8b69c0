//! A producer that numbers its records, and readers that follow it: of what it wrote, of what the transform made of it, and
//! one that is slow.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill_model::BatchHeader;
use tidemill_model::batch::HEADER_BYTES;
use tidemill_model::compression::decompress;
use tidemill_model::record::Records;
use tidemill_tests::raw::{self, Connection};

use crate::Shared;

/// What the producer writes and the transform reads.
pub(crate) const INPUT: &str = "soak-raw";
/// What the transform makes of it.
pub(crate) const OUTPUT: &str = "soak-masking";
const PARTITIONS: i32 = 3;
/// Records of a batch, and the pause after each.
const BATCH_RECORDS: u64 = 20;
const BATCH_EVERY: Duration = Duration::from_millis(20);
const FETCH_BYTES: i32 = 1 << 20;
/// Bytes of the records of one batch uncompressed, at most.
const PLAIN_BYTES_MAX: usize = 16 << 20;
/// How long readers may take to reach the end once nothing more is written.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// What the slow consumer reads the first partition of.
const SLOW_TOPIC: &str = "soak-none";
/// Bytes that it takes in a second.
const SLOW_BYTES_PER_SECOND: usize = 64 << 10;
const OFFSET_OUT_OF_RANGE: i16 = 1;

/// Produces until the load ends, reading along; then both topics must hold every record once and in order.
pub(crate) fn run(shared: &Arc<Shared>) {
    let writer = {
        let shared = shared.clone();
        std::thread::spawn(move || write(&shared))
    };
    let mut readers = [Reader::new(INPUT), Reader::new(OUTPUT)];
    while shared.goes_on() {
        for reader in &mut readers {
            reader.read(shared);
        }
    }
    let Ok(written) = writer.join() else {
        return shared.problem("the raw producer panicked".to_owned());
    };
    let end = Instant::now() + DRAIN_MAX;
    for reader in &mut readers {
        while reader.numbers != written && Instant::now() < end {
            reader.read(shared);
        }
        if reader.numbers != written {
            let (topic, read) = (reader.topic, &reader.numbers);
            shared.problem(format!("{topic}: read {read:?} of {written:?} records"));
        }
    }
}

/// Records written to each partition.
fn write(shared: &Shared) -> BTreeMap<i32, u64> {
    let mut written: BTreeMap<i32, u64> = BTreeMap::new();
    let Ok(mut connection) = Connection::open(&shared.kafka) else {
        shared.problem("the raw producer cannot connect".to_owned());
        return written;
    };
    let pad = "x".repeat(100);
    for turn in 0.. {
        let began = Instant::now();
        if !shared.goes_on() {
            break;
        }
        let partition = turn % PARTITIONS;
        let first = written.get(&partition).copied().unwrap_or(0);
        let values: Vec<String> = (first..first + BATCH_RECORDS)
            .map(|n| format!("{{\"n\":{n},\"email\":\"someone@example.com\",\"pad\":\"{pad}\"}}"))
            .collect();
        let records: Vec<(&[u8], &[u8])> = values
            .iter()
            .map(|value| (&b"key"[..], value.as_bytes()))
            .collect();
        let batch = raw::batch(&records, now_ms());
        let answer = connection.call(&raw::produce(INPUT, partition, &batch));
        match answer.map(|a| raw::produced(&a, INPUT)) {
            Ok(Some((0, offset))) if offset == first as i64 => {
                written.insert(partition, first + BATCH_RECORDS);
            }
            other => {
                shared.problem(format!(
                    "producing record {first} of {partition}: {other:?}"
                ));
                break;
            }
        }
        std::thread::sleep(BATCH_EVERY.saturating_sub(began.elapsed()));
    }
    written
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_millis() as i64)
}

/// Follows a topic and checks offsets and numbers.
struct Reader {
    topic: &'static str,
    connection: Option<Connection>,
    /// Records read of each partition: the next offset, and the next number.
    numbers: BTreeMap<i32, u64>,
}

impl Reader {
    fn new(topic: &'static str) -> Reader {
        Reader {
            topic,
            connection: None,
            numbers: BTreeMap::new(),
        }
    }

    /// Reads what there is of each partition, once.
    fn read(&mut self, shared: &Shared) {
        for partition in 0..PARTITIONS {
            if let Err(reason) = self.read_partition(shared, partition) {
                shared.problem(format!("{} {partition}: {reason}", self.topic));
                self.connection = None;
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }

    fn read_partition(&mut self, shared: &Shared, partition: i32) -> Result<(), String> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(&shared.kafka).map_err(|e| e.to_string())?;
                self.connection.insert(opened)
            }
        };
        let next = self.numbers.get(&partition).copied().unwrap_or(0);
        let fetch = raw::fetch(self.topic, partition, next as i64, 50, FETCH_BYTES);
        let answer = connection.call(&fetch).map_err(|e| e.to_string())?;
        let fetched = raw::fetched(&answer).ok_or("an answer that cannot be read")?;
        if fetched.error != 0 {
            return Err(format!("error {} at {next}", fetched.error));
        }
        let mut due = next;
        for batch in fetched.batches {
            due = check(&batch.bytes, due)?;
        }
        if due > 0 {
            self.numbers.insert(partition, due);
        }
        Ok(())
    }
}

/// Checks that the records of `batch` are those from `due` on; gives the number after them.
fn check(batch: &[u8], mut due: u64) -> Result<u64, String> {
    let header = BatchHeader::validate(batch).map_err(|e| e.to_string())?;
    let codec = header.compression().map_err(|e| e.to_string())?;
    let section = decompress(codec, &batch[HEADER_BYTES..], PLAIN_BYTES_MAX);
    let section = section.map_err(|e| e.to_string())?;
    for record in Records::new(&section, header.record_count) {
        let record = record.map_err(|e| e.to_string())?;
        let offset = header.base_offset + i64::from(record.offset_delta);
        // A fetch begins with the batch that holds its offset.
        if offset < due as i64 {
            continue;
        }
        let number = number(record.value.unwrap_or_default());
        if offset != due as i64 || number != Some(due) {
            return Err(format!(
                "offset {offset} with record {number:?} where {due} belongs"
            ));
        }
        due += 1;
    }
    Ok(due)
}

/// The number in a record's value, which the transform leaves as it is.
fn number(value: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    value["n"].as_u64()
}

/// Reads one partition as slowly as a consumer may without being closed, from the start again where the broker no longer has
/// what it asks for.
pub(crate) fn read_slowly(shared: &Arc<Shared>) {
    let mut offset = 0;
    while shared.goes_on() {
        if let Some(next) = fetch_slowly(shared, offset) {
            offset = next;
        }
    }
}

fn fetch_slowly(shared: &Shared, offset: i64) -> Option<i64> {
    let mut stream = TcpStream::connect(&shared.kafka).ok()?;
    let timeout = Some(Duration::from_secs(10));
    stream.set_read_timeout(timeout).ok()?;
    stream
        .write_all(&raw::fetch(SLOW_TOPIC, 0, offset, 500, 4 << 20))
        .ok()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    for piece in answer.chunks_mut(SLOW_BYTES_PER_SECOND / 4) {
        if !shared.goes_on() {
            return None;
        }
        stream.read_exact(piece).ok()?;
        std::thread::sleep(Duration::from_millis(250));
    }
    let fetched = raw::fetched(&answer)?;
    match fetched.error {
        OFFSET_OUT_OF_RANGE => log_start(shared),
        _ => fetched.batches.last().map(|b| b.last_offset + 1),
    }
}

/// Where the partition begins that is read slowly.
fn log_start(shared: &Shared) -> Option<i64> {
    let path = format!("/v1/topics/{SLOW_TOPIC}");
    let (_, body) = crate::http::request(&shared.admin, "GET", &path, "").ok()?;
    let topic: serde_json::Value = serde_json::from_str(&body).ok()?;
    topic["partitions"][0]["log_start_offset"].as_i64()
}
