//! Asking a condition about a record.

use std::borrow::Cow;
use std::cmp::Ordering;

use tidemill_builtin::path::{Unreadable, find};
use tidemill_builtin::{Kind, Value, number};
use tidemill_sdk::{Record, json};

use crate::condition::{Comparison, Condition, Literal, Operand, Test};

/// A value that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scalar<'a> {
    Text(Cow<'a, str>),
    Number(Cow<'a, str>),
    Bool(bool),
    Null,
    /// An object or an array: it is there, and compares with nothing.
    Container,
}

/// A record, with what its paths lead to.
struct Subject<'a> {
    record: &'a Record<'a>,
    found: Vec<Vec<Value>>,
}

impl Condition {
    /// Whether it holds for `record`.
    ///
    /// # Errors
    /// When it has paths and the record a value that is not JSON. A record without a value has nothing at their ends.
    pub fn holds(&self, record: &Record<'_>) -> Result<bool, Unreadable> {
        let mut found = vec![Vec::new(); self.path_count];
        if let (Some(text), true) = (record.value(), self.path_count > 0) {
            find(text, &self.paths, |path, value| found[path].push(value))?;
        }
        Ok(Subject { record, found }.passes(&self.test))
    }
}

impl Subject<'_> {
    fn passes(&self, test: &Test) -> bool {
        match test {
            Test::Any(tests) => tests.iter().any(|test| self.passes(test)),
            Test::All(tests) => tests.iter().all(|test| self.passes(test)),
            Test::Not(test) => !self.passes(test),
            Test::Exists(operand) => !self.values(operand).is_empty(),
            Test::Compare(left, comparison, right) => self.compare(left, *comparison, right),
            Test::In(operand, list) => {
                let values = self.values(operand);
                let listed =
                    |value: &Scalar<'_>| list.iter().any(|literal| equal(value, &scalar(literal)));
                values.iter().any(listed)
            }
            Test::Matches(operand, regex) => {
                let values = self.values(operand);
                values
                    .iter()
                    .any(|value| matches!(value, Scalar::Text(text) if regex.is_match(text)))
            }
        }
    }

    fn compare(&self, left: &Operand, comparison: Comparison, right: &Operand) -> bool {
        let (left, right) = (self.values(left), self.values(right));
        let pairs = |holds: &dyn Fn(&Scalar<'_>, &Scalar<'_>) -> bool| {
            left.iter().any(|l| right.iter().any(|r| holds(l, r)))
        };
        match comparison {
            Comparison::Equal => pairs(&equal),
            Comparison::Unequal => !pairs(&equal),
            Comparison::Ordered(is) => pairs(&|l, r| order(l, r).is_some_and(is)),
        }
    }

    /// The values of an operand: none where there is nothing, several at the end of a path with `*` or `..`.
    fn values<'o>(&'o self, operand: &'o Operand) -> Vec<Scalar<'o>> {
        let bytes = |bytes: Option<&'o [u8]>| {
            bytes
                .map(|b| Scalar::Text(String::from_utf8_lossy(b)))
                .into_iter()
                .collect()
        };
        match operand {
            Operand::Path(path) => self.found[*path]
                .iter()
                .map(|value| self.read(value))
                .collect(),
            Operand::Key => bytes(self.record.key()),
            Operand::Value => bytes(self.record.value()),
            Operand::Timestamp => vec![Scalar::Number(self.record.timestamp().to_string().into())],
            Operand::Header(name) => {
                let all = self.record.headers().filter(|h| h.key == name.as_bytes());
                all.map(|h| {
                    h.value
                        .map_or(Scalar::Null, |v| Scalar::Text(String::from_utf8_lossy(v)))
                })
                .collect()
            }
            Operand::Literal(literal) => vec![scalar(literal)],
        }
    }

    fn read(&self, value: &Value) -> Scalar<'_> {
        let text = &self.record.value().unwrap_or_default()[value.place.clone()];
        match value.kind {
            Kind::String => Scalar::Text(json::meaning(text)),
            Kind::Number => Scalar::Number(String::from_utf8_lossy(text)),
            Kind::Word => match text {
                b"true" => Scalar::Bool(true),
                b"false" => Scalar::Bool(false),
                _ => Scalar::Null,
            },
            Kind::Container => Scalar::Container,
        }
    }
}

fn scalar(literal: &Literal) -> Scalar<'_> {
    match literal {
        Literal::Text(text) => Scalar::Text(text.into()),
        Literal::Number(number) => Scalar::Number(number.into()),
        Literal::Bool(value) => Scalar::Bool(*value),
        Literal::Null => Scalar::Null,
    }
}

fn equal(a: &Scalar<'_>, b: &Scalar<'_>) -> bool {
    match (a, b) {
        (Scalar::Number(a), Scalar::Number(b)) => number::compare(a, b).is_eq(),
        (Scalar::Container, _) | (_, Scalar::Container) => false,
        (a, b) => a == b,
    }
}

/// The order of two numbers or two texts; other values have none.
fn order(a: &Scalar<'_>, b: &Scalar<'_>) -> Option<Ordering> {
    match (a, b) {
        (Scalar::Number(a), Scalar::Number(b)) => Some(number::compare(a, b)),
        (Scalar::Text(a), Scalar::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
}
