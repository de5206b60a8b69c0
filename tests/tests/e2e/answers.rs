//! Answers that are larger than their requests, come late, or are not taken: what they hold is bounded, and no other
//! client waits for it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection, Header, api};
use tidemill_tests::{Broker, Engine, Options, on_both_engines, wait};

on_both_engines!(
    answers_behind_one_that_waits_hold_nothing_that_it_needs,
    answers_that_nobody_reads_are_bounded,
    offsets_of_a_large_group_are_copied_when_there_is_room_for_them,
    produce_of_very_many_partitions_takes_what_was_reserved,
    slow_readers_give_their_memory_back_while_others_wait,
);

/// What is answered at once, with much to spare on a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(10);
/// After so long, what has not come will not come.
const PATIENCE: Duration = Duration::from_secs(40);
const ANSWER_MEMORY: &str = "tidemill_answer_memory_bytes";
const MIB: u64 = 1 << 20;

fn start(engine: Engine, settings: &str) -> Broker {
    let broker = Options::new(engine).shards(1).settings(settings).start();
    Cli::new(&broker).create_topic("t", 1);
    broker
}

fn connect(broker: &Broker) -> Connection {
    let connection = Connection::open(&broker.kafka());
    connection.expect("the broker listens")
}

/// Produce v8 of so many partitions of a topic that is not there, without records: eight bytes each, answered with 36.
fn produce_of_nothing(partitions: i32) -> Vec<u8> {
    let mut body = (-1i16).to_be_bytes().to_vec();
    body.extend((-1i16).to_be_bytes());
    body.extend(30_000i32.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend([0, 4]);
    body.extend(b"nope");
    body.extend(partitions.to_be_bytes());
    for partition in 0..partitions {
        body.extend(partition.to_be_bytes());
        body.extend((-1i32).to_be_bytes());
    }
    raw::frame(api::PRODUCE, 8, Header::Plain, &body)
}

fn write(connection: &mut Connection, bytes: usize) {
    let batch = raw::batch(&[(b"k", &vec![7; bytes])], raw::now_ms());
    let answer = connection.call(&raw::produce("t", 0, &batch));
    let answer = answer.expect("produce is answered");
    assert_eq!(raw::produced(&answer, "t").map(|(error, _)| error), Some(0));
}

fn fetch_is_answered(connection: &mut Connection) {
    let answer = connection.call(&raw::fetch("t", 0, 0, 0, 1 << 20));
    let fetched = raw::fetched(&answer.expect("fetch is answered")).expect("it is whole");
    assert!(!fetched.batches.is_empty(), "{fetched:?}");
}

fn answers_behind_one_that_waits_hold_nothing_that_it_needs(engine: Engine) {
    let broker = start(
        engine,
        "[memory]\nanswers = \"4 MiB\"\n[kafka]\nfetch_size_max = \"1 MiB\"",
    );
    Cli::new(&broker).create_topic("e", 1);
    let mut honest = connect(&broker);
    write(&mut honest, 1_000);
    // Each asks for records of an empty topic, and then for what brings more than a megabyte of answer each time.
    let greedy = (0..3).map(|_| {
        let mut connection = connect(&broker);
        let mut reading = connection.split().expect("there are descriptors");
        connection
            .send(&raw::fetch("e", 0, 0, 3_000, 1 << 20))
            .expect("the broker reads");
        thread::spawn(move || {
            let sending = thread::spawn(move || {
                let frame = produce_of_nothing(30_000);
                for _ in 0..12 {
                    connection.send(&frame).expect("the broker reads");
                }
            });
            for _ in 0..13 {
                reading.receive().expect("what was asked is answered");
            }
            sending.join().expect("everything is sent");
        })
    });
    let greedy: Vec<_> = greedy.collect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        fetch_is_answered(&mut honest);
        assert!(asked.elapsed() < AT_ONCE);
    }
    for client in greedy {
        client.join().expect("everything is answered");
    }
    assert!(wait::until(PATIENCE, || {
        broker.metric(ANSWER_MEMORY, "") == 0.0
    }));
}

/// Sends `frame` again and again without reading, until nothing more is taken.
fn send_until_full(broker: &Broker, frame: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(broker.kafka()).expect("the broker listens");
    let patience = Some(Duration::from_millis(1_500));
    stream.set_write_timeout(patience).expect("not zero");
    loop {
        match stream.write_all(frame) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return stream;
            }
            Err(error) => panic!("the broker closed the connection: {error}"),
        }
    }
}

fn answers_that_nobody_reads_are_bounded(engine: Engine) {
    let broker = start(
        engine,
        "[memory]\nanswers = \"4 MiB\"\n[kafka]\nfetch_size_max = \"1 MiB\"\nwrite_timeout = \"1 h\"",
    );
    let mut honest = connect(&broker);
    write(&mut honest, 1_000);
    // Large answers and small ones.
    for partitions in [30_000, 400] {
        let frame = produce_of_nothing(partitions);
        let deaf: Vec<TcpStream> = thread::scope(|scope| {
            let sending = (0..8).map(|_| scope.spawn(|| send_until_full(&broker, &frame)));
            let sending: Vec<_> = sending.collect();
            let join = |s: thread::ScopedJoinHandle<'_, TcpStream>| s.join().expect("it ends");
            sending.into_iter().map(join).collect()
        });
        let held = broker.metric(ANSWER_MEMORY, "");
        // One answer may be made beyond the budget, and of each connection some small ones.
        assert!(held <= (8 * MIB) as f64, "{held} bytes of answers");
        assert!(held >= MIB as f64, "they hold next to nothing: {held}");
        write(&mut honest, 1_000);
        drop(deaf);
        assert!(wait::until(PATIENCE, || {
            broker.metric(ANSWER_MEMORY, "") == 0.0
        }));
        fetch_is_answered(&mut honest);
    }
}

