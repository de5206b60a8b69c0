//! Small components, written byte by byte, that would cost the compiler much.

use super::*;

/// An unsigned LEB128 number.
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

/// A component of nothing but a core module with one function: its type, and its body with the local variables.
fn component(ty: &[u8], function: &[u8]) -> Vec<u8> {
    let mut code = vec![1];
    number(function.len(), &mut code);
    code.extend_from_slice(function);
    let mut core = b"\0asm\x01\0\0\0".to_vec();
    core.extend(section(1, ty));
    core.extend(section(3, &[1, 0]));
    core.extend(section(10, &code));
    let mut out = b"\0asm\x0d\0\x01\0".to_vec();
    out.extend(section(1, &core));
    out
}

/// A type without parameters and results.
const PLAIN: [u8; 4] = [1, 0x60, 0, 0];

/// A function of `locals` numbers and as many loops, each with a branch back.
fn loops(locals: usize) -> Vec<u8> {
    let mut function = vec![1];
    number(locals, &mut function);
    function.push(0x7f);
    for _ in 0..locals {
        // loop; local.get 0; br_if 0; end
        function.extend([0x03, 0x40, 0x20, 0, 0x0d, 0, 0x0b]);
    }
    function.push(0x0b);
    function
}

#[test]
fn function_of_many_locals_and_loops_is_refused_before_it_is_compiled() {
    let refused = scan(&component(&PLAIN, &loops(10_000))).unwrap_err();
    assert!(
        matches!(&refused, ModuleError::TooLarge(m) if m.contains("local variables")),
        "{refused:?}"
    );
    // Nothing but its export is missing.
    assert_eq!(
        scan(&component(&PLAIN, &loops(1_000))),
        Err(ModuleError::NoExport)
    );
}

#[test]
fn table_of_many_branches_counts_each_of_them() {
    let mut function = vec![1];
    number(1_000, &mut function);
    // i32; block; local.get 0; br_table
    function.extend([0x7f, 0x02, 0x40, 0x20, 0, 0x0e]);
    number(30_000, &mut function);
    function.extend(vec![0; 30_001]);
    function.extend([0x0b, 0x0b]);
    let refused = scan(&component(&PLAIN, &function)).unwrap_err();
    assert!(matches!(refused, ModuleError::TooLarge(_)), "{refused:?}");
}

#[test]
fn type_of_many_results_is_refused() {
    let mut ty = vec![1, 0x60, 0];
    number(1_000, &mut ty);
    ty.extend([0x7f; 1_000]);
    // unreachable; end
    let refused = scan(&component(&ty, &[0, 0x00, 0x0b])).unwrap_err();
    assert!(
        matches!(&refused, ModuleError::TooLarge(m) if m.contains("results")),
        "{refused:?}"
    );
}

#[test]
fn more_than_one_memory_is_refused_wherever_they_lie() {
    // A core module with a memory of 256 pages and a byte at each end of it: an image of 16 MiB.
    let core =
        "(core module (memory 256) (data (i32.const 0) \"a\") (data (i32.const 16777215) \"a\"))";
    let component = |times| wat::parse_str(format!("(component {})", core.repeat(times))).unwrap();
    assert_eq!(scan(&component(1)), Err(ModuleError::NoExport));
    for text in [component(2), component(60)] {
        let refused = scan(&text).unwrap_err();
        assert!(
            matches!(&refused, ModuleError::TooLarge(m) if m.contains("memories")),
            "{refused:?}"
        );
    }
}

#[test]
fn section_that_forbids_handing_on_is_seen_at_every_depth() {
    const SECTION: &[u8] = b"\0\x19\x18tidemill:no-pass-through";
    let core = wat::parse_str(
        r#"(module (memory (export "memory") 1)
             (func (export "tidemill_reserve") (param i32) (result i32) unreachable)
             (func (export "tidemill_process") (param i32) (result i64) unreachable))"#,
    )
    .unwrap();
    let other = section(0, b"\x17tidemill:no-pass-throug");
    assert!(!scan(&[&core[..], &other].concat()).unwrap().no_pass_through);
    let forbids = [&core[..], SECTION].concat();
    assert!(scan(&forbids).unwrap().no_pass_through);
    let text = r#"(component (core module (@custom "tidemill:no-pass-through" "")) (instance $i)
        (export "tidemill:transform/processor@0.2.0" (instance $i)))"#;
    let inside = wat::parse_str(text).unwrap();
    assert!(scan(&inside).unwrap().no_pass_through);
}
