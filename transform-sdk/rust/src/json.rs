//! JSON in place: finds strings in the outermost object of a text, in one pass, without building a tree (RFC 8259).
//!
//! ```
//! use tidemill_sdk::json;
//!
//! let value = br#"{"id":17,"email":"ada@example.com"}"#;
//! let mut emails = Vec::new();
//! json::for_each_string(value, "email", |place| emails.push(&value[place]))?;
//! assert_eq!(emails, [b"ada@example.com"]);
//! # Ok::<(), json::NotJson>(())
//! ```
//!
//! [`walk`] tells everything that is in a text, for what needs more than that.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::scan;

/// Calls `found` with the place, between the quotes, of each string that is the value of a member called `name` of the outermost
/// object. The place holds the string as it was written, escapes included.
///
/// # Errors
/// [`NotJson`] when `text` is not JSON in UTF-8: all of it is checked. `found` may have been called before.
pub fn for_each_string(
    text: &[u8],
    name: &str,
    found: impl FnMut(Range<usize>),
) -> Result<(), NotJson> {
    check_utf8(text)?;
    let mut scanner = Scanner { text, at: 0 };
    scanner.document(name, found, |_| Ok::<(), NotJson>(()))
}

/// [`for_each_string`] for what must not pass by: a text that is no object is refused, and so is a member called `name` that is neither
/// a string nor null, for it may hold what was looked for.
///
/// # Errors
/// [`Unfit`] when `text` is not JSON in UTF-8, or one of these. `found` may have been called before.
pub fn for_each_string_strictly(
    text: &[u8],
    name: &str,
    found: impl FnMut(Range<usize>),
) -> Result<(), Unfit> {
    check_utf8(text)?;
    let mut scanner = Scanner { text, at: 0 };
    scanner.document(name, found, |at| Err(Unfit::NotString { at }))?;
    scanner.at = 0;
    match scanner.skip_space() {
        Some(b'{') => Ok(()),
        _ => Err(Unfit::NotObject { at: scanner.at }),
    }
}

fn check_utf8(text: &[u8]) -> Result<(), NotJson> {
    if !scan::is_ascii(text)
        && let Err(error) = std::str::from_utf8(text)
    {
        return Err(NotJson {
            expected: "UTF-8 was expected",
            at: error.valid_up_to(),
        });
    }
    Ok(())
}

/// What [`walk`] comes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An object or an array begins.
    Open {
        /// The place of its bracket.
        at: usize,
        /// Which of the two.
        is_object: bool,
    },
    /// The innermost object or array ends.
    Close {
        /// The place behind its bracket.
        end: usize,
    },
    /// The name of a member; its value follows. The place is that between the quotes.
    Name(Range<usize>),
    /// A string. The place is that between the quotes.
    String(Range<usize>),
    /// A number.
    Number(Range<usize>),
    /// `true`, `false` or `null`.
    Word(Range<usize>),
}

/// Goes through all of `text`, in order, and calls `on` with what it comes by. No nesting is too deep, and names may repeat.
///
/// # Errors
/// [`NotJson`] when `text` is not JSON in UTF-8, or what `on` says, which ends the walk. What came before it was told already.
pub fn walk<E: From<NotJson>>(
    text: &[u8],
    mut on: impl FnMut(Event) -> Result<(), E>,
) -> Result<(), E> {
    check_utf8(text)?;
    let mut scanner = Scanner { text, at: 0 };
    let mut open = Open::default();
    loop {
        if open.last() == Some(true) {
            on(Event::Name(scanner.key_place()?))?;
        }
        let at = scanner.at_value();
        match scanner.skip_space() {
            Some(b'"') => on(Event::String(scanner.string()?))?,
            Some(bracket @ (b'{' | b'[')) => {
                let is_object = bracket == b'{';
                scanner.at += 1;
                on(Event::Open { at, is_object })?;
                if scanner.skip_space() != Some(bracket + 2) {
                    open.push(is_object);
                    continue;
                }
                scanner.at += 1;
                on(Event::Close { end: scanner.at })?;
            }
            first => {
                scanner.scalar()?;
                let place = at..scanner.at;
                on(match first {
                    Some(b't' | b'f' | b'n') => Event::Word(place),
                    _ => Event::Number(place),
                })?;
            }
        }
        loop {
            match scanner.next(&mut open)? {
                Next::Value => break,
                Next::End => return Ok(()),
                Next::Closed => on(Event::Close { end: scanner.at })?,
            }
        }
    }
}

