//! Cases as their files say them, and what came out, in a form in which both can be compared.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What a record has where its case says nothing, ms.
const TIMESTAMP: i64 = 1_700_000_000_000;
/// Bytes shown of a long value.
const SHOWN: usize = 60;

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    /// The file's name without its ending.
    pub(crate) name: String,
    json: Value,
}

/// An output, with its partitions where the case says how many.
#[derive(Debug)]
pub(crate) struct Declared {
    /// The topic.
    pub(crate) name: String,
    /// Its partitions.
    pub(crate) partitions: Option<u32>,
}

/// A record of input or output.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) timestamp: i64,
}

/// What a run led to, or should.
#[derive(Debug, Default)]
pub(crate) struct Came {
    /// By topic and placement, in order.
    pub(crate) outputs: BTreeMap<(String, String), Vec<Item>>,
    /// By offset: why a record failed.
    pub(crate) failures: BTreeMap<i64, String>,
    /// By offset: why its call ended.
    pub(crate) ended: BTreeMap<i64, String>,
    /// Level and line.
    pub(crate) logs: Vec<(String, String)>,
}

/// `transform-sdk/conformance/`.
pub(crate) fn folder() -> PathBuf {
    tidemill_tests::root().join("transform-sdk/conformance")
}

impl Case {
    /// All cases, by name.
    pub(crate) fn all() -> Vec<Case> {
        let files = std::fs::read_dir(folder().join("cases")).expect("the cases are there");
        let mut cases: Vec<Case> = files
            .flatten()
            .map(|file| Case::read(&file.path()))
            .collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }

    fn read(path: &std::path::Path) -> Case {
        let text = std::fs::read_to_string(path).expect("a case can be read");
        let json = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let known = [
            "function",
            "environment",
            "outputs",
            "partition",
            "records",
            "expect",
        ];
        check_keys(&json, &known, path.display());
        check_keys(
            &json["expect"],
            &["outputs", "failures", "ended", "logs"],
            path.display(),
        );
        let name = path
            .file_stem()
            .expect("a file has a name")
            .to_string_lossy()
            .into_owned();
        Case { name, json }
    }

    /// The function and the other variables.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let function = text(&self.json["function"]);
        let mut all = vec![("CONFORMANCE_FUNCTION".to_owned(), function)];
        for (key, value) in self.json["environment"].as_object().into_iter().flatten() {
            all.push((key.clone(), text(value)));
        }
        all
    }

    /// The outputs.
    pub(crate) fn outputs(&self) -> Vec<Declared> {
        let Some(outputs) = self.json["outputs"].as_array() else {
            return vec![Declared {
                name: "out".to_owned(),
                partitions: None,
            }];
        };
        let declared = |output: &Value| match output.as_str() {
            Some(name) => Declared {
                name: name.to_owned(),
                partitions: None,
            },
            None => Declared {
                name: text(&output["name"]),
                partitions: output["partitions"].as_u64().map(|n| n as u32),
            },
        };
        outputs.iter().map(declared).collect()
    }

    /// The input's partition.
    pub(crate) fn partition(&self) -> i32 {
        self.json["partition"].as_i64().unwrap_or(0) as i32
    }

    /// The input, with offsets.
    pub(crate) fn records(&self) -> Vec<(i64, Item)> {
        let mut next = 0;
        let mut all = Vec::new();
        for record in self.json["records"].as_array().into_iter().flatten() {
            check_keys(
                record,
                &["key", "value", "headers", "timestamp", "offset", "times"],
                &self.name,
            );
            next = record["offset"].as_i64().unwrap_or(next);
            for _ in 0..record["times"].as_u64().unwrap_or(1) {
                all.push((next, item(record)));
                next += 1;
            }
        }
        all
    }

    /// Whether log lines are compared.
    pub(crate) fn compares_logs(&self) -> bool {
        !self.json["expect"]["logs"].is_null()
    }

    /// What should come.
    pub(crate) fn expected(&self) -> Came {
        let expect = &self.json["expect"];
        let mut came = Came::default();
        for (topic, records) in expect["outputs"].as_object().into_iter().flatten() {
            for record in records.as_array().expect("a list of records") {
                check_keys(
                    record,
                    &["key", "value", "headers", "timestamp", "to", "times"],
                    &self.name,
                );
                let to = match &record["to"] {
                    Value::Null => "by-input".to_owned(),
                    Value::String(to) => to.clone(),
                    partition => partition.to_string(),
                };
                let records = came.outputs.entry((topic.clone(), to)).or_default();
                let times = record["times"].as_u64().unwrap_or(1);
                records.extend((0..times).map(|_| item(record)));
            }
        }
        let failures = |list: &Value| {
            let list = list.as_array().cloned().unwrap_or_default();
            let failure = |f: &Value| {
                (
                    f["offset"].as_i64().expect("an offset"),
                    text(&f["contains"]),
                )
            };
            list.iter().map(failure).collect()
        };
        came.failures = failures(&expect["failures"]);
        came.ended = failures(&expect["ended"]);
        let lines = expect["logs"].as_array().into_iter().flatten();
        came.logs = lines
            .map(|line| (text(&line["level"]), text(&line["message"])))
            .collect();
        came
    }
}

