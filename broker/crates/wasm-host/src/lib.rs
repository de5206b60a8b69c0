//! tidemill-wasm-host: see ARCHITECTURE.md.
