//! Modules that misbehave: each with the error its user sees, the neighbours unmoved.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use bytes::Bytes;
use tidemill_model::record::{BatchBuilder, NewRecord, Records};
use tidemill_rt::runtime::{EngineChoice, block_on};
use tidemill_wasm_host::{
    CallError, CallOutput, Factory, Guest, GuestConfig, HostConfig, InputBatch, Limits,
    LocalRunner, Module, ModuleError, OutputTopic, TransformKey, guest_env,
};

/// Much time, for a machine that is busy otherwise.
const LIMITS: Limits = Limits {
    time_ms: 20_000,
    memory_bytes: 32 << 20,
};
/// For those that use up whatever they get.
const SHORT: Limits = Limits {
    time_ms: 200,
    ..LIMITS
};
const BATCH_BYTES_MAX: usize = 1 << 20;

fn topics(max_bytes: usize) -> Vec<OutputTopic> {
    vec![OutputTopic::of_max_bytes(max_bytes)]
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// The bytes of the misbehaving module, built once.
fn wasm() -> &'static [u8] {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = root().join("target/guests");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--target", "wasm32-wasip2"])
            .env("CARGO_TARGET_DIR", &target)
            .current_dir(root().join("tests/guests"))
            .status()
            .unwrap();
        assert!(status.success(), "tests/guests does not build");
        std::fs::read(target.join("wasm32-wasip2/release/misbehaving.wasm")).unwrap()
    })
}

fn module() -> Module {
    static MADE: OnceLock<Module> = OnceLock::new();
    let factory = Factory::new(HostConfig::default());
    MADE.get_or_init(|| factory.load_here(wasm()).unwrap())
        .clone()
}

fn env(mode: &str) -> Vec<(String, String)> {
    guest_env("t", "in", &["out".into()], &[("MODE".into(), mode.into())])
}

fn input(values: &[&str]) -> InputBatch {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.append(NewRecord {
            timestamp: 5,
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        });
    }
    InputBatch {
        base_offset: 100,
        base_timestamp: 5,
        record_count: values.len() as u32,
        records: builder.build().slice(61..),
    }
}

fn run(mode: &str, values: &[&str]) -> Result<CallOutput, CallError> {
    let limits = if mode == "loop" { SHORT } else { LIMITS };
    let mut runner =
        LocalRunner::new(&module(), env(mode), limits, topics(BATCH_BYTES_MAX)).unwrap();
    runner.call(0, &[input(values)])
}

fn values(output: &CallOutput) -> Vec<String> {
    let mut all = Vec::new();
    for batch in &output.outputs {
        for record in Records::new(&batch.batch[61..], batch.records as i32) {
            all.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
        }
    }
    all
}

#[test]
fn good_records_come_out_in_a_valid_batch() {
    let output = run("", &["a", "b"]).unwrap();
    assert_eq!(values(&output), ["a", "b"]);
    let header = tidemill_model::BatchHeader::validate(&output.outputs[0].batch).unwrap();
    assert_eq!((header.max_timestamp, header.record_count), (5, 2));
}

#[test]
fn endless_loop_ends_when_its_budget_is_gone() {
    assert_eq!(
        run("loop", &["a"]).unwrap_err(),
        CallError::Timeout { limit_ms: 200 }
    );
}

#[test]
fn collector_of_handles_is_stopped() {
    let error = run("handles", &["a"]).unwrap_err();
    assert!(matches!(error, CallError::Trap(_)), "{error:?}");
}

#[test]
fn eater_of_memory_is_told_its_limit() {
    let error = run("memory", &["a"]).unwrap_err();
    assert!(
        matches!(error, CallError::Memory { limit_bytes, .. } if limit_bytes == LIMITS.memory_bytes),
        "{error:?}"
    );
}

