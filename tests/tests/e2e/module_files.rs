//! Modules on disk: those stay that a kept version needs, the others go.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, Options, modules, on_both_engines, wait};

on_both_engines!(
    modules_that_no_version_needs_go_and_nothing_needs_them_any_more,
    module_that_hides_things_is_never_deployed_to_hand_on_what_it_fails_on,
    module_that_was_uploaded_is_there_for_its_deploy_also_after_a_kill,
);

const LIMIT: Duration = Duration::from_secs(60);
/// Versions that are deployed; ten are kept.
const VERSIONS: usize = 12;

/// The good module, with a section of no meaning that makes it another one.
fn module(broker: &Broker, number: usize) -> PathBuf {
    let mut bytes = std::fs::read(modules::mask()).expect("the module is built");
    // A custom section: its id, its size, and a name of one byte (Core specification 3.0, section 5.5.3; a component has them, too).
    bytes.extend([0, 3, 1, b'n', number as u8]);
    let path = broker.folder().join(format!("module-{number}.wasm"));
    std::fs::write(&path, bytes).expect("the test folder can be written");
    path
}

/// What comes before the first dash or point of the names in a folder of the data directory.
fn hashes(broker: &Broker, folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(broker.data().join(folder));
    let names = entries.into_iter().flatten().flatten();
    let hash = |name: &str| name.split(['-', '.']).next().map(str::to_owned);
    names
        .filter_map(|entry| hash(&entry.file_name().to_string_lossy()))
        .collect()
}

/// The modules that the versions of `m` name.
fn needed(cli: &Cli) -> BTreeSet<String> {
    let listed = cli.json(&["versions", "m"]);
    let versions = listed["versions"].as_array().expect("a list");
    let module = |v: &Value| v["module"].as_str().expect("a hash").to_owned();
    versions.iter().map(module).collect()
}

fn deploy(broker: &Broker, cli: &Cli, number: usize) {
    let module = module(broker, number);
    let module = module.to_string_lossy();
    cli.ok(&[
        "deploy", "--module", &module, "--name", "m", "--input", "in", "--output", "out", "--from",
        "earliest",
    ]);
}

fn produce(cli: &Cli, number: usize) {
    let ran = cli.run_with_input(&["produce", "in"], &format!("{{\"n\":{number}}}\n"));
    assert!(ran.ok, "{}", ran.text());
}

