//! Paths into JSON: `$.card`, `$.customer.email`, `$.items[*].ssn`, `$.items[0]`, `$.*`, `$..email`, `$['odd name']`.
//!
//! All paths of a transform are followed at once in a single pass over the text: the set of places in the paths that a value has
//! reached is a word of bits for each level of nesting.

use std::ops::Range;

use tidemill_sdk::json::{self, Event, NotJson};

/// Steps that all paths of a transform have together, with one more for each path, at most: they are bits of a word.
const STEPS_MAX: usize = 128;
/// Levels of nesting that a value may have.
pub const NESTING_MAX: usize = 128;

/// Paths, ready to be followed.
#[derive(Debug, Default)]
pub struct Paths {
    steps: Vec<Option<Step>>,
    ends: Vec<u32>,
    begin: u128,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    /// Whether any number of levels may lie before it.
    deep: bool,
    to: Child,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Child {
    Name(String),
    Index(u64),
    AnyIndex,
    Any,
}

impl Paths {
    /// No path.
    pub fn new() -> Paths {
        Paths::default()
    }

    /// Adds a path; gives its number, counted from 0.
    ///
    /// # Errors
    /// When it is none, or there are too many.
    pub fn add(&mut self, path: &str) -> Result<usize, String> {
        let steps = parse(path).map_err(|reason| format!("`{path}` is no path: {reason}"))?;
        if self.steps.len() + steps.len() + 1 > STEPS_MAX {
            return Err(format!(
                "the paths have more than {STEPS_MAX} steps together"
            ));
        }
        self.begin |= 1 << self.steps.len();
        self.steps.extend(steps.into_iter().map(Some));
        self.ends.push(self.steps.len() as u32);
        self.steps.push(None);
        Ok(self.ends.len() - 1)
    }

    /// The first path that ends at a value which has reached `states`.
    pub fn first_end(&self, states: u128) -> Option<usize> {
        self.ends.iter().position(|end| states >> end & 1 == 1)
    }

    /// All paths that end there.
    pub fn ends(&self, states: u128) -> impl Iterator<Item = usize> {
        let ended = move |(n, end): (usize, &u32)| (states >> end & 1 == 1).then_some(n);
        self.ends.iter().enumerate().filter_map(ended)
    }

    /// What a child reaches whose parent has reached `states`.
    fn follow(&self, states: u128, is: impl Fn(&Child) -> bool) -> u128 {
        let (mut left, mut reached) = (states, 0);
        while left != 0 {
            let at = left.trailing_zeros();
            left &= left - 1;
            if let Some(step) = &self.steps[at as usize] {
                if is(&step.to) {
                    reached |= 1 << (at + 1);
                }
                if step.deep {
                    reached |= 1 << at;
                }
            }
        }
        reached
    }
}

fn parse(path: &str) -> Result<Vec<Step>, String> {
    let mut rest = path.strip_prefix('$').ok_or("it begins with `$`")?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (deep, after) = match rest.strip_prefix("..") {
            Some(after) => (true, after),
            None => (false, rest.strip_prefix('.').unwrap_or(rest)),
        };
        let dotted = after.len() < rest.len();
        let (to, after) = match after.strip_prefix('[') {
            Some(inside) if deep || !dotted => bracket(inside)?,
            _ if dotted => name(after)?,
            _ => return Err(format!("a `.` or `[` was expected before `{rest}`")),
        };
        steps.push(Step { deep, to });
        rest = after;
    }
    match steps.is_empty() {
        true => Err("a name follows, as in `$.card`".to_owned()),
        false => Ok(steps),
    }
}

fn name(text: &str) -> Result<(Child, &str), String> {
    let end = text.find(['.', '[']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match name {
        "" => Err("a name is empty".to_owned()),
        "*" => Ok((Child::Any, rest)),
        name if name.contains(['*', ']', '\'', '"', '$', ' ']) => {
            Err(format!("write `{name}` as ['{name}']"))
        }
        name => Ok((Child::Name(name.to_owned()), rest)),
    }
}

/// What stands in brackets, the opening one taken.
fn bracket(inside: &str) -> Result<(Child, &str), String> {
    if let Some(quote @ ('\'' | '"')) = inside.chars().next() {
        let end = inside[1..].find(quote).ok_or("a quote is not closed")?;
        let rest = inside[end + 2..]
            .strip_prefix(']')
            .ok_or("a `]` was expected")?;
        return Ok((Child::Name(inside[1..=end].to_owned()), rest));
    }
    let (index, rest) = inside.split_once(']').ok_or("a `[` is not closed")?;
    let child = match index {
        "*" => Child::AnyIndex,
        index => Child::Index(
            index
                .parse()
                .map_err(|_| format!("`{index}` is neither a number, `*` nor a name in quotes"))?,
        ),
    };
    Ok((child, rest))
}

/// Knows, while a text is walked, what each of its values has reached.
#[derive(Debug)]
pub struct Tracker<'p> {
    paths: &'p Paths,
    levels: Vec<Level>,
    /// What the member has reached whose name was read last.
    member: u128,
}

#[derive(Debug)]
struct Level {
    states: u128,
    is_object: bool,
    index: u64,
}

/// Why a text cannot be walked.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not JSON.
    NotJson(NotJson),
    /// Its values are nested too deep.
    TooDeep,
}

impl From<NotJson> for Unreadable {
    fn from(error: NotJson) -> Unreadable {
        Unreadable::NotJson(error)
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreadable::NotJson(error) => error.fmt(f),
            Unreadable::TooDeep => write!(f, "the JSON is nested deeper than {NESTING_MAX} levels"),
        }
    }
}

