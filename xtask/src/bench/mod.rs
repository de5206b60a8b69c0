//! `cargo xtask bench`: placeholder.
pub(crate) fn run(_args: &[String]) -> Result<(), String> {
    Err("x".into())
}
