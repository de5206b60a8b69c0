//! The host's side of the contract in `wit/`.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "made by the engine's macro from wit/"
)]

wasmtime::component::bindgen!({
    path: "../../../wit/v0.1",
    world: "batch-transform",
    ownership: Borrowing { duplicate_if_necessary: false },
});
