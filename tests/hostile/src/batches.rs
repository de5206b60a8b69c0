//! Record batches as producers send them, and record sections as guests return them.

use bytes::Bytes;
use tidemill_model::BatchHeader;
use tidemill_model::batch::{CRC_START, Compression, HEADER_BYTES};
use tidemill_model::compression::{CompressionError, compress, decompress};
use tidemill_model::record::{
    BatchBuilder, NewRecord, Producer, Records, batch_from_section, check_section, split_section,
};

use crate::Target;
use crate::alloc::within;

/// What a batch may become uncompressed here, in bytes. The broker's own limit is larger and used in the same way.
const PLAIN_BYTES_MAX: usize = 1 << 20;
/// Memory that unpacking may take for each byte of that limit: a vector that doubles while the old one still stands.
const PLAIN_FACTOR: usize = 3;
/// What codecs take for themselves, in bytes: lz4 frames have blocks of up to 8 MiB, for input and for output.
const CODEC_BYTES: usize = 24 << 20;
/// Memory for the pieces that a section is cut into, for each byte of it: a record of seven bytes may become a batch
/// of its own.
const SECTION_FACTOR: usize = 40;
const SECTION_BYTES: usize = 4 << 10;

pub(crate) const BATCH: Target = Target {
    name: "batch",
    run: run_batch,
    seeds: batch_seeds,
};

fn run_batch(input: &[u8]) {
    within("a batch's header", SECTION_BYTES, || {
        let _ = BatchHeader::validate(input);
    });
    let Some(batch) = mended(input) else { return };
    let Ok(header) = within("a batch's header", SECTION_BYTES, || {
        BatchHeader::validate(&batch)
    }) else {
        return;
    };
    let codec = header
        .compression()
        .expect("a valid batch names its compression");
    let section = &batch[HEADER_BYTES..];
    let allowed = PLAIN_FACTOR * PLAIN_BYTES_MAX + CODEC_BYTES;
    let plain = within("decompressing", allowed, || {
        decompress(codec, section, PLAIN_BYTES_MAX)
    });
    match plain {
        Ok(plain) => {
            assert!(plain.len() <= PLAIN_BYTES_MAX);
            within("walking records", SECTION_BYTES, || {
                walk_records(&plain, header.record_count)
            });
        }
        Err(CompressionError::TooLarge { .. } | CompressionError::Corrupt { .. }) => {}
    }
}

/// The batch with length and checksum as they should be: what only fails there needs no further test.
fn mended(input: &[u8]) -> Option<Vec<u8>> {
    if input.len() < HEADER_BYTES {
        return None;
    }
    let mut batch = input.to_vec();
    batch[8..12].copy_from_slice(&((input.len() - 12) as u32).to_be_bytes());
    batch[16] = 2;
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Some(batch)
}

fn walk_records(section: &[u8], count: i32) {
    let mut seen = 0;
    for record in Records::new(section, count) {
        let Ok(record) = record else { break };
        seen += 1;
        let parts = [record.key, record.value];
        let bytes: usize = parts.iter().flatten().map(|p| p.len()).sum();
        assert!(bytes <= section.len());
        for header in record.headers {
            if header.is_err() {
                break;
            }
        }
    }
    assert!(seen <= count.max(0));
}

fn builder(records: usize) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for n in 0..records {
        builder.append(NewRecord {
            timestamp: 1_000 + n as i64,
            key: (n % 2 == 0).then_some(b"key"),
            value: Some(b"a value of some bytes"),
            headers: &[(b"name", Some(b"value")), (b"none", None)],
        });
    }
    builder
}

/// A batch of two records.
pub(crate) fn plain() -> Bytes {
    builder(2).build()
}

/// A batch of one record with this value.
pub(crate) fn of_one(value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new();
    builder.append(NewRecord {
        timestamp: 1,
        key: None,
        value: Some(value),
        headers: &[],
    });
    builder.build()
}

/// Thousands of zeros in few bytes, as a batch says it.
fn bomb(codec: Compression, attributes: u8) -> Vec<u8> {
    let packed = compress(codec, &vec![0; 2 * PLAIN_BYTES_MAX]).expect("zeros are packed");
    let mut batch = builder(1).build()[..HEADER_BYTES].to_vec();
    batch[22] = attributes;
    batch.extend(packed);
    batch
}

fn batch_seeds() -> Vec<Vec<u8>> {
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    let mut seeds = Vec::new();
    for (attributes, codec) in (0u8..).zip(codecs) {
        let batch = builder(3).build_compressed(codec);
        seeds.push(batch.expect("every codec packs").to_vec());
        if codec != Compression::None {
            seeds.push(bomb(codec, attributes));
        }
    }
    let producer = Producer {
        id: 7,
        epoch: 1,
        base_sequence: 3,
    };
    seeds.push(builder(1).producer(producer).build().to_vec());
    // Snappy without the framing of Java's library.
    let mut raw = builder(1).build()[..HEADER_BYTES].to_vec();
    raw[22] = 2;
    raw.extend([5, 16, b'h', b'e', b'l', b'l', b'o']);
    seeds.push(raw);
    seeds
}

pub(crate) const SECTION: Target = Target {
    name: "section",
    run: run_section,
    seeds: section_seeds,
};

/// Count (two bytes), largest batch (two bytes), then a section as a guest returns it.
fn run_section(input: &[u8]) {
    let Some((head, section)) = input.split_first_chunk::<4>() else {
        return;
    };
    let count = i32::from(u16::from_be_bytes([head[0], head[1]]));
    let max_bytes = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let checked = within("checking a section", SECTION_BYTES, || {
        check_section(section, count)
    });
    let Ok(info) = checked else {
        within("walking records", SECTION_BYTES, || {
            walk_records(section, count)
        });
        return;
    };
    let batch = batch_from_section(section, count, 0, info.max_timestamp_delta);
    BatchHeader::validate(&batch).expect("a checked section makes a valid batch");
    let allowed = SECTION_FACTOR * section.len() + SECTION_BYTES;
    let parts = within("cutting a section", allowed, || {
        split_section(section, count, 0, max_bytes)
    });
    let Ok(parts) = parts else { return };
    let mut records = 0;
    for part in &parts {
        let header = BatchHeader::validate(part).expect("a piece is a valid batch");
        assert!(part.len() <= max_bytes);
        check_section(&part[HEADER_BYTES..], header.record_count).expect("a piece is as strict");
        records += header.record_count;
    }
    assert_eq!(records, count, "cutting loses and doubles nothing");
}

fn section_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (records, max) in [(1u16, 1_000u16), (9, 120), (40, 300), (3, 65_535)] {
        let section = &builder(usize::from(records)).build()[HEADER_BYTES..];
        let mut seed = records.to_be_bytes().to_vec();
        seed.extend(max.to_be_bytes());
        seed.extend(section);
        seeds.push(seed);
    }
    seeds
}
