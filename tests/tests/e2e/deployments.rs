//! Deployments: what is refused, versions, positions, topics that go away.

use std::time::Duration;

use serde_json::Value;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, Options, modules, on_both_engines, wait};

on_both_engines!(
    deploy_is_refused_with_the_reason_before_anything_changes,
    versions_are_kept_and_rolled_back_to_without_loss_or_repetition,
    x1_new_transform_begins_where_its_deploy_says,
    x2_seek_moves_a_transform_that_runs_and_one_that_is_paused,
    x11_deleted_input_is_told_and_one_made_anew_is_read_after_the_next_deploy,
    deleted_output_stops_its_transform_until_the_next_deploy,
    outputs_and_policies_change_under_load_without_loss_or_repetition,
);

/// How long things may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

fn lines(from: usize, to: usize) -> String {
    let line = |n| format!("{{\"n\":{n},\"email\":\"a@b\"}}\n");
    (from..to).map(line).collect()
}

fn produce(cli: &Cli, topic: &str, partition: u32, lines: &str) {
    let partition = partition.to_string();
    let ran = cli.run_with_input(&["produce", topic, "--partition", &partition], lines);
    assert!(ran.ok, "{}", ran.text());
}

fn deploy(cli: &Cli, name: &str, words: &[&str]) -> String {
    let module = modules::mask();
    let module = module.to_string_lossy();
    let mut all = vec!["deploy", "--module", &module, "--name", name];
    all.extend(words);
    cli.ok(&all)
}

/// The numbers of the records of a topic, by partition one after the other.
fn numbers(cli: &Cli, topic: &str) -> Vec<usize> {
    numbers_of(&cli.ok(&["consume", topic, "--from", "earliest", "--exit-at-end"]))
}

/// The numbers of records as they are printed.
fn numbers_of(read: &str) -> Vec<usize> {
    let number = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("a record of the test");
        value["n"].as_u64().expect("it has a number") as usize
    };
    read.lines().map(number).collect()
}

fn sorted(cli: &Cli, topic: &str) -> Vec<usize> {
    let mut all = numbers(cli, topic);
    all.sort_unstable();
    all
}

fn state(cli: &Cli, name: &str) -> Value {
    cli.json(&["describe", name])["state"].clone()
}

fn caught_up(cli: &Cli, name: &str) {
    let done = || cli.json(&["describe", name])["lag"] == 0;
    assert!(
        wait::until(LIMIT, done),
        "{}",
        cli.json(&["describe", name])
    );
}

fn deploy_is_refused_with_the_reason_before_anything_changes(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    deploy(&cli, "first", &["--input", "in", "--output", "mid"]);
    let module = modules::mask();
    let module = module.to_string_lossy();
    let before = cli.json(&["topic", "list"]);
    for (words, reason) in [
        (&["--input", "inn", "--output", "o"][..], "topic create inn"),
        (&["--input", "mid", "--output", "in"], "circle"),
        (
            &["--input", "in", "--output", "__consumer_offsets"],
            "keeps for itself",
        ),
        (
            &["--input", "in", "--output", "fine", "--output", "bad/name"],
            "no topic name",
        ),
        (
            &["--input", "in", "--output", "o", "--memory-mb", "4096"],
            "--memory-mb",
        ),
        (
            &["--input", "in", "--output", "o", "--time-ms", "99999999"],
            "--time-ms",
        ),
        (
            &["--input", "in", "--output", "o", "--from", "@1795773600"],
            "seconds",
        ),
        (
            &["--input", "in", "--output", "o", "--from", "5"],
            "transform seek",
        ),
        (
            &["--input", "in", "--output", "o", "--output", "o"],
            "named once",
        ),
        (
            &["--input", "in", "--output", "o", "--env", "1A=x"],
            "do not begin with a digit",
        ),
        (
            &["--input", "in", "--output", "o", "--env", "TIDEMILL_X=x"],
            "the broker sets",
        ),
    ] {
        let mut all = vec!["deploy", "--module", &module, "--name", "second"];
        all.extend(words);
        let refused = cli.refused(&all);
        assert!(refused.contains(reason), "{words:?}: {refused}");
    }
    assert_eq!(cli.json(&["topic", "list"]), before, "no topic was made");
    let again = cli.refused(&[
        "deploy", "--module", &module, "--name", "first", "--input", "mid", "--output", "o",
    ]);
    assert!(again.contains("its input cannot change"), "{again}");
}

