//! `benches/results/latest.md`: one section a row, what falls short first, rows that did not run kept.

use crate::process::{self, program, root};
use std::path::Path;

/// One measured row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) holds: bool,
    /// One sentence with the figure and the target.
    pub(super) summary: String,
    pub(super) commands: Vec<String>,
    pub(super) body: String,
}

/// A section as it stands in the file: its heading and what is below.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    name: String,
    holds: bool,
    summary: String,
    text: String,
}

/// The whole report.
#[derive(Debug, Default)]
pub(super) struct Report {
    sections: Vec<Section>,
}

const HOLDS: &str = "holds";
const SHORT: &str = "falls short";

impl Report {
    /// What the file has; empty when there is none.
    pub(super) fn load() -> Report {
        let text =
            std::fs::read_to_string(root().join("benches/results/latest.md")).unwrap_or_default();
        Report::parse(&text)
    }

    fn parse(text: &str) -> Report {
        let sections = text.split("\n## ").skip(1).filter_map(section).collect();
        Report { sections }
    }

    /// Puts a row in the place of its older figure.
    pub(super) fn put(&mut self, row: Row) {
        self.sections.retain(|section| section.name != row.name);
        let commands: Vec<String> = row
            .commands
            .iter()
            .map(|command| format!("    {command}"))
            .collect();
        let text = format!(
            "{}\n\n{}\n\n{}",
            environment(),
            commands.join("\n"),
            row.body
        );
        self.sections.push(Section {
            name: row.name,
            holds: row.holds,
            summary: row.summary,
            text,
        });
        self.sections
            .sort_by(|a, b| (a.holds, &a.name).cmp(&(b.holds, &b.name)));
    }

    /// One line a row.
    pub(super) fn headlines(&self) -> String {
        let line = |section: &Section| {
            format!(
                "{} {}: {}",
                section.name,
                verdict(section.holds),
                section.summary
            )
        };
        self.sections
            .iter()
            .map(line)
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn render(&self) -> String {
        let mut text = "# Measured\n\nWritten by `cargo xtask bench`; what falls short comes first. Figures are for the machine named with them.\n".to_owned();
        for section in &self.sections {
            text += &format!(
                "\n## {} {}: {}\n\n{}\n",
                section.name,
                verdict(section.holds),
                section.summary,
                section.text.trim()
            );
        }
        text
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), String> {
        let folder = path.parent().expect("the report lies in a folder");
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(path, self.render()))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

fn verdict(holds: bool) -> &'static str {
    if holds { HOLDS } else { SHORT }
}

fn section(text: &str) -> Option<Section> {
    let (heading, text) = text.split_once('\n')?;
    let (head, summary) = heading.split_once(": ")?;
    let (name, verdict) = head.split_once(' ')?;
    Some(Section {
        name: name.to_owned(),
        holds: verdict == HOLDS,
        summary: summary.to_owned(),
        text: text.trim().to_owned(),
    })
}

/// Date, commit, compiler, kernel and processor of this run.
fn environment() -> String {
    let said = |name: &str, args: &[&str]| {
        process::output(&mut program(name, args))
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{}, commit {}, {}, Linux {}, {} cores of {}",
        said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        said("git", &["describe", "--always", "--dirty"]),
        said("rustc", &["--version"]),
        said("uname", &["-r"]),
        cores,
        model.map_or("an unknown processor", |(_, name)| name)
    )
}

/// The middle value; sorts. `None` without values.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// `lowest to highest unit, n rounds` of sorted values.
pub(super) fn spread(sorted: &[f64], unit: &str) -> String {
    match (sorted.first(), sorted.last()) {
        (Some(low), Some(high)) => format!("{low:.1} to {high:.1} {unit}, {} rounds", sorted.len()),
        _ => "no rounds".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, holds: bool) -> Row {
        Row {
            name: name.to_owned(),
            holds,
            summary: format!("about {name}: fine"),
            commands: vec!["run it".to_owned()],
            body: "body\n\nmore".to_owned(),
        }
    }

    #[test]
    fn rows_not_run_are_kept_and_what_falls_short_comes_first() {
        let mut report = Report::default();
        report.put(row("B1", true));
        report.put(row("T2", false));
        let mut again = Report::parse(&report.render());
        assert_eq!(again.sections, report.sections);
        assert_eq!(again.sections[0].name, "T2");
        again.put(row("T2", true));
        assert_eq!(
            again
                .sections
                .iter()
                .map(|s| s.name.as_str())
                .collect::<Vec<_>>(),
            ["B1", "T2"]
        );
    }
}
