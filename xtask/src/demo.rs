//! `cargo xtask demo`: a broker with embedded defaults, the masking example deployed, records before and after.

use crate::process::{self, cargo, root, shown, target_dir};
use crate::{ports, setup};
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the broker listens without arguments.
const KAFKA_PORT: u16 = 9092;
const ADMIN_PORT: u16 = 9644;
/// How long the broker may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the output may take.
const OUTPUT_LIMIT: Duration = Duration::from_secs(30);
const EVENTS: usize = 12;
const PARTITIONS: &str = "3";
const INPUT: &str = "customers";
const OUTPUT: &str = "customers-masked";

/// Runs the demo; with `--once` it ends after the output, successful only if every record came out
/// masked exactly once.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let once = match args {
        [] => false,
        [flag] if flag == "--once" => true,
        _ => return Err("usage: cargo xtask demo [--once]".to_owned()),
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| format!("cannot watch for Ctrl-C: {error}"))?;
    }
    ports::must_be_free(KAFKA_PORT, "Kafka clients")?;
    ports::must_be_free(ADMIN_PORT, "admin API")?;
    setup::writable_target()?;
    setup::wasm_target()?;
    build()?;
    let mut demo = Demo::start(stop)?;
    let shown = demo.show();
    if once || shown.is_err() {
        let clean = demo.stop();
        shown?;
        return if clean {
            Ok(())
        } else {
            Err("the broker did not end cleanly after SIGTERM".to_owned())
        };
    }
    demo.stay()
}

fn build() -> Result<(), String> {
    if !target_dir().join("debug/tidemill").is_file() {
        println!(
            "building the broker and the command line; the first time this takes about ten minutes on two cores"
        );
    }
    process::run(&mut cargo(&["build", "--workspace", "--bins", "--locked"]))
}

/// The running broker and what is done with it.
struct Demo {
    broker: Child,
    folder: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Demo {
    /// Starts the broker in an empty data directory and waits until it answers.
    fn start(stop: Arc<AtomicBool>) -> Result<Demo, String> {
        let folder = target_dir().join("demo");
        let _ = std::fs::remove_dir_all(&folder);
        let data = folder.join("data");
        let log_path = folder.join("broker.log");
        let log = std::fs::create_dir_all(&folder)
            .and_then(|()| File::create(&log_path))
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|error| format!("cannot write {}: {error}", log_path.display()))?;
        let mut command = Command::new(target_dir().join("debug/tidemill"));
        command
            .arg("start")
            .arg("--data-dir")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(log.0)
            .stderr(log.1);
        println!("$ {}", shown(&command));
        let broker = command
            .spawn()
            .map_err(|error| format!("cannot start the broker: {error}"))?;
        let mut demo = Demo {
            broker,
            folder,
            stop,
        };
        demo.wait_healthy(&log_path)?;
        Ok(demo)
    }

    fn wait_healthy(&mut self, log: &Path) -> Result<(), String> {
        let Demo { broker, stop, .. } = self;
        let gone = || stop.load(Ordering::Relaxed) || !matches!(broker.try_wait(), Ok(None));
        if process::wait_until(START_LIMIT, || healthy(ADMIN_PORT), gone) {
            return Ok(());
        }
        self.stop();
        let said = std::fs::read_to_string(log).unwrap_or_default();
        Err(format!(
            "the broker did not come up; it said (all of it in {}):\n{}",
            log.display(),
            tail(&said, 15)
        ))
    }

    /// Deploys, produces, prints input and output side by side, and counts.
    fn show(&self) -> Result<(), String> {
        let project = root().join("examples/mask-rust");
        self.cli(
            &project,
            &["topic", "create", INPUT, "--partitions", PARTITIONS],
        )?;
        self.cli(&project, &["build"])?;
        let module = built_module(&project)?;
        let deploy = [
            "deploy",
            "--module",
            &module,
            "--name",
            "mask-rust",
            "--input",
            INPUT,
            "--output",
            OUTPUT,
        ];
        print!("{}", self.cli(&project, &deploy)?);
        let events = events();
        let file = self.folder.join("events.txt");
        write_events(&file, &events)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        let file = file.to_string_lossy().into_owned();
        self.cli(
            &project,
            &["produce", INPUT, &file, "--key-separator", "\t"],
        )?;
        let before = self.consume(INPUT)?;
        let after = self.consume(OUTPUT)?;
        side_by_side(&before, &after);
        verify(&events, &after)?;
        println!(
            "\n{} records in, {} records out, each masked exactly once\n",
            before.len(),
            after.len()
        );
        Ok(())
    }