fn versions_are_kept_and_rolled_back_to_without_loss_or_repetition(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    deploy(
        &cli,
        "m",
        &[
            "--input", "in", "--output", "one", "--from", "earliest", "--env", "K=1",
        ],
    );
    let nothing = cli.refused(&["rollback", "m"]);
    assert!(nothing.contains("nothing to go back to"), "{nothing}");
    produce(&cli, "in", 0, &lines(0, 10));
    caught_up(&cli, "m");
    let said = deploy(
        &cli,
        "m",
        &["--input", "in", "--output", "two", "--from", "earliest"],
    );
    assert!(said.contains("keeps its place"), "{said}");
    produce(&cli, "in", 0, &lines(10, 20));
    caught_up(&cli, "m");
    broker.kill9();
    broker.restart();
    let cli = Cli::new(&broker);
    let rolled = cli.ok(&["rollback", "m"]);
    let told = "rolled m back: version 3 has the content of version 1\n";
    assert!(rolled.starts_with(told), "{rolled}");
    assert!(rolled.contains("bring version 2 back"), "{rolled}");
    let described = cli.ok(&["describe", "m"]);
    let told = "version:      3, with the content of version 1\n";
    assert!(described.contains(told), "{described}");
    assert!(described.contains("partition by: input ("), "{described}");
    produce(&cli, "in", 0, &lines(20, 30));
    caught_up(&cli, "m");
    assert_eq!(
        numbers(&cli, "one"),
        (0..10).chain(20..30).collect::<Vec<_>>()
    );
    assert_eq!(numbers(&cli, "two"), (10..20).collect::<Vec<_>>());
    let versions = cli.json(&["versions", "m"])["versions"].clone();
    let of = |field: &str| -> Vec<Value> {
        let all = versions.as_array().expect("a list");
        all.iter().map(|v| v[field].clone()).collect()
    };
    assert_eq!(of("version"), [3, 2, 1]);
    assert_eq!(of("content_of"), [Value::from(1), Value::Null, Value::Null]);
    assert_eq!(of("current"), [true, false, false]);
    assert_eq!(versions[0]["env"]["K"], "1");
    assert!(versions[0]["deployed_ms"].as_i64() >= versions[2]["deployed_ms"].as_i64());
    let unknown = cli.refused(&["rollback", "m", "--to", "9"]);
    assert!(unknown.contains("kept are 1, 2"), "{unknown}");
    let table = cli.ok(&["versions", "m"]);
    assert!(table.contains("RUNS") && table.contains("one"), "{table}");
}

fn x1_new_transform_begins_where_its_deploy_says(engine: Engine) {
    let broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    for (partition, first) in [(0, 0), (1, 100)] {
        produce(&cli, "in", partition, &lines(first, first + 10));
    }
    let until = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_millis()
        + 1;
    std::thread::sleep(Duration::from_millis(5));
    for (partition, first) in [(0, 10), (1, 110)] {
        produce(&cli, "in", partition, &lines(first, first + 10));
    }
    let at = format!("@{until}");
    let starts = [
        ("earliest", "earliest", 0..20),
        ("latest", "latest", 20..20),
        ("after", "+15", 15..20),
        ("before", "-3", 17..20),
        ("time", at.as_str(), 10..20),
        ("future", "@2150-01-01T00:00:00Z", 20..20),
        ("beyond", "+1000", 20..20),
    ];
    // Readers begin where transforms do.
    for (name, from, each) in starts.clone() {
        let wanted: Vec<usize> = each.clone().chain(each.map(|n| n + 100)).collect();
        let from = format!("--from={from}");
        let mut read = numbers_of(&cli.ok(&["consume", "in", &from, "--exit-at-end"]));
        read.sort_unstable();
        assert_eq!(read, wanted, "{name}");
    }
    let refused = cli.refused(&["consume", "in", "--from", "7", "--exit-at-end"]);
    assert!(refused.contains("every partition is read"), "{refused}");
    for (name, from, each) in starts {
        let output = format!("out-{name}");
        deploy(
            &cli,
            name,
            &["--input", "in", "--output", &output, "--from", from],
        );
        caught_up(&cli, name);
        let wanted: Vec<usize> = each.clone().chain(each.map(|n| n + 100)).collect();
        let all = wait::until(LIMIT, || sorted(&cli, &output) == wanted);
        assert!(all, "{name}: {:?}", sorted(&cli, &output));
    }
}

