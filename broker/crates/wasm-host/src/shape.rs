//! Whether a component's export has the types of the contract. The engine itself looks at them when an instance is made, which is too
//! late to refuse a module.

use wasmtime::component::Component;
use wasmtime::component::types::{ComponentItem, Type};
use wasmtime::{Engine, ExternType, FuncType, Module, ValType};

use crate::factory::ModuleError;
use crate::scan::World;

const FUNCTION: &str = "process";
/// Names of types that are used more than once.
const INPUT: &str =
    "list<record{base-offset:s64,base-timestamp:s64,record-count:u32,records:list<u8>,}>,";
const FAILURES: &str = "failures:list<record{offset:s64,message:string,}>,},string>,";
const PLACEMENT: &str = "placement:variant{by-input:,by-key:,partition:u32,},";
const PARTS: &str = "timestamp:s64,key:option<list<u8>>,value:option<list<u8>>,headers:list<record{key:string,value:option<list<u8>>,}>,}>,";
const SECTION: &str = "base-timestamp:s64,max-timestamp:s64,record-count:u32,records:list<u8>,}>,";

/// The type of a world's function, as [`write`] has it; `wit/` in short.
fn expected(world: World) -> String {
    match world {
        World::Batch => format!(
            "u32,{INPUT}->result<record{{outputs:list<record{{output:u32,{PLACEMENT}{SECTION}{FAILURES}"
        ),
        World::BatchV0_1 => {
            format!("{INPUT}->result<record{{outputs:list<record{{output:u32,{SECTION}{FAILURES}")
        }
        World::Records => format!(
            "u32,list<record{{offset:s64,{PARTS}->result<record{{outputs:list<record{{output:u32,{PLACEMENT}{PARTS}{FAILURES}"
        ),
        World::Core => String::new(),
    }
}

/// Checks the export of `component`.
pub(crate) fn check(
    component: &Component,
    world: World,
    engine: &Engine,
) -> Result<(), ModuleError> {
    let expected = expected(world);
    let found = found(component, world, engine, expected.len()).ok_or(ModuleError::NoExport)?;
    if found == expected {
        return Ok(());
    }
    Err(ModuleError::Refused(format!(
        "its `{FUNCTION}` does not have the types of `{}`; build it with this version's SDK",
        world.export()
    )))
}

/// Checks the exports of a core module.
pub(crate) fn check_core(module: &Module) -> Result<(), ModuleError> {
    let refuse = |what: &str| {
        Err(ModuleError::Refused(format!(
            "{what}; see wit/core-module.md"
        )))
    };
    match module.get_export("memory") {
        Some(ExternType::Memory(memory)) if !memory.is_64() && !memory.is_shared() => {}
        _ => return refuse("its export `memory` is not a plain memory of 32 bits"),
    }
    for (name, parameters, results) in [
        ("tidemill_reserve", &["i32"][..], &["i32"][..]),
        ("tidemill_process", &["i32"], &["i64"]),
        ("_initialize", &[], &[]),
    ] {
        match module.get_export(name) {
            None if name == "_initialize" => {}
            Some(ExternType::Func(ty)) if is(&ty, parameters, results) => {}
            _ => {
                let types = format!("({}) -> ({})", parameters.join(", "), results.join(", "));
                return refuse(&format!("its export `{name}` is not a function {types}"));
            }
        }
    }
    Ok(())
}

fn is(ty: &FuncType, parameters: &[&str], results: &[&str]) -> bool {
    let name = |ty: ValType| match ty {
        ValType::I32 => "i32",
        ValType::I64 => "i64",
        _ => "another type",
    };
    ty.params().map(name).eq(parameters.iter().copied())
        && ty.results().map(name).eq(results.iter().copied())
}

/// The type of the function, cut where it can no longer be the expected one.
fn found(component: &Component, world: World, engine: &Engine, bytes: usize) -> Option<String> {
    let ty = component.component_type();
    let ComponentItem::ComponentInstance(interface) = ty.get_export(engine, world.export())?.ty
    else {
        return None;
    };
    let ComponentItem::ComponentFunc(function) = interface.get_export(engine, FUNCTION)?.ty else {
        return None;
    };
    let mut text = String::new();
    for (_, ty) in function.params() {
        write(&ty, bytes, &mut text);
        text.push(',');
    }
    text.push_str(if function.async_() { "=>" } else { "->" });
    for ty in function.results() {
        write(&ty, bytes, &mut text);
        text.push(',');
    }
    Some(text)
}

/// Appends `ty`. A hostile type repeats itself without end: nothing is added to what is already longer than `bytes`.
fn write(ty: &Type, bytes: usize, text: &mut String) {
    if text.len() > bytes {
        return;
    }
    match ty {
        Type::U8 => text.push_str("u8"),
        Type::U32 => text.push_str("u32"),
        Type::S64 => text.push_str("s64"),
        Type::String => text.push_str("string"),
        Type::List(list) => {
            text.push_str("list<");
            write(&list.ty(), bytes, text);
            text.push('>');
        }
        Type::Record(record) => {
            text.push_str("record{");
            for field in record.fields() {
                text.push_str(field.name);
                text.push(':');
                write(&field.ty, bytes, text);
                text.push(',');
            }
            text.push('}');
        }
        Type::Result(result) => {
            text.push_str("result<");
            for (ty, end) in [(result.ok(), ','), (result.err(), '>')] {
                if let Some(ty) = ty {
                    write(&ty, bytes, text);
                }
                text.push(end);
            }
        }
        Type::Option(option) => {
            text.push_str("option<");
            write(&option.ty(), bytes, text);
            text.push('>');
        }
        Type::Variant(variant) => {
            text.push_str("variant{");
            for case in variant.cases() {
                text.push_str(case.name);
                text.push(':');
                if let Some(ty) = case.ty {
                    write(&ty, bytes, text);
                }
                text.push(',');
            }
            text.push('}');
        }
        _ => text.push_str("another type"),
    }
}
