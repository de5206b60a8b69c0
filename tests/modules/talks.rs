//! A module that logs, as the value of the record says. The end-to-end tests put it into a project of `transform init`
//! and build it there.

use tidemill_sdk::{Output, Record, Result, log, transform};

/// Lines of one record that floods.
const FLOOD_LINES: usize = 40;

#[transform]
fn talk(record: Record<'_>, output: &mut Output) -> Result<()> {
    let text = record.value().map(String::from_utf8_lossy).unwrap_or_default();
    match text.split_once(' ').unwrap_or((&text, "")) {
        ("debug", rest) => log::debug!("{rest}"),
        ("info", rest) => log::info!("{rest}"),
        ("warn", rest) => log::warn!("{rest}"),
        ("error", rest) => log::error!("{rest}"),
        ("stdout", rest) => println!("{rest}"),
        ("steer", _) => log::info!("before\u{1b}[2Jafter"),
        ("flood", _) => (0..FLOOD_LINES).for_each(|n| log::info!("line {n} of a flood")),
        ("refuse", _) => return Err("it was refused".into()),
        ("panic", _) => panic!("it was too much"),
        _ => {}
    }
    output.forward(&record)
}