    /// All records of a topic as (key, value), once there are as many as were produced.
    fn consume(&self, topic: &str) -> Result<Vec<(String, String)>, String> {
        let there = || {
            self.records_in(topic)
                .is_ok_and(|count| count >= EVENTS as i64)
        };
        if !process::wait_until(OUTPUT_LIMIT, there, || self.stop.load(Ordering::Relaxed)) {
            let count = self.records_in(topic)?;
            return Err(format!(
                "{count} of {EVENTS} records are in {topic}; `transform list` and the broker's log say why"
            ));
        }
        let args = [
            "consume",
            topic,
            "--from",
            "earliest",
            "--exit-at-end",
            "--output-format",
            "json",
        ];
        let text = self.cli(&root(), &args)?;
        let mut records: Vec<(String, String)> = json_records(&text)
            .iter()
            .map(|record| (text_of(&record["key"]), text_of(&record["value"])))
            .collect();
        records.sort();
        Ok(records)
    }

    /// The sum of the partitions' high watermarks.
    fn records_in(&self, topic: &str) -> Result<i64, String> {
        let args = ["topic", "describe", topic, "--output-format", "json"];
        let text = process::output(&mut self.command(&root(), &args))?;
        let described: Value =
            serde_json::from_str(&text).map_err(|error| format!("topic describe: {error}"))?;
        let partitions = described["partitions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok(partitions
            .iter()
            .filter_map(|partition| partition["high_watermark"].as_i64())
            .sum())
    }

    fn command(&self, folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(target_dir().join("debug/transform"));
        command
            .args(args)
            .current_dir(folder)
            .env_remove("CARGO_TARGET_DIR");
        command.env("TIDEMILL_ADMIN", format!("127.0.0.1:{ADMIN_PORT}"));
        command
    }

    fn cli(&self, folder: &Path, args: &[&str]) -> Result<String, String> {
        if self.stop.load(Ordering::Relaxed) {
            return Err("stopped".to_owned());
        }
        println!("$ transform {}", args.join(" ").replace('\t', "'\\t'"));
        process::output(&mut self.command(folder, args))
    }

