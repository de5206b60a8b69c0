//! Which seeds a simulation runs, and how a failure is run again. `cargo xtask sim` sets the variables read here.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// One seed, nothing else.
const ONE: &str = "TIDEMILL_SEED";
/// How many seeds.
const COUNT: &str = "TIDEMILL_SEEDS";
/// The first of them; 0 unless said.
const FROM: &str = "TIDEMILL_FROM";

/// Runs `scenario` for `count` seeds from 0, or for those that the environment names. Gives back how many it ran. A failure says which
/// command runs its seed again; `name` is the simulation's name there.
///
/// # Panics
/// When the scenario does, and when the environment names no numbers.
pub fn for_seeds(name: &str, count: u64, mut scenario: impl FnMut(u64)) -> u64 {
    let (from, count) = chosen(|variable| std::env::var(variable).ok(), count);
    for seed in from..from.saturating_add(count) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            #[allow(clippy::print_stderr, reason = "a test tells how to run it again")]
            {
                eprintln!("replay: cargo xtask sim --from {seed} --seeds 1 --only {name}");
            }
            resume_unwind(panic);
        }
    }
    count
}

/// The first seed and how many.
fn chosen(variable: impl Fn(&str) -> Option<String>, count: u64) -> (u64, u64) {
    let number = |name: &str| {
        let text = variable(name)?;
        Some(
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is '{text}', and no number")),
        )
    };
    match number(ONE) {
        Some(seed) => (seed, 1),
        None => (number(FROM).unwrap_or(0), number(COUNT).unwrap_or(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_those_that_the_environment_names() {
        let set = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                let found = pairs.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        assert_eq!(chosen(set(&[]), 7), (0, 7));
        assert_eq!(chosen(set(&[(COUNT, "3")]), 7), (0, 3));
        assert_eq!(chosen(set(&[(FROM, "5"), (COUNT, "3")]), 7), (5, 3));
        assert_eq!(chosen(set(&[(ONE, "9"), (FROM, "5")]), 7), (9, 1));
    }
}
