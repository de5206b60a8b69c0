//! What the broker says on standard error: a line for each event, as text or as JSON, with the time in UTC (RFC 3339).
//!
//! Names are stable: `time`, `level`, `target` (the module), `message`, then what the event adds. Lines of one place in the
//! code are written [`REPEATS_MAX`] times in [`WINDOW`]; what is left out is counted, and told when the window is over.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Settings;
use crate::metrics::Sample;

/// Lines from one place in the code that are written in a [`WINDOW`], at info and above.
const REPEATS_MAX: u32 = 10;
/// The same for changes of topics and transforms, which all come from one place: each is worth a line, unless somebody makes
/// them without end.
const CHANGES_MAX: u32 = 600;
/// The time in which they are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Bytes of a message or value that are written.
const VALUE_BYTES_MAX: usize = 8 << 10;

/// Lines left out since the process started.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
/// Lines written since the process started, by level from error to info.
static WRITTEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text { colour: bool },
    Json,
}

/// The target of what ends the process. It is said whatever is filtered: a broker does not end without a word.
const END_TARGET: &str = "tidemill::end";
/// The words for levels.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Says why the process ends, whatever the level.
pub(crate) fn end(error: &dyn fmt::Display) {
    tracing::error!(target: END_TARGET, "{error}");
}

/// The filter that `level` describes. openraft's own words are for its developers: only its errors, unless it is named.
///
/// # Errors
/// What cannot be read, for people.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    if let Some(word) = level
        .split(',')
        .map(str::trim)
        .find(|part| is_misspelt(part))
    {
        return Err(format!(
            "'{word}' is no level: write {}; of a module: \"info,tidemill_ring=debug\"",
            LEVELS.join(", ")
        ));
    }
    let mut whole = format!("{level},{END_TARGET}=error");
    if !level.contains("openraft") {
        whole.push_str(",openraft=error");
    }
    EnvFilter::builder()
        .parse(&whole)
        .map_err(|e| format!("'{level}' is no filter ({e}): write for example \"info\" or \"info,tidemill_ring=debug\""))
}

/// Whether a directive is a bare word that is no level. The filter would take it for a module, and say nothing of all others.
fn is_misspelt(directive: &str) -> bool {
    let bare = !directive.is_empty() && !directive.contains(['=', '[', ']', '{', '}']);
    bare && !LEVELS.contains(&&*directive.to_ascii_lowercase())
}

