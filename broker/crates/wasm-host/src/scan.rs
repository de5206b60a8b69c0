//! A look through a module before it is compiled: is it a component with the right export, does it ask for what there is, and is it
//! of a size that can be compiled. Compiling takes time and memory by the number of functions, and instantiating by the number of
//! everything else, neither of which the file's size bounds.

use wasmparser::{
    BinaryReaderError, CompositeInnerType, Encoding, FunctionBody, Operator, Parser, Payload,
    TypeSectionReader,
};

use crate::factory::ModuleError;

/// Bytes of a module.
pub(crate) const MODULE_BYTES_MAX: usize = 64 << 20;
/// Functions in a module, those of core modules inside it included.
const FUNCTIONS_MAX: u64 = 400_000;
/// Bytes of one function's body: register allocation takes more than linear time.
const FUNCTION_BYTES_MAX: u64 = 4 << 20;
/// Local variables of one function times the places in it where control may come from elsewhere: so many values the compiler may make
/// of them, each of some 50 bytes. With 1,000 variables there may be 20,000 such places.
const VALUES_MAX: u64 = 20_000_000;
/// Parameters and results of one type of function: a call of a few bytes makes a value of each.
const PARAMETERS_MAX: u64 = 256;
const RESULTS_MAX: u64 = 64;
/// Entries of any other section: types, imports, globals, elements, data segments, instances.
const ENTRIES_MAX: u64 = 1_000_000;
/// Memories in a module: an instance gets no more, and the compiler makes an image of up to 16 MiB of what a memory begins with, however few
/// bytes of the file say so, also for core modules that nobody makes instances of.
const MEMORIES_MAX: u64 = 1;
/// Core modules and components inside a component.
const NESTED_MAX: u64 = 64;
/// The package of `wit/`.
const PACKAGE: &str = "tidemill:transform/";
/// Custom section by which a module forbids that records it fails on are handed on as they came: it hides things. In the module itself or
/// in one inside it, whatever it holds.
const NO_PASS_THROUGH: &str = "tidemill:no-pass-through";
/// What core modules export to say which version of their page they were made for, and the one that is served.
const CORE_CONTRACT: &str = "tidemill_contract_";
const CORE_CONTRACT_SERVED: &str = "tidemill_contract_1";
/// What a core module must export.
const CORE_EXPORTS: [&str; 3] = ["memory", "tidemill_reserve", "tidemill_process"];
/// Where a core module may import from.
const CORE_GIVEN: [&str; 2] = ["wasi_snapshot_preview1", "tidemill"];
/// Beginnings of the interfaces that the host gives.
const GIVEN: [&str; 9] = [
    "tidemill:transform/log@0.1.",
    "tidemill:transform/log@0.2.",
    "tidemill:transform/types@0.2.",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// What a module was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    /// `batch-transform`.
    Batch,
    /// `record-transform`.
    Records,
    /// `batch-transform` of version 0.1.
    BatchV0_1,
    /// A core module.
    Core,
}

impl World {
    /// All of them that are components.
    const COMPONENTS: [World; 3] = [World::Batch, World::Records, World::BatchV0_1];

    /// The export of a component of this world.
    pub(crate) fn export(self) -> &'static str {
        match self {
            World::Batch => "tidemill:transform/processor@0.2.0",
            World::Records => "tidemill:transform/record-processor@0.2.0",
            World::BatchV0_1 => "tidemill:transform/processor@0.1.0",
            World::Core => "tidemill_process",
        }
    }
}

/// What a look through a module says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What it was made for.
    pub(crate) world: World,
    /// Whether it has the section [`NO_PASS_THROUGH`].
    pub(crate) no_pass_through: bool,
}

/// Exports found so far.
#[derive(Default)]
struct Exports {
    world: Option<World>,
    /// Of this package, but of no version that is served.
    foreign: Option<String>,
    core: Vec<String>,
}

impl Exports {
    fn see_component(&mut self, name: &str) {
        let world = World::COMPONENTS.into_iter().find(|w| w.export() == name);
        self.world = self.world.or(world);
        if world.is_none() && name.starts_with(PACKAGE) {
            self.foreign = Some(name.to_owned());
        }
    }

    fn see_core(&mut self, name: &str) {
        let known = CORE_EXPORTS.contains(&name) || name.starts_with(CORE_CONTRACT);
        if known && self.core.len() <= CORE_EXPORTS.len() * 2 {
            self.core.push(name.to_owned());
        }
    }

    /// The world of a module, core module or component.
    fn world(self, core: bool) -> Result<World, ModuleError> {
        if !core {
            return match (self.world, self.foreign) {
                (Some(world), _) => Ok(world),
                (None, Some(name)) => Err(ModuleError::Contract(name)),
                (None, None) => Err(ModuleError::NoExport),
            };
        }
        let has = |name: &str| self.core.iter().any(|n| n == name);
        if let Some(missing) = CORE_EXPORTS.into_iter().find(|name| !has(name)) {
            return Err(ModuleError::CoreModule(missing.to_owned()));
        }
        let versions = self.core.iter().filter(|n| n.starts_with(CORE_CONTRACT));
        match versions.clone().next() {
            Some(other) if !has(CORE_CONTRACT_SERVED) => Err(ModuleError::Contract(other.clone())),
            _ => Ok(World::Core),
        }
    }
}

#[derive(Default)]
struct Counts {
    functions: u64,
    entries: u64,
    memories: u64,
    nested: u64,
}