fn x2_seek_moves_a_transform_that_runs_and_one_that_is_paused(engine: Engine) {
    let mut broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    for (partition, first) in [(0, 0), (1, 100)] {
        produce(&cli, "in", partition, &lines(first, first + 10));
    }
    deploy(
        &cli,
        "m",
        &["--input", "in", "--output", "out", "--from", "earliest"],
    );
    let all = |count: usize| {
        let there = wait::until(LIMIT, || numbers(&cli, "out").len() >= count);
        assert!(there, "{:?}", numbers(&cli, "out"));
        caught_up(&cli, "m");
        numbers(&cli, "out").len()
    };
    assert_eq!(all(20), 20);
    // At work, though idle: it is woken and begins there.
    let moved = cli.json(&["seek", "m", "--to", "-4"]);
    assert_eq!(moved["partitions"][1]["to"], 6);
    assert_eq!(all(28), 28);
    cli.ok(&["pause", "m"]);
    cli.ok(&["seek", "m", "--to", "9", "--partition", "1"]);
    assert_eq!(state(&cli, "m"), "paused");
    for (words, reason) in [
        (&["--to", "11"][..], "offsets 0 (earliest) to 10 (latest)"),
        (&["--to", "0", "--partition", "2"], "partitions 0 to 1"),
        (&["--to", "soon"], "or an offset"),
    ] {
        let mut all = vec!["seek", "m"];
        all.extend(words);
        let refused = cli.refused(&all);
        assert!(refused.contains(reason), "{words:?}: {refused}");
    }
    broker.kill9();
    broker.restart();
    let cli = Cli::new(&broker);
    assert_eq!(state(&cli, "m"), "paused");
    cli.ok(&["resume", "m"]);
    let one_more = || numbers(&cli, "out").len() >= 29;
    assert!(wait::until(LIMIT, one_more));
    caught_up(&cli, "m");
    let mut wanted: Vec<usize> = (0..10).chain(100..110).collect();
    wanted.extend((6..10).chain(106..110).chain([109]));
    wanted.sort_unstable();
    assert_eq!(sorted(&cli, "out"), wanted);
}

fn x11_deleted_input_is_told_and_one_made_anew_is_read_after_the_next_deploy(engine: Engine) {
    let mut broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    cli.create_topic("out", 1);
    produce(&cli, "in", 0, &lines(0, 10));
    produce(&cli, "in", 1, &lines(100, 110));
    deploy(
        &cli,
        "m",
        &["--input", "in", "--output", "out", "--from", "earliest"],
    );
    caught_up(&cli, "m");
    cli.ok(&["topic", "delete", "in"]);
    let described = cli.json(&["describe", "m"]);
    assert_eq!(described["state"], "input-gone");
    let message = described["last_error"].as_str().unwrap_or_default();
    assert!(
        message.contains("'in' was deleted; make it anew"),
        "{message}"
    );
    assert_eq!(
        broker.metric("tidemill_transform_partitions", "state=\"input-gone\""),
        1.0
    );
    let refused = cli.refused(&["seek", "m", "--to", "earliest"]);
    assert!(refused.contains("deploy again"), "{refused}");
    cli.create_topic("in", 1);
    produce(&cli, "in", 0, &lines(200, 210));
    let described = cli.json(&["describe", "m"]);
    assert_eq!(described["state"], "input-gone", "it is another topic");
    let message = described["last_error"].as_str().unwrap_or_default();
    assert!(
        message.contains("made anew, which is another topic"),
        "{message}"
    );
    let listed = cli.ok(&["list"]);
    assert!(listed.contains("input-gone"), "{listed}");
    deploy(
        &cli,
        "m",
        &["--input", "in", "--output", "out", "--from", "+5"],
    );
    caught_up(&cli, "m");
    let wanted: Vec<usize> = (0..10).chain(100..110).chain(205..210).collect();
    assert!(wait::until(LIMIT, || sorted(&cli, "out") == wanted));
    assert_eq!(state(&cli, "m"), "running");
    broker.kill9();
    broker.restart();
    let cli = Cli::new(&broker);
    caught_up(&cli, "m");
    assert_eq!(sorted(&cli, "out"), wanted);
    cli.ok(&["delete", "m"]);
    deploy(&cli, "m", &["--input", "in", "--output", "out"]);
}

