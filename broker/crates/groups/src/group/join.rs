//! Joining: new members, those who come again, static ones that were replaced; and the rebalances they begin.

use std::sync::Arc;

use super::member::joining_bytes;
use super::{Context, Group, Member, State, Waiting};
use crate::codec;
use crate::error::GroupError;
use crate::limits::{
    MEMBERS_BYTES_MAX, NEWCOMER_MS, PENDING_BYTES, PENDING_OF_GROUP_MAX, STATIC_WAIT_MS_MIN,
};
use crate::request::{Effect, Join, Joined, NotJoined, Protocol, Then, Ticket, Who, Write};
use crate::store::Record;
use crate::timers::Timer;

impl Group {
    /// A member wants to join. It is answered at once or later, through the effects.
    pub(crate) fn join(&mut self, join: &Join, ticket: Ticket, ctx: &mut Context<'_>) {
        let result = match join.member.is_empty() {
            true => self.join_new(join, ticket, ctx),
            false => self.join_again(join, ticket, ctx),
        };
        if let Err((error, member)) = result {
            ctx.effects
                .push(Effect::Join(ticket, Err(NotJoined { error, member })));
        }
        self.complete_join_if_all(ctx);
        self.recharge(ctx);
    }

    fn join_new(
        &mut self,
        join: &Join,
        ticket: Ticket,
        ctx: &mut Context<'_>,
    ) -> Result<(), (GroupError, Arc<str>)> {
        let nobody = |error| (error, Arc::from(""));
        self.admit(join, ctx).map_err(nobody)?;
        let id = join.fresh_member.clone();
        if let Some(instance) = &join.instance {
            if let Some(old) = self.instances.get(instance).cloned() {
                return self.replace_static(&old, join, ticket, ctx).map_err(nobody);
            }
        } else if join.client.return_with_id {
            if !self.has_room() {
                ctx.budget.count_refused();
                return Err(nobody(GroupError::GroupMaxSizeReached));
            }
            // Whoever comes later finds room: those who come back at once hold none for long.
            if self.pending.len() >= PENDING_OF_GROUP_MAX || !ctx.budget.admits_pending() {
                ctx.budget.count_refused();
                return Err(nobody(GroupError::CoordinatorNotAvailable));
            }
            self.add_pending(id.clone(), ctx);
            let at = ctx.now.mono_ms + join.session_ms.max(0) as u64;
            ctx.timers
                .set(Timer::Session(self.id.clone(), id.clone()), at);
            return Err((GroupError::MemberIdRequired, id));
        }
        self.add_member(id, join, ticket, ctx).map_err(nobody)
    }

    fn join_again(
        &mut self,
        join: &Join,
        ticket: Ticket,
        ctx: &mut Context<'_>,
    ) -> Result<(), (GroupError, Arc<str>)> {
        let known = |error| (error, join.member.clone());
        self.admit(join, ctx).map_err(known)?;
        if join.instance.is_none() && self.remove_pending(&join.member, ctx) {
            return self
                .add_member(join.member.clone(), join, ticket, ctx)
                .map_err(known);
        }
        let who = Who {
            member: join.member.clone(),
            instance: join.instance.clone(),
        };
        let id = self.find(&who).map_err(known)?;
        let same = self
            .members
            .get(&id)
            .is_some_and(|m| m.offers(&join.protocols));
        match self.state {
            State::PreparingRebalance => self.rejoin(&id, join, ticket, ctx),
            State::CompletingRebalance if same => self.tell_again(&id, ticket, ctx),
            // A leader that joins again wants to assign anew; a follower only if it has something new to say.
            State::Stable if same && self.leader.as_ref() != Some(&id) => {
                self.tell_again(&id, ticket, ctx)
            }
            State::CompletingRebalance | State::Stable => self.rejoin(&id, join, ticket, ctx),
            State::Empty | State::Dead => Err(GroupError::UnknownMemberId),
        }
        .map_err(known)
    }

    fn add_pending(&mut self, id: Arc<str>, ctx: &mut Context<'_>) {
        self.bytes += PENDING_BYTES + id.len();
        ctx.budget.change_pending(1);
        self.pending.insert(id);
    }

