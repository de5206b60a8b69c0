//! What the ready-made transforms share: their configuration, and paths into JSON texts that are never parsed into a tree.

pub mod config;
pub mod names;
pub mod number;
pub mod path;

pub use config::{OnInvalid, configured};
pub use path::{Kind, Paths, Tracker, Value, find};
