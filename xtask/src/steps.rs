//! A list of named steps with their durations, printed as they pass and summed up at the end.

use std::time::{Duration, Instant};

/// The step that the others stand on: it runs whatever is left out.
pub(crate) const SET_UP: &str = "set-up";

/// Steps that ran, in order.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    only: Option<String>,
    done: Vec<(String, Duration, bool)>,
}

impl Steps {
    /// With `only`, steps whose name does not begin with it are left out.
    pub(crate) fn new(only: Option<String>) -> Steps {
        Steps {
            only,
            done: Vec::new(),
        }
    }

    /// Runs one step. An error ends the whole run, after the summary.
    pub(crate) fn step(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        if self
            .only
            .as_ref()
            .is_some_and(|only| name != SET_UP && !name.starts_with(only))
        {
            return Ok(());
        }
        println!("\n== {name}");
        let began = Instant::now();
        let result = work();
        let took = began.elapsed();
        println!(
            "== {name}: {} in {}",
            verdict(result.is_ok()),
            seconds(took)
        );
        self.done.push((name.to_owned(), took, result.is_ok()));
        result.map_err(|message| {
            self.summary();
            format!("step \"{name}\": {message}")
        })
    }

    /// Prints every step with its duration, and the total.
    pub(crate) fn summary(&self) {
        println!();
        for (name, took, ok) in &self.done {
            println!("  {:<28} {:>9}  {}", name, seconds(*took), verdict(*ok));
        }
        let total: Duration = self.done.iter().map(|(_, took, _)| *took).sum();
        println!("  {:<28} {:>9}", "total", seconds(total));
    }

    /// Whether `only` names no step there is.
    pub(crate) fn is_empty(&self) -> bool {
        let found = |(name, _, _): &(String, Duration, bool)| {
            let only = self.only.as_deref().unwrap_or_default();
            name.starts_with(only)
        };
        !self.done.iter().any(found)
    }
}

fn verdict(ok: bool) -> &'static str {
    if ok { "ok" } else { "FAILED" }
}

fn seconds(duration: Duration) -> String {
    let total = duration.as_secs();
    if total >= 60 {
        format!("{} min {:02} s", total / 60, total % 60)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