    /// Leaves the broker running until Ctrl-C, and says what to try.
    fn stay(mut self) -> Result<(), String> {
        println!("{}", next_steps(&self.folder));
        loop {
            if self.stop.load(Ordering::Relaxed) {
                println!("\nstopping the broker");
                self.stop();
                return Ok(());
            }
            if let Ok(Some(status)) = self.broker.try_wait() {
                return Err(format!(
                    "the broker ended ({status}); see {}",
                    self.folder.join("broker.log").display()
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn stop(&mut self) -> bool {
        process::terminate(&mut self.broker)
    }
}

impl Drop for Demo {
    /// Whatever happens, no broker stays behind.
    fn drop(&mut self) {
        if matches!(self.broker.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Whether the admin address answers `GET /health` with 200.
pub(crate) fn healthy(port: u16) -> bool {
    use std::io::Read;
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let request =
        format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn built_module(project: &Path) -> Result<String, String> {
    let folder = project.join("target/transform");
    let entries = std::fs::read_dir(&folder)
        .map_err(|error| format!("no module in {}: {error}", folder.display()))?;
    let mut modules = entries.flatten().map(|entry| entry.path());
    modules
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
        .map(|path| path.to_string_lossy().into_owned())
        .ok_or_else(|| format!("no module in {}", folder.display()))
}

/// Keys and JSON values that look like those of a shop.
fn events() -> Vec<(String, String)> {
    const NAMES: [(&str, &str); 6] = [
        ("Ana Duarte", "PT"),
        ("Björn Falk", "SE"),
        ("Chioma Eze", "NG"),
        ("Dmitri Rossi", "IT"),
        ("Elif Kaya", "TR"),
        ("Finn Maas", "NL"),
    ];
    (0..EVENTS)
        .map(|i| {
            let (name, country) = NAMES[i % NAMES.len()];
            let first = name.split(' ').next().unwrap_or(name).to_lowercase();
            let value = format!(
                r#"{{"name":"{name}","email":"{first}.{i}@example.com","country":"{country}"}}"#
            );
            (format!("c-{:04}", 1001 + i), value)
        })
        .collect()
}

fn write_events(path: &Path, events: &[(String, String)]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    events
        .iter()
        .try_for_each(|(key, value)| writeln!(file, "{key}\t{value}"))
}

/// Records in the CLI's JSON: one array, or one object a line.
fn json_records(text: &str) -> Vec<Value> {
    match serde_json::from_str(text) {
        Ok(Value::Array(records)) => records,
        _ => text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect(),
    }
}

fn text_of(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn side_by_side(before: &[(String, String)], after: &[(String, String)]) {
    let after: BTreeMap<&str, &str> = after
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let width = before
        .iter()
        .map(|(_, value)| value.chars().count())
        .max()
        .unwrap_or(0)
        .max(INPUT.len());
    println!("\n{:<8}{INPUT:<width$}  {OUTPUT}", "key");
    for (key, value) in before {
        let masked = after
            .get(key.as_str())
            .copied()
            .unwrap_or("(nothing came out)");
        println!("{key:<8}{value:<width$}  {masked}");
    }
}

/// Every key came out once, with nothing of the address left, and the rest as it was.
fn verify(events: &[(String, String)], after: &[(String, String)]) -> Result<(), String> {
    let mut seen: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in after {
        seen.entry(key).or_default().push(value);
    }
    for (key, value) in events {
        let outputs = seen.remove(key.as_str()).unwrap_or_default();
        let [output] = outputs.as_slice() else {
            return Err(format!(
                "record {key} came out {} times instead of once",
                outputs.len()
            ));
        };
        let before: Value =
            serde_json::from_str(value).map_err(|error| format!("event {key}: {error}"))?;
        let masked: Value = serde_json::from_str(output)
            .map_err(|error| format!("output {key} is not JSON: {error}"))?;
        let address = text_of(&before["email"]);
        if output.contains(&address)
            || masked["email"].is_null()
            || masked["name"] != before["name"]
        {
            return Err(format!("record {key} is not masked: {output}"));
        }
    }
    match seen.keys().next() {
        Some(key) => Err(format!("record {key} came out and never went in")),
        None => Ok(()),
    }
}

fn next_steps(folder: &Path) -> String {
    let transform = target_dir().join("debug/transform");
    format!(
        "\
The broker runs on 127.0.0.1:{KAFKA_PORT} (Kafka) and :{ADMIN_PORT} (admin). Try in another terminal:

  alias transform={transform}
  printf 'me\\t{{\"name\":\"Me\",\"email\":\"me@example.com\"}}\\n' | transform produce {INPUT} --key-separator '\\t'
  transform consume {OUTPUT} --from earliest --max 13
  transform list
  transform describe mask-rust
  kcat -b 127.0.0.1:{KAFKA_PORT} -t {OUTPUT} -C -e        # any Kafka client will do
  transform init mine --language rust                     # write your own

Its log is {log}. Ctrl-C stops it.",
        transform = transform.display(),
        log = folder.join("broker.log").display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(events: &[(String, String)]) -> Vec<(String, String)> {
        let mask = |value: &String| {
            let mut value: Value = serde_json::from_str(value).unwrap();
            value["email"] = "***".into();
            value.to_string()
        };
        events
            .iter()
            .map(|(key, value)| (key.clone(), mask(value)))
            .collect()
    }

    #[test]
    fn every_record_masked_once_is_accepted() {
        verify(&events(), &masked(&events())).unwrap();
    }

    #[test]
    fn doubled_lost_or_unmasked_records_are_refused() {
        let events = events();
        let good = masked(&events);
        let mut doubled = good.clone();
        doubled.push(good[0].clone());
        assert!(verify(&events, &doubled).is_err());
        assert!(verify(&events, &good[1..]).is_err());
        assert!(verify(&events, &events).is_err());
    }
}
