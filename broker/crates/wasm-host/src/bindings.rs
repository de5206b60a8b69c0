//! The host's side of the contract in `wit/`: version 0.2 in both its worlds, and version 0.1.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "made by the engine's macro from wit/"
)]

/// The world `batch-transform`.
pub(crate) mod batch {
    wasmtime::component::bindgen!({
        path: "../../../wit",
        world: "batch-transform",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

/// The world `record-transform`.
pub(crate) mod records {
    wasmtime::component::bindgen!({
        path: "../../../wit",
        world: "record-transform",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// The world `batch-transform` of version 0.1.
pub(crate) mod v0_1 {
    wasmtime::component::bindgen!({
        path: "../../../wit/v0.1",
        world: "batch-transform",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}