fn deleted_output_stops_its_transform_until_the_next_deploy(engine: Engine) {
    let broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 4);
    deploy(
        &cli,
        "m",
        &[
            "--input",
            "in",
            "--output",
            "out",
            "--dead-letter",
            "dead",
            "--from",
            "earliest",
        ],
    );
    produce(&cli, "in", 0, &lines(0, 10));
    caught_up(&cli, "m");
    let deleted = cli.run(&["topic", "delete", "out"]);
    assert!(deleted.ok, "{}", deleted.text());
    let warned = "the transform m writes to out: it stands still without it";
    assert!(deleted.stderr.contains(warned), "{}", deleted.text());
    produce(&cli, "in", 0, &lines(10, 20));
    let described = cli.json(&["describe", "m"]);
    assert_eq!(described["state"], "output-gone");
    let message = described["last_error"].as_str().unwrap_or_default();
    assert!(message.contains("'out' was deleted"), "{message}");
    assert_eq!(described["lag"], 10, "input waits");
    // The log has it once, not once for each shard.
    let logged = || cli.ok(&["logs", "m"]).matches("'out' was deleted").count();
    assert!(wait::until(LIMIT, || logged() > 0));
    deploy(
        &cli,
        "m",
        &["--input", "in", "--output", "out", "--dead-letter", "dead"],
    );
    let wanted: Vec<usize> = (10..20).collect();
    assert!(wait::until(LIMIT, || sorted(&cli, "out") == wanted));
    assert_eq!(logged(), 1);
    let deleted = cli.run(&["topic", "delete", "dead", "--force"]);
    assert!(
        deleted.stderr.contains("m writes to dead"),
        "{}",
        deleted.text()
    );
    assert_eq!(state(&cli, "m"), "output-gone");
    produce(&cli, "in", 1, &lines(20, 30));
    deploy(
        &cli,
        "m",
        &["--input", "in", "--output", "out", "--on-error", "skip"],
    );
    let wanted: Vec<usize> = (10..30).collect();
    assert!(wait::until(LIMIT, || sorted(&cli, "out") == wanted));
    assert_eq!(state(&cli, "m"), "running");
}

fn outputs_and_policies_change_under_load_without_loss_or_repetition(engine: Engine) {
    const EACH: usize = 2_000;
    const ROUNDS: usize = 6;
    let mut broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 2);
    cli.create_topic("far", 1);
    let choices: [&[&str]; 3] = [
        &["--output", "near"],
        &["--output", "far", "--dead-letter", "dead"],
        &["--output", "far", "--output", "near", "--on-error", "skip"],
    ];
    let mut first = vec!["--input", "in", "--from", "earliest"];
    first.extend(choices[0]);
    deploy(&cli, "m", &first);
    for round in 0..ROUNDS {
        let from = 2 * round * EACH;
        produce(&cli, "in", 0, &lines(from, from + EACH));
        produce(&cli, "in", 1, &lines(from + EACH, from + 2 * EACH));
        // While it is at work on them.
        let mut words = vec!["--input", "in"];
        words.extend(choices[round % choices.len()]);
        deploy(&cli, "m", &words);
        if round % 2 == 1 {
            broker.kill9();
            broker.restart();
        }
    }
    let cli = Cli::new(&broker);
    caught_up(&cli, "m");
    let wanted: Vec<usize> = (0..2 * ROUNDS * EACH).collect();
    let all = || {
        let mut all = numbers(&cli, "near");
        all.extend(numbers(&cli, "far"));
        all.sort_unstable();
        all
    };
    let whole = wait::until(LIMIT, || all().len() >= wanted.len());
    assert!(whole, "{} of {} came out", all().len(), wanted.len());
    assert_eq!(all(), wanted, "each once");
}
