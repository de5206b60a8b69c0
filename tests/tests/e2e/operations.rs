//! What those who run a broker rely on: settings that act, logs and metrics that other programs read, `inspect`.

use crate::kafka::{self, Load};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{
    Broker, Engine, Options, TestFolder, modules, on_both_engines, program, wait,
};

on_both_engines!(
    metrics_pass_prometheus_own_parser_and_are_all_in_the_guide,
    json_log_is_an_object_a_line_from_start_to_end,
    settings_of_the_file_act,
    inspect_finds_a_stopped_broker_sound_and_shows_its_records,
    inspect_tells_flipped_bytes_and_never_panics,
);

fn tidemill(args: &[&str]) -> Output {
    Command::new(program("tidemill"))
        .args(args)
        .output()
        .expect("the broker's program can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// Type and labels of every metric in the guide.
fn guide() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = fs::read_to_string(tidemill_tests::root().join("docs/guide/metrics.md"))
        .expect("the guide is there");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels = cells[3].split(", ").map(|l| l.trim_matches('`').to_owned());
        let labels = labels.filter(|l| !l.is_empty()).collect();
        (
            cells[1].trim_matches('`').to_owned(),
            (cells[2].to_owned(), labels),
        )
    };
    rows.map(row).collect()
}

/// A broker with small files that has done a bit of everything that is counted; its settings are in the folder.
fn used_broker(engine: Engine) -> (Broker, TestFolder) {
    let folder = TestFolder::new("settings");
    let file = folder.path().join("tidemill.toml");
    fs::write(&file, "[storage]\nlog_file_size = \"4 MiB\"\n").expect("it can be written");
    let broker = Options::new(engine)
        .extra(&["--config", path_text(&file)])
        .start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    cli.deploy(&modules::mask(), "mask", "in", "out");
    let mut load = Load::new(&broker.kafka(), &[]);
    for _ in 0..500 {
        assert!(load.produce("in"));
    }
    assert_eq!(load.finish().acknowledged.len(), 500);
    kafka::read_all(&broker.kafka(), "in", 500);
    (broker, folder)
}

fn metrics_pass_prometheus_own_parser_and_are_all_in_the_guide(engine: Engine) {
    let (broker, _folder) = used_broker(engine);
    let (status, exposition) = broker.get("/metrics").expect("the admin address answers");
    assert_eq!(status, 200);
    let python = tidemill_tests::build_folder().join("../venv/bin/python");
    let script = tidemill_tests::root().join("tests/python/metrics.py");
    let mut parser = Command::new(&python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{}: {error}; `cargo xtask test` makes it", python.display())
        });
    let mut stdin = parser.stdin.take().expect("standard input is piped");
    stdin
        .write_all(exposition.as_bytes())
        .expect("the parser reads");
    drop(stdin);
    let output = parser.wait_with_output().expect("the parser ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let guide = guide();
    let mut seen = BTreeSet::new();
    for line in text(&output.stdout).lines() {
        let mut words = line.split(' ');
        let (kind, sample) = (words.next().expect("a type"), words.next().expect("a name"));
        let labels: BTreeSet<String> = words
            .next()
            .unwrap_or_default()
            .split(',')
            .map(str::to_owned)
            .collect();
        let labels: BTreeSet<String> = labels
            .into_iter()
            .filter(|l| !l.is_empty() && l != "le")
            .collect();
        let ends = ["_bucket", "_count", "_sum"];
        let stripped = ends.iter().find_map(|end| sample.strip_suffix(end));
        let name = if kind == "histogram" {
            stripped.unwrap_or(sample)
        } else {
            sample
        };
        let (expected, expected_labels) = guide
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in the guide"));
        assert_eq!(
            (kind, &labels),
            (expected.as_str(), expected_labels),
            "{name}"
        );
        seen.insert(name.to_owned());
    }
    for name in [
        "tidemill_build_info",
        "tidemill_requests_total",
        "tidemill_request_latency_seconds",
        "tidemill_topic_bytes_in_total",
        "tidemill_transform_partitions",
        "tidemill_memory_limit_bytes",
        "tidemill_log_lines_total",
        "process_start_time_seconds",
    ] {
        assert!(seen.contains(name), "{name} is missing in:\n{exposition}");
    }
}

/// Metric names in an expression: those of Tidemill and of the process.
fn names_in(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c: char| !is_name(c));
    let ours = words.filter(|w| w.starts_with("tidemill_") || w.starts_with("process_"));
    ours.map(|w| w.trim_end_matches("_bucket").to_owned())
        .collect()
}