    /// Takes an id out that was given; whether it was.
    pub(super) fn remove_pending(&mut self, id: &str, ctx: &mut Context<'_>) -> bool {
        let there = self.pending.remove(id);
        if there {
            self.bytes -= PENDING_BYTES + id.len();
            ctx.budget.change_pending(-1);
        }
        there
    }

    /// Whether a member that offers this may be here at all.
    fn admit(&self, join: &Join, ctx: &Context<'_>) -> Result<(), GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let fits = match self.members.is_empty() {
            true => true,
            false => {
                self.protocol_type.as_ref() == Some(&join.protocol_type)
                    && join
                        .protocols
                        .iter()
                        .any(|p| self.offered.get(&p.name) == Some(&self.members.len()))
            }
        };
        if !fits {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        let there = self
            .members
            .get(&join.member)
            .map_or(0, |m| m.bytes(&join.member));
        let bytes = joining_bytes(join);
        // Who brings no more than before is no reason to refuse anybody.
        if bytes > there && self.bytes - there + bytes > MEMBERS_BYTES_MAX {
            ctx.budget.count_refused();
            return Err(GroupError::GroupMaxSizeReached);
        }
        match ctx.budget.admits(0, bytes.saturating_sub(there)) {
            true => Ok(()),
            false => Err(GroupError::GroupMaxSizeReached),
        }
    }

    fn add_member(
        &mut self,
        id: Arc<str>,
        join: &Join,
        ticket: Ticket,
        ctx: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if !self.has_room() {
            ctx.budget.count_refused();
            return Err(GroupError::GroupMaxSizeReached);
        }
        if let (State::PreparingRebalance, Waiting::First { newcomers, .. }) =
            (self.state, &mut self.waiting)
        {
            *newcomers = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        let mut member = Member::new(join);
        member.is_new = true;
        self.insert(id.clone(), member);
        self.await_join(&id, ticket, ctx);
        // It has no session yet; whoever is silent for so long is gone.
        let at = ctx.now.mono_ms + NEWCOMER_MS;
        ctx.timers.set(Timer::Session(self.id.clone(), id), at);
        self.rebalance_if_possible(ctx);
        Ok(())
    }

    /// Takes in what a member says now.
    fn update(&mut self, id: &Arc<str>, join: &Join) {
        let Some(mut member) = self.members.remove(id) else {
            return;
        };
        self.bytes -= member.bytes(id);
        self.count_offers(&member, -1);
        member.protocols = join.protocols.clone();
        member.rebalance_ms = join.rebalance_ms;
        member.session_ms = join.session_ms;
        self.bytes += member.bytes(id);
        self.count_offers(&member, 1);
        self.members.insert(id.clone(), member);
    }

    fn rejoin(
        &mut self,
        id: &Arc<str>,
        join: &Join,
        ticket: Ticket,
        ctx: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.update(id, join);
        self.await_join(id, ticket, ctx);
        self.rebalance_if_possible(ctx);
        Ok(())
    }

    /// Tells a member once more what it was told when this generation began.
    fn tell_again(
        &mut self,
        id: &Arc<str>,
        ticket: Ticket,
        ctx: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let joined = self.joined(id);
        self.heard_of(id, ctx);
        ctx.effects.push(Effect::Join(ticket, Ok(joined)));
        Ok(())
    }

    fn joined(&self, id: &Arc<str>) -> Joined {
        let leads = self.leader.as_ref() == Some(id) && self.state == State::CompletingRebalance;
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_else(|| Arc::from("")),
            member: id.clone(),
            skip_assignment: false,
            members: if leads {
                self.all_members()
            } else {
                Vec::new()
            },
        }
    }

    // ---- static members (KIP-345)

