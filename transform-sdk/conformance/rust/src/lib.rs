//! The functions of the conformance suite, as `../README.md` says.

use tidemill_sdk::{Error, NewRecord, Output, Record, Result, log};

/// Runs the function that `CONFORMANCE_FUNCTION` names.
#[tidemill_sdk::transform]
pub fn conformance(record: Record<'_>, output: &mut Output) -> Result<()> {
    let name = std::env::var("CONFORMANCE_FUNCTION").unwrap_or_default();
    match name.as_str() {
        "forward" => output.forward(&record),
        "edit" => edit(record, output),
        "strip" => output.write(record.edit().no_key().no_value().no_headers()),
        "new" => new(record, output),
        "filter" => filter(record, output),
        "repeat" => repeat(record, output),
        "large" => large(record, output),
        "fan-out" => fan_out(record, output),
        "route" => route(record, output),
        "fail" => fail(record, output),
        "environment" => environment(record, output),
        "log" => log_line(record, output),
        "time" => output.write(record.edit().timestamp(text(&record)?.parse()?)),
        "place" => place(record, output),
        "where" => place_of(record, output),
        "panic" => panic(record, output),
        unknown => Err(format!("there is no function `{unknown}`").into()),
    }
}

fn bytes<'a>(record: &Record<'a>) -> &'a [u8] {
    record.value().unwrap_or_default()
}

fn text<'a>(record: &Record<'a>) -> Result<&'a str> {
    Ok(std::str::from_utf8(bytes(record))?)
}

fn edit(record: Record<'_>, output: &mut Output) -> Result<()> {
    let parts = [b"<", bytes(&record), b">"];
    let edited = record.edit().value_parts(&parts);
    output.write(edited.header("edited", "yes").null_header("edited"))
}

fn new(record: Record<'_>, output: &mut Output) -> Result<()> {
    let mut made = NewRecord::new().header("made", "yes");
    if let Some(value) = record.value() {
        made = made.value(value);
    }
    output.write(made)
}

fn filter(record: Record<'_>, output: &mut Output) -> Result<()> {
    match bytes(&record).starts_with(b"keep") {
        true => output.forward(&record),
        false => Ok(()),
    }
}

fn repeat(record: Record<'_>, output: &mut Output) -> Result<()> {
    let value = text(&record)?;
    let count: u32 = value
        .parse()
        .map_err(|_| format!("not a number: {value}"))?;
    for n in 0..count {
        output.write(record.edit().value(&n.to_string()))?;
    }
    Ok(())
}

fn large(record: Record<'_>, output: &mut Output) -> Result<()> {
    let (count, size) = text(&record)?.split_once(' ').ok_or("not COUNT SIZE")?;
    let (count, size): (usize, usize) = (count.parse()?, size.parse()?);
    let value = vec![b'x'; size];
    (0..count).try_for_each(|_| output.write(record.edit().value(&value)))
}

fn fan_out(record: Record<'_>, output: &mut Output) -> Result<()> {
    output.forward(&record)?;
    for (topic, prefix) in [("second", b"2:"), ("third", b"3:")] {
        let parts: [&[u8]; 2] = [prefix, bytes(&record)];
        output.to(topic)?.write(record.edit().value_parts(&parts))?;
    }
    Ok(())
}

fn route(record: Record<'_>, output: &mut Output) -> Result<()> {
    match record.header("to") {
        Some(topic) => output.to(std::str::from_utf8(topic)?)?.forward(&record),
        None => output.forward(&record),
    }
}

fn fail(record: Record<'_>, output: &mut Output) -> Result<()> {
    output.forward(&record)?;
    output.to("second")?.forward(&record)?;
    match bytes(&record).starts_with(b"bad") {
        true => Err(format!("refused: {}", text(&record)?).into()),
        false => Ok(()),
    }
}

fn environment(record: Record<'_>, output: &mut Output) -> Result<()> {
    for name in text(&record)?.split(',') {
        let line = match std::env::var(name) {
            Ok(value) => format!("{name}={value}"),
            Err(_) => format!("{name} is not set"),
        };
        output.write(NewRecord::new().value(&line))?;
    }
    Ok(())
}

fn log_line(record: Record<'_>, output: &mut Output) -> Result<()> {
    let (to, line) = text(&record)?.split_once(' ').ok_or("not WHERE TEXT")?;
    match to {
        "debug" => log::debug!("{line}"),
        "info" => log::info!("{line}"),
        "warn" => log::warn!("{line}"),
        "error" => log::error!("{line}"),
        "stdout" => println!("{line}"),
        "stderr" => eprintln!("{line}"),
        unknown => return Err(Error::from(format!("no place to log: {unknown}"))),
    }
    output.forward(&record)
}

fn place(record: Record<'_>, output: &mut Output) -> Result<()> {
    let mut placed = record.edit();
    if let Some(header) = record.headers().find(|h| h.key == b"key") {
        placed = match header.value {
            Some(key) => placed.key(key),
            None => placed.no_key(),
        };
    }
    placed = match record.header("place") {
        None => placed,
        Some(b"by-key") => placed.by_key(),
        Some(partition) => placed.partition(std::str::from_utf8(partition)?.parse()?),
    };
    output.write(placed)
}

fn place_of(record: Record<'_>, output: &mut Output) -> Result<()> {
    let (partition, offset) = (record.partition(), record.offset());
    let timestamp = record.timestamp();
    let line = format!("partition={partition} offset={offset} timestamp={timestamp}");
    output.write(NewRecord::new().value(&line))
}

fn panic(record: Record<'_>, output: &mut Output) -> Result<()> {
    assert_ne!(bytes(&record), b"panic");
    output.forward(&record)
}
