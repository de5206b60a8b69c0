//! The channels' rules, under the simulator with several seeds, so that the order of tasks varies.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tidemill_rt::chan::mpsc::{self, TryRecvError};
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::semaphore::Semaphore;
use tidemill_rt::chan::{oneshot, watch};
use tidemill_rt::mailbox;
use tidemill_rt::sim::{Sim, Stopped, for_seeds};
use tidemill_rt::task::{Queue, spawn, yield_now};
use tidemill_rt::time;

const SEEDS: u64 = 30;

fn each_seed<Fut: Future<Output = ()>>(test: impl Fn() -> Fut) {
    for_seeds("rt", SEEDS, |seed| {
        let sim = Sim::new(seed);
        sim.block_on(test()).unwrap();
    });
}

#[test]
fn oneshot_gives_value_or_says_closed() {
    each_seed(|| async {
        let (tx, rx) = oneshot::channel();
        spawn(Queue::Kafka, async move { tx.send(1) });
        assert_eq!(rx.await, Ok(1));
        let (tx, rx) = oneshot::channel::<u8>();
        spawn(Queue::Kafka, async move { drop(tx) });
        assert_eq!(rx.await, Err(oneshot::Closed));
        let (tx, rx) = oneshot::channel();
        drop(rx);
        assert!(tx.is_closed());
        assert_eq!(tx.send(2), Err(2));
    });
}

#[test]
fn mpsc_keeps_order_and_bound() {
    each_seed(|| async {
        let (tx, mut rx) = mpsc::channel(3);
        spawn(Queue::Kafka, async move {
            for i in 0..50 {
                tx.send(i).await.unwrap();
                assert!(tx.len() <= 3);
            }
        });
        for i in 0..50 {
            assert_eq!(rx.recv().await, Some(i));
        }
        assert_eq!(rx.recv().await, None);
        assert_eq!(rx.try_recv(), Err(TryRecvError::Closed));
    });
}

#[test]
fn mpsc_receiver_gone_wakes_and_refuses_senders() {
    each_seed(|| async {
        let (tx, rx) = mpsc::channel(1);
        tx.send(0).await.unwrap();
        let waiting = tx.clone();
        let sender = spawn(Queue::Kafka, async move { waiting.send(1).await });
        yield_now().await;
        drop(rx);
        assert_eq!(sender.await.unwrap(), Err(1));
        assert_eq!(tx.try_send(2), Err(2));
    });
}

#[test]
fn mpsc_weak_sender_ends_with_the_last_sender() {
    each_seed(|| async {
        let (tx, mut rx) = mpsc::channel::<u8>(1);
        let weak = tx.downgrade();
        let second = weak.upgrade().unwrap();
        drop(tx);
        second.send(1).await.unwrap();
        drop(second);
        assert!(weak.upgrade().is_none());
        assert_eq!(rx.recv().await, Some(1));
        assert_eq!(rx.recv().await, None);
    });
}

#[test]
fn mpsc_send_given_up_leaves_room_to_others() {
    each_seed(|| async {
        let (tx, mut rx) = mpsc::channel(1);
        tx.send(0).await.unwrap();
        let (first, second) = (tx.clone(), tx.clone());
        let abandoned = spawn(Queue::Kafka, async move {
            time::timeout(Duration::from_millis(1), first.send(1))
                .await
                .is_err()
        });
        let waiting = spawn(Queue::Kafka, async move { second.send(2).await });
        assert!(abandoned.await.unwrap());
        assert_eq!(rx.recv().await, Some(0));
        waiting.await.unwrap().unwrap();
        assert_eq!(rx.recv().await, Some(2));
    });
}

#[test]
fn watch_shows_the_latest_and_closes() {
    each_seed(|| async {
        let (tx, mut rx) = watch::channel(0);
        let mut late = tx.subscribe();
        spawn(Queue::Kafka, async move {
            for i in 1..=5 {
                tx.send(i).unwrap();
                yield_now().await;
            }
        });
        rx.wait_for(|v| *v == 5).await.unwrap();
        late.changed().await.unwrap();
        while late.changed().await.is_ok() {}
        assert_eq!(*late.borrow(), 5);
        assert_eq!(rx.changed().await, Err(watch::Closed));
    });
}

#[test]
fn watch_without_receivers_refuses_and_keeps_its_value() {
    let (tx, rx) = watch::channel(0);
    drop(rx);
    assert_eq!(tx.send(1), Err(1));
    assert_eq!(*tx.borrow(), 0);
    let rx = tx.subscribe();
    tx.send(2).unwrap();
    assert_eq!(*rx.borrow(), 2);
    assert!(!tx.send_if_modified(|_| false));
}