/// Starts logging as the settings say. Once, before anything is logged.
pub(crate) fn start(settings: &Settings) {
    let format = match settings.log.format.as_str() {
        "json" => Format::Json,
        _ => Format::Text {
            colour: std::io::IsTerminal::is_terminal(&std::io::stderr()),
        },
    };
    let filter = filter(&settings.log.level).expect("settings are checked before they are used");
    let lines = Lines {
        format,
        repeats: Mutex::default(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    if format == Format::Json {
        std::panic::set_hook(Box::new(|info| {
            let payload = info.payload_as_str().unwrap_or("a panic without a message");
            let at = info.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(
                target: END_TARGET,
                at,
                thread = std::thread::current().name(),
                "panicked at: {payload}"
            );
        }));
    }
}

/// Adds what was written and left out to `out`.
pub(crate) fn collect(out: &mut Vec<Sample>) {
    for (level, count) in ["error", "warn", "info"].into_iter().zip(&WRITTEN) {
        let (labels, count) = (
            vec![("level", level.to_owned())],
            count.load(Ordering::Relaxed),
        );
        out.push(Sample::plain(
            "tidemill_log_lines_total",
            labels,
            count as f64,
        ));
    }
    let left_out = LEFT_OUT.load(Ordering::Relaxed);
    out.push(Sample::plain(
        "tidemill_log_lines_left_out_total",
        Vec::new(),
        left_out as f64,
    ));
}

/// Writes events.
struct Lines {
    format: Format,
    repeats: Mutex<Repeats>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (allowed, over) = {
            let mut repeats = self
                .repeats
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            repeats.take(metadata, &fields.message, Instant::now())
        };
        let mut out = String::new();
        for told in over {
            let more = Fields {
                message: format!(
                    "{} more like this were left out: {}",
                    told.left_out, told.message
                ),
                others: vec![("left_out", Scalar::Plain(told.left_out.to_string()))],
            };
            line(self.format, told.metadata, &more, &mut out);
        }
        if allowed {
            line(self.format, metadata, &fields, &mut out);
            if let Some(written) = WRITTEN.get(rank(metadata.level())) {
                written.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        }
        // Where standard error is gone there is nobody to tell.
        let _ = std::io::stderr().lock().write_all(out.as_bytes());
    }
}

fn rank(level: &Level) -> usize {
    match *level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        _ => usize::MAX,
    }
}

/// How often each place in the code has spoken lately. There are as many as the code has.
#[derive(Debug, Default)]
struct Repeats {
    places: HashMap<Identifier, Place>,
    /// When the first window that left something out ends.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    since: Instant,
    lines: u32,
    left_out: u64,
    /// The first message that was left out.
    message: String,
    metadata: &'static Metadata<'static>,
}

/// What was left out in a window that is over.
#[derive(Debug)]
struct Told {
    metadata: &'static Metadata<'static>,
    left_out: u64,
    message: String,
}

impl Repeats {
    /// Whether an event is written, and what is to be told of windows that are over.
    fn take(
        &mut self,
        metadata: &'static Metadata<'static>,
        message: &str,
        now: Instant,
    ) -> (bool, Vec<Told>) {
        let over = match self.due {
            Some(due) if now >= due => self.over(now),
            _ => Vec::new(),
        };
        if *metadata.level() > Level::INFO {
            return (true, over);
        }
        let place = self
            .places
            .entry(metadata.callsite())
            .or_insert_with(|| Place {
                since: now,
                lines: 0,
                left_out: 0,
                message: String::new(),
                metadata,
            });
        if now.duration_since(place.since) >= WINDOW {
            (place.since, place.lines) = (now, 0);
        }
        let most = match metadata.target() {
            tidemill_controller::TRAIL_TARGET => CHANGES_MAX,
            _ => REPEATS_MAX,
        };
        if place.lines < most {
            place.lines += 1;
            return (true, over);
        }
        if place.left_out == 0 {
            message.clone_into(&mut place.message);
        }
        place.left_out += 1;
        let ends = place.since + WINDOW;
        self.due = Some(self.due.map_or(ends, |due| due.min(ends)));
        (false, over)
    }

    fn over(&mut self, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        self.due = None;
        for place in self.places.values_mut().filter(|p| p.left_out > 0) {
            let ends = place.since + WINDOW;
            if now < ends {
                self.due = Some(self.due.map_or(ends, |due| due.min(ends)));
                continue;
            }
            told.push(Told {
                metadata: place.metadata,
                left_out: std::mem::take(&mut place.left_out),
                message: std::mem::take(&mut place.message),
            });
        }
        told
    }
}

/// A value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scalar {
    /// A number or a boolean, as JSON has it.
    Plain(String),
    /// Text.
    Text(String),
}

