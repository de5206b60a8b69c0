//! The developer's loop: `transform test` on samples and against expectations, `transform dev`.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, TestFolder, modules, on_both_engines, program};

on_both_engines!(
    sample_of_a_topic_is_its_newest_records_of_all_partitions,
    save_is_built_and_deployed_and_a_mistake_waits_for_the_next,
);

/// How long a build and a deployment may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(240);

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

fn sample_of_a_topic_is_its_newest_records_of_all_partitions(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("orders", 3);
    for round in 0..4 {
        let lines: String = (0..30)
            .map(|n| {
                format!(
                    "k{n}\t{{\"id\":{},\"email\":\"a{n}@example.com\"}}\n",
                    round * 30 + n
                )
            })
            .collect();
        let ran = cli.run_with_input(&["produce", "orders", "--key-separator", "\t"], &lines);
        assert!(ran.ok, "{}", ran.text());
    }
    let module = modules::mask();
    let module = module.to_string_lossy();
    let json = ["--output-format", "json"];
    let sample = |last: &str| {
        let args = [
            "test",
            "--module",
            &module,
            "--from-topic",
            "orders",
            "--last",
            last,
        ];
        json_lines(&cli.ok(&[&args[..], &json].concat()))
    };
    let mut records = sample("40");
    let summary = records.pop().expect("the last line sums up");
    assert_eq!(
        (records.len(), &summary["summary"]["read"]),
        (40, &40.into())
    );
    assert!(summary["summary"]["cost"]["cpu_ns_per_record"].as_f64() > Some(0.0));
    let times: Vec<i64> = records
        .iter()
        .filter_map(|r| r["input"]["timestamp"].as_i64())
        .collect();
    assert!(times.is_sorted() && times.len() == 40, "{times:?}");
    // The newest of all: each of those that were left out is as old as the oldest, or older.
    let all = json_lines(
        &cli.ok(&[
            &["consume", "orders", "--from", "earliest", "--exit-at-end"][..],
            &json,
        ]
        .concat()),
    );
    let place = |r: &Value| (r["partition"].as_i64(), r["offset"].as_i64());
    let sampled: Vec<_> = records.iter().map(|r| place(&r["input"])).collect();
    let left_out = all.iter().filter(|r| !sampled.contains(&place(r)));
    let oldest = times[0];
    assert_eq!(left_out.clone().count(), 80);
    assert!(
        left_out
            .into_iter()
            .all(|r| r["timestamp"].as_i64() <= Some(oldest))
    );
    what_one_prints_the_other_reads(&cli, &module, &all);
}

/// Piped from one verb into the other, records keep their key, time, offset and partition.
fn what_one_prints_the_other_reads(cli: &Cli, module: &str, all: &[Value]) {
    let json = ["--output-format", "json"];
    let place = |r: &Value| (r["partition"].as_i64(), r["offset"].as_i64());
    let piped = cli.ok(&[
        &["consume", "orders", "--from", "earliest", "--exit-at-end"][..],
        &json,
    ]
    .concat());
    let tried = cli.run_with_input(
        &[&["test", "--module", module, "--json-records"][..], &json].concat(),
        &piped,
    );
    assert!(tried.ok, "{}", tried.text());
    let tried = json_lines(&tried.stdout);
    for (record, was) in tried.iter().zip(all) {
        assert_eq!(place(&record["input"]), place(was));
        assert_eq!(record["input"]["key"], was["key"]);
        assert_eq!(record["outputs"][0]["timestamp"], was["timestamp"]);
    }
}

