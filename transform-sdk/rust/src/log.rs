//! Lines for whoever runs the transform: `tidemill_sdk::log::info!("{count} seen")`, read with `transform logs`.
//! In native tests they go to standard error.

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For whoever hunts a fault.
    Debug,
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warn,
    /// Wrong.
    Error,
}

/// Hands one line to the broker, which cuts long ones and bounds how many a call may write.
pub fn write(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::guest::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {message}");
}

/// Logs a formatted line at debug level.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug { ($($a:tt)*) => { $crate::log::write($crate::log::Level::Debug, &::std::format!($($a)*)) } }
/// Logs a formatted line at info level.
#[doc(hidden)]
#[macro_export]
macro_rules! __info { ($($a:tt)*) => { $crate::log::write($crate::log::Level::Info, &::std::format!($($a)*)) } }
/// Logs a formatted line at warn level.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn { ($($a:tt)*) => { $crate::log::write($crate::log::Level::Warn, &::std::format!($($a)*)) } }
/// Logs a formatted line at error level.
#[doc(hidden)]
#[macro_export]
macro_rules! __error { ($($a:tt)*) => { $crate::log::write($crate::log::Level::Error, &::std::format!($($a)*)) } }

pub use crate::__debug as debug;
pub use crate::__error as error;
pub use crate::__info as info;
pub use crate::__warn as warn;
