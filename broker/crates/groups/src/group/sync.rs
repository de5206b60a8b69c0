//! Assignments: the leader brings them, they are written, then every member gets its own.

use std::sync::Arc;

use bytes::Bytes;

use super::{Context, Group, Member, State};
use crate::error::GroupError;
use crate::limits::ASSIGNMENTS_BYTES_MAX;
use crate::request::{Effect, Sync, Synced, Then, Ticket, Write};
use crate::timers::Timer;

impl Group {
    /// A member asks for its assignment. It is answered at once or later, through the effects.
    pub(crate) fn sync(&mut self, sync: Sync, ticket: Ticket, ctx: &mut Context<'_>) {
        match self.check_sync(&sync) {
            Err(error) => ctx.effects.push(Effect::Sync(ticket, Err(error))),
            Ok(id) => self.sync_member(&id, sync, ticket, ctx),
        }
        self.recharge(ctx);
    }

    fn check_sync(&self, sync: &Sync) -> Result<Arc<str>, GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let id = self.find(&sync.who)?;
        if sync.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let differs = |said: &Option<Arc<str>>, is: &Option<Arc<str>>| said.is_some() && said != is;
        if differs(&sync.protocol_type, &self.protocol_type)
            || differs(&sync.protocol, &self.protocol)
        {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        match self.state {
            State::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            State::Empty | State::Dead => Err(GroupError::UnknownMemberId),
            State::CompletingRebalance | State::Stable => Ok(id),
        }
    }

    fn sync_member(&mut self, id: &Arc<str>, sync: Sync, ticket: Ticket, ctx: &mut Context<'_>) {
        let leads = self.leader.as_ref() == Some(id);
        self.heard_of(id, ctx);
        let answer = self.synced(id);
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        member.owes_sync = false;
        if self.state == State::Stable {
            member.assigned = Some(self.generation);
            return ctx.effects.push(Effect::Sync(ticket, Ok(answer)));
        }
        if let Some(before) = member.syncing.replace(ticket) {
            ctx.effects
                .push(Effect::Sync(before, Err(GroupError::RebalanceInProgress)));
        }
        // Were assignments written twice, the first would be told and the second be in the log.
        if leads && self.assigning != Some(self.generation) {
            self.assign(sync.assignments, ctx);
        }
    }

    /// The leader has decided.
    fn assign(&mut self, assignments: Vec<(Arc<str>, Bytes)>, ctx: &mut Context<'_>) {
        let known: Vec<_> = assignments
            .into_iter()
            .filter(|(id, _)| self.members.contains_key(id))
            .collect();
        let bytes: usize = known.iter().map(|(_, bytes)| bytes.len()).sum();
        let before: usize = self.members.values().map(|m| m.assignment.len()).sum();
        if bytes > ASSIGNMENTS_BYTES_MAX || !ctx.budget.admits(0, bytes.saturating_sub(before)) {
            ctx.budget.count_refused();
            return self.cancel_syncs(GroupError::GroupMaxSizeReached, ctx);
        }
        self.assigning = Some(self.generation);
        let record = self.write(Some(&known));
        let then = Then::Assignments {
            group: self.id.clone(),
            generation: self.generation,
            assignments: known,
        };
        ctx.effects.push(Effect::Write(Write {
            records: vec![record],
            then,
        }));
    }

    /// What became of the record with the assignments of `generation`.
    pub(crate) fn assignments_written(
        &mut self,
        generation: i32,
        assignments: Vec<(Arc<str>, Bytes)>,
        ok: bool,
        ctx: &mut Context<'_>,
    ) {
        if self.assigning == Some(generation) {
            self.assigning = None;
        }
        if self.state != State::CompletingRebalance || generation != self.generation {
            return; // A rebalance began meanwhile.
        }
        if !ok {
            self.cancel_syncs(GroupError::CoordinatorNotAvailable, ctx);
            return self.prepare_rebalance(ctx);
        }
        let mut assignments: std::collections::BTreeMap<_, _> = assignments.into_iter().collect();
        for (id, member) in &mut self.members {
            let assigned = assignments.remove(id).unwrap_or_default();
            self.bytes = self.bytes + assigned.len() - member.assignment.len();
            member.assignment = assigned;
        }
        self.enter(State::Stable, ctx);
        self.assigned = Some(generation);
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.synced(&id);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            if let Some(ticket) = member.syncing.take() {
                member.assigned = Some(generation);
                ctx.effects.push(Effect::Sync(ticket, Ok(answer)));
                self.heard_of(&id, ctx);
            }
        }
        self.recharge(ctx);
    }

    fn synced(&self, id: &Arc<str>) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self
                .members
                .get(id)
                .map(|m| m.assignment.clone())
                .unwrap_or_default(),
        }
    }

    /// Nobody gets an assignment of this generation.
    pub(super) fn cancel_syncs(&mut self, error: GroupError, ctx: &mut Context<'_>) {
        for member in self.members.values_mut() {
            self.bytes -= member.assignment.len();
            member.assignment = Bytes::new();
            if let Some(ticket) = member.syncing.take() {
                ctx.effects.push(Effect::Sync(ticket, Err(error)));
            }
        }
    }

    /// Members were given long enough to ask for their assignments: who did not is out.
    pub(crate) fn sync_due(&mut self, ctx: &mut Context<'_>) {
        if !matches!(self.state, State::CompletingRebalance | State::Stable) {
            return;
        }
        let owes = |(id, m): (&Arc<str>, &Member)| m.owes_sync.then(|| id.clone());
        let late: Vec<_> = self.members.iter().filter_map(owes).collect();
        if late.is_empty() {
            return;
        }
        self.forget_leader_among(&late);
        for id in late {
            self.take_out(&id, GroupError::UnknownMemberId, ctx);
        }
        self.prepare_rebalance(ctx);
        ctx.timers.clear(&Timer::Sync(self.id.clone()));
        self.recharge(ctx);
    }
}
