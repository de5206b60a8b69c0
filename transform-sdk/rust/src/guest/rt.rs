//! What the made code in `bindings.rs` calls. The allocation function of the canonical ABI, `cabi_realloc`, comes with the standard
//! library of `wasm32-wasip2`.

use std::alloc::{Layout, alloc, handle_alloc_error};

/// Runs the module's static constructors at the first call into it.
///
/// Naming `__wasm_call_ctors` tells the linker to leave them to us; it would otherwise run them at every export.
pub(super) fn run_ctors_once() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static RAN: AtomicBool = AtomicBool::new(false);
    unsafe extern "C" {
        fn __wasm_call_ctors();
    }
    if !RAN.swap(true, Ordering::Relaxed) {
        // SAFETY: made by the linker, takes nothing, called once and before anything else of the module.
        unsafe { __wasm_call_ctors() };
    }
}

/// Memory of a list that is handed out. The made code always hands it out, so nothing frees it here: `forget` is what it calls.
pub(super) struct Cleanup;

impl Cleanup {
    /// Memory for `layout`; null when that is empty.
    pub(super) fn new(layout: Layout) -> (*mut u8, Option<Cleanup>) {
        if layout.size() == 0 {
            return (std::ptr::null_mut(), None);
        }
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        (memory, Some(Cleanup))
    }

    /// Leaves the memory to whoever has its address.
    pub(super) fn forget(self) {}
}

/// Nothing to do: see above.
pub(super) fn maybe_link_cabi_realloc() {}
