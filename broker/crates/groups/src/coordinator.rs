//! All groups of one partition of `__consumer_offsets`.

mod admin;
mod offsets;
mod sweep;
mod under_way;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_model::Offset;

use crate::codec::{self, CodecError, Key};
use crate::copy::Copy;
use crate::error::GroupError;
use crate::group::{Context, Group, State};
use crate::limits::{
    Budget, GROUP_BYTES, GROUP_ID_BYTES_MAX, PROTOCOLS_MAX, REBALANCE_MS_MAX, SESSION_MS, Settings,
    TIMERS_AT_ONCE,
};
use crate::request::{Effect, Join, NotJoined, Now, Sync, Then, Ticket, Who, Write};
use crate::store::{Record, Store};
use crate::timers::{Timer, Timers};

pub use admin::{Described, DescribedMember, Listed};
pub use offsets::{Each, NewCommit};
pub use sweep::Swept;

use under_way::UnderWay;

/// What happened, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rebalances begun.
    pub rebalances: u64,
    /// Offsets committed.
    pub commits: u64,
    /// Offsets that expired, or whose topic is gone.
    pub expired: u64,
}

/// Looks after the groups of one partition. Lives on the shard of that partition.
#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    budget: Budget,
    store: Store,
    /// What of the store is charged to the budget.
    charged: usize,
    groups: BTreeMap<Arc<str>, Group>,
    timers: Timers,
    under_way: UnderWay,
    counts: Counts,
    /// The group after which searching for old commits goes on.
    swept_to: Option<Arc<str>>,
}

/// What was due.
#[derive(Debug, Default)]
pub struct Fired {
    /// What is to be done.
    pub effects: Vec<Effect>,
    /// Whether it is time to search for old commits: [`Coordinator::sweep`].
    pub sweep: bool,
}

impl Coordinator {
    /// A coordinator that knows nothing yet: [`Coordinator::load`] comes first, then [`Coordinator::loaded`].
    pub fn new(settings: Settings, budget: Budget) -> Coordinator {
        Coordinator {
            settings,
            budget,
            store: Store::new(),
            charged: 0,
            groups: BTreeMap::new(),
            timers: Timers::default(),
            under_way: UnderWay::default(),
            counts: Counts::default(),
            swept_to: None,
        }
    }

    /// Takes in a record of the log, in its order.
    ///
    /// # Errors
    /// [`CodecError`] for a record that cannot be read; it changes nothing.
    pub fn load(&mut self, record: &Record, offset: Offset) -> Result<(), CodecError> {
        let applied = self.store.apply(record, offset);
        self.recharge();
        applied
    }

    /// The log has been read to its end: groups come to life as their records say.
    pub fn loaded(&mut self, now: Now) -> Vec<Effect> {
        let stored: Vec<_> = self.store.groups.keys().cloned().collect();
        let mut effects = Vec::new();
        for id in stored {
            self.revive(id, now, &mut effects);
        }
        self.timers
            .set(Timer::Expiry, now.mono_ms + self.settings.expiry_check_ms);
        effects
    }

    /// Makes a group of what is stored of it.
    fn revive(&mut self, id: Arc<str>, now: Now, effects: &mut Vec<Effect>) {
        let stored = self.store.groups.get(&id).and_then(|s| s.record.as_ref());
        let record = stored.and_then(|at| codec::decode_group(&at.value).ok());
        let (mut ctx, groups) = self.context(now, effects);
        let group = match record {
            Some(record) => Group::load(id.clone(), record, &mut ctx),
            None => {
                let mut group = Group::new(id.clone(), now);
                group.recharge(&ctx);
                group
            }
        };
        groups.insert(id, group);
        self.budget.change(1, 0);
    }

