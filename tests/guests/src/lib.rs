//! A module that does what modules must not, as its environment variable `MODE` says. One project, so that the tests of the host
//! build one module.

use tidemill_sdk::guest::{self, Guest, InputBatch, Outcome};
use tidemill_sdk::{Output, Record, Result};

fn transform(record: Record<'_>, output: &mut Output) -> Result<()> {
    match mode().as_str() {
        "loop" => loop {
            std::hint::black_box(());
        },
        "memory" => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
        }
        "poison" if record.value() == Some(b"poison") => {
            panic!("poisoned at offset {}", record.offset())
        }
        "deep" => {
            tidemill_sdk::log::info!("{}", deep(1));
        }
        "chatty" => {
            let line = "ä".repeat(2 << 20);
            (0..70).for_each(|_| tidemill_sdk::log::info!("{line}"));
        }
        "sleep" => std::thread::sleep(std::time::Duration::from_secs(3600)),
        "unknown-output" => return output.to("nowhere")?.forward(&record),
        "file" => {
            std::fs::read("/etc/hostname")?;
        }
        "socket" => {
            let value = String::from_utf8_lossy(record.value().unwrap_or_default());
            std::net::TcpStream::connect(&*value)?;
        }
        // As much as its value says, in MiB, half of one in each record.
        "giant" => {
            let mib: usize = String::from_utf8_lossy(record.value().unwrap_or_default()).parse()?;
            let value = vec![b'x'; 512 << 10];
            return (0..2 * mib).try_for_each(|_| output.write(record.edit().value(&value)));
        }
        // Each is a handle, which nobody gives back.
        #[cfg(target_family = "wasm")]
        "handles" => (0..10_000).for_each(|_| {
            // SAFETY: it takes nothing and gives a number.
            std::hint::black_box(unsafe { get_stdout() });
        }),
        _ => {}
    }
    output.forward(&record)
}

#[cfg(target_family = "wasm")]
#[link(wasm_import_module = "wasi:cli/stdout@0.2.0")]
unsafe extern "C" {
    #[link_name = "get-stdout"]
    fn get_stdout() -> i32;
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn deep(n: u64) -> u64 {
    let room = std::hint::black_box([n; 64]);
    deep(n + 1) + room[(n % 64) as usize]
}

fn mode() -> String {
    std::env::var("MODE").unwrap_or_default()
}

struct Module;

impl Guest for Module {
    fn process(partition: u32, batches: Vec<InputBatch>) -> std::result::Result<Outcome, String> {
        let mut outcome = guest::process(transform, partition, &batches)?;
        for section in &mut outcome.outputs {
            match mode().as_str() {
                "garbage" => section.records.fill(0xff),
                "count" => section.record_count += 1,
                "timestamp" => section.max_timestamp += 1,
                "index" => section.output = 7,
                _ => {}
            }
        }
        Ok(outcome)
    }
}

guest::export!(Module with_types_in tidemill_sdk::guest);
