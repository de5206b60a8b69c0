//! What is wrong with the text of a `transform.toml`: the line, and what to write there. Values are not shown: one may be a secret that
//! does not belong there.

use tidemill_model::variable;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// Changed letters up to which a key is taken for another one.
const MISSPELT_MAX: usize = 2;

/// What stands behind a key.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// A whole number that is not below 0.
    Number,
    /// One of some words.
    Word(&'static [&'static str]),
    /// A section of environment variables.
    Variables,
    /// A section with keys of its own.
    Section(&'static [Key]),
    /// Looked at elsewhere.
    Any,
}

/// A key that there is.
#[derive(Debug)]
struct Key {
    name: &'static str,
    kind: Kind,
    /// What might stand behind it, as an example.
    example: &'static str,
}

const fn key(name: &'static str, kind: Kind, example: &'static str) -> Key {
    Key {
        name,
        kind,
        example,
    }
}

const LANGUAGES: &[&str] = &["rust", "go", "python"];
const POLICIES: &[&str] = &["fail", "skip", "dead-letter", "pass-through"];
const CODECS: &[&str] = &["none", "gzip", "snappy", "lz4", "zstd"];
const LIMITS: &[Key] = &[
    key("time_ms", Kind::Number, "3000"),
    key("memory_mb", Kind::Number, "64"),
];
/// All there are; those that may not be absent come first.
const KEYS: &[Key] = &[
    key("name", Kind::Text, "\"mask\""),
    key("language", Kind::Word(LANGUAGES), "\"rust\""),
    key("module", Kind::Text, "\"transform\""),
    key("input", Kind::Text, "\"orders\""),
    key("output", Kind::Text, "\"orders-masked\""),
    key("outputs", Kind::Texts, "[\"orders-eu\", \"orders-us\"]"),
    key("env", Kind::Variables, "[env]"),
    key("limits", Kind::Section(LIMITS), "[limits]"),
    key("on_error", Kind::Word(POLICIES), "\"skip\""),
    key("dead_letter", Kind::Text, "\"orders-refused\""),
    key("attempts", Kind::Number, "3"),
    key("secrets", Kind::Any, "[\"API_KEY\"]"),
    key("compression", Kind::Word(CODECS), "\"zstd\""),
    key("weight", Kind::Number, "1"),
    key("partition_by", Kind::Word(&["input", "key"]), "\"key\""),
];
/// The keys that may not be absent.
const NEEDED: usize = 2;

/// Checks the names and kinds of all keys.
///
/// # Errors
/// All that is wrong, a line each, in the order of the file.
pub(super) fn check(text: &str) -> Result<(), String> {
    let before = |at: usize| text.bytes().take(at);
    let line = |at: usize| 1 + before(at).filter(|byte| *byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        format!("line {}: this is no TOML: {}", line(at), error.message())
    })?;
    let mut wrong = Vec::new();
    check_table(table.get_ref(), KEYS, &mut wrong);
    wrong.sort_by_key(|(at, _)| *at);
    let mut said: Vec<String> = wrong
        .into_iter()
        .map(|(at, what)| format!("line {}: {what}", line(at)))
        .collect();
    let misspelt = |key: &Key| {
        let meant = format!("`{}`?", key.name);
        said.iter().any(|what| what.ends_with(&meant))
    };
    let absent: Vec<&Key> = KEYS[..NEEDED]
        .iter()
        .filter(|key| !table.get_ref().contains_key(key.name) && !misspelt(key))
        .collect();
    said.extend(
        absent
            .into_iter()
            .map(|key| format!("`{0}` is missing: write {0} = {1}", key.name, key.example)),
    );
    match said.is_empty() {
        true => Ok(()),
        false => Err(said.join("\n")),
    }
}

/// Where something is wrong, a position in the text, and what.
type Wrong = (usize, String);

