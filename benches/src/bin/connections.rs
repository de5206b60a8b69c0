//! Resident memory over many connections opened and closed: a quarter each says nothing, begins a request, asks and reads,
//! asks and leaves.
//!
//! `connections COUNT uring|epoll`

#![forbid(unsafe_code)]

use std::io::Write;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tidemill_tests::raw::{self, Connection, Header, api};
use tidemill_tests::{Broker, Engine, Options, wait};

const MIB: f64 = 1024.0 * 1024.0;
/// Looks at the memory.
const STEPS: usize = 10;
/// What memory may grow by from the first look to the last.
const GROWTH_MIB_MAX: f64 = 4.0;
/// How long the broker may take to notice that connections are gone.
const SETTLE_MAX: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [count, engine] = args.as_slice() else {
        eprintln!("usage: connections COUNT uring|epoll");
        return ExitCode::FAILURE;
    };
    let engine = if engine == "epoll" {
        Engine::Epoll
    } else {
        Engine::Uring
    };
    let broker = Options::new(engine).start();
    let count: usize = count.parse().unwrap_or(100_000);
    println!("{} connections, {}\n", count, engine.name());
    println!("connections  resident MiB  descriptors  per second");
    let mut resident = Vec::new();
    for step in 1..=STEPS {
        let began = Instant::now();
        open_and_close(&broker, count / STEPS);
        let took = began.elapsed().as_secs_f64();
        if !wait::until(SETTLE_MAX, || {
            broker.metric("tidemill_connections", "") == 0.0
        }) {
            eprintln!("connections are still served");
            return ExitCode::FAILURE;
        }
        let mib = broker.resident_bytes() as f64 / MIB;
        let (opened, files) = (step * count / STEPS, broker.descriptors());
        let rate = (count / STEPS) as f64 / took;
        println!("{opened:>11}  {mib:>12.2}  {files:>11}  {rate:>10.0}");
        resident.push(mib);
    }
    let grown = resident.last().unwrap_or(&0.0) - resident.first().unwrap_or(&0.0);
    let holds = grown <= GROWTH_MIB_MAX;
    let summary = format!(
        "{grown:+.2} MiB from {} to {count} connections",
        count / STEPS
    );
    println!(
        "\n{}",
        serde_json::json!({ "holds": holds, "summary": summary })
    );
    match holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn open_and_close(broker: &Broker, count: usize) {
    let ask = raw::frame(api::API_VERSIONS, 0, Header::Plain, &[]);
    for turn in 0..count {
        // One that the broker was too slow to take is one less, no error.
        let _ = match turn % 4 {
            0 => TcpStream::connect(broker.kafka()).map(drop),
            1 => TcpStream::connect(broker.kafka()).and_then(|mut s| s.write_all(&ask[..6])),
            2 => Connection::open(&broker.kafka()).and_then(|mut c| c.call(&ask).map(drop)),
            _ => TcpStream::connect(broker.kafka()).and_then(|mut s| s.write_all(&ask)),
        };
    }
}
