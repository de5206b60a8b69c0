//! The project's own commands: `cargo xtask demo | test | bench | sim | fuzz | soak | package | tidy`.
//!
//! Each sets up what it needs on a fresh machine, says what it does and how long it took, and ends with
//! a status other than 0 and one clear sentence when something is wrong.

#![forbid(unsafe_code)]

mod bench;
mod clients;
mod demo;
mod fuzz;
mod package;
mod ports;
mod process;
mod setup;
mod sim;
mod soak;
mod steps;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask <COMMAND>

  demo [--once]                  start a broker, deploy the masking example, show records before and after
  test [--only STEP]             everything there is to test; STEP is the beginning of a step's name
  bench [--with-kafka] [--rounds N] [ROW]...
                                 measure all rows or some (release builds) and write benches/results/latest.md
  fuzz [TARGET] [--seconds N] [--keep]  or  fuzz TARGET --add INPUT
                                 libFuzzer over every reader of foreign bytes, 60 s each; --keep and --add write fuzz/corpus
  soak [--transforms] [--minutes N] [--runtime uring|epoll] [--debug]
                                 a node under everything at once, 5 minutes; the verdict goes to benches/results/soak.md
  sim [--seeds N] [--from S] [--only SIMULATION]
                                 run the simulations of crashes, full disks and damage with so many seeds
  package [--bins DIR]           pack binaries, unit, man pages, completions, settings and licences: target/package/*.tar.gz, *.deb
  tidy                           check the rules of the house: dependencies, sizes, module docs, code map
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let asks_for_help = rest.iter().any(|arg| arg == "--help" || arg == "-h");
    let result = match args.first().map(String::as_str) {
        Some(_) if asks_for_help => {
            print!("{USAGE}");
            Ok(())
        }
        Some("demo") => demo::run(rest),
        Some("test") => test::run(rest),
        Some("bench") => bench::run(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("soak") => soak::run(rest),
        Some("sim") => sim::run(rest),
        Some("package") => package::run(rest),
        Some("tidy") => tidy::run(),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        _ => Err(format!("no such command\n\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\nerror: {message}");
            ExitCode::FAILURE
        }
    }
}
