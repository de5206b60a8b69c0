//! What the measurement programs share. Each program measures one thing, prints what it found for people,
//! and ends with one line of JSON that `cargo xtask bench` writes into the report.

#![forbid(unsafe_code)]

pub mod broker;
pub mod kafka;
pub mod load;
pub mod saturate;
pub mod stats;