#[test]
fn empty_standard_input_is_no_other_file() {
    let folder = TestFolder::new("empty-input");
    let manifest = "name = \"m\"\nlanguage = \"rust\"\n";
    let target = folder.path().join("target/transform");
    std::fs::create_dir_all(&target).expect("it can be made");
    std::fs::copy(modules::mask(), target.join("m.wasm")).expect("it can be copied");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
    };
    write("transform.toml", manifest);
    write("input.jsonl", "{\"email\":\"a@b\"}\n{}\n");
    write("empty", "");
    let file = std::fs::File::open(folder.path().join("empty")).expect("it was written");
    let test = |stdin: Stdio| {
        let mut command = Command::new(program("transform"));
        command
            .args(["test", "--no-build"])
            .current_dir(folder.path());
        let output = command.stdin(stdin).output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    // Nobody gave anything: the project's examples are taken.
    let (ok, shown, said) = test(Stdio::null());
    assert!(ok && shown.contains("2 records read"), "{shown}{said}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(writer);
    for stdin in [Stdio::from(reader), Stdio::from(file)] {
        let (ok, shown, said) = test(stdin);
        assert!(!ok && shown.contains("0 records read"), "{shown}{said}");
        assert!(said.contains("standard input is empty"), "{said}");
    }
}

#[test]
fn output_is_compared_with_what_is_expected() {
    let folder = TestFolder::new("expect");
    let cli = Cli::offline(folder.path());
    let module = modules::mask();
    let module = module.to_string_lossy();
    let expect = |expected: &str| {
        std::fs::write(folder.path().join("expected.jsonl"), expected).expect("written");
        let args = [
            "test",
            "--module",
            &module,
            "--key-separator",
            "\t",
            "--expect",
            "expected.jsonl",
        ];
        cli.run_with_input(&args, "k\t{\"email\":\"a@b\"}\n")
    };
    let as_it_is = expect(
        "{\"key\":\"k\",\"value\":{\"email\":\"***@b\"},\"topic\":\"output\",\"placement\":\"by input\"}\n",
    );
    assert!(as_it_is.ok, "{}", as_it_is.text());
    let other = expect("{\"value\":{\"email\":\"***@c\"}}\n{\"key\":\"k\"}\n");
    assert!(!other.ok);
    for part in ["2 differences", "line 1: value is", "1 record did not come"] {
        assert!(other.stderr.contains(part), "{part}: {}", other.stderr);
    }
    let mask = ["test", "--module", &module];
    let failed = cli.run_with_input(&mask, "not json\n");
    assert!(
        !failed.ok && failed.stdout.contains("FAILED"),
        "{}",
        failed.text()
    );
}

/// `transform dev` at work, and the lines it prints.
struct Dev {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Dev {
    fn start(broker: &Broker, project: &Path) -> Dev {
        let mut child = Command::new(program("transform"))
            .args(["--admin", &broker.admin(), "dev"])
            .current_dir(project)
            .env_remove("CARGO_TARGET_DIR")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command line can be started");
        let (sender, lines) = channel();
        let (out, err) = (
            child.stdout.take().expect("piped"),
            child.stderr.take().expect("piped"),
        );
        let other = sender.clone();
        std::thread::spawn(move || {
            BufReader::new(out)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|l| sender.send(l))
        });
        std::thread::spawn(move || {
            BufReader::new(err)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|l| other.send(l))
        });
        Dev {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line with `text` in it.
    fn says(&mut self, text: &str) {
        let until = Instant::now() + LIMIT;
        while let Ok(line) = self
            .lines
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            let found = line.contains(text);
            self.seen.push(line);
            if found {
                return;
            }
        }
        panic!("it never said {text:?}:\n{}", self.seen.join("\n"));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn save_is_built_and_deployed_and_a_mistake_waits_for_the_next(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    // Go builds fastest.
    cli.ok(&["init", "mine", "--language", "go"]);
    cli.create_topic("mine-in", 1);
    let project = broker.folder().join("mine");
    let source = project.join("transform.go");
    let text = std::fs::read_to_string(&source).expect("the template has it");
    let mut dev = Dev::start(&broker, &project);
    dev.says("deployed mine version 1");
    std::fs::write(&source, format!("{text}\nvar x = \n")).expect("written");
    dev.says("transform.go");
    dev.says("waiting for the next save");
    let talking = text.replace(
        "\tvalue := record.Value()\n",
        "\tvalue := record.Value()\n\tprintln(\"I was saved\")\n",
    );
    assert_ne!(talking, text, "the template has changed");
    std::fs::write(&source, talking).expect("written");
    dev.says("deployed mine version 2");
    assert!(
        cli.run_with_input(&["produce", "mine-in"], "{\"email\":\"a@b\"}\n")
            .ok
    );
    dev.says("I was saved");
    let interrupted = Command::new("kill")
        .args(["-INT", &dev.child.id().to_string()])
        .status();
    assert!(interrupted.expect("it can be run").success());
    dev.says("mine goes on");
    assert!(dev.child.wait().expect("it was ours").success());
    assert_eq!(cli.json(&["describe", "mine"])["version"], 2);
}
