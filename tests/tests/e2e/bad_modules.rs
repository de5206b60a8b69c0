//! Modules that misbehave: the user sees why, and the broker and the other transforms go on.

use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, TestFolder, modules, on_both_engines, wait};

on_both_engines!(
    file_that_is_not_wasm_is_refused_at_deployment,
    component_without_the_export_is_refused_at_deployment,
    component_of_another_world_is_refused_at_deployment,
    core_module_without_the_exports_is_refused_at_deployment,
    module_that_cannot_start_within_its_memory_is_refused_at_deployment,
    module_that_loops_forever_is_ended_and_moves_nobody_else,
    module_that_eats_memory_is_ended_and_moves_nobody_else,
    module_that_returns_garbage_is_reported_and_moves_nobody_else,
    core_module_whose_answer_lies_outside_its_memory_is_reported_and_moves_nobody_else,
    module_that_answers_with_far_too_much_is_reported_and_moves_nobody_else,
    trap_on_one_record_fails_that_record_alone,
);

/// How long a misbehaving module may take to be reported on a loaded machine.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
/// How much the broker may grow while a module eats memory, in bytes: its limit, and room for the rest.
const GROWTH_BYTES: u64 = 256 << 20;

fn refused(engine: Engine, bytes: &[u8]) -> String {
    refused_all(engine, &[bytes.to_vec()]).remove(0)
}

/// What is said of each of these modules.
fn refused_all(engine: Engine, modules: &[Vec<u8>]) -> Vec<String> {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let topics = cli.json(&["topic", "list"]);
    let file = broker.folder().join("bad.wasm");
    let mut all = Vec::new();
    for bytes in modules {
        std::fs::write(&file, bytes).expect("the test folder can be written");
        let file = file.to_string_lossy();
        all.push(cli.refused(&[
            "deploy", "--module", &file, "--name", "bad", "--input", "in", "--output", "out",
        ]));
        assert!(
            !cli.ok(&["list"]).contains("bad"),
            "a refused module is not deployed"
        );
    }
    assert_eq!(cli.json(&["topic", "list"]), topics);
    assert!(broker.running());
    all
}

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn file_that_is_not_wasm_is_refused_at_deployment(engine: Engine) {
    let said = refused(engine, b"#!/bin/sh\necho not a module\n").to_lowercase();
    assert!(
        said.contains("wasm") || said.contains("webassembly") || said.contains("module"),
        "{said}"
    );
}

fn component_without_the_export_is_refused_at_deployment(engine: Engine) {
    // The preamble of a component with nothing in it (Component Model, binary format, layer 1).
    let said = refused(engine, b"\0asm\x0d\0\x01\0").to_lowercase();
    assert!(
        said.contains("export") || said.contains("processor"),
        "the missing export is named: {said}"
    );
}

fn component_of_another_world_is_refused_at_deployment(engine: Engine) {
    let component = |imports: &str, export: &str| {
        wasm(&format!(
            "(component {imports} (component $c) (instance $i (instantiate $c)) (export \"{export}\" (instance $i)))"
        ))
    };
    let ours = "tidemill:transform/processor@0.2.0";
    let said = refused_all(
        engine,
        &[
            component("", "wasi:cli/run@0.2.0"),
            component("", "wasi:http/incoming-handler@0.2.0"),
            component("", "tidemill:transform/processor@0.9.0"),
            component(
                "(import \"wasi:http/outgoing-handler@0.2.0\" (instance))",
                ours,
            ),
            // The name alone is right.
            component("", ours),
        ],
    );
    let named = [
        "does not export `tidemill:transform/processor@0.2.0`",
        "does not export `tidemill:transform/processor@0.2.0`",
        "made for `tidemill:transform/processor@0.9.0`",
        "imports `wasi:http/outgoing-handler@0.2.0`",
        "does not export",
    ];
    for (said, named) in said.iter().zip(named) {
        assert!(said.contains(named), "{named}: {said}");
    }
}

