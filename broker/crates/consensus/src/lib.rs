//! tidemill-consensus: see ARCHITECTURE.md.
