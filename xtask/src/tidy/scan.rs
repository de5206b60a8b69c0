//! A small scanner for Rust source: enough of the lexer to find where functions begin and end.
//!
//! It knows comments, strings, raw strings, characters and lifetimes, so that a brace inside any of them
//! counts for nothing. It does not expand macros.

/// One function: its name and the lines of its body, signature and braces not counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) body_lines: usize,
}

/// What the scanner keeps of the source.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Mark(char),
}

/// Every function with a body, in the order in which the bodies end.
pub(super) fn functions(source: &str) -> Vec<Function> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    let mut open: Vec<Option<(String, usize, usize)>> = Vec::new();
    let mut pending: Option<(String, usize)> = None;
    let mut nested = 0usize;
    for (at, (token, line)) in tokens.iter().enumerate() {
        match token {
            Token::Word(word) if word == "fn" => {
                if let Some((Token::Word(name), line)) = tokens.get(at + 1) {
                    pending = Some((name.clone(), *line));
                    nested = 0;
                }
            }
            Token::Mark('(' | '[') => nested += 1,
            Token::Mark(')' | ']') => nested = nested.saturating_sub(1),
            Token::Mark(';') if nested == 0 => pending = None,
            Token::Mark('{') => {
                let function = if nested == 0 { pending.take() } else { None };
                open.push(function.map(|(name, began)| (name, began, *line)));
            }
            Token::Mark('}') => {
                if let Some(Some((name, began, first))) = open.pop() {
                    let body_lines = line.saturating_sub(first).saturating_sub(1);
                    found.push(Function {
                        name,
                        line: began,
                        body_lines,
                    });
                }
            }
            _ => {}
        }
    }
    found
}

/// Words and marks with their lines (from 1); literals and comments are left out.
fn tokens(source: &str) -> Vec<(Token, usize)> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = match literal_end(&chars, at) {
            Some(end) => end,
            None if chars[at].is_alphabetic() || chars[at] == '_' => {
                let end = word_end(&chars, at);
                tokens.push((Token::Word(chars[at..end].iter().collect()), line));
                end
            }
            None => {
                if !chars[at].is_whitespace() {
                    tokens.push((Token::Mark(chars[at]), line));
                }
                at + 1
            }
        };
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

/// Where the comment, string, character or lifetime that begins here ends, if one begins here.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => Some(find(chars, at, |c| c == '\n')),
        '/' if next == Some('*') => Some(block_comment_end(chars, at)),
        '"' => Some(quoted_end(chars, at, '"')),
        '\'' => Some(quote_end(chars, at)),
        'r' | 'b' | 'c' if !joins_word(chars, at) => prefixed_end(chars, at),
        _ => None,
    }
}

fn joins_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn find(chars: &[char], from: usize, is: impl Fn(char) -> bool) -> usize {
    (from..chars.len())
        .find(|at| is(chars[*at]))
        .unwrap_or(chars.len())
}

fn word_end(chars: &[char], from: usize) -> usize {
    find(chars, from, |c| !c.is_alphanumeric() && c != '_')
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from + 2, 1);
    while at < chars.len() && depth > 0 {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

fn quoted_end(chars: &[char], from: usize, quote: char) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// A character ends with a quote, a lifetime does not.
fn quote_end(chars: &[char], from: usize) -> usize {
    let is_char = chars.get(from + 1) == Some(&'\\') || chars.get(from + 2) == Some(&'\'');
    if is_char {
        quoted_end(chars, from, '\'')
    } else {
        word_end(chars, from + 1)
    }
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `b'…'`, `c"…"`; `None` where it is just a word.
fn prefixed_end(chars: &[char], from: usize) -> Option<usize> {
    let letters = find(chars, from, |c| !matches!(c, 'r' | 'b' | 'c'));
    let raw = chars[from..letters].contains(&'r');
    let hashes = if raw {
        find(chars, letters, |c| c != '#') - letters
    } else {
        0
    };
    match chars.get(letters + hashes) {
        Some('"') if raw => Some(raw_end(chars, letters + hashes + 1, hashes)),
        Some('"') => Some(quoted_end(chars, letters, '"')),
        Some('\'') if chars[from] == 'b' && !raw => Some(quoted_end(chars, letters, '\'')),
        _ => None,
    }
}

fn raw_end(chars: &[char], from: usize, hashes: usize) -> usize {
    let closes = |at: usize| {
        chars[at] == '"'
            && chars[at + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    match (from..chars.len()).find(|at| closes(*at)) {
        Some(at) => (at + 1 + hashes).min(chars.len()),
        None => chars.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(source: &str) -> Vec<(String, usize)> {
        functions(source)
            .into_iter()
            .map(|f| (f.name, f.body_lines))
            .collect()
    }

    #[test]
    fn bodies_are_counted_without_signature_and_braces() {
        let source = "fn a(\n  x: u8,\n) -> u8\nwhere u8: Copy,\n{\n  x\n}\nfn b() {}\n";
        assert_eq!(sizes(source), [("a".into(), 1), ("b".into(), 0)]);
    }

    #[test]
    fn braces_in_strings_characters_and_comments_count_for_nothing() {
        let source = "fn a<'x>() {\n let _ = (\"{\\\"\", r#\"{\"{\"#, '{', b'{', '\\'');\n // {\n /* { /* { */ */\n}\nfn b() {\n}\n";
        assert_eq!(sizes(source), [("a".into(), 3), ("b".into(), 0)]);
    }

    #[test]
    fn declarations_without_body_and_function_types_are_no_functions() {
        let source =
            "trait T { fn a(x: [u8; 4]); fn b(&self) {\n1;\n} }\nstruct S { f: fn(u8) -> u8 }";
        assert_eq!(sizes(source), [("b".into(), 1)]);
    }

    #[test]
    fn nested_functions_are_found_with_their_lines() {
        let found = functions("fn a() {\n  fn b() {\n  1;\n  }\n}\n");
        assert_eq!(
            found[0],
            Function {
                name: "b".into(),
                line: 2,
                body_lines: 1
            }
        );
        assert_eq!(
            found[1],
            Function {
                name: "a".into(),
                line: 1,
                body_lines: 3
            }
        );
    }
}
