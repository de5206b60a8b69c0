//! Settings as text: the complete file, what is in effect, the page of the guide.

use std::fmt::Write;

use super::sources::{Origin, Values};
use super::table::{SECTIONS, Setting};

/// Width at which comments are broken.
const WIDTH: usize = 100;

/// A complete settings file: every setting, commented out at its default.
pub(crate) fn default_file() -> String {
    let mut out = String::from(
        "# Settings of Tidemill. Every setting is here, commented out, with its default.\n\
         # Sizes: \"64 MiB\" or a number of bytes. Times: \"30 s\" (us, ms, s, min, h, d).\n\
         # Check a file with 'tidemill config check FILE'; use it with 'tidemill start --config FILE'.\n",
    );
    for section in SECTIONS {
        let _ = writeln!(out, "\n{}[{}]", comment(section.doc), section.name);
        for s in section.settings {
            let note = format!("{} Takes {}.", s.doc, s.spec.range());
            let value = s.spec.write(&s.spec.default_value());
            let _ = write!(out, "\n{}# {} = {value}\n", comment(&note), s.key);
        }
    }
    out
}

/// The settings in effect, as a file, with where each comes from.
pub(crate) fn effective(values: &Values, file: Option<&str>) -> String {
    let mut out = String::new();
    for section in SECTIONS {
        let _ = writeln!(
            out,
            "{}[{}]",
            if out.is_empty() { "" } else { "\n" },
            section.name
        );
        for s in section.settings {
            let (line, origin) = line(values, s, file);
            let _ = writeln!(out, "{line:<42} # {origin}");
        }
    }
    out
}

/// The settings that differ from their defaults, a line each.
pub(crate) fn differences(values: &Values, file: Option<&str>) -> Vec<String> {
    let all = SECTIONS.iter().flat_map(|s| s.settings);
    let differing = all.filter(|s| values.get(s.section, s.key).0 != s.spec.default_value());
    let told = differing.map(|s| {
        let (line, origin) = line(values, s, file);
        let default = s.spec.write(&s.spec.default_value());
        format!("{}.{line}  (default {default}; {origin})", s.section)
    });
    told.collect()
}

fn line(values: &Values, s: &Setting, file: Option<&str>) -> (String, String) {
    let (value, origin) = values.get(s.section, s.key);
    let origin = match (origin, file) {
        (Origin::File(n), Some(file)) => format!("{file}:{n}"),
        (origin, _) => origin.to_string(),
    };
    (format!("{} = {}", s.key, s.spec.write(value)), origin)
}

/// The page of the guide, from the same table.
#[cfg(test)]
pub(crate) fn page() -> String {
    let mut out = String::from(
        "# Settings\n\n\
         <!-- Written by `TIDEMILL_UPDATE=1 cargo test --workspace --locked --bin tidemill -- config::` from the table of\n\
         settings; a test holds it equal. -->\n\n\
         `tidemill start --config FILE` reads settings from a TOML file; flags win over it. `tidemill config default` prints a\n\
         complete file with comments, `tidemill config check FILE` tells what is wrong with one, what it changes and what this\n\
         machine cannot give, and `tidemill config show --config FILE` what is in effect and where each value comes from.\n\n\
         Sizes are written `\"64 MiB\"` (B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB) or as a number of bytes, times `\"30 s\"` (us, ms,\n\
         s, min, h, d). Settings are read once, at start.\n",
    );
    for section in SECTIONS {
        let _ = write!(
            out,
            "\n## `[{}]`\n\n{}\n\n| setting | default | takes | what it does |\n|---|---|---|---|\n",
            section.name,
            section.doc.trim()
        );
        for s in section.settings {
            let default = s.spec.write(&s.spec.default_value());
            let (range, doc) = (s.spec.range(), s.doc.trim());
            let _ = writeln!(out, "| `{}` | `{default}` | {range} | {doc} |", s.key);
        }
    }
    out
}

/// `text` as lines of comment.
fn comment(text: &str) -> String {
    let mut out = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_file_reads_back_as_the_defaults_with_and_without_comments() {
        let file = default_file();
        let mut commented = Values::new();
        commented.file(&file);
        assert_eq!(commented.problems(), []);
        let is_setting = |l: &&str| {
            l.starts_with("# ")
                && l.split_once(" = ")
                    .is_some_and(|(k, _)| !k[2..].contains(' '))
        };
        let bare: Vec<&str> = file
            .lines()
            .map(|l| if is_setting(&l) { &l[2..] } else { l })
            .collect();
        let mut values = Values::new();
        values.file(&bare.join("\n"));
        assert_eq!(values.problems(), []);
        assert_eq!(values.settings(), Values::new().settings());
        let read = |s: &Setting| matches!(values.get(s.section, s.key).1, Origin::File(_));
        assert!(SECTIONS.iter().flat_map(|s| s.settings).all(read));
    }

    #[test]
    fn page_of_the_guide_is_what_the_table_says() {
        crate::guide::assert_page("settings.md", &page());
    }
}