#[test]
fn panic_is_reported_with_its_message_and_the_next_call_works() {
    let mut runner =
        LocalRunner::new(&module(), env("poison"), LIMITS, topics(BATCH_BYTES_MAX)).unwrap();
    let error = runner.call(0, &[input(&["a", "poison"])]).unwrap_err();
    assert!(
        matches!(&error, CallError::Trap(m) if m.contains("poisoned at offset 101")),
        "{error:?}"
    );
    assert!(
        runner
            .take_logs()
            .iter()
            .any(|l| l.message.contains("poisoned"))
    );
    assert_eq!(values(&runner.call(0, &[input(&["a"])]).unwrap()), ["a"]);
}

#[test]
fn deep_recursion_and_sleep_are_traps() {
    // Which of a module's two stacks ends first, the engine's or the one in its memory, depends on its frames.
    let reasons = [
        ("deep", ["stack exhausted", "out of bounds"].as_slice()),
        ("sleep", &["may not wait"]),
    ];
    for (mode, reasons) in reasons {
        let error = run(mode, &["a"]).unwrap_err();
        assert!(
            matches!(&error, CallError::Trap(m) if reasons.iter().any(|r| m.contains(r))),
            "{mode}: {error:?}"
        );
    }
}

#[test]
fn garbage_is_refused_whatever_is_wrong() {
    for (mode, reason) in [
        ("garbage", "malformed"),
        ("count", "malformed"),
        ("timestamp", "timestamp"),
        ("index", "output 7"),
    ] {
        let error = run(mode, &["a"]).unwrap_err();
        assert!(
            matches!(&error, CallError::Garbage(m) if m.contains(reason)),
            "{mode}: {error:?}"
        );
    }
}

#[test]
fn unknown_output_and_files_are_errors_of_the_record() {
    for (mode, reason) in [("unknown-output", "nowhere"), ("file", "")] {
        let output = run(mode, &["a"]).unwrap();
        assert_eq!(output.failures[0].offset, 100);
        assert!(
            output.failures[0].message.contains(reason),
            "{:?}",
            output.failures
        );
    }
}

#[test]
fn record_too_large_for_its_topic_says_so() {
    let mut runner = LocalRunner::new(&module(), env(""), LIMITS, topics(200)).unwrap();
    let split = runner
        .call(0, &[input(&[&"a".repeat(100), &"b".repeat(100)])])
        .unwrap();
    assert_eq!(split.outputs.len(), 2);
    let error = runner.call(0, &[input(&[&"a".repeat(300)])]).unwrap_err();
    assert!(matches!(error, CallError::TooLarge(_)), "{error:?}");
}

/// For answers that are larger than any limit of what is handed over.
const ROOMY: Limits = Limits {
    memory_bytes: 400 << 20,
    ..LIMITS
};

#[test]
fn records_that_are_too_many_together_are_refused_and_the_next_call_works() {
    let mut runner =
        LocalRunner::new(&module(), env("giant"), ROOMY, topics(BATCH_BYTES_MAX)).unwrap();
    // More than an outcome takes, and more than is copied out of an instance; each record fits its topic.
    for mib in ["33", "120"] {
        let error = runner.call(0, &[input(&[mib])]).unwrap_err();
        assert!(
            matches!(&error, CallError::TooMuch(m) if m.contains("in one call")),
            "{mib} MiB: {error:?}"
        );
    }
    let good = runner.call(0, &[input(&["1"; 8])]).unwrap();
    let records: u32 = good.outputs.iter().map(|batch| batch.records).sum();
    assert_eq!(records, 16);
    assert!(
        good.outputs
            .iter()
            .all(|batch| batch.batch.len() <= BATCH_BYTES_MAX)
    );
}

