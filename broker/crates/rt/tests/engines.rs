//! The two real engines do the same: files, sockets, tasks, messages from other threads. `uring` is left out where the
//! system refuses it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidemill_rt::EngineKind;
use tidemill_rt::chan::oneshot;
use tidemill_rt::fs::{self, DirectFile, Durable, File, OpenMode};
use tidemill_rt::net::{self, Listener, Stream};
use tidemill_rt::runtime::{self, EngineChoice, RuntimeConfig, block_on, resolve};
use tidemill_rt::task::{Queue, blocking, spawn, yield_now};
use tidemill_rt::time::{self, Instant};
use tidemill_rt::{mailbox, rand};

/// Runs `test` on each engine that works here.
fn on_each_engine<F, Fut>(test: F)
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    block_on(EngineChoice::Epoll, test.clone()).unwrap();
    if resolve(EngineChoice::Auto).unwrap() == EngineKind::Uring {
        block_on(EngineChoice::Uring, test).unwrap();
    }
}

/// A directory of its own, removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(parent: &Path) -> TempDir {
        let dir = parent.join(format!(
            "tidemill-rt-{}-{:x}",
            std::process::id(),
            rand::u64()
        ));
        std::fs::create_dir_all(&dir).unwrap();
        TempDir(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

async fn direct_file_round_trip(dir: &Path) {
    let path = dir.join("log");
    let file = DirectFile::open(&path, OpenMode::CreateNew, Durable::WhenSynced)
        .await
        .unwrap();
    file.preallocate(1 << 20).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 1 << 20);
    for (block, bytes) in [(3_u64, 4096_usize), (0, 12288), (16, 600_000)] {
        let mut buf = file.alloc(bytes);
        buf.fill(block as u8 + 1);
        file.write_at(buf, block * 4096).await.unwrap();
    }
    file.sync_data().await.unwrap();
    assert_eq!(file.read_at(0, 12288).await.unwrap(), vec![1; 12288]);
    assert_eq!(file.read_at(4 * 4096, 4096).await.unwrap(), vec![0; 4096]);
    assert_eq!(file.next_data(0).await.unwrap(), Some(0));
    // Where file systems do not tell, all of the file may be data.
    let after = file.next_data(900_000).await.unwrap();
    assert!(after.is_none_or(|at| at >= 900_000), "{after:?}");
    assert_eq!(file.next_data(1 << 20).await.unwrap(), None);
    let past_end = file.read_at((1 << 20) - 4096, 1 << 20).await.unwrap();
    assert_eq!(past_end.len(), 4096);
    file.close().await.unwrap();

    let again = DirectFile::open(&path, OpenMode::CreateNew, Durable::WhenSynced)
        .await
        .unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    let missing = DirectFile::open(&dir.join("none"), OpenMode::Read, Durable::WhenSynced)
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let reopened = DirectFile::open(&path, OpenMode::CreateOrOpen, Durable::WhenSynced)
        .await
        .unwrap();
    assert_eq!(
        reopened.read_at(3 * 4096, 4096).await.unwrap(),
        vec![4; 4096]
    );
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o600, 0o600);
}

/// Flags with which this process has `path` open, from /proc.
fn open_flags(path: &Path) -> i32 {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let entry = open
        .map(|entry| entry.unwrap())
        .find(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path))
        .expect("it is open");
    let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
    let info = std::fs::read_to_string(info).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    i32::from_str_radix(flags.expect("it has flags").trim(), 8).unwrap()
}

#[test]
fn files_whose_writes_are_durable_are_opened_so_on_disk_and_on_tmpfs() {
    on_each_engine(|| async {
        for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
            let dir = TempDir::new(&parent);
            let path = dir.0.canonicalize().unwrap().join("log");
            for (mode, durable) in [
                (OpenMode::CreateNew, Durable::WhenWritten),
                (OpenMode::ReadWrite, Durable::WhenSynced),
            ] {
                let file = DirectFile::open(&path, mode, durable).await.unwrap();
                let is = open_flags(&path) & libc::O_DSYNC != 0;
                assert_eq!(is, durable == Durable::WhenWritten, "{parent:?}");
                file.write_at(file.alloc(4096), 0).await.unwrap();
                file.close().await.unwrap();
            }
        }
    });
}

#[test]
fn direct_files_work_on_disk_and_on_tmpfs() {
    on_each_engine(|| async {
        for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
            if parent.is_dir() {
                let dir = TempDir::new(&parent);
                direct_file_round_trip(&dir.0).await;
            }
        }
    });
}

