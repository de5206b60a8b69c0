//! A transform beside many that take all the time and memory they may have.

use std::path::PathBuf;
use std::time::Duration;

use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, modules, on_both_engines, wait};

on_both_engines!(
    transform_gets_its_turn_beside_many_that_burn_time,
    transform_gets_its_turn_beside_those_whose_instances_may_have_all_memory,
    transform_gets_its_turn_beside_one_with_a_very_wide_input,
);

/// As long as this none may wait for its turn: a call that burns has a minute of CPU time, and so many of them run.
const TURN_LIMIT: Duration = Duration::from_secs(60);
/// Records of the good transform, each sent when the one before has come out.
const RECORDS: i64 = 10;
/// More partitions than calls of one transform may wait.
const PARTITIONS: u32 = 1_200;

fn looping() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || {
        let source = tidemill_tests::root().join("tests/modules/misbehaves.rs");
        let source = std::fs::read_to_string(&source).expect("the module's source is there");
        modules::build("loops", Some(&source))
    };
    BUILT.get_or_init(build).clone()
}

/// A broker with one shard, so with one guest thread, and the good transform on it.
fn with_good(engine: Engine) -> (Broker, Cli) {
    let broker = Options::new(engine).shards(1).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    cli.deploy(&modules::mask(), "good", "in", "good-out");
    (broker, cli)
}

fn deploy_looping(cli: &Cli, name: &str, memory_mb: &str) {
    let module = looping().to_string_lossy().into_owned();
    cli.ok(&[
        "deploy",
        "--module",
        &module,
        "--name",
        name,
        "--input",
        "hot",
        "--output",
        "cold",
        "--env",
        "MODE=loop",
        "--time-ms",
        "60000",
        "--memory-mb",
        memory_mb,
        "--on-error",
        "skip",
    ]);
}

fn produce_to(broker: &Broker, topic: &str, partitions: u32) {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    for partition in 0..partitions as i32 {
        let batch = raw::batch(&[(b"k", b"{\"email\":\"a@example.com\"}")], raw::now_ms());
        let answer = connection.call(&raw::produce(topic, partition, &batch));
        let produced = raw::produced(&answer.expect("produce is answered"), topic);
        assert!(matches!(produced, Some((0, _))), "{produced:?}");
    }
}

/// Waits until those that burn time have taken what they get.
fn wait_for_burning(broker: &Broker, condition: impl Fn(&Broker) -> bool) {
    assert!(
        wait::until(TURN_LIMIT, || condition(broker)),
        "nobody burns"
    );
}

fn assert_good_has_turns(broker: &mut Broker) {
    for record in 1..=RECORDS {
        produce_to(broker, "in", 1);
        let out = || {
            broker.metric(
                "tidemill_transform_records_out_total",
                "{transform=\"good\",topic=\"good-out\"}",
            ) as i64
        };
        assert!(
            wait::until(TURN_LIMIT, || out() == record),
            "record {record} does not come out"
        );
    }
    assert!(broker.running() && broker.healthy());
}

fn transform_gets_its_turn_beside_many_that_burn_time(engine: Engine) {
    let (mut broker, cli) = with_good(engine);
    cli.create_topic("hot", 1);
    (0..24).for_each(|n| deploy_looping(&cli, &format!("burner-{n}"), "64"));
    produce_to(&broker, "hot", 1);
    // Of the longest calls eight run, the others wait.
    wait_for_burning(&broker, |b| {
        b.metric("tidemill_guest_calls_waiting", "") >= 4.0
    });
    assert_good_has_turns(&mut broker);
}

fn transform_gets_its_turn_beside_those_whose_instances_may_have_all_memory(engine: Engine) {
    let (mut broker, cli) = with_good(engine);
    cli.create_topic("hot", 1);
    (0..2).for_each(|n| deploy_looping(&cli, &format!("burner-{n}"), "512"));
    produce_to(&broker, "hot", 1);
    wait_for_burning(&broker, |b| {
        b.metric("tidemill_guest_calls_given_up_total", "") >= 1.0
    });
    assert_good_has_turns(&mut broker);
}

fn transform_gets_its_turn_beside_one_with_a_very_wide_input(engine: Engine) {
    let (mut broker, cli) = with_good(engine);
    cli.create_topic("hot", PARTITIONS);
    deploy_looping(&cli, "burner", "64");
    produce_to(&broker, "hot", PARTITIONS);
    wait_for_burning(&broker, |b| {
        b.metric("tidemill_transform_waits_total", "{transform=\"burner\"}") >= 1_000.0
    });
    assert_good_has_turns(&mut broker);
    assert!(
        cli.json(&["describe", "good"])["last_error"].is_null(),
        "its calls were refused meanwhile"
    );
}
