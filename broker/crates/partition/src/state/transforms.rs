//! Transforms at a partition: as an input (where each incarnation stands, which sequences it sent) and as an output
//! (which sequences arrived).

use std::collections::BTreeMap;

use tidemill_model::{Incarnation, Offset, PartitionId};

use super::PartitionState;

/// Transforms one input partition can have at a time, detached ones that are not retired included.
pub const ATTACHMENTS_MAX: usize = 4096;

/// Who sends deliveries: one life of a transform on one input partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SenderId {
    /// The life of the transform.
    pub incarnation: Incarnation,
    /// Its input.
    pub input: PartitionId,
}

/// Where a transform begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record there is.
    Earliest,
    /// After the last record there is when the attach is applied.
    Latest,
    /// At an offset, moved into what there is.
    Offset(Offset),
}

/// Where a transform stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) progress: Offset,
    pub(super) detached: bool,
    /// Last sequence given, by output partition.
    pub(super) sent: BTreeMap<PartitionId, u64>,
}

/// The place of an outcome's output in the order of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// Its sequence, from 1.
    pub sequence: u64,
    /// The sequence before it, 0 for none.
    pub previous: u64,
}

/// Why an attach is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// As many as allowed are attached.
    #[error("{ATTACHMENTS_MAX} transforms are attached to this partition already; delete some")]
    TooMany,
}

/// Why an outcome is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeRefused {
    /// It does not begin where the transform stands (rule X2).
    #[error("the transform stands at offset {stands_at}")]
    Stale {
        /// Where it stands.
        stands_at: Offset,
    },
    /// This life of the transform is not attached here.
    #[error("the transform is not attached to this partition")]
    NotAttached,
    /// Its range is empty or ends beyond what is committed.
    #[error("the outcome's range is empty or ends above the last stable offset")]
    Range,
}

/// Why a delivery is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// Deliveries between are missing (rule X4).
    #[error("delivery does not follow sequence {last}, the last one taken")]
    Gap {
        /// The last sequence taken.
        last: u64,
    },
}

impl PartitionState {
    /// Attaches a transform and fixes where it begins (rule X1). Repeated, or after a detach, it stays where it stands.
    /// Gives back where it stands.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(
        &mut self,
        incarnation: Incarnation,
        start: StartAt,
    ) -> Result<Offset, AttachError> {
        self.check_attach(incarnation)?;
        let progress = match start {
            StartAt::Earliest => self.log_start,
            StartAt::Latest => self.last_stable_offset(),
            StartAt::Offset(o) => o.clamp(self.log_start, self.last_stable_offset()),
        };
        let attachment = self
            .transforms
            .entry(incarnation)
            .or_insert_with(|| Attachment {
                progress,
                detached: false,
                sent: BTreeMap::new(),
            });
        attachment.detached = false;
        Ok(attachment.progress)
    }

    /// Whether [`PartitionState::attach`] would succeed.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn check_attach(&self, incarnation: Incarnation) -> Result<(), AttachError> {
        if self.transforms.len() >= ATTACHMENTS_MAX && !self.transforms.contains_key(&incarnation) {
            return Err(AttachError::TooMany);
        }
        Ok(())
    }

    /// Detaches a transform: its outcomes are refused from now on. What it sent stays known until it is retired (X7).
    pub fn detach(&mut self, incarnation: Incarnation) {
        if let Some(attachment) = self.transforms.get_mut(&incarnation) {
            attachment.detached = true;
        }
    }

    /// Where an attached transform stands.
    pub fn progress(&self, incarnation: Incarnation) -> Option<Offset> {
        let attachment = self.transforms.get(&incarnation)?;
        (!attachment.detached).then_some(attachment.progress)
    }

    /// The transforms that are attached, and where they stand.
    pub fn attached(&self) -> impl Iterator<Item = (Incarnation, Offset)> + '_ {
        let attached = self.transforms.iter().filter(|(_, a)| !a.detached);
        attached.map(|(i, a)| (*i, a.progress))
    }

    /// Whether an outcome over `[first, next)` would be taken.
    ///
    /// # Errors
    /// [`OutcomeRefused`].
    pub fn check_outcome(
        &self,
        incarnation: Incarnation,
        first: Offset,
        next: Offset,
    ) -> Result<(), OutcomeRefused> {
        let stands_at = self
            .progress(incarnation)
            .ok_or(OutcomeRefused::NotAttached)?;
        if first != stands_at {
            return Err(OutcomeRefused::Stale { stands_at });
        }
        if next <= first || next > self.last_stable_offset() {
            return Err(OutcomeRefused::Range);
        }
        Ok(())
    }

    /// Moves a transform to `next`, after [`PartitionState::check_outcome`].
    pub fn advance(&mut self, incarnation: Incarnation, next: Offset) {
        if let Some(attachment) = self.transforms.get_mut(&incarnation) {
            attachment.progress = next;
        }
    }

    /// Gives the next sequence of a transform for output partition `to`.
    pub fn next_outgoing(&mut self, incarnation: Incarnation, to: PartitionId) -> Option<Outgoing> {
        let last = self
            .transforms
            .get_mut(&incarnation)?
            .sent
            .entry(to)
            .or_insert(0);
        let previous = *last;
        *last += 1;
        Some(Outgoing {
            sequence: *last,
            previous,
        })
    }

    /// Decides about a delivery: `true` for the successor of the last one taken, `false` for a repetition.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn check_receive(
        &self,
        sender: SenderId,
        sequence: u64,
        previous: u64,
    ) -> Result<bool, ReceiveError> {
        let last = self.receivers.get(&sender).copied().unwrap_or(0);
        if sequence <= last {
            return Ok(false);
        }
        match previous == last {
            true => Ok(true),
            false => Err(ReceiveError::Gap { last }),
        }
    }

    /// Remembers a delivery as taken.
    pub fn received(&mut self, sender: SenderId, sequence: u64) {
        self.receivers.insert(sender, sequence);
    }

    /// The last sequence taken from a sender, 0 for none.
    pub fn last_received(&self, sender: SenderId) -> u64 {
        self.receivers.get(&sender).copied().unwrap_or(0)
    }

    /// Forgets everything about a life of a transform that is over (rule X7).
    pub fn retire(&mut self, incarnation: Incarnation) {
        self.transforms.remove(&incarnation);
        self.receivers
            .retain(|sender, _| sender.incarnation != incarnation);
    }
}
