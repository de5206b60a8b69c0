//! Whatever members do, in whatever order.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What one of several members does next.
#[derive(Debug, Clone)]
enum Act {
    Join(usize),
    Sync(usize),
    Beat(usize),
    Leave(usize),
    Commit(usize, bool),
    Pass(u64),
    Land(bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let who = 0..6usize;
    let act = prop_oneof![
        4 => who.clone().prop_map(Act::Join),
        4 => who.clone().prop_map(Act::Sync),
        2 => who.clone().prop_map(Act::Beat),
        1 => who.clone().prop_map(Act::Leave),
        2 => (who, any::<bool>()).prop_map(|(who, late)| Act::Commit(who, late)),
        3 => prop_oneof![Just(100u64), Just(3_000), Just(9_000), Just(70_000)].prop_map(Act::Pass),
        3 => (0..6u8).prop_map(|n| Act::Land(n > 0)),
    ];
    vec(act, 1..150)
}

/// A client as it knows itself. Every other one is a static member.
#[derive(Debug, Default)]
struct Client {
    id: String,
    generation: i32,
    /// The generation of its last assignment under this id.
    assigned: i32,
    leads: bool,
    members: Vec<Arc<str>>,
    joining: Option<Ticket>,
    syncing: Option<Ticket>,
}

impl Client {
    /// It is somebody else from now on, who was never in any generation.
    fn begin(&mut self, id: String) {
        (self.id, self.generation, self.assigned) = (id, 0, 0);
    }
}

struct Crowd {
    world: World,
    clients: Vec<Client>,
    fresh: u32,
    generation: i32,
    /// The last generation of which somebody was told an assignment.
    assigned: i32,
}

impl Crowd {
    fn join(&mut self, i: usize) {
        self.fresh += 1;
        let name = format!("c{i}");
        let join = Join {
            member: self.clients[i].id.as_str().into(),
            fresh_member: format!("{name}-{}", self.fresh).into(),
            instance: i.is_multiple_of(2).then(|| name.as_str().into()),
            ..member(&name)
        };
        let join = match i.is_multiple_of(2) {
            // A static member comes as one that was started anew.
            true => Join {
                member: "".into(),
                ..join
            },
            false => join,
        };
        let ticket = self.world.join(join);
        self.clients[i].joining = Some(ticket);
    }

    fn sync(&mut self, i: usize) {
        let c = &self.clients[i];
        let members: Vec<_> = c.members.iter().map(|m| (&**m, &**m)).collect();
        let members = if c.leads { members } else { Vec::new() };
        let ticket = self.world.sync(&c.id, c.generation, &members);
        self.clients[i].syncing = Some(ticket);
    }

    /// What clients make of their answers, and what must be true of these.
    fn hear(&mut self) {
        for (i, c) in self.clients.iter_mut().enumerate() {
            if let Some(answer) = c.joining.and_then(|t| self.world.joins.remove(&t)) {
                c.joining = None;
                match answer {
                    Err(refused) if refused.error == GroupError::MemberIdRequired => {
                        c.begin(refused.member.to_string())
                    }
                    Err(_) => c.begin(String::new()),
                    Ok(joined) => {
                        assert!(
                            joined.generation >= self.generation,
                            "generations only go up"
                        );
                        self.generation = joined.generation;
                        if *c.id != *joined.member {
                            c.begin(joined.member.to_string());
                        }
                        c.generation = joined.generation;
                        c.leads = joined.leader == joined.member && !joined.skip_assignment;
                        assert!(
                            !c.leads || joined.members.iter().any(|m| *m.id == *c.id),
                            "a leader is told of itself"
                        );
                        c.members = joined.members.into_iter().map(|m| m.id).collect();
                    }
                }
            }
            if let Some(answer) = c.syncing.and_then(|t| self.world.syncs.remove(&t)) {
                c.syncing = None;
                if let Ok(synced) = answer {
                    // Assigned is an id, whose beginning a static member that came back shares with its old self.
                    let assigned = String::from_utf8(synced.assignment.to_vec()).unwrap();
                    let own = assigned.is_empty() || assigned.starts_with(&format!("c{i}-"));
                    assert!(own, "nobody gets what is another's");
                    c.assigned = c.generation;
                    self.assigned = self.assigned.max(c.assigned);
                }
            }
        }
    }

    /// A group that is gone begins anew: with the first generation, or where its records stand that could not be taken back.
    fn look(&mut self) {
        if self.world.machine.describe("g").is_none() {
            (self.generation, self.assigned) = (0, 0);
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Join(i) if self.clients[*i].joining.is_none() => self.join(*i),
            Act::Sync(i) if self.clients[*i].syncing.is_none() => self.sync(*i),
            Act::Join(_) | Act::Sync(_) => {}
            Act::Beat(i) => {
                let (id, generation) = (self.clients[*i].id.clone(), self.clients[*i].generation);
                let _ = self.world.beat(&id, generation);
            }
            Act::Leave(i) => {
                let who = Who {
                    member: self.clients[*i].id.as_str().into(),
                    instance: None,
                };
                let (_, effects) = self
                    .world
                    .machine
                    .leave("g", &[who], self.world.now)
                    .unwrap();
                self.world.act(effects);
            }
            Act::Commit(i, late) => {
                let c = &self.clients[*i];
                // Some commits were on their way when a generation began.
                let generation = (c.generation - i32::from(*late)).max(0);
                let id = c.id.clone();
                let taken = self.world.commit(&id, generation, 1).is_ok();
                // A group that is empty takes commits from outside alone; whoever is not up to date has what nobody else has.
                let latest = c.assigned > 0 && c.assigned == self.assigned;
                assert!(!taken || generation == self.generation || id.is_empty() || latest);
            }
            Act::Pass(ms) => self.world.pass(*ms),
            Act::Land(ok) if !self.world.queue.is_empty() => self.world.land(*ok),
            Act::Land(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn whatever_members_do_the_group_comes_to_rest(acts in acts()) {
        let clients = (0..6).map(|_| Client::default()).collect();
        let mut crowd = Crowd { world: World::new(), clients, fresh: 0, generation: 0, assigned: 0 };
        crowd.world.prompt = false;
        for act in &acts {
            crowd.act(act);
            crowd.hear();
            crowd.look();
        }
        // Everybody is silent from now on: whoever waits is answered, and nothing is left but what is stored.
        crowd.world.prompt = true;
        crowd.world.land_all();
        crowd.world.pass(7_200_000);
        crowd.hear();
        for client in &crowd.clients {
            prop_assert!(client.joining.is_none() && client.syncing.is_none(), "somebody was left waiting");
        }
        prop_assert_eq!(crowd.world.machine.members(), 0);
        prop_assert_eq!(crowd.world.machine.timers(), 1);
        let contents = replayed(&crowd.world.log, 0).contents();
        prop_assert_eq!(contents, crowd.world.machine.store().contents());
    }
}
