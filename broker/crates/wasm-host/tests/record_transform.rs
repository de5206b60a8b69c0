//! The world `record-transform` through a component written by hand, since no SDK is made for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use tidemill_model::record::{BatchBuilder, NewRecord, Records};
use tidemill_wasm_host::{
    CallError, CallOutput, Destination, Factory, HostConfig, InputBatch, Limits, LocalRunner,
    OutputTopic, guest_env,
};

/// Much time, for a machine that is busy otherwise.
const LIMITS: Limits = Limits {
    time_ms: 20_000,
    memory_bytes: 64 << 20,
};
const TIMESTAMP: i64 = 1_700_000_000_000;

fn runner() -> LocalRunner {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/guests/record-transform.wat");
    let wasm = wat::parse_file(file).unwrap();
    let module = Factory::new(HostConfig::default())
        .load_here(&wasm)
        .unwrap();
    let env = guest_env("t", "in", &["out".into(), "other".into()], &[]);
    let topic = OutputTopic {
        partitions: Some(3),
        ..OutputTopic::of_max_bytes(1 << 21)
    };
    LocalRunner::new(&module, env, LIMITS, vec![topic; 2]).unwrap()
}

/// A batch of these values from `base_offset` on, each record a ms after the one before it, with the key `k` and a header.
fn batch(base_offset: i64, values: &[Option<&str>]) -> InputBatch {
    let mut builder = BatchBuilder::new();
    for (n, value) in (0..).zip(values) {
        builder.append(NewRecord {
            timestamp: TIMESTAMP + n,
            key: Some(b"k"),
            value: value.map(str::as_bytes),
            headers: &[(b"trace", Some(b"7")), (b"empty", None)],
        });
    }
    let (section, count, base_timestamp, _) = builder.into_section();
    InputBatch {
        base_offset,
        base_timestamp,
        record_count: count as u32,
        records: section.into(),
    }
}

fn call(runner: &mut LocalRunner, values: &[&str]) -> Result<CallOutput, CallError> {
    let values: Vec<Option<&str>> = values.iter().copied().map(Some).collect();
    runner.call(0, &[batch(100, &values)])
}

/// Value and timestamp, counted from the first record's, of what went to `to` of an output. Key and headers are as they were.
fn records(output: &CallOutput, index: u32, to: Destination) -> Vec<(Option<String>, i64)> {
    let mut all = Vec::new();
    let batches = output.outputs.iter();
    for made in batches.filter(|b| b.output == index && b.to == to) {
        let header = tidemill_model::BatchHeader::validate(&made.batch).unwrap();
        for record in Records::new(&made.batch[61..], header.record_count) {
            let record = record.unwrap();
            assert_eq!(record.key, Some(&b"k"[..]));
            let headers: Vec<_> = record.headers.map(Result::unwrap).collect();
            assert_eq!(
                headers,
                [(&b"trace"[..], Some(&b"7"[..])), (b"empty", None)]
            );
            let value = record.value.map(|v| String::from_utf8(v.to_vec()).unwrap());
            let timestamp = header.base_timestamp + record.timestamp_delta - TIMESTAMP;
            all.push((value, timestamp));
        }
    }
    all
}

fn record(value: &str, timestamp: i64) -> (Option<String>, i64) {
    (Some(value.to_owned()), timestamp)
}

#[test]
fn records_go_on_in_their_order_with_all_their_parts_to_where_the_module_places_them() {
    let values = ["a", "other", "b", "key", "partition", "c"].map(Some);
    let batches = [batch(100, &values), batch(300, &[None, Some("")])];
    let output = runner().call(0, &batches).unwrap();
    assert_eq!(output.failures, []);
    let by_input = [
        record("a", 1),
        record("b", 3),
        record("c", 6),
        (None, 1),
        record("", 2),
    ];
    assert_eq!(records(&output, 0, Destination::ByInput), by_input);
    assert_eq!(
        records(&output, 1, Destination::ByInput),
        [record("other", 2)]
    );
    let key = Destination::Partition(tidemill_model::partitioner::partition_for_key(b"k", 3));
    let mut placed = records(&output, 0, key);
    if key != Destination::Partition(2) {
        placed.extend(records(&output, 0, Destination::Partition(2)));
    }
    assert_eq!(placed, [record("key", 4), record("partition", 5)]);
    let count: u32 = output.outputs.iter().map(|b| b.records).sum();
    assert_eq!(count, 8, "nothing else came out");
}

#[test]
fn records_that_fail_are_told_by_their_offset_and_the_others_go_on() {
    let batches = [
        batch(100, &[Some("a"), Some("fail"), Some("b")]),
        batch(300, &[Some("f")]),
    ];
    let output = runner().call(0, &batches).unwrap();
    let failures: Vec<_> = output
        .failures
        .iter()
        .map(|f| (f.offset, &*f.message))
        .collect();
    assert_eq!(failures, [(101, "not this one"), (300, "not this one")]);
    assert_eq!(
        records(&output, 0, Destination::ByInput),
        [record("a", 1), record("b", 3)]
    );
}

#[test]
fn trap_and_error_of_a_call_leave_nothing_of_it_and_the_next_call_works() {
    let mut runner = runner();
    let error = call(&mut runner, &["a", "trap", "b"]).unwrap_err();
    assert!(
        matches!(&error, CallError::Trap(m) if m.contains("unreachable")),
        "{error:?}"
    );
    let error = call(&mut runner, &["a", "error"]).unwrap_err();
    assert_eq!(error, CallError::Trap("not this call".into()));
    let output = call(&mut runner, &["a"]).unwrap();
    assert_eq!(records(&output, 0, Destination::ByInput), [record("a", 1)]);
}

#[test]
fn values_that_share_memory_count_as_often_as_they_are_written() {
    let mut runner = runner();
    let output = call(&mut runner, &["x"; 20]).unwrap();
    let values = records(&output, 0, Destination::ByInput);
    assert_eq!(values.len(), 20);
    assert!(
        values
            .iter()
            .all(|(v, _)| v.as_ref().unwrap().len() == 1 << 20)
    );
    // More than an outcome takes, and more than is copied out of an instance.
    for count in [40, 5_000] {
        let error = call(&mut runner, &vec!["x"; count]).unwrap_err();
        assert!(
            matches!(&error, CallError::TooMuch(m) if m.contains("in one call")),
            "{count}: {error:?}"
        );
    }
}

#[test]
fn input_that_is_no_records_ends_the_call_with_the_reason() {
    let mut damaged = batch(100, &[Some("a"), Some("b")]);
    damaged.record_count = 3;
    let error = runner().call(0, &[damaged]).unwrap_err();
    assert!(
        matches!(&error, CallError::Trap(m) if m.contains("the input cannot be read")),
        "{error:?}"
    );
}
