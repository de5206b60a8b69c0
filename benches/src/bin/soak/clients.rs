//! The topics, and the clients that run beside this program.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tidemill_tests::raw::{self, Connection, Header, api};

use crate::raw_load::{INPUT, OUTPUT};
use crate::{RETENTION_MS, SEGMENT_BYTES, Shared, http};

/// Topics of the clients in Python are named so, with the codec behind.
const PREFIX: &str = "soak";
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Records that the producers in Python write in a second, all together.
const RECORDS_PER_SECOND: &str = "1500";
/// Kafka's key of JoinGroup.
const JOIN_GROUP: i16 = 11;

/// Makes every topic that stays. Whether the broker knows retention: else the disk is not judged.
pub(crate) fn make_topics(shared: &Shared) -> bool {
    let mut names: Vec<String> = CODECS.iter().map(|c| format!("{PREFIX}-{c}")).collect();
    names.extend([INPUT, OUTPUT, "soak-passing"].map(str::to_owned));
    let retained = names.iter().all(|name| {
        let configs = format!(
            "{{\"retention.ms\":\"{RETENTION_MS}\",\"segment.bytes\":\"{SEGMENT_BYTES}\"}}"
        );
        make(shared, name, &configs).is_ok()
    });
    if !retained {
        for name in &names {
            if let Err(reason) = make(shared, name, "{}") {
                shared.problem(reason);
            }
        }
    }
    retained
}

fn make(shared: &Shared, name: &str, configs: &str) -> Result<(), String> {
    let body = format!("{{\"name\":\"{name}\",\"partitions\":3,\"configs\":{configs}}}");
    match http::request(&shared.admin, "POST", "/v1/topics", &body) {
        Ok((200..300, _)) => Ok(()),
        Ok((status, answer)) => Err(format!("topic {name}: {status} {answer}")),
        Err(error) => Err(format!("topic {name}: {error}")),
    }
}

/// Whether the broker serves consumer groups.
pub(crate) fn has_groups(kafka: &str) -> bool {
    let ask = raw::frame(api::API_VERSIONS, 0, Header::Plain, &[]);
    let answer = Connection::open(kafka).and_then(|mut c| c.call(&ask));
    // Correlation id, error, count; then key, oldest and newest version of each.
    let keys = answer.unwrap_or_default();
    let mut keys = keys.get(10..).unwrap_or_default().chunks_exact(6);
    keys.any(|api| i16::from_be_bytes([api[0], api[1]]) == JOIN_GROUP)
}

/// The producers and consumers in Python.
#[derive(Debug)]
pub(crate) struct Python(Child);

/// What they counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    pub(crate) seen: u64,
    pub(crate) redelivered: u64,
}

impl Python {
    /// Starts them.
    pub(crate) fn start(shared: &Shared, groups: bool) -> Python {
        let python = tidemill_tests::build_folder().join("../venv/bin/python");
        let child = Command::new(&python)
            .arg(tidemill_tests::root().join("tests/python/soak.py"))
            .args([&shared.kafka, PREFIX, RECORDS_PER_SECOND])
            .arg(if groups { "groups" } else { "plain" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Python(child.unwrap_or_else(|error| {
            panic!("{}: {error}; `cargo xtask soak` makes it", python.display())
        }))
    }

    /// Lets them end: what was written is read to its end first.
    pub(crate) fn finish(mut self, shared: &Shared) -> Tally {
        drop(self.0.stdin.take());
        let mut said = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            let _ = stdout.read_to_string(&mut said);
        }
        let ended = self.0.wait().is_ok_and(|status| status.success());
        let told: Value = serde_json::from_str(said.trim()).unwrap_or_default();
        if !ended || told.is_null() {
            shared.problem(format!("the clients in Python failed: {said}"));
        }
        for problem in told["problems"].as_array().into_iter().flatten() {
            shared.problem(problem.as_str().unwrap_or_default().to_owned());
        }
        let number = |name: &str| told[name].as_u64().unwrap_or_default();
        Tally {
            acknowledged: number("acknowledged"),
            seen: number("seen"),
            redelivered: number("redelivered"),
        }
    }
}
