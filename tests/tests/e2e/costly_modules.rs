//! Modules that would cost the compiler more than the broker can give.

use tidemill_tests::cli::Cli;
use tidemill_tests::{Engine, Options, modules, on_both_engines};

on_both_engines!(
    module_that_takes_too_much_to_compile_is_refused_and_costs_the_broker_nothing,
    small_module_that_would_become_large_is_refused_and_costs_the_broker_nothing,
);

/// An unsigned LEB128 number, as WebAssembly has them.
fn number(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn section(id: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![id];
    number(body.len(), &mut out);
    out.extend_from_slice(body);
    out
}

/// The good module and, beside what it needs, a core module that nobody uses: its one function has so many local variables and loops,
/// and each variable may be another one after each loop.
fn costly(loops: usize) -> Vec<u8> {
    let mut function = vec![1];
    number(loops, &mut function);
    function.push(0x7f);
    for _ in 0..loops {
        // loop; local.get 0; br_if 0; end
        function.extend([0x03, 0x40, 0x20, 0, 0x0d, 0, 0x0b]);
    }
    for local in 0..loops {
        // local.get; drop
        function.push(0x20);
        number(local, &mut function);
        function.push(0x1a);
    }
    function.push(0x0b);
    let mut code = vec![1];
    number(function.len(), &mut code);
    code.extend(function);
    let mut core = b"\0asm\x01\0\0\0".to_vec();
    core.extend(section(1, &[1, 0x60, 0, 0]));
    core.extend(section(3, &[1, 0]));
    core.extend(section(10, &code));
    let mut module = std::fs::read(modules::mask()).expect("the module is built");
    module.extend(section(1, &core));
    module
}

fn module_that_takes_too_much_to_compile_is_refused_and_costs_the_broker_nothing(engine: Engine) {
    let options = Options::new(engine).settings("[transforms]\ncompile_memory = \"128 MiB\"\n");
    let mut broker = options.start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let before = broker.resident_bytes();
    for (loops, reason) in [(2_500, "128 MiB"), (20_000, "local variables")] {
        let file = broker.folder().join("costly.wasm");
        std::fs::write(&file, costly(loops)).expect("the test folder can be written");
        let file = file.to_string_lossy();
        let said = cli.refused(&[
            "deploy", "--module", &file, "--name", "bad", "--input", "in", "--output", "out",
        ]);
        assert!(said.contains(reason), "{said}");
    }
    assert_eq!(broker.metric("tidemill_compile_failures_total", ""), 1.0);
    let after = broker.peak_resident_bytes();
    assert!(
        after < before + (64 << 20),
        "memory went from {before} to {after} bytes"
    );
    // What others write fits into the same limits.
    cli.deploy(&modules::mask(), "good", "in", "good-out");
    assert!(broker.running());
}

/// A component with what is looked for before it is compiled, and `inside` it.
fn component(inside: &str) -> String {
    format!(
        "(component {inside} (component $e) (instance $i (instantiate $e))
           (export \"tidemill:transform/processor@0.2.0\" (instance $i)))"
    )
}

/// A core module with what it needs, a memory of so many pages, and `inside` it.
fn core_module(pages: u32, inside: &str) -> String {
    format!(
        "(module (memory (export \"memory\") {pages}) {inside}
           (func (export \"tidemill_reserve\") (param i32) (result i32) (i32.const 0))
           (func (export \"tidemill_process\") (param i32) (result i64) (i64.const 0)))"
    )
}

/// Modules of less than 100 KB, and what is said of each.
fn small_and_large() -> Vec<(&'static str, String, &'static str)> {
    // A byte at each end of 16 MiB.
    let image =
        "(core module (memory 256) (data (i32.const 0) \"a\") (data (i32.const 16777215) \"a\"))";
    let function = format!("(func (local {}))", "i64 ".repeat(50_001));
    vec![
        ("memory of 4 GiB", core_module(65_536, ""), "memory"),
        ("memory of 512 MiB", core_module(8_192, ""), "--memory-mb"),
        (
            "table of 32 GB",
            core_module(1, "(table 4294967295 funcref)"),
            "table",
        ),
        ("local variables", core_module(1, &function), "locals"),
        (
            "images of memories",
            component(&image.repeat(60)),
            "memories",
        ),
    ]
}

fn small_module_that_would_become_large_is_refused_and_costs_the_broker_nothing(engine: Engine) {
    let mut broker = Options::new(engine).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    cli.deploy(&modules::mask(), "good", "in", "good-out");
    let before = broker.resident_bytes();
    let file = broker.folder().join("small.wasm");
    for (what, text, reason) in small_and_large() {
        let wasm = wat::parse_str(&text).expect("it is valid text");
        assert!(wasm.len() < 100_000, "{what}: {} bytes", wasm.len());
        std::fs::write(&file, wasm).expect("the test folder can be written");
        let file = file.to_string_lossy();
        let said = cli.refused(&[
            "deploy", "--module", &file, "--name", "bad", "--input", "in", "--output", "out",
        ]);
        assert!(said.contains(reason), "{what}: {said}");
    }
    let after = broker.peak_resident_bytes();
    assert!(
        after < before + (128 << 20),
        "memory went from {before} to {after} bytes"
    );
    assert!(broker.running() && broker.healthy());
}
