//! The file of exceptions: each with its reason, and never more than there were.

use super::read;
use serde::Deserialize;
use std::collections::BTreeSet;

const FILE: &str = "xtask/tidy_waivers.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// The most waivers there may be. It goes down when one is no longer needed, and never up.
    maximum: usize,
    #[serde(default, rename = "waiver")]
    waivers: Vec<Waiver>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiver {
    /// `path/of/file.rs`, or `path/of/file.rs::function`.
    what: String,
    reason: String,
}

/// The waivers, and which of them were needed.
#[derive(Debug)]
pub(super) struct Waivers {
    content: Content,
    used: BTreeSet<String>,
}

impl Waivers {
    pub(super) fn load() -> Result<Waivers, String> {
        let content = toml::from_str(&read(FILE)?).map_err(|error| format!("{FILE}: {error}"))?;
        Ok(Waivers {
            content,
            used: BTreeSet::new(),
        })
    }

    /// Whether this file or function is excepted; remembers that the waiver is needed.
    pub(super) fn allows(&mut self, what: &str) -> bool {
        let listed = self
            .content
            .waivers
            .iter()
            .any(|waiver| waiver.what == what);
        if listed {
            self.used.insert(what.to_owned());
        }
        listed
    }

    /// What is wrong with the list itself.
    pub(super) fn findings(&self) -> Vec<String> {
        let count = self.content.waivers.len();
        let mut findings = Vec::new();
        if count != self.content.maximum {
            findings.push(format!(
                "{FILE}: {count} waivers, `maximum` says {}; it follows the list down and never goes up",
                self.content.maximum
            ));
        }
        for waiver in &self.content.waivers {
            if waiver.reason.trim().is_empty() {
                findings.push(format!("{FILE}: {} has no reason", waiver.what));
            }
            if !self.used.contains(&waiver.what) {
                findings.push(format!(
                    "{FILE}: {} needs no waiver any more; remove it and lower `maximum`",
                    waiver.what
                ));
            }
        }
        findings
    }
}
