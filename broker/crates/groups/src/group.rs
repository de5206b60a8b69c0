//! One group: its members, its generation, its state. The rules are those of Kafka's classic groups.

mod join;
mod member;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::GroupError;
use crate::limits::{Budget, GROUP_BYTES, MEMBERS_MAX, Settings};
use crate::request::{Effect, JoinedMember, NotJoined, Now, Ticket, Who};
use crate::store::{GroupRecord, MemberRecord};
use crate::timers::{Timer, Timers};

pub(crate) use member::Member;

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has no members; it may have offsets.
    Empty,
    /// Members are joining.
    PreparingRebalance,
    /// All have joined; the leader's assignments are awaited.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
    /// It is gone.
    Dead,
}

impl State {
    /// Kafka's name for it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
            State::Dead => "Dead",
        }
    }
}

/// What a group acts with: the time, its timers, where it puts what is to be done.
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) settings: Settings,
    pub(crate) timers: &'a mut Timers,
    pub(crate) effects: &'a mut Vec<Effect>,
    pub(crate) budget: &'a Budget,
    pub(crate) rebalances: &'a mut u64,
}

/// Waiting for members in [`State::PreparingRebalance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// The first members of an empty group wait for others: until nobody new comes for a while, or `left_ms` are over.
    First { left_ms: u64, newcomers: bool },
    /// Until everybody has joined, or the longest of their rebalance time-outs is over.
    All,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    id: Arc<str>,
    state: State,
    /// Since when, in ms since the Unix epoch.
    since_ms: i64,
    generation: i32,
    /// The last generation whose assignments were written: somebody may have been told of them.
    assigned: Option<i32>,
    /// The generation whose assignments are being written: what its leader says again changes nothing.
    assigning: Option<i32>,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    /// Member ids by instance (KIP-345).
    instances: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were given and are to come back (KIP-394).
    pending: BTreeSet<Arc<str>>,
    /// How many members offer a protocol.
    offered: BTreeMap<Arc<str>, usize>,
    waiting: Waiting,
    /// Members whose JoinGroup waits for an answer.
    joining: usize,
    next_seq: u64,
    /// Bytes that it takes, with what its members brought.
    bytes: usize,
    /// What of it is charged to the budget.
    charged: usize,
}

impl Group {
    /// A group without members.
    pub(crate) fn new(id: Arc<str>, now: Now) -> Group {
        let bytes = GROUP_BYTES + id.len();
        Group {
            id,
            state: State::Empty,
            since_ms: now.unix_ms,
            generation: 0,
            assigned: None,
            assigning: None,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeSet::new(),
            offered: BTreeMap::new(),
            waiting: Waiting::All,
            joining: 0,
            next_seq: 0,
            bytes,
            charged: 0,
        }
    }

    /// A group as its record says. Its members have their whole session to be heard of.
    pub(crate) fn load(id: Arc<str>, record: GroupRecord, ctx: &mut Context<'_>) -> Group {
        let mut group = Group::new(id, ctx.now);
        group.generation = record.generation;
        group.protocol_type = Some(record.protocol_type)
            .filter(|t| !t.is_empty())
            .map(Arc::from);
        group.protocol = record.protocol.map(Arc::from);
        group.leader = record.leader.map(Arc::from);
        if record.since_ms >= 0 {
            group.since_ms = record.since_ms;
        }
        if !record.members.is_empty() {
            group.state = State::Stable;
            group.assigned = Some(group.generation);
        }
        for member in record.members {
            let id: Arc<str> = member.id.as_str().into();
            // No record of ours names a member twice; who writes such a one gets one member of it.
            if group.members.contains_key(&id) {
                continue;
            }
            let mut member = Member::load(member, group.protocol.clone());
            // Whatever of its assignments it has heard, nobody has others of this generation or later ones.
            member.assigned = group.assigned;
            group.insert(id.clone(), member);
            group.heard_of(&id, ctx);
        }
        group.recharge(ctx);
        group
    }

