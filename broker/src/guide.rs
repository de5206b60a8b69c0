//! Pages of the guide that are written from the code.

#![cfg(test)]

/// Set to write pages anew instead of comparing them.
const UPDATE: &str = "TIDEMILL_UPDATE";

/// Holds `docs/guide/name` equal to `text`.
#[allow(
    clippy::disallowed_methods,
    reason = "a test reads and writes pages of the repository"
)]
pub(crate) fn assert_page(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/guide")
        .join(name);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, text).expect("the guide can be written");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == text,
        "docs/guide/{name} is out of date; write it anew with {UPDATE}=1 and this test"
    );
}
