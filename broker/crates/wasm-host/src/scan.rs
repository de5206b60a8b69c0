//! A look through a module before it is compiled: is it a component with the right export, does it ask for what there is, and is it
//! of a size that can be compiled. Compiling takes time and memory by the number of functions, and instantiating by the number of
//! everything else, neither of which the file's size bounds.

use wasmparser::{Encoding, Parser, Payload};

use crate::factory::ModuleError;

/// Bytes of a module.
pub(crate) const MODULE_BYTES_MAX: usize = 64 << 20;
/// Functions in a module, those of core modules inside it included.
const FUNCTIONS_MAX: u64 = 400_000;
/// Bytes of one function's body: register allocation takes more than linear time.
const FUNCTION_BYTES_MAX: u64 = 4 << 20;
/// Entries of any other section: types, imports, globals, elements, data segments, instances.
const ENTRIES_MAX: u64 = 1_000_000;
/// Core modules and components inside a component.
const NESTED_MAX: u64 = 64;
/// The export that makes a component a transform.
pub(crate) const EXPORT: &str = "tidemill:transform/processor@0.1.0";
/// Beginnings of the interfaces that the host gives.
const GIVEN: [&str; 7] = [
    "tidemill:transform/log@0.1",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

#[derive(Default)]
struct Counts {
    functions: u64,
    entries: u64,
    nested: u64,
}

/// Looks through `wasm`.
pub(crate) fn scan(wasm: &[u8]) -> Result<(), ModuleError> {
    if wasm.len() > MODULE_BYTES_MAX {
        return Err(ModuleError::TooLarge(format!(
            "{} bytes, the limit is {MODULE_BYTES_MAX}",
            wasm.len()
        )));
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(ModuleError::NotWasm);
    }
    let mut depth = 0usize;
    let mut counts = Counts::default();
    let mut exported = false;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|e| ModuleError::Malformed(e.to_string()))?;
        match &payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if depth == 0 => return Err(ModuleError::CoreModule),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                depth += 1;
                counts.nested += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports.clone() {
                    let import = import.map_err(|e| ModuleError::Malformed(e.to_string()))?;
                    check_import(import.name.name)?;
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports.clone() {
                    let export = export.map_err(|e| ModuleError::Malformed(e.to_string()))?;
                    exported |= export.name.name == EXPORT;
                }
            }
            _ => {}
        }
        count(&payload, &mut counts)?;
    }
    if exported {
        Ok(())
    } else {
        Err(ModuleError::NoExport)
    }
}

fn check_import(name: &str) -> Result<(), ModuleError> {
    if GIVEN.iter().any(|given| name.starts_with(given)) {
        return Ok(());
    }
    Err(ModuleError::UnknownImport(name.to_owned()))
}

fn count(payload: &Payload<'_>, counts: &mut Counts) -> Result<(), ModuleError> {
    match payload {
        Payload::FunctionSection(s) => counts.functions += u64::from(s.count()),
        Payload::TypeSection(s) => counts.entries += u64::from(s.count()),
        Payload::ImportSection(s) => counts.entries += u64::from(s.count()),
        Payload::GlobalSection(s) => counts.entries += u64::from(s.count()),
        Payload::ElementSection(s) => counts.entries += u64::from(s.count()),
        Payload::DataSection(s) => counts.entries += u64::from(s.count()),
        Payload::ExportSection(s) => counts.entries += u64::from(s.count()),
        Payload::InstanceSection(s) => counts.entries += u64::from(s.count()),
        Payload::ComponentTypeSection(s) => counts.entries += u64::from(s.count()),
        Payload::ComponentInstanceSection(s) => counts.entries += u64::from(s.count()),
        Payload::ComponentCanonicalSection(s) => counts.functions += u64::from(s.count()),
        Payload::CodeSectionEntry(body) => {
            let bytes = body.range().len() as u64;
            within("bytes in one function", bytes, FUNCTION_BYTES_MAX)?;
        }
        _ => {}
    }
    within("functions", counts.functions, FUNCTIONS_MAX)?;
    within("entries", counts.entries, ENTRIES_MAX)?;
    within("modules inside it", counts.nested, NESTED_MAX)
}

fn within(what: &str, count: u64, limit: u64) -> Result<(), ModuleError> {
    if count <= limit {
        return Ok(());
    }
    Err(ModuleError::TooLarge(format!(
        "{count} {what}, the limit is {limit}"
    )))
}
