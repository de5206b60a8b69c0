//! The machine of groups under test: a world of members that join, sync, are silent, come back.

mod codec;
mod offsets;
mod properties;
mod rebalances;
mod replay;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_model::{Offset, TopicId};

use crate::coordinator::{Coordinator, NewCommit};
use crate::request::*;
use crate::store::{Record, Store};
use crate::{Budget, GroupError, Settings};

/// A coordinator, its log, its clock.
pub(super) struct World {
    pub(super) machine: Coordinator,
    pub(super) budget: Budget,
    pub(super) now: Now,
    pub(super) log: Vec<Record>,
    /// Writes that are not in the log yet.
    pub(super) queue: Vec<Write>,
    /// Whether writes land at once.
    pub(super) prompt: bool,
    next: u64,
    pub(super) joins: BTreeMap<Ticket, Result<Joined, NotJoined>>,
    pub(super) syncs: BTreeMap<Ticket, Result<Synced, GroupError>>,
}

pub(super) const TOPIC: TopicId = TopicId([7; 16]);

impl World {
    pub(super) fn new() -> World {
        World::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> World {
        let budget = Budget::new();
        let mut world = World {
            machine: Coordinator::new(settings, budget.clone()),
            budget,
            now: Now {
                mono_ms: 1_000,
                unix_ms: 1_700_000_000_000,
            },
            log: Vec::new(),
            queue: Vec::new(),
            prompt: true,
            next: 0,
            joins: BTreeMap::new(),
            syncs: BTreeMap::new(),
        };
        let effects = world.machine.loaded(world.now);
        world.act(effects);
        world
    }

    /// Another coordinator that reads the same log.
    pub(super) fn restarted(&self) -> World {
        self.restarted_within(Budget::new())
    }

    pub(super) fn restarted_within(&self, budget: Budget) -> World {
        let mut world = World::new();
        world.now = self.now;
        world.log = self.log.clone();
        world.machine = Coordinator::new(Settings::default(), budget.clone());
        world.budget = budget;
        for (offset, record) in self.log.iter().enumerate() {
            world.machine.load(record, offset as Offset).unwrap();
        }
        let effects = world.machine.loaded(world.now);
        world.act(effects);
        world
    }

    pub(super) fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Join(ticket, answer) => assert!(
                    self.joins.insert(ticket, answer).is_none(),
                    "answered twice"
                ),
                Effect::Sync(ticket, answer) => assert!(
                    self.syncs.insert(ticket, answer).is_none(),
                    "answered twice"
                ),
                Effect::Write(write) => self.queue.push(write),
            }
        }
        if self.prompt {
            self.land_all();
        }
    }

    /// The first write that waits lands in the log, or fails.
    pub(super) fn land(&mut self, ok: bool) {
        let write = self.queue.remove(0);
        let first = ok.then_some(self.log.len() as Offset);
        if ok {
            self.log.extend(write.records.iter().cloned());
        }
        let effects = self.machine.written(write, first, self.now);
        self.act(effects);
    }

    pub(super) fn land_all(&mut self) {
        while !self.queue.is_empty() {
            self.land(true);
        }
    }

    /// Time goes by, with everything that is due in its turn.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while let Some(due) = self.machine.next_due().filter(|due| *due <= end) {
            let step = due.saturating_sub(self.now.mono_ms);
            self.now.mono_ms += step;
            self.now.unix_ms += step as i64;
            let fired = self.machine.fire(self.now);
            self.act(fired.effects);
            if fired.sweep {
                self.sweep(&|_, _| true);
            }
        }
        self.now.unix_ms += (end - self.now.mono_ms) as i64;
        self.now.mono_ms = end;
    }

    pub(super) fn sweep(&mut self, exists: &dyn Fn(&str, TopicId) -> bool) {
        loop {
            let swept = self.machine.sweep(self.now, exists);
            self.act(swept.effects);
            if !swept.more {
                return;
            }
        }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    pub(super) fn join(&mut self, join: Join) -> Ticket {
        let ticket = self.ticket();
        let effects = self.machine.join(join, ticket, self.now);
        self.act(effects);
        ticket
    }

    /// Joins as a client does: again with the id it is given.
    pub(super) fn enter(&mut self, name: &str) -> (Arc<str>, Ticket) {
        let ticket = self.join(member(name));
        let given = self.joins.remove(&ticket).unwrap().unwrap_err();
        assert_eq!(given.error, GroupError::MemberIdRequired);
        let again = Join {
            member: given.member.clone(),
            ..member(name)
        };
        (given.member, self.join(again))
    }

    pub(super) fn joined(&mut self, ticket: Ticket) -> Joined {
        self.joins
            .remove(&ticket)
            .expect("it was answered")
            .expect("it has joined")
    }

    pub(super) fn refused(&mut self, ticket: Ticket) -> GroupError {
        self.joins
            .remove(&ticket)
            .expect("it was answered")
            .expect_err("it was refused")
            .error
    }

    pub(super) fn sync(
        &mut self,
        who: &str,
        generation: i32,
        assignments: &[(&str, &str)],
    ) -> Ticket {
        let ticket = self.ticket();
        let assignments = assignments
            .iter()
            .map(|(id, a)| ((*id).into(), Bytes::copy_from_slice(a.as_bytes())));
        let sync = Sync {
            group: "g".into(),
            generation,
            who: Who {
                member: who.into(),
                instance: None,
            },
            protocol_type: None,
            protocol: None,
            assignments: assignments.collect(),
        };
        let effects = self.machine.sync(sync, ticket, self.now);
        self.act(effects);
        ticket
    }

    pub(super) fn synced(&mut self, ticket: Ticket) -> Result<String, GroupError> {
        let answer = self.syncs.remove(&ticket).expect("it was answered");
        answer.map(|s| String::from_utf8(s.assignment.to_vec()).unwrap())
    }

    /// A stable group of these members, the first of which leads; their ids.
    pub(super) fn stable(&mut self, names: &[&str]) -> Vec<Arc<str>> {
        let entered: Vec<_> = names.iter().map(|n| self.enter(n)).collect();
        self.pass(600_000.min(3_000 * (names.len() as u64 + 1)));
        let joined: Vec<_> = entered.iter().map(|(_, t)| self.joined(*t)).collect();
        let leader = joined[0].leader.clone();
        let generation = joined[0].generation;
        let ids: Vec<_> = entered.into_iter().map(|(id, _)| id).collect();
        let assignments: Vec<_> = ids.iter().map(|id| (&**id, &**id)).collect();
        let mut tickets: Vec<_> = ids
            .iter()
            .filter(|id| **id != leader)
            .map(|id| self.sync(id, generation, &[]))
            .collect();
        tickets.push(self.sync(&leader, generation, &assignments));
        for ticket in tickets {
            self.synced(ticket).unwrap();
        }
        ids
    }

    pub(super) fn beat(&mut self, who: &str, generation: i32) -> Result<(), GroupError> {
        let who = Who {
            member: who.into(),
            instance: None,
        };
        self.machine.heartbeat("g", &who, generation, self.now)
    }

    pub(super) fn commit(
        &mut self,
        who: &str,
        generation: i32,
        offset: Offset,
    ) -> Result<(), GroupError> {
        self.commit_of("g", who, generation, "t", offset)
    }

    pub(super) fn commit_of(
        &mut self,
        group: &str,
        who: &str,
        generation: i32,
        topic: &str,
        offset: Offset,
    ) -> Result<(), GroupError> {
        let who = Who {
            member: who.into(),
            instance: None,
        };
        let (each, write) = self.machine.commit(
            group,
            &who,
            generation,
            vec![new_commit(topic, offset)],
            self.now,
        )?;
        self.queue.extend(write);
        if self.prompt {
            self.land_all();
        }
        each[0]
    }

    pub(super) fn committed(&self, topic: &str) -> Option<Offset> {
        self.machine.store().commit("g", topic, 0).map(|c| c.offset)
    }

    pub(super) fn state(&self) -> &'static str {
        self.machine
            .describe("g")
            .map_or("none", |d| d.state.name())
    }
}

