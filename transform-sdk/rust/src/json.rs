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
    if !scan::is_ascii(text)
        && let Err(error) = std::str::from_utf8(text)
    {
        return Err(NotJson {
            expected: "UTF-8 was expected",
            at: error.valid_up_to(),
        });
    }
    let mut scanner = Scanner { text, at: 0 };
    scanner.document(name, found)
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

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// Goes through values without recursion, so that no nesting is too deep.
    #[inline(always)]
    fn document(&mut self, name: &str, mut found: impl FnMut(Range<usize>)) -> Result<(), NotJson> {
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
                    self.at += 1;
                    if self.skip_space() != Some(bracket + 2) {
                        open.push(bracket == b'{');
                        continue;
                    }
                    self.at += 1;
                }
                _ => self.scalar()?,
            }
            if !self.next_value(&mut open)? {
                return Ok(());
            }
        }
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
        if self.skip_space() != Some(b'"') {
            return self.fail("a member's name was expected");
        }
        let key = self.string()?;
        if self.skip_space() != Some(b':') {
            return self.fail("a colon was expected");
        }
        self.at += 1;
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
        for word in ["true", "false", "null"] {
            if self.text[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
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
        let count = self.text[self.at..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
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
fn same(escaped: &[u8], name: &str) -> bool {
    if !escaped.contains(&b'\\') {
        return escaped == name.as_bytes();
    }
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
        }
    }

    #[test]
    fn name_is_compared_by_meaning() {
        let text = r#"{"\ud83d\ude00":"a","😀":"b","\ud83d":"c","x":"d","\u0078":"e","xx":"f","\u0078x":"g"}"#;
        assert_eq!(strings(text, "😀").unwrap(), ["a", "b"]);
        assert_eq!(strings(text, "x").unwrap(), ["d", "e"]);
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
