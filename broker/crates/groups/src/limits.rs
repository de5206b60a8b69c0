//! What groups may take, and how long things may last.

use std::cell::Cell;
use std::rc::Rc;

/// Most members of a group, those who are about to join included. Kafka has no limit unless told (`group.max.size`).
pub const MEMBERS_MAX: usize = 5_000;
/// Most assignment protocols that a member may offer.
pub const PROTOCOLS_MAX: usize = 64;
/// Bytes that the members of a group may bring together: ids, protocols and their metadata.
pub const MEMBERS_BYTES_MAX: usize = 8 << 20;
/// Bytes of the assignments of a group.
pub const ASSIGNMENTS_BYTES_MAX: usize = 8 << 20;
/// Bytes of a batch in `__consumer_offsets`: the largest group, and what is around it.
pub const RECORD_BATCH_BYTES_MAX: usize = 20 << 20;
/// Bytes of text a commit may carry, as in Kafka (`offset.metadata.max.bytes`).
pub const COMMIT_METADATA_BYTES_MAX: usize = 4096;
/// Session time-outs a member may ask for, in ms, as in Kafka (`group.min.session.timeout.ms` and `max`).
pub const SESSION_MS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;
/// Longest a rebalance waits for a member, in ms, whatever it asks for: a day.
pub const REBALANCE_MS_MAX: i32 = 86_400_000;
/// How long a member that waits for its first rebalance may be silent, in ms, as in Kafka.
pub const NEWCOMER_MS: u64 = 300_000;
/// Shortest time for which a group waits in one go for static members that do not come, in ms, whatever time they ask for.
pub const STATIC_WAIT_MS_MIN: u64 = 1_000;
/// Ids of members that are about to join a group (KIP-394); clients come back with them at once.
pub const PENDING_OF_GROUP_MAX: usize = 1_000;
/// Those of all groups of a shard.
pub const PENDING_MAX: u64 = 20_000;
/// Bytes that such an id takes beside its text, about.
pub(crate) const PENDING_BYTES: usize = 256;
/// Bytes that a group takes beside its name and what its members brought, about.
pub(crate) const GROUP_BYTES: usize = 512;
/// Bytes of the name of a group. Kafka has no limit; each record of a group repeats it.
pub const GROUP_ID_BYTES_MAX: usize = 1_024;
/// Bytes of records that a request which commits offsets, or takes them back, may ask for: they are one batch.
pub const COMMIT_BYTES_MAX: usize = 8 << 20;
/// Groups that a shard looks after.
pub const GROUPS_MAX: u64 = 100_000;
/// The part of a shard's budget that records which wait to be written may take: one in so many bytes. Groups and offsets have the
/// rest, so that neither keeps the other out.
pub const WAITING_PART: u64 = 8;
/// Bytes of groups and offsets, and of what of them waits to be written, that a shard keeps in memory.
pub const BYTES_MAX: u64 = 512 << 20;
/// Commits that are looked at in one turn when old ones are searched for.
pub const SWEEP_AT_ONCE: usize = 5_000;
/// Timers that are looked at in one turn.
pub const TIMERS_AT_ONCE: usize = 1_000;
/// Bytes of records that are put into one batch when many are written at once (copies, expiry, deletion).
pub const WRITE_BYTES: usize = 256 << 10;

/// What an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long the first members of an empty group wait for others, in ms (`group.initial.rebalance.delay.ms`).
    pub initial_rebalance_delay_ms: u64,
    /// How long offsets are kept after their group became empty, in ms (`offsets.retention.minutes`).
    pub offsets_retention_ms: i64,
    /// How often that is looked at, in ms (`offsets.retention.check.interval.ms`).
    pub expiry_check_ms: u64,
}

impl Default for Settings {
    /// Kafka's defaults.
    fn default() -> Settings {
        Settings {
            initial_rebalance_delay_ms: 3_000,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            expiry_check_ms: 600_000,
        }
    }
}

