//! tidemill-benches: see ARCHITECTURE.md.
