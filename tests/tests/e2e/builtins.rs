//! The ready-made transforms, deployed without writing code, on public data that come in packages. What must come out was computed by
//! a plain script, `tests/clients/python/real_data.py`.

use crate::kafka::{self, Load, Seen};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tidemill_tests::cli::Cli;
use tidemill_tests::{Broker, Engine, on_both_engines, wait};

on_both_engines!(
    public_data_comes_out_as_a_plain_script_says,
    wrong_settings_are_refused_before_anything_is_deployed,
    what_cannot_be_masked_goes_to_the_dead_letters,
);

/// How long output may take to appear on a loaded machine.
const OUTPUT_LIMIT: Duration = Duration::from_secs(120);

/// A key and a value.
type Pair = (String, Vec<u8>);

fn public_data_comes_out_as_a_plain_script_says(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    let data = broker.folder().join("data");
    make_data(&data);
    write_schemas(&data);
    cli.create_topic("airports", 3);
    cli.create_topic("places", 2);
    deploy_all(&cli, &data);
    for topic in ["airports", "places"] {
        let load = Load::new(&broker.kafka(), &[]);
        for (key, value) in lines(&data.join(format!("{topic}.tsv"))) {
            while !load.send(topic, &key, &value) {
                std::thread::yield_now();
            }
        }
        assert_eq!(load.finish().failed.len(), 0);
    }
    let same_bytes = [
        "masked",
        "valid",
        "invalid",
        "wanted",
        "hashed",
        "provinces",
        "states",
        "rest",
    ];
    for topic in same_bytes {
        let expected = lines(&data.join(format!("{topic}.expected")));
        let came = came(&broker, &cli, topic, expected.len());
        assert_eq!(first_difference(&expected, &came), None, "{topic}");
    }
    for topic in ["airports-json", "places-json"] {
        let mut expected = lines(&data.join(format!("{topic}.expected")));
        let mut came = came(&broker, &cli, topic, expected.len());
        // Members come in the schema's order.
        expected.iter_mut().chain(&mut came).for_each(by_meaning);
        assert_eq!(first_difference(&expected, &came), None, "{topic}");
    }
}

/// Deploys a ready-made transform: its name, that of the transform and the input; then the rest of the command line, a word a line.
fn deploy(cli: &Cli, [builtin, name, input]: [&str; 3], rest: &str) {
    let mut args = vec!["deploy", "--builtin", builtin];
    args.extend(["--name", name, "--input", input]);
    args.extend(rest.lines().map(str::trim));
    cli.ok(&args);
}

fn deploy_all(cli: &Cli, data: &Path) {
    let schema = |name: &str| format!("--set-file\nschema={}", data.join(name).display());
    let rest = "--output\nmasked\n--set\nfields=[\"$.name\",\"$.lat\"]\n--set\nkeep_last=4";
    deploy(cli, ["mask", "mask", "airports"], rest);
    let rest = "--output\nhashed\n--set\nfields=[\"$.name\",\"$.parent\"]\n--set\naction=hash\n--env\nMASK_KEY=a key for tests only";
    deploy(cli, ["mask", "hash", "places"], rest);
    let rest =
        "--output\nvalid\n--dead-letter\ninvalid\n".to_owned() + &schema("airport.schema.json");
    deploy(cli, ["validate", "validate", "airports"], &rest);
    let rest = "--output\nwanted\n--set\ncondition=$.country in [\"DE\", \"FR\", 'IS'] and $.elevation > 300.5 or $.lat < -60";
    deploy(cli, ["filter", "filter", "airports"], rest);
    let rest = "--output\nprovinces\n--output\nstates\n--output\nrest\n--set\nfield=$.type\n--set\nroutes={\"Province\":\"provinces\",\"State\":\"states\"}\n--set\ndefault=rest";
    deploy(cli, ["route", "route", "places"], rest);
    for topic in ["airports", "places"] {
        let (avro, back) = (format!("{topic}-there"), format!("{topic}-json"));
        let ends = "\n--set\nschema_id=7\n".to_owned() + &schema(&format!("{topic}.avsc"));
        let rest = format!("--output\n{avro}\n--set\ndirection=to-avro{ends}");
        deploy(cli, ["avro", &avro, topic], &rest);
        let rest = format!("--output\n{back}\n--set\ndirection=to-json{ends}");
        deploy(cli, ["avro", &back, &avro], &rest);
    }
}