#[test]
fn connection_to_a_server_that_listens_is_an_error_of_the_record() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let output = run("socket", &[&address]).unwrap();
    assert_eq!(output.failures.len(), 1, "{:?}", output.failures);
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn component_of_another_world_is_refused_with_what_it_lacks_or_wants() {
    let factory = Factory::new(HostConfig::default());
    let load = |text: &str| {
        factory
            .load_here(&wat::parse_str(text).unwrap())
            .unwrap_err()
    };
    let exports = |name: &str| {
        format!(
            "(component (component $c) (instance $i (instantiate $c)) (export \"{name}\" (instance $i)))"
        )
    };
    for other in [
        "wasi:cli/run@0.2.0",
        "wasi:http/incoming-handler@0.2.0",
        "other:transform/processor@0.2.0",
    ] {
        assert_eq!(load(&exports(other)), ModuleError::NoExport, "{other}");
    }
    for version in ["processor@0.3.0", "record-processor@0.1.0"] {
        let name = format!("tidemill:transform/{version}");
        assert_eq!(load(&exports(&name)), ModuleError::Contract(name.clone()));
    }
    for wants in [
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:keyvalue/store@0.2.0",
        "tidemill:transform/produce@0.2.0",
    ] {
        let text = exports("tidemill:transform/processor@0.2.0").replacen(
            "(component",
            &format!("(component (import \"{wants}\" (instance))"),
            1,
        );
        assert_eq!(load(&text), ModuleError::UnknownImport(wants.to_owned()));
    }
    // The name of what is given, but not what it has there.
    let unknown = exports("tidemill:transform/processor@0.2.0").replacen(
        "(component",
        "(component (import \"wasi:cli/environment@0.2.0\" (instance (export \"set-environment\" (func))))",
        1,
    );
    assert!(
        matches!(
            load(&unknown),
            ModuleError::Refused(_) | ModuleError::NoExport
        ),
        "{unknown}"
    );
}

#[test]
fn what_is_no_transform_is_refused_with_the_reason() {
    let factory = Factory::new(HostConfig::default());
    let load = |bytes: &[u8]| factory.load_here(bytes).unwrap_err();
    assert_eq!(load(b"hello"), ModuleError::NotWasm);
    assert_eq!(
        load(b"\0asm\x01\0\0\0"),
        ModuleError::CoreModule("memory".into())
    );
    assert_eq!(load(b"\0asm\x0d\0\x01\0"), ModuleError::NoExport);
    assert!(matches!(load(&wasm()[..1000]), ModuleError::Malformed(_)));
}

#[test]
fn module_of_another_contract_is_refused_each_time() {
    // The export has the right name, and a record in its type a field of another.
    let found = |at: &usize| wasm()[*at..].starts_with(b"record-count");
    let mut other = wasm().to_vec();
    let places: Vec<usize> = (0..other.len()).filter(found).collect();
    assert!(!places.is_empty());
    for at in places {
        other[at..at + 12].copy_from_slice(b"record-kount");
    }
    let dir = std::env::temp_dir().join(format!("tidemill-refused-{}", std::process::id()));
    let factory = Factory::new(HostConfig {
        cache_dir: Some(dir.clone()),
        ..HostConfig::default()
    });
    for _ in 0..2 {
        let refused = factory.load_here(&other).unwrap_err();
        assert!(matches!(refused, ModuleError::Refused(_)), "{refused:?}");
    }
    assert!(!dir.exists(), "nothing refused is kept");
}