    /// A static member came back under a new id: the old id is fenced from now on.
    fn replace_static(
        &mut self,
        old: &Arc<str>,
        join: &Join,
        ticket: Ticket,
        ctx: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let id = join.fresh_member.clone();
        let leader_before = self.leader.clone();
        let Some((_, mut member)) = self.take_out(old, GroupError::FencedInstanceId, ctx) else {
            return Err(GroupError::UnknownMemberId);
        };
        let (seq, assignment) = (member.seq, std::mem::take(&mut member.assignment));
        let mut member = Member::new(join);
        member.assignment = assignment;
        self.insert(id.clone(), member);
        if let Some(member) = self.members.get_mut(&id) {
            member.seq = seq;
        }
        if leader_before.as_ref() == Some(old) {
            self.leader = Some(id.clone());
        }
        self.heard_of(&id, ctx);
        if self.state == State::Stable && self.protocol == self.vote() {
            let joined = self.returned(&id, leader_before, join);
            self.await_join(&id, ticket, ctx);
            self.write_returned(id, joined, ctx);
            return Ok(());
        }
        self.await_join(&id, ticket, ctx);
        self.rebalance_if_possible(ctx);
        Ok(())
    }

    fn returned(&self, id: &Arc<str>, leader_before: Option<Arc<str>>, join: &Join) -> Joined {
        let leads = self.leader.as_ref() == Some(id);
        let mut joined = self.joined(id);
        if join.client.skip_assignment && leads {
            // KIP-814: it leads on and leaves the assignment as it is.
            joined.skip_assignment = true;
            joined.members = self.all_members();
        } else if !join.client.skip_assignment {
            // Told the old id of the leader, it takes itself for a follower and does not assign.
            joined.leader = leader_before.unwrap_or_else(|| Arc::from(""));
        }
        joined
    }

    fn write_returned(&mut self, member: Arc<str>, joined: Joined, ctx: &mut Context<'_>) {
        let then = Then::Returned {
            group: self.id.clone(),
            generation: self.generation,
            member,
            joined: Box::new(joined),
        };
        let record = self.write(None);
        ctx.effects.push(Effect::Write(Write {
            records: vec![record],
            then,
        }));
    }

    /// What became of the record that says a static member came back.
    pub(crate) fn returned_written(
        &mut self,
        id: &Arc<str>,
        joined: Joined,
        ok: bool,
        ctx: &mut Context<'_>,
    ) {
        let unchanged = self.state == State::Stable && joined.generation == self.generation;
        let Some(mut member) = self.members.remove(id) else {
            return;
        };
        if ok && unchanged {
            self.answer_join(id, &mut member, Ok(joined), ctx);
        } else if !ok {
            self.answer_join(
                id,
                &mut member,
                Err(GroupError::CoordinatorNotAvailable),
                ctx,
            );
        }
        // If a rebalance began meanwhile, it answers.
        self.members.insert(id.clone(), member);
    }

    /// Its record, with `assignments` or those it has.
    pub(super) fn write(&self, assignments: Option<&[(Arc<str>, bytes::Bytes)]>) -> Record {
        Record {
            key: codec::Key::Group {
                group: self.id.to_string(),
            },
            value: Some(codec::encode_group(&self.record(assignments)).into()),
            topic_id: None,
        }
    }

    // ---- rebalances

    fn rebalance_if_possible(&mut self, ctx: &mut Context<'_>) {
        if matches!(
            self.state,
            State::Stable | State::CompletingRebalance | State::Empty
        ) {
            self.prepare_rebalance(ctx);
        }
    }

    /// Begins a rebalance: every member has to join again.
    pub(super) fn prepare_rebalance(&mut self, ctx: &mut Context<'_>) {
        if self.state == State::CompletingRebalance {
            self.cancel_syncs(GroupError::RebalanceInProgress, ctx);
        }
        ctx.timers.clear(&Timer::Sync(self.id.clone()));
        let delay_ms = ctx.settings.initial_rebalance_delay_ms;
        let wait_ms = match self.state {
            State::Empty => {
                let left_ms = self.rebalance_ms().saturating_sub(delay_ms);
                self.waiting = Waiting::First {
                    left_ms,
                    newcomers: false,
                };
                delay_ms
            }
            _ => {
                self.waiting = Waiting::All;
                self.rebalance_ms()
            }
        };
        *ctx.rebalances += 1;
        self.enter(State::PreparingRebalance, ctx);
        ctx.timers
            .set(Timer::Rebalance(self.id.clone()), ctx.now.mono_ms + wait_ms);
        self.complete_join_if_all(ctx);
    }

