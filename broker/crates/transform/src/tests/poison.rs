//! Records that fail: what becomes of them, and that nothing becomes of their siblings.

use std::rc::Rc;
use std::time::Duration;

use tidemill_model::Offset;
use tidemill_rt::time;

use super::world::{FIRST_MS, Faults, LETTERS, LOUD_BYTES, MAIN, World, config, simulate, start};
use crate::{Control, OnError, ProcessorConfig, ProcessorState, ProcessorStats, Stopped};

/// Every way a record may make the function fail.
const WAYS: [&str; 7] = [
    "trap",
    "slow",
    "garbage",
    "fail",
    "twice",
    "elsewhere",
    "huge",
];

/// Two batches, of which the second has a record at offset 5 that fails in the given way.
fn append_poisoned(world: &World, way: &str) {
    world.append(&["0", "1", "2"]);
    world.append(&["3", "4", &format!("{way}:5"), "6", "7"]);
}

fn mains(offsets: impl IntoIterator<Item = Offset>) -> Vec<String> {
    offsets.into_iter().map(|o| format!("main {o}")).collect()
}

/// Runs everything there is through a processor.
async fn run_all(world: &Rc<World>, config: ProcessorConfig) -> Rc<ProcessorStats> {
    let running = start(world, config);
    world.all_decided().await;
    let stats = running.stats.clone();
    assert_eq!(running.stop().await, Stopped::Told);
    assert_eq!(world.room.available(), world.room.total());
    stats
}

#[test]
fn skipped_record_stops_none_of_its_siblings() {
    for way in WAYS {
        simulate(1, |world| async move {
            append_poisoned(&world, way);
            let stats = run_all(&world, config(OnError::Skip)).await;
            assert_eq!(world.values(MAIN), mains([0, 1, 2, 3, 4, 6, 7]), "{way}");
            assert_eq!(
                (stats.skipped.get(), stats.records_in.get()),
                (1, 8),
                "{way}"
            );
            assert_eq!(
                stats.last_error.borrow().as_ref().unwrap().offset,
                Some(5),
                "{way}"
            );
        });
    }
}

#[test]
fn dead_letter_keeps_the_record_and_says_what_happened() {
    for way in WAYS {
        simulate(2, |world| async move {
            append_poisoned(&world, way);
            let stats = run_all(&world, config(OnError::DeadLetter(LETTERS))).await;
            assert_eq!(world.values(MAIN), mains([0, 1, 2, 3, 4, 6, 7]), "{way}");
            assert_eq!(stats.dead_lettered.get(), 1, "{way}");
            let letters = world.out.borrow()[&LETTERS].clone();
            assert_eq!(letters.len(), 1, "{way}");
            assert_eq!(letters[0].value, format!("{way}:5"));
            assert_eq!(letters[0].timestamp, FIRST_MS + 5);
            let names: Vec<&str> = letters[0]
                .headers
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            let expected = [
                "from",
                "tidemill.error",
                "tidemill.transform",
                "tidemill.version",
                "tidemill.input.topic",
                "tidemill.input.partition",
                "tidemill.input.offset",
            ];
            assert_eq!(names, expected);
            let rest: Vec<&str> = letters[0].headers[2..]
                .iter()
                .map(|(_, v)| v.as_str())
                .collect();
            assert_eq!(rest, ["mask", "7", "orders", "3", "5"]);
        });
    }
}

#[test]
fn record_passed_through_stands_unchanged_in_its_place() {
    for way in WAYS {
        simulate(3, |world| async move {
            append_poisoned(&world, way);
            let stats = run_all(&world, config(OnError::PassThrough)).await;
            let mut expected = mains([0, 1, 2, 3, 4]);
            expected.push(format!("{way}:5"));
            expected.extend(mains([6, 7]));
            assert_eq!(world.values(MAIN), expected);
            assert_eq!(stats.passed_through.get(), 1);
            let passed = world.out.borrow()[&MAIN][5].clone();
            assert_eq!(passed.headers, [("from".to_owned(), "test".to_owned())]);
            assert_eq!(passed.timestamp, FIRST_MS + 5);
        });
    }
}

