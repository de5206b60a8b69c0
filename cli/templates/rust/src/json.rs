//! Finds strings in the outermost object of a JSON text, in place, in one pass, without building a tree (RFC 8259).

use std::fmt;
use std::ops::Range;

/// Calls `found` with the place, between the quotes, of each string that is the value of a member called `name` of the outermost
/// object. The whole text is checked.
pub fn for_each_string(
    text: &str,
    name: &str,
    found: impl FnMut(Range<usize>),
) -> Result<(), NotJson> {
    let mut scanner = Scanner {
        text: text.as_bytes(),
        at: 0,
    };
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

/// Whether a bracket that is open belongs to an object.
type IsObject = bool;

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// Goes through values without recursion, so that no nesting is too deep.
    fn document(&mut self, name: &str, mut found: impl FnMut(Range<usize>)) -> Result<(), NotJson> {
        let mut open: Vec<IsObject> = Vec::new();
        loop {
            let wanted = match open[..] {
                [true] => self.key(Some(name))?,
                [.., true] => self.key(None)?,
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
    fn next_value(&mut self, open: &mut Vec<IsObject>) -> Result<bool, NotJson> {
        loop {
            let next = self.skip_space();
            let Some(&is_object) = open.last() else {
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
    fn string(&mut self) -> Result<Range<usize>, NotJson> {
        self.at += 1;
        let start = self.at;
        loop {
            self.at += plain_bytes(&self.text[self.at..]);
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
    fn skip_space(&mut self) -> Option<u8> {
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

/// Bytes at the start of `text` that end neither the string nor its plain part: no quote, backslash or control character.
/// Eight at a time, by the test for a zero byte in a word (Warren, Hacker's Delight, 6-1).
fn plain_bytes(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let (words, _) = text.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let special = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        // Borrows spread upwards only, so the lowest bit set is exact.
        if special & HIGH != 0 {
            return at + (special & HIGH).trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let plain = |b: &&u8| **b >= 0x20 && **b != b'"' && **b != b'\\';
    at + text[at..].iter().take_while(plain).count()
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
        for_each_string(text, name, |s| all.push(text[s].to_owned()))?;
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
