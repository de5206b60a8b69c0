//! Connections that are silent, slow, many, or whose peer is gone: each ends in its time, is counted, and costs nobody else
//! anything.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tidemill_tests::cli::Cli;
use tidemill_tests::raw::{self, Connection, Header, api};
use tidemill_tests::{Broker, Engine, Options, on_both_engines, wait};

on_both_engines!(
    connection_that_never_asks_is_closed,
    idle_connection_is_closed_and_one_that_waits_for_records_is_not,
    request_that_comes_byte_by_byte_is_cut_off,
    client_that_never_reads_is_closed_and_gives_its_memory_back,
    client_that_pipelines_without_end_waits_for_its_own_answers,
    connections_beyond_the_limits_are_refused_until_others_end,
    client_whose_machine_vanished_is_noticed,
    connections_opened_and_closed_leave_nothing,
    health_is_answered_while_all_admin_connections_are_taken,
);

/// What a limit of a second may take on a loaded machine.
const SOON: Duration = Duration::from_secs(30);
const STALLED: &str = "tidemill_stalled_connections_total";
const REFUSED: &str = "tidemill_connections_refused_total";
const CONNECTIONS: &str = "tidemill_connections";

fn start(engine: Engine, settings: &str) -> Broker {
    Options::new(engine).settings(settings).start()
}

fn connect(broker: &Broker) -> Connection {
    Connection::open(&broker.kafka()).expect("the broker listens")
}

/// A plain socket with deadlines of its own.
fn socket(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(broker.kafka()).expect("the broker listens");
    stream.set_read_timeout(Some(SOON)).expect("not zero");
    stream
}

fn api_versions() -> Vec<u8> {
    raw::frame(api::API_VERSIONS, 0, Header::Plain, &[])
}

