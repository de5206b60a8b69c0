//! Transforms as WebAssembly: the one crate that knows the engine.
//!
//! * [`Factory`], one in a process: checks a module, compiles it, and keeps the machine code on disk. Its two threads of low priority
//!   exist only while there is something to compile; a broker's have it done by a process of limited memory and time.
//! * [`Guest`], one per shard: a thread of its own at nice 10, in which the transforms of that shard take turns. Started at the first
//!   registration, ended with the last transform, so a broker without transforms holds no memory of the engine.
//! * [`LocalRunner`]: the same on the current thread, for `transform test` and benchmarks.
//!
//! A call is about 1 MB of input at most and ends when its budget of CPU time is gone. It runs in slices of a few ms: after each, the
//! transform that has used the least CPU time, by weight, is next, so that a long call holds nobody up.
//!
//! Modules come in three kinds, told apart by what they export: components of the worlds `batch-transform` and `record-transform` of
//! `wit/`, components of version 0.1 of that contract, and core modules.
//!
//! Everything a guest returns is checked here, on the guest's thread, before anybody else sees it: what comes out are complete
//! record batches. A trap, a timeout or a memory overrun is the result of that call; its instance is thrown away.

mod bindings;
mod cache;
mod captured;
mod check;
mod compile;
mod core_module;
mod engine;
mod factory;
pub mod foreign;
mod guest;
mod instance;
mod local;
mod meter;
mod outcome;
mod records;
mod scan;
mod shape;
mod survival;
mod sys;
mod ticker;
mod types;

pub use compile::{CompileLimits, CompilerProcess, compile_for_parent};
pub use factory::{Factory, HostConfig, Module, ModuleError};
pub use guest::{Guest, GuestConfig};
pub use local::LocalRunner;
pub use survival::survives_panics;
pub use types::{
    CallError, CallOutput, Destination, FailedCall, InputBatch, Limits, LogLevel, LogLine,
    MEMORY_BYTES_MAX, OutputBatch, OutputTopic, RecordFailure, TransformKey, guest_env,
};