#[test]
fn every_query_of_the_dashboard_and_of_the_alerts_names_metrics_that_exist() {
    let guide = guide();
    let deploy = tidemill_tests::root().join("deploy");
    let dashboard = fs::read_to_string(deploy.join("grafana/tidemill.json")).expect("it is there");
    let dashboard: serde_json::Value =
        serde_json::from_str(&dashboard).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut expressions = 0;
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("a query");
            let names = names_in(expression);
            assert!(!names.is_empty(), "{expression}");
            names
                .iter()
                .for_each(|name| assert!(guide.contains_key(name), "{name} in {expression}"));
            expressions += 1;
        }
    }
    assert!(expressions > 30, "{expressions}");
    let alerts = fs::read_to_string(deploy.join("prometheus/alerts.yml")).expect("it is there");
    let names = names_in(&alerts);
    assert!(names.len() > 8, "{names:?}");
    names
        .iter()
        .for_each(|name| assert!(guide.contains_key(name), "{name} in the alerts"));
    let page = fs::read_to_string(tidemill_tests::root().join("docs/guide/operations.md"))
        .expect("it is there");
    for alert in alerts
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- alert: "))
    {
        assert!(
            page.contains(alert),
            "docs/guide/operations.md does not say what {alert} means"
        );
    }
}

fn json_log_is_an_object_a_line_from_start_to_end(engine: Engine) {
    let folder = TestFolder::new("settings");
    let file = folder.path().join("tidemill.toml");
    fs::write(&file, "[log]\nformat = \"json\"\nlevel = \"info\"\n").expect("it can be written");
    let mut broker = Options::new(engine)
        .extra(&["--config", path_text(&file)])
        .start();
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    // A frame that no request has: the connection is closed with a warning.
    connection
        .send(&[0x7f, 0xff, 0xff, 0xff])
        .expect("it is sent");
    assert!(connection.is_closed_by_peer());
    assert!(broker.stop().success());
    let log = broker.log();
    let mut levels = BTreeSet::new();
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for name in ["time", "level", "target", "message"] {
            assert!(line[name].is_string(), "{line}");
        }
        levels.insert(line["level"].as_str().expect("text").to_owned());
    }
    assert!(levels.contains("INFO") && levels.contains("WARN"), "{log}");
    assert!(log.contains("stopped cleanly"), "{log}");
}

fn settings_of_the_file_act(engine: Engine) {
    let folder = TestFolder::new("settings");
    let file = folder.path().join("tidemill.toml");
    let settings = "[topics]\nauto_create = false\npartitions = 3\n[kafka]\nidle_timeout = \"1 s\"\nconnections_max = 4\n\
                    request_size_max = \"1 MiB\"\n[metrics]\ntopics_max = 0\n";
    fs::write(&file, settings).expect("it can be written");
    let broker = Options::new(engine)
        .extra(&["--config", path_text(&file)])
        .start();
    let cli = Cli::new(&broker);
    cli.ok(&["topic", "create", "made"]);
    let made = cli.json(&["topic", "describe", "made"]);
    assert_eq!(
        made["partitions"].as_array().map(Vec::len),
        Some(3),
        "{made}"
    );
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    connection
        .call(&raw::metadata("asked-for"))
        .expect("it is answered");
    let topics = cli.ok(&["topic", "list"]);
    assert!(!topics.contains("asked-for"), "{topics}");
    // Idle from now on.
    let closed = wait::until(Duration::from_secs(20), || connection.is_closed_by_peer());
    assert!(closed, "an idle connection is closed");
    let mut large = Connection::open(&broker.kafka()).expect("the broker listens");
    large
        .send(&(2_000_000i32).to_be_bytes())
        .expect("it is sent");
    assert!(large.is_closed_by_peer());
    let (_, metrics) = broker.get("/metrics").expect("metrics");
    assert!(!metrics.contains("topic=\"made\""), "{metrics}");
}

#[test]
fn config_check_says_what_is_wrong_what_differs_and_what_the_machine_lacks() {
    let folder = TestFolder::new("settings");
    let file = folder.path().join("tidemill.toml");
    let check = |settings: &str| {
        fs::write(&file, settings).expect("it can be written");
        let output = tidemill(&["config", "check", path_text(&file)]);
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        (output.status.code(), said)
    };
    let (code, said) = check("[kafka]\nidle_timeout = \"5 min\"\n");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("kafka.idle_timeout = \"5 min\"") && said.contains("10 min"),
        "{said}"
    );
    let (code, said) = check("[memory]\ncache = \"900 TiB\"\n[kafka]\nidle_timout = \"1 s\"\n");
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("line 2: memory.cache") && said.contains("did you mean kafka.idle_timeout?"),
        "{said}"
    );
    let (code, said) = check("[memory]\ncache = \"1 TiB\"\n");
    assert_eq!(code, Some(1), "{said}");
    let printed = tidemill(&["config", "default"]);
    let (code, said) = check(&text(&printed.stdout));
    assert!(
        code != Some(2) && said.contains("changes nothing"),
        "{said}"
    );
    let shown = tidemill(&[
        "config",
        "show",
        "--config",
        path_text(&file),
        "--shards",
        "3",
    ]);
    assert!(
        text(&shown.stdout).contains("shards = 3") && text(&shown.stdout).contains("# --shards")
    );
}

