//! tidemill-shardlog: see ARCHITECTURE.md.
