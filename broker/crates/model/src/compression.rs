//! Compressing and decompressing record sections. Output is bounded before it is made: a small input that claims a
//! huge output costs nothing.

use std::io::{self, Read, Write};

use crate::batch::Compression;

/// First bytes of the framing that Java's snappy library puts around blocks, which Kafka's clients expect.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Bytes of that framing before the first block: magic, version, oldest compatible version.
const XERIAL_HEADER_BYTES: usize = 16;
/// Bytes of input per block when compressing; the default of Java's library.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// No snappy element makes more than 64 bytes out of 2: a length that claims more is false.
const SNAPPY_RATIO_MAX: usize = 32;
/// Largest window (as a power of two) that zstd frames may always use: level 19 of a streaming encoder.
const ZSTD_WINDOW_LOG_MIN: u32 = 23;
/// Largest window zstd frames may use at all, the library's own default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Level used to compress with zstd, the library's default.
const ZSTD_LEVEL: i32 = 3;

/// Why bytes could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The output would be larger than allowed.
    #[error("decompressed records exceed the limit of {max_bytes} bytes")]
    TooLarge {
        /// The limit that was given.
        max_bytes: usize,
    },
    /// The input is not what its codec says.
    #[error("{codec:?} data is corrupt: {message}")]
    Corrupt {
        /// The codec.
        codec: Compression,
        /// What the codec said.
        message: String,
    },
}

/// Decompresses `input` into at most `max_bytes` bytes.
///
/// # Errors
/// [`CompressionError`]; memory taken by then is at most `max_bytes` plus the codec's window.
pub fn decompress(
    codec: Compression,
    input: &[u8],
    max_bytes: usize,
) -> Result<Vec<u8>, CompressionError> {
    let corrupt = |e: io::Error| CompressionError::Corrupt {
        codec,
        message: e.to_string(),
    };
    match codec {
        Compression::None if input.len() > max_bytes => {
            Err(CompressionError::TooLarge { max_bytes })
        }
        Compression::None => Ok(input.to_vec()),
        Compression::Gzip => {
            read_bounded(codec, flate2::read::MultiGzDecoder::new(input), max_bytes)
        }
        Compression::Snappy => decompress_snappy(input, max_bytes),
        Compression::Lz4 => {
            read_bounded(codec, lz4_flex::frame::FrameDecoder::new(input), max_bytes)
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(corrupt)?;
            let log = (usize::BITS - max_bytes.leading_zeros())
                .clamp(ZSTD_WINDOW_LOG_MIN, ZSTD_WINDOW_LOG_MAX);
            decoder.window_log_max(log).map_err(corrupt)?;
            read_bounded(codec, decoder, max_bytes)
        }
    }
}

/// Compresses `input` in the form Kafka's clients read: gzip, snappy in blocks, an lz4 frame, zstd.
///
/// # Errors
/// [`CompressionError::Corrupt`] when the codec fails, which memory alone can cause.
pub fn compress(codec: Compression, input: &[u8]) -> Result<Vec<u8>, CompressionError> {
    let failed = |message: String| CompressionError::Corrupt { codec, message };
    match codec {
        Compression::None => Ok(input.to_vec()),
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            let written = encoder.write_all(input).and_then(|()| encoder.finish());
            written.map_err(|e| failed(e.to_string()))
        }
        Compression::Snappy => compress_snappy(input),
        Compression::Lz4 => {
            let info =
                lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder
                .write_all(input)
                .map_err(|e| failed(e.to_string()))?;
            encoder.finish().map_err(|e| failed(e.to_string()))
        }
        Compression::Zstd => {
            zstd::bulk::compress(input, ZSTD_LEVEL).map_err(|e| failed(e.to_string()))
        }
    }
}

fn read_bounded(
    codec: Compression,
    reader: impl Read,
    max_bytes: usize,
) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    let limit = (max_bytes as u64).saturating_add(1);
    let read = reader.take(limit).read_to_end(&mut out);
    read.map_err(|e| CompressionError::Corrupt {
        codec,
        message: e.to_string(),
    })?;
    if out.len() > max_bytes {
        return Err(CompressionError::TooLarge { max_bytes });
    }
    Ok(out)
}

