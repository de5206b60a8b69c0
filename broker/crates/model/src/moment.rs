//! Points in time as people write them, for the command line and the admin API alike.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};

/// What may be written, for help and errors.
pub const FORMS: &str = "a time (2026-11-27T10:00:00Z, also with +02:00, without seconds or without a zone, which is UTC then; 2026-11-27 is \
                         its midnight), a duration back from now (90s, 10m, 2h, 3d), or ms since 1970";

/// Timestamps below it, in ms, are of before April 1973: whoever writes one means seconds.
const MS_PLAUSIBLE_MIN: i64 = 100_000_000_000;
/// Timestamps above it, in ms, are of after the year 5000: whoever writes one means microseconds or less.
const MS_PLAUSIBLE_MAX: i64 = 100_000_000_000_000;
/// With a zone but without seconds, which RFC 3339 has always.
const WITH_ZONE: &str = "%Y-%m-%dT%H:%M%:z";
/// Without a zone.
const WITHOUT_ZONE: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];

/// Why a text is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MomentError {
    /// It has none of the forms.
    #[error("'{0}' is no moment: write {FORMS}")]
    Form(String),
    /// It is of before 1973.
    #[error("{0} is a moment of before 1973 in ms since 1970; if these are seconds, write {0}000")]
    Seconds(i64),
    /// It is of after the year 5000, or of before 1970.
    #[error(
        "{ms} is no plausible moment in ms since 1970, which is {now_ms} now; leave digits out if it counts micro- or nanoseconds"
    )]
    Implausible {
        /// What was written, in ms.
        ms: i64,
        /// Now, in ms.
        now_ms: i64,
    },
}

/// A moment in ms since the Unix epoch, which is `now_ms` now. All of [`FORMS`].
///
/// # Errors
/// [`MomentError`], which says how it is written.
pub fn parse(text: &str, now_ms: i64) -> Result<i64, MomentError> {
    if let Ok(ms) = text.parse::<i64>() {
        return plausible(ms, now_ms);
    }
    let back = duration(text).and_then(|back| now_ms.checked_sub(back));
    let found = back.or_else(|| time(text)).filter(|ms| *ms >= 0);
    found.ok_or_else(|| MomentError::Form(text.to_owned()))
}

/// A moment in ms since the Unix epoch as [`parse`] reads it, in UTC to the millisecond; the number itself where no calendar reaches that far.
pub fn shown(ms: i64) -> String {
    let Some(at) = DateTime::from_timestamp_millis(ms) else {
        return ms.to_string();
    };
    let (year, month, day) = (at.year(), at.month(), at.day());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    let millis = at.timestamp_subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

fn plausible(ms: i64, now_ms: i64) -> Result<i64, MomentError> {
    match ms {
        0 | MS_PLAUSIBLE_MIN..=MS_PLAUSIBLE_MAX => Ok(ms),
        1..MS_PLAUSIBLE_MIN => Err(MomentError::Seconds(ms)),
        _ => Err(MomentError::Implausible { ms, now_ms }),
    }
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

fn time(text: &str) -> Option<i64> {
    let text = text.replace([' ', 't'], "T").replace('z', "Z");
    if let Ok(date) = NaiveDate::parse_from_str(&text, "%Y-%m-%d") {
        return Some(ms(date.and_time(NaiveTime::MIN)));
    }
    let zoned =
        DateTime::parse_from_rfc3339(&text).or_else(|_| DateTime::parse_from_str(&text, WITH_ZONE));
    if let Ok(moment) = zoned {
        return Some(moment.timestamp_millis());
    }
    let clock = text.strip_suffix('Z').unwrap_or(&text);
    let mut forms = WITHOUT_ZONE.iter();
    forms.find_map(|form| NaiveDateTime::parse_from_str(clock, form).ok().map(ms))
}

fn ms(utc: NaiveDateTime) -> i64 {
    utc.and_utc().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_599_999;

    #[test]
    fn every_form_of_a_moment_is_read() {
        for (text, ms) in [
            ("10m", NOW - 600_000),
            ("90s", NOW - 90_000),
            ("250ms", NOW - 250),
            ("5min", NOW - 300_000),
            ("3d", NOW - 3 * 86_400_000),
            ("1767225599999", NOW),
            ("0", 0),
            ("2025-12-31T23:59:59.999Z", NOW),
            ("2025-12-31t23:59:59.999z", NOW),
            ("2026-01-01T01:59:59.999+02:00", NOW),
            ("2025-12-31T18:59-05:00", NOW - 59_999),
            ("2025-12-31 23:59:59.999", NOW),
            ("2025-12-31 23:59", NOW - 59_999),
            ("2025-12-31T23:59Z", NOW - 59_999),
            ("2025-12-31", NOW - 86_399_999),
            ("1970-01-01", 0),
        ] {
            assert_eq!(parse(text, NOW), Ok(ms), "{text}");
        }
    }

    #[test]
    fn moments_are_shown_as_they_are_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (NOW, "2025-12-31T23:59:59.999Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(shown(ms), text);
            assert_eq!(parse(text, 0), Ok(ms));
        }
        assert_eq!(shown(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(shown(i64::MAX), i64::MAX.to_string());
        assert_eq!(shown(i64::MIN), i64::MIN.to_string());
    }

    #[test]
    fn what_is_no_moment_is_refused_with_what_was_meant() {
        for (text, hint) in [
            ("1795773600", "1795773600000"),
            ("1795773600000000", "micro"),
            ("-5", "plausible"),
            ("", "ms since 1970"),
            ("m", "10m"),
            ("10x", "10m"),
            ("-5m", "10m"),
            ("99999999999999999999", "10m"),
            ("99999999999999d", "10m"),
            ("2025-13-01", "2026-11-27"),
            ("2025-02-30", "2026-11-27"),
            ("2025-12-31T25:00Z", "2026-11-27"),
            ("2025-12-31T23:59+1", "2026-11-27"),
            ("1969-12-31T23:59:59Z", "2026-11-27"),
            ("\u{e9}", "2026-11-27"),
            ("yesterday", "2026-11-27"),
        ] {
            let refused = parse(text, NOW).expect_err(text).to_string();
            assert!(refused.contains(hint), "{text}: {refused}");
        }
    }
}
