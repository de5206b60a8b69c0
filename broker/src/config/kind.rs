//! Kinds of settings: what a value may be, how people write it, how it is written back.

use std::fmt;
use std::time::Duration;

/// 1 KiB in bytes.
pub(crate) const KIB: u64 = 1 << 10;
/// 1 MiB in bytes.
pub(crate) const MIB: u64 = 1 << 20;
/// 1 GiB in bytes.
pub(crate) const GIB: u64 = 1 << 30;
/// 1 TiB in bytes.
pub(crate) const TIB: u64 = 1 << 40;
/// 1 ms.
pub(crate) const MS: Duration = Duration::from_millis(1);
/// 1 s.
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// 1 min.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// 1 h.
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
/// 1 d.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Units of sizes, largest first, in the order in which they are tried for writing; those of ten are only read.
const SIZES: [(&str, u64); 9] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
/// Units of durations in ns, largest first.
const TIMES: [(&str, u64); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// What a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes, between two bounds.
    Size(u64, u64),
    /// A duration, between two bounds.
    Time(Duration, Duration),
    /// A number of something, between two bounds.
    Number(u64, u64),
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text of this form.
    Text(&'static str),
    /// A list of texts of this form.
    List(&'static str),
}

/// What a setting takes, and its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spec {
    /// What it takes.
    pub(crate) kind: Kind,
    /// The default, as people write it.
    pub(crate) default: &'static str,
    /// A word that stands for no value (`none`, `auto`, `forever`), where there may be none.
    pub(crate) word: Option<&'static str>,
}

const fn spec(kind: Kind, default: &'static str) -> Spec {
    Spec {
        kind,
        default,
        word: None,
    }
}

/// A size in bytes from `min` to `max`.
pub(crate) const fn size(default: &'static str, min: u64, max: u64) -> Spec {
    spec(Kind::Size(min, max), default)
}

/// A duration from `min` to `max`.
pub(crate) const fn time(default: &'static str, min: Duration, max: Duration) -> Spec {
    spec(Kind::Time(min, max), default)
}

/// A number from `min` to `max`.
pub(crate) const fn number(default: &'static str, min: u64, max: u64) -> Spec {
    spec(Kind::Number(min, max), default)
}

/// `true` or `false`.
pub(crate) const fn switch(default: &'static str) -> Spec {
    spec(Kind::Switch, default)
}

/// One of `words`.
pub(crate) const fn word(default: &'static str, words: &'static [&'static str]) -> Spec {
    spec(Kind::Word(words), default)
}

/// A text of the form `form`.
pub(crate) const fn text(default: &'static str, form: &'static str) -> Spec {
    spec(Kind::Text(form), default)
}

/// A list, empty by default, of texts of the form `form`.
pub(crate) const fn list(form: &'static str) -> Spec {
    spec(Kind::List(form), "")
}

impl Spec {
    /// The same, or `word` for no value. The field is then an `Option`.
    pub(crate) const fn or(self, word: &'static str) -> Spec {
        Spec {
            word: Some(word),
            ..self
        }
    }

    /// Reads what a person wrote.
    ///
    /// # Errors
    /// What it takes instead.
    pub(crate) fn parse(&self, written: &Written) -> Result<Value, String> {
        if let (Written::Text(t), Some(word)) = (written, self.word)
            && t.trim() == word
        {
            return Ok(Value::None);
        }
        self.kind
            .parse(written)
            .ok_or_else(|| format!("write {}", self.range()))
    }

    /// Its default.
    pub(crate) fn default_value(&self) -> Value {
        if let Kind::List(_) = self.kind {
            return Value::List(Vec::new());
        }
        self.parse(&Written::Text(self.default.to_owned()))
            .expect("a test reads every default")
    }

    /// What it takes, in words.
    pub(crate) fn range(&self) -> String {
        match self.word {
            Some(word) => format!("{}, or \"{word}\"", self.kind.range()),
            None => self.kind.range(),
        }
    }

    /// `value` as it stands in a settings file.
    pub(crate) fn write(&self, value: &Value) -> String {
        match value {
            Value::None => quoted(self.word.unwrap_or_default()),
            Value::Size(n) => quoted(&human_size(*n)),
            Value::Time(d) => quoted(&human_time(*d)),
            Value::Number(n) => n.to_string(),
            Value::Switch(on) => on.to_string(),
            Value::Text(t) => quoted(t),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(|i| quoted(i)).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Kind {
    fn parse(self, written: &Written) -> Option<Value> {
        match (self, written) {
            (Kind::Size(min, max), Written::Text(t)) => parse_unit(t, &SIZES, false)
                .filter(|n| (min..=max).contains(n))
                .map(Value::Size),
            (Kind::Size(min, max), Written::Integer(n)) => u64::try_from(*n)
                .ok()
                .filter(|n| (min..=max).contains(n))
                .map(Value::Size),
            (Kind::Time(min, max), Written::Text(t)) => parse_unit(t, &TIMES, true)
                .map(Duration::from_nanos)
                .filter(|d| (min..=max).contains(d))
                .map(Value::Time),
            (Kind::Number(min, max), Written::Integer(n)) => u64::try_from(*n)
                .ok()
                .filter(|n| (min..=max).contains(n))
                .map(Value::Number),
            (Kind::Number(min, max), Written::Text(t)) => t
                .trim()
                .parse()
                .ok()
                .filter(|n| (min..=max).contains(n))
                .map(Value::Number),
            (Kind::Switch, Written::Switch(on)) => Some(Value::Switch(*on)),
            (Kind::Switch, Written::Text(t)) => t.trim().parse().ok().map(Value::Switch),
            (Kind::Word(words), Written::Text(t)) => {
                words.contains(&t.as_str()).then(|| Value::Text(t.clone()))
            }
            (Kind::Text(_), Written::Text(t)) => (!t.is_empty()).then(|| Value::Text(t.clone())),
            (Kind::List(_), Written::List(items)) => Some(Value::List(items.clone())),
            (Kind::List(_), Written::Text(t)) => Some(Value::List(vec![t.clone()])),
            _ => None,
        }
    }

    fn range(self) -> String {
        match self {
            Kind::Size(min, max) => {
                format!("a size from {} to {}", human_size(min), human_size(max))
            }
            Kind::Time(min, max) => {
                format!(
                    "a time with its unit from {} to {}",
                    human_time(min),
                    human_time(max)
                )
            }
            Kind::Number(min, max) => format!("a number from {min} to {max}"),
            Kind::Switch => "true or false".to_owned(),
            Kind::Word(words) => {
                let words: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
                words.join(" or ")
            }
            Kind::Text(form) => form.to_owned(),
            Kind::List(form) => format!("a list, each {form}"),
        }
    }
}

/// A value as it stands in a file or on the command line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Written {
    /// A string.
    Text(String),
    /// An integer.
    Integer(i64),
    /// A boolean.
    Switch(bool),
    /// A list of strings.
    List(Vec<String>),
    /// Something no setting takes (a date, a table, a fraction), as written.
    Other(String),
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Written::Text(t) => write!(f, "\"{t}\""),
            Written::Integer(n) => write!(f, "{n}"),
            Written::Switch(on) => write!(f, "{on}"),
            Written::List(items) => write!(f, "{items:?}"),
            Written::Other(text) => write!(f, "{text}"),
        }
    }
}

/// A checked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// No value: the setting's word for that was written.
    None,
    /// Bytes.
    Size(u64),
    /// A duration.
    Time(Duration),
    /// A number.
    Number(u64),
    /// A switch.
    Switch(bool),
    /// A text or word.
    Text(String),
    /// A list.
    List(Vec<String>),
}

/// A type of a field of the settings.
pub(crate) trait Field: Sized {
    /// The value as this type; a wrong type in the table is found by a test that builds the defaults.
    fn field(value: &Value) -> Option<Self>;
}

macro_rules! numbers {
    ($($t:ty)*) => {$(
        impl Field for $t {
            fn field(value: &Value) -> Option<$t> {
                match value {
                    Value::Size(n) | Value::Number(n) => <$t>::try_from(*n).ok(),
                    _ => None,
                }
            }
        }
    )*};
}

numbers!(u16 u32 u64 usize i32 i64);

impl Field for Duration {
    fn field(value: &Value) -> Option<Duration> {
        match value {
            Value::Time(d) => Some(*d),
            _ => None,
        }
    }
}

impl Field for bool {
    fn field(value: &Value) -> Option<bool> {
        match value {
            Value::Switch(on) => Some(*on),
            _ => None,
        }
    }
}

impl Field for String {
    fn field(value: &Value) -> Option<String> {
        match value {
            Value::Text(t) => Some(t.clone()),
            _ => None,
        }
    }
}

impl Field for Vec<String> {
    fn field(value: &Value) -> Option<Vec<String>> {
        match value {
            Value::List(items) => Some(items.clone()),
            _ => None,
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn field(value: &Value) -> Option<Option<T>> {
        match value {
            Value::None => Some(None),
            value => T::field(value).map(Some),
        }
    }
}

/// `1.5 GiB` in the smallest unit. A fraction may have three digits; a plain number is taken where `unit_needed` is false.
fn parse_unit(text: &str, units: &[(&str, u64)], unit_needed: bool) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let unit = unit.trim();
    let factor = match unit {
        "" if unit_needed && !number.trim_matches('0').is_empty() => return None,
        "" => 1,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if fraction.len() > 3 || number.ends_with('.') {
        return None;
    }
    let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    let part = u64::try_from(u128::from(factor) * u128::from(thousandths) / 1_000).ok()?;
    whole.checked_mul(factor)?.checked_add(part)
}

/// Bytes in the largest unit that says them exactly.
pub(crate) fn human_size(bytes: u64) -> String {
    let binary = SIZES.iter().filter(|(name, _)| name.ends_with("iB"));
    human(bytes, binary, "B")
}

/// Bytes to a tenth of the largest unit that is not larger, for sentences.
pub(crate) fn rough_size(bytes: u64) -> String {
    match SIZES.iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) if *factor > 1 => {
            format!("{:.1} {unit}", bytes as f64 / *factor as f64)
        }
        _ => format!("{bytes} B"),
    }
}

/// A duration in the largest unit that says it exactly.
pub(crate) fn human_time(d: Duration) -> String {
    let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return "0 s".to_owned();
    }
    human(nanos, TIMES.iter(), "ns")
}

