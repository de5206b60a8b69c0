//! Secrets as the command line takes them. What is wrong with one is said without its value.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value};
use tidemill_model::variable;

use crate::error::{CliError, CliResult};

/// Bytes of a secret that are read; the broker takes fewer.
const BYTES_MAX: u64 = 1 << 20;

/// Secrets by name, from texts like `KEY=VALUE`, `KEY=@FILE` and `KEY=-`, of which one may come from `stdin`.
///
/// # Errors
/// A text of another form, a file that cannot be read, a secret that is empty or given twice.
pub(crate) fn read(given: &[String], stdin: &mut dyn Read) -> CliResult<Map<String, Value>> {
    let mut all = Map::new();
    let mut stdin = Some(stdin);
    for text in given {
        let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(CliError::said(
                "--secret is written as KEY=@FILE, KEY=- or KEY=VALUE",
            ));
        };
        let value = match value.strip_prefix('@') {
            Some(file) => of_file(name, Path::new(file))?,
            None if value == "-" => match stdin.take() {
                Some(stdin) => of(name, "standard input", stdin)?,
                None => {
                    return Err(CliError::said(
                        "one --secret can come from standard input, not two; give the other as KEY=@FILE",
                    ));
                }
            },
            None => value.to_owned(),
        };
        variable::check(name).map_err(|error| CliError::said(error.to_string()))?;
        if value.is_empty() {
            return Err(CliError::said(format!("the secret {name} is empty")));
        }
        if all.insert(name.to_owned(), Value::from(value)).is_some() {
            return Err(CliError::said(format!("the secret {name} is given twice")));
        }
    }
    Ok(all)
}

fn of_file(name: &str, path: &Path) -> CliResult<String> {
    let mut file = File::open(path).map_err(CliError::file("read", path))?;
    of(name, &path.display().to_string(), &mut file)
}

/// The text that `from` holds, without a line end.
fn of(name: &str, place: &str, from: &mut dyn Read) -> CliResult<String> {
    let mut text = String::new();
    let read = from.take(BYTES_MAX + 1).read_to_string(&mut text);
    let said = |what: &str| CliError::said(format!("the secret {name} in {place} {what}"));
    match read {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(said(
            "is no UTF-8 text; give bytes as base64 or hexadecimal digits",
        )),
        Err(e) => Err(said(&format!("cannot be read: {e}"))),
        Ok(bytes) if bytes as u64 > BYTES_MAX => {
            Err(said(&format!("has more than {BYTES_MAX} bytes")))
        }
        Ok(_) => {
            let line = text.strip_suffix('\n').unwrap_or(&text);
            Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(given: &[&str], mut stdin: &[u8]) -> Result<Map<String, Value>, String> {
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        read(&given, &mut stdin).map_err(|error| error.to_string())
    }

    #[test]
    fn secrets_come_from_the_command_line_a_file_and_standard_input() {
        let file = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        std::fs::write(&file, "4711\r\n").unwrap();
        let of_file = format!("PIN=@{}", file.display());
        let all = read_all(&["A=b=c", &of_file, "KEY=-"], b"from elsewhere\n").unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(all["A"], "b=c");
        assert_eq!(all["PIN"], "4711");
        assert_eq!(all["KEY"], "from elsewhere");
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_it() {
        for (given, stdin, reason) in [
            (&["hush"][..], &b""[..], "KEY=@FILE"),
            (&["=hush"], b"", "KEY=@FILE"),
            (&["A=hush", "A=hush"], b"", "given twice"),
            (&["A=-", "B=-"], b"hush", "not two"),
            (&["A=-"], b"\n", "is empty"),
            (&["A="], b"", "is empty"),
            (&["A B=hush"], b"", "cannot be the name"),
            (&["1=hush"], b"", "cannot be the name"),
            (&["TIDEMILL_KEY=hush"], b"", "cannot be set"),
            (&["A=-"], b"hush\xff", "no UTF-8"),
            (&["A=@/nowhere/at/all"], b"", "/nowhere/at/all"),
        ] {
            let said = read_all(given, stdin).unwrap_err();
            assert!(said.contains(reason) && !said.contains("hush"), "{said}");
        }
        let long = vec![b'x'; BYTES_MAX as usize + 1];
        assert!(read_all(&["A=-"], &long).unwrap_err().contains("more than"));
    }
}
