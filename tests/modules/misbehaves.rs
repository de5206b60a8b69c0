//! A module that does what modules must not, as its environment variable `MODE` says. The end-to-end tests put it
//! into a project of `transform init` and build it there.

use tidemill_sdk::guest::{self, Guest, InputBatch, Outcome};
use tidemill_sdk::{Output, Record, Result};

fn forward(record: Record<'_>, output: &mut Output) -> Result<()> {
    match (mode().as_str(), record.value()) {
        ("loop", _) => loop {
            std::hint::black_box(());
        },
        ("memory", _) => eat_memory(),
        ("trap", Some(b"trap")) => {
            tidemill_sdk::log::info!("about to end abruptly");
            std::process::abort()
        }
        _ => output.forward(&record),
    }
}

fn eat_memory() -> Result<()> {
    let mut eaten = Vec::new();
    loop {
        eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

fn mode() -> String {
    std::env::var("MODE").unwrap_or_default()
}

/// Records that claim more than there is, and bytes that are no records at all.
fn garbage(mut outcome: Outcome) -> Outcome {
    for section in &mut outcome.outputs {
        section.record_count = u32::MAX;
        section.records.fill(0xff);
    }
    outcome
}

struct Module;

impl Guest for Module {
    fn process(
        partition: u32,
        batches: Vec<InputBatch>,
    ) -> std::result::Result<Outcome, String> {
        let outcome = guest::process(forward, partition, &batches)?;
        Ok(if mode() == "garbage" {
            garbage(outcome)
        } else {
            outcome
        })
    }
}

#[cfg(target_arch = "wasm32")]
guest::export!(Module with_types_in tidemill_sdk::guest);
