//! Turns on a guest thread, and what becomes of calls that panic.

use tidemill_rt::runtime::{EngineChoice, block_on};

use super::*;
use crate::factory::HostConfig;

const LONG_NS: u64 = 1_000_000;
const SHORT_NS: u64 = 1_000;
const MEMORY: usize = 1 << 30;

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
        batches: Vec::new().into(),
        done: reply().0,
        given_up_ns: 0,
    }
}

impl State {
    /// Runs the next call, which takes `cost_ns` by transform, and queues another of the same.
    fn turn(&mut self, cost_ns: impl Fn(u64) -> u64) -> u64 {
        let (key, registration) = self.begin();
        self.charge(key, registration, cost_ns(key.0));
        assert!(self.push(key, call()));
        self.ended(key, registration, 0);
        key.0
    }

    fn begin(&mut self) -> (TransformKey, u64) {
        let Some(Turn::Begin(begin)) = self.next(&Lanes::of(MEMORY)) else {
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
    state.ended(running, registration, LONG_NS);
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
    state.ended(running, registration, LONG_NS);
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
    assert!(matches!(state.next(&Lanes::of(MEMORY)), Some(Turn::GoOn(key)) if key == long));
    // What may not begin waits, and what runs goes on.
    let mut full = Lanes::of(MEMORY);
    full.begin(0, MEMORY);
    state.push(TransformKey(1), call());
    state.ended(short, other, LONG_NS);
    state.charge(long, registration, 100 * LONG_NS);
    assert!(matches!(state.next(&full), Some(Turn::GoOn(key)) if key == long));
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

/// A guest thread without guests: calls of transforms that always have another one to make, in slices of 5 ms.
struct Crowd {
    state: State,
    lanes: Lanes,
    /// By transform: CPU time of each call, in ns.
    needs: BTreeMap<TransformKey, u64>,
    running: BTreeMap<TransformKey, (Begin, u64)>,
    /// By transform: CPU time had, in ns, and calls made.
    had: BTreeMap<TransformKey, (u64, u64)>,
}

const SLICE_NS: u64 = 5_000_000;

impl Crowd {
    fn of(needs_ms_and_memory: &[(u64, usize)]) -> Crowd {
        let mut crowd = Crowd {
            state: State::default(),
            lanes: Lanes::of(MEMORY),
            needs: BTreeMap::new(),
            running: BTreeMap::new(),
            had: BTreeMap::new(),
        };
        for (n, (ms, memory_bytes)) in needs_ms_and_memory.iter().enumerate() {
            let key = TransformKey(n as u64);
            let mut made_of = registered();
            made_of.setup.limits.memory_bytes = *memory_bytes;
            crowd.state.register(key, made_of);
            crowd.needs.insert(key, ms * 1_000_000);
            assert!(crowd.state.push(key, call()));
        }
        crowd
    }

    fn slice(&mut self) -> u64 {
        let key = match self.state.next(&self.lanes) {
            None => panic!("somebody can always go on"),
            Some(Turn::GoOn(key)) => key,
            Some(Turn::Begin(begin)) => {
                let key = begin.key;
                let bytes = begin.made_of.setup.limits.memory_bytes;
                self.lanes.begin(begin.class, bytes);
                self.running.insert(key, (begin, 0));
                key
            }
        };
        let (mut begin, mut spent) = self.running.remove(&key).unwrap();
        let bytes = begin.made_of.setup.limits.memory_bytes;
        let slice = SLICE_NS.min(self.needs[&key] - spent);
        spent += slice;
        self.state.charge(key, begin.registration, slice);
        self.lanes.end(begin.class, bytes);
        let had = self.had.entry(key).or_default();
        had.0 += slice;
        if spent == self.needs[&key] {
            had.1 += 1;
            self.state.ended(key, begin.registration, spent);
            assert!(self.state.push(key, call()));
            return slice;
        }
        match self.lanes.goes_on(begin.class, spent, bytes) {
            Ok(class) => {
                begin.class = class;
                self.lanes.begin(class, bytes);
                self.running.insert(key, (begin, spent));
            }
            Err(class) => self
                .state
                .put_back(key, begin.registration, class, begin.call),
        }
        slice
    }

    /// Share of the CPU time and calls that each got in so many seconds of it.
    fn runs(mut self, seconds: u64) -> Vec<(f64, u64)> {
        let (mut spent, all) = (0, seconds * 1_000_000_000);
        while spent < all {
            spent += self.slice();
        }
        let had = |key| self.had.get(key).copied().unwrap_or_default();
        let shares = self.needs.keys().map(had);
        shares
            .map(|(ns, calls)| (ns as f64 / spent as f64, calls))
            .collect()
    }
}

#[test]
fn short_calls_get_their_share_beside_any_number_of_long_ones() {
    for (burners, burn_ms, memory) in [
        (20, 3_000, 64 << 20),
        (100, 3_000, 64 << 20),
        (40, 60_000, 64 << 20),
        (2, 60_000, 512 << 20),
        (30, 200, 64 << 20),
    ] {
        let mut needs = vec![(burn_ms, memory); burners];
        needs.push((3, 64 << 20));
        let shares = Crowd::of(&needs).runs(600);
        let (share, _) = shares[burners];
        let fair = 1.0 / (burners + 1) as f64;
        // Of long ones that run at once there are fewer, so it may get more than its share.
        assert!(
            (0.8 * fair..0.4).contains(&share),
            "{burners} of {burn_ms} ms: {share}, fair is {fair}"
        );
    }
}

#[test]
fn calls_of_every_length_come_to_an_end_and_get_about_their_share() {
    let lengths = [3, 20, 50, 150, 400, 1_500, 5_000, 12_000, 40_000];
    let needs: Vec<(u64, usize)> = lengths
        .iter()
        .cycle()
        .take(45)
        .map(|ms| (*ms, 64 << 20))
        .collect();
    for ((share, calls), (ms, _)) in Crowd::of(&needs).runs(5_000).into_iter().zip(&needs) {
        assert!(calls > 0, "no call of {ms} ms has ended");
        assert!((0.3..3.0).contains(&(share * 45.0)), "{ms} ms: {share}");
    }
}

#[test]
fn transform_whose_instance_may_be_large_is_not_starved_by_small_ones() {
    let mut needs = vec![(12, 64 << 20); 40];
    needs.push((12, 128 << 20));
    needs.push((400, 512 << 20));
    let shares = Crowd::of(&needs).runs(600);
    for (share, calls) in &shares[40..] {
        assert!(*calls > 10 && share * 42.0 > 0.5, "{share}, {calls} calls");
    }
}

#[test]
fn transform_with_a_large_instance_is_not_starved_by_longer_calls_of_every_length() {
    for large in [256 << 20, 512 << 20] {
        let mut needs: Vec<(u64, usize)> = (0..20).map(|n| (60 + 9 * n, 64 << 20)).collect();
        needs.push((12, large));
        let (share, calls) = Crowd::of(&needs).runs(120)[20];
        assert!(
            calls > 10 && share * 21.0 > 0.1,
            "{large}: {share}, {calls} calls"
        );
    }
}

#[test]
fn call_beyond_what_a_transform_may_have_waiting_is_refused_and_costs_no_other() {
    let mut state = state_of(0..2);
    let pushed = (0..2 * CALLS_WAITING_MAX).filter(|_| state.push(TransformKey(0), call()));
    assert_eq!(pushed.count(), CALLS_WAITING_MAX);
    assert!(state.push(TransformKey(1), call()));
}
