//! Modules that would cost the compiler more than the broker can give.

use tidemill_tests::cli::Cli;
use tidemill_tests::{Engine, Options, modules, on_both_engines};

on_both_engines!(module_that_takes_too_much_to_compile_is_refused_and_costs_the_broker_nothing,);

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
