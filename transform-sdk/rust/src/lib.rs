//! tidemill-sdk: see ARCHITECTURE.md.
