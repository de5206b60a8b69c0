//! tidemill-sdk-macros: see ARCHITECTURE.md.