/// What the groups of a shard use together. A cheap handle.
#[derive(Debug, Clone)]
pub struct Budget(Rc<Used>);

impl Default for Budget {
    fn default() -> Budget {
        Budget::of(BYTES_MAX)
    }
}

#[derive(Debug)]
struct Used {
    bytes_max: u64,
    groups: Cell<u64>,
    bytes: Cell<u64>,
    waiting: Cell<u64>,
    pending: Cell<u64>,
    refused: Cell<u64>,
}

impl Budget {
    /// Nothing is used yet.
    pub fn new() -> Budget {
        Budget::default()
    }

    /// Nothing of `bytes_max` bytes is used yet.
    pub fn of(bytes_max: u64) -> Budget {
        Budget(Rc::new(Used {
            bytes_max,
            groups: Cell::default(),
            bytes: Cell::default(),
            waiting: Cell::default(),
            pending: Cell::default(),
            refused: Cell::default(),
        }))
    }

    /// Groups there are.
    pub fn groups(&self) -> u64 {
        self.0.groups.get()
    }

    /// Bytes of groups and offsets.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.get()
    }

    /// How often something was refused because a limit was reached.
    pub fn refused_total(&self) -> u64 {
        self.0.refused.get()
    }

    /// Whether `bytes` more bytes and `groups` more groups fit; if not, that is counted. What takes no more always fits: a full
    /// budget stops nobody who is there.
    pub(crate) fn admits(&self, groups: u64, bytes: usize) -> bool {
        let groups_fit = groups == 0 || self.groups() + groups <= GROUPS_MAX;
        let bytes_max = self.0.bytes_max - self.waiting_max();
        let bytes_fit = bytes == 0 || self.bytes() + bytes as u64 <= bytes_max;
        let fits = groups_fit && bytes_fit;
        if !fits {
            self.count_refused();
        }
        fits
    }

    fn waiting_max(&self) -> u64 {
        self.0.bytes_max / WAITING_PART
    }

    /// Bytes of records that wait to be written, or are being written.
    pub fn waiting(&self) -> u64 {
        self.0.waiting.get()
    }

    /// Whether more may wait to be written than does already. Whoever is told so may bring one write, however large.
    pub fn admits_write(&self) -> bool {
        self.waiting() <= self.waiting_max()
    }

    /// Notes a change of what waits to be written, in bytes.
    pub fn change_waiting(&self, change: i64) {
        let waiting = &self.0.waiting;
        waiting.set(waiting.get().saturating_add_signed(change));
    }

    /// Whether one more may be about to join.
    pub(crate) fn admits_pending(&self) -> bool {
        self.0.pending.get() < PENDING_MAX
    }

    /// Notes a change of how many are about to join.
    pub(crate) fn change_pending(&self, change: i64) {
        let pending = &self.0.pending;
        pending.set(pending.get().saturating_add_signed(change));
    }

    /// Notes that something was refused because a limit was reached.
    pub(crate) fn count_refused(&self) {
        self.0.refused.set(self.0.refused.get() + 1);
    }

    /// Notes a change of what is used.
    pub(crate) fn change(&self, groups: i64, bytes: i64) {
        self.0
            .groups
            .set(self.0.groups.get().saturating_add_signed(groups));
        self.0
            .bytes
            .set(self.0.bytes.get().saturating_add_signed(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_to_be_written_and_what_is_kept_have_each_their_part_of_the_budget() {
        let budget = Budget::of(800);
        budget.change_waiting(100);
        assert!(budget.admits_write(), "one write more, however large");
        budget.change_waiting(1);
        assert!(!budget.admits_write());
        assert!(budget.admits(1, 700), "groups have their part");
        budget.change(0, 700);
        assert!(!budget.admits(0, 1));
        budget.change_waiting(-101);
        assert!(budget.admits_write());
        assert!(!budget.admits(0, 1), "what may wait is not for groups");
    }
}
