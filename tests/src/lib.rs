//! tidemill-tests: see ARCHITECTURE.md.
