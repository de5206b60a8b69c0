//! Starts that are refused, each with a message that says what to do, and what survives a restart.

use crate::kafka::{self, Load};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, Options, TestFolder, on_both_engines, ports, program, wait};

on_both_engines!(
    port_in_use_is_refused_and_named,
    data_directory_in_use_is_refused_and_named,
    data_directory_of_another_format_version_is_refused_and_not_touched,
    other_number_of_shards_is_refused_with_what_to_do,
    data_directory_that_cannot_be_made_is_refused_and_named,
    records_and_topics_survive_a_clean_restart,
    lost_folder_of_a_shard_is_refused_and_named_and_harms_nothing,
);

/// How long a refusal may take.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

/// Runs a start that must end by itself with a failure; what it said.
fn refusal(mut command: Command) -> String {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the broker can be started");
    let ended = wait::until(REFUSAL_LIMIT, || matches!(child.try_wait(), Ok(Some(_))));
    if !ended {
        let _ = child.kill();
    }
    let output = child.wait_with_output().expect("a child can be waited for");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(ended, "the start was not refused:\n{said}");
    assert!(
        !output.status.success(),
        "a refused start ends with a status other than 0:\n{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn start(engine: Engine, data: &std::path::Path, kafka_port: u16) -> Command {
    let mut command = Command::new(program("tidemill"));
    command
        .arg("start")
        .arg("--data-dir")
        .arg(data)
        .args(["--runtime", engine.name()]);
    command.args(["--kafka-addr", &format!("127.0.0.1:{kafka_port}")]);
    command.args(["--admin-addr", &format!("127.0.0.1:{}", ports::free_port())]);
    command
}

fn port_in_use_is_refused_and_named(engine: Engine) {
    let folder = TestFolder::new("refused");
    let port = ports::free_port();
    let _taken = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    // Why a broker ends is said whatever is logged.
    for level in ["info", "off", "tidemill_ring=debug"] {
        let mut command = start(engine, &folder.path().join("data"), port);
        command.env("TIDEMILL_LOG", level);
        let said = refusal(command);
        assert!(
            said.contains(&port.to_string()) && said.contains("in use"),
            "{level}: {said}"
        );
    }
    let mut misspelt = start(engine, &folder.path().join("data"), port);
    misspelt.env("TIDEMILL_LOG", "infoo");
    let said = refusal(misspelt);
    assert!(said.contains("'infoo' is no level"), "{said}");
}

fn data_directory_in_use_is_refused_and_named(engine: Engine) {
    let mut broker = Broker::start(engine);
    let said = refusal(start(engine, &broker.data(), ports::free_port()));
    assert!(said.contains(&*broker.data().to_string_lossy()), "{said}");
    assert!(broker.running() && broker.healthy());
}

fn data_directory_of_another_format_version_is_refused_and_not_touched(engine: Engine) {
    let mut broker = Broker::start(engine);
    assert!(broker.stop().success());
    let identity = broker.data().join("identity");
    let ours = std::fs::read_to_string(&identity).expect("it is there");
    let theirs = ours
        .lines()
        .map(|line| match line.split_once("version") {
            Some((before, _)) => format!("{before}version = 999\n"),
            None => format!("{line}\n"),
        })
        .collect::<String>();
    assert_ne!(ours, theirs, "it names its version");
    std::fs::write(&identity, &theirs).expect("it can be written");
    let said = refusal(start(engine, &broker.data(), ports::free_port()));
    assert!(said.contains("format version 999"), "{said}");
    assert!(said.contains(&*broker.data().to_string_lossy()), "{said}");
    let after = std::fs::read_to_string(&identity).expect("it is there");
    assert_eq!(after, theirs);
    std::fs::write(&identity, &ours).expect("it can be written");
    broker.restart();
}

fn other_number_of_shards_is_refused_with_what_to_do(engine: Engine) {
    let mut broker = Options::new(engine).shards(2).start();
    assert!(broker.stop().success());
    let mut command = start(engine, &broker.data(), ports::free_port());
    command.args(["--shards", "1"]);
    let said = refusal(command);
    assert!(said.contains("shards") && said.contains('2'), "{said}");
    broker.restart();
}

fn data_directory_that_cannot_be_made_is_refused_and_named(engine: Engine) {
    let folder = TestFolder::new("refused");
    let file = folder.path().join("a-file");
    std::fs::write(&file, "not a folder").expect("the test folder can be written");
    let data = file.join("data");
    let said = refusal(start(engine, &data, ports::free_port()));
    assert!(said.contains(&*data.to_string_lossy()), "{said}");
}

fn lost_folder_of_a_shard_is_refused_and_named_and_harms_nothing(engine: Engine) {
    lose_folders(engine, 1, &["shard-0"]);
    lose_folders(engine, 2, &["shard-1", "shard-0"]);
}

fn lose_folders(engine: Engine, shards: u16, folders: &[&str]) {
    const COUNT: usize = 500;
    let mut broker = Options::new(engine).shards(shards).start();
    Cli::new(&broker).create_topic("kept", 4);
    let mut load = Load::new(&broker.kafka(), &[]);
    for _ in 0..COUNT {
        assert!(load.produce("kept"));
    }
    assert_eq!(load.finish().acknowledged.len(), COUNT);
    for lost in folders {
        assert!(broker.stop().success());
        let (folder, aside) = (broker.data().join(lost), broker.folder().join(lost));
        std::fs::rename(&folder, &aside).expect("the folder can be moved");
        for _ in 0..2 {
            let said = refusal(start(engine, &broker.data(), ports::free_port()));
            assert!(said.contains(*lost), "{said}");
        }
        assert!(!folder.exists(), "nothing is made in its place");
        std::fs::rename(&aside, &folder).expect("the folder can be put back");
        broker.restart();
        let records = kafka::read_all(&broker.kafka(), "kept", COUNT);
        assert_eq!(records.len(), COUNT, "after {lost} was put back");
    }
}

fn records_and_topics_survive_a_clean_restart(engine: Engine) {
    const COUNT: usize = 2_000;
    let mut broker = Broker::start(engine);
    Cli::new(&broker).create_topic("kept", 5);
    let mut load = Load::new(&broker.kafka(), &[]);
    for _ in 0..COUNT {
        assert!(load.produce("kept"));
    }
    assert_eq!(load.finish().acknowledged.len(), COUNT);
    let before = kafka::read_all(&broker.kafka(), "kept", COUNT);
    assert!(broker.stop().success());
    broker.restart();
    let mut after = kafka::read_all(&broker.kafka(), "kept", COUNT);
    let mut before = before;
    for records in [&mut before, &mut after] {
        records.sort_by_key(|record| (record.partition, record.offset));
    }
    assert_eq!(before, after);
}
