//! A processor between a source, a sink and a function that fail in every way they may.

mod exactly_once;
mod input;
mod poison;
mod standing;
mod world;