/// Whether the text of a string, as it was written, escapes included, means `text`.
pub fn means(escaped: &[u8], text: &str) -> bool {
    same(escaped, text)
}

/// What the text of a string means that was written as `escaped`; an unpaired half of a surrogate pair and bytes that are no UTF-8 become
/// U+FFFD.
pub fn meaning(escaped: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(escaped);
    if !text.contains('\\') {
        return text;
    }
    let mut meant = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            meant.push(c);
            continue;
        }
        let behind = rest.clone();
        match unescape(&mut rest) {
            Some(c) => meant.push(c),
            None => {
                // Of `\uD800\uD800` the second half may begin a pair of its own.
                meant.push(char::REPLACEMENT_CHARACTER);
                rest = behind;
                rest.by_ref().take(5).for_each(drop);
            }
        }
    }
    Cow::Owned(meant)
}

/// The text is not JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct NotJson {
    expected: &'static str,
    at: usize,
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not JSON: {} at byte {}", self.expected, self.at)
    }
}

impl std::error::Error for NotJson {}

/// Why [`for_each_string_strictly`] refuses a text. Says places, never what is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is not JSON.
    NotJson(NotJson),
    /// It is no object.
    NotObject {
        /// Where another value begins, in bytes.
        at: usize,
    },
    /// A member of the name is neither a string nor null.
    NotString {
        /// Where its value begins, in bytes.
        at: usize,
    },
}

impl From<NotJson> for Unfit {
    fn from(error: NotJson) -> Unfit {
        Unfit::NotJson(error)
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::NotJson(error) => error.fmt(f),
            Unfit::NotObject { at } => write!(f, "an object was expected at byte {at}"),
            Unfit::NotString { at } => write!(f, "a string or null was expected at byte {at}"),
        }
    }
}

impl std::error::Error for Unfit {}

/// The brackets that are open, a bit each: whether it belongs to an object. Most texts are not 64 deep and need no memory.
#[derive(Default)]
struct Open {
    depth: usize,
    /// Of up to 64 brackets, the innermost in the lowest bit.
    inner: u64,
    /// Full words of those around them.
    outer: Vec<u64>,
}

impl Open {
    #[inline]
    fn push(&mut self, is_object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(is_object);
        self.depth += 1;
    }

    #[inline]
    fn pop(&mut self) {
        self.depth -= 1;
        self.inner >>= 1;
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.inner = self.outer.pop().unwrap_or_default();
        }
    }

    /// Whether the innermost open bracket belongs to an object; `None` when none is open.
    #[inline]
    fn last(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.inner & 1 == 1)
    }
}

