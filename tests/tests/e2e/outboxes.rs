//! Where transforms begin, and what becomes of output that crosses rings when its transform stands still or goes.

use std::time::Duration;

use serde_json::Value;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, Options, modules, on_both_engines, wait};

on_both_engines!(
    x1_deploy_from_latest_answers_when_its_start_is_fixed,
    x6_outbox_drains_while_its_transform_is_paused_and_while_it_is_deleted,
    stopping_does_not_wait_for_a_module_that_loops,
);

/// How long things may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Less than a call of the looping module may take, in ms of CPU time.
const STOP_LIMIT: Duration = Duration::from_secs(10);

fn lines(from: usize, to: usize) -> String {
    let line = |n| format!("{{\"n\":{n},\"email\":\"a@b\"}}\n");
    (from..to).map(line).collect()
}

fn produce(cli: &Cli, topic: &str, partition: &str, lines: &str) {
    let ran = cli.run_with_input(&["produce", topic, "--partition", partition], lines);
    assert!(ran.ok, "{}", ran.text());
}

/// The sum of a number that every partition of a topic or transform has.
fn sum(described: &Value, field: &str) -> i64 {
    let partitions = described["partitions"].as_array();
    let partitions = partitions.expect("partitions are described");
    partitions.iter().filter_map(|p| p[field].as_i64()).sum()
}

fn records_in(cli: &Cli, topic: &str) -> i64 {
    sum(&cli.json(&["topic", "describe", topic]), "high_watermark")
}

fn values(cli: &Cli, topic: &str) -> Vec<String> {
    let read = cli.ok(&["consume", topic, "--from", "earliest", "--exit-at-end"]);
    read.lines().map(str::to_owned).collect()
}

fn outbox_bytes(broker: &Broker) -> f64 {
    let (_, metrics) = broker.get("/metrics").expect("metrics are answered");
    let of_outbox = metrics
        .lines()
        .filter(|line| line.starts_with("tidemill_outbox_bytes"));
    of_outbox
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn x1_deploy_from_latest_answers_when_its_start_is_fixed(engine: Engine) {
    let broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 4);
    for partition in ["0", "1", "2", "3"] {
        produce(&cli, "in", partition, &lines(0, 50));
    }
    let module = modules::mask();
    let module = module.to_string_lossy();
    cli.ok(&[
        "deploy", "--module", &module, "--name", "late", "--input", "in", "--output", "out",
        "--from", "latest",
    ]);
    // Written at once after the answer: all of it is after the start, and nothing else is.
    for partition in ["0", "1", "2", "3"] {
        produce(&cli, "in", partition, &lines(50, 60));
    }
    let all = wait::until(LIMIT, || records_in(&cli, "out") >= 40);
    assert!(all, "{} of 40 records came out", records_in(&cli, "out"));
    std::thread::sleep(Duration::from_millis(500));
    let values = values(&cli, "out");
    assert_eq!(values.len(), 40, "nothing from before came out");
    for n in 50..60 {
        let of = format!("\"n\":{n},");
        let times = values.iter().filter(|value| value.contains(&of)).count();
        assert_eq!(times, 4, "record {n} of each partition: {values:?}");
    }
}

fn x6_outbox_drains_while_its_transform_is_paused_and_while_it_is_deleted(engine: Engine) {
    const COUNT: usize = 5_000;
    let broker = Options::new(engine).shards(2).start();
    let cli = Cli::new(&broker);
    // Both inputs go to one output, so one of them is in another ring.
    cli.create_topic("in", 2);
    cli.create_topic("out", 1);
    for partition in ["0", "1"] {
        produce(&cli, "in", partition, &lines(0, COUNT));
    }
    let module = modules::mask();
    let module = module.to_string_lossy();
    cli.ok(&[
        "deploy", "--module", &module, "--name", "mask", "--input", "in", "--output", "out",
        "--from", "earliest",
    ]);
    assert!(wait::until(LIMIT, || records_in(&cli, "out") > 0));
    cli.ok(&["pause", "mask"]);
    let stands_still = || {
        let described = cli.json(&["describe", "mask"]);
        let running = described["state"] != "paused";
        let position = sum(&described, "position");
        !running && outbox_bytes(&broker) == 0.0 && records_in(&cli, "out") == position
    };
    assert!(
        wait::until(LIMIT, stands_still),
        "what was decided is delivered: {} records of {}",
        records_in(&cli, "out"),
        cli.json(&["describe", "mask"])
    );
    for partition in ["0", "1"] {
        produce(&cli, "in", partition, &lines(COUNT, 2 * COUNT));
    }
    cli.ok(&["resume", "mask"]);
    cli.ok(&["delete", "mask"]);
    assert!(wait::until(LIMIT, || outbox_bytes(&broker) == 0.0));
    let written = records_in(&cli, "out");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(records_in(&cli, "out"), written, "it is gone");
    // Whatever came out came out once, and in order.
    let numbers: Vec<usize> = values(&cli, "out").iter().map(|v| number(v)).collect();
    assert_eq!(numbers.len() as i64, written);
    for n in 0..2 * COUNT {
        assert!(
            numbers.iter().filter(|m| **m == n).count() <= 2,
            "{n} is doubled"
        );
    }
}

fn number(value: &str) -> usize {
    let at = value.find("\"n\":").expect("a record of this test") + 4;
    let digits = value[at..].split([',', '}']).next().expect("a number");
    digits.parse().expect("a number")
}

fn stopping_does_not_wait_for_a_module_that_loops(engine: Engine) {
    let source = tidemill_tests::root().join("tests/modules/misbehaves.rs");
    let source = std::fs::read_to_string(&source).expect("the module's source is there");
    let module = modules::build("loops", Some(&source));
    let module = module.to_string_lossy();
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let deploy = |name: &str| {
        let output = format!("{name}-out");
        cli.ok(&[
            "deploy",
            "--module",
            &module,
            "--name",
            name,
            "--input",
            "in",
            "--output",
            &output,
            "--env",
            "MODE=loop",
            "--time-ms",
            "60000",
        ]);
    };
    deploy("one");
    deploy("other");
    produce(&cli, "in", "0", &lines(0, 10));
    std::thread::sleep(Duration::from_millis(500));
    let began = std::time::Instant::now();
    cli.ok(&["delete", "other"]);
    assert!(began.elapsed() < STOP_LIMIT, "a delete waits for no call");
    let began = std::time::Instant::now();
    assert!(broker.stop().success());
    assert!(began.elapsed() < STOP_LIMIT, "nor does the end");
}
