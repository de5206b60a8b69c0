//! Secrets of transforms: given to the function, shown and stored nowhere, kept, dropped, and refused without a key.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_tests::cli::{Cli, Ran};
use tidemill_tests::{Broker, Engine, modules, on_both_engines, wait};

on_both_engines!(
    secrets_are_refused_without_a_key_and_with_one_that_others_may_read,
    secrets_reach_the_function_over_redeploys_and_a_kill_and_are_shown_and_stored_nowhere,
    ready_made_transform_takes_its_key_as_a_secret,
);

/// How long things may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "hush-5f0e-open-sesame";

/// A broker with a key of secrets, and the key's file.
fn with_key(engine: Engine) -> (Broker, PathBuf) {
    let mut broker = Broker::start(engine);
    let key = broker.folder().join("secrets.key");
    write_key(&key, "ab");
    broker.stop();
    let path = key.display().to_string();
    broker.set_settings(&format!("[transforms]\nsecrets_key_file = {path:?}\n"));
    broker.restart();
    (broker, key)
}

fn write_key(path: &Path, digits: &str) {
    std::fs::write(path, digits.repeat(32)).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
}

fn deploy(cli: &Cli, words: &[&str]) -> Ran {
    let module = modules::build("env", Some(include_str!("../../modules/env.rs")));
    let module = module.to_string_lossy();
    let about = [
        "--name", "m", "--input", "in", "--output", "out", "--from", "earliest",
    ];
    let mut all = vec!["deploy", "--module", &module];
    all.extend(about);
    all.extend(words);
    cli.run(&all)
}

/// Asks the function of variables; waits until `wanted` is all that it has ever told.
fn ask(cli: &Cli, names: &str, wanted: &str) {
    let ran = cli.run_with_input(&["produce", "in"], names);
    assert!(ran.ok, "{}", ran.text());
    let told = || cli.ok(&["consume", "out", "--from", "earliest", "--exit-at-end"]);
    assert!(wait::until(LIMIT, || told() == wanted), "{}", told());
}

/// A file under `folder` that has `needle` in it.
fn found_in(folder: &Path, needle: &[u8]) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("readable");
    entries
        .map(|e| e.expect("an entry").path())
        .find_map(|path| {
            if path.is_dir() {
                return found_in(&path, needle);
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            let has = bytes.windows(needle.len()).any(|part| part == needle);
            has.then_some(path)
        })
}

fn secrets_are_refused_without_a_key_and_with_one_that_others_may_read(engine: Engine) {
    let mut broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let refused = deploy(&cli, &["--secret", &format!("PIN={SECRET}")]);
    let text = refused.text();
    assert!(
        !refused.ok && text.contains("transforms.secrets_key_file"),
        "{text}"
    );
    assert!(!text.contains(SECRET), "{text}");
    assert!(!cli.run(&["describe", "m"]).ok, "nothing was deployed");
    broker.stop();
    assert_eq!(found_in(broker.folder(), SECRET.as_bytes()), None);
    let key = broker.folder().join("secrets.key");
    write_key(&key, "ab");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("set");
    let path = key.display().to_string();
    let settings = broker.folder().join("with-key.toml");
    let text = format!("[transforms]\nsecrets_key_file = {path:?}\n");
    std::fs::write(&settings, text).expect("written");
    let mut start = broker.command();
    let ended = start.arg("--config").arg(&settings).output();
    let ended = ended.expect("it was started");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        !ended.status.success() && said.contains("chmod 600"),
        "{said}"
    );
}

