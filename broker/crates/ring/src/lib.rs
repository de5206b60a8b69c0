//! tidemill-ring: see ARCHITECTURE.md.
