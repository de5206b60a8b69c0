//! The SDK, natively.

use super::*;
use crate::{NewRecord, Result};

fn forward(record: Record<'_>, output: &mut Output<'_>) -> Result<()> {
    output.forward(&record)
}

#[test]
fn forwarded_record_keeps_key_value_repeated_headers_and_timestamp() {
    let input = [
        TestRecord::new()
            .key("k")
            .value("v")
            .header("a", "1")
            .header("a", "2")
            .null_header("b")
            .timestamp(7),
        TestRecord::new().timestamp(-3),
        TestRecord::new()
            .key("")
            .value(vec![b'x'; 300])
            .timestamp(1_700_000_000_000),
    ];
    assert_eq!(run(forward, input.clone()).records(), input);
}

#[test]
fn new_record_takes_the_timestamp_of_its_input() {
    let ran = run(
        |_, output| {
            output.write(NewRecord::new().key("a").value_parts(&[b"b", b"", b"c"]))?;
            output.write(
                NewRecord::new()
                    .timestamp(1)
                    .header("h", "x")
                    .null_header("n"),
            )
        },
        [TestRecord::new().header("lost", "x").timestamp(5)],
    );
    // Of two placements: those of one stand together.
    let expected = [
        TestRecord::new()
            .timestamp(1)
            .header("h", "x")
            .null_header("n"),
        TestRecord::new()
            .key("a")
            .value("bc")
            .timestamp(5)
            .placed(Placement::ByKey),
    ];
    assert_eq!(ran.records(), expected);
}

#[test]
fn refused_record_leaves_nothing_behind_even_across_sections() {
    let big = vec![b'x'; 500 * 1024];
    let ran = run_with_outputs(
        |record, output| {
            for _ in 0..record.timestamp() {
                output.forward(&record)?;
                output.to("b")?.forward(&record)?;
            }
            if record.key().is_some() {
                Err("keyed".into())
            } else {
                Ok(())
            }
        },
        &["a", "b"],
        [
            TestRecord::new().value(&big).timestamp(1),
            TestRecord::new().key("k").value(&big).timestamp(5),
            TestRecord::new().value("small").timestamp(1),
        ],
    );
    assert_eq!(ran.failures(), [(1, "keyed".to_owned())]);
    for topic in ["a", "b"] {
        let lengths: Vec<usize> = ran
            .topic(topic)
            .iter()
            .map(|r| r.value_str().unwrap().len())
            .collect();
        assert_eq!(lengths, [big.len(), 5]);
    }
}

#[test]
fn unknown_output_is_an_error_that_names_the_known() {
    let ran = run(
        |_, output| output.to("nowhere").map(drop),
        [TestRecord::new()],
    );
    assert!(
        ran.failures()[0]
            .1
            .contains("\"nowhere\" is not an output of this transform, which has: output")
    );
}

#[test]
fn timestamps_too_far_apart_for_one_section_begin_another() {
    let mut input = Vec::new();
    for (place, timestamp) in [i64::MIN, i64::MAX, 0, -1].into_iter().enumerate() {
        let record = TestRecord::new();
        Layout::new(&record.as_new(), timestamp, place as u32).put(&mut input, &record.as_new());
    }
    let mut sections = Vec::new();
    let mut native = Native::new(&["a"]).unwrap();
    let done = native.process(
        forward,
        [(0, 0, 4, &input[..])],
        |_, base, max, count, _| {
            sections.push((base, max, count));
        },
    );
    assert_eq!(done, Ok(0));
    // As the broker reads them: no difference to the base overflows.
    assert_eq!(sections, [(i64::MIN, i64::MIN, 1), (i64::MAX, i64::MAX, 3)]);
}

#[test]
fn sections_stay_below_their_bound() {
    let mut output = Outputs::new(["a"]).unwrap();
    let value = vec![0; 100_000];
    let mut input = Vec::new();
    let record = NewRecord::new().value(&value);
    (0..30).for_each(|n| Layout::new(&record, 0, n).put(&mut input, &record));
    let batch = InputSection {
        partition: 0,
        base_offset: 0,
        base_timestamp: 0,
        record_count: 30,
        records: &input,
    };
    output.run(forward, [batch].into_iter()).unwrap();
    let sections = output.take();
    assert_eq!(
        sections.iter().map(|(_, s)| s.record_count).sum::<u32>(),
        30
    );
    assert!(sections.iter().all(|(_, s)| s.records.len() <= 900 * 1024));
    assert!(sections.len() >= 4);
}

#[test]
fn damaged_input_is_refused_wherever_it_is_cut() {
    let mut input = Vec::new();
    let record = NewRecord::new().key("key").value("value").header("h", "x");
    Layout::new(&record, 1, 0).put(&mut input, &record);
    for cut in 0..input.len() {
        let mut output = Outputs::new(["a"]).unwrap();
        let batch = InputSection {
            partition: 0,
            base_offset: 0,
            base_timestamp: 0,
            record_count: 1,
            records: &input[..cut],
        };
        assert!(
            output.run(forward, [batch].into_iter()).is_err(),
            "cut at {cut}"
        );
    }
}

