//! A module that tells of the variable that a record names how long its value is, and never what it is. The end-to-end tests put it into a
//! project of `transform init` and build it there.

use tidemill_sdk::{Output, Record, Result, transform};

#[transform]
fn tell(record: Record<'_>, output: &mut Output) -> Result<()> {
    let name = record.value().map(String::from_utf8_lossy).unwrap_or_default();
    let told = match std::env::var(&*name) {
        Ok(value) => format!("{name} {}", value.len()),
        Err(_) => format!("{name} is not set"),
    };
    output.write(record.edit().value(&told))
}
