//! Waiting, pausing, ending: when a processor moves and when it stands still.

use std::rc::Rc;
use std::time::Duration;

use tidemill_rt::time;

use super::world::{
    Faults, LOUD_BYTES, MAIN, ROOM_BYTES, World, config, loud, simulate, simulate_with_room, start,
};
use crate::{Control, OnError, ProcessorState, Stopped};

async fn ms(ms: u64) {
    time::sleep(Duration::from_millis(ms)).await;
}

/// Takes all room that is free.
async fn take_room(world: &Rc<World>) -> impl Sized {
    world.room.acquire(world.room.available()).await
}

#[test]
fn x10_nothing_runs_before_there_is_room_for_its_output() {
    simulate(1, |world| async move {
        let taken = take_room(&world).await;
        world.append(&["0", "1"]);
        let running = start(&world, config(OnError::Fail));
        ms(1000).await;
        assert_eq!(world.calls.borrow().len(), 0);
        drop(taken);
        world.all_decided().await;
        assert_eq!(running.stop().await, Stopped::Told);
        assert_eq!(world.room.available(), world.room.total());
    });
}

#[test]
fn x10_room_is_kept_until_the_outcome_is_decided() {
    simulate(2, |world| async move {
        world.frozen.set(true);
        world.append(&["0", "1"]);
        let running = start(&world, config(OnError::Fail));
        ms(1000).await;
        assert_eq!(world.proposals.get(), 1);
        assert!(world.room.available() < world.room.total());
        world.thaw();
        world.all_decided().await;
        ms(10).await;
        assert_eq!(world.room.available(), world.room.total());
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn x10_processor_does_not_wait_for_room_that_it_holds_itself() {
    // Three outcomes fill it, and a processor has four under way.
    simulate_with_room(3, 2000, |world| async move {
        let running = start(&world, config(OnError::Fail));
        for n in 0..20 {
            world.append(&[&n.to_string()]);
            ms(1).await;
        }
        world.all_decided().await;
        assert_eq!(running.stop().await, Stopped::Told);
        assert_eq!(world.values(MAIN).len(), 20);
    });
}

#[test]
fn x8_outbox_stays_below_its_bound_although_the_function_puts_out_more_than_it_was_given() {
    for seed in 0..20 {
        let room = 20 * LOUD_BYTES as u64;
        simulate_with_room(seed, room, |world| async move {
            world.call_time.set(Duration::from_millis(2));
            let values: Vec<String> = (0..60).map(|n| format!("loud:{n}")).collect();
            for some in values.chunks(3) {
                world.append(&[&some[0], &some[1], &some[2]]);
            }
            // Several processors want room: all but one come to nothing.
            let running: Vec<_> = (0..4)
                .map(|_| start(&world, config(OnError::Fail)))
                .collect();
            world.all_decided().await;
            for running in running {
                assert_eq!(running.stop().await, Stopped::Told);
            }
            let largest = world.undecided_bytes_max.get();
            assert!(largest <= room, "{largest} bytes at once");
            assert_eq!(world.room.available(), room);
            let written: Vec<_> = world.values(MAIN);
            let expected = values.iter().map(|v| loud(v));
            assert!(written.iter().map(String::as_bytes).eq(expected));
        });
    }
}

#[test]
fn x8_run_without_room_for_its_output_is_run_again_when_there_is() {
    simulate(16, |world| async move {
        let taken = world.room.acquire(ROOM_BYTES - 1000).await;
        world.append(&["loud:0"]);
        let running = start(&world, config(OnError::Fail));
        ms(1000).await;
        assert_eq!((world.calls.borrow().len(), world.proposals.get()), (1, 0));
        assert_eq!(world.room.available(), 1000, "who waits holds nothing");
        drop(taken);
        world.all_decided().await;
        assert_eq!(world.calls.borrow().len(), 2);
        assert_eq!(running.stop().await, Stopped::Told);
        assert_eq!(world.room.available(), ROOM_BYTES);
    });
}

#[test]
fn x8_record_that_puts_out_more_than_the_outbox_may_hold_is_that_records_error() {
    let room = 2 * LOUD_BYTES as u64;
    simulate_with_room(17, room, |world| async move {
        world.append(&["0", "loud:1", "2"]);
        let running = start(&world, config(OnError::Skip));
        world.all_decided().await;
        assert_eq!(running.stats.skipped.get(), 1);
        assert_eq!(world.values(MAIN), ["main 0", "main 2"]);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn processor_that_waits_for_room_stops_and_pauses_when_told() {
    simulate(4, |world| async move {
        let taken = take_room(&world).await;
        world.append(&["0"]);
        let running = start(&world, config(OnError::Fail));
        ms(100).await;
        running.control.send(Control::Pause).unwrap();
        ms(1).await;
        assert_eq!(running.stats.state.get(), ProcessorState::Paused);
        running.control.send(Control::Run).unwrap();
        ms(100).await;
        assert_eq!(running.stop().await, Stopped::Told);
        drop(taken);
        assert_eq!(world.room.available(), world.room.total());
    });
}

#[test]
fn processor_whose_owner_is_gone_records_its_progress_and_ends() {
    simulate(5, |world| async move {
        world.append(&["quiet:0", "quiet:1"]);
        let running = start(&world, config(OnError::Fail));
        ms(50).await;
        assert_eq!(world.stands_at.get(), Some(0));
        drop(running.control);
        assert_eq!(running.task.await.unwrap(), Some(Stopped::Told));
        assert_eq!(world.stands_at.get(), Some(2));
    });
}

#[test]
fn progress_without_output_is_gathered_and_recorded_soon() {
    simulate(6, |world| async move {
        let running = start(&world, config(OnError::Fail));
        let began = time::Instant::now();
        for n in 0..100 {
            world.append(&[&format!("quiet:{n}")]);
            ms(10).await;
        }
        let proposals = world.proposals.get();
        assert!(
            (4..=6).contains(&proposals),
            "{proposals} outcomes in a second"
        );
        world.all_decided().await;
        assert!(began.elapsed() < Duration::from_millis(1250));
        assert!(running.stats.latencies.borrow().is_empty());
        assert_eq!(running.stats.records_in.get(), 100);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn idle_processor_records_progress_without_output_after_a_moment() {
    simulate(7, |world| async move {
        world.append(&["quiet:0", "quiet:1", "quiet:2"]);
        let running = start(&world, config(OnError::Fail));
        ms(150).await;
        assert_eq!(world.proposals.get(), 0);
        ms(100).await;
        assert_eq!((world.proposals.get(), world.stands_at.get()), (1, Some(3)));
        ms(10_000).await;
        assert_eq!(world.proposals.get(), 1);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn gathered_progress_goes_with_the_output_that_comes_next() {
    simulate(8, |world| async move {
        world.append(&["quiet:0"]);
        let running = start(&world, config(OnError::Fail));
        ms(50).await;
        world.append(&["1"]);
        world.all_decided().await;
        assert_eq!(*world.decided.borrow(), [(0, 2)]);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn pause_records_progress_and_stands_still_until_resumed() {
    simulate(9, |world| async move {
        world.append(&["quiet:0", "quiet:1"]);
        let running = start(&world, config(OnError::Fail));
        ms(50).await;
        running.control.send(Control::Pause).unwrap();
        ms(20).await;
        assert_eq!(world.stands_at.get(), Some(2));
        world.append(&["2", "3"]);
        ms(5000).await;
        assert_eq!(running.stats.state.get(), ProcessorState::Paused);
        assert_eq!(world.stands_at.get(), Some(2));
        running.control.send(Control::Run).unwrap();
        world.all_decided().await;
        assert_eq!(world.values(MAIN), ["main 2", "main 3"]);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn deleted_input_ends_the_processor() {
    simulate(10, |world| async move {
        let running = start(&world, config(OnError::Fail));
        ms(10).await;
        world.delete_topic();
        assert_eq!(running.task.await.unwrap(), Some(Stopped::Detached));
    });
}

#[test]
fn detached_transform_ends_its_processor_and_one_never_attached_does_not_begin() {
    simulate(11, |world| async move {
        let running = start(&world, config(OnError::Fail));
        ms(10).await;
        world.stands_at.set(None);
        world.append(&["0"]);
        assert_eq!(running.task.await.unwrap(), Some(Stopped::Detached));
        let another = start(&world, config(OnError::Fail));
        assert_eq!(another.task.await.unwrap(), Some(Stopped::Detached));
        assert_eq!(world.calls.borrow().len(), 1);
        assert_eq!(world.values(MAIN), [""; 0]);
    });
}

#[test]
fn output_topic_that_is_gone_is_reported_and_tried_ever_more_seldom() {
    simulate(12, |world| async move {
        world.output_gone.set(true);
        world.append(&["0"]);
        let running = start(&world, config(OnError::Fail));
        ms(60_000).await;
        assert!(world.told("output topic 'there' does not exist"));
        assert!(
            world.proposals.get() < 12,
            "{} proposals in a minute",
            world.proposals.get()
        );
        assert_eq!(running.stats.state.get(), ProcessorState::Failing);
        world.output_gone.set(false);
        world.all_decided().await;
        assert_eq!(world.values(MAIN), ["main 0"]);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn input_that_cannot_be_read_is_tried_again() {
    simulate(13, |world| async move {
        world.faults.set(Faults {
            read: 1000,
            ..Faults::default()
        });
        world.append(&["0"]);
        let running = start(&world, config(OnError::Fail));
        ms(1000).await;
        assert_eq!(running.stats.state.get(), ProcessorState::Failing);
        assert!(world.told("input cannot be read"));
        world.faults.set(Faults::default());
        world.all_decided().await;
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn x9_progress_passes_over_what_the_source_leaves_out() {
    simulate(14, |world| async move {
        world.append(&["0", "1"]);
        let running = start(&world, config(OnError::Fail));
        world.all_decided().await;
        world.append_left_out(5);
        world.all_decided().await;
        assert_eq!(world.stands_at.get(), Some(7));
        assert_eq!(
            world.calls.borrow().len(),
            1,
            "nothing is run without a record"
        );
        assert_eq!(running.stats.records_in.get(), 2);
        assert_eq!(running.stop().await, Stopped::Told);
    });
}

#[test]
fn input_deleted_before_it_was_read_is_counted_and_reported() {
    simulate(15, |world| async move {
        world.append(&["0", "1", "2"]);
        world.append(&["3", "4", "5"]);
        // Retention works in the middle of a batch too.
        world.delete_below(4);
        let running = start(&world, config(OnError::Fail));
        world.all_decided().await;
        let stats = running.stats.clone();
        assert_eq!(running.stop().await, Stopped::Told);
        assert_eq!((stats.missed.get(), stats.records_in.get()), (4, 2));
        assert_eq!(world.values(MAIN), ["main 4", "main 5"]);
        assert!(world.told("records missed: 4"));
    });
}
