//! Reading a condition:
//!
//! ```text
//! condition = and { ("or" | "||") and }
//! and       = not { ("and" | "&&") not }
//! not       = ("not" | "!") not | "(" condition ")" | "exists" operand | test
//! test      = operand ( ("==" | "!=" | "<" | "<=" | ">" | ">=") operand | "in" "[" literal { "," literal } "]" | "matches" text )
//! operand   = path | "key" | "value" | "timestamp" | "header" "(" text ")" | literal
//! literal   = text | number | "true" | "false" | "null"
//! ```

use std::cmp::Ordering;

use regex::Regex;
use tidemill_builtin::path::Paths;

use crate::lexer::{Token, tokens};

/// Brackets and negations that may lie in each other, at most.
const NESTING_MAX: usize = 64;
/// Bytes that a regular expression may take when compiled.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A condition, ready to be asked.
#[derive(Debug)]
pub struct Condition {
    pub(crate) test: Test,
    pub(crate) paths: Paths,
    pub(crate) path_count: usize,
}

#[derive(Debug)]
pub(crate) enum Test {
    Any(Vec<Test>),
    All(Vec<Test>),
    Not(Box<Test>),
    Exists(Operand),
    Compare(Operand, Comparison, Operand),
    In(Operand, Vec<Literal>),
    Matches(Operand, Regex),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operand {
    /// The values at the end of a path, by its number.
    Path(usize),
    Key,
    Value,
    Timestamp,
    Header(String),
    Literal(Literal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Literal {
    Text(String),
    Number(String),
    Bool(bool),
    Null,
}

/// Which order of two values makes the comparison hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Comparison {
    Equal,
    Unequal,
    Ordered(fn(Ordering) -> bool),
}

impl Condition {
    /// Reads `text`.
    ///
    /// # Errors
    /// Where it is no condition.
    pub fn parse(text: &str) -> Result<Condition, String> {
        let mut parser = Parser {
            tokens: tokens(text)?,
            at: 0,
            paths: Paths::new(),
            path_count: 0,
            depth: 0,
        };
        let test = parser.any()?;
        if let Some((at, token)) = parser.tokens.get(parser.at) {
            return Err(format!(
                "the condition should end before {}, at character {at}",
                shown(token)
            ));
        }
        Ok(Condition {
            test,
            paths: parser.paths,
            path_count: parser.path_count,
        })
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    paths: Paths,
    path_count: usize,
    depth: usize,
}

impl Parser {
    fn any(&mut self) -> Result<Test, String> {
        let mut tests = vec![self.all()?];
        while self.take_word("or") || self.take_mark("||") {
            tests.push(self.all()?);
        }
        Ok(if tests.len() == 1 {
            tests.remove(0)
        } else {
            Test::Any(tests)
        })
    }

    fn all(&mut self) -> Result<Test, String> {
        let mut tests = vec![self.not()?];
        while self.take_word("and") || self.take_mark("&&") {
            tests.push(self.not()?);
        }
        Ok(if tests.len() == 1 {
            tests.remove(0)
        } else {
            Test::All(tests)
        })
    }

    fn not(&mut self) -> Result<Test, String> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(format!(
                "the condition is nested deeper than {NESTING_MAX} levels"
            ));
        }
        let test = if self.take_word("not") || self.take_mark("!") {
            Test::Not(Box::new(self.not()?))
        } else if self.take_mark("(") {
            let inner = self.any()?;
            self.expect(")")?;
            inner
        } else if self.take_word("exists") {
            Test::Exists(self.operand()?)
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(test)
    }

    fn test(&mut self) -> Result<Test, String> {
        let left = self.operand()?;
        if self.take_word("in") {
            return Ok(Test::In(left, self.list()?));
        }
        if self.take_word("matches") {
            return Ok(Test::Matches(left, self.regex()?));
        }
        let comparison = match self.next() {
            Some(Token::Mark("==")) => Comparison::Equal,
            Some(Token::Mark("!=")) => Comparison::Unequal,
            Some(Token::Mark("<")) => Comparison::Ordered(Ordering::is_lt),
            Some(Token::Mark("<=")) => Comparison::Ordered(Ordering::is_le),
            Some(Token::Mark(">")) => Comparison::Ordered(Ordering::is_gt),
            Some(Token::Mark(">=")) => Comparison::Ordered(Ordering::is_ge),
            Some(Token::Mark("=")) => return Err("write `==` to compare".to_owned()),
            other => {
                return Err(self.expected("==, !=, <, <=, >, >=, in or matches", other.as_ref()));
            }
        };
        Ok(Test::Compare(left, comparison, self.operand()?))
    }

    fn operand(&mut self) -> Result<Operand, String> {
        match self.next() {
            Some(Token::Path(path)) => {
                self.path_count += 1;
                Ok(Operand::Path(self.paths.add(&path)?))
            }
            Some(Token::Word(word)) if word == "key" => Ok(Operand::Key),
            Some(Token::Word(word)) if word == "value" => Ok(Operand::Value),
            Some(Token::Word(word)) if word == "timestamp" => Ok(Operand::Timestamp),
            Some(Token::Word(word)) if word == "header" => {
                self.expect("(")?;
                let name = match self.next() {
                    Some(Token::Text(name)) => name,
                    other => return Err(self.expected("a header's name in quotes", other.as_ref())),
                };
                self.expect(")")?;
                Ok(Operand::Header(name))
            }
            other => match other.as_ref().and_then(literal) {
                Some(literal) => Ok(Operand::Literal(literal)),
                None => Err(self.expected(
                    "a path, key, value, timestamp, header(\"name\"), text or number",
                    other.as_ref(),
                )),
            },
        }
    }

    fn list(&mut self) -> Result<Vec<Literal>, String> {
        self.expect("[")?;
        let mut all = Vec::new();
        loop {
            let next = self.next();
            all.push(
                next.as_ref()
                    .and_then(literal)
                    .ok_or_else(|| self.expected("a text or number", next.as_ref()))?,
            );
            if self.take_mark("]") {
                return Ok(all);
            }
            self.expect(",")?;
        }
    }

    fn regex(&mut self) -> Result<Regex, String> {
        let next = self.next();
        let Some(Token::Text(pattern)) = next else {
            return Err(self.expected("a regular expression in quotes", next.as_ref()));
        };
        let mut builder = regex::RegexBuilder::new(&pattern);
        builder
            .size_limit(REGEX_BYTES_MAX)
            .build()
            .map_err(|error| error.to_string())
    }

    fn next(&mut self) -> Option<Token> {
        let (_, token) = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token.clone())
    }

    fn take(&mut self, wanted: &Token) -> bool {
        let taken = self
            .tokens
            .get(self.at)
            .is_some_and(|(_, token)| token == wanted);
        self.at += usize::from(taken);
        taken
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.take(&Token::Word(word.to_owned()))
    }

    fn take_mark(&mut self, mark: &'static str) -> bool {
        self.take(&Token::Mark(mark))
    }

    fn expect(&mut self, mark: &'static str) -> Result<(), String> {
        if self.take_mark(mark) {
            return Ok(());
        }
        let next = self.next();
        Err(self.expected(&format!("`{mark}`"), next.as_ref()))
    }

    /// What is said when the word taken last is not `what`.
    fn expected(&self, what: &str, found: Option<&Token>) -> String {
        match (found, self.tokens.get(self.at.wrapping_sub(1))) {
            (Some(token), Some((at, _))) => format!(
                "{what} was expected at character {at}, not {}",
                shown(token)
            ),
            _ => format!("{what} was expected at the end"),
        }
    }
}

fn literal(token: &Token) -> Option<Literal> {
    Some(match token {
        Token::Text(text) => Literal::Text(text.clone()),
        Token::Number(number) => Literal::Number(number.clone()),
        Token::Word(word) => match word.as_str() {
            "true" => Literal::Bool(true),
            "false" => Literal::Bool(false),
            "null" => Literal::Null,
            _ => return None,
        },
        Token::Path(_) | Token::Mark(_) => return None,
    })
}

fn shown(token: &Token) -> String {
    match token {
        Token::Path(text) | Token::Number(text) | Token::Word(text) => format!("`{text}`"),
        Token::Text(text) => format!("\"{text}\""),
        Token::Mark(mark) => format!("`{mark}`"),
    }
}
