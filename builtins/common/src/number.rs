//! Comparing JSON numbers by their text, exactly, however large or precise they are.

use std::cmp::Ordering;

/// A number as digits, most significant first, without zeros at either end, and the power of ten that the first of them stands for.
struct Decimal<'a> {
    negative: bool,
    parts: [&'a [u8]; 2],
    exponent: i64,
}

/// Compares two numbers of JSON (RFC 8259).
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (read(a), read(b));
    match (a.is_zero(), b.is_zero()) {
        (true, true) => return Ordering::Equal,
        (true, false) => {
            return if b.negative {
                Ordering::Greater
            } else {
                Ordering::Less
            };
        }
        (false, true) => {
            return if a.negative {
                Ordering::Less
            } else {
                Ordering::Greater
            };
        }
        (false, false) => {}
    }
    let size = a.exponent.cmp(&b.exponent).then_with(|| digits(&a, &b));
    match (a.negative, b.negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => size,
        (true, true) => size.reverse(),
    }
}

impl Decimal<'_> {
    fn is_zero(&self) -> bool {
        self.parts.iter().all(|part| part.is_empty())
    }
}

fn digits(a: &Decimal<'_>, b: &Decimal<'_>) -> Ordering {
    let all = |d: &Decimal<'_>| d.parts.concat();
    let (a, b) = (all(a), all(b));
    for n in 0..a.len().max(b.len()) {
        let digit = |d: &[u8]| d.get(n).copied().unwrap_or(b'0');
        match digit(&a).cmp(&digit(&b)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
    Ordering::Equal
}

fn read(text: &str) -> Decimal<'_> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (whole, mut fraction) = (whole.trim_start_matches('0'), fraction);
    let mut first = whole.len() as i64;
    if whole.is_empty() {
        let without = fraction.trim_start_matches('0');
        first = without.len() as i64 - fraction.len() as i64;
        fraction = without;
    }
    Decimal {
        negative,
        parts: [whole.as_bytes(), fraction.as_bytes()],
        exponent: first.saturating_add(power(exponent)),
    }
    .without_trailing_zeros()
}

impl<'a> Decimal<'a> {
    fn without_trailing_zeros(mut self) -> Decimal<'a> {
        for part in self.parts.iter_mut().rev() {
            while let [rest @ .., b'0'] = part {
                *part = rest;
            }
            if !part.is_empty() {
                break;
            }
        }
        self
    }
}

/// An exponent; one beyond what 64 bits say is as large as can be said, far beyond any length of digits.
fn power(text: &str) -> i64 {
    let limit = i64::MAX / 4;
    match text.strip_prefix('+').unwrap_or(text).parse::<i64>() {
        Ok(power) => power.clamp(-limit, limit),
        Err(_) if text.starts_with('-') => -limit,
        Err(_) => limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_exactly() {
        let rising = [
            "-1e999999999999999999999",
            "-123456789012345678901234567890",
            "-1.5",
            "-1",
            "-0.1",
            "-1e-400",
            "0",
            "1e-400",
            "0.000001",
            "0.1",
            "0.10000000000000000000001",
            "1",
            "1.5",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.1",
            "1e17",
            "123456789012345678901234567890",
            "1e999999999999999999999",
        ];
        for (n, a) in rising.iter().enumerate() {
            for (m, b) in rising.iter().enumerate() {
                assert_eq!(compare(a, b), n.cmp(&m), "{a} {b}");
            }
        }
        for (a, b) in [
            ("0", "-0"),
            ("0.0", "0e5"),
            ("1", "1.000"),
            ("100", "1e2"),
            ("0.01", "1E-2"),
            ("1500", "1.5e+3"),
            ("10", "1e1"),
        ] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
        }
    }
}
