//! varint: being written.
