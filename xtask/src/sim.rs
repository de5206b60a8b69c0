//! `cargo xtask sim`: runs the simulations with as many seeds as are wanted. A failing seed says which command runs it again.

use crate::process;
use crate::test::{TestProgram, build};
use std::process::Command;
use std::time::Instant;

/// Seeds of each simulation when nothing is said.
const SEEDS_DEFAULT: u64 = 1_000;

/// A simulation: its name, where it lies, and how many of its seeds `cargo xtask test` runs.
struct Simulation {
    name: &'static str,
    package: &'static str,
    target: &'static str,
    test: &'static str,
    in_test: u64,
    what: &'static str,
}

/// All of them. `in_test` is such that all take less than three minutes together, with debug builds on two cores.
const SIMULATIONS: &[Simulation] = &[
    Simulation {
        name: "shardlog-crashes",
        package: "tidemill-shardlog",
        target: "tidemill_shardlog",
        test: "crashes_and_restarts_lose_nothing_acknowledged",
        in_test: 3_000,
        what: "anything appended to a shard's log, crashes, restarts",
    },
    Simulation {
        name: "shardlog-carried",
        package: "tidemill-shardlog",
        target: "tidemill_shardlog",
        test: "s5_carried_copies_bring_nothing_void_back_and_lose_nothing",
        in_test: 2_000,
        what: "a silent ring whose entries are carried forward",
    },
    Simulation {
        name: "shardlog-damage",
        package: "tidemill-shardlog",
        target: "tidemill_shardlog",
        test: "byte_flipped_below_durable_position_is_corruption",
        in_test: 2_000,
        what: "one byte of a shard's log is damaged",
    },
    Simulation {
        name: "consensus",
        package: "tidemill-consensus",
        target: "tidemill_consensus",
        test: "r1_r2_acknowledged_commands_survive_crashes_at_any_step_under_their_log_ids",
        in_test: 300,
        what: "a Raft group that crashes at any step",
    },
    Simulation {
        name: "rings",
        package: "tidemill-ring",
        target: "simulation",
        test: "s4_s5_x2_x3_x4_crashes_lose_nothing_and_double_nothing",
        in_test: 500,
        what: "two rings, a transform between them, crashes",
    },
    Simulation {
        name: "life",
        package: "tidemill-ring",
        target: "life",
        test: "s4_s5_s6_s9_s11_storage_of_a_node_lives_through_crashes_and_full_disks",
        in_test: 500,
        what: "a node's storage: six partitions, retention, DeleteRecords, full disks, kills, power cuts",
    },
    Simulation {
        name: "rt",
        package: "tidemill-rt",
        target: "chan",
        test: "",
        in_test: 300,
        what: "channels of the runtime, in other orders of tasks",
    },
];

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    from: u64,
    seeds: u64,
    only: Option<String>,
}

fn asked(args: &[String]) -> Result<Asked, String> {
    let mut asked = Asked {
        from: 0,
        seeds: SEEDS_DEFAULT,
        only: None,
    };
    for pair in args.chunks(2) {
        let [flag, value] = pair else {
            return Err(format!("{} needs a value\n\n{}", pair[0], usage()));
        };
        let number = || {
            let parsed = value.parse::<u64>();
            parsed.map_err(|_| format!("{flag} needs a number, '{value}' is none"))
        };
        match flag.as_str() {
            "--from" => asked.from = number()?,
            "--seeds" => asked.seeds = number()?,
            "--only" => asked.only = Some(value.clone()),
            _ => return Err(usage()),
        }
    }
    Ok(asked)
}

fn usage() -> String {
    let mut text = "usage: cargo xtask sim [--seeds N] [--from S] [--only SIMULATION]\n".to_owned();
    for s in SIMULATIONS {
        text += &format!("\n  {:<18} {}", s.name, s.what);
    }
    text
}

/// Runs the simulations.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let asked = asked(args)?;
    let chosen: Vec<_> = SIMULATIONS
        .iter()
        .filter(|s| asked.only.as_ref().is_none_or(|only| s.name == only))
        .collect();
    if chosen.is_empty() {
        return Err(format!(
            "there is no simulation with that name\n\n{}",
            usage()
        ));
    }
    let programs = build()?;
    let each = chosen.into_iter().map(|s| (s, asked.seeds));
    run_each(&programs, each, asked.from)
}

/// Runs all with the seeds that `cargo xtask test` runs.
pub(crate) fn run_in_test(programs: &[TestProgram]) -> Result<(), String> {
    run_each(programs, SIMULATIONS.iter().map(|s| (s, s.in_test)), 0)
}

fn run_each<'a>(
    programs: &[TestProgram],
    simulations: impl Iterator<Item = (&'a Simulation, u64)>,
    from: u64,
) -> Result<(), String> {
    let mut failed = Vec::new();
    for (simulation, seeds) in simulations {
        let began = Instant::now();
        println!(
            "-- {}: seeds {from} to {}",
            simulation.name,
            from.saturating_add(seeds) - 1
        );
        if process::run(&mut command(programs, simulation, from, seeds)?).is_err() {
            failed.push(simulation.name);
        }
        println!("   {:.1} s", began.elapsed().as_secs_f64());
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "failed: {}; the lines that begin with `replay:` say how to run a seed again",
            failed.join(", ")
        )),
    }
}

fn command(
    programs: &[TestProgram],
    simulation: &Simulation,
    from: u64,
    seeds: u64,
) -> Result<Command, String> {
    let program = programs
        .iter()
        .find(|p| p.package == simulation.package && p.target == simulation.target)
        .ok_or_else(|| {
            format!(
                "the tests {} of {} are gone",
                simulation.target, simulation.package
            )
        })?;
    let mut command = Command::new(&program.executable);
    command
        .arg("--quiet")
        .arg(simulation.test)
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .env("TIDEMILL_FROM", from.to_string())
        .env("TIDEMILL_SEEDS", seeds.to_string());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_are_read_in_any_order_and_wrong_ones_refused() {
        let expected = Asked {
            from: 7,
            seeds: 1,
            only: Some("life".to_owned()),
        };
        assert_eq!(
            asked(&words("--only life --from 7 --seeds 1")),
            Ok(expected)
        );
        assert!(asked(&words("--seeds many")).is_err());
        assert!(asked(&words("--seeds")).is_err());
        assert!(asked(&words("--all 1")).is_err());
    }

    #[test]
    fn every_simulation_names_a_test_that_is_there() {
        for s in SIMULATIONS.iter().filter(|s| !s.test.is_empty()) {
            let folder = process::root()
                .join("broker/crates")
                .join(&s.package["tidemill-".len()..]);
            let files = walk(&folder);
            let found = files.iter().any(|text| {
                text.contains(&format!("fn {}(", s.test))
                    && text.contains(&format!("\"{}\"", s.name))
            });
            assert!(found, "{} is not in {}", s.name, folder.display());
        }
    }

    fn walk(folder: &std::path::Path) -> Vec<String> {
        let mut texts = Vec::new();
        for entry in std::fs::read_dir(folder).expect("it is there").flatten() {
            match entry.path() {
                path if path.is_dir() => texts.extend(walk(&path)),
                path => texts.extend(std::fs::read_to_string(path)),
            }
        }
        texts
    }
}