#[test]
fn files_and_names_work() {
    on_each_engine(|| async {
        let dir = TempDir::new(&std::env::temp_dir());
        let path = dir.0.join("f");
        let file = File::open(&path, OpenMode::CreateNew).await.unwrap();
        file.write_all_at(vec!["ab".into(), "cd".into()], 1)
            .await
            .unwrap();
        file.sync_data().await.unwrap();
        assert_eq!(file.read_at(0, 99).await.unwrap(), b"\0abcd");
        fs::write_atomic(&path, vec!["new".into()]).await.unwrap();
        assert_eq!(fs::read(&path).await.unwrap(), b"new");
        assert_eq!(fs::list_dir(&dir.0).await.unwrap(), ["f"]);
        let lock = fs::try_lock(&dir.0.join("lock")).await.unwrap();
        assert!(lock.is_some());
        assert!(fs::try_lock(&dir.0.join("lock")).await.unwrap().is_none());
    });
}

struct CountDrop(Arc<AtomicU32>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        // Destructors may use the runtime.
        let _ = Instant::now();
    }
}

#[test]
fn panics_stay_in_their_task_and_tasks_left_are_dropped() {
    let drops = Arc::new(AtomicU32::new(0));
    let counted = drops.clone();
    on_each_engine(move || {
        let counted = counted.clone();
        async move {
            for queue in [Queue::Raft, Queue::Kafka, Queue::Background] {
                let joined = spawn(queue, async { panic!("boom") }).await;
                let joined: Result<(), _> = joined;
                assert_eq!(joined.unwrap_err().to_string(), "task panicked: boom");
                let guard = CountDrop(counted.clone());
                spawn(queue, async move {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                });
            }
            yield_now().await;
            assert_eq!(blocking(|| 7).await, 7);
        }
    });
    let engines = 1 + u32::from(resolve(EngineChoice::Auto).unwrap() == EngineKind::Uring);
    assert_eq!(drops.load(Ordering::SeqCst), 3 * engines);
}

#[test]
fn panic_of_main_reaches_join() {
    let config = RuntimeConfig {
        engine: EngineChoice::Auto,
        shards: 1,
        pin: true,
    };
    let shards = runtime::start(&config, |_| async { panic!("main gave up") }).unwrap();
    let joined: Result<Vec<()>, String> = shards.join();
    assert_eq!(joined.unwrap_err(), "main gave up");
}

#[test]
fn sleeps_and_deadlines_hold() {
    on_each_engine(|| async {
        let start = Instant::now();
        time::sleep(Duration::from_millis(20)).await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        let late = time::timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
        assert!(late.is_err());
        let in_time = time::timeout(Duration::from_secs(60), async { 3 }).await;
        assert_eq!(in_time.unwrap(), 3);
        time::sleep_until(start).await;
    });
}

#[test]
fn messages_from_other_threads_wake_a_sleeping_shard() {
    on_each_engine(|| async {
        let (tx, mut rx) = mailbox::channel(4);
        let (back_tx, mut back_rx) = mailbox::channel::<u32>(1);
        let sender = std::thread::spawn(move || {
            for i in 0..200 {
                let mut message = i;
                while let Err(mailbox::TrySendError::Full(m)) = tx.try_send(message) {
                    message = m;
                    std::thread::yield_now();
                }
                if i % 50 == 0 {
                    assert_eq!(back_rx.recv_blocking(), Some(i), "the shard is idle now");
                }
            }
        });
        let mut expected = 0;
        while let Some(i) = rx.recv().await {
            assert_eq!(i, expected);
            expected += 1;
            if i % 50 == 0 {
                back_tx.send(i).await.unwrap();
            }
        }
        assert_eq!(expected, 200);
        sender.join().unwrap();
    });
}

#[test]
fn shards_talk_to_each_other() {
    let (tx, rx) = mailbox::channel::<(u16, mailbox::reply::ReplySender<u16>)>(8);
    let rx = Arc::new(std::sync::Mutex::new(Some(rx)));
    let tx = Arc::new(std::sync::Mutex::new(Some(tx)));
    let config = RuntimeConfig {
        engine: EngineChoice::Auto,
        shards: 2,
        pin: true,
    };
    let shards = runtime::start(&config, move |shard| {
        let (rx, tx) = (rx.clone(), tx.clone());
        async move {
            if shard == 0 {
                let mut rx = rx.lock().unwrap().take().unwrap();
                let mut answered = 0;
                while let Some((n, reply)) = rx.recv().await {
                    reply.send(n + 1);
                    answered += 1;
                }
                return answered;
            }
            let tx = tx.lock().unwrap().take().unwrap();
            for n in 0..100 {
                let (reply, answer) = mailbox::reply::reply();
                tx.send((n, reply)).await.unwrap();
                assert_eq!(answer.recv().await, Some(n + 1));
            }
            100
        }
    })
    .unwrap();
    assert_eq!(shards.join().unwrap(), [100, 100]);
}