fn corrupt_snappy(message: impl ToString) -> CompressionError {
    CompressionError::Corrupt {
        codec: Compression::Snappy,
        message: message.to_string(),
    }
}

fn decompress_snappy(input: &[u8], max_bytes: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    if !input.starts_with(&XERIAL_MAGIC) {
        append_snappy_block(input, max_bytes, &mut out)?;
        return Ok(out);
    }
    let mut rest = input
        .get(XERIAL_HEADER_BYTES..)
        .ok_or_else(|| corrupt_snappy("cut in its header"))?;
    while !rest.is_empty() {
        let (len, after) = rest
            .split_first_chunk()
            .ok_or_else(|| corrupt_snappy("cut in a block's length"))?;
        let len = u32::from_be_bytes(*len) as usize;
        let (block, after) = after
            .split_at_checked(len)
            .ok_or_else(|| corrupt_snappy("cut in a block"))?;
        append_snappy_block(block, max_bytes, &mut out)?;
        rest = after;
    }
    Ok(out)
}

fn append_snappy_block(
    block: &[u8],
    max_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let len = snap::raw::decompress_len(block).map_err(corrupt_snappy)?;
    if len > max_bytes - out.len() {
        return Err(CompressionError::TooLarge { max_bytes });
    }
    if len > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(corrupt_snappy("a block claims more than snappy can hold"));
    }
    let start = out.len();
    out.resize(start + len, 0);
    snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(corrupt_snappy)?;
    Ok(())
}

fn compress_snappy(input: &[u8]) -> Result<Vec<u8>, CompressionError> {
    let mut out = XERIAL_MAGIC.to_vec();
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for piece in input.chunks(XERIAL_BLOCK_BYTES) {
        let block = encoder.compress_vec(piece).map_err(corrupt_snappy)?;
        out.extend_from_slice(&(block.len() as u32).to_be_bytes());
        out.extend_from_slice(&block);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODECS: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    #[test]
    fn bombs_stop_at_the_bound() {
        let zeros = vec![0; 8 << 20];
        for codec in CODECS {
            let packed = compress(codec, &zeros).unwrap();
            assert_eq!(
                decompress(codec, &packed, 1000),
                Err(CompressionError::TooLarge { max_bytes: 1000 })
            );
            assert_eq!(decompress(codec, &packed, zeros.len()).as_ref(), Ok(&zeros));
        }
    }

    #[test]
    fn raw_snappy_is_read_and_its_false_length_refused() {
        let packed = snap::raw::Encoder::new()
            .compress_vec(b"records records records")
            .unwrap();
        assert_eq!(
            decompress(Compression::Snappy, &packed, 100).unwrap(),
            b"records records records"
        );
        let lie = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert!(decompress(Compression::Snappy, &lie, usize::MAX).is_err());
    }

    proptest! {
        #[test]
        fn sections_round_trip(data in proptest::collection::vec(any::<u8>(), 0..100_000)) {
            for codec in CODECS {
                let packed = compress(codec, &data).unwrap();
                prop_assert_eq!(&decompress(codec, &packed, data.len()).unwrap(), &data);
            }
        }

        #[test]
        fn rubbish_never_panics_nor_passes_the_bound(mut data in proptest::collection::vec(any::<u8>(), 0..2000), at: u16) {
            for codec in CODECS {
                if let Ok(out) = decompress(codec, &data, 5000) {
                    prop_assert!(out.len() <= 5000);
                }
            }
            for codec in CODECS {
                let mut packed = compress(codec, &data).unwrap();
                let at = usize::from(at) % packed.len().max(1);
                if let Some(b) = packed.get_mut(at) { *b ^= 0x55; }
                let _ = decompress(codec, &packed, 5000);
            }
            data.clear();
        }
    }
}
