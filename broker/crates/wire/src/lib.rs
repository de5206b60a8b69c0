//! tidemill-wire: see ARCHITECTURE.md.