#[test]
fn damaged_code_on_disk_is_compiled_anew() {
    let dir = std::env::temp_dir().join(format!("tidemill-code-{}", std::process::id()));
    let config = HostConfig {
        cache_dir: Some(dir.clone()),
        ..HostConfig::default()
    };
    let factory = Factory::new(config);
    factory.load_here(wasm()).unwrap();
    let file = std::fs::read_dir(&dir)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    let module = factory.load_here(wasm()).unwrap();
    assert_eq!(std::fs::read(&file).unwrap().len(), good.len());
    let mut runner = LocalRunner::new(&module, env(""), LIMITS, topics(BATCH_BYTES_MAX)).unwrap();
    assert_eq!(values(&runner.call(0, &[input(&["a"])]).unwrap()), ["a"]);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn huge_lines_of_log_are_cut_and_hold_no_memory() {
    let output = run("chatty", &["a"]).unwrap();
    assert_eq!(output.logs.len(), 64 + 1);
    assert!(output.logs[64].message.starts_with("6 more lines"));
    for line in &output.logs {
        assert!(
            line.message.capacity() <= 1024 + 3,
            "{}",
            line.message.len()
        );
    }
    assert!(output.logs[0].message.ends_with("ää..."));
}

#[test]
fn memory_of_the_instance_is_reported() {
    let output = run("", &["a"]).unwrap();
    let memory = output.memory_bytes as usize;
    assert!(
        (1 << 20..=LIMITS.memory_bytes).contains(&memory),
        "{memory}"
    );
}

/// Less than the module's memory has from the start.
const TOO_LITTLE: Limits = Limits {
    memory_bytes: 64 << 10,
    ..LIMITS
};

#[test]
fn module_that_does_not_start_is_no_fault_of_the_records() {
    let mut runner =
        LocalRunner::new(&module(), env(""), TOO_LITTLE, topics(BATCH_BYTES_MAX)).unwrap();
    let error = runner.call(0, &[input(&["a"])]).unwrap_err();
    assert!(
        matches!(&error, CallError::Unavailable(m) if m.contains("raise its limit (memory_mb")),
        "{error:?}"
    );
}

#[test]
fn module_that_does_not_start_is_found_before_it_is_deployed() {
    block_on(EngineChoice::Epoll, || async {
        let factory = Factory::new(HostConfig::default());
        let good = factory.try_out(module(), env(""), LIMITS).recv().await;
        assert_eq!(good, Some(Ok(())));
        let answer = factory.try_out(module(), env(""), TOO_LITTLE).recv().await;
        let error = answer.unwrap().unwrap_err();
        assert!(
            matches!(&error, ModuleError::Start(m) if m.contains("raise its limit (memory_mb")),
            "{error:?}"
        );
    })
    .unwrap();
}

#[test]
fn cache_that_cannot_be_used_costs_no_module() {
    let file = std::env::temp_dir().join(format!("tidemill-no-dir-{}", std::process::id()));
    std::fs::write(&file, b"").unwrap();
    let factory = Factory::new(HostConfig {
        cache_dir: Some(file.join("code")),
        ..HostConfig::default()
    });
    let module = factory.load_here(wasm()).unwrap();
    std::fs::remove_file(&file).unwrap();
    let mut runner = LocalRunner::new(&module, env(""), LIMITS, topics(BATCH_BYTES_MAX)).unwrap();
    assert_eq!(values(&runner.call(0, &[input(&["a"])]).unwrap()), ["a"]);
}

#[test]
fn bad_neighbours_move_nobody_on_the_same_guest_thread() {
    block_on(EngineChoice::Epoll, || async {
        let factory = Factory::new(HostConfig::default());
        let module = factory
            .load(Bytes::from_static(wasm()))
            .recv()
            .await
            .unwrap()
            .unwrap();
        let config = GuestConfig {
            name: "guest-test".into(),
            cpus: vec![],
            memory_bytes: 256 << 20,
        };
        let guest = Guest::start(&factory, config);
        assert!(!guest.is_running());
        let modes = ["", "loop", "memory", "poison", "garbage"];
        for (key, mode) in (0..).zip(modes) {
            guest.register(
                TransformKey(key),
                module.clone(),
                env(mode),
                if mode == "loop" { SHORT } else { LIMITS },
                topics(BATCH_BYTES_MAX),
            );
        }
        for _ in 0..3 {
            let calls: Vec<_> = (0..5)
                .map(|key| guest.call(TransformKey(key), 0, vec![input(&["poison"])]))
                .collect();
            let mut results = Vec::new();
            for call in calls {
                results.push(call.await);
            }
            assert_eq!(values(results[0].as_ref().unwrap()), ["poison"]);
            assert!(results[1..].iter().all(Result::is_err), "{results:?}");
            let poisoned = results[3].as_ref().unwrap_err();
            assert!(
                poisoned.logs.iter().any(|l| l.message.contains("poisoned")),
                "{poisoned:?}"
            );
            assert!(poisoned.cpu_ns > 0);
        }
        (0..5).for_each(|key| guest.unregister(TransformKey(key)));
        let gone = guest.call(TransformKey(0), 0, vec![input(&["a"])]).await;
        assert_eq!(gone.unwrap_err().error, CallError::Stopped);
        while guest.is_running() {
            tidemill_rt::task::yield_now().await;
        }
    })
    .unwrap();
}