#[test]
fn failing_record_stops_its_transform_there_and_a_fixed_version_goes_on() {
    for way in WAYS {
        simulate(4, |world| async move {
            append_poisoned(&world, way);
            let running = start(&world, config(OnError::Fail));
            world.decided_to(5).await;
            time::sleep(Duration::from_secs(20)).await;
            assert_eq!(world.stands_at.get(), Some(5), "{way}");
            assert_eq!(world.values(MAIN), mains(0..5), "{way}");
            assert_eq!(running.stats.state.get(), ProcessorState::Failing);
            assert!(world.told("record at offset 5 failed"));
            assert_eq!(running.stop().await, Stopped::Told);
            world.fixed.set(true);
            let next = ProcessorConfig {
                version: 8,
                ..config(OnError::Fail)
            };
            run_all(&world, next).await;
            let mut expected = mains(0..5);
            expected.push(format!("main {way}:5"));
            expected.extend(mains([6, 7]));
            assert_eq!(world.values(MAIN), expected);
        });
    }
}

#[test]
fn backoff_at_a_failing_record_grows_to_half_a_minute_and_begins_anew_after_progress() {
    simulate(5, |world| async move {
        world.append(&["0", "fail:1", "2", "fail:3"]);
        let running = start(&world, config(OnError::Fail));
        time::sleep(Duration::from_secs(200)).await;
        let waits = |world: &World| {
            let events = world.events.borrow();
            let wait = |e: &str| {
                e.split("again in ")
                    .nth(1)?
                    .split(' ')
                    .next()?
                    .parse::<u64>()
                    .ok()
            };
            events
                .iter()
                .filter_map(|(_, e)| wait(e))
                .collect::<Vec<_>>()
        };
        let grown = waits(&world);
        assert_eq!(grown[..4], [100, 200, 400, 800]);
        assert_eq!(grown.last(), Some(&30_000));
        world.events.borrow_mut().clear();
        world.delete_below(2);
        world.stands_at.set(Some(2));
        running.control.send(Control::Pause).unwrap();
        time::sleep(Duration::from_secs(1)).await;
        running.control.send(Control::Run).unwrap();
        world.decided_to(3).await;
        time::sleep(Duration::from_secs(1)).await;
        assert_eq!(waits(&world)[..2], [100, 200]);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn policy_comes_after_as_many_attempts_as_configured() {
    for attempts in [1, 2, 5] {
        simulate(6, |world| async move {
            append_poisoned(&world, "trap");
            let config = ProcessorConfig {
                attempts,
                ..config(OnError::Skip)
            };
            let stats = run_all(&world, config).await;
            let alone = world.calls.borrow().iter().filter(|c| **c == [5]).count();
            assert_eq!(alone, attempts as usize);
            assert_eq!(stats.failed.get(), u64::from(attempts));
            assert_eq!(stats.skipped.get(), 1);
        });
    }
}

#[test]
fn record_that_fails_once_and_then_works_stands_in_its_place() {
    for seed in 0..50 {
        simulate(seed, |world| async move {
            world.faults.set(Faults {
                trap: 300,
                ..Faults::default()
            });
            world.append(&["0", "1", "2", "3", "4", "5", "6", "7"]);
            let config = ProcessorConfig {
                attempts: 60,
                ..config(OnError::Skip)
            };
            let stats = run_all(&world, config).await;
            assert_eq!(world.values(MAIN), mains(0..8));
            assert_eq!(stats.skipped.get(), 0);
        });
    }
}

#[test]
fn trap_is_looked_for_by_halves() {
    simulate(7, |world| async move {
        world.append(&["0", "1", "2", "trap:3", "4", "5", "6", "7"]);
        run_all(&world, config(OnError::Skip)).await;
        let expected: [&[Offset]; 7] = [
            &[0, 1, 2, 3, 4, 5, 6, 7],
            &[0, 1, 2, 3],
            &[0, 1],
            &[2, 3],
            &[2],
            &[3],
            &[4, 5, 6, 7],
        ];
        assert_eq!(*world.calls.borrow(), expected);
    });
}

#[test]
fn timeout_falls_to_single_records_at_once() {
    simulate(8, |world| async move {
        world.append(&["0", "1", "slow:2", "3"]);
        run_all(&world, config(OnError::Skip)).await;
        let expected: [&[Offset]; 5] = [&[0, 1, 2, 3], &[0], &[1], &[2], &[3]];
        assert_eq!(*world.calls.borrow(), expected);
    });
}

#[test]
fn refused_record_costs_no_further_call_when_it_is_settled_beside_its_siblings() {
    simulate(9, |world| async move {
        world.append(&["0", "twice:1", "2"]);
        world.append(&["fail:3", "4", "fail:5"]);
        let stats = run_all(&world, config(OnError::DeadLetter(LETTERS))).await;
        assert_eq!(world.calls.borrow().len(), 1);
        assert_eq!(world.values(MAIN), mains([0, 2, 4]));
        assert_eq!(world.values(LETTERS), ["twice:1", "fail:3", "fail:5"]);
        assert_eq!(stats.dead_lettered.get(), 3);
    });
}

#[test]
fn dead_letters_that_share_an_output_keep_its_order() {
    simulate(10, |world| async move {
        world.append(&["0", "fail:1", "2", "fail:3", "4"]);
        run_all(&world, config(OnError::DeadLetter(MAIN))).await;
        assert_eq!(
            world.values(MAIN),
            ["main 0", "fail:1", "main 2", "fail:3", "main 4"]
        );
    });
}

#[test]
fn guest_that_is_busy_is_nobodys_fault() {
    for policy in [OnError::Skip, OnError::DeadLetter(LETTERS), OnError::Fail] {
        simulate(11, |world| async move {
            world.faults.set(Faults {
                busy: 1000,
                ..Faults::default()
            });
            world.append(&["0", "1"]);
            let running = start(&world, config(policy));
            time::sleep(Duration::from_secs(2)).await;
            assert_eq!(world.stands_at.get(), Some(0));
            assert_eq!(
                (running.stats.failed.get(), running.stats.skipped.get()),
                (0, 0)
            );
            assert_eq!(running.stats.state.get(), ProcessorState::Failing);
            world.faults.set(Faults::default());
            world.all_decided().await;
            assert_eq!(running.stop().await, Stopped::Told);
            assert_eq!(world.values(MAIN), mains([0, 1]));
            assert_eq!(world.values(LETTERS), [""; 0]);
        });
    }
}

#[test]
fn busy_guest_does_not_undo_what_was_decided_piece_by_piece() {
    for seed in 0..20 {
        simulate(seed, |world| async move {
            world.faults.set(Faults {
                busy: 300,
                ..Faults::default()
            });
            let values: Vec<String> = (0..60).map(|n| format!("slow:{n}")).collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            world.append(&values);
            let stats = run_all(&world, config(OnError::Skip)).await;
            assert_eq!(stats.skipped.get(), 60);
        });
    }
}

#[test]
fn x8_large_outputs_are_spread_over_several_outcomes() {
    simulate(12, |world| async move {
        world.append(&["large:0", "large:1", "large:2", "large:3"]);
        run_all(&world, config(OnError::Fail)).await;
        let values = world.values(MAIN);
        let starts: Vec<&str> = values.iter().map(|v| &v[..7]).collect();
        assert_eq!(starts, ["large:0", "large:1", "large:2", "large:3"]);
        assert!(world.decided.borrow().len() > 1);
    });
}

#[test]
fn x8_dead_letters_settled_beside_the_output_count_like_output() {
    simulate(14, |world| async move {
        // Every record fails, and all the letters together are more than the outbox holds.
        let value = format!("fail:{}", "x".repeat(6 << 20));
        world.append(&[value.as_str(); 8]);
        world.append(&["8"]);
        let stats = run_all(&world, config(OnError::DeadLetter(LETTERS))).await;
        assert_eq!(stats.dead_lettered.get(), 8);
        assert!(world.values(LETTERS).iter().all(|letter| *letter == value));
        assert_eq!(world.values(MAIN), ["main 8"]);
        let largest = world.undecided_bytes_max.get();
        assert!(largest <= world.room.total(), "{largest} bytes at once");
    });
    simulate(14, |world| async move {
        let names = vec!["fail:1"; 20_000];
        world.append(&names);
        let stats = run_all(&world, config(OnError::DeadLetter(LETTERS))).await;
        assert_eq!(stats.dead_lettered.get(), 20_000);
    });
}

#[test]
fn x8_outcome_that_the_ring_finds_too_large_is_cut_up_and_not_tried_for_ever() {
    simulate(15, |world| async move {
        world.refused_above.set(3 * LOUD_BYTES);
        let values: Vec<String> = (0..20).map(|n| format!("loud:{n}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        world.append(&values);
        run_all(&world, config(OnError::Fail)).await;
        assert_eq!(world.values(MAIN).len(), 20);
    });
}

#[test]
fn many_refusals_of_one_call_are_told_by_their_number() {
    simulate(16, |world| async move {
        world.append(&vec!["fail:1"; 1000]);
        let stats = run_all(&world, config(OnError::Skip)).await;
        assert_eq!((stats.failed.get(), stats.skipped.get()), (1000, 1000));
        assert!(world.told("992 more records failed, up to offset 999"));
        assert!(world.events.borrow().len() < 20);
        let last = stats.last_error.borrow().clone();
        assert_eq!(last.and_then(|e| e.offset), Some(999));
    });
}

#[test]
fn input_is_cut_at_the_records_that_the_function_refused_by_name() {
    for policy in [OnError::PassThrough, OnError::DeadLetter(MAIN)] {
        simulate(17, |world| async move {
            world.append(&["0", "1", "2", "fail:3", "4", "5", "6", "7"]);
            world.append(&["8", "9"]);
            run_all(&world, config(policy)).await;
            let expected: [&[Offset]; 5] = [
                &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
                &[0, 1, 2],
                &[3],
                &[4, 5, 6, 7],
                &[8, 9],
            ];
            assert_eq!(*world.calls.borrow(), expected);
            let mut values = mains(0..3);
            values.push("fail:3".to_owned());
            values.extend(mains(4..10));
            assert_eq!(world.values(MAIN), values);
        });
    }
}

#[test]
fn stop_does_not_wait_for_a_call_that_runs_or_is_queued() {
    simulate(18, |world| async move {
        world.call_time.set(Duration::from_secs(60));
        world.append(&["0", "1"]);
        let called = world.called.notified();
        let running = start(&world, config(OnError::Fail));
        called.await;
        let began = time::Instant::now();
        assert_eq!(running.stop().await, Stopped::Told);
        assert!(began.elapsed() < Duration::from_secs(1));
        world.call_time.set(Duration::from_millis(1));
        run_all(&world, config(OnError::Fail)).await;
        assert_eq!(world.values(MAIN), mains([0, 1]));
    });
}

#[test]
fn stop_is_obeyed_in_the_middle_of_a_long_row_of_failures() {
    simulate(13, |world| async move {
        world.call_time.set(Duration::from_secs(1));
        let values: Vec<String> = (0..1000).map(|n| format!("slow:{n}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        world.append(&values);
        let config = ProcessorConfig {
            attempts: 100,
            ..config(OnError::Skip)
        };
        let running = start(&world, config);
        time::sleep(Duration::from_millis(150_500)).await;
        let began = time::Instant::now();
        assert_eq!(running.stop().await, Stopped::Told);
        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!(
            world.stands_at.get(),
            Some(1),
            "what was decided by then stays so"
        );
    });
}
