//! Turns on a guest thread, and what becomes of calls that panic.

use tidemill_rt::runtime::{EngineChoice, block_on};

use super::*;
use crate::factory::HostConfig;

const LONG_NS: u64 = 1_000_000;
const SHORT_NS: u64 = 1_000;

fn registered() -> Registered {
    Registered {
        module: Module::that_panics(),
        setup: Setup {
            env: Vec::new(),
            limits: Limits::default(),
            outputs: Vec::new(),
        },
    }
}

fn call() -> Call {
    Call {
        partition: 0,
        batches: Vec::new(),
        done: reply().0,
    }
}

impl State {
    /// Runs the next call, which takes `cost_ns` by transform, and queues another of the same.
    fn turn(&mut self, cost_ns: impl Fn(u64) -> u64) -> u64 {
        let (key, registration) = self.begin();
        self.charge(key, registration, cost_ns(key.0));
        assert!(self.push(key, call()));
        self.ended(key, registration);
        key.0
    }

    fn begin(&mut self) -> (TransformKey, u64) {
        let Some(Turn::Begin(begin)) = self.next(|_| true) else {
            panic!("no call is to be begun");
        };
        (begin.key, begin.registration)
    }

    fn turns_of(&mut self, key: u64, turns: usize) -> usize {
        (0..turns).filter(|_| self.turn(|_| LONG_NS) == key).count()
    }
}

fn state_of(keys: std::ops::Range<u64>) -> State {
    let mut state = State::default();
    for key in keys {
        state.register(TransformKey(key), registered());
    }
    state
}

#[test]
fn new_transform_does_not_starve_those_that_ran_for_long() {
    let mut state = state_of(0..1);
    state.push(TransformKey(0), call());
    (0..1000).for_each(|_| assert_eq!(state.turn(|_| LONG_NS), 0));
    // While the old one's queue is empty: its only call is running.
    let (running, registration) = state.begin();
    state.register(TransformKey(1), registered());
    state.push(TransformKey(1), call());
    state.charge(running, registration, LONG_NS);
    state.push(running, call());
    state.ended(running, registration);
    let turns = state.turns_of(0, 100);
    assert!((49..=51).contains(&turns), "{turns} of 100");
}

#[test]
fn idle_transform_has_saved_nothing_up_when_it_comes_back() {
    let mut state = state_of(0..2);
    state.push(TransformKey(0), call());
    (0..1000).for_each(|_| assert_eq!(state.turn(|_| LONG_NS), 0));
    let (running, registration) = state.begin();
    state.push(TransformKey(1), call());
    state.charge(running, registration, LONG_NS);
    state.push(running, call());
    state.ended(running, registration);
    let turns = state.turns_of(0, 100);
    assert!((49..=51).contains(&turns), "{turns} of 100");
}

#[test]
fn long_and_short_calls_get_the_same_time() {
    let mut state = state_of(0..2);
    (0..2).for_each(|key| assert!(state.push(TransformKey(key), call())));
    let cost = |key| if key == 0 { LONG_NS } else { SHORT_NS };
    let long = (0..10_010).filter(|_| state.turn(cost) == 0).count();
    assert!((9..=11).contains(&long), "{long} long calls");
}

#[test]
fn weight_multiplies_the_share() {
    let mut state = state_of(0..2);
    (0..2).for_each(|key| assert!(state.push(TransformKey(key), call())));
    state.transforms.get_mut(&TransformKey(0)).unwrap().weight = 3;
    let turns = state.turns_of(0, 400);
    assert!((298..=302).contains(&turns), "{turns} of 400");
}

#[test]
fn long_call_has_a_turn_only_when_it_has_used_less_than_the_others() {
    let mut state = state_of(0..2);
    state.push(TransformKey(0), call());
    let (long, registration) = state.begin();
    state.charge(long, registration, LONG_NS);
    state.push(TransformKey(1), call());
    let (short, other) = state.begin();
    assert_eq!(short, TransformKey(1));
    state.charge(short, other, 2 * LONG_NS);
    assert!(matches!(state.next(|_| true), Some(Turn::GoOn(key)) if key == long));
    // What may not begin waits, and what runs goes on.
    state.push(TransformKey(1), call());
    state.ended(short, other);
    state.charge(long, registration, 100 * LONG_NS);
    assert!(matches!(state.next(|_| false), Some(Turn::GoOn(key)) if key == long));
}

#[test]
fn calls_that_panic_are_answered_by_a_thread_that_lives_on() {
    block_on(EngineChoice::Epoll, || async {
        let factory = Factory::new(HostConfig::default());
        let config = GuestConfig {
            name: "guest-panic".into(),
            cpus: vec![],
            memory_bytes: 1 << 20,
        };
        let guest = Guest::start(&factory, config);
        let Registered { module, setup } = registered();
        guest.register(TransformKey(0), module, setup.env, setup.limits, Vec::new());
        for _ in 0..2 {
            let failed = guest
                .call(TransformKey(0), 0, Vec::new())
                .await
                .unwrap_err();
            assert_eq!(
                failed.error,
                CallError::Unavailable("the engine failed: a bug of the engine".into())
            );
            assert!(guest.is_running());
        }
    })
    .unwrap();
}