fn wrong_settings_are_refused_before_anything_is_deployed(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let refused = |args: &[&str]| {
        let base = ["deploy", "--input", "in", "--output", "out", "--builtin"];
        cli.refused(&[&base, args].concat())
    };
    for (args, says) in [
        (
            &["mask", "--set", "feilds=[\"$.a\"]"][..],
            "unknown setting `feilds`",
        ),
        (&["mask", "--set", "fields=$.a"], "'fields=[\"$.card\""),
        (
            &["mask", "--set", "fields=[\"$.a\"]", "--output", "more"],
            "more would get nothing",
        ),
        (
            &["mask", "--set", "fields=[\"$.a\"]", "--set", "action=hash"],
            "MASK_KEY",
        ),
        (
            &[
                "mask",
                "--set",
                "fields=[\"$.a\"]",
                "--on-error",
                "pass-through",
            ],
            "could not hide",
        ),
        (&["filter", "--set", "condition=$.a ="], "write `==`"),
        (
            &[
                "route",
                "--set",
                "field=$.a",
                "--set",
                "routes={\"x\":\"y\"}",
            ],
            "not among the outputs",
        ),
        (
            &["validate", "--set", "schema={\"type\":\"text\"}"],
            "cannot be used",
        ),
        (&["nothing"], "mask, validate, filter, route, avro"),
    ] {
        let said = refused(args);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let listed = cli.ok(&["list", "--output-format", "json"]);
    assert!(!listed.contains("\"name\""), "{listed}");
    assert!(!cli.ok(&["topic", "list"]).contains("out"));
}

fn what_cannot_be_masked_goes_to_the_dead_letters(engine: Engine) {
    let broker = Broker::start(engine);
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    cli.ok(&[
        "deploy",
        "--builtin",
        "mask",
        "--input",
        "in",
        "--output",
        "out",
        "--dead-letter",
        "dead",
        "--set",
        "fields=[\"$.card\"]",
    ]);
    let load = Load::new(&broker.kafka(), &[]);
    let deep = "[".repeat(100_000);
    let values = [
        r#"{"card":"4111"}"#,
        "card=4111",
        r#"{"card":"4111""#,
        &deep,
        r#"{"card":4111}"#,
    ];
    for value in values {
        assert!(load.send("in", "k", value.as_bytes()));
    }
    assert_eq!(load.finish().failed.len(), 0);
    let out = came(&broker, &cli, "out", 2);
    assert!(
        out.iter().all(|(_, value)| value == br#"{"card":"****"}"#),
        "{out:?}"
    );
    assert_eq!(came(&broker, &cli, "dead", 3).len(), 3);
    let tried = cli.run(&[
        "test",
        "--builtin",
        "mask",
        "--set",
        "fields=[\"$.card\"]",
        "--from-topic",
        "in",
    ]);
    let found = "5 records read, 2 written, 0 left out, 3 failed";
    assert!(
        !tried.ok && tried.stdout.contains(found),
        "{}",
        tried.text()
    );
}

/// The records of a topic, sorted, once so many are there.
fn came(broker: &Broker, cli: &Cli, topic: &str, want: usize) -> Vec<Pair> {
    let count = || {
        let described = cli.run(&["topic", "describe", topic, "--output-format", "json"]);
        let described: Value = serde_json::from_str(&described.stdout).unwrap_or_default();
        let partitions = described["partitions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        partitions
            .iter()
            .filter_map(|p| p["high_watermark"].as_i64())
            .sum::<i64>()
    };
    let there = wait::until(OUTPUT_LIMIT, || count() >= want as i64);
    assert!(
        there,
        "{topic}: {} of {want} records\n{}",
        count(),
        cli.run(&["list"]).text()
    );
    let seen = kafka::read_all(&broker.kafka(), topic, want);
    let mut all: Vec<Pair> = seen
        .into_iter()
        .map(|Seen { key, value, .. }| (key, value))
        .collect();
    all.sort();
    all
}

fn first_difference(expected: &[Pair], came: &[Pair]) -> Option<String> {
    if let Some((e, c)) = expected.iter().zip(came).find(|(e, c)| e != c) {
        let shown = |pair: &Pair| format!("{} {}", pair.0, String::from_utf8_lossy(&pair.1));
        return Some(format!("{}, expected {}", shown(c), shown(e)));
    }
    (expected.len() != came.len())
        .then(|| format!("{} records, expected {}", came.len(), expected.len()))
}

fn by_meaning(pair: &mut Pair) {
    let value: Value = serde_json::from_slice(&pair.1).expect("JSON came");
    pair.1 = value.to_string().into_bytes();
}

/// Lines of a key, a tab and a value, sorted.
fn lines(file: &Path) -> Vec<Pair> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let pair = |line: &str| {
        let (key, value) = line.split_once('\t').expect("a key and a value");
        (key.to_owned(), value.as_bytes().to_vec())
    };
    let mut all: Vec<Pair> = text.lines().map(pair).collect();
    all.sort();
    all
}

fn make_data(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder can be made");
    let python = tidemill_tests::build_folder().join("../venv/bin/python");
    let script = tidemill_tests::root().join("tests/clients/python/real_data.py");
    let ran = Command::new(python)
        .arg(script)
        .arg(folder)
        .output()
        .expect("the Python environment is there; `cargo xtask test` makes it");
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let text = std::fs::read_to_string(folder.join("counts.json")).expect("it wrote counts");
    let counts: Value = serde_json::from_str(&text).expect("counts are JSON");
    // Enough of everything that a transform which does nothing, or everything, is found out.
    for name in ["airports.tsv", "places.tsv"] {
        assert!(counts[name].as_u64() > Some(3000), "{counts}");
    }
    for (name, count) in counts.as_object().expect("an object") {
        assert!(count.as_u64() > Some(10), "{name}: {count}");
    }
}

fn write_schemas(folder: &Path) {
    let text = |name: &str| json!({"name": name, "type": "string"});
    let double = |name: &str| json!({"name": name, "type": "double"});
    let airports = json!({"type": "record", "name": "Airport", "fields": [
        text("icao"), text("iata"), text("name"), text("city"), text("subd"), text("country"),
        double("elevation"), double("lat"), double("lon"), text("tz"), text("lid"),
    ]});
    let parent = json!({"name": "parent", "type": ["null", "string"], "default": null});
    let places = json!({"type": "record", "name": "Place", "fields": [
        text("code"), text("name"), text("type"), text("country"), parent,
    ]});
    let airport = json!({"type": "object", "required": ["iata", "elevation"], "properties": {
        "iata": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "elevation": {"type": "number", "minimum": 0, "maximum": 5000},
    }});
    for (name, schema) in [
        ("airports.avsc", airports),
        ("places.avsc", places),
        ("airport.schema.json", airport),
    ] {
        std::fs::write(folder.join(name), schema.to_string()).expect("a schema can be written");
    }
}
