//! tidemill-controller: see ARCHITECTURE.md.