#[test]
fn contract_in_the_crate_is_the_one_of_the_repository() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let original = here.join("../../wit");
    // Only in the repository: the crate also travels alone.
    for entry in std::fs::read_dir(original).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.path().extension().is_none_or(|e| e != "wit") {
            continue;
        }
        let copy = std::fs::read_to_string(here.join("wit").join(entry.file_name())).unwrap();
        assert_eq!(
            std::fs::read_to_string(entry.path()).unwrap(),
            copy,
            "copy wit/ into transform-sdk/rust/wit/"
        );
    }
}

#[test]
fn made_bindings_are_of_this_contract() {
    let wit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
    let mut files: Vec<_> = std::fs::read_dir(wit)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    // FNV-1a, 64 bits (draft-eastlake-fnv).
    let mut fingerprint = 0xcbf2_9ce4_8422_2325_u64;
    for byte in files.iter().flat_map(|file| std::fs::read(file).unwrap()) {
        fingerprint = (fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let bindings = include_str!("../guest/bindings.rs");
    assert!(
        bindings.contains(&format!("//! `wit {fingerprint:016x}`")),
        "wit/ has changed: make src/guest/bindings.rs anew, as it says there; its line is now `wit {fingerprint:016x}`"
    );
}

#[test]
fn changed_key_goes_by_key_and_an_equal_one_stays() {
    let ran = run_in_partition(
        |record, output| {
            assert_eq!(record.partition(), 5);
            output.forward(&record)?;
            output.write(record.edit().key("b"))?;
            output.write(record.edit().key(&b"a".to_vec()))?;
            output.write(record.edit().no_key())?;
            output.write(record.edit().by_key())?;
            output.write(record.edit().key("b").partition(9))
        },
        5,
        &["out"],
        [TestRecord::new().key("a")],
    );
    let (a, b) = (TestRecord::new().key("a"), TestRecord::new().key("b"));
    let mut expected = vec![
        a.clone(),
        b.clone().placed(Placement::ByKey),
        a.clone(),
        TestRecord::new().placed(Placement::ByKey),
        a.placed(Placement::ByKey),
        b.placed(Placement::Partition(9)),
    ];
    expected.sort_by_key(order);
    let mut written = ran.records().to_vec();
    written.sort_by_key(order);
    assert_eq!(written, expected);
}

fn order(record: &TestRecord) -> u64 {
    match record.placement() {
        Placement::ByInput => 0,
        Placement::ByKey => 1,
        Placement::Partition(n) => 2 + u64::from(n),
    }
}

#[test]
fn refused_record_leaves_nothing_behind_in_any_placement() {
    // So many placements that all sections are closed in the middle of a record, and values so large that they also fill.
    let value = vec![b'x'; 200 * 1024];
    let input = (0..40).map(|n| {
        let record = TestRecord::new().timestamp(n).value(&value);
        if n % 3 == 0 {
            record.key("bad")
        } else {
            record
        }
    });
    let ran = run(
        |record, output| {
            let n = record.timestamp() as u32;
            for place in 0..5 {
                output.write(record.edit().no_key().partition((n * 7 + place) % 97))?;
                output.write(record.edit().no_key().no_value().partition(3))?;
            }
            match record.key() {
                Some(_) => Err("bad".into()),
                None => Ok(()),
            }
        },
        input,
    );
    assert_eq!(ran.failures().len(), 14);
    let mut written: Vec<(u64, i64)> = ran
        .records()
        .iter()
        .map(|r| (order(r), r.timestamp))
        .collect();
    let good = (0..40).filter(|n| n % 3 != 0);
    let mut expected: Vec<(u64, i64)> = good
        .flat_map(|n| (0..5).flat_map(move |p| [(2 + (n as u64 * 7 + p) % 97, n), (5, n)]))
        .collect();
    // Stable: order within a placement must be right already.
    written.sort_by_key(|(place, _)| *place);
    expected.sort_by_key(|(place, _)| *place);
    assert_eq!(written, expected);
}

#[test]
fn open_sections_are_bounded() {
    let mut output = Outputs::new(["a"]).unwrap();
    let mut input = Vec::new();
    let record = NewRecord::new();
    (0..1000).for_each(|n| Layout::new(&record, 0, n).put(&mut input, &record));
    let batch = InputSection {
        partition: 0,
        base_offset: 0,
        base_timestamp: 0,
        record_count: 1000,
        records: &input,
    };
    let place = |record: Record<'_>, output: &mut Output<'_>| {
        output.write(record.edit().partition(record.offset() as u32 % 100))
    };
    output.run(place, [batch].into_iter()).unwrap();
    let sections = output.take();
    assert_eq!(
        sections.iter().map(|(_, s)| s.record_count).sum::<u32>(),
        1000
    );
    // 64 placements at a time.
    assert_eq!(sections.len(), 1000);
}
