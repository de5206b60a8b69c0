//! Points in time as people write them.

use std::time::{SystemTime, UNIX_EPOCH};

/// What may be written, for help and errors.
pub(crate) const FORMS: &str = "a duration back from now (90s, 10m, 2h, 3d), a time (2026-03-01T08:00:00Z), or @MILLISECONDS since 1970";

/// Milliseconds since the Unix epoch, now.
pub(crate) fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| {
        i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
    })
}

/// A point in time, ms since the Unix epoch, as clap's value parser.
///
/// # Errors
/// The forms there are, where it is none.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    parse_at(text, now_ms()).ok_or_else(|| format!("write {FORMS}"))
}

fn parse_at(text: &str, now_ms: i64) -> Option<i64> {
    if let Some(ms) = text.strip_prefix('@') {
        return ms.parse().ok().filter(|ms| *ms >= 0);
    }
    duration(text)
        .and_then(|back| now_ms.checked_sub(back))
        .or_else(|| timestamp(text))
}

/// `10m` and such, in ms.
fn duration(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: i64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// RFC 3339, where a date alone is its midnight UTC and a time without zone is UTC.
fn timestamp(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00Z"),
    };
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let in_range =
        (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let (clock, zone) = split_zone(time)?;
    (in_range).then(|| days(year, month, day) * 86_400_000 + clock - zone)
}

/// The time of day and the distance of its zone from UTC, in ms.
fn split_zone(time: &str) -> Option<(i64, i64)> {
    let at = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = time.split_at(at);
    let zone = match zone {
        "" | "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = zone[1..].split_once(':')?;
            let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
            ((0..24).contains(&hours) && (0..60).contains(&minutes))
                .then_some(sign * (hours * 60 + minutes) * 60_000)?
        }
    };
    let mut parts = clock.splitn(3, ':');
    let (hours, minutes): (i64, i64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let seconds: f64 = parts.next().unwrap_or("0").parse().ok()?;
    let fits =
        (0..24).contains(&hours) && (0..60).contains(&minutes) && (0.0..61.0).contains(&seconds);
    let clock = (hours * 60 + minutes) * 60_000 + (seconds * 1000.0).round() as i64;
    fits.then_some((clock, zone))
}

/// Days from the Unix epoch to a date ("days_from_civil" in Howard Hinnant, chrono-Compatible Low-Level Date Algorithms).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_index = (month + 9) % 12;
    let day_of_year = (153 * month_index + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::utc;

    #[test]
    fn times_are_taken_as_people_write_them() {
        let now = 1_767_225_599_999;
        for (text, ms) in [
            ("10m", now - 600_000),
            ("90s", now - 90_000),
            ("250ms", now - 250),
            ("3d", now - 3 * 86_400_000),
            ("@1767225599999", now),
            ("2025-12-31T23:59:59.999Z", now),
            ("2026-01-01T01:59:59.999+02:00", now),
            ("2025-12-31 23:59", now - 59_999),
            ("1970-01-01", 0),
        ] {
            assert_eq!(parse_at(text, now), Some(ms), "{text}");
        }
        for text in [
            "",
            "m",
            "10",
            "10x",
            "-5m",
            "@",
            "@-1",
            "2025-13-01",
            "2025-12-31T25:00Z",
            "2025-12-31T23:59+1",
            "yesterday",
        ] {
            assert_eq!(parse_at(text, now), None, "{text}");
        }
    }

    #[test]
    fn dates_are_those_that_are_shown() {
        for ms in [0, 951_782_400_123, 1_767_225_599_999, 4_102_444_800_000] {
            assert_eq!(parse_at(&utc(ms), 0), Some(ms));
        }
    }
}