pub(super) fn new_commit(topic: &str, offset: Offset) -> NewCommit {
    NewCommit {
        topic: topic.into(),
        topic_id: TOPIC,
        partition: 0,
        offset,
        leader_epoch: 3,
        metadata: "said".to_owned(),
        expire_ms: None,
    }
}

pub(super) fn protocols(names: &[&str]) -> Vec<Protocol> {
    let one = |name: &&str| Protocol {
        name: (*name).into(),
        metadata: Bytes::from((*name).to_owned()),
    };
    names.iter().map(one).collect()
}

/// A dynamic member as a client of today sends it.
pub(super) fn member(name: &str) -> Join {
    Join {
        group: "g".into(),
        member: "".into(),
        fresh_member: format!("{name}-id").into(),
        instance: None,
        client_id: name.into(),
        client_host: "/127.0.0.1".into(),
        session_ms: 10_000,
        rebalance_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: protocols(&["range", "roundrobin"]),
        client: ClientCan {
            return_with_id: true,
            skip_assignment: true,
        },
    }
}

/// What a log says.
pub(super) fn replayed(log: &[Record], from: usize) -> Store {
    let mut store = Store::new();
    for (offset, record) in log.iter().enumerate().skip(from) {
        store.apply(record, offset as Offset).unwrap();
    }
    store
}