    fn context<'a>(
        &'a mut self,
        now: Now,
        effects: &'a mut Vec<Effect>,
    ) -> (Context<'a>, &'a mut BTreeMap<Arc<str>, Group>) {
        let context = Context {
            now,
            settings: self.settings,
            timers: &mut self.timers,
            effects,
            budget: &self.budget,
            rebalances: &mut self.counts.rebalances,
        };
        (context, &mut self.groups)
    }

    /// Does something with a group, if it is there; `None` if it is not.
    fn with<T>(
        &mut self,
        id: &str,
        now: Now,
        effects: &mut Vec<Effect>,
        f: impl FnOnce(&mut Group, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let before = effects.len();
        let (mut ctx, groups) = self.context(now, effects);
        let group = groups.get_mut(id)?;
        let done = f(group, &mut ctx);
        group.recharge(&ctx);
        self.launch_all(&effects[before..]);
        Some(done)
    }

    fn recharge(&mut self) {
        let bytes = self.store.bytes();
        self.budget.change(0, bytes as i64 - self.charged as i64);
        self.charged = bytes;
    }

    // ---- members

    /// A member wants to join; `ticket` is answered now or later.
    pub fn join(&mut self, mut join: Join, ticket: Ticket, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Err(error) = self.check_join(&join) {
            let member = join.member.clone();
            return vec![Effect::Join(ticket, Err(NotJoined { error, member }))];
        }
        join.rebalance_ms = join.rebalance_ms.min(REBALANCE_MS_MAX);
        let id = join.group.clone();
        if !self.groups.contains_key(&id) {
            self.groups.insert(id.clone(), Group::new(id.clone(), now));
            self.budget.change(1, 0);
        }
        self.with(&id, now, &mut effects, |group, ctx| {
            group.join(&join, ticket, ctx)
        });
        self.drop_if_void(&id);
        effects
    }

    fn check_join(&self, join: &Join) -> Result<(), GroupError> {
        if !is_group_id(&join.group) {
            return Err(GroupError::InvalidGroupId);
        }
        if !SESSION_MS.contains(&join.session_ms) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        let protocols = join.protocols.len();
        if join.protocol_type.is_empty() || !(1..=PROTOCOLS_MAX).contains(&protocols) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        if self.groups.contains_key(&join.group) {
            return Ok(());
        }
        if !join.member.is_empty() {
            return Err(GroupError::UnknownMemberId);
        }
        match self.budget.admits(1, GROUP_BYTES + join.group.len()) {
            true => Ok(()),
            false => Err(GroupError::NoRoom),
        }
    }

    /// A member asks for its assignment; `ticket` is answered now or later.
    pub fn sync(&mut self, sync: Sync, ticket: Ticket, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let id = sync.group.clone();
        let known = self.with(&id, now, &mut effects, |group, ctx| {
            group.sync(sync, ticket, ctx)
        });
        if known.is_none() {
            effects.push(Effect::Sync(ticket, Err(unknown(&id))));
        }
        effects
    }

    /// A member says that it is there.
    ///
    /// # Errors
    /// What the member has to do.
    pub fn heartbeat(
        &mut self,
        group: &str,
        who: &Who,
        generation: i32,
        now: Now,
    ) -> Result<(), GroupError> {
        let mut effects = Vec::new();
        let beat = self.with(group, now, &mut effects, |g, ctx| {
            g.heartbeat(who, generation, ctx)
        });
        debug_assert!(effects.is_empty(), "a heartbeat changes nothing");
        beat.unwrap_or_else(|| Err(unknown(group)))
    }

    /// Members leave; what became of each, in order.
    ///
    /// # Errors
    /// [`GroupError::InvalidGroupId`], for all of them.
    #[allow(clippy::type_complexity, reason = "read once, where it is made")]
    pub fn leave(
        &mut self,
        group: &str,
        members: &[Who],
        now: Now,
    ) -> Result<(Vec<Result<(), GroupError>>, Vec<Effect>), GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let mut effects = Vec::new();
        let each = |group: &mut Group, ctx: &mut Context<'_>| {
            let leave = |who| group.leave(who, ctx).map(drop);
            members.iter().map(leave).collect::<Vec<_>>()
        };
        let left = self.with(group, now, &mut effects, each);
        self.drop_if_void(group);
        let nobody = || {
            members
                .iter()
                .map(|_| Err(GroupError::UnknownMemberId))
                .collect()
        };
        Ok((left.unwrap_or_else(nobody), effects))
    }

    // ---- writes

    /// Notes what is about to be written.
    fn launch_all(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Write(write) = effect {
                self.launch(&write.records);
            }
        }
    }

    fn launch(&mut self, records: &[Record]) {
        records.iter().for_each(|r| self.under_way.begin(&r.key));
    }

    /// What became of a write: `first` is the offset of its first record, or nothing if it failed. Called for every
    /// write, in the order in which they were queued.
    pub fn written(&mut self, write: Write, first: Option<Offset>, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (i, record) in write.records.iter().enumerate() {
            let (Key::Offset { group, .. } | Key::Group { group }) = &record.key;
            if let Some(first) = first {
                self.apply(record, first + i as Offset);
                let commit = matches!(record.key, Key::Offset { .. }) && record.value.is_some();
                self.counts.commits += u64::from(commit && write.then != Then::Copied);
                if record.value.is_some() && !self.groups.contains_key(group.as_str()) {
                    self.revive(group.as_str().into(), now, &mut effects);
                }
            }
            self.under_way.end(&record.key);
        }
        self.recharge();
        self.follow(write.then, first.is_some(), now, &mut effects);
        effects
    }

    fn apply(&mut self, record: &Record, offset: Offset) {
        let applied = self.store.apply(record, offset);
        debug_assert!(applied.is_ok(), "what was encoded here can be read");
    }

    fn follow(&mut self, then: Then, ok: bool, now: Now, effects: &mut Vec<Effect>) {
        match then {
            Then::Nothing | Then::Copied => {}
            Then::Removed(groups) => groups
                .into_iter()
                .for_each(|id| self.removed(&id, now, effects)),
            Then::Assignments {
                group,
                generation,
                assignments,
            } => {
                self.with(&group, now, effects, |g, ctx| {
                    g.assignments_written(generation, assignments, ok, ctx);
                });
            }
            Then::Returned {
                group,
                generation,
                member,
                joined,
            } => {
                debug_assert_eq!(generation, joined.generation);
                self.with(&group, now, effects, |g, ctx| {
                    g.returned_written(&member, *joined, ok, ctx)
                });
            }
        }
    }

    /// A group's tombstones were written, or not: what is still stored of it lives on.
    fn removed(&mut self, id: &Arc<str>, now: Now, effects: &mut Vec<Effect>) {
        self.forget(id);
        if self.store.groups.contains_key(id) {
            self.revive(id.clone(), now, effects);
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(mut group) = self.groups.remove(id) {
            group.discharge(&self.budget);
            self.budget.change(-1, 0);
        }
    }

    /// A group of which nothing is stored and in which nobody is was never there.
    fn drop_if_void(&mut self, id: &str) {
        let void = self.groups.get(id).is_some_and(Group::is_vacant);
        if void && !self.store.groups.contains_key(id) && !self.under_way.concerns(id) {
            self.forget(id);
        }
    }

    /// The next piece of a copy, and whether it is the last. Only while no append is under way: see [`crate::copy`].
    pub fn copy_piece(&mut self, copy: &mut Copy, bytes_max: usize) -> (Write, bool) {
        let piece = copy.next(&self.store, bytes_max);
        self.launch(&piece.records);
        let write = Write {
            records: piece.records,
            then: Then::Copied,
        };
        (write, piece.last)
    }

    // ---- time

    /// When something is due next, in ms of [`Now::mono_ms`].
    pub fn next_due(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Does what is due, or some of it: as long as [`Coordinator::next_due`] is not in the future there is more.
    pub fn fire(&mut self, now: Now) -> Fired {
        let mut fired = Fired::default();
        for _ in 0..TIMERS_AT_ONCE {
            let Some(timer) = self.timers.pop(now.mono_ms) else {
                break;
            };
            let effects = &mut fired.effects;
            match timer {
                Timer::Expiry => fired.sweep = true,
                Timer::Rebalance(id) => {
                    self.with(&id, now, effects, |g, ctx| g.rebalance_due(ctx));
                }
                Timer::Sync(id) => {
                    self.with(&id, now, effects, |g, ctx| g.sync_due(ctx));
                }
                Timer::Session(id, member) => {
                    self.with(&id, now, effects, |g, ctx| g.silent(&member, ctx));
                    self.drop_if_void(&id);
                }
            }
        }
        fired
    }

    /// The coordinator goes: whoever waits is told to look for the next one.
    pub fn resign(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let ids: Vec<_> = self.groups.keys().cloned().collect();
        for id in ids {
            self.with(&id, now, &mut effects, |g, ctx| {
                g.dissolve(GroupError::NotCoordinator, ctx)
            });
        }
        effects
    }

    // ---- looking

    /// The lasting state.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Members of all groups.
    pub fn members(&self) -> usize {
        self.groups.values().map(|g| g.members().count()).sum()
    }

    /// Groups by state, for the metrics.
    pub fn groups_by_state(&self) -> BTreeMap<State, usize> {
        let mut states = BTreeMap::new();
        for group in self.groups.values() {
            *states.entry(group.state()).or_default() += 1;
        }
        states
    }

    /// Timers that are set.
    pub fn timers(&self) -> usize {
        self.timers.len()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let ids: Vec<_> = self.groups.keys().cloned().collect();
        ids.iter().for_each(|id| self.forget(id));
        self.budget.change(0, -(self.charged as i64));
    }
}

/// Whether a group may have this name.
fn is_group_id(id: &str) -> bool {
    (1..=GROUP_ID_BYTES_MAX).contains(&id.len())
}

/// What whoever speaks of a group that is not there is told.
fn unknown(group: &str) -> GroupError {
    match group.is_empty() {
        true => GroupError::InvalidGroupId,
        false => GroupError::UnknownMemberId,
    }
}