#[test]
fn completions_are_scripts_that_shells_take_and_man_pages_are_written() {
    let folder = TestFolder::new("man");
    for name in ["tidemill", "transform"] {
        let output = Command::new(program(name))
            .args(["completions", "bash"])
            .output()
            .expect("it runs");
        assert!(output.status.success());
        let script = folder.path().join(format!("{name}.bash"));
        fs::write(&script, &output.stdout).expect("it can be written");
        let checked = Command::new("bash")
            .arg("-n")
            .arg(&script)
            .output()
            .expect("bash is there");
        assert!(
            checked.status.success() && checked.stderr.is_empty(),
            "{}",
            text(&checked.stderr)
        );
        for shell in ["zsh", "fish"] {
            let output = Command::new(program(name))
                .args(["completions", shell])
                .output()
                .expect("it runs");
            assert!(output.status.success() && text(&output.stdout).contains(name));
        }
        let man = Command::new(program(name))
            .arg("man")
            .arg(folder.path())
            .output()
            .expect("it runs");
        assert!(man.status.success(), "{}", text(&man.stderr));
        let page =
            fs::read_to_string(folder.path().join(format!("{name}.1"))).expect("it was written");
        assert!(page.contains(".SH NAME") && page.contains(name));
    }
    assert!(folder.path().join("tidemill-start.1").exists());
}

pub(crate) fn inspect(path: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = tidemill(&[&["inspect", path_text(path)], more].concat());
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code(), said)
}

fn inspect_finds_a_stopped_broker_sound_and_shows_its_records(engine: Engine) {
    let (mut broker, _folder) = used_broker(engine);
    let (code, said) = inspect(&broker.data(), &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("another tidemill"), "{said}");
    assert!(broker.stop().success());
    let before = listing(&broker.data());
    let (code, said) = inspect(&broker.data(), &["--records", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let lines = said
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON lines"));
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    lines.for_each(|line| {
        *kinds
            .entry(line["what"].as_str().expect("a kind").to_owned())
            .or_default() += 1
    });
    for kind in [
        "node",
        "shard",
        "log",
        "ring",
        "end",
        "checkpoint",
        "topic",
        "transform",
        "partition",
    ] {
        assert!(kinds.contains_key(kind), "{kind} in {kinds:?}");
    }
    let (code, said) = inspect(&broker.data(), &["--details"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("frame ring=") && said.contains("everything that was read is sound"),
        "{said}"
    );
    assert_eq!(listing(&broker.data()), before, "inspect changes nothing");
    broker.restart();
}

/// Every file under `folder` with its length.
fn listing(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut out = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .expect("a folder")
            .map(|e| e.expect("an entry"))
        {
            let kind = entry.metadata().expect("its kind");
            match kind.is_dir() {
                true => folders.push(entry.path()),
                false => drop(out.insert(entry.path(), kind.len())),
            }
        }
    }
    out
}

fn inspect_tells_flipped_bytes_and_never_panics(engine: Engine) {
    const FLIPS: u64 = 12;
    let (mut broker, _folder) = used_broker(engine);
    assert!(broker.stop().success());
    let readable = |path: &PathBuf| {
        let extension = path.extension().and_then(|e| e.to_str());
        matches!(extension, Some("log" | "checkpoint" | "segment" | "index"))
    };
    let files: Vec<PathBuf> = listing(&broker.data())
        .into_keys()
        .filter(readable)
        .collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut told = 0;
    for file in &files {
        let sound = fs::read(file).expect("it can be read");
        let used = sound.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        for _ in 0..FLIPS / 2 {
            let mut damaged = sound.clone();
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if let Some(byte) = damaged.get_mut((state >> 33) as usize % used.max(1)) {
                *byte ^= 1 << (state & 7);
            }
            fs::write(file, &damaged).expect("it can be written");
            let (code, said) = inspect(file, &["--records"]);
            assert!(matches!(code, Some(0..=2)), "{code:?}: {said}");
            told += u64::from(code == Some(1));
        }
        fs::write(file, &sound).expect("it can be written");
    }
    let first = files
        .iter()
        .find(|f| f.extension().is_some_and(|e| e == "checkpoint"))
        .expect("a checkpoint");
    let mut damaged = fs::read(first).expect("it can be read");
    let at = damaged.len() - 1;
    damaged[at] ^= 1;
    fs::write(first, &damaged).expect("it can be written");
    let (code, said) = inspect(&broker.data(), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("DAMAGED") && said.contains(path_text(first)),
        "{said}"
    );
    assert!(told > 0, "no flipped byte was told of");
}
