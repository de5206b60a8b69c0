//! Core modules, written as text: good ones, and one for each thing that may be wrong with one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use tidemill_model::record::{BatchBuilder, NewRecord, Records};
use tidemill_rt::runtime::{EngineChoice, block_on};
use tidemill_wasm_host::{
    CallError, CallOutput, Destination, Factory, Guest, GuestConfig, HostConfig, InputBatch,
    Limits, LocalRunner, LogLevel, Module, ModuleError, OutputTopic, TransformKey, guest_env,
};

/// Much time, for a machine that is busy otherwise.
const LIMITS: Limits = Limits {
    time_ms: 20_000,
    memory_bytes: 4 << 20,
};

/// A module with a memory of a page, room for a call at 4096, and this body of `tidemill_process`.
fn module_of(process: &str) -> String {
    format!(
        r#"(module
          (import "tidemill" "log" (func $log (param i32 i32 i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 2)
          (func (export "tidemill_contract_1"))
          (func (export "tidemill_reserve") (param i32) (result i32) (i32.const 4096))
          (func $process (export "tidemill_process") (param $size i32) (result i64) {process}))"#
    )
}

/// Answers with the first batch's records as one section for output 0, placed as `placement` says: the answer's header is written below
/// the call's records, over its own header of 36 bytes.
fn forwards(placement: i32) -> String {
    module_of(&format!(
        "(local $base i64) (local $count i32) (local $length i32)
         (local.set $base (i64.load (i32.const 4116)))
         (local.set $count (i32.load (i32.const 4124)))
         (local.set $length (i32.load (i32.const 4128)))
         (i32.store (i32.const 4088) (i32.const 0))
         (i32.store (i32.const 4092) (i32.const 1))
         (i32.store (i32.const 4096) (i32.const 0))
         (i32.store (i32.const 4100) (i32.const 0))
         (i32.store (i32.const 4104) (i32.const {placement}))
         (i64.store (i32.const 4108) (local.get $base))
         (i64.store (i32.const 4116) (local.get $base))
         (i32.store (i32.const 4124) (local.get $count))
         (i32.store (i32.const 4128) (local.get $length))
         (i64.or (i64.shl (i64.const 4088) (i64.const 32))
                 (i64.extend_i32_u (i32.add (i32.const 44) (local.get $length))))"
    ))
}

fn load(text: &str) -> Result<Module, ModuleError> {
    let wasm = wat::parse_str(text).unwrap();
    Factory::new(HostConfig::default()).load_here(&wasm)
}

fn env() -> Vec<(String, String)> {
    guest_env("t", "in", &["out".into()], &[])
}

fn topic(partitions: Option<u32>) -> Vec<OutputTopic> {
    vec![OutputTopic {
        partitions,
        ..OutputTopic::of_max_bytes(1 << 20)
    }]
}

/// Records with these keys, all at 5 ms.
fn input(keys: &[&str]) -> InputBatch {
    let mut builder = BatchBuilder::new();
    for key in keys {
        builder.append(NewRecord {
            timestamp: 5,
            key: Some(key.as_bytes()),
            value: Some(b"v"),
            ..NewRecord::default()
        });
    }
    InputBatch {
        base_offset: 100,
        base_timestamp: 5,
        record_count: keys.len() as u32,
        records: builder.build().slice(61..),
    }
}

fn run_on(text: &str, topics: Vec<OutputTopic>, keys: &[&str]) -> Result<CallOutput, CallError> {
    let mut runner = LocalRunner::new(&load(text).unwrap(), env(), LIMITS, topics).unwrap();
    runner.call(0, &[input(keys)])
}

fn run(process: &str) -> Result<CallOutput, CallError> {
    run_on(&module_of(process), topic(None), &["a"])
}

fn keys(output: &CallOutput, to: Destination) -> Vec<String> {
    let batches = output.outputs.iter().filter(|b| b.to == to);
    let mut all = Vec::new();
    for batch in batches {
        for record in Records::new(&batch.batch[61..], batch.records as i32) {
            all.push(String::from_utf8(record.unwrap().key.unwrap().to_vec()).unwrap());
        }
    }
    all
}

#[test]
fn records_go_through_a_core_module_to_the_partition_it_names() {
    for (placement, to) in [
        (-1, Destination::ByInput),
        (-2, Destination::ByKey),
        (2, Destination::Partition(2)),
    ] {
        let output = run_on(&forwards(placement), topic(None), &["a", "b"]).unwrap();
        assert_eq!(keys(&output, to), ["a", "b"], "{placement}");
    }
}

#[test]
fn records_by_key_go_where_kafkas_clients_put_them() {
    let all = ["21", "foobar", "abc", "foobar"];
    let output = run_on(&forwards(-2), topic(Some(10)), &all).unwrap();
    // murmur2 of Kafka's own test cases, without the sign bit, modulo 10.
    for (key, hash) in [("21", -973_932_308_i32), ("abc", 479_470_107)] {
        let partition = (hash & 0x7fff_ffff) % 10;
        let to = Destination::Partition(partition);
        assert!(keys(&output, to).contains(&key.to_owned()), "{key}");
    }
    let records: u32 = output.outputs.iter().map(|b| b.records).sum();
    assert_eq!(records, 4);
    let foobar = Destination::Partition((-790_332_482_i32 & 0x7fff_ffff) % 10);
    let same: Vec<_> = keys(&output, foobar);
    assert_eq!(same.iter().filter(|k| *k == "foobar").count(), 2);
}

#[test]
fn partition_that_the_output_does_not_have_is_an_error() {
    let error = run_on(&forwards(3), topic(Some(3)), &["a"]).unwrap_err();
    assert!(matches!(error, CallError::NoPartition(_)), "{error:?}");
    assert!(run_on(&forwards(2), topic(Some(3)), &["a"]).is_ok());
}

#[test]
fn output_is_compressed_where_its_topic_asks_for_it_and_it_gets_smaller() {
    let mut topics = topic(None);
    topics[0].compression = tidemill_model::batch::Compression::Zstd;
    let many = vec!["the same key"; 1_000];
    let output = run_on(&forwards(-1), topics.clone(), &many).unwrap();
    let header = tidemill_model::BatchHeader::validate(&output.outputs[0].batch).unwrap();
    assert_eq!(
        header.compression(),
        Ok(tidemill_model::batch::Compression::Zstd)
    );
    assert_eq!(header.record_count, 1_000);
    assert!(output.outputs[0].batch.len() < 2_000);
    let output = run_on(&forwards(-1), topics, &["a"]).unwrap();
    let header = tidemill_model::BatchHeader::validate(&output.outputs[0].batch).unwrap();
    assert_eq!(
        header.compression(),
        Ok(tidemill_model::batch::Compression::None)
    );
}

#[test]
fn addresses_outside_of_its_memory_are_refused() {
    for (process, what) in [
        // The last byte of the answer, the whole of it, an address that wraps around.
        (
            "(i64.or (i64.shl (i64.const 131071) (i64.const 32)) (i64.const 2))",
            "not in its memory",
        ),
        (
            "(i64.or (i64.shl (i64.const 131073) (i64.const 32)) (i64.const 0))",
            "not in its memory",
        ),
        ("(i64.const -1)", "not in its memory"),
        (
            "(i64.or (i64.shl (i64.const 8192) (i64.const 32)) (i64.const 4))",
            "ends too early",
        ),
    ] {
        let error = run(process).unwrap_err();
        assert!(
            matches!(&error, CallError::Garbage(m) if m.contains(what)),
            "{process}: {error:?}"
        );
    }
    for reserved in [131_072, -1, 131_000] {
        let text = module_of("(i64.const 0)")
            .replace("i32.const 4096)", &format!("i32.const {reserved})"));
        let error = run_on(&text, topic(None), &["a long key"; 20]).unwrap_err();
        assert!(
            matches!(&error, CallError::Garbage(m) if m.contains("reserved")),
            "{reserved}: {error:?}"
        );
    }
}

#[test]
fn answer_far_above_every_limit_is_refused() {
    // All of its memory, which is 2,000 pages, and as good as a limit that it may have.
    let text = module_of("(i64.const 131072000)")
        .replace("(export \"memory\") 2)", "(export \"memory\") 2000)");
    let limits = Limits {
        memory_bytes: 160 << 20,
        ..LIMITS
    };
    let mut runner = LocalRunner::new(&load(&text).unwrap(), env(), limits, topic(None)).unwrap();
    let error = runner.call(0, &[input(&["a"])]).unwrap_err();
    assert!(
        matches!(&error, CallError::TooMuch(m) if m.contains("131072000 bytes")),
        "{error:?}"
    );
    // More sections, all of them empty, than an outcome takes.
    let many = "(i32.store (i32.const 131072) (i32.const 0)) (i32.store (i32.const 131076) (i32.const 20000)) (i32.store (i32.const 131080) (i32.const 0))
        (i64.or (i64.shl (i64.const 131072) (i64.const 32)) (i64.const 640012))";
    let text = module_of(many).replace("(export \"memory\") 2)", "(export \"memory\") 20)");
    let error = run_on(&text, topic(None), &["a"]).unwrap_err();
    assert!(
        matches!(&error, CallError::TooMuch(m) if m.contains("20000 batches")),
        "{error:?}"
    );
}

/// Small modules that would become large: what is wrong with each, where it is found.
#[test]
fn small_modules_that_would_become_large_are_refused() {
    let good = module_of("(i64.const 0)");
    let memory = |pages: &str| {
        good.replace(
            "(export \"memory\") 2)",
            &format!("(export \"memory\") {pages})"),
        )
    };
    let beside = |what: &str| {
        good.replace(
            "(func (export \"tidemill_contract_1\"))",
            &format!("{what} (func (export \"tidemill_contract_1\"))"),
        )
    };
    let locals = "i64 ".repeat(50_001);
    for (what, text) in [
        ("memory of 4 GiB", memory("65536")),
        ("memory just above what any limit allows", memory("8193")),
        ("second memory", beside("(memory 1)")),
        ("table of 80 MB", beside("(table 10000000 funcref)")),
        (
            "table of 4 billion elements",
            beside("(table 4294967295 funcref)"),
        ),
        ("many tables", beside(&"(table 50000 funcref)".repeat(9))),
        (
            "local variables",
            beside(&format!("(func (local {locals}))")),
        ),
        (
            "parameters",
            beside(&format!("(func (param {}))", "i64 ".repeat(257))),
        ),
    ] {
        let error = load(&text).unwrap_err();
        assert!(
            matches!(
                error,
                ModuleError::Refused(_) | ModuleError::TooLarge(_) | ModuleError::Malformed(_)
            ),
            "{what}: {error:?}"
        );
    }
}

#[test]
fn memory_that_a_module_begins_with_counts_against_its_limit() {
    let start = |pages: u32| {
        let text = module_of("(i64.const 0)").replace(
            "(export \"memory\") 2)",
            &format!("(export \"memory\") {pages})"),
        );
        run_on(&text, topic(None), &["a"]).unwrap_err()
    };
    // 64 pages are the limit, to the byte; what it then answers is garbage.
    assert!(matches!(start(64), CallError::Garbage(_)));
    for pages in [65, 8_192] {
        let error = start(pages);
        assert!(
            matches!(&error, CallError::Unavailable(m) if m.contains("memory_mb")),
            "{pages}: {error:?}"
        );
    }
}

#[test]
fn loops_traps_and_eaters_of_memory_end() {
    let endless = load(&module_of("(loop $on (br $on)) (i64.const 0)")).unwrap();
    let limits = Limits {
        time_ms: 200,
        ..LIMITS
    };
    let mut runner = LocalRunner::new(&endless, env(), limits, topic(None)).unwrap();
    let error = runner.call(0, &[input(&["a"])]).unwrap_err();
    assert_eq!(error, CallError::Timeout { limit_ms: 200 });
    let error = run("(unreachable)").unwrap_err();
    assert!(matches!(error, CallError::Trap(_)), "{error:?}");
    let error = run("(call $process (local.get $size))").unwrap_err();
    assert!(
        matches!(&error, CallError::Trap(m) if m.contains("stack")),
        "{error:?}"
    );
    let grows =
        "(loop $on (br_if $on (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let error = run(grows).unwrap_err();
    assert!(matches!(error, CallError::Memory { .. }), "{error:?}");
}

#[test]
fn trap_at_the_start_is_found_before_any_input() {
    let text = module_of("(i64.const 0)").replace(
        "(memory",
        "(func (export \"_initialize\") (unreachable)) (memory",
    );
    let error = run_on(&text, topic(None), &["a"]).unwrap_err();
    assert!(
        matches!(&error, CallError::Unavailable(m) if m.contains("does not start")),
        "{error:?}"
    );
    let endless = text.replace("(unreachable)", "(loop $on (br $on))");
    let error = run_on(&endless, topic(None), &["a"]).unwrap_err();
    assert!(matches!(error, CallError::Unavailable(_)), "{error:?}");
}

#[test]
fn waiting_ends_the_call_and_a_moment_passes_at_once() {
    // A subscription to the clock at 0, of these ns; the event is written to 64.
    let waits = |ns: u64| {
        format!(
            "(i64.store (i32.const 24) (i64.const {ns}))
             (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
             (i32.store (i32.const 256) (i32.const 1))
             (i64.or (i64.shl (i64.const 256) (i64.const 32)) (i64.const 4))"
        )
    };
    let error = run(&waits(20_000_000)).unwrap_err();
    assert!(
        matches!(&error, CallError::Trap(m) if m.contains("may not wait")),
        "{error:?}"
    );
    // It then answers that the call failed, with an empty message.
    assert_eq!(
        run(&waits(20_000)).unwrap_err(),
        CallError::Trap(String::new())
    );
}

#[test]
fn lines_are_kept_with_their_level_and_floods_are_counted() {
    let logs = |times: u32, address: i64| {
        format!(
            "(local $n i32) (i32.store8 (i32.const 0) (i32.const 104)) (i32.store8 (i32.const 1) (i32.const 105))
             (loop $on
               (call $log (i32.const 3) (i32.const {address}) (i32.const 2))
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $on (i32.lt_u (local.get $n) (i32.const {times}))))
             (i32.store (i32.const 256) (i32.const 0)) (i64.store (i32.const 260) (i64.const 0))
             (i64.or (i64.shl (i64.const 256) (i64.const 32)) (i64.const 12))"
        )
    };
    let output = run(&logs(1, 0)).unwrap();
    assert_eq!(output.logs.len(), 1);
    assert_eq!(
        (output.logs[0].level, &*output.logs[0].message),
        (LogLevel::Error, "hi")
    );
    let output = run(&logs(100_000, 0)).unwrap();
    assert_eq!(output.logs.len(), 65);
    assert!(output.logs[64].message.contains("99936 more lines"));
    assert!(matches!(run(&logs(1, 131_071)), Err(CallError::Trap(_))));
}

#[test]
fn core_module_that_is_no_transform_is_refused_with_the_reason() {
    let good = module_of("(i64.const 0)");
    assert!(load(&good).is_ok());
    let without =
        |name: &str| load(&good.replace(&format!("(export \"{name}\")"), "")).unwrap_err();
    for name in ["memory", "tidemill_reserve", "tidemill_process"] {
        assert_eq!(without(name), ModuleError::CoreModule(name.to_owned()));
    }
    let other = good.replace("tidemill_contract_1", "tidemill_contract_2");
    assert!(matches!(load(&other), Err(ModuleError::Contract(m)) if m == "tidemill_contract_2"));
    let foreign = good.replace(
        "\"tidemill\" \"log\"",
        "\"redpanda_transform\" \"write_record\"",
    );
    assert!(matches!(load(&foreign), Err(ModuleError::UnknownImport(_))));
    for wrong in [
        good.replace("\"log\"", "\"shout\""),
        good.replace(
            "(param i32) (result i32) (i32.const 4096)",
            "(param i64) (result i32) (i32.const 4096)",
        ),
        good.replace(
            "(memory (export \"memory\") 2)",
            "(memory (export \"memory\") i64 2)",
        ),
    ] {
        let error = load(&wrong).unwrap_err();
        assert!(matches!(error, ModuleError::Refused(_)), "{error:?}");
    }
}

#[test]
fn long_call_lets_its_neighbours_have_their_turns() {
    block_on(EngineChoice::Epoll, || async {
        let factory = Factory::new(HostConfig::default());
        let wasm = |text: &str| Bytes::from(wat::parse_str(text).unwrap());
        let good = factory
            .load(wasm(&forwards(-1)))
            .recv()
            .await
            .unwrap()
            .unwrap();
        let endless = module_of("(loop $on (br $on)) (i64.const 0)");
        let endless = factory.load(wasm(&endless)).recv().await.unwrap().unwrap();
        let config = GuestConfig {
            name: "guest-turns".into(),
            cpus: vec![],
            memory_bytes: 64 << 20,
        };
        let guest = Guest::start(&factory, config);
        guest.register(TransformKey(0), endless, env(), LIMITS, topic(None));
        guest.register(TransformKey(1), good, env(), LIMITS, topic(None));
        let mut burning = Box::pin(guest.call(TransformKey(0), 0, vec![input(&["a"])]));
        for _ in 0..20 {
            let output = guest.call(TransformKey(1), 0, vec![input(&["b"])]).await;
            assert_eq!(keys(&output.unwrap(), Destination::ByInput), ["b"]);
        }
        // The long one has used little of its time meanwhile, and ends when its transform goes.
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        assert!(burning.as_mut().poll(&mut context).is_pending());
        guest.unregister(TransformKey(0));
        assert_eq!(burning.await.unwrap_err().error, CallError::Stopped);
    })
    .unwrap();
}

#[test]
fn module_that_keeps_a_little_of_each_call_fails_no_record() {
    // Each call takes a page of 64 KiB for good and answers with nothing; the limit holds 62 of them.
    let keeps = "(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
        (i32.store (i32.const 256) (i32.const 0)) (i64.store (i32.const 260) (i64.const 0))
        (i64.or (i64.shl (i64.const 256) (i64.const 32)) (i64.const 12))";
    let module = load(&module_of(keeps)).unwrap();
    let mut runner = LocalRunner::new(&module, env(), LIMITS, topic(None)).unwrap();
    let memory: Vec<u64> = (0..200)
        .map(|_| runner.call(0, &[input(&["a"])]).unwrap().memory_bytes)
        .collect();
    assert_eq!(memory.iter().max(), Some(&(4 << 20)));
    assert_eq!(memory.iter().filter(|bytes| **bytes == 3 << 16).count(), 4);
}