/// Every record came out once, in order.
fn assert_came_out(cli: &Cli, count: usize) {
    let read = || cli.ok(&["consume", "out", "--from", "earliest", "--exit-at-end"]);
    assert!(wait::until(LIMIT, || read().lines().count() >= count));
    let wanted: String = (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    assert_eq!(read(), wanted);
}

fn assert_on_disk(broker: &Broker, wanted: &BTreeSet<String>) {
    let agrees =
        || hashes(broker, "modules") == *wanted && hashes(broker, "code-cache").is_subset(wanted);
    assert!(
        wait::until(LIMIT, agrees),
        "{:?} and {:?}, wanted {wanted:?}",
        hashes(broker, "modules"),
        hashes(broker, "code-cache")
    );
    assert_eq!(broker.metric("tidemill_modules", ""), wanted.len() as f64);
}

fn modules_that_no_version_needs_go_and_nothing_needs_them_any_more(engine: Engine) {
    let options = Options::new(engine).settings("[transforms]\nmodule_retention = \"1 s\"\n");
    let mut broker = options.start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    for number in 0..VERSIONS {
        deploy(&broker, &cli, number);
        produce(&cli, number);
        if number == VERSIONS / 2 {
            broker.kill9();
            broker.restart();
        }
    }
    let kept = needed(&cli);
    assert_eq!(kept.len(), 10);
    assert_on_disk(&broker, &kept);
    let bytes = broker.metric("tidemill_module_bytes", "");
    let each = std::fs::metadata(module(&broker, 0)).expect("it was written");
    assert_eq!(bytes, 10.0 * each.len() as f64);
    assert!(broker.metric("tidemill_modules_removed_total", "") >= 1.0);
    // The oldest of them runs again.
    cli.ok(&["rollback", "m", "--to", "3"]);
    produce(&cli, VERSIONS);
    assert_came_out(&cli, VERSIONS + 1);
    broker.kill9();
    // What a process leaves that is killed while it stores a module.
    let half = broker
        .data()
        .join(format!("modules/{}.wasm.tmp", "0".repeat(64)));
    std::fs::write(&half, b"half").expect("the data directory can be written");
    broker.restart();
    produce(&cli, VERSIONS + 1);
    assert_came_out(&cli, VERSIONS + 2);
    assert_on_disk(&broker, &needed(&cli));
    assert!(!half.exists());
    cli.ok(&["delete", "m"]);
    broker.kill9();
    broker.restart();
    assert_on_disk(&broker, &BTreeSet::new());
    // The log still says that they were deployed; who replays it needs none of them.
    broker.kill9();
    broker.restart();
    cli.ok(&["topic", "delete", "out"]);
    deploy(&broker, &cli, 0);
    produce(&cli, VERSIONS + 2);
    assert_came_out(&cli, VERSIONS + 3);
    assert_on_disk(&broker, &needed(&cli));
}

/// `PUT` of a body to the admin address, and what is answered.
fn put(broker: &Broker, path: &str, body: &[u8]) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(broker.admin()).expect("the broker listens");
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        broker.admin(),
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    stream.write_all(body).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

fn module_that_was_uploaded_is_there_for_its_deploy_also_after_a_kill(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let bytes = std::fs::read(module(&broker, 0)).expect("it was written");
    let stored = put(&broker, "/v1/modules", &bytes);
    assert!(stored.starts_with("HTTP/1.1 200"), "{stored}");
    let uploaded = hashes(&broker, "modules");
    let hash = uploaded.first().expect("it was stored").clone();
    broker.kill9();
    broker.restart();
    let swept = || broker.metric("tidemill_modules", "") == 1.0;
    assert!(wait::until(LIMIT, swept));
    let deploy = |hash: &str| {
        let body = format!(
            "{{\"module\":\"{hash}\",\"input\":\"in\",\"outputs\":[\"out\"],\"from\":\"earliest\"}}"
        );
        put(&broker, "/v1/transforms/m", body.as_bytes())
    };
    let unknown = deploy(&"0".repeat(64));
    assert!(unknown.contains("upload it again"), "{unknown}");
    let deployed = deploy(&hash);
    assert!(deployed.starts_with("HTTP/1.1 200"), "{deployed}");
    produce(&cli, 0);
    assert_came_out(&cli, 1);
}

fn module_that_hides_things_is_never_deployed_to_hand_on_what_it_fails_on(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    cli.ok(&[
        "deploy",
        "--builtin",
        "mask",
        "--name",
        "m",
        "--input",
        "in",
        "--output",
        "out",
        "--set",
        "fields=[\"$.a\"]",
    ]);
    let mask = hashes(&broker, "modules")
        .first()
        .expect("it was stored")
        .clone();
    let deploy = |hash: &str, on_error: &str| {
        let body = format!(
            "{{\"module\":\"{hash}\",\"input\":\"in\",\"outputs\":[\"out\"],\"on_error\":\"{on_error}\",\"env\":{{\"TRANSFORM_CONFIG\":\"{{\\\"fields\\\":[\\\"$.a\\\"]}}\"}}}}"
        );
        put(&broker, "/v1/transforms/m", body.as_bytes())
    };
    let mut bytes = std::fs::read(module(&broker, 0)).expect("it was written");
    bytes.extend(b"\0\x19\x18tidemill:no-pass-through");
    let stored = put(&broker, "/v1/modules", &bytes);
    assert!(stored.starts_with("HTTP/1.1 200"), "{stored}");
    let all = hashes(&broker, "modules");
    let own = all.iter().find(|h| **h != mask).expect("it was stored");
    for hash in [&mask, own] {
        let refused = deploy(hash, "pass-through");
        assert!(refused.starts_with("HTTP/1.1 422"), "{refused}");
        assert!(refused.contains("in the clear"), "{refused}");
    }
    assert_eq!(cli.json(&["describe", "m"])["version"], 1);
    let deployed = deploy(&mask, "skip");
    assert!(deployed.starts_with("HTTP/1.1 200"), "{deployed}");
}
