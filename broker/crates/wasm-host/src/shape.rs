//! Whether a component's export has the types of the contract. The engine itself looks at them when an instance is made, which is too
//! late to refuse a module.

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::{ComponentItem, Type};

use crate::factory::ModuleError;
use crate::scan::EXPORT;

const FUNCTION: &str = "process";
/// The function's type, as [`write`] has it; `wit/processor.wit` in short.
const EXPECTED: &str = "list<record{base-offset:s64,base-timestamp:s64,record-count:u32,records:list<u8>,}>,->\
     result<record{outputs:list<record{output:u32,base-timestamp:s64,max-timestamp:s64,record-count:u32,records:list<u8>,}>,\
     failures:list<record{offset:s64,message:string,}>,},string>,";

/// Checks the export of `component`.
pub(crate) fn check(component: &Component, engine: &Engine) -> Result<(), ModuleError> {
    let found = found(component, engine).ok_or(ModuleError::NoExport)?;
    if found == EXPECTED {
        return Ok(());
    }
    Err(ModuleError::Refused(format!(
        "its `{FUNCTION}` does not have the types of `{EXPORT}`; build it with this version's SDK"
    )))
}

/// The type of the function, cut where it can no longer be the expected one.
fn found(component: &Component, engine: &Engine) -> Option<String> {
    let ty = component.component_type();
    let ComponentItem::ComponentInstance(interface) = ty.get_export(engine, EXPORT)?.ty else {
        return None;
    };
    let ComponentItem::ComponentFunc(function) = interface.get_export(engine, FUNCTION)?.ty else {
        return None;
    };
    let mut text = String::new();
    for (_, ty) in function.params() {
        write(&ty, &mut text);
        text.push(',');
    }
    text.push_str(if function.async_() { "=>" } else { "->" });
    for ty in function.results() {
        write(&ty, &mut text);
        text.push(',');
    }
    Some(text)
}

/// Appends `ty`. A hostile type repeats itself without end: nothing is added to what is already too long.
fn write(ty: &Type, text: &mut String) {
    if text.len() > EXPECTED.len() {
        return;
    }
    match ty {
        Type::U8 => text.push_str("u8"),
        Type::U32 => text.push_str("u32"),
        Type::S64 => text.push_str("s64"),
        Type::String => text.push_str("string"),
        Type::List(list) => {
            text.push_str("list<");
            write(&list.ty(), text);
            text.push('>');
        }
        Type::Record(record) => {
            text.push_str("record{");
            for field in record.fields() {
                text.push_str(field.name);
                text.push(':');
                write(&field.ty, text);
                text.push(',');
            }
            text.push('}');
        }
        Type::Result(result) => {
            text.push_str("result<");
            for (ty, end) in [(result.ok(), ','), (result.err(), '>')] {
                if let Some(ty) = ty {
                    write(&ty, text);
                }
                text.push(end);
            }
        }
        _ => text.push_str("another type"),
    }
}