/// Looks through `wasm`; says what it was made for, and what it forbids.
pub(crate) fn scan(wasm: &[u8]) -> Result<Seen, ModuleError> {
    if wasm.len() > MODULE_BYTES_MAX {
        return Err(ModuleError::TooLarge(format!(
            "{} bytes, the limit is {MODULE_BYTES_MAX}",
            wasm.len()
        )));
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(ModuleError::NotWasm);
    }
    let (mut depth, mut core, mut no_pass_through) = (0usize, false, false);
    let mut counts = Counts::default();
    let mut exports = Exports::default();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(malformed)?;
        match &payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if depth == 0 => core = true,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                depth += 1;
                counts.nested += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(custom) => no_pass_through |= custom.name() == NO_PASS_THROUGH,
            _ if depth == 0 => see_outside(&payload, &mut exports)?,
            _ => {}
        }
        count(&payload, &mut counts)?;
    }
    Ok(Seen {
        world: exports.world(core)?,
        no_pass_through,
    })
}

/// Looks at what the module itself imports and exports.
fn see_outside(payload: &Payload<'_>, exports: &mut Exports) -> Result<(), ModuleError> {
    match payload {
        Payload::ComponentImportSection(imports) => {
            for import in imports.clone() {
                check_import(import.map_err(malformed)?.name.name)?;
            }
        }
        Payload::ComponentExportSection(section) => {
            for export in section.clone() {
                exports.see_component(export.map_err(malformed)?.name.name);
            }
        }
        Payload::ImportSection(imports) => {
            for import in imports.clone().into_imports() {
                let import = import.map_err(malformed)?;
                if !CORE_GIVEN.contains(&import.module) {
                    let name = format!("{}.{}", import.module, import.name);
                    return Err(ModuleError::UnknownImport(name));
                }
            }
        }
        Payload::ExportSection(section) => {
            for export in section.clone() {
                exports.see_core(export.map_err(malformed)?.name);
            }
        }
        _ => {}
    }
    Ok(())
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
        Payload::TypeSection(s) => {
            counts.entries += u64::from(s.count());
            within("entries", counts.entries, ENTRIES_MAX)?;
            check_types(s)?;
        }
        Payload::ImportSection(s) => counts.entries += u64::from(s.count()),
        Payload::MemorySection(s) => counts.memories += u64::from(s.count()),
        Payload::GlobalSection(s) => counts.entries += u64::from(s.count()),
        Payload::ElementSection(s) => counts.entries += u64::from(s.count()),
        Payload::DataSection(s) => counts.entries += u64::from(s.count()),
        Payload::ExportSection(s) => counts.entries += u64::from(s.count()),
        Payload::InstanceSection(s) => counts.entries += u64::from(s.count()),
        Payload::ComponentTypeSection(s) => counts.entries += u64::from(s.count()),
        Payload::ComponentInstanceSection(s) => counts.entries += u64::from(s.count()),
        Payload::ComponentCanonicalSection(s) => counts.functions += u64::from(s.count()),
        Payload::CodeSectionEntry(body) => {
            check_body(body)?;
        }
        _ => {}
    }
    within("functions", counts.functions, FUNCTIONS_MAX)?;
    within("entries", counts.entries, ENTRIES_MAX)?;
    within("memories", counts.memories, MEMORIES_MAX)?;
    within("modules inside it", counts.nested, NESTED_MAX)
}

fn malformed(error: BinaryReaderError) -> ModuleError {
    ModuleError::Malformed(error.to_string())
}

/// Whether the core functions' types have few enough parameters and results.
fn check_types(types: &TypeSectionReader<'_>) -> Result<(), ModuleError> {
    for group in types.clone() {
        for ty in group.map_err(malformed)?.types() {
            if let CompositeInnerType::Func(ty) = &ty.composite_type.inner {
                let (parameters, results) = (ty.params().len() as u64, ty.results().len() as u64);
                within("parameters of one function", parameters, PARAMETERS_MAX)?;
                within("results of one function", results, RESULTS_MAX)?;
            }
        }
    }
    Ok(())
}

fn check_body(body: &FunctionBody<'_>) -> Result<(), ModuleError> {
    let bytes = body.range().len() as u64;
    within("bytes in one function", bytes, FUNCTION_BYTES_MAX)?;
    let mut locals = 0;
    for declared in body.get_locals_reader().map_err(malformed)? {
        locals += u64::from(declared.map_err(malformed)?.0);
    }
    // A place takes a byte at least, so that hardly any function is looked through.
    if locals.saturating_mul(bytes) <= VALUES_MAX {
        return Ok(());
    }
    let mut places = 0;
    for operator in body.get_operators_reader().map_err(malformed)? {
        places += places_of(&operator.map_err(malformed)?);
    }
    within(
        "local variables times blocks and branches in one function",
        locals.saturating_mul(places),
        VALUES_MAX,
    )
}

/// How many ways of control `operator` makes.
fn places_of(operator: &Operator<'_>) -> u64 {
    match operator {
        Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::Else => 1,
        Operator::Br { .. } | Operator::BrIf { .. } => 1,
        Operator::BrTable { targets } => 1 + u64::from(targets.len()),
        _ => 0,
    }
}

fn within(what: &str, count: u64, limit: u64) -> Result<(), ModuleError> {
    if count <= limit {
        return Ok(());
    }
    Err(ModuleError::TooLarge(format!(
        "{count} {what}, the limit is {limit}"
    )))
}

#[cfg(test)]
mod tests;