fn listen() -> (Listener, SocketAddr) {
    let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    (Listener::from_std(listener).unwrap(), addr)
}

async fn connect(addr: SocketAddr) -> Stream {
    let stream = blocking(move || std::net::TcpStream::connect(addr))
        .await
        .unwrap();
    Stream::from_std(stream).unwrap()
}

async fn pair() -> (Stream, Stream) {
    let (listener, addr) = listen();
    let client = connect(addr).await;
    let (server, _) = listener.accept().await.unwrap();
    (client, Stream::from_std(server).unwrap())
}

#[test]
fn one_connection_is_read_and_written_by_two_tasks() {
    const BYTES: usize = 3 << 20;
    on_each_engine(|| async {
        let (client, server) = pair().await;
        let mut writers = Vec::new();
        let mut readers = Vec::new();
        for (stream, fill) in [(client, 1_u8), (server, 2)] {
            let (mut read, mut write) = stream.split();
            writers.push(spawn(Queue::Kafka, async move {
                write.write_all(&vec![fill; BYTES]).await.unwrap();
                write
            }));
            readers.push(spawn(Queue::Raft, async move {
                let mut buf = vec![0; BYTES];
                read.read_exact(&mut buf).await.unwrap();
                assert!(buf.iter().all(|b| *b == 3 - fill));
                read
            }));
        }
        for reader in readers {
            reader.await.unwrap();
        }
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// More connections than become ready at once, in rounds that take over one another's places; each sends pieces, some with its end right
/// behind them, and everything is read to that end.
#[test]
fn many_connections_are_each_read_to_their_end() {
    const CONNECTIONS: usize = 300;
    on_each_engine(|| async {
        let (listener, addr) = listen();
        for round in 0..3_u8 {
            let peers = std::thread::spawn(move || {
                use std::io::Write;
                let connect = |_| std::net::TcpStream::connect(addr).unwrap();
                let peers: Vec<_> = (0..CONNECTIONS).map(connect).collect();
                for piece in 0..3 {
                    for (number, mut peer) in peers.iter().enumerate() {
                        peer.write_all(&[number as u8; 100][..100 - piece]).unwrap();
                    }
                }
                for (number, mut peer) in peers.into_iter().enumerate() {
                    peer.write_all(&[number as u8; 10][..number % 10]).unwrap();
                }
            });
            let mut readers = Vec::new();
            for _ in 0..CONNECTIONS {
                let (stream, _) = listener.accept().await.unwrap();
                let (mut read, write) = Stream::from_std(stream).unwrap().split();
                readers.push(spawn(Queue::Kafka, async move {
                    let mut buf = [0; 4096];
                    let (mut bytes, mut all) = (Vec::new(), 1);
                    while all > 0 {
                        all = read.read(&mut buf).await.unwrap();
                        bytes.extend_from_slice(&buf[..all]);
                    }
                    drop(write);
                    bytes
                }));
            }
            let mut lens = Vec::new();
            for reader in readers {
                let bytes = reader.await.unwrap();
                assert!(bytes.iter().all(|b| *b == bytes[0]), "round {round}");
                lens.push(bytes.len());
            }
            lens.sort_unstable();
            let mut expected: Vec<_> = (0..CONNECTIONS).map(|n| 297 + n % 10).collect();
            expected.sort_unstable();
            assert_eq!(lens, expected, "round {round}");
            peers.join().unwrap();
        }
    });
}

#[test]
fn read_given_up_does_not_harm_the_next() {
    on_each_engine(|| async {
        let (client, server) = pair().await;
        let (mut read, _write) = server.split();
        let (_client_read, mut client_write) = client.split();
        let mut buf = [0; 16];
        for round in 0..3_u8 {
            let early = time::timeout(Duration::from_millis(3), read.read(&mut buf)).await;
            assert!(early.is_err(), "nothing was sent yet");
            client_write.write_all(&[round; 5]).await.unwrap();
            read.read_exact(&mut buf[..5]).await.unwrap();
            assert_eq!(buf[..5], [round; 5]);
        }
        client_write.shutdown();
        assert_eq!(read.read(&mut buf).await.unwrap(), 0);
    });
}

#[test]
fn reading_behind_what_is_there_takes_no_more_than_asked_and_waits_for_what_is_late() {
    on_each_engine(|| async {
        let (client, server) = pair().await;
        let (mut read, _write) = server.split();
        let (_client_read, mut client_write) = client.split();
        let sent: Vec<u8> = (0..200_000_u32).map(|i| (i * 31) as u8).collect();
        let (first, late) = (sent[..100_000].to_vec(), sent[100_000..].to_vec());
        client_write.write_all(&first[..10]).await.unwrap();
        let writer = spawn(Queue::Raft, async move {
            client_write.write_all(&first[10..]).await.unwrap();
            time::sleep(Duration::from_millis(5)).await;
            client_write.write_all(&late).await.unwrap();
            client_write
        });
        let mut buf = Vec::with_capacity(sent.len() - 1);
        buf.push(sent[0]);
        read.read_exact(&mut [0]).await.unwrap();
        while buf.len() < sent.len() - 1 {
            let before = buf.len();
            let n = read.read_more(&mut buf, 70_000).await.unwrap();
            assert!(n > 0 && n <= 70_000 && buf.len() == before + n);
        }
        assert!(buf == sent[..sent.len() - 1]);
        while read.arrived() == 0 {
            time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(read.arrived(), 1);
        assert_eq!(buf.capacity(), sent.len() - 1);
        let client_write = writer.await.unwrap();
        client_write.shutdown();
        buf.reserve_exact(2);
        assert_eq!(read.read_more(&mut buf, 2).await.unwrap(), 1);
        assert_eq!(read.read_more(&mut buf, 2).await.unwrap(), 0);
        assert!(buf == sent);
    });
}

#[test]
fn shutdown_wakes_the_reading_half() {
    on_each_engine(|| async {
        let (_client, server) = pair().await;
        let (mut read, write) = server.split();
        let reader = spawn(Queue::Kafka, async move { read.read(&mut [0; 8]).await });
        yield_now().await;
        write.shutdown();
        assert_eq!(reader.await.unwrap().unwrap(), 0);
    });
}

#[test]
fn accept_given_up_loses_no_connection() {
    on_each_engine(|| async {
        let (listener, addr) = listen();
        for _ in 0..5 {
            let early = time::timeout(Duration::from_millis(2), listener.accept()).await;
            assert!(early.is_err(), "nobody connects");
            let client = connect(addr).await;
            let accepted = time::timeout(Duration::from_secs(30), listener.accept()).await;
            let (server, _) = accepted.expect("the connection is not lost").unwrap();
            let (mut read, _) = client.split();
            let (_, mut write) = Stream::from_std(server).unwrap().split();
            write.write_all(b"x").await.unwrap();
            read.read_exact(&mut [0]).await.unwrap();
        }
    });
}

#[test]
fn busy_background_task_does_not_hold_up_messages() {
    const PINGS: usize = 30;
    on_each_engine(|| async {
        let stop = Rc::new(Cell::new(false));
        let hog_stop = stop.clone();
        let hog = spawn(Queue::Background, async move {
            while !hog_stop.get() {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(200) {
                    std::hint::spin_loop();
                }
                yield_now().await;
            }
        });
        let (tx, mut rx) = mailbox::channel(PINGS);
        let sender = std::thread::spawn(move || {
            for _ in 0..PINGS {
                std::thread::sleep(Duration::from_millis(3));
                assert!(tx.try_send(Instant::now()).is_ok());
            }
        });
        let receiver = spawn(Queue::Raft, async move {
            let mut waits = Vec::new();
            while let Some(sent) = rx.recv().await {
                waits.push(sent.elapsed());
            }
            waits
        });
        let mut waits = receiver.await.unwrap();
        stop.set(true);
        hog.await.unwrap();
        sender.join().unwrap();
        waits.sort();
        assert_eq!(waits.len(), PINGS);
        // The median, since a crowded machine may stop the whole thread now and then.
        assert!(waits[PINGS / 2] < Duration::from_millis(50), "{waits:?}");
    });
}

#[test]
fn oneshot_reaches_a_task_of_another_queue() {
    on_each_engine(|| async {
        let (tx, rx) = oneshot::channel();
        let waiting = spawn(Queue::Raft, rx);
        spawn(Queue::Background, async move { tx.send(5) })
            .await
            .unwrap()
            .unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 5);
    });
}

/// On epoll a few helper threads serve every file. (io_uring writes the log without any.)
#[test]
fn durable_write_does_not_wait_for_helper_threads_that_are_all_busy() {
    block_on(EngineChoice::Epoll, || async {
        const MORE_THAN_THERE_ARE: usize = 64;
        let dir = TempDir::new(&std::env::temp_dir());
        let path = dir.0.join("log");
        let file = DirectFile::open(&path, OpenMode::CreateNew, Durable::WhenWritten)
            .await
            .unwrap();
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for _ in 0..MORE_THAN_THERE_ARE {
            let held = held.clone();
            spawn(Queue::Background, async move {
                blocking(move || held.lock().unwrap().recv().is_ok()).await;
            });
        }
        let written = time::timeout(Duration::from_secs(20), file.write_at(file.alloc(4096), 0));
        let written = written.await;
        drop(go_on);
        written.expect("it waits for none of them").unwrap();
    })
    .unwrap();
}