fn secrets_reach_the_function_over_redeploys_and_a_kill_and_are_shown_and_stored_nowhere(
    engine: Engine,
) {
    let (mut broker, key) = with_key(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let pin = format!("PIN={SECRET}");
    let mut shown = vec![deploy(&cli, &["--secret", &pin, "--secret", "OTHER=abc"])];
    let first = format!("PIN {}\nOTHER 3\n", SECRET.len());
    ask(&cli, "PIN\nOTHER\n", &first);
    shown.push(deploy(&cli, &["--env", "K=V", "--remove-secret", "OTHER"]));
    broker.kill9();
    broker.restart();
    let cli = Cli::new(&broker);
    let second = format!("{first}PIN {}\nOTHER is not set\n", SECRET.len());
    ask(&cli, "PIN\nOTHER\n", &second);
    let twice = deploy(&cli, &["--env", "PIN=1"]);
    assert!(
        !twice.ok && twice.text().contains("--remove-secret PIN"),
        "{}",
        twice.text()
    );
    shown.push(cli.run(&["rollback", "m"]));
    ask(&cli, "OTHER\n", &format!("{second}OTHER 3\n"));
    let looks: [&[&str]; 5] = [
        &["describe", "m"],
        &["describe", "m", "--output-format", "json"],
        &["versions", "m", "--output-format", "json"],
        &["list", "--output-format", "json"],
        &["logs", "m"],
    ];
    shown.extend(looks.iter().map(|words| cli.run(words)));
    for ran in &shown {
        assert!(ran.ok && !ran.text().contains(SECRET), "{}", ran.text());
    }
    assert!(
        shown[3].text().contains("PIN"),
        "its name is shown: {}",
        shown[3].text()
    );
    let metrics = broker.get("/metrics").expect("answered").1;
    assert!(!metrics.contains(SECRET));
    broker.stop();
    assert_eq!(found_in(broker.folder(), SECRET.as_bytes()), None);
    assert!(!broker.log().contains(SECRET));
    write_key(&key, "cd");
    broker.restart();
    another_key_is_told_and_a_secret_given_anew_helps(&Cli::new(&broker), &second);
}

fn another_key_is_told_and_a_secret_given_anew_helps(cli: &Cli, told: &str) {
    let stopped = || {
        let described = cli.json(&["describe", "m"]);
        described.to_string().contains("was sealed with key")
    };
    assert!(
        wait::until(LIMIT, stopped),
        "{}",
        cli.json(&["describe", "m"])
    );
    let kept = deploy(cli, &["--secret", "PIN=new"]);
    assert!(!kept.ok && kept.text().contains("OTHER"), "{}", kept.text());
    let anew = deploy(cli, &["--secret", "PIN=new", "--secret", "OTHER=newer"]);
    assert!(anew.ok, "{}", anew.text());
    ask(
        cli,
        "PIN\nOTHER\n",
        &format!("{told}OTHER 3\nPIN 3\nOTHER 5\n"),
    );
}

fn ready_made_transform_takes_its_key_as_a_secret(engine: Engine) {
    let (broker, _) = with_key(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let file = broker.folder().join("mask.key");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").expect("written");
    let secret = format!("MASK_KEY=@{}", file.display());
    let words = [
        "deploy",
        "--builtin",
        "mask",
        "--name",
        "m",
        "--input",
        "in",
        "--output",
        "out",
    ];
    let settings = [
        "--set",
        "fields=[\"$.card\"]",
        "--set",
        "action=hash",
        "--from",
        "earliest",
    ];
    let mut all = words.to_vec();
    all.extend(settings);
    let without = cli.run(&all);
    assert!(
        !without.ok && without.text().contains("MASK_KEY"),
        "{}",
        without.text()
    );
    let mut clear = all.clone();
    clear[4] = "clear";
    clear[8] = "clear-out";
    clear.extend(["--env", "MASK_KEY=0123456789abcdef"]);
    let warned = cli.run(&clear);
    assert!(
        warned.ok && warned.stderr.contains("--secret MASK_KEY=@FILE"),
        "{}",
        warned.text()
    );
    all.extend(["--secret", &secret]);
    let sealed = cli.run(&all);
    assert!(
        sealed.ok && !sealed.stderr.contains("warning"),
        "{}",
        sealed.text()
    );
    // Without the secret on the command line it is the one that the broker has.
    let again = cli.run(&all[..all.len() - 2]);
    assert!(again.ok, "{}", again.text());
    let ran = cli.run_with_input(&["produce", "in"], "{\"card\":\"4111\"}\n");
    assert!(ran.ok, "{}", ran.text());
    let told = || cli.ok(&["consume", "out", "--from", "earliest", "--exit-at-end"]);
    let hashed = || told().contains("card") && !told().contains("4111");
    assert!(wait::until(LIMIT, hashed), "{}", told());
}
