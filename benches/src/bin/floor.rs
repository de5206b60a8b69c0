//! What the machine can do at least: `floor produce HOST:PORT FILE` receives Produce requests as `produce` sends them, checks
//! the CRC-32C of their batches, writes them once with direct I/O and answers; nothing else. `floor sync FILE [seconds]` writes a block
//! with direct I/O and syncs it, again and again, over a file that was written before.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
/// Bytes of the file, written around and around.
const FILE_BYTES: u64 = 256 << 20;
/// Largest request.
const FRAME_BYTES_MAX: usize = 2 << 20;
/// Bytes of a batch before what its CRC covers.
const CRC_START: usize = 21;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["produce", address, file] => produce(address, file),
        ["sync", file] => sync(file, 5.0),
        ["sync", file, seconds] => sync(file, seconds.parse().unwrap_or(5.0)),
        _ => Err(io::Error::other(
            "usage: floor produce HOST:PORT FILE | floor sync FILE [SECONDS]",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A file for direct I/O, every block of it written before.
fn prepared(path: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let mut memory = vec![0_u8; (1 << 20) + BLOCK];
    let zeros = aligned(&mut memory);
    let mut at = 0;
    while at < FILE_BYTES {
        file.write_all_at(&zeros[..1 << 20], at)?;
        at += 1 << 20;
    }
    file.sync_all()?;
    Ok(file)
}

/// The part of `memory` from its first whole block on.
fn aligned(memory: &mut [u8]) -> &mut [u8] {
    let skip = memory.as_ptr().align_offset(BLOCK);
    &mut memory[skip..]
}

fn produce(address: &str, path: &str) -> io::Result<()> {
    let file = Arc::new(prepared(path)?);
    let position = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind(address)?;
    for stream in listener.incoming() {
        let (stream, file, position) = (stream?, file.clone(), position.clone());
        std::thread::spawn(move || serve(stream, &file, &position));
    }
    Ok(())
}

/// Serves one connection to its end.
fn serve(mut stream: TcpStream, file: &File, position: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut memory = vec![0_u8; FRAME_BYTES_MAX + 2 * BLOCK];
    let buffer = aligned(&mut memory);
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        let frame = buffer
            .get_mut(..length)
            .ok_or_else(|| io::Error::other("a request is too large"))?;
        stream.read_exact(frame)?;
        let (topic, batch) = parts(frame).ok_or_else(|| io::Error::other("not Produce v9"))?;
        let crc = batch.get(17..CRC_START).and_then(|crc| crc.try_into().ok());
        let sound = crc.map(u32::from_be_bytes) == Some(crc32c::crc32c(&batch[CRC_START..]));
        if !sound {
            return Err(io::Error::other("a batch fails its CRC"));
        }
        let answer = answer(topic);
        let blocks = length.next_multiple_of(BLOCK);
        let mut at = position.fetch_add(blocks as u64, Ordering::Relaxed) % FILE_BYTES;
        if at + blocks as u64 > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&buffer[..blocks], at)?;
        stream.write_all(&answer)?;
    }
}

/// Topic and batch of a Produce request (version 9) for one partition.
fn parts(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let client = u16::from_be_bytes(frame.get(8..10)?.try_into().ok()?) as usize;
    // Client id, tags, transactional id (null), acks, timeout, number of topics.
    let at = 10 + client + 1 + 1 + 2 + 4 + 1;
    let name = *frame.get(at)? as usize - 1;
    let topic = frame.get(at + 1..at + 1 + name)?;
    // Number of partitions, partition, then the batch's length as a varint.
    let mut at = at + 1 + name + 1 + 4;
    while frame.get(at)? & 0x80 != 0 {
        at += 1;
    }
    frame
        .get(at + 1..frame.len() - 3)
        .map(|batch| (topic, batch))
}

/// "Taken, at offset 0": the answer to [`parts`]'s request.
fn answer(topic: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 7, 0, 2, topic.len() as u8 + 1];
    body.extend(topic);
    body.push(2);
    body.extend([0; 4 + 2 + 8 + 8 + 8]);
    body.extend([1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut framed = (body.len() as u32).to_be_bytes().to_vec();
    framed.extend(body);
    framed
}

fn sync(path: &str, seconds: f64) -> io::Result<()> {
    let file = prepared(path)?;
    let mut memory = vec![1_u8; 2 * BLOCK];
    let block = &aligned(&mut memory)[..BLOCK];
    let (began, mut samples) = (Instant::now(), Vec::new());
    let mut at = 0;
    while began.elapsed() < Duration::from_secs_f64(seconds) {
        let start = Instant::now();
        file.write_all_at(block, at)?;
        file.sync_data()?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        at = (at + BLOCK as u64) % FILE_BYTES;
    }
    std::fs::remove_file(path)?;
    let rate = samples.len() as f64 / began.elapsed().as_secs_f64();
    let p50 = tidemill_benches::stats::percentile(&mut samples, 50.0);
    let p99 = tidemill_benches::stats::percentile(&mut samples, 99.0);
    println!("{rate:.0} synced writes/s, p50 {p50:.3} ms, p99 {p99:.3} ms");
    println!(
        "{}",
        serde_json::json!({"syncs_per_s": rate, "p50_ms": p50, "p99_ms": p99})
    );
    Ok(())
}
