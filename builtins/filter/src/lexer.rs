//! The words of a condition.

/// A word of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A path into the value, with its `$`.
    Path(String),
    /// A text in quotes.
    Text(String),
    /// A number as JSON writes it.
    Number(String),
    /// A name or key word.
    Word(String),
    /// An operator or a bracket.
    Mark(&'static str),
}

const MARKS: [&str; 15] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ",", "=",
];

/// The words of `text`, each with its place.
///
/// # Errors
/// When there is something in it that is no word.
pub(crate) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, String> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let (token, len) = match c {
            '$' => path(rest),
            '"' | '\'' => quoted(rest, c)?,
            '-' | '0'..='9' => number(rest)?,
            c if c.is_alphabetic() || c == '_' => word(rest),
            _ => mark(rest).ok_or_else(|| format!("`{c}` at character {at} means nothing here"))?,
        };
        all.push((at, token));
        at += len;
    }
    Ok(all)
}

/// A path ends at the first blank, operator or bracket that is not its own.
fn path(text: &str) -> (Token, usize) {
    let mut brackets = 0usize;
    let mut quote = None;
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) => quote = (c != q).then_some(q),
            (None, '[') => brackets += 1,
            (None, ']') if brackets > 0 => brackets -= 1,
            (None, '\'' | '"') if brackets > 0 => quote = Some(c),
            (None, c) if brackets == 0 && (c.is_whitespace() || "=!<>&|(),]".contains(c)) => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    (Token::Path(text[..end].to_owned()), end)
}

fn quoted(text: &str, quote: char) -> Result<(Token, usize), String> {
    let mut meant = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((Token::Text(meant), at + 1)),
            '\\' => match chars.next() {
                // What a regular expression escapes stays as it is.
                Some((_, c)) if c == quote || c == '\\' => meant.push(c),
                Some((_, c)) => meant.extend(['\\', c]),
                None => break,
            },
            c => meant.push(c),
        }
    }
    Err(format!("the quote that begins {text:.20} is not closed"))
}

fn number(text: &str) -> Result<(Token, usize), String> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c)))
        .unwrap_or(text.len());
    match serde_json::from_str::<serde_json::Number>(&text[..end]) {
        Ok(_) => Ok((Token::Number(text[..end].to_owned()), end)),
        // A number beyond what a program keeps is one all the same.
        Err(error) if error.to_string().contains("out of range") => {
            Ok((Token::Number(text[..end].to_owned()), end))
        }
        Err(_) => Err(format!("`{}` is no number", &text[..end])),
    }
}

fn word(text: &str) -> (Token, usize) {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    (Token::Word(text[..end].to_owned()), end)
}

fn mark(text: &str) -> Option<(Token, usize)> {
    let mark = MARKS.iter().find(|mark| text.starts_with(**mark))?;
    Some((Token::Mark(mark), mark.len()))
}
