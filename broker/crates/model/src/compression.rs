//! compression: being written.
