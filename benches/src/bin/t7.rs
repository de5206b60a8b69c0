//! T7: from `transform deploy` of a module that the broker knows to the first record in the output, which the deployment makes.
//!
//! The whole command is in it: its start, the upload, the making of the output topic, the first call.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};
use tidemill_benches::load;
use tidemill_benches::stats::percentile;
use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection};
use tidemill_tests::{Broker, Engine, Options, modules, wait};

const ROUNDS: usize = 20;
const LIMIT: Duration = Duration::from_secs(30);

fn main() {
    let module = modules::mask();
    let broker = Options::new(Engine::Auto).start();
    let cli = Cli::new(&broker);
    cli.create_topic("in", 1);
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let value: &[u8] = br#"{"email":"a@example.com"}"#;
    let batch = raw::batch(&[(b"k", value)], raw::now_ms());
    connection
        .send(&raw::produce("in", 0, &batch))
        .expect("the broker reads");
    load::acknowledged(&mut connection, "in").expect("it is taken");
    let file = module.to_string_lossy();
    let mut times = Vec::new();
    for number in 0..=ROUNDS {
        let (name, output) = (format!("mask-{number}"), format!("out-{number}"));
        let began = Instant::now();
        cli.ok(&[
            "deploy", "--module", &file, "--name", &name, "--input", "in", "--output", &output,
            "--from", "earliest",
        ]);
        let command = began.elapsed();
        let seen = wait::until(LIMIT, || has_record(&broker, &output));
        assert!(seen, "no output");
        let all = began.elapsed();
        println!(
            "{name}: the command {:.0} ms, the first output after {:.0} ms",
            command.as_secs_f64() * 1e3,
            all.as_secs_f64() * 1e3
        );
        // The first one compiles.
        if number > 0 {
            times.push(all.as_secs_f64());
        }
        cli.ok(&["delete", &name]);
    }
    println!(
        "{}",
        serde_json::json!({
            "median_s": percentile(&mut times, 50.0), "max_s": percentile(&mut times, 100.0)
        })
    );
}

fn has_record(broker: &Broker, topic: &str) -> bool {
    let mut connection = Connection::open(&broker.kafka()).expect("the broker listens");
    let answer = connection
        .call(&raw::fetch(topic, 0, 0, 100, 1 << 20))
        .expect("fetch is answered");
    let fetched = raw::fetched(&answer).expect("a fetch answer");
    !fetched.batches.is_empty()
}