/// Whether the broker ends the connection.
fn ends(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn settles(broker: &Broker, name: &str, value: f64) -> bool {
    wait::until(SOON, || broker.metric(name, "") == value)
}

fn connection_that_never_asks_is_closed(engine: Engine) {
    let broker = start(engine, "[kafka]\nfirst_request_timeout = \"1 s\"");
    let mut known = connect(&broker);
    known.call(&api_versions()).expect("it is answered");
    let mut silent = socket(&broker);
    assert!(ends(&mut silent), "a silent connection stays open");
    assert!(broker.metric(STALLED, "") >= 1.0);
    // Whoever has asked once may be silent for as long as it likes.
    known.call(&api_versions()).expect("it is answered");
}

fn idle_connection_is_closed_and_one_that_waits_for_records_is_not(engine: Engine) {
    let broker = start(engine, "[kafka]\nidle_timeout = \"1 s\"");
    Cli::new(&broker).create_topic("t", 1);
    let mut waiting = connect(&broker);
    let began = Instant::now();
    waiting
        .send(&raw::fetch("t", 0, 0, 4_000, 1 << 20))
        .expect("the broker reads");
    let mut idle = connect(&broker);
    idle.call(&api_versions()).expect("it is answered");
    assert!(idle.is_closed_by_peer(), "an idle connection stays open");
    assert_eq!(
        broker.metric("tidemill_idle_connections_closed_total", ""),
        1.0
    );
    let answer = waiting.receive().expect("a waiting fetch is answered");
    assert_eq!(raw::fetched(&answer).map(|f| f.error), Some(0));
    assert!(began.elapsed() >= Duration::from_secs(4));
}

fn request_that_comes_byte_by_byte_is_cut_off(engine: Engine) {
    let broker = start(
        engine,
        "[kafka]\nrequest_timeout = \"1 s\"\nfirst_request_timeout = \"1 h\"",
    );
    // A size that never gets whole, a body that trickles, and one that stops.
    for (sent, trickle) in [(2, false), (4, true), (20, false)] {
        let mut stream = socket(&broker);
        let mut frame = 3_000i32.to_be_bytes().to_vec();
        frame.extend(&api_versions()[4..]);
        frame.resize(3_004, 0);
        stream.write_all(&frame[..sent]).expect("the broker reads");
        let ended = wait::until(SOON, || {
            std::thread::sleep(Duration::from_millis(100));
            let sent = trickle.then(|| stream.write_all(&[0]));
            let mut byte = [0; 1];
            stream.set_nonblocking(true).expect("a socket");
            let read = stream.read(&mut byte);
            stream.set_nonblocking(false).expect("a socket");
            sent.is_some_and(|sent| sent.is_err())
                || match read {
                    Ok(read) => read == 0,
                    Err(error) => error.kind() == ErrorKind::ConnectionReset,
                }
        });
        assert!(ended, "after {sent} bytes the connection stays open");
    }
    assert_eq!(broker.metric(STALLED, ""), 3.0);
}

fn client_that_never_reads_is_closed_and_gives_its_memory_back(engine: Engine) {
    let broker = start(engine, "[kafka]\nwrite_timeout = \"1 s\"");
    Cli::new(&broker).create_topic("t", 1);
    let mut honest = connect(&broker);
    for _ in 0..16 {
        let batch = raw::batch(&[(b"k", &[7; 1_000_000])], raw::now_ms());
        let answer = honest.call(&raw::produce("t", 0, &batch));
        let answer = answer.expect("produce is answered");
        assert_eq!(raw::produced(&answer, "t").map(|(error, _)| error), Some(0));
    }
    let mut deaf = socket(&broker);
    for _ in 0..4 {
        let fetch = raw::fetch("t", 0, 0, 0, 16 << 20);
        deaf.write_all(&fetch).expect("the broker reads");
    }
    assert!(
        wait::until(SOON, || broker.metric(STALLED, "") == 1.0),
        "it stays open"
    );
    assert!(settles(&broker, "tidemill_answer_memory_bytes", 0.0));
    let answer = honest.call(&raw::fetch("t", 0, 0, 0, 1 << 20));
    let fetched = raw::fetched(&answer.expect("others are served")).expect("a whole answer");
    assert!(!fetched.batches.is_empty());
    drop(deaf);
}

fn client_that_pipelines_without_end_waits_for_its_own_answers(engine: Engine) {
    let broker = Broker::start(engine);
    let before = broker.resident_bytes();
    let mut stream = socket(&broker);
    stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .expect("not zero");
    let request = api_versions();
    let many = request.repeat(1_000);
    let mut sent = 0u64;
    // Until the broker reads no further: what it has not answered is in the kernel's buffers, not in its memory.
    loop {
        match stream.write(&many[sent as usize % request.len()..]) {
            Ok(bytes) => sent += bytes as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => panic!("the broker closed the connection: {error}"),
        }
    }
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(
        grown < 32 << 20,
        "{grown} bytes for {sent} bytes of requests"
    );
    // Everything that was asked is answered once it is read.
    let mut answered = 0u64;
    let mut length = [0; 4];
    while answered < sent / request.len() as u64 {
        stream.read_exact(&mut length).expect("an answer");
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut answer).expect("a whole answer");
        answered += 1;
    }
}

/// A connection from an address of the loopback network.
fn from(broker: &Broker, address: &str) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let local: SocketAddr = format!("{address}:0").parse().expect("an address");
    socket.bind(&local.into()).expect("loopback is a /8");
    let peer: SocketAddr = broker.kafka().parse().expect("an address");
    socket.connect(&peer.into()).expect("the broker listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).expect("not zero");
    stream
}

/// Whether a request on it is answered; false when the broker closes it.
fn is_served(stream: &mut TcpStream) -> bool {
    let mut length = [0; 4];
    stream.write_all(&api_versions()).is_ok() && stream.read_exact(&mut length).is_ok()
}

fn connections_beyond_the_limits_are_refused_until_others_end(engine: Engine) {
    let broker = start(
        engine,
        "[kafka]\nconnections_max = 5\nconnections_per_address_max = 3",
    );
    let mut first: Vec<TcpStream> = (0..3).map(|_| from(&broker, "127.0.0.2")).collect();
    assert!(first.iter_mut().all(is_served));
    assert!(!is_served(&mut from(&broker, "127.0.0.2")));
    assert_eq!(broker.metric(REFUSED, "reason=\"address\""), 1.0);
    let mut second: Vec<TcpStream> = (0..2).map(|_| from(&broker, "127.0.0.3")).collect();
    assert!(second.iter_mut().all(is_served));
    assert!(!is_served(&mut from(&broker, "127.0.0.4")));
    assert_eq!(broker.metric(REFUSED, "reason=\"total\""), 1.0);
    assert!(first.iter_mut().all(is_served), "those that are in stay");
    drop(first);
    assert!(wait::until(SOON, || is_served(&mut from(
        &broker,
        "127.0.0.2"
    ))));
}

