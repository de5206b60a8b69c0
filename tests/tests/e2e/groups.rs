//! Consumer groups, as unmodified clients use them: librdkafka from Rust, confluent-kafka, aiokafka, kcat.

use std::process::Command;
use std::time::Duration;

use crate::kafka::Load;
use crate::members::Group;

use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, on_both_engines, wait};

on_both_engines!(
    rdkafka_group_of_three_shares_while_one_leaves_and_the_next_goes_on,
    eager_group_of_three_reads_everything_while_one_leaves,
    cooperative_group_of_three_reads_everything_while_one_leaves,
    group_goes_on_where_it_was_after_a_restart_and_after_a_kill,
    groups_are_listed_described_and_deleted_and_offsets_taken_back,
    static_member_comes_back_without_a_rebalance,
    aiokafka_members_share_a_topic_and_one_leaves,
    kcat_member_reads_as_a_group,
    topic_of_groups_is_read_by_all_and_written_by_the_broker_alone,
    offsets_of_a_deleted_topic_are_gone_for_a_new_one_of_its_name,
    log_of_groups_stays_small_and_says_the_same_after_a_kill,
);

/// How long a group may take to settle on a loaded machine.
const SETTLES: Duration = Duration::from_secs(90);
/// Partitions of the topic that a group of three shares.
const SHARED: u32 = 6;

/// Runs a scenario of `tests/python/groups.py`; what it printed before its "ok".
fn scenario(broker: &Broker, name: &str, words: &[&str]) -> String {
    let script = tidemill_tests::root().join("tests/python/groups.py");
    let python = tidemill_tests::build_folder().join("../venv/bin/python");
    let output = Command::new(&python)
        .arg(script)
        .args([name, &broker.kafka()])
        .args(words)
        .output()
        .unwrap_or_else(|error| {
            panic!("{}: {error}; `cargo xtask test` makes it", python.display())
        });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    let ok = output.status.success() && said.trim().ends_with("ok");
    assert!(ok, "{name}: {said}{errors}");
    said.trim().trim_end_matches("ok").trim().to_owned()
}

fn started(engine: Engine, partitions: u32) -> Broker {
    let broker = Broker::start(engine);
    Cli::new(&broker).create_topic("t", partitions);
    broker
}

/// Three members share the work, one leaves, two take over, all leave; the next one goes on where they stood. Nothing is read
/// twice, for whoever loses a partition commits first.
fn rdkafka_group_of_three_shares_while_one_leaves_and_the_next_goes_on(engine: Engine) {
    let broker = Broker::start(engine);
    for strategy in ["range", "cooperative-sticky"] {
        Cli::new(&broker).create_topic(strategy, SHARED);
        let mut written = Written(Load::new(&broker.kafka(), &[]), 0);
        let mut group = Group::new(&broker.kafka(), strategy, strategy, strategy);
        written.more(strategy, 600);
        (0..3).for_each(|_| group.join());
        settles(&group, &[2, 2, 2], 600);
        group.leave();
        written.more(strategy, 600);
        settles(&group, &[3, 3], 1_200);
        group.leave();
        group.leave();
        written.more(strategy, 60);
        group.join();
        settles(&group, &[6], 1_260);
        group.leave();
        let told = group.told();
        assert!(told.read.values().all(|times| *times == 1), "{told:?}");
        assert_eq!(told.errors, Vec::<String>::new(), "{strategy}");
    }
}

/// A producer, and how many records it has written.
struct Written(Load, usize);

impl Written {
    fn more(&mut self, topic: &str, count: usize) {
        (0..count).for_each(|_| assert!(self.0.produce(topic)));
        self.1 += count;
        let all = wait::until(SETTLES, || self.0.acknowledged() == self.1);
        assert!(
            all,
            "{} of {} are acknowledged",
            self.0.acknowledged(),
            self.1
        );
    }
}

/// Waits until the members have so many partitions each and have read so many records.
fn settles(group: &Group, shares: &[usize], records: usize) {
    let settled = wait::until(SETTLES, || {
        let told = group.told();
        told.shares.values().eq(shares) && told.read.len() == records
    });
    assert!(settled, "not {shares:?} and {records}: {:?}", group.told());
}

