//! tidemill-transform: see ARCHITECTURE.md.
