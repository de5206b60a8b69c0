//! The brokers that are measured in turn: ours, and its peer where one is asked for.

use super::measured;
use super::peer::Peer;
use crate::process::target_dir;
use serde_json::Value;
use std::path::Path;

const PORT: u16 = 19_392;
const ADMIN_PORT: u16 = 19_393;
/// Name of our side in tables.
pub(super) const OURS: &str = "Tidemill";
/// Name of the other side.
pub(super) const THEIRS: &str = "Apache Kafka 4.3.1";

/// One of the brokers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side<'a> {
    /// Tidemill.
    Ours,
    /// Apache Kafka.
    Theirs(&'a Peer),
}

/// Our side, then the peer if there is one.
pub(super) fn all(peer: Option<&Peer>) -> Vec<Side<'_>> {
    std::iter::once(Side::Ours)
        .chain(peer.map(Side::Theirs))
        .collect()
}

impl Side<'_> {
    /// Its name in tables.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Side::Ours => OURS,
            Side::Theirs(_) => THEIRS,
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        match self {
            Side::Ours => format!("127.0.0.1:{PORT}"),
            Side::Theirs(peer) => peer.address().to_owned(),
        }
    }

    /// The command that starts it on core 0, with an emptied data directory.
    pub(super) fn fresh(&self) -> Result<Vec<String>, String> {
        match self {
            Side::Ours => tidemill(),
            Side::Theirs(peer) => peer.fresh(),
        }
    }

    /// Runs a measurement program as `NAME ADDRESS ARGS... -- COMMAND` on core 1, on an emptied data directory: its command
    /// line, and its last line as JSON.
    pub(super) fn measure(&self, name: &str, args: &[&str]) -> Result<(String, Value), String> {
        let (address, command) = (self.address(), self.fresh()?);
        let mut words = vec![address.as_str()];
        words.extend(args);
        words.push("--");
        words.extend(command.iter().map(String::as_str));
        measured(name, &words).map(|(line, _, json)| (line, json))
    }
}

/// A number of a program's JSON.
pub(super) fn number(json: &Value, name: &str) -> Result<f64, String> {
    json[name]
        .as_f64()
        .ok_or_else(|| format!("the program reported no {name}"))
}

fn tidemill() -> Result<Vec<String>, String> {
    let data = target_dir().join("bench/tidemill");
    empty(&data)?;
    let binary = target_dir()
        .join("release/tidemill")
        .to_string_lossy()
        .into_owned();
    let words = [
        "taskset",
        "-c",
        "0",
        &binary,
        "start",
        "--data-dir",
        &data.to_string_lossy(),
    ]
    .map(str::to_owned);
    let ports = [
        "--kafka-addr".to_owned(),
        format!("127.0.0.1:{PORT}"),
        "--admin-addr".to_owned(),
        format!("127.0.0.1:{ADMIN_PORT}"),
    ];
    Ok(words.into_iter().chain(ports).collect())
}

/// Makes an empty folder of whatever was there.
pub(super) fn empty(folder: &Path) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(folder);
    let parent = folder.parent().expect("the folder lies in the build's");
    std::fs::create_dir_all(parent)
        .map_err(|error| format!("cannot make {}: {error}", parent.display()))
}