/// From now on the peer hears nothing more of this socket, and it nothing of the peer, as when its machine lost its power: a filter
/// drops whatever comes before the kernel sees it, so that nothing is acknowledged. Nobody needs rights for that, as for firewalls.
fn vanish(stream: &TcpStream) {
    use socket2::{SockFilter, SockRef};
    /// Return (`BPF_RET | BPF_K`) so many bytes of the packet to keep: none.
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    let attached = SockRef::from(stream).attach_filter(&[DROP]);
    attached.expect("every socket may have a filter");
}

fn client_whose_machine_vanished_is_noticed(engine: Engine) {
    let broker = start(engine, "[kafka]\npeer_timeout = \"4 s\"");
    Cli::new(&broker).create_topic("t", 1);
    let mut alive = connect(&broker);
    alive.call(&api_versions()).expect("it is answered");
    // The answer says that the kernel has nothing more to send for it, which would be heard. Idle for ten minutes would be allowed.
    let mut idle = socket(&broker);
    assert!(is_served(&mut idle));
    vanish(&idle);
    // Another one vanishes while an answer is due.
    let mut waiting = socket(&broker);
    let fetch = raw::fetch("t", 0, 0, 2_000, 1 << 20);
    let both = [api_versions(), fetch].concat();
    waiting.write_all(&both).expect("the broker reads");
    waiting.read_exact(&mut [0; 4]).expect("an answer");
    vanish(&waiting);
    assert!(settles(&broker, CONNECTIONS, 1.0), "they are still served");
    assert!(settles(&broker, "tidemill_answer_memory_bytes", 0.0));
    // Whose machine answers the kernel's questions may be idle.
    alive.call(&api_versions()).expect("it is answered");
    drop((idle, waiting));
}

fn connections_opened_and_closed_leave_nothing(engine: Engine) {
    const ROUNDS: usize = 2_000;
    let broker = Broker::start(engine);
    let churn = |rounds: usize| {
        for round in 0..rounds {
            let mut stream = socket(&broker);
            match round % 4 {
                0 => drop(stream),
                1 => drop(stream.write_all(&[0, 0])),
                2 => assert!(is_served(&mut stream)),
                _ => drop(stream.write_all(&api_versions())),
            }
        }
        assert!(settles(&broker, CONNECTIONS, 0.0));
    };
    churn(ROUNDS);
    let (memory, files) = (broker.resident_bytes(), broker.descriptors());
    churn(2 * ROUNDS);
    let grown = broker.resident_bytes().saturating_sub(memory);
    assert!(
        grown < 4 << 20,
        "{grown} bytes for {} connections",
        2 * ROUNDS
    );
    let settled = wait::until(SOON, || broker.descriptors() <= files + 4);
    assert!(settled, "{} files, before {files}", broker.descriptors());
}

fn health_is_answered_while_all_admin_connections_are_taken(engine: Engine) {
    let broker = start(engine, "[admin]\nconnections_max = 4");
    let hold = || {
        let mut stream = TcpStream::connect(broker.admin()).expect("the broker listens");
        stream.write_all(b"GET /v1/topics HT").expect("it reads");
        stream
    };
    // They hold their places for as long as a head may take.
    let held: Vec<TcpStream> = (0..4).map(|_| hold()).collect();
    let refused = wait::until(SOON, || {
        broker
            .get("/v1/topics")
            .is_some_and(|(status, body)| status == 503 && body.contains("too_many_connections"))
    });
    assert!(refused, "the others are not taken");
    for _ in 0..40 {
        assert!(broker.healthy());
        assert!(
            broker
                .get("/metrics")
                .is_some_and(|(status, _)| status == 200)
        );
    }
    drop(held);
    let served = wait::until(SOON, || {
        broker
            .get("/v1/topics")
            .is_some_and(|(status, _)| status == 200)
    });
    assert!(served);
}
