//! Transforms at work: one [`Processor`] for each transform and input partition.
//!
//! It reads committed input through a [`Source`], has it run by a [`Runner`] in the guest thread and proposes
//! outcomes to a [`Sink`]. It sees no partition, socket or Kafka type; the broker wires those.
//!
//! **Exactly once**: an outcome names the input range `[first, next)` it decides, and the sink takes it only if
//! `first` is where the transform stands (rule X2). Before that, nothing of it is visible, so everything here may be run
//! as often as need be, and whatever happens in between, the processor begins again from where the sink says it stands.

#![forbid(unsafe_code)]

pub mod dead_letter;
pub mod input;
pub mod io;
pub mod processor;
pub mod run;
pub mod stats;
#[cfg(test)]
mod tests;

pub use io::{
    Happening, InputRun, Observer, Outcome, Room, Runner, Sink, SinkError, Source, SourceError,
};
pub use processor::{Control, Processor, ProcessorConfig, Stopped};
pub use run::OnError;
pub use stats::{LastError, ProcessorState, ProcessorStats};
