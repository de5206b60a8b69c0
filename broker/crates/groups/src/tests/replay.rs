//! The log read again says what the machine says, whatever was written, failed, deleted and copied forward.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::copy::Copy;

/// Something that happens to a partition.
#[derive(Debug, Clone)]
enum Step {
    Commit {
        group: u8,
        topic: u8,
        offset: Offset,
    },
    /// The next write lands, or fails.
    Land(bool),
    Delete(u8),
    /// Topics from this one on are gone.
    Sweep(u8),
    /// The next piece of a copy, which begins if there is none.
    Copy,
    /// A member joins and leads its group alone.
    Enter(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..5u8, 0..4u8, 0..1000i64).prop_map(|(group, topic, offset)| Step::Commit { group, topic, offset }),
        6 => (0..8u8).prop_map(|n| Step::Land(n > 0)),
        1 => (0..5u8).prop_map(Step::Delete),
        1 => (1..5u8).prop_map(Step::Sweep),
        3 => Just(Step::Copy),
        1 => (0..5u8).prop_map(Step::Enter),
    ];
    vec(step, 1..200)
}

/// A partition whose log is watched.
struct Watched {
    world: World,
    copy: Option<Copy>,
    /// Where the log starts.
    start: usize,
}

impl Watched {
    fn step(&mut self, step: &Step) {
        let w = &mut self.world;
        match step {
            Step::Commit {
                group,
                topic,
                offset,
            } => {
                let _ = w.commit_of(&format!("g{group}"), "", -1, &format!("t{topic}"), *offset);
            }
            Step::Land(ok) if !w.queue.is_empty() => w.land(*ok),
            Step::Land(_) => {}
            Step::Delete(group) => {
                let writes = w.machine.delete(&format!("g{group}"), w.now);
                w.queue.extend(writes.unwrap_or_default());
            }
            Step::Sweep(topic) => w.sweep(&|name, _| *name < *format!("t{topic}")),
            Step::Enter(group) => {
                let join = Join {
                    group: format!("g{group}").into(),
                    ..member("m")
                };
                let client = ClientCan {
                    return_with_id: false,
                    skip_assignment: false,
                };
                let fresh_member: Arc<str> = format!("m{}", w.now.mono_ms).into();
                w.join(Join {
                    client,
                    fresh_member,
                    ..join
                });
                w.pass(61_000);
                w.joins.clear();
            }
            Step::Copy => self.copy(),
        }
    }

    /// As the writer does it: no append is under way, and what waits comes behind the piece.
    fn copy(&mut self) {
        let w = &mut self.world;
        let copy = self
            .copy
            .get_or_insert_with(|| Copy::new(w.log.len() as Offset));
        let (write, last) = w.machine.copy_piece(copy, 64);
        let first = w.log.len() as Offset;
        w.log.extend(write.records.iter().cloned());
        let effects = w.machine.written(write, Some(first), w.now);
        w.act(effects);
        if last {
            self.start = copy.from() as usize;
            self.copy = None;
        }
    }

    fn check(&self) {
        let machine = self.world.machine.store().contents();
        assert_eq!(
            replayed(&self.world.log, self.start).contents(),
            machine,
            "what is left of the log"
        );
        assert_eq!(
            replayed(&self.world.log, 0).contents(),
            machine,
            "all of it: the start was not moved before a crash"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A crash may come after each step: the log is then what it is, and its start is where it was, or is there already.
    #[test]
    fn log_read_again_is_what_the_machine_knows_at_every_step(steps in steps()) {
        let mut watched = Watched { world: World::new(), copy: None, start: 0 };
        watched.world.prompt = false;
        for step in &steps {
            watched.step(step);
            watched.check();
        }
    }
}

#[test]
fn copy_does_not_overtake_what_waits_nor_bring_back_what_is_deleted() {
    let mut w = World::new();
    w.commit_of("a", "", -1, "t", 1).unwrap();
    w.commit_of("b", "", -1, "t", 1).unwrap();
    w.commit_of("c", "", -1, "t", 1).unwrap();
    w.prompt = false;
    w.commit_of("a", "", -1, "t", 2).unwrap();
    let mut watched = Watched {
        world: w,
        copy: None,
        start: 0,
    };
    watched.copy();
    watched.world.land(true);
    let writes = watched
        .world
        .machine
        .delete("c", watched.world.now)
        .unwrap();
    watched.world.queue.extend(writes);
    watched.world.land(true);
    while watched.copy.is_some() {
        watched.copy();
    }
    assert!(watched.start > 0);
    watched.check();
    let left = replayed(&watched.world.log, watched.start);
    let offset = |g| left.commit(g, "t", 0).map(|c| c.offset);
    assert_eq!(
        (offset("a"), offset("b"), offset("c")),
        (Some(2), Some(1), None)
    );
}