fn check_table(table: &DeTable<'_>, known: &'static [Key], wrong: &mut Vec<Wrong>) {
    for (name, value) in table.iter() {
        let at = name.span().start;
        let name = name.get_ref().as_ref();
        match known.iter().find(|key| key.name == name) {
            Some(key) => check_value(key, value, wrong),
            None => wrong.push((at, unknown(name, known))),
        }
    }
}

fn check_value(key: &Key, value: &Spanned<DeValue<'_>>, wrong: &mut Vec<Wrong>) {
    let at = value.span().start;
    let is_text = |item: &Spanned<DeValue<'_>>| item.get_ref().is_str();
    let fits = match (key.kind, value.get_ref()) {
        (Kind::Text, value) => value.is_str(),
        (Kind::Texts, value) => value.as_array().is_some_and(|all| all.iter().all(is_text)),
        (Kind::Number, value) => value
            .as_integer()
            .is_some_and(|number| u32::from_str_radix(number.as_str(), number.radix()).is_ok()),
        (Kind::Word(words), value) => value.as_str().is_some_and(|word| words.contains(&word)),
        (Kind::Section(known), DeValue::Table(table)) => {
            return check_table(table, known, wrong);
        }
        (Kind::Variables, DeValue::Table(table)) => {
            wrong.extend(table.iter().filter_map(unfit_variable));
            true
        }
        (Kind::Section(_) | Kind::Variables, _) => false,
        (Kind::Any, _) => true,
    };
    if !fits {
        wrong.push((at, unfit(key)));
    }
}

/// What is wrong with a variable.
fn unfit_variable((name, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)) -> Option<Wrong> {
    let (at, name) = (name.span().start, name.get_ref());
    let what = match variable::check(name) {
        Err(error) => error.to_string(),
        Ok(()) if value.get_ref().is_str() => return None,
        Ok(()) => format!("the variable `{name}` is to be a text: write {name} = \"..\""),
    };
    Some((at, what))
}

/// What to write for a key whose value has another kind.
fn unfit(key: &Key) -> String {
    let (name, example) = (key.name, key.example);
    match key.kind {
        Kind::Section(_) | Kind::Variables => {
            format!("`{name}` is a section: write {example}, and below it a line for each")
        }
        Kind::Word(words) => {
            format!("`{name}` is one of \"{}\"", words.join("\", \""))
        }
        Kind::Text => format!("`{name}` is a text: write it as {name} = {example}"),
        Kind::Texts => format!("`{name}` is a list of texts: write it as {name} = {example}"),
        Kind::Number => {
            format!("`{name}` is a whole number, 0 or more: write it as {name} = {example}")
        }
        Kind::Any => format!("`{name}` cannot be read: write it as {name} = {example}"),
    }
}

