//! `tidemill health`: asks a broker's admin address whether it serves clients, for containers and scripts without an HTTP client.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

/// How long connecting, asking and answering may take, each.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What `health` takes.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The broker's admin address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9644")]
    admin_addr: String,
}

/// Asks, and says how it is.
pub(crate) fn run(args: &HealthArgs) -> ExitCode {
    match ask(&args.admin_addr) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => {
            println!("the broker at {} serves clients", args.admin_addr);
            ExitCode::SUCCESS
        }
        Ok(answer) if !answer.starts_with("HTTP/") => {
            eprintln!(
                "what answers at {} is no admin API: give the admin address (--admin-addr, 9644 by default), not the Kafka one",
                args.admin_addr
            );
            ExitCode::FAILURE
        }
        Ok(answer) => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            eprintln!(
                "the broker at {} does not serve clients: {}",
                args.admin_addr,
                body.trim()
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("no broker answers at {}: {error}", args.admin_addr);
            ExitCode::FAILURE
        }
    }
}

fn ask(address: &str) -> std::io::Result<String> {
    let unknown = || std::io::Error::other("it is no address");
    let resolved = address.to_socket_addrs()?.next().ok_or_else(unknown)?;
    let mut stream = TcpStream::connect_timeout(&resolved, TIME_MAX)?;
    stream.set_read_timeout(Some(TIME_MAX))?;
    stream.set_write_timeout(Some(TIME_MAX))?;
    // By address, whatever name it was found under: the broker refuses names it does not know.
    write!(
        stream,
        "GET /health HTTP/1.1\r\nHost: {resolved}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
