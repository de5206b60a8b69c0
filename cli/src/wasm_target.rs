//! What Rust transforms are compiled to, those that come with the command line as well as its users'. The build script reads it, too.

/// The compiler target: a WebAssembly component.
pub(crate) const TARGET: &str = "wasm32-wasip2";
/// Joined with what a project's own cargo configuration says of the target.
pub(crate) const TARGET_CONFIG: &str =
    "target.wasm32-wasip2.rustflags=[\"-Ctarget-feature=+simd128\"]";
