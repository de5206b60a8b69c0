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
    /// How often it was moved by a seek.
    pub(super) moves: u32,
    pub(super) detached: bool,
    /// Last sequence given, by output partition.
    pub(super) sent: BTreeMap<PartitionId, u64>,
}

/// Where a transform stands, and since which seek.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The first offset that is not decided.
    pub position: Offset,
    /// How often it was moved by a seek: outcomes of before one are not taken after it, wherever they begin (rule X2).
    pub moves: u32,
}

/// Why a seek is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeekRefused {
    /// This life of the transform is not attached here.
    #[error("the transform is not attached to this partition")]
    NotAttached,
    /// It was moved since this was asked for.
    #[error("the transform was moved meanwhile, to offset {}", .0.position)]
    Moved(Standing),
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
                moves: 0,
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

    /// Where an attached transform stands, and since which seek.
    pub fn standing(&self, incarnation: Incarnation) -> Option<Standing> {
        let attachment = self.transforms.get(&incarnation)?;
        (!attachment.detached).then_some(Standing {
            position: attachment.progress,
            moves: attachment.moves,
        })
    }

    /// Whether a transform that was moved `moves` times can be moved.
    ///
    /// # Errors
    /// [`SeekRefused`].
    pub fn check_seek(&self, incarnation: Incarnation, moves: u32) -> Result<(), SeekRefused> {
        let standing = self.standing(incarnation).ok_or(SeekRefused::NotAttached)?;
        match standing.moves == moves {
            true => Ok(()),
            false => Err(SeekRefused::Moved(standing)),
        }
    }

    /// Moves a transform to `to`, at most to the ends of what there is, after [`PartitionState::check_seek`]. Outcomes proposed before are refused from now on. Gives
    /// back where it stands.
    pub fn seek(&mut self, incarnation: Incarnation, to: Offset) -> Option<Offset> {
        let position = to.clamp(self.log_start, self.last_stable_offset());
        let attachment = self.transforms.get_mut(&incarnation)?;
        attachment.progress = position;
        attachment.moves += 1;
        Some(position)
    }

    /// The transforms that are attached, and where they stand.
    pub fn attached(&self) -> impl Iterator<Item = (Incarnation, Offset)> + '_ {
        let attached = self.transforms.iter().filter(|(_, a)| !a.detached);
        attached.map(|(i, a)| (*i, a.progress))
    }

    /// Whether an outcome over `[from.position, next)`, made since the seek that `from` says, would be taken.
    ///
    /// # Errors
    /// [`OutcomeRefused`].
    pub fn check_outcome(
        &self,
        incarnation: Incarnation,
        from: Standing,
        next: Offset,
    ) -> Result<(), OutcomeRefused> {
        let standing = self
            .standing(incarnation)
            .ok_or(OutcomeRefused::NotAttached)?;
        let (first, stands_at) = (from.position, standing.position);
        if from != standing {
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

    /// Forgets which sequences were sent to an output that is gone for good.
    pub fn forget_output(&mut self, to: PartitionId) {
        for attachment in self.transforms.values_mut() {
            attachment.sent.remove(&to);
        }
    }

    /// Forgets everything about a life of a transform that is over (rule X7).
    pub fn retire(&mut self, incarnation: Incarnation) {
        self.transforms.remove(&incarnation);
        self.receivers
            .retain(|sender, _| sender.incarnation != incarnation);
    }
}
