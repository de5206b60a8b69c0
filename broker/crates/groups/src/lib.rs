//! tidemill-groups: see ARCHITECTURE.md.