impl Came {
    /// What is wrong with `came`, if this should have come.
    pub(crate) fn differs(&self, came: &Came, logs: bool) -> Option<String> {
        let places = |c: &Came| c.outputs.keys().cloned().collect::<Vec<_>>();
        if places(self) != places(came) {
            return Some(format!(
                "written to {:?}, expected {:?}",
                places(came),
                places(self)
            ));
        }
        for (place, expected) in &self.outputs {
            let written = &came.outputs[place];
            if let Some(n) =
                (0..expected.len().min(written.len())).find(|n| expected[*n] != written[*n])
            {
                return Some(format!(
                    "{place:?} record {n} is {:?}, expected {:?}",
                    written[n], expected[n]
                ));
            }
            if expected.len() != written.len() {
                return Some(format!(
                    "{place:?} has {} records, expected {}",
                    written.len(),
                    expected.len()
                ));
            }
        }
        let kinds = [
            ("failed", &self.failures, &came.failures),
            ("ended", &self.ended, &came.ended),
        ];
        for (what, expected, came) in kinds {
            let alike = expected.len() == came.len()
                && expected
                    .iter()
                    .zip(came)
                    .all(|(e, c)| e.0 == c.0 && c.1.contains(e.1.as_str()));
            if !alike {
                return Some(format!("{what}: {came:?}, expected {expected:?}"));
            }
        }
        (logs && self.logs != came.logs)
            .then(|| format!("logged {:?}, expected {:?}", came.logs, self.logs))
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: &Option<Vec<u8>>| match bytes {
            None => "null".to_owned(),
            Some(bytes) => format!(
                "{} B {:?}",
                bytes.len(),
                String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)])
            ),
        };
        write!(
            f,
            "key {} value {} headers",
            shown(&self.key),
            shown(&self.value)
        )?;
        for (key, value) in &self.headers {
            write!(f, " {:?}={}", String::from_utf8_lossy(key), shown(value))?;
        }
        write!(f, " at {}", self.timestamp)
    }
}

fn check_keys(json: &Value, known: &[&str], place: impl fmt::Display) {
    let empty = Map::new();
    for key in json.as_object().unwrap_or(&empty).keys() {
        assert!(
            known.contains(&key.as_str()),
            "{place}: `{key}` is not known here"
        );
    }
}

fn item(record: &Value) -> Item {
    let headers = record["headers"].as_array().into_iter().flatten();
    Item {
        key: bytes(&record["key"]),
        value: bytes(&record["value"]),
        headers: headers
            .map(|h| (text(&h[0]).into_bytes(), bytes(&h[1])))
            .collect(),
        timestamp: record["timestamp"].as_i64().unwrap_or(TIMESTAMP),
    }
}

fn bytes(json: &Value) -> Option<Vec<u8>> {
    use base64::Engine;
    match json {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        json if json["base64"].is_string() => {
            let engine = base64::engine::general_purpose::STANDARD;
            Some(engine.decode(text(&json["base64"])).expect("base64"))
        }
        json => {
            let times = json["times"]
                .as_u64()
                .expect("bytes are a text, base64 or repeated");
            Some(text(&json["repeat"]).repeat(times as usize).into_bytes())
        }
    }
}

fn text(json: &Value) -> String {
    json.as_str()
        .unwrap_or_else(|| panic!("{json} is no text"))
        .to_owned()
}