/// A core module which answers each call with `answer`, an address in the upper half of it and a length in the lower.
fn core_module(answer: u64, pages: u32) -> String {
    format!(
        "(module (memory (export \"memory\") {pages})
           (func (export \"tidemill_reserve\") (param i32) (result i32) (i32.const 4096))
           (func (export \"tidemill_process\") (param i32) (result i64) (i64.const {answer})))"
    )
}

fn core_module_without_the_exports_is_refused_at_deployment(engine: Engine) {
    let good = core_module(0, 1);
    let without = |name: &str| wasm(&good.replace(&format!("(export \"{name}\")"), ""));
    let names = ["memory", "tidemill_reserve", "tidemill_process"];
    let mut modules: Vec<Vec<u8>> = names.map(without).into();
    modules.push(wasm(
        &good.replace("(result i64) (i64", "(result i32) (i32"),
    ));
    modules.push(wasm(
        &good.replace("(memory", "(import \"env\" \"open\" (func)) (memory"),
    ));
    let said = refused_all(engine, &modules);
    for (said, name) in said.iter().zip(names) {
        assert!(
            said.contains(&format!("does not export `{name}`")),
            "{said}"
        );
    }
    assert!(
        said[3].contains("not a function (i32) -> (i64)"),
        "{}",
        said[3]
    );
    assert!(said[4].contains("imports `env.open`"), "{}", said[4]);
}

fn module_that_cannot_start_within_its_memory_is_refused_at_deployment(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let module = modules::mask();
    let module = module.to_string_lossy();
    // Less than the stack that a module of Rust begins with.
    let said = cli.refused(&[
        "deploy",
        "--module",
        &module,
        "--name",
        "bad",
        "--input",
        "in",
        "--output",
        "out",
        "--memory-mb",
        "1",
    ]);
    assert!(said.contains("--memory-mb"), "{said}");
    assert!(
        !cli.ok(&["list"]).contains("bad"),
        "a refused module is not deployed"
    );
    assert!(broker.running());
}

/// The misbehaving module, built once per run.
fn misbehaving() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || {
        let source = tidemill_tests::root().join("tests/modules/misbehaves.rs");
        let source = std::fs::read_to_string(&source).expect("the module's source is there");
        modules::build("misbehaves", Some(&source))
    };
    BUILT.get_or_init(build).clone()
}

/// A broker with a good transform and a misbehaving one on the same input.
fn with_bad_neighbour(engine: Engine, mode: &str) -> (Broker, Cli) {
    let mode = format!("MODE={mode}");
    beside_good(engine, &misbehaving(), &["--env", &mode])
}

/// A broker with a good transform and this one on the same input.
fn beside_good(engine: Engine, bad: &Path, options: &[&str]) -> (Broker, Cli) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    cli.deploy(&modules::mask(), "good", "in", "good-out");
    let bad = bad.to_string_lossy();
    let mut deploy = vec![
        "deploy", "--module", &bad, "--name", "bad", "--input", "in", "--output", "bad-out",
    ];
    deploy.extend(options);
    cli.ok(&deploy);
    (broker, cli)
}

/// The same with a core module which answers with these bytes of its memory.
fn beside_core_module(engine: Engine, answer: u64, pages: u32) -> (Broker, Cli) {
    let folder = TestFolder::new("core-module");
    let file = folder.path().join("bad.wasm");
    std::fs::write(&file, wasm(&core_module(answer, pages)))
        .expect("the test folder can be written");
    beside_good(engine, &file, &["--memory-mb", "128"])
}

fn produce(cli: &Cli, lines: &str) {
    let ran = cli.run_with_input(&["produce", "in"], lines);
    assert!(ran.ok, "{}", ran.text());
}

fn records_in(cli: &Cli, topic: &str) -> i64 {
    let described = cli.json(&["topic", "describe", topic]);
    let partitions = described["partitions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    partitions
        .iter()
        .filter_map(|partition| partition["high_watermark"].as_i64())
        .sum()
}

/// What `transform describe` says of its last error, once it says anything.
fn last_error(cli: &Cli) -> String {
    let error = || {
        cli.json(&["describe", "bad"])["last_error"]
            .as_str()
            .map(str::to_owned)
    };
    let reported = wait::until(REPORT_LIMIT, || error().is_some());
    assert!(
        reported,
        "no error is reported: {}",
        cli.ok(&["describe", "bad"])
    );
    error().expect("an error was reported").to_lowercase()
}

/// The good transform has done its work, the bad one has put nothing out, and new input still flows.
fn assert_neighbour_unmoved(broker: &mut Broker, cli: &Cli, before: i64) {
    assert!(wait::until(REPORT_LIMIT, || records_in(cli, "good-out") == before));
    produce(cli, "{\"email\":\"after@example.com\"}\n");
    assert!(wait::until(REPORT_LIMIT, || records_in(cli, "good-out") == before + 1));
    assert_eq!(records_in(cli, "bad-out"), 0);
    assert!(broker.running() && broker.healthy());
}

fn module_that_loops_forever_is_ended_and_moves_nobody_else(engine: Engine) {
    let (mut broker, cli) = with_bad_neighbour(engine, "loop");
    produce(&cli, "{\"id\":1}\n");
    let error = last_error(&cli);
    assert!(error.contains("time") || error.contains("cpu"), "{error}");
    assert_neighbour_unmoved(&mut broker, &cli, 1);
}

fn module_that_eats_memory_is_ended_and_moves_nobody_else(engine: Engine) {
    let (mut broker, cli) = with_bad_neighbour(engine, "memory");
    let before = broker.resident_bytes();
    produce(&cli, "{\"id\":1}\n");
    let error = last_error(&cli);
    assert!(error.contains("memory"), "{error}");
    let after = broker.resident_bytes();
    assert!(
        after < before + GROWTH_BYTES,
        "memory went from {before} to {after} bytes"
    );
    assert_neighbour_unmoved(&mut broker, &cli, 1);
}

fn module_that_returns_garbage_is_reported_and_moves_nobody_else(engine: Engine) {
    let (mut broker, cli) = with_bad_neighbour(engine, "garbage");
    produce(&cli, "{\"id\":1}\n");
    assert!(!last_error(&cli).is_empty());
    assert_neighbour_unmoved(&mut broker, &cli, 1);
}

fn core_module_whose_answer_lies_outside_its_memory_is_reported_and_moves_nobody_else(
    engine: Engine,
) {
    // The last of the two bytes lies behind the only page.
    let (mut broker, cli) = beside_core_module(engine, (65_535 << 32) | 2, 1);
    produce(&cli, "{\"id\":1}\n");
    let error = last_error(&cli);
    assert!(
        error.contains("2 bytes at 65535, is not in its memory of 65536 bytes"),
        "{error}"
    );
    assert_neighbour_unmoved(&mut broker, &cli, 1);
}

fn module_that_answers_with_far_too_much_is_reported_and_moves_nobody_else(engine: Engine) {
    let (mut broker, cli) = beside_core_module(engine, 100 << 20, 1_600);
    let before = broker.resident_bytes();
    produce(&cli, "{\"id\":1}\n");
    let error = last_error(&cli);
    assert!(
        error.contains("too much at once") && error.contains("104857600 bytes"),
        "{error}"
    );
    let after = broker.peak_resident_bytes();
    assert!(
        after < before + GROWTH_BYTES,
        "memory went from {before} to {after} bytes"
    );
    assert_neighbour_unmoved(&mut broker, &cli, 1);
}

fn trap_on_one_record_fails_that_record_alone(engine: Engine) {
    let (mut broker, cli) = with_bad_neighbour(engine, "trap");
    produce(&cli, "\"one\"\n\"two\"\ntrap\n\"three\"\n");
    let error = last_error(&cli);
    assert!(!error.is_empty());
    // The default policy stops at the record, with those before it through and those behind it waiting.
    assert!(
        wait::until(REPORT_LIMIT, || records_in(&cli, "bad-out") == 2),
        "{}",
        cli.ok(&["describe", "bad"])
    );
    let described = cli.json(&["describe", "bad"]);
    assert_eq!(described["partitions"][0]["position"], 2, "{described}");
    let logs = cli.ok(&["logs", "bad"]);
    assert!(logs.contains("about to end abruptly"), "{logs}");
    assert!(broker.running() && broker.healthy());
}