impl std::error::Error for Unreadable {}

impl<'p> Tracker<'p> {
    /// At the beginning of a text.
    pub fn new(paths: &'p Paths) -> Tracker<'p> {
        Tracker {
            paths,
            levels: Vec::new(),
            member: 0,
        }
    }

    /// Levels that are open.
    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    /// The name of a member, as it was written.
    pub fn name(&mut self, escaped: &[u8]) {
        let states = self.levels.last().map_or(0, |level| level.states);
        self.member = self.paths.follow(states, |child| match child {
            Child::Name(name) => json::means(escaped, name),
            Child::Any => true,
            Child::Index(_) | Child::AnyIndex => false,
        });
    }

    /// What the value that begins here has reached.
    pub fn value(&mut self) -> u128 {
        let Some(level) = self.levels.last_mut() else {
            return self.paths.begin;
        };
        if level.is_object {
            return self.member;
        }
        let (states, index) = (level.states, level.index);
        level.index += 1;
        self.paths.follow(states, |child| match child {
            Child::Index(wanted) => *wanted == index,
            Child::AnyIndex | Child::Any => true,
            Child::Name(_) => false,
        })
    }

    /// An object or an array begins, which has reached `states`.
    ///
    /// # Errors
    /// When that is one level too many.
    pub fn open(&mut self, states: u128, is_object: bool) -> Result<(), Unreadable> {
        if self.levels.len() == NESTING_MAX {
            return Err(Unreadable::TooDeep);
        }
        self.levels.push(Level {
            states,
            is_object,
            index: 0,
        });
        Ok(())
    }

    /// It ends.
    pub fn close(&mut self) {
        self.levels.pop();
    }
}

/// What kind of value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The place is that between the quotes.
    String,
    /// A number.
    Number,
    /// `true`, `false` or `null`.
    Word,
    /// An object or an array; the place is its first byte.
    Container,
}

/// A value at the end of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Where in the text.
    pub place: Range<usize>,
    /// What it is.
    pub kind: Kind,
}

/// Calls `found` with each value that a path ends at, and the path's number.
///
/// # Errors
/// When the text is not JSON or nested too deep; `found` may have been called before.
pub fn find(
    text: &[u8],
    paths: &Paths,
    mut found: impl FnMut(usize, Value),
) -> Result<(), Unreadable> {
    let mut tracker = Tracker::new(paths);
    json::walk(text, |event| {
        let (place, kind) = match event {
            Event::Name(place) => {
                tracker.name(&text[place]);
                return Ok(());
            }
            Event::Close { .. } => {
                tracker.close();
                return Ok(());
            }
            Event::Open { at, .. } => (at..at + 1, Kind::Container),
            Event::String(place) => (place, Kind::String),
            Event::Number(place) => (place, Kind::Number),
            Event::Word(place) => (place, Kind::Word),
        };
        let states = tracker.value();
        for path in paths.ends(states) {
            found(
                path,
                Value {
                    place: place.clone(),
                    kind,
                },
            );
        }
        match event_is_open(text, &place, kind) {
            Some(is_object) => tracker.open(states, is_object),
            None => Ok(()),
        }
    })
}

fn event_is_open(text: &[u8], place: &Range<usize>, kind: Kind) -> Option<bool> {
    (kind == Kind::Container).then(|| text[place.start] == b'{')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let mut paths = Paths::new();
        paths.add(path).unwrap();
        let mut all = Vec::new();
        find(text.as_bytes(), &paths, |_, value| {
            all.push(text[value.place].to_owned())
        })
        .unwrap();
        all
    }

    #[test]
    fn paths_lead_to_every_value_they_mean() {
        let text = r#"{"a":{"b":1,"b":2,"odd name":3},"l":[{"b":4},5,[6]],"\u0061":{"b":7},"b":8}"#;
        assert_eq!(found("$.a.b", text), ["1", "2", "7"]);
        assert_eq!(found("$.a['odd name']", text), ["3"]);
        assert_eq!(found("$.l[1]", text), ["5"]);
        assert_eq!(found("$.l[*]", text), ["{", "5", "["]);
        assert_eq!(found("$.l[*].b", text), ["4"]);
        assert_eq!(found("$.l[2][0]", text), ["6"]);
        assert_eq!(found("$..b", text), ["1", "2", "4", "7", "8"]);
        assert_eq!(found("$.*.b", text), ["1", "2", "7"]);
        assert_eq!(found("$.l..*", text), ["{", "4", "5", "[", "6"]);
        assert_eq!(found("$[0].x", r#"[{"x":"y"}]"#), ["y"]);
        assert_eq!(found("$.missing", text), Vec::<String>::new());
        assert_eq!(found("$.a", "17"), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in [
            "", "$", "a", ".a", "$a", "$.", "$.a.", "$.a[", "$.a[x]", "$.a[-1]", "$.a['b",
            "$.a['b'", "$.[0]", "$.a b", "$...a",
        ] {
            assert!(Paths::new().add(path).is_err(), "{path}");
        }
        let mut paths = Paths::new();
        for _ in 0..64 {
            paths.add("$.a").unwrap();
        }
        assert!(paths.add("$.a").is_err());
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let mut paths = Paths::new();
        paths.add("$..x").unwrap();
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert_eq!(
            find(nested(NESTING_MAX).as_bytes(), &paths, |_, _| ()),
            Ok(())
        );
        for n in [NESTING_MAX + 1, 1 << 20] {
            assert_eq!(
                find(nested(n).as_bytes(), &paths, |_, _| ()),
                Err(Unreadable::TooDeep)
            );
        }
    }
}