    /// What is written of it.
    pub(crate) fn record(&self, assignments: Option<&[(Arc<str>, Bytes)]>) -> GroupRecord {
        let assigned: Option<BTreeMap<&str, &Bytes>> =
            assignments.map(|all| all.iter().map(|(id, bytes)| (&**id, bytes)).collect());
        let member = |(id, m): (&Arc<str>, &Member)| MemberRecord {
            id: id.to_string(),
            instance: m.instance.as_deref().map(str::to_owned),
            client_id: m.client_id.to_string(),
            client_host: m.client_host.to_string(),
            rebalance_ms: m.rebalance_ms,
            session_ms: m.session_ms,
            subscription: m.metadata(self.protocol.as_deref()),
            assignment: match &assigned {
                Some(all) => all.get(&**id).copied().cloned().unwrap_or_default(),
                None => m.assignment.clone(),
            },
        };
        GroupRecord {
            protocol_type: self.protocol_type.as_deref().unwrap_or_default().to_owned(),
            generation: self.generation,
            protocol: self.protocol.as_deref().map(str::to_owned),
            leader: self.leader.as_deref().map(str::to_owned),
            since_ms: self.since_ms,
            members: self.members.iter().map(member).collect(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn since_ms(&self) -> i64 {
        self.since_ms
    }

    pub(crate) fn protocol_type(&self) -> Option<&Arc<str>> {
        self.protocol_type.as_ref()
    }

    pub(crate) fn protocol(&self) -> Option<&Arc<str>> {
        self.protocol.as_ref()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&Arc<str>, &Member)> {
        self.members.iter()
    }

    /// Whether nobody is in it or about to be.
    pub(crate) fn is_vacant(&self) -> bool {
        self.state == State::Empty && self.members.is_empty() && self.pending.is_empty()
    }

    fn enter(&mut self, state: State, ctx: &Context<'_>) {
        self.state = state;
        self.since_ms = ctx.now.unix_ms;
    }

    /// Tells the budget what it takes now.
    pub(crate) fn recharge(&mut self, ctx: &Context<'_>) {
        ctx.budget
            .change(0, self.bytes as i64 - self.charged as i64);
        self.charged = self.bytes;
    }

    /// Gives back what it takes.
    pub(crate) fn discharge(&mut self, budget: &Budget) {
        budget.change(0, -(self.charged as i64));
        budget.change_pending(-(self.pending.len() as i64));
        self.pending.clear();
        self.charged = 0;
    }

    // ---- members

    fn insert(&mut self, id: Arc<str>, mut member: Member) {
        member.seq = self.next_seq;
        self.next_seq += 1;
        self.bytes += member.bytes(&id);
        self.count_offers(&member, 1);
        self.joining += usize::from(member.joining.is_some());
        if let Some(instance) = &member.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(id.clone());
        }
        let replaced = self.members.insert(id, member);
        debug_assert!(replaced.is_none(), "an id is given once");
    }

    fn count_offers(&mut self, member: &Member, change: isize) {
        let names: BTreeSet<&Arc<str>> = member.protocols.iter().map(|p| &p.name).collect();
        for name in names {
            let count = self.offered.entry(name.clone()).or_default();
            *count = count.saturating_add_signed(change);
            if *count == 0 {
                self.offered.remove(name);
            }
        }
    }

    /// Takes a member out; what it waits for is answered with `error`.
    fn take_out(
        &mut self,
        id: &str,
        error: GroupError,
        ctx: &mut Context<'_>,
    ) -> Option<(Arc<str>, Member)> {
        let (id, mut member) = self.members.remove_entry(id)?;
        self.answer_join(&id, &mut member, Err(error), ctx);
        if let Some(ticket) = member.syncing.take() {
            ctx.effects.push(Effect::Sync(ticket, Err(error)));
        }
        self.bytes -= member.bytes(&id);
        self.count_offers(&member, -1);
        ctx.timers
            .clear(&Timer::Session(self.id.clone(), id.clone()));
        if let Some(instance) = &member.instance
            && self.instances.get(instance) == Some(&id)
        {
            self.instances.remove(instance);
        }
        if self.leader.as_ref() == Some(&id) {
            self.leader = self.eldest(|_| true);
        }
        Some((id, member))
    }

    /// Before many members go: otherwise each that leads would be followed by the next that goes.
    fn forget_leader_among(&mut self, leaving: &[Arc<str>]) {
        if self
            .leader
            .as_ref()
            .is_some_and(|leader| leaving.contains(leader))
        {
            self.leader = None;
        }
    }

    /// The member that has been here longest among those for which `fits`.
    fn eldest(&self, fits: impl Fn(&Member) -> bool) -> Option<Arc<str>> {
        let fitting = self.members.iter().filter(|(_, m)| fits(m));
        fitting.min_by_key(|(_, m)| m.seq).map(|(id, _)| id.clone())
    }

    fn answer_join(
        &mut self,
        id: &Arc<str>,
        member: &mut Member,
        answer: Result<crate::request::Joined, GroupError>,
        ctx: &mut Context<'_>,
    ) {
        if let Some(ticket) = member.joining.take() {
            self.joining -= 1;
            let answer = answer.map_err(|error| NotJoined {
                error,
                member: id.clone(),
            });
            ctx.effects.push(Effect::Join(ticket, answer));
        }
    }

    /// Makes the JoinGroup `ticket` of a member wait; one that waited already is told to come again.
    fn await_join(&mut self, id: &Arc<str>, ticket: Ticket, ctx: &mut Context<'_>) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        match member.joining.replace(ticket) {
            None => self.joining += 1,
            Some(before) => {
                let error = GroupError::RebalanceInProgress;
                let answer = Err(NotJoined {
                    error,
                    member: id.clone(),
                });
                ctx.effects.push(Effect::Join(before, answer));
            }
        }
    }

    /// A member's session begins anew.
    pub(crate) fn heard_of(&self, id: &Arc<str>, ctx: &mut Context<'_>) {
        if let Some(member) = self.members.get(id) {
            let at = ctx.now.mono_ms + member.session_ms.max(0) as u64;
            ctx.timers
                .set(Timer::Session(self.id.clone(), id.clone()), at);
        }
    }

    /// Finds a member that says who it is: the checks of KIP-345.
    ///
    /// # Errors
    /// [`GroupError::FencedInstanceId`], [`GroupError::UnknownMemberId`].
    pub(crate) fn find(&self, who: &Who) -> Result<Arc<str>, GroupError> {
        if let Some(instance) = &who.instance {
            return match self.instances.get(instance) {
                None => Err(GroupError::UnknownMemberId),
                Some(id) if *id != who.member => Err(GroupError::FencedInstanceId),
                Some(id) => Ok(id.clone()),
            };
        }
        let found = self.members.get_key_value(&who.member);
        found
            .map(|(id, _)| id.clone())
            .ok_or(GroupError::UnknownMemberId)
    }

    fn has_room(&self) -> bool {
        self.members.len() + self.pending.len() < MEMBERS_MAX
    }

    /// All members as their leader is told of them.
    fn all_members(&self) -> Vec<JoinedMember> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(_, m)| m.seq);
        let joined = |(id, m): (&Arc<str>, &Member)| JoinedMember {
            id: id.clone(),
            instance: m.instance.clone(),
            metadata: m.metadata(self.protocol.as_deref()),
        };
        members.into_iter().map(joined).collect()
    }

    // ---- heartbeats, leaving, silence

    /// A member says that it is there.
    pub(crate) fn heartbeat(
        &mut self,
        who: &Who,
        generation: i32,
        ctx: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let id = self.find(who)?;
        if generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        self.heard_of(&id, ctx);
        match self.state {
            State::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// A member leaves; a static one may be named by its instance alone. Returns who left.
    pub(crate) fn leave(&mut self, who: &Who, ctx: &mut Context<'_>) -> Result<Who, GroupError> {
        if self.remove_pending(&who.member, ctx) {
            ctx.timers
                .clear(&Timer::Session(self.id.clone(), who.member.clone()));
            self.complete_join_if_all(ctx);
            return Ok(who.clone());
        }
        let id = match &who.instance {
            Some(instance) if who.member.is_empty() => {
                let found = self.instances.get(instance).cloned();
                found.ok_or(GroupError::UnknownMemberId)?
            }
            _ => self.find(who)?,
        };
        self.drop_member(&id, ctx);
        Ok(Who {
            member: id,
            instance: who.instance.clone(),
        })
    }

    fn drop_member(&mut self, id: &str, ctx: &mut Context<'_>) {
        if self
            .take_out(id, GroupError::UnknownMemberId, ctx)
            .is_none()
        {
            return;
        }
        match self.state {
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(ctx),
            State::PreparingRebalance => self.complete_join_if_all(ctx),
            State::Empty | State::Dead => {}
        }
    }

    /// A member's time is over, unless it waits for an answer.
    pub(crate) fn silent(&mut self, id: &Arc<str>, ctx: &mut Context<'_>) {
        if self.remove_pending(id, ctx) {
            return self.complete_join_if_all(ctx);
        }
        let waits = |m: &Member| !m.is_new && m.joining.is_some() || m.syncing.is_some();
        match self.members.get(id).map(waits) {
            Some(true) => self.heard_of(id, ctx),
            Some(false) => self.drop_member(id, ctx),
            None => {}
        }
    }

    /// Answers everybody who waits and forgets all members: the group is deleted, or its coordinator goes.
    pub(crate) fn dissolve(&mut self, error: GroupError, ctx: &mut Context<'_>) {
        let ids: Vec<_> = self.members.keys().cloned().collect();
        self.forget_leader_among(&ids);
        for id in ids {
            self.take_out(&id, error, ctx);
        }
        for id in self.pending.clone() {
            self.remove_pending(&id, ctx);
            ctx.timers.clear(&Timer::Session(self.id.clone(), id));
        }
        ctx.timers.clear(&Timer::Rebalance(self.id.clone()));
        ctx.timers.clear(&Timer::Sync(self.id.clone()));
        self.enter(State::Dead, ctx);
    }

    // ---- commits

    /// Whether a commit may be made by whoever says so.
    pub(crate) fn may_commit(
        &self,
        who: &Who,
        generation: i32,
        ctx: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation < 0 && who.member.is_empty() && who.instance.is_none() {
            // Somebody from outside, while members are at work.
            return Err(GroupError::UnknownMemberId);
        }
        let id = self.find(who)?;
        if !self.owns_still(&id, generation) {
            if generation != self.generation {
                return Err(GroupError::IllegalGeneration);
            }
            if self.state == State::CompletingRebalance {
                return Err(GroupError::RebalanceInProgress);
            }
        }
        self.heard_of(&id, ctx);
        Ok(())
    }

    /// Whether a member that speaks of `generation` has an assignment, and nobody a later one: what it commits is its own.
    ///
    /// Kafka takes commits of the current generation alone, and none between JoinGroup and SyncGroup. But a cooperative consumer
    /// reads on while it joins: its commit may carry the generation before, for it learns of the new one with the answer to
    /// JoinGroup, or the new one, for which it has no assignment yet; and its application does not expect it to fail. Until the
    /// leader's assignments are written nobody else can have been given its partitions. Whoever is given them commits later in
    /// the log, and so overrides what this one has committed. Once they are written this one may have lost them: from then on
    /// its commit would override the new owner's, so that records are passed over.
    fn owns_still(&self, id: &Arc<str>, generation: i32) -> bool {
        let assigned = self.members.get(id).and_then(|m| m.assigned);
        assigned == self.assigned
            && assigned.is_some_and(|from| (from..=self.generation).contains(&generation))
    }
}
