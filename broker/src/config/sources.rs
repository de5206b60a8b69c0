//! Where values come from: defaults, a file, the environment, flags; and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::kind::{Value, Written};
use super::table::{self, Setting, Settings};

/// Problems told at once; a file that is no settings file at all has no more to say.
const PROBLEMS_MAX: usize = 50;
/// Names that differ by at most so many letters from a known one are taken for misspelt.
const MISSPELT_MAX: usize = 3;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The default.
    Default,
    /// The settings file, in this line.
    File(usize),
    /// A variable of the environment.
    Environment(&'static str),
    /// A flag.
    Flag(&'static str),
    /// The default, made smaller so that it fits the machine's memory.
    Machine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File(line) => write!(f, "line {line}"),
            Origin::Environment(name) => write!(f, "{name}"),
            Origin::Flag(name) => write!(f, "{name}"),
            Origin::Machine => write!(f, "fitted to the memory of this machine"),
        }
    }
}

/// Which settings somebody set, by section and key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stated(Arc<BTreeSet<(&'static str, &'static str)>>);

impl Stated {
    /// Whether `section.key` was set.
    pub(crate) fn contains(&self, section: &'static str, key: &'static str) -> bool {
        self.0.contains(&(section, key))
    }
}

/// Something wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where it stands.
    pub(crate) origin: Origin,
    /// The setting and what is wrong with it.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => write!(f, "{}", self.message),
            origin => write!(f, "{origin}: {}", self.message),
        }
    }
}

/// Keys of files from before there were sections, named like the flags.
const OLD_KEYS: [(&str, &str, &str); 7] = [
    ("data_dir", "storage", "data_dir"),
    ("kafka_addr", "kafka", "addr"),
    ("advertised_kafka_addr", "kafka", "advertised_addr"),
    ("admin_addr", "admin", "addr"),
    ("admin_name", "admin", "names"),
    ("shards", "node", "shards"),
    ("runtime", "node", "runtime"),
];

/// Values by section and key, with where each comes from. Later sources win.
#[derive(Debug)]
pub(crate) struct Values {
    values: BTreeMap<(&'static str, &'static str), (Value, Origin)>,
    problems: Vec<Problem>,
}