fn human<'a>(
    n: u64,
    mut units: impl Iterator<Item = &'a (&'static str, u64)>,
    smallest: &str,
) -> String {
    match units.find(|(_, factor)| n != 0 && n.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{} {unit}", n / factor),
        None => format!("{n} {smallest}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Option<u64> {
        parse_unit(text, &SIZES, false)
    }

    fn nanos(text: &str) -> Option<u64> {
        parse_unit(text, &TIMES, true)
    }

    #[test]
    fn sizes_and_times_are_read_as_people_write_them() {
        assert_eq!(bytes("64 MiB"), Some(64 << 20));
        assert_eq!(bytes("64MiB"), Some(64 << 20));
        assert_eq!(bytes("1.5 GiB"), Some(3 << 29));
        assert_eq!(bytes("1_000"), Some(1_000));
        assert_eq!(bytes("2 MB"), Some(2_000_000));
        assert_eq!(nanos("30 s"), Some(30_000_000_000));
        assert_eq!(nanos("0.5 ms"), Some(500_000));
        assert_eq!(nanos("7 d"), Some(7 * 86_400_000_000_000));
        assert_eq!(rough_size((3 << 29) + 7), "1.5 GiB");
        assert_eq!(rough_size(900), "900 B");
    }

    #[test]
    fn numbers_without_unit_or_sense_are_refused() {
        for text in [
            "",
            "MiB",
            "1 MIB",
            "-1 MiB",
            "1.2345 MiB",
            "1. MiB",
            "99999999999 TiB",
            "1 MiB MiB",
            "1.2.3 B",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
        for text in ["30", "1 m", "1 year", "30 S"] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }

    #[test]
    fn word_for_no_value_is_taken_only_where_there_is_one() {
        let without = size("1 MiB", 0, GIB);
        let with = without.or("forever");
        let written = Written::Text("forever".to_owned());
        assert_eq!(with.parse(&written), Ok(Value::None));
        assert!(without.parse(&written).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(n in any::<u64>()) {
            prop_assert_eq!(bytes(&human_size(n)), Some(n));
            let us = n / 1_000 % (1 << 50) * 1_000;
            prop_assert_eq!(nanos(&human_time(Duration::from_nanos(us))), Some(us));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            let _ = (bytes(&text), nanos(&text));
        }
    }
}
