//! Who may use whom: the table of the architecture, held against `cargo metadata`.

use super::read;
use crate::process::root;
use cargo_metadata::{MetadataCommand, Package};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Crates of the broker in the order of the architecture, each with what it may use of the others.
const BROKER: [(&str, &[&str]); 11] = [
    ("tidemill-model", &[]),
    ("tidemill-wire", &["tidemill-model"]),
    ("tidemill-rt", &[]),
    ("tidemill-shardlog", &["tidemill-model", "tidemill-rt"]),
    (
        "tidemill-consensus",
        &["tidemill-model", "tidemill-rt", "tidemill-shardlog"],
    ),
    (
        "tidemill-partition",
        &["tidemill-model", "tidemill-rt", "tidemill-shardlog"],
    ),
    (
        "tidemill-ring",
        &[
            "tidemill-model",
            "tidemill-rt",
            "tidemill-shardlog",
            "tidemill-consensus",
            "tidemill-partition",
        ],
    ),
    (
        "tidemill-controller",
        &["tidemill-model", "tidemill-rt", "tidemill-consensus"],
    ),
    (
        "tidemill-groups",
        &["tidemill-model", "tidemill-rt", "tidemill-ring"],
    ),
    ("tidemill-wasm-host", &["tidemill-model", "tidemill-rt"]),
    (
        "tidemill-transform",
        &["tidemill-model", "tidemill-rt", "tidemill-wasm-host"],
    ),
];

/// What lies beside the broker. The end-to-end tests and the benchmarks see the broker from outside, as a
/// process; what they link is limited too.
const OTHERS: [(&str, &[&str]); 8] = [
    ("base2histogram", &[]),
    (
        "transform-cli",
        &["tidemill-model", "tidemill-rt", "tidemill-wasm-host"],
    ),
    ("tidemill-sdk", &["tidemill-sdk-macros"]),
    ("tidemill-sdk-macros", &["tidemill-sdk"]),
    ("tidemill-tests", &["tidemill-model", "tidemill-wasm-host"]),
    (
        "tidemill-hostile",
        &[
            "tidemill-model",
            "tidemill-wire",
            "tidemill-rt",
            "tidemill-shardlog",
            "tidemill-partition",
            "tidemill-ring",
            "tidemill-controller",
            "tidemill-groups",
            "tidemill-consensus",
            "tidemill-wasm-host",
        ],
    ),
    (
        "tidemill-benches",
        &[
            "tidemill-model",
            "tidemill-rt",
            "tidemill-wasm-host",
            "tidemill-sdk",
            "tidemill-tests",
        ],
    ),
    ("xtask", &[]),
];

/// Families of foreign crates (by the beginning of their names) and who alone may depend on them.
const ONLY: [(&str, &[&str]); 5] = [
    ("glommio", &["tidemill-rt"]),
    ("openraft", &["tidemill-consensus"]),
    ("wasmtime", &["tidemill-wasm-host"]),
    (
        "kafka-protocol",
        &[
            "tidemill-wire",
            "tidemill",
            "tidemill-tests",
            "tidemill-hostile",
        ],
    ),
    ("tokio", &["tidemill-rt", "tidemill-wasm-host", "tidemill"]),
];

/// Folder of the broker that alone may speak the codec's types; the rest of it speaks the domain's.
const KAFKA_FRONT: &str = "broker/src/kafka/";

/// Findings on the dependencies of every workspace package, development dependencies included.
pub(super) fn check() -> Result<Vec<String>, String> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let mut allowed: BTreeMap<&str, Vec<&str>> = BROKER
        .iter()
        .chain(&OTHERS)
        .map(|(name, may)| (*name, may.to_vec()))
        .collect();
    allowed.insert("tidemill", BROKER.iter().map(|(name, _)| *name).collect());
    let ours: BTreeSet<String> = metadata
        .packages
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        match allowed.get(package.name.as_str()) {
            Some(may) => findings.extend(findings_of(package, may, &ours)),
            None => findings.push(format!(
                "package {} has no line in the dependency table (xtask/src/tidy/dependencies.rs)",
                package.name
            )),
        }
    }
    Ok(findings)
}

fn findings_of(package: &Package, may: &[&str], ours: &BTreeSet<String>) -> Vec<String> {
    let name = package.name.as_str();
    let mut findings = Vec::new();
    for dependency in &package.dependencies {
        let used = dependency.name.as_str();
        if ours.contains(used) && !may.contains(&used) {
            findings.push(format!(
                "{name} may not use {used} (architecture, section 8)"
            ));
        }
        for (family, users) in ONLY {
            if used.starts_with(family) && !users.contains(&name) {
                findings.push(format!(
                    "{name} may not use {used}: only {} may",
                    users.join(", ")
                ));
            }
        }
    }
    findings
}

/// Inside the broker, only the Kafka front names the codec's types.
pub(super) fn check_words(files: &[PathBuf]) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for file in files {
        let path = file.to_string_lossy();
        if path.starts_with("broker/src/")
            && !path.starts_with(KAFKA_FRONT)
            && read(file)?.contains("kafka_protocol::")
        {
            findings.push(format!("{path}: kafka_protocol is for {KAFKA_FRONT} alone"));
        }
    }
    Ok(findings)
}
