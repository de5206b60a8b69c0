//! What an environment variable of a transform may be called, a secret's as well.

/// How the names begin that the broker sets.
pub const RESERVED: &str = "TIDEMILL_";

/// Why a text cannot be the name of a variable. What stands behind a `=` in it is not part of the message: it may be the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// It is empty, or has a character that no name has.
    #[error(
        "'{0}' cannot be the name of a variable: names have letters, digits, '_', '.' and '-', and do not begin with a digit"
    )]
    Form(String),
    /// The broker sets such variables itself.
    #[error("'{0}' cannot be set: the broker sets the variables that begin with {RESERVED}")]
    Reserved(String),
}

/// Checks that `name` may be the name of a variable.
///
/// # Errors
/// The first rule it breaks.
pub fn check(name: &str) -> Result<(), VariableError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let shown = || name.split('=').next().unwrap_or_default().to_owned();
    match name.chars().next() {
        Some(first) if !first.is_ascii_digit() && name.chars().all(legal) => {}
        _ => return Err(VariableError::Form(shown())),
    }
    match name.starts_with(RESERVED) {
        true => Err(VariableError::Reserved(shown())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_every_language_can_ask_for() {
        for name in ["A", "_a1", "spring.datasource.url", "log-level", "x"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", "1A", "A B", "A\0", "A\n", "\u{e9}", "TIDEMILL_X"] {
            assert!(check(name).is_err(), "{name}");
        }
        let said = check("A=hush").expect_err("it has a value").to_string();
        assert!(said.contains("'A'") && !said.contains("hush"), "{said}");
    }
}
