//! What the end-to-end tests and the benchmarks share: a broker as a process, the command line, a raw client.
//!
//! Nothing here links the broker. Programs are taken from the folder that the running test or benchmark was
//! built into, so that both are always of one build.

#![forbid(unsafe_code)]

pub mod broker;
pub mod cli;
pub mod disk;
pub mod folder;
pub mod modules;
pub mod ports;
pub mod raw;
pub mod wait;

pub use broker::{Broker, Engine, Options};
pub use folder::TestFolder;

use std::path::PathBuf;

/// The folder of the build that the running program belongs to, such as `target/debug`.
///
/// # Panics
/// When the running program does not lie in a Cargo target folder.
#[must_use]
pub fn build_folder() -> PathBuf {
    let executable = std::env::current_exe().expect("the running program has a path");
    let folder = executable.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        return folder
            .parent()
            .expect("deps lies in a build folder")
            .to_path_buf();
    }
    folder.to_path_buf()
}

/// A program of the same build: `tidemill` or `transform`.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = build_folder().join(name);
    assert!(
        path.is_file(),
        "{} is missing; build it with `cargo build --workspace --bins`, or run `cargo xtask test`",
        path.display()
    );
    path
}

/// The project's root folder.
#[must_use]
pub fn root() -> PathBuf {
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("the package lies in the project's root")
        .to_path_buf()
}

/// Makes a test of each function for every engine that runs real brokers.
#[macro_export]
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod uring {
            $(#[test] fn $name() { super::$name($crate::Engine::Uring) })+
        }
        mod epoll {
            $(#[test] fn $name() { super::$name($crate::Engine::Epoll) })+
        }
    };
}
