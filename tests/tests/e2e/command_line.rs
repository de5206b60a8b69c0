//! The `transform` command line as a newcomer uses it: in an empty folder, from `init` to `delete`.

use serde_json::Value;
use std::time::Duration;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, TestFolder, modules, on_both_engines, wait};

on_both_engines!(
    newcomer_goes_from_init_to_delete,
    paused_transform_takes_up_where_it_stood,
    errors_say_what_to_do,
);

/// How long output may take to appear on a loaded machine.
const OUTPUT_LIMIT: Duration = Duration::from_secs(30);
const COUNT: usize = 100;

/// Lines of `key<TAB>JSON` with an address each.
fn lines(range: std::ops::Range<usize>) -> String {
    range
        .map(|i| {
            format!(
                "k{i}\t{{\"id\":{i},\"email\":\"somebody{i}@example.com\",\"country\":\"DE\"}}\n"
            )
        })
        .collect()
}

fn produce(cli: &Cli, topic: &str, range: std::ops::Range<usize>) {
    let ran = cli.run_with_input(&["produce", topic, "--key-separator", "\t"], &lines(range));
    assert!(ran.ok, "{}", ran.text());
}

/// The first `max` records of a topic, once so many are there.
fn consume(cli: &Cli, topic: &str, max: usize) -> Vec<Value> {
    let there = wait::until(OUTPUT_LIMIT, || records_in(cli, topic) >= max as i64);
    assert!(
        there,
        "{topic}: {} of {max} records",
        records_in(cli, topic)
    );
    let max = max.to_string();
    match cli.json(&["consume", topic, "--from", "earliest", "--max", &max]) {
        Value::Array(records) => records,
        one => vec![one],
    }
}

/// Records in a topic that loses none: the sum of its partitions' high watermarks.
fn records_in(cli: &Cli, topic: &str) -> i64 {
    let described = cli.json(&["topic", "describe", topic]);
    let partitions = described["partitions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    partitions
        .iter()
        .filter_map(|partition| partition["high_watermark"].as_i64())
        .sum()
}

fn newcomer_goes_from_init_to_delete(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.ok(&["init", "mine", "--language", "rust"]);
    let project = cli.within(&broker.folder().join("mine"));
    project.ok(&["build"]);
    let tried = project.run_with_input(&["test"], "{\"email\":\"somebody@example.com\"}\n");
    assert!(tried.ok, "{}", tried.text());
    assert!(
        tried.stdout.contains("somebody@example.com"),
        "before is not shown: {}",
        tried.stdout
    );
    cli.create_topic("in", 3);
    let module = modules::built_in(&broker.folder().join("mine"));
    let said = cli.deploy(&module, "mine", "in", "out");
    assert!(
        said.contains("out"),
        "a topic was made, and it is not said: {said}"
    );
    produce(&cli, "in", 0..COUNT);
    let records = consume(&cli, "out", COUNT);
    assert_eq!(records.len(), COUNT);
    let mut keys: Vec<String> = records
        .iter()
        .map(|record| record["key"].to_string())
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), COUNT);
    let leaked = records
        .iter()
        .find(|record| record["value"].to_string().contains("somebody"));
    assert!(leaked.is_none(), "not masked: {leaked:?}");
    for args in [
        &["list"][..],
        &["describe", "mine"],
        &["logs", "mine"],
        &["topic", "list"],
        &["topic", "describe", "out"],
    ] {
        let text = cli.ok(args);
        assert!(
            args[0] == "logs" || text.contains("mine") || text.contains("out"),
            "{args:?}: {text}"
        );
        let _ = cli.json(args);
    }
    cli.ok(&["pause", "mine"]);
    cli.ok(&["resume", "mine"]);
    cli.ok(&["delete", "mine"]);
    assert!(!cli.ok(&["list"]).contains("mine"));
    cli.ok(&["topic", "delete", "out"]);
    assert!(!cli.json(&["topic", "list"]).to_string().contains("\"out\""));
}

fn paused_transform_takes_up_where_it_stood(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    cli.deploy(&modules::mask(), "mask", "in", "out");
    produce(&cli, "in", 0..COUNT);
    assert_eq!(consume(&cli, "out", COUNT).len(), COUNT);
    cli.ok(&["pause", "mask"]);
    produce(&cli, "in", COUNT..2 * COUNT);
    broker.kill9();
    broker.restart();
    assert!(
        cli.json(&["describe", "mask"])
            .to_string()
            .to_lowercase()
            .contains("paused"),
        "a pause survives a restart"
    );
    assert_eq!(records_in(&cli, "out"), COUNT as i64);
    cli.ok(&["resume", "mask"]);
    let caught_up = wait::until(OUTPUT_LIMIT, || records_in(&cli, "out") == 2 * COUNT as i64);
    assert!(
        caught_up,
        "{} of {} records",
        records_in(&cli, "out"),
        2 * COUNT
    );
}

fn errors_say_what_to_do(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let module = modules::mask();
    let module = module.to_string_lossy();
    let deploy = |input: &str, output: &str| {
        cli.refused(&[
            "deploy", "--module", &module, "--name", "m", "--input", input, "--output", output,
        ])
    };
    assert!(deploy("missing", "out").contains("missing"));
    // A transform that feeds itself would never end.
    assert!(deploy("in", "in").contains("in"));
    assert!(cli.refused(&["describe", "nobody"]).contains("nobody"));
    assert!(
        cli.refused(&["topic", "create", "in", "--partitions", "1"])
            .contains("in")
    );
    assert!(
        cli.refused(&["topic", "create", "bad/name", "--partitions", "1"])
            .contains("bad/name")
    );
    let folder = TestFolder::new("cli");
    let lost = Cli::offline(folder.path()).refused(&["list"]);
    assert!(
        lost.contains("127.0.0.1:1"),
        "the address nobody answers at is named: {lost}"
    );
    assert!(
        Cli::offline(folder.path())
            .refused(&["build"])
            .contains("transform.toml")
    );
}
