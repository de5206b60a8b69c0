//! Groups under simulation: crashes at any step, then everything that was acknowledged must be there again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use tidemill_rt::sim::{Sim, for_seeds};
use tidemill_rt::task::{self, Queue};

use super::{AppliedAt, CheckpointPoint, Group, Recorder, close, command, open};

const SEEDS: u64 = 300;
const ROUNDS: u64 = 4;
const COMMANDS: u64 = 24;
/// A round takes some two hundred steps, so that crashes fall into all of it and some rounds survive.
const STEPS_MAX: u64 = 400;

/// What the outside world knows, which no crash takes away.
#[derive(Default)]
struct World {
    acknowledged: BTreeMap<AppliedAt, Bytes>,
    /// Every log id ever seen applied, and by which command.
    used: BTreeMap<AppliedAt, Bytes>,
    term: u64,
    /// The checkpoint "on disk": its point, and the state machine at it.
    checkpoint: Option<(CheckpointPoint, Recorder)>,
    next: u64,
}

type Shared = Rc<RefCell<World>>;

fn check_recovered(world: &Shared, group: &Group, machine: &Recorder) {
    let mut world = world.borrow_mut();
    let leadership = *group.leadership().borrow();
    let point = crate::types::decode_point(group.checkpoint_point().encoded).unwrap();
    let applied_term = point.last_log_id.unwrap().committed_leader_id().term;
    assert!(leadership.leading && applied_term == leadership.term, "R2");
    assert!(
        leadership.term > world.term,
        "R1: term {} again",
        leadership.term
    );
    world.term = leadership.term;
    assert!(machine.0.windows(2).all(|w| w[0].0.index < w[1].0.index));
    let applied: BTreeMap<_, _> = machine.0.iter().cloned().collect();
    for (at, command) in &world.acknowledged {
        assert_eq!(applied.get(at), Some(command), "acknowledged at {at:?}");
    }
    remember_used(&mut world, machine);
}

fn remember_used(world: &mut World, machine: &Recorder) {
    for (at, command) in &machine.0 {
        let before = world.used.insert(*at, command.clone());
        assert!(
            before.is_none_or(|b| b == command),
            "R1: log id {at:?} was used twice"
        );
    }
}

fn propose(world: &Shared, group: &Group) -> Vec<task::JoinHandle<()>> {
    let mut waiting = Vec::new();
    for _ in 0..COMMANDS {
        let n = world.borrow().next;
        world.borrow_mut().next += 1;
        let proposal = group.propose(command(n));
        let world = world.clone();
        waiting.push(task::spawn(Queue::Raft, async move {
            if let Ok(reply) = proposal.await {
                let at = *reply.downcast::<AppliedAt>().unwrap();
                world.borrow_mut().acknowledged.insert(at, command(n).head);
            }
        }));
    }
    waiting
}

async fn checkpoint(world: &Shared, group: &Group, machine: &Rc<RefCell<Recorder>>) {
    let (point, state) = (group.checkpoint_point(), machine.borrow().clone());
    group.durable(point.index).await;
    world.borrow_mut().checkpoint = Some((point.clone(), state));
    group.checkpoint_written(point).await.unwrap();
}

async fn round(world: Shared, dir: PathBuf, number: u64) {
    let checkpointed = world.borrow().checkpoint.clone();
    let (encoded, state) =
        checkpointed.map_or((None, Recorder::default()), |(p, s)| (Some(p.encoded), s));
    let machine = Rc::new(RefCell::new(state));
    let (group, log) = open(&dir, encoded, &machine).await;
    check_recovered(&world, &group, &machine.borrow());
    let first = propose(&world, &group);
    if number % 2 == 1 {
        checkpoint(&world, &group, &machine).await;
    }
    let second = propose(&world, &group);
    for waiting in first.into_iter().chain(second) {
        waiting.await.unwrap();
    }
    remember_used(&mut world.borrow_mut(), &machine.borrow());
    close(group, log).await;
}

#[test]
fn r1_r2_acknowledged_commands_survive_crashes_at_any_step_under_their_log_ids() {
    let (mut crashed, mut survived) = (0, 0);
    let count = for_seeds("consensus", SEEDS, |seed| {
        let sim = Sim::new(seed);
        let world = Shared::default();
        let dir = PathBuf::from(format!("/shard-{seed}"));
        for number in 0..ROUNDS {
            match sim.run_until_crash(STEPS_MAX, round(world.clone(), dir.clone(), number)) {
                Ok(()) => {
                    survived += 1;
                    sim.crash();
                }
                Err(tidemill_rt::sim::Stopped::Crashed { .. }) => crashed += 1,
                Err(e) => panic!("{e}"),
            }
        }
        let last = sim.block_on(round(world.clone(), dir, ROUNDS));
        last.unwrap_or_else(|e| panic!("{e}"));
        assert!(!world.borrow().acknowledged.is_empty());
    });
    assert!(
        count < 100 || crashed > count && survived > count / 2,
        "{crashed} crashed, {survived} survived"
    );
}
