//! ARCHITECTURE.md tells the truth: the folders it names exist, and every crate of the broker is named.

use super::read;
use crate::process::root;

const FILE: &str = "ARCHITECTURE.md";
const CRATES: &str = "broker/crates";

/// Findings on the code map.
pub(super) fn check() -> Result<Vec<String>, String> {
    let map = read(FILE)?;
    let named = folders(&map);
    let mut findings: Vec<String> = named
        .iter()
        .filter(|folder| !root().join(folder).is_dir())
        .map(|folder| format!("{FILE} names the folder {folder}, which does not exist"))
        .collect();
    let entries = std::fs::read_dir(root().join(CRATES))
        .map_err(|error| format!("cannot list {CRATES}: {error}"))?;
    let mut crates: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| format!("{CRATES}/{}/", entry.file_name().to_string_lossy()))
        .collect();
    crates.sort();
    findings.extend(
        crates
            .iter()
            .filter(|folder| !named.contains(folder))
            .map(|folder| format!("{FILE} does not name {folder}")),
    );
    Ok(findings)
}

/// Code spans that end with a slash and hold only what a path is made of.
fn folders(map: &str) -> Vec<String> {
    let is_path = |span: &&str| {
        span.ends_with('/')
            && !span.starts_with('/')
            && span
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
    };
    let spans = map
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.filter(is_path).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_spans_that_are_folders_count() {
        let map = "See `a/b/` and `c/{d,e}/`, not `f/g.rs` or h/ or `/v1/`.\n| `x/` | y |";
        assert_eq!(folders(map), ["a/b/", "x/"]);
    }
}