/// What to write instead of a key that there is not.
fn unknown(name: &str, known: &'static [Key]) -> String {
    let names = |keys: &'static [Key]| keys.iter().map(|key| key.name);
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let near = |keys| names(keys).min_by_key(|other| distance(other));
    let near = |keys| near(keys).filter(|other| distance(other) <= MISSPELT_MAX);
    let begun = |keys| {
        names(keys).find(|other| other.split('_').next() == Some(name) || name.starts_with(other))
    };
    let here = near(known).or_else(|| begun(known));
    let in_limits = near(LIMITS).or_else(|| begun(LIMITS));
    let advice = match (here, in_limits) {
        (Some(here), _) => format!("did you mean `{here}`?"),
        (None, Some(limit)) => {
            format!("limits stand below [limits]: did you mean `{limit}` there?")
        }
        (None, None) if names(KEYS).any(|key| key == name) => {
            format!("`{name}` stands above the first [section]")
        }
        (None, None) => format!("there are {}", names(known).collect::<Vec<_>>().join(", ")),
    };
    format!("there is no key `{name}` here; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "name = \"m\"\nlanguage = \"rust\"\n";

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_what_to_write_there() {
        for (text, said) in [
            (
                "outptu = \"b\"\n",
                "line 3: there is no key `outptu` here; did you mean `output`?",
            ),
            (
                "memory = 3\n",
                "line 3: there is no key `memory` here; limits stand below [limits]: did you mean `memory_mb` there?",
            ),
            (
                "[limits]\ntime = 1\n",
                "line 4: there is no key `time` here; did you mean `time_ms`?",
            ),
            (
                "[limits]\nattempts = 1\n",
                "line 4: there is no key `attempts` here; `attempts` stands above the first [section]",
            ),
            (
                "[limits]\ncolour = 1\n",
                "line 4: there is no key `colour` here; there are time_ms, memory_mb",
            ),
            (
                "attempts = \"3\"\n",
                "line 3: `attempts` is a whole number, 0 or more: write it as attempts = 3",
            ),
            (
                "weight = -1\n",
                "line 3: `weight` is a whole number, 0 or more: write it as weight = 1",
            ),
            (
                "input = 3\n",
                "line 3: `input` is a text: write it as input = \"orders\"",
            ),
            (
                "outputs = \"b\"\n",
                "line 3: `outputs` is a list of texts: write it as outputs = [\"orders-eu\", \"orders-us\"]",
            ),
            (
                "on_error = \"stop\"\n",
                "line 3: `on_error` is one of \"fail\", \"skip\", \"dead-letter\", \"pass-through\"",
            ),
            (
                "env = \"K\"\n",
                "line 3: `env` is a section: write [env], and below it a line for each",
            ),
            (
                "environment = \"K\"\n",
                "line 3: there is no key `environment` here; did you mean `env`?",
            ),
            (
                "[env]\n1A = \"x\"\n",
                "line 4: '1A' cannot be the name of a variable: names have letters, digits, '_', '.' and '-', and do not begin with a digit",
            ),
            (
                "[env]\nPORT = 5\n",
                "line 4: the variable `PORT` is to be a text: write PORT = \"..\"",
            ),
        ] {
            let found = check(&format!("{BEGIN}{text}"));
            assert_eq!(found, Err(said.to_owned()), "{text}");
        }
        let both = check("languge = \"rust\"\ninput = 3\n").expect_err("much is wrong");
        let lines: Vec<&str> = both.lines().collect();
        assert_eq!(lines.len(), 3, "{both}");
        // What is misspelt is not missing as well.
        assert!(lines[0].ends_with("did you mean `language`?"), "{both}");
        assert!(lines[1].starts_with("line 2"), "{both}");
        assert_eq!(lines[2], "`name` is missing: write name = \"mask\"");
    }

    #[test]
    fn every_example_and_every_word_is_one_that_is_read() {
        let read = |text: &str| {
            let checked = check(text).map_err(|error| format!("{text}: {error}"));
            checked.expect("it is right");
            toml::from_str::<super::super::Manifest>(text).expect("it is read")
        };
        for Key {
            name,
            kind,
            example,
        } in &KEYS[NEEDED..]
        {
            let plain = match kind {
                Kind::Section(_) | Kind::Variables => format!("{example}\n"),
                _ => format!("{name} = {example}\n"),
            };
            read(&format!("{BEGIN}{plain}"));
            if let Kind::Word(words) = kind {
                for word in *words {
                    read(&format!("{BEGIN}{name} = \"{word}\"\n"));
                }
            }
        }
        for language in LANGUAGES {
            read(&format!("name = \"m\"\nlanguage = \"{language}\"\n"));
        }
        for Key { name, example, .. } in LIMITS {
            read(&format!("{BEGIN}[limits]\n{name} = {example}\n"));
        }
    }

    #[test]
    fn text_that_is_no_toml_is_told_with_its_line_and_without_it() {
        let said = check(&format!("{BEGIN}secrets = [\"hush\n")).expect_err("a quote is missing");
        assert!(said.starts_with("line 3: this is no TOML: "), "{said}");
        assert!(!said.contains("hush"), "{said}");
    }
}