/// What follows a value.
enum Next {
    Value,
    Closed,
    End,
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// Goes through values without recursion, so that no nesting is too deep. `other` is told where a value begins that was wanted but
    /// is neither a string nor null.
    #[inline(always)]
    fn document<E: From<NotJson>>(
        &mut self,
        name: &str,
        mut found: impl FnMut(Range<usize>),
        other: impl Fn(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut open = Open::default();
        loop {
            let wanted = match open.last() {
                Some(true) if open.depth == 1 => self.key(Some(name))?,
                Some(true) => self.key(None)?,
                _ => false,
            };
            match self.skip_space() {
                Some(b'"') => {
                    let string = self.string()?;
                    if wanted {
                        found(string);
                    }
                }
                Some(bracket @ (b'{' | b'[')) => {
                    if wanted {
                        other(self.at)?;
                    }
                    self.at += 1;
                    if self.skip_space() != Some(bracket + 2) {
                        open.push(bracket == b'{');
                        continue;
                    }
                    self.at += 1;
                }
                first => {
                    let at = self.at;
                    self.scalar()?;
                    if wanted && first != Some(b'n') {
                        other(at)?;
                    }
                }
            }
            if !self.next_value(&mut open)? {
                return Ok(());
            }
        }
    }

    /// The place of the value that follows.
    fn at_value(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    /// A member's name and the colon: the name's place.
    #[inline(always)]
    fn key_place(&mut self) -> Result<Range<usize>, NotJson> {
        if self.skip_space() != Some(b'"') {
            return self.fail("a member's name was expected");
        }
        let name = self.string()?;
        if self.skip_space() != Some(b':') {
            return self.fail("a colon was expected");
        }
        self.at += 1;
        Ok(name)
    }

    /// After a value: what comes next.
    fn next(&mut self, open: &mut Open) -> Result<Next, NotJson> {
        let next = self.skip_space();
        let Some(is_object) = open.last() else {
            return match next {
                None => Ok(Next::End),
                Some(_) => self.fail("the end was expected"),
            };
        };
        let found = match next {
            Some(b',') => Next::Value,
            Some(b'}') if is_object => Next::Closed,
            Some(b']') if !is_object => Next::Closed,
            _ => return self.fail("a comma or a closing bracket was expected"),
        };
        self.at += 1;
        if matches!(found, Next::Closed) {
            open.pop();
        }
        Ok(found)
    }

    /// After a value: closes what ends here; false at the end of the text.
    #[inline(always)]
    fn next_value(&mut self, open: &mut Open) -> Result<bool, NotJson> {
        loop {
            let next = self.skip_space();
            let Some(is_object) = open.last() else {
                return if next.is_none() {
                    Ok(false)
                } else {
                    self.fail("the end was expected")
                };
            };
            match next {
                Some(b',') => {
                    self.at += 1;
                    return Ok(true);
                }
                Some(b'}') if is_object => open.pop(),
                Some(b']') if !is_object => open.pop(),
                _ => return self.fail("a comma or a closing bracket was expected"),
            };
            self.at += 1;
        }
    }

    /// A member's name and the colon: whether it is `name`.
    #[inline(always)]
    fn key(&mut self, name: Option<&str>) -> Result<bool, NotJson> {
        let key = self.key_place()?;
        Ok(name.is_some_and(|name| same(&self.text[key], name)))
    }

    /// A string, from its quote to behind the other: the place between them.
    #[inline(always)]
    fn string(&mut self) -> Result<Range<usize>, NotJson> {
        self.at += 1;
        let start = self.at;
        loop {
            self.at += scan::plain_bytes(&self.text[self.at..]);
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(start..self.at - 1);
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return self.fail("a control character must be escaped"),
                None => return self.fail("a closing quote was expected"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        let rest = &self.text[self.at + 1..];
        self.at += match rest {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', hex @ ..] if hex.len() >= 4 && hex[..4].iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return self.fail("an escape was expected"),
        };
        Ok(())
    }

    /// `true`, `false`, `null` or a number.
    fn scalar(&mut self) -> Result<(), NotJson> {
        let word = match self.text.get(self.at) {
            Some(b't') => "true",
            Some(b'f') => "false",
            Some(b'n') => "null",
            _ => return self.number(),
        };
        if !self.text[self.at..].starts_with(word.as_bytes()) {
            return self.fail("a value was expected");
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        self.eat(b"-");
        let whole = self.digits();
        let leading_zero = whole > 1 && self.text[self.at - whole] == b'0';
        if whole == 0 || leading_zero {
            self.at = start;
            return self.fail("a value was expected");
        }
        if self.eat(b".") && self.digits() == 0 {
            return self.fail("a digit was expected");
        }
        if self.eat(b"eE") {
            self.eat(b"+-");
            if self.digits() == 0 {
                return self.fail("a digit was expected");
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let count = scan::digits(&self.text[self.at..]);
        self.at += count;
        count
    }

    fn eat(&mut self, one_of: &[u8]) -> bool {
        let eaten = self.text.get(self.at).is_some_and(|b| one_of.contains(b));
        self.at += usize::from(eaten);
        eaten
    }

    /// The next byte that is not white space, not taken.
    #[inline(always)]
    fn skip_space(&mut self) -> Option<u8> {
        match self.text.get(self.at) {
            Some(b' ' | b'\n' | b'\r' | b'\t') => self.skip_more_space(),
            other => other.copied(),
        }
    }

    /// Out of the way of texts without white space: a sandbox looks at its clock wherever a loop begins.
    fn skip_more_space(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    #[cold]
    fn fail<T>(&self, expected: &'static str) -> Result<T, NotJson> {
        Err(NotJson {
            expected,
            at: self.at,
        })
    }
}

/// Whether the escaped text of a member's name means `name`.
#[inline]
fn same(escaped: &[u8], name: &str) -> bool {
    // An escape takes at least as many bytes as what it means: nothing shorter than the name means it.
    if escaped.len() < name.len() || scan::plain_bytes(escaped) == escaped.len() {
        return equal(escaped, name.as_bytes());
    }
    same_unescaped(escaped, name)
}

/// Whether two texts, mostly short ones, are the same. By words, of which the last overlaps: byte by byte the sandbox looks at its clock for
/// each.
#[inline]
fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a.len() < 4 {
        return std::iter::zip(a, b).all(|(a, b)| a == b);
    }
    if a.len() < 8 {
        return a.first_chunk::<4>() == b.first_chunk() && a.last_chunk::<4>() == b.last_chunk();
    }
    let words = std::iter::zip(a.as_chunks::<8>().0, b.as_chunks().0);
    let differ = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_le_bytes(*a) != u64::from_le_bytes(*b);
    a.last_chunk::<8>() == b.last_chunk() && !words.into_iter().any(differ)
}

fn same_unescaped(escaped: &[u8], name: &str) -> bool {
    let mut name = name.chars();
    let mut rest = std::str::from_utf8(escaped).unwrap_or_default().chars();
    while let Some(c) = rest.next() {
        let meant = match c {
            '\\' => unescape(&mut rest),
            c => Some(c),
        };
        if meant.is_none() || meant != name.next() {
            return false;
        }
    }
    name.next().is_none()
}

/// The character of a checked escape, the backslash taken; `None` for an unpaired half of a surrogate pair.
fn unescape(rest: &mut std::str::Chars<'_>) -> Option<char> {
    Some(match rest.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let mut pair = vec![hex(rest)?];
            if (0xd800..0xdc00).contains(&pair[0]) {
                (rest.next() == Some('\\') && rest.next() == Some('u')).then_some(())?;
                pair.push(hex(rest)?);
            }
            char::decode_utf16(pair).next()?.ok()?
        }
        other => other,
    })
}

fn hex(rest: &mut std::str::Chars<'_>) -> Option<u16> {
    (0..4).try_fold(0, |value, _| {
        Some(value * 16 + rest.next()?.to_digit(16)? as u16)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(text: &str, name: &str) -> Result<Vec<String>, NotJson> {
        let mut all = Vec::new();
        for_each_string(text.as_bytes(), name, |s| all.push(text[s].to_owned()))?;
        Ok(all)
    }

    #[test]
    fn strictly_nothing_that_was_looked_for_passes_by() {
        let refused = |text: &str| {
            let ended = for_each_string_strictly(text.as_bytes(), "e", |_| ());
            ended.expect_err(text).to_string()
        };
        for (text, at) in [
            (r#"{"e":["a@b"]}"#, 5),
            (r#"{"e":{"e":"a@b"}}"#, 5),
            (r#"{"e":[]}"#, 5),
            (r#"{"x":1, "\u0065" : 5,"y":2}"#, 19),
            (r#"{"e":-1.5}"#, 5),
            (r#"{"e":true}"#, 5),
            (r#"{"e":"a","e":false}"#, 13),
        ] {
            let expected = format!("a string or null was expected at byte {at}");
            assert_eq!(refused(text), expected, "{text}");
        }
        for text in [" [{\"e\":\"a@b\"}]", " \"a@b\"", " null", " 1"] {
            assert_eq!(refused(text), "an object was expected at byte 1");
        }
        assert_eq!(
            refused(r#"{"e": }"#),
            "not JSON: a value was expected at byte 6"
        );
        let mut all = Vec::new();
        let text = r#" {"e":null,"x":{"e":[1]},"e":"a","n":5,"e":"b"} "#;
        for_each_string_strictly(text.as_bytes(), "e", |s| all.push(&text[s])).unwrap();
        assert_eq!(all, ["a", "b"]);
    }

    #[test]
    fn valid_texts_are_accepted() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for text in [
            "0",
            "-0",
            "-1.5e+10",
            "1E9",
            "true",
            " null ",
            "\"\"",
            "[]",
            "{}",
            "[ ]",
            "{ }",
            "[1,2,[3],{\"a\":[]}]",
            r#""\"\\\/\b\f\n\r\t\u00e9""#,
            r#"{"a":{"b":{}},"c":[{}]}"#,
            "\"ünï\u{1f600}\"",
            &deep,
        ] {
            assert_eq!(strings(text, "x"), Ok(vec![]), "{text:.40}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            " ",
            "nul",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "[",
            "]",
            "[1",
            "[1,]",
            "[,1]",
            "{",
            "{]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "[1 2]",
            "1 2",
            "{}{}",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"a\nb\"",
            "\"0123456\u{1}89\"",
            "[}",
            "{\"a\":1]",
            "true1",
            "email=ada@example.com",
        ] {
            assert!(strings(text, "x").is_err(), "{text}");
            assert!(walked(text).is_err(), "{text}");
        }
    }

    /// All that is told of `text`, put together again without white space.
    fn walked(text: &str) -> Result<String, NotJson> {
        let (mut all, mut kinds) = (String::new(), Vec::new());
        walk(text.as_bytes(), |event| {
            let after_value = all.ends_with(|c| !matches!(c, '{' | '[' | ':'));
            let comma = if after_value && !all.is_empty() {
                ","
            } else {
                ""
            };
            match event {
                Event::Open { at, is_object } => {
                    kinds.push(is_object);
                    all += comma;
                    all += &text[at..=at];
                }
                Event::Close { end } => {
                    assert_eq!(&text[end - 1..end] == "}", kinds.pop().unwrap());
                    all += &text[end - 1..end];
                }
                Event::Name(place) => all += &format!("{comma}\"{}\":", &text[place]),
                Event::String(place) => all += &format!("{comma}\"{}\"", &text[place]),
                Event::Number(place) | Event::Word(place) => {
                    all += &format!("{comma}{}", &text[place])
                }
            }
            Ok::<(), NotJson>(())
        })?;
        Ok(all)
    }

    #[test]
    fn walk_tells_everything_in_order() {
        for text in [
            "0",
            "\"\"",
            "[]",
            "{}",
            r#"{"a":{"b":{},"b":[]},"c":[{},-1.5e9,true,null,"x\"y",[[]]],"":false}"#,
            "[[[1],2],[3]]",
        ] {
            assert_eq!(walked(text).unwrap(), text);
            let spaced = text.replace([',', ':'], " \n, ").replace(", ", ",\t ");
            if !text.contains(':') {
                assert_eq!(walked(&spaced).unwrap(), text);
            }
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(walked(&deep).unwrap(), deep);
    }

    #[test]
    fn walk_ends_with_the_error_of_its_visitor() {
        let mut seen = 0;
        let ended = walk(b"[1,2,3]", |_| {
            seen += 1;
            if seen == 3 {
                Err(NotJson {
                    expected: "mine",
                    at: 0,
                })
            } else {
                Ok(())
            }
        });
        assert_eq!((ended.unwrap_err().expected, seen), ("mine", 3));
    }

    #[test]
    fn meaning_of_every_escape_and_of_half_pairs() {
        let text = r#"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud83dx\ude00\ud83d\ud83d\ude00"#;
        let meant = "a\"\\/\u{8}\u{c}\n\r\té😀\u{fffd}x\u{fffd}\u{fffd}😀";
        assert_eq!(meaning(text.as_bytes()), meant);
        assert!(means(br"\u0061b", "ab") && !means(br"\ud83d", "\u{fffd}"));
    }

    #[test]
    fn name_is_compared_by_meaning() {
        let text = r#"{"\ud83d\ude00":"a","😀":"b","\ud83d":"c","x":"d","\u0078":"e","xx":"f","\u0078x":"g"}"#;
        assert_eq!(strings(text, "😀").unwrap(), ["a", "b"]);
        assert_eq!(strings(text, "x").unwrap(), ["d", "e"]);
    }

    #[test]
    fn names_of_every_length_are_told_apart_at_every_place() {
        for len in 0..40 {
            let name = "n".repeat(len);
            assert_eq!(
                strings(&format!("{{\"{name}\":\"v\"}}"), &name),
                Ok(vec!["v".to_owned()])
            );
            for at in 0..len {
                let mut other = name.clone();
                other.replace_range(at..=at, "m");
                assert_eq!(
                    strings(&format!("{{\"{other}\":\"v\"}}"), &name),
                    Ok(vec![])
                );
            }
        }
    }

    #[test]
    fn string_ends_are_found_at_every_distance() {
        for len in 0..40 {
            let text = format!(
                "{{\"x\":\"{}\",\"y\":\"\u{7f}ÿ{}\\\"\"}}",
                "a".repeat(len),
                "b".repeat(len)
            );
            assert_eq!(strings(&text, "x").unwrap(), ["a".repeat(len)]);
            assert_eq!(strings(&text, "y").unwrap()[0].len(), len + 5);
        }
    }
}