fn produce_of_very_many_partitions_takes_what_was_reserved(engine: Engine) {
    let broker = start(engine, "");
    let before = broker.peak_resident_bytes();
    let mut connection = connect(&broker);
    let mut reading = connection.split().expect("there are descriptors");
    let sending = thread::spawn(move || {
        let frame = produce_of_nothing(130_000);
        for _ in 0..20 {
            connection.send(&frame).expect("the broker reads");
        }
    });
    for _ in 0..20 {
        let answer = reading.receive().expect("what was asked is answered");
        assert!(answer.len() > 36 * 130_000);
    }
    sending.join().expect("everything is sent");
    let grown = broker.peak_resident_bytes().saturating_sub(before);
    assert!(grown < 128 * MIB, "{grown} bytes more at its peak");
}

/// A connection whose kernel keeps next to nothing of what it has not read.
fn socket_of_few_bytes(broker: &Broker) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(8 << 10).expect("a size");
    let peer: SocketAddr = broker.kafka().parse().expect("an address");
    socket.connect(&peer.into()).expect("the broker listens");
    TcpStream::from(socket)
}

fn slow_readers_give_their_memory_back_while_others_wait(engine: Engine) {
    let broker = start(
        engine,
        "[memory]\nanswers = \"32 MiB\"\n[kafka]\nfetch_size_max = \"16 MiB\"\nwrite_timeout = \"4 s\"",
    );
    let mut honest = connect(&broker);
    for _ in 0..16 {
        write(&mut honest, 1_000_000);
    }
    let slow = (0..4).map(|_| {
        let mut stream = socket_of_few_bytes(&broker);
        for _ in 0..3 {
            let fetch = raw::fetch("t", 0, 0, 0, 16 << 20);
            stream.write_all(&fetch).expect("the broker reads");
        }
        // About 100 KB/s: each piece is taken in time, and all of it takes minutes.
        thread::spawn(move || {
            let mut some = [0; 10_000];
            while stream.read(&mut some).is_ok_and(|bytes| bytes > 0) {
                thread::sleep(Duration::from_millis(100));
            }
        })
    });
    let slow: Vec<_> = slow.collect();
    let crowded = || broker.metric(ANSWER_MEMORY, "") > (24 * MIB) as f64;
    assert!(wait::until(PATIENCE, crowded), "they hold what there is");
    let asked = Instant::now();
    fetch_is_answered(&mut honest);
    assert!(asked.elapsed() < AT_ONCE * 2, "{:?}", asked.elapsed());
    let closed = || broker.metric("tidemill_stalled_connections_total", "") >= 2.0;
    assert!(wait::until(PATIENCE, closed), "they stay connected");
    drop(broker);
    for client in slow {
        client.join().expect("its connection ended");
    }
}

/// Offsets of partitions of topic `big` with as much text as there may be, committed by nobody in particular (OffsetCommit v2).
fn commit_of_much_text(partitions: std::ops::Range<i32>) -> Vec<u8> {
    let text = [b'm'; 4_096];
    let mut body = b"\0\x01g\xff\xff\xff\xff\0\0".to_vec();
    body.extend((-1i64).to_be_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend(b"\0\x03big");
    body.extend((partitions.len() as i32).to_be_bytes());
    for partition in partitions {
        body.extend(partition.to_be_bytes());
        body.extend(5i64.to_be_bytes());
        body.extend((text.len() as i16).to_be_bytes());
        body.extend(text);
    }
    raw::frame(api::OFFSET_COMMIT, 2, Header::Plain, &body)
}

fn offsets_of_a_large_group_are_copied_when_there_is_room_for_them(engine: Engine) {
    const PARTITIONS: i32 = 1_000;
    const CLIENTS: u64 = 40;
    let broker = start(
        engine,
        "[memory]\nanswers = \"4 MiB\"\n[kafka]\nfetch_size_max = \"1 MiB\"",
    );
    Cli::new(&broker).create_topic("big", PARTITIONS as u32);
    let mut connection = connect(&broker);
    let finding = raw::frame(api::FIND_COORDINATOR, 0, Header::Plain, b"\0\x01g");
    for first in (0..PARTITIONS).step_by(500) {
        let commit = commit_of_much_text(first..first + 500);
        let committed = || {
            connection.call(&finding).expect("the coordinator is told");
            let answer = connection.call(&commit).expect("commits are answered");
            answer.ends_with(&[0, 0])
        };
        assert!(wait::until(PATIENCE, committed));
    }
    // All that the group has committed (OffsetFetch v2 with no topics named): 4 MB for 22 bytes.
    let all = raw::frame(
        api::OFFSET_FETCH,
        2,
        Header::Plain,
        b"\0\x01g\xff\xff\xff\xff",
    );
    let one = connection.call(&all).expect("offsets are told").len();
    assert!(one > PARTITIONS as usize * 4_096);
    let waits = "tidemill_answer_memory_waits_total";
    let (before, waited) = (broker.resident_bytes(), broker.metric(waits, ""));
    let mut clients: Vec<Connection> = (0..CLIENTS).map(|_| connect(&broker)).collect();
    for client in &mut clients {
        for _ in 0..2 {
            client.send(&all).expect("the broker reads");
        }
    }
    assert!(wait::until(PATIENCE, || {
        broker.metric(waits, "") - waited >= (CLIENTS - 4) as f64
    }));
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes more");
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                for _ in 0..2 {
                    let answer = client.receive().expect("offsets are told to everyone");
                    assert_eq!(answer.len(), one);
                }
            });
        }
    });
}