fn eager_group_of_three_reads_everything_while_one_leaves(engine: Engine) {
    scenario(&started(engine, 6), "three", &["t", "range"]);
}

fn cooperative_group_of_three_reads_everything_while_one_leaves(engine: Engine) {
    scenario(&started(engine, 6), "three", &["t", "cooperative-sticky"]);
}

fn group_goes_on_where_it_was_after_a_restart_and_after_a_kill(engine: Engine) {
    let mut broker = started(engine, 3);
    Cli::new(&broker).create_topic("u", 3);
    let read = scenario(&broker, "begin", &["t"]);
    broker.stop();
    broker.restart();
    let words: Vec<&str> = ["t"].into_iter().chain(read.split(' ')).collect();
    scenario(&broker, "resume", &words);
    let read = scenario(&broker, "begin", &["u"]);
    broker.kill9();
    broker.restart();
    let words: Vec<&str> = ["u"].into_iter().chain(read.split(' ')).collect();
    scenario(&broker, "resume", &words);
}

fn groups_are_listed_described_and_deleted_and_offsets_taken_back(engine: Engine) {
    scenario(&started(engine, 2), "admin", &["t"]);
}

fn static_member_comes_back_without_a_rebalance(engine: Engine) {
    scenario(&started(engine, 2), "static", &["t"]);
}

fn aiokafka_members_share_a_topic_and_one_leaves(engine: Engine) {
    scenario(&started(engine, 4), "aio", &["t"]);
}

fn kcat_member_reads_as_a_group(engine: Engine) {
    let broker = started(engine, 2);
    let lines: String = (0..100).map(|i| format!("value {i}\n")).collect();
    let cli = Cli::new(&broker);
    let produced = cli.run_with_input(&["produce", "t"], &lines);
    assert!(produced.text().contains("100"), "{}", produced.text());
    let read = Command::new("kcat")
        .args(["-b", &broker.kafka(), "-G", "kcat", "-q", "-c", "100"])
        .args(["-X", "auto.offset.reset=earliest", "t"])
        .output()
        .expect("kcat is installed; `cargo xtask test` installs it");
    assert!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    let mut seen: Vec<_> = String::from_utf8_lossy(&read.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    let mut sent: Vec<_> = lines.lines().map(str::to_owned).collect();
    seen.sort();
    sent.sort();
    assert_eq!(seen, sent);
}

fn topic_of_groups_is_read_by_all_and_written_by_the_broker_alone(engine: Engine) {
    let broker = started(engine, 1);
    scenario(&broker, "internal", &["t"]);
    let cli = Cli::new(&broker);
    let refused = cli.refused(&["topic", "delete", "__consumer_offsets"]);
    assert!(refused.contains("keeps for itself"), "{refused}");
    let refused = cli.refused(&["topic", "create", "__consumer_offsets"]);
    assert!(refused.contains("keeps for itself"), "{refused}");
    let produced = cli.run_with_input(&["produce", "__consumer_offsets"], "x\n");
    assert!(
        produced.text().contains("keeps for itself"),
        "{}",
        produced.text()
    );
}

fn offsets_of_a_deleted_topic_are_gone_for_a_new_one_of_its_name(engine: Engine) {
    let mut broker = started(engine, 1);
    let cli = Cli::new(&broker);
    scenario(&broker, "kept", &["t"]);
    broker.kill9();
    broker.restart();
    scenario(&broker, "committed", &["t", "7"]);
    cli.ok(&["topic", "delete", "t"]);
    cli.create_topic("t", 1);
    scenario(&broker, "committed", &["t", "-1001"]);
    let expired = wait::until(std::time::Duration::from_secs(60), || {
        let metrics = broker
            .get("/metrics")
            .map(|(_, text)| text)
            .unwrap_or_default();
        metrics.contains("tidemill_group_offsets_expired_total 1")
    });
    assert!(expired, "their records are taken back, too");
    broker.kill9();
    broker.restart();
    scenario(&broker, "committed", &["t", "-1001"]);
}

fn log_of_groups_stays_small_and_says_the_same_after_a_kill(engine: Engine) {
    let mut broker = started(engine, 100);
    scenario(&broker, "grow", &["t"]);
    broker.kill9();
    broker.restart();
    scenario(&broker, "grown", &["t"]);
}