impl Values {
    /// The defaults.
    pub(crate) fn new() -> Values {
        let default = |s: &'static Setting| {
            (
                (s.section, s.key),
                (s.spec.default_value(), Origin::Default),
            )
        };
        Values {
            values: table::all().map(default).collect(),
            problems: Vec::new(),
        }
    }

    /// Takes in the text of a settings file.
    pub(crate) fn file(&mut self, text: &str) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        for error in &errors {
            let at = error.span().map_or(0, |s| s.start);
            self.problem(Origin::File(line(at)), error.message().to_owned());
        }
        for (key, value) in root.get_ref() {
            let (name, origin) = (key.get_ref().as_ref(), Origin::File(line(key.span().start)));
            let section = table::SECTIONS.iter().find(|s| s.name == name);
            match (section, value.get_ref()) {
                (Some(section), DeValue::Table(entries)) => {
                    for (key, value) in entries {
                        let origin = Origin::File(line(key.span().start));
                        self.entry(section.name, key.get_ref(), value.get_ref(), origin);
                    }
                }
                (Some(section), _) => {
                    self.problem(
                        origin,
                        format!(
                            "{name} is a section: write [{}] and its settings below",
                            section.name
                        ),
                    );
                }
                (None, value) => self.top_level(name, value, origin),
            }
        }
    }

    fn top_level(&mut self, name: &str, value: &DeValue<'_>, origin: Origin) {
        if let Some((_, section, key)) = OLD_KEYS.iter().find(|(old, ..)| *old == name) {
            return self.entry(section, key, value, origin);
        }
        let known = match value {
            DeValue::Table(_) => nearest(name, table::SECTIONS.iter().map(|s| s.name.to_owned())),
            _ => nearest(name, table::all().map(|s| s.key.to_owned()))
                .and_then(|key| table::all().find(|s| s.key == key).map(Setting::name)),
        };
        let kind = if matches!(value, DeValue::Table(_)) {
            "section"
        } else {
            "setting"
        };
        self.problem(
            origin,
            format!("{name}: there is no such {kind}{}", did_you_mean(known)),
        );
    }

    fn entry(&mut self, section: &str, key: &str, value: &DeValue<'_>, origin: Origin) {
        match table::find(section, key) {
            Some(setting) => self.set(setting, &written(value), origin),
            None => {
                let name = format!("{section}.{key}");
                let elsewhere = || table::all().find(|s| s.key == key).map(Setting::name);
                let longer = || abbreviated(section, key);
                let known = nearest(&name, table::all().map(Setting::name));
                let known = known.or_else(elsewhere).or_else(longer);
                self.problem(
                    origin,
                    format!("{name}: there is no such setting{}", did_you_mean(known)),
                );
            }
        }
    }

    /// Takes in a value from the environment or a flag.
    pub(crate) fn given(&mut self, section: &str, key: &str, text: Written, origin: Origin) {
        let setting =
            table::find(section, key).expect("flags and variables name settings that exist");
        self.set(setting, &text, origin);
    }

    fn set(&mut self, setting: &'static Setting, written: &Written, origin: Origin) {
        match setting.spec.parse(written) {
            Ok(value) => {
                self.values
                    .insert((setting.section, setting.key), (value, origin));
            }
            Err(wants) => {
                let default = setting.spec.write(&setting.spec.default_value());
                let message = format!(
                    "{} = {written} cannot be: {wants} (default {default})",
                    setting.name()
                );
                self.problem(origin, message);
            }
        }
    }

    /// Notes that something is wrong.
    pub(crate) fn problem(&mut self, origin: Origin, message: String) {
        self.problems.push(Problem { origin, message });
    }

    /// The value of a setting and where it comes from.
    pub(crate) fn get(&self, section: &str, key: &str) -> &(Value, Origin) {
        let found = self
            .values
            .iter()
            .find(|((s, k), _)| *s == section && *k == key);
        found.map(|(_, v)| v).expect("every setting has a value")
    }

    /// Sets the size `setting`, which has its default, to what fits the machine.
    pub(super) fn shrink(&mut self, setting: &'static Setting, bytes: u64) {
        let value = (Value::Size(bytes), Origin::Machine);
        self.values.insert((setting.section, setting.key), value);
    }

    /// What is wrong, in the order of the file; cut off after [`PROBLEMS_MAX`].
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = self.problems.clone();
        problems.sort_by_key(|p| match p.origin {
            Origin::File(line) => line,
            _ => usize::MAX,
        });
        let more = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        if more > 0 {
            let message = format!("and {more} more");
            problems.push(Problem {
                origin: Origin::Default,
                message,
            });
        }
        problems
    }

    /// Which settings somebody set, to whatever value.
    pub(crate) fn stated(&self) -> Stated {
        let set =
            |(_, origin): &(Value, Origin)| !matches!(origin, Origin::Default | Origin::Machine);
        let names = self.values.iter().filter(|(_, v)| set(v));
        Stated(Arc::new(names.map(|(name, _)| *name).collect()))
    }

    /// The settings, typed. Values that were refused stand at their default.
    pub(crate) fn settings(&self) -> Settings {
        Settings::from_values(|section, key| &self.get(section, key).0)
    }
}

fn written(value: &DeValue<'_>) -> Written {
    match value {
        DeValue::String(t) => Written::Text(t.to_string()),
        DeValue::Boolean(on) => Written::Switch(*on),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Written::Integer(n),
            Err(_) => Written::Other(n.as_str().to_owned()),
        },
        DeValue::Float(n) => Written::Other(n.as_str().to_owned()),
        DeValue::Datetime(d) => Written::Other(d.to_string()),
        DeValue::Table(_) => Written::Other("a table".to_owned()),
        DeValue::Array(items) => {
            let texts = items
                .iter()
                .map(|i| i.get_ref().as_str().map(str::to_owned));
            match texts.collect::<Option<Vec<String>>>() {
                Some(texts) => Written::List(texts),
                None => Written::Other("a list with other things than strings".to_owned()),
            }
        }
    }
}

