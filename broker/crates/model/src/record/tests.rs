//! Records made, read back, damaged.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::batch::{BatchHeader, Compression, HEADER_BYTES, RECORD_BYTES_MIN};
use crate::compression::decompress;

type Header = (Vec<u8>, Option<Vec<u8>>);
#[derive(Debug, Clone, PartialEq)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<Header>,
}

fn blob(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

fn record() -> impl Strategy<Value = Owned> {
    let headers = vec((blob(8), option::of(blob(8))), 0..4);
    (
        0..1_i64 << 50,
        option::of(blob(20)),
        option::of(blob(300)),
        headers,
    )
        .prop_map(|(timestamp, key, value, headers)| Owned {
            timestamp,
            key,
            value,
            headers,
        })
}

fn build(records: &[Owned]) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for r in records {
        let headers: Vec<_> = r
            .headers
            .iter()
            .map(|(k, v)| (&k[..], v.as_deref()))
            .collect();
        let new = NewRecord {
            timestamp: r.timestamp,
            key: r.key.as_deref(),
            value: r.value.as_deref(),
            headers: &headers,
        };
        builder.append(new);
    }
    builder
}

fn read(batch: &[u8]) -> Vec<Owned> {
    let header = BatchHeader::validate(batch).unwrap();
    let section = decompress(
        header.compression().unwrap(),
        &batch[HEADER_BYTES..],
        1 << 24,
    )
    .unwrap();
    let info = check_section(&section, header.record_count).unwrap();
    assert_eq!(
        header.base_timestamp + info.max_timestamp_delta,
        header.max_timestamp
    );
    let owned = |r: RecordRef<'_>| Owned {
        timestamp: header.base_timestamp + r.timestamp_delta,
        key: r.key.map(<[u8]>::to_vec),
        value: r.value.map(<[u8]>::to_vec),
        headers: r
            .headers
            .map(|h| h.map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec))).unwrap())
            .collect(),
    };
    Records::new(&section, header.record_count)
        .map(|r| owned(r.unwrap()))
        .collect()
}

#[test]
fn a_producer_without_sequence_is_refused_but_a_marker_is_not() {
    let producer = Producer {
        id: 7,
        epoch: 0,
        base_sequence: -1,
    };
    let batch = |attributes| {
        let mut b = BatchBuilder::new()
            .producer(producer)
            .attributes(attributes);
        b.append(NewRecord::default());
        b.build()
    };
    assert!(matches!(
        BatchHeader::validate(&batch(0)),
        Err(BatchError::Producer { .. })
    ));
    assert!(BatchHeader::validate(&batch(0x30)).unwrap().is_control());
}

#[test]
fn split_names_the_record_that_is_too_large() {
    let records: Vec<_> = [10, 500, 10]
        .map(|n| Owned {
            timestamp: 5,
            key: None,
            value: Some(vec![1; n]),
            headers: vec![],
        })
        .into();
    let batch = build(&records).build();
    let split = split_section(&batch[HEADER_BYTES..], 3, 5, 300);
    assert!(
        matches!(
            split,
            Err(SplitError::RecordTooLarge {
                index: 1,
                max_bytes: 300,
                ..
            })
        ),
        "{split:?}"
    );
}

#[test]
fn append_time_is_set_and_the_crc_holds() {
    let batch = build(&[Owned {
        timestamp: 5,
        key: None,
        value: None,
        headers: vec![],
    }])
    .build();
    let header = BatchHeader::validate(&set_log_append_time(&batch, 99)).unwrap();
    assert!(header.is_log_append_time());
    assert_eq!((header.max_timestamp, header.base_timestamp), (99, 5));
}

#[test]
fn false_counts_and_lengths_are_refused() {
    let batch = build(&[Owned {
        timestamp: 5,
        key: None,
        value: None,
        headers: vec![],
    }])
    .build();
    let section = &batch[HEADER_BYTES..];
    assert!(check_section(section, 0).is_err());
    assert!(check_section(section, -1).is_err());
    assert!(check_section(section, 2).is_err());
    assert!(check_section(section, i32::MAX).is_err());
    assert!(Records::new(section, -5).next().unwrap().is_err());
    let two = [section, section].concat();
    assert!(check_section(&two, 2).is_err(), "both records have delta 0");
    assert!(check_section(&two, 1).is_err(), "bytes follow");
}

proptest! {
    #[test]
    fn batches_round_trip_with_every_codec(records in vec(record(), 1..20)) {
        for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let batch = build(&records).build_compressed(codec).unwrap();
            prop_assert_eq!(&read(&batch), &records);
        }
    }

    #[test]
    fn split_keeps_every_record_in_order_and_the_limit(records in vec(record(), 1..30), max in 500usize..3000) {
        let batch = build(&records).build();
        let header = BatchHeader::parse(&batch).unwrap();
        let parts = split_section(&batch[HEADER_BYTES..], header.record_count, header.base_timestamp, max).unwrap();
        prop_assert!(parts.iter().all(|p| p.len() <= max));
        let again: Vec<_> = parts.iter().flat_map(|p| read(p)).collect();
        prop_assert_eq!(again, records);
    }

    #[test]
    fn rubbish_never_panics(data in blob(300), count in -3i32..40) {
        let _ = check_section(&data, count);
        let _ = BatchHeader::validate(&data);
        let _ = split_section(&data, count, i64::MAX, 400);
        for record in Records::new(&data, count).flatten() {
            let _ = record.headers.count();
        }
    }

    #[test]
    fn a_damaged_section_never_panics(records in vec(record(), 1..6), at: usize, xor: u8) {
        let batch = build(&records).build();
        let mut section = batch[HEADER_BYTES..].to_vec();
        let at = at % section.len();
        section[at] ^= xor;
        if check_section(&section, records.len() as i32).is_ok() {
            prop_assert!(Records::new(&section, records.len() as i32).all(|r| r.is_ok()));
        }
        prop_assert!(check_section(&section[..at], records.len() as i32).is_err());
    }
}

#[test]
fn batch_that_says_more_records_than_its_bytes_can_hold_is_refused() {
    let claiming = |attributes: i16, count: i32| {
        let mut batch = build(&[Owned {
            timestamp: 5,
            key: None,
            value: Some(vec![1; 100]),
            headers: vec![],
        }])
        .build()
        .to_vec();
        batch[21..23].copy_from_slice(&attributes.to_be_bytes());
        batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        BatchHeader::validate(&batch).map(|h| h.record_count)
    };
    let most = 108 / RECORD_BYTES_MIN as i32;
    assert_eq!(claiming(0, most), Ok(most));
    let refused = |count| Err(BatchError::TooMany { count });
    assert_eq!(claiming(0, most + 1), refused(most + 1));
    assert_eq!(claiming(0, i32::MAX), refused(i32::MAX));
    let zstd = 4;
    assert_eq!(claiming(zstd, 1_000_000), Ok(1_000_000));
    assert_eq!(claiming(zstd, i32::MAX), refused(i32::MAX));
}
