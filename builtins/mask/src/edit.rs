//! Editing a JSON text in place.

use std::ops::Range;

use tidemill_builtin::path::{Tracker, Unreadable};
use tidemill_sdk::json::{self, Event};

use crate::action::{Action, hash, mask, tokenize, tokenize_number};
use crate::config::Config;

/// `text` with the fields hidden; nothing when there are none.
///
/// # Errors
/// When it is not JSON, or nested too deep.
pub fn edit(config: &Config, text: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    let mut editor = Editor {
        config,
        text,
        tracker: Tracker::new(&config.paths),
        around: Vec::new(),
        out: Vec::new(),
        copied: 0,
    };
    json::walk(text, |event| editor.take(event))?;
    let edited = editor.copied > 0;
    editor.copy(text.len());
    Ok(edited.then_some(editor.out))
}

/// An object or array that is hidden.
#[derive(Debug, Clone, Copy)]
struct Around {
    /// By which action.
    action: usize,
    /// How deep it lies.
    depth: usize,
    /// Its first byte.
    at: usize,
}

struct Editor<'a> {
    config: &'a Config,
    text: &'a [u8],
    tracker: Tracker<'a>,
    /// The hidden containers that are open, the innermost last; within one that is redacted there is no other.
    around: Vec<Around>,
    out: Vec<u8>,
    /// Bytes of the text that are in `out`, or were replaced there.
    copied: usize,
}

impl Editor<'_> {
    fn take(&mut self, event: Event) -> Result<(), Unreadable> {
        match event {
            Event::Name(place) => self.tracker.name(&self.text[place]),
            Event::Open { at, is_object } => {
                let states = self.tracker.value();
                let depth = self.tracker.depth();
                self.tracker.open(states, is_object)?;
                let action = self.config.paths.first_end(states);
                if let (Some(action), false) = (action, self.is_redacted()) {
                    self.around.push(Around { action, depth, at });
                }
            }
            Event::Close { end } => {
                self.tracker.close();
                let depth = self.tracker.depth();
                if let Some(around) = self.around.pop_if(|around| around.depth == depth) {
                    if let Action::Redact { replacement } = &self.config.actions[around.action] {
                        self.replace(around.at..end, &redacted(replacement.as_deref()));
                    }
                }
            }
            Event::String(place) => {
                let quoted = place.start - 1..place.end + 1;
                self.scalar(
                    quoted,
                    |text| json::meaning(&text[1..text.len() - 1]).into_owned(),
                    false,
                );
            }
            Event::Number(place) => self.scalar(place, lossy, true),
            Event::Word(place) => self.word(place),
        }
        Ok(())
    }

    fn is_redacted(&self) -> bool {
        let around = self.around.last();
        let action = around.map(|around| &self.config.actions[around.action]);
        matches!(action, Some(Action::Redact { .. }))
    }

    /// The action for the scalar that begins here, if it is to be hidden by itself.
    fn action(&mut self) -> Option<&Action> {
        let states = self.tracker.value();
        if self.is_redacted() {
            return None;
        }
        let own = self.config.paths.first_end(states);
        let action = own.or(self.around.last().map(|around| around.action))?;
        Some(&self.config.actions[action])
    }

    fn scalar(&mut self, place: Range<usize>, meaning: impl Fn(&[u8]) -> String, is_number: bool) {
        let key = self.config.key.clone();
        let text = self.text;
        let Some(action) = self.action() else { return };
        let meant = || meaning(&text[place.clone()]);
        let hidden = match (action, &key) {
            (Action::Redact { replacement }, _) => redacted(replacement.as_deref()),
            (Action::Mask { keep_last }, _) => quoted(&mask(&meant(), *keep_last)),
            (Action::Hash, Some(key)) => quoted(&hash(key, &meant())),
            (Action::Tokenize, Some(key)) if is_number => tokenize_number(key, &meant()),
            (Action::Tokenize, Some(key)) => quoted(&tokenize(key, &meant())),
            // A configuration with these actions has a key.
            (Action::Hash | Action::Tokenize, None) => "null".to_owned(),
        };
        self.replace(place, &hidden);
    }

    /// `true` and `false` have no characters to hide behind; `null` says nothing.
    fn word(&mut self, place: Range<usize>) {
        let text = self.text;
        let is_null = &text[place.clone()] == b"null";
        let key = self.config.key.clone();
        let Some(action) = self.action() else { return };
        let hidden = match (action, &key) {
            (Action::Redact { replacement }, _) => redacted(replacement.as_deref()),
            _ if is_null => return,
            (Action::Hash, Some(key)) => quoted(&hash(key, &lossy(&text[place.clone()]))),
            _ => "null".to_owned(),
        };
        self.replace(place, &hidden);
    }

    fn replace(&mut self, place: Range<usize>, by: &str) {
        self.copy(place.start);
        self.out.extend_from_slice(by.as_bytes());
        self.copied = place.end;
    }

    fn copy(&mut self, up_to: usize) {
        self.out.extend_from_slice(&self.text[self.copied..up_to]);
        self.copied = up_to;
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn redacted(replacement: Option<&str>) -> String {
    replacement.map_or_else(|| "null".to_owned(), quoted)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
