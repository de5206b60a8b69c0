//! Write Tidemill transforms in Rust: one function from a record to the records it becomes.
//!
//! ```
//! use tidemill_sdk::{Output, Record, Result};
//!
//! /// Hands on what has a value, in capitals.
//! #[tidemill_sdk::transform]
//! fn shout(record: Record<'_>, output: &mut Output) -> Result<()> {
//!     let Some(value) = record.value() else { return Ok(()) };
//!     let loud = std::str::from_utf8(value)?.to_uppercase();
//!     output.write(record.edit().value(loud.as_bytes()))
//! }
//!
//! use tidemill_sdk::testing::{TestRecord, run};
//! let ran = run(shout, [TestRecord::new().key("k").value("hello")]);
//! assert_eq!(ran.records()[0].value_str(), Some("HELLO"));
//! ```
//!
//! * The record is read in place: key, value and headers are slices of the batch as it lies in the broker's log.
//! * What is written goes straight into the batch for the output; [`NewRecord::value_parts`] spares even the one buffer.
//! * An `Err` concerns that record only: what was written for it is taken back, its siblings are unaffected, and the
//!   transform's `on_error` policy decides what becomes of it. A panic ends the call; the broker then runs the batch again
//!   record by record, so that only the guilty one fails.
//! * A record goes to the partition with the input partition's number, or, once its key was changed, to that of its key;
//!   [`NewRecord::by_key`] and [`NewRecord::partition`] say otherwise.
//! * Nothing kept in memory between calls may be relied on.
//!
//! Settings come from the environment ([`std::env::var`]): what was given at deployment, and `TIDEMILL_TRANSFORM`,
//! `TIDEMILL_VERSION`, `TIDEMILL_INPUT_TOPIC`, `TIDEMILL_OUTPUTS`.

mod encode;
#[cfg(target_arch = "wasm32")]
pub mod guest;
pub mod json;
pub mod log;
mod new_record;
mod output;
mod parts;
mod placement;
mod record;
mod scan;
mod section;
pub mod testing;
mod varint;

pub use new_record::NewRecord;
pub use output::{Output, OutputTopic};
pub use parts::Parts;
pub use placement::Placement;
pub use record::{Header, Headers, Record};
pub use scan::find_last;
pub use tidemill_sdk_macros::transform;

/// Why a record could not be transformed: any error, or a text (`Err("no id".into())`). Its message is shown to whoever
/// runs the transform.
pub type Error = Box<dyn std::error::Error>;

/// What a transform returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The shape of a transform.
pub type TransformFn = fn(Record<'_>, &mut Output<'_>) -> Result<()>;