fn did_you_mean(known: Option<String>) -> String {
    known.map_or_else(
        || "; 'tidemill config default' prints all there are".to_owned(),
        |known| format!("; did you mean {known}?"),
    )
}

/// The setting of `section` that shortens the word `key`, misspelt or not: `addr` of `address`.
fn abbreviated(section: &str, key: &str) -> Option<String> {
    let once = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.dedup();
        letters
    };
    let of_section = table::all().filter(|s| s.section == section);
    let mut shorter = of_section.filter(|s| once(key).starts_with(&once(s.key)));
    shorter.next().map(Setting::name)
}

/// The known name that is nearest to `name`, if it is near.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let distance = |k: &String| strsim::damerau_levenshtein(name, k);
    let near = known.map(|k| (distance(&k), k)).min()?;
    (near.0 <= MISSPELT_MAX).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut values = Values::new();
        values.file(text);
        values.problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_is_told_at_once_with_line_value_range_and_what_was_meant() {
        let told = problems(
            "[kafka]\nidle_timout = \"1 s\"\nidle_timeout = \"0 s\"\npipeline_max = \"many\"\n\n[memry]\ncache = 1\n[memory]\n\
             cache = 1\naddr = \"x\"\nsmoke = 3\n[admin]\nadress = 'x'\n",
        );
        assert_eq!(
            told,
            [
                "line 2: kafka.idle_timout: there is no such setting; did you mean kafka.idle_timeout?",
                "line 3: kafka.idle_timeout = \"0 s\" cannot be: write a time with its unit from 1 s to 1 d (default \"10 min\")",
                "line 4: kafka.pipeline_max = \"many\" cannot be: write a number from 1 to 4096 (default 64)",
                "line 6: memry: there is no such section; did you mean memory?",
                "line 9: memory.cache = 1 cannot be: write a size from 1 MiB to 1 TiB (default \"128 MiB\")",
                "line 10: memory.addr: there is no such setting; did you mean kafka.addr?",
                "line 11: memory.smoke: there is no such setting; 'tidemill config default' prints all there are",
                "line 13: admin.adress: there is no such setting; did you mean admin.addr?",
            ]
        );
    }

    #[test]
    fn file_from_before_there_were_sections_still_works() {
        let mut values = Values::new();
        values.file("data_dir = 'x'\nadmin_name = ['a', 'b']\nshards = 3\nruntime = 'epoll'\n");
        assert_eq!(values.problems(), []);
        let settings = values.settings();
        assert_eq!(
            (settings.storage.data_dir.as_str(), settings.node.shards),
            ("x", Some(3))
        );
        assert_eq!(
            (settings.admin.names.len(), settings.node.runtime.as_str()),
            (2, "epoll")
        );
    }

    #[test]
    fn broken_toml_is_told_by_line() {
        assert!(problems("[kafka]\naddr = \n")[0].starts_with("line 2: "));
        assert!(!problems("[kafka\n").is_empty());
        assert_eq!(
            problems("kafka = 3"),
            ["line 1: kafka is a section: write [kafka] and its settings below"]
        );
    }

    #[test]
    fn later_sources_win_and_say_where_they_come_from() {
        let mut values = Values::new();
        values.file("[node]\nshards = 2\n");
        assert_eq!(values.get("node", "shards").1, Origin::File(2));
        values.given(
            "node",
            "shards",
            Written::Text("4".to_owned()),
            Origin::Flag("--shards"),
        );
        assert_eq!(
            values.get("node", "shards"),
            &(Value::Number(4), Origin::Flag("--shards"))
        );
    }

    proptest! {
        #[test]
        fn any_file_gives_settings_or_problems(text in "([a-z_\\[\\]= \"'.0-9\\n]|kafka|memory|\\PC){0,80}") {
            let mut values = Values::new();
            values.file(&text);
            let _ = (values.problems(), values.settings());
        }
    }
}
