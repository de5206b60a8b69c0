//! tidemill-partition: see ARCHITECTURE.md.