/// What an event says.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Scalar)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Scalar) {
        match (field.name(), value) {
            ("message", Scalar::Text(text) | Scalar::Plain(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let text = value.to_string();
        let value = match value.is_finite() {
            true => Scalar::Plain(text),
            false => Scalar::Text(text),
        };
        self.push(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Scalar::Plain(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Scalar::Plain(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Scalar::Plain(value.to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Scalar::Text(cut(value.to_owned())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Scalar::Text(cut(format!("{value:?}"))));
    }
}

fn cut(mut text: String) -> String {
    if text.len() > VALUE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(VALUE_BYTES_MAX));
        text.push_str("...");
    }
    text
}

fn line(format: Format, metadata: &Metadata<'_>, fields: &Fields, out: &mut String) {
    match format {
        Format::Text { colour } => text_line(colour, metadata, fields, out),
        Format::Json => json_line(metadata, fields, out),
    }
    out.push('\n');
}

fn time(out: &mut String) {
    if SystemTime.format_time(&mut Writer::new(out)).is_err() {
        out.push('-');
    }
}

/// `TIME LEVEL message name=value`.
fn text_line(colour: bool, metadata: &Metadata<'_>, fields: &Fields, out: &mut String) {
    let (before, after) = match (colour, *metadata.level()) {
        (false, _) => ("", ""),
        (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
        (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
        (true, Level::INFO) => ("\x1b[32m", "\x1b[0m"),
        (true, _) => ("\x1b[34m", "\x1b[0m"),
    };
    time(out);
    let _ = write!(out, " {before}{:>5}{after} ", metadata.level().as_str());
    if *metadata.level() > Level::INFO {
        let _ = write!(out, "{}: ", metadata.target());
    }
    visible(&fields.message, out);
    for (name, value) in &fields.others {
        let _ = write!(out, " {name}=");
        match value {
            Scalar::Plain(text) | Scalar::Text(text) => visible(text, out),
        }
    }
}

/// Writes `text` so that nobody else's words can look like a line of ours or speak to the terminal.
pub(crate) fn visible(text: &str, out: &mut String) {
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}

fn json_line(metadata: &Metadata<'_>, fields: &Fields, out: &mut String) {
    out.push_str("{\"time\":\"");
    time(out);
    let level = metadata.level().as_str();
    let _ = write!(
        out,
        "\",\"level\":\"{level}\",\"target\":{}",
        quoted(metadata.target())
    );
    let _ = write!(out, ",\"message\":{}", quoted(&fields.message));
    for (name, value) in &fields.others {
        // The four names above are ours.
        let mark = if ["time", "level", "target"].contains(name) {
            "_"
        } else {
            ""
        };
        let _ = write!(out, ",\"{mark}{name}\":");
        match value {
            Scalar::Plain(text) => out.push_str(text),
            Scalar::Text(text) => out.push_str(&quoted(text)),
        }
    }
    out.push('}');
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps the lines of events instead of writing them.
    struct Kept(Format, Arc<Mutex<String>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut fields = Fields::default();
            event.record(&mut fields);
            line(
                self.0,
                event.metadata(),
                &fields,
                &mut self.1.lock().unwrap(),
            );
        }
    }

    fn logged(format: Format, f: impl FnOnce()) -> String {
        let out = Arc::new(Mutex::new(String::new()));
        let subscriber = tracing_subscriber::registry().with(Kept(format, out.clone()));
        tracing::subscriber::with_default(subscriber, f);
        out.lock().unwrap().clone()
    }

    fn say_something() {
        let name = "a\nb\u{1b}[31m";
        tracing::warn!(transform = %name, tries = 3, ready = true, time = "noon", "cannot load \"it\"\n");
    }

    #[test]
    fn json_line_is_an_object_with_stable_names_and_types() {
        let line = logged(Format::Json, say_something);
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["target"], "tidemill::log::tests");
        assert_eq!(value["message"], "cannot load \"it\"\n");
        assert_eq!(
            (&value["tries"], &value["ready"]),
            (&3.into(), &true.into())
        );
        assert_eq!(value["transform"], "a\nb\u{1b}[31m");
        assert_eq!(value["_time"], "noon");
        let time = value["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    }

    #[test]
    fn text_line_shows_control_characters_and_stays_one_line() {
        let line = logged(Format::Text { colour: false }, say_something);
        let (_, rest) = line.split_once(' ').unwrap();
        assert_eq!(
            rest,
            " WARN cannot load \"it\"\\n transform=a\\nb\\u{1b}[31m tries=3 ready=true time=noon\n"
        );
    }

    #[test]
    fn place_that_repeats_itself_is_cut_off_and_counted_when_its_window_is_over() {
        static METADATA: Mutex<Option<&'static Metadata<'static>>> = Mutex::new(None);
        struct Take;
        impl<S: Subscriber> Layer<S> for Take {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                *METADATA.lock().unwrap() = Some(event.metadata());
            }
        }
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Take), || {
            tracing::warn!("again")
        });
        let metadata = METADATA.lock().unwrap().unwrap();
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for _ in 0..REPEATS_MAX {
            assert!(repeats.take(metadata, "again", start).0);
        }
        for n in 0..5 {
            let (written, told) = repeats.take(metadata, &format!("again {n}"), start);
            assert!(!written && told.is_empty());
        }
        let (written, told) = repeats.take(metadata, "again", start + WINDOW);
        assert!(written);
        assert_eq!((told[0].left_out, told[0].message.as_str()), (5, "again 0"));
        assert!(repeats.take(metadata, "again", start + WINDOW).1.is_empty());
    }

    #[test]
    fn filter_takes_levels_by_module_and_refuses_nonsense() {
        for level in [
            "info",
            "WARN,tidemill_ring=debug",
            "off",
            "info,[{a=1}]=debug",
        ] {
            assert!(filter(level).is_ok(), "{level}");
        }
        assert!(filter("info,a=b=c").is_err());
        for level in ["infoo", "warning", "info,tidemill_ring", "infoo,a=debug"] {
            let said = filter(level).unwrap_err();
            assert!(
                said.contains("off, error, warn, info, debug, trace"),
                "{said}"
            );
        }
    }

    #[test]
    fn end_of_the_process_is_said_whatever_the_level() {
        for level in ["off", "tidemill_ring=debug", "tidemill=off"] {
            let out = Arc::new(Mutex::new(String::new()));
            let kept = Kept(Format::Text { colour: false }, out.clone());
            let subscriber = tracing_subscriber::registry()
                .with(filter(level).unwrap())
                .with(kept);
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!("something else");
                end(&"the port is taken");
            });
            let said = out.lock().unwrap().clone();
            assert!(
                said.ends_with(" ERROR the port is taken\n") && said.lines().count() == 1,
                "{level}: {said}"
            );
        }
    }

    #[test]
    fn long_value_is_cut_at_a_character() {
        let text = cut("ä".repeat(VALUE_BYTES_MAX));
        assert!(text.len() <= VALUE_BYTES_MAX + 3 && text.ends_with("..."));
    }
}