#[test]
fn notified_counts_from_the_call() {
    each_seed(|| async {
        let notify = Notify::new();
        let before = notify.notified();
        notify.notify_all();
        before.await;
        let after = notify.notified();
        assert!(time::timeout(Duration::from_secs(1), after).await.is_err());
    });
}

#[test]
fn semaphore_is_first_come_first_served() {
    each_seed(|| async {
        let budget = Semaphore::new(10);
        let held = budget.acquire(8).await;
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = Vec::new();
        for amount in [7, 5, 99] {
            let (task_budget, order) = (budget.clone(), order.clone());
            tasks.push(spawn(Queue::Kafka, async move {
                let permit = task_budget.acquire(amount).await;
                order.borrow_mut().push(permit.amount());
            }));
            while budget.waits_total() < tasks.len() as u64 {
                yield_now().await;
            }
        }
        assert!(budget.try_acquire(1).is_none(), "others wait");
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.borrow(), [7, 5, 10]);
        assert_eq!(budget.available(), 10);
    });
}

#[test]
fn semaphore_waiter_given_up_loses_nothing() {
    each_seed(|| async {
        let budget = Semaphore::new(4);
        let held = budget.acquire(4).await;
        let waiting = time::timeout(Duration::from_millis(1), budget.acquire(3)).await;
        assert!(waiting.is_err());
        let second = budget.clone();
        let next = spawn(
            Queue::Kafka,
            async move { second.acquire(2).await.amount() },
        );
        yield_now().await;
        drop(held);
        assert_eq!(next.await.unwrap(), 2);
        assert_eq!(budget.available(), 4);
    });
}

#[test]
fn semaphore_waiter_behind_one_given_up_gets_its_turn() {
    let sim = Sim::new(1);
    let end = sim.block_on(async {
        let budget = Semaphore::new(4);
        let _held = budget.acquire(2).await;
        let (large, small) = (budget.clone(), budget.clone());
        let large = spawn(Queue::Kafka, async move {
            time::timeout(Duration::from_millis(1), large.acquire(4))
                .await
                .is_err()
        });
        while budget.waits_total() < 1 {
            yield_now().await;
        }
        let small = spawn(Queue::Kafka, async move { small.acquire(1).await.amount() });
        assert!(large.await.unwrap());
        assert_eq!(small.await.unwrap(), 1);
    });
    end.unwrap();
}

#[test]
fn mailbox_waits_for_room_and_closes() {
    each_seed(|| async {
        let (tx, mut rx) = mailbox::channel(2);
        let second = tx.clone();
        spawn(Queue::Kafka, async move {
            for i in 0..20 {
                tx.send(i).await.unwrap();
            }
        });
        for i in 0..20 {
            assert_eq!(rx.recv().await, Some(i));
        }
        second.try_send(20).unwrap();
        second.try_send(21).unwrap();
        assert_eq!(second.try_send(22), Err(mailbox::TrySendError::Full(22)));
        drop(rx);
        assert_eq!(second.try_send(23), Err(mailbox::TrySendError::Closed(23)));
        assert_eq!(second.send(24).await, Err(24));
    });
}

#[test]
fn mailbox_reply_without_answer_says_so() {
    each_seed(|| async {
        let (reply, answer) = mailbox::reply::reply::<u8>();
        spawn(Queue::Kafka, async move { drop(reply) });
        assert_eq!(answer.recv().await, None);
    });
}

#[test]
fn channel_nobody_serves_is_a_deadlock_with_a_seed() {
    let sim = Sim::new(77);
    let end = sim.block_on(async {
        let (_tx, mut rx) = mpsc::channel::<u8>(1);
        rx.recv().await
    });
    assert!(matches!(end, Err(Stopped::Deadlock { seed: 77, .. })));
    assert!(end.unwrap_err().to_string().contains("seed 77"));
}

#[test]
fn full_mpsc_polled_again_and_again_keeps_one_waker() {
    let (tx, mut rx) = mpsc::channel(1);
    tx.try_send(0).unwrap();
    let wakes = Rc::new(Cell::new(0));
    let mut send = Box::pin(tx.send(1));
    for _ in 0..100 {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(send.as_mut().poll(&mut cx).is_pending());
        wakes.set(wakes.get() + 1);
    }
    assert_eq!(rx.try_recv(), Ok(0));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(send.as_mut().poll(&mut cx).is_ready());
    assert_eq!(wakes.get(), 100);
}