    /// The longest that a member gives the others to join, in ms.
    pub(super) fn rebalance_ms(&self) -> u64 {
        self.members
            .values()
            .map(|m| m.rebalance_ms.max(0) as u64)
            .max()
            .unwrap_or(0)
    }

    /// Goes on when everybody has joined, without waiting for the time to be over.
    pub(super) fn complete_join_if_all(&mut self, ctx: &mut Context<'_>) {
        let all = self.joining == self.members.len() && self.pending.is_empty();
        if self.state == State::PreparingRebalance && self.waiting == Waiting::All && all {
            self.complete_join(ctx);
        }
    }

    /// Members were waited for long enough.
    pub(crate) fn rebalance_due(&mut self, ctx: &mut Context<'_>) {
        if self.state != State::PreparingRebalance {
            return;
        }
        if let Waiting::First {
            left_ms,
            newcomers: true,
        } = self.waiting
            && left_ms > 0
        {
            let wait_ms = left_ms.min(ctx.settings.initial_rebalance_delay_ms);
            self.waiting = Waiting::First {
                left_ms: left_ms - wait_ms,
                newcomers: false,
            };
            return ctx
                .timers
                .set(Timer::Rebalance(self.id.clone()), ctx.now.mono_ms + wait_ms);
        }
        self.complete_join(ctx);
    }

    fn complete_join(&mut self, ctx: &mut Context<'_>) {
        ctx.timers.clear(&Timer::Rebalance(self.id.clone()));
        let late = |(id, m): (&Arc<str>, &Member)| {
            (m.joining.is_none() && m.instance.is_none()).then(|| id.clone())
        };
        let late: Vec<_> = self.members.iter().filter_map(late).collect();
        self.forget_leader_among(&late);
        for id in late {
            self.take_out(&id, GroupError::UnknownMemberId, ctx);
        }
        if self.members.is_empty() {
            return self.become_empty(ctx);
        }
        if !self.elect_leader() {
            // Only static members are left, and none has come: they may still.
            let at = ctx.now.mono_ms + self.rebalance_ms().max(STATIC_WAIT_MS_MIN);
            return ctx.timers.set(Timer::Rebalance(self.id.clone()), at);
        }
        self.begin_generation(ctx);
    }

    /// Whether the leader is one who has joined, another being chosen if need be.
    fn elect_leader(&mut self) -> bool {
        let joined = |m: &Member| m.joining.is_some();
        let leads = self.leader.as_ref().and_then(|id| self.members.get(id));
        if !leads.is_some_and(joined) {
            let Some(leader) = self.eldest(joined) else {
                return false;
            };
            self.leader = Some(leader);
        }
        true
    }

    fn become_empty(&mut self, ctx: &mut Context<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = None;
        self.leader = None;
        self.enter(State::Empty, ctx);
        let record = self.write(None);
        ctx.effects.push(Effect::Write(Write {
            records: vec![record],
            then: Then::Nothing,
        }));
    }

    fn begin_generation(&mut self, ctx: &mut Context<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.vote();
        self.enter(State::CompletingRebalance, ctx);
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            let Some(mut member) = self.members.remove(&id) else {
                continue;
            };
            if member.joining.is_some() {
                self.answer_join(&id, &mut member, Ok(joined), ctx);
                member.is_new = false;
            }
            member.owes_sync = true;
            self.members.insert(id.clone(), member);
            self.heard_of(&id, ctx);
        }
        let at = ctx.now.mono_ms + self.rebalance_ms();
        ctx.timers.set(Timer::Sync(self.id.clone()), at);
    }

    /// The protocol that most members like best of those that all offer.
    fn vote(&self) -> Option<Arc<str>> {
        let common = |p: &&Protocol| self.offered.get(&p.name) == Some(&self.members.len());
        let mut votes: std::collections::BTreeMap<&Arc<str>, usize> =
            std::collections::BTreeMap::new();
        for member in self.members.values() {
            if let Some(best) = member.protocols.iter().find(common) {
                *votes.entry(&best.name).or_default() += 1;
            }
        }
        votes
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map(|(name, _)| name.clone())
    }
}
