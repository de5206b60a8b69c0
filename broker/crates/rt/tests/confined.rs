//! How the engines behave where the system holds io_uring back. Every case runs in a process of its own, since limits and
//! filters cannot be taken off again: the test starts this binary anew, which then runs the one ignored test named.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unsafe_code, reason = "limits and filters have no safe interface")]

use std::process::Command;
use std::time::Duration;

use tidemill_rt::EngineKind;
use tidemill_rt::chan::mpsc;
use tidemill_rt::fs::{DirectFile, Durable, OpenMode};
use tidemill_rt::net::{self, Listener, Stream};
use tidemill_rt::runtime::{EngineChoice, StartError, block_on, resolve};
use tidemill_rt::task::{Queue, blocking, spawn, yield_now};
use tidemill_rt::time::{self, Instant};

fn run_alone(test: &str) {
    let me = std::env::current_exe().unwrap();
    let output = Command::new(me)
        .args([
            "--exact",
            test,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{test}: {}\n{text}\n{errors}",
        output.status
    );
    assert!(text.contains("1 passed"), "{test} did not run:\n{text}");
}

fn limit_memlock(bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: the structure outlives the call, which only reads it.
    let r = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    assert_eq!(r, 0);
}

/// Lets `io_uring_setup` fail with `EPERM` in this thread and those it starts, as the default profile of container engines does.
fn refuse_io_uring() {
    const LOAD_SYSCALL_NUMBER: libc::sock_filter = statement(0x20, 0);
    const fn statement(code: u16, k: u32) -> libc::sock_filter {
        libc::sock_filter {
            code,
            jt: 0,
            jf: 0,
            k,
        }
    }
    let jump_if_setup = libc::sock_filter {
        code: 0x15,
        jt: 0,
        jf: 1,
        k: libc::SYS_io_uring_setup as u32,
    };
    let mut filter = [
        LOAD_SYSCALL_NUMBER,
        jump_if_setup,
        statement(0x06, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(0x06, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its filter outlive the calls, which copy them.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER as libc::c_ulong;
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program),
            0
        );
    }
}

async fn write_and_read_a_file() {
    let path = std::env::temp_dir().join(format!("tidemill-rt-confined-{}", std::process::id()));
    let file = DirectFile::open(&path, OpenMode::CreateNew, Durable::WhenSynced)
        .await
        .unwrap();
    let mut buf = file.alloc(4096);
    buf.fill(9);
    file.write_at(buf, 0).await.unwrap();
    file.sync_data().await.unwrap();
    assert_eq!(file.read_at(0, 4096).await.unwrap(), vec![9; 4096]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn auto_falls_back_to_epoll_under_seccomp() {
    run_alone("child_under_seccomp");
}

#[test]
#[ignore = "run by auto_falls_back_to_epoll_under_seccomp"]
fn child_under_seccomp() {
    refuse_io_uring();
    assert_eq!(resolve(EngineChoice::Auto).unwrap(), EngineKind::Epoll);
    let refused = resolve(EngineChoice::Uring).unwrap_err();
    assert!(matches!(refused, StartError::UringRefused(_)), "{refused}");
    assert!(refused.to_string().contains("--runtime epoll"), "{refused}");
    block_on(EngineChoice::Auto, write_and_read_a_file).unwrap();
}

#[test]
fn little_locked_memory_is_enough() {
    run_alone("child_with_little_locked_memory");
}

#[test]
#[ignore = "run by little_locked_memory_is_enough"]
fn child_with_little_locked_memory() {
    limit_memlock(1 << 20);
    block_on(EngineChoice::Auto, write_and_read_a_file).unwrap();
}

#[test]
fn too_little_locked_memory_falls_back_to_epoll() {
    run_alone("child_with_too_little_locked_memory");
}

#[test]
#[ignore = "run by too_little_locked_memory_falls_back_to_epoll"]
fn child_with_too_little_locked_memory() {
    limit_memlock(256 << 10);
    assert_eq!(resolve(EngineChoice::Auto).unwrap(), EngineKind::Epoll);
    let refused = resolve(EngineChoice::Uring).unwrap_err();
    assert!(refused.to_string().contains("locked memory"), "{refused}");
    block_on(EngineChoice::Auto, write_and_read_a_file).unwrap();
}

#[test]
fn first_sleep_is_not_late() {
    // A busy machine may delay one process; a lazy registration would delay every one of them.
    let slow =
        (0..3).filter(|_| std::panic::catch_unwind(|| run_alone("child_first_sleep")).is_err());
    assert!(slow.count() < 3, "the first sleep is late in every process");
}

#[test]
#[ignore = "run by first_sleep_is_not_late"]
fn child_first_sleep() {
    let late = block_on(EngineChoice::Auto, || async {
        let start = Instant::now();
        time::sleep(Duration::from_millis(1)).await;
        start.elapsed()
    });
    let late = late.unwrap();
    assert!(late < Duration::from_millis(25), "{late:?}");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Serves connections with a task inside a task each, as the broker does.
async fn churn(connections: u32) {
    let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = Listener::from_std(listener).unwrap();
    let clients = std::thread::spawn(move || {
        for _ in 0..connections {
            use std::io::{Read, Write};
            let mut client = std::net::TcpStream::connect(addr).unwrap();
            client.write_all(b"ping").unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
        }
    });
    for _ in 0..connections {
        let (stream, _) = listener.accept().await.unwrap();
        spawn(Queue::Kafka, async move {
            let (mut read, mut write) = Stream::from_std(stream).unwrap().split();
            let (tx, mut rx) = mpsc::channel::<Vec<u8>>(1);
            let writer = spawn(Queue::Kafka, async move {
                while let Some(answer) = rx.recv().await {
                    write.write_all(&answer).await.unwrap();
                }
            });
            let mut buf = vec![0; 4];
            while read.read_exact(&mut buf).await.is_ok() {
                tx.send(buf.clone()).await.unwrap();
            }
            drop(tx);
            writer.await.unwrap();
        });
    }
    blocking(move || clients.join().unwrap()).await;
    yield_now().await;
}

async fn churn_and_measure() {
    const LEAK_KIB: u64 = 3000;
    churn(1000).await;
    let before = resident_kib();
    churn(4000).await;
    let grown = resident_kib().saturating_sub(before);
    // A leak of one task per connection would be far above.
    assert!(grown < LEAK_KIB, "grew by {grown} KiB");
}

#[test]
fn many_connections_leave_memory_flat() {
    run_alone("child_with_many_connections");
}

#[test]
#[ignore = "run by many_connections_leave_memory_flat"]
fn child_with_many_connections() {
    block_on(EngineChoice::Auto, churn_and_measure).unwrap();
}

/// Prints what an idle process with two shards takes, for whoever looks for memory.
#[test]
#[ignore = "a measurement"]
fn measure_idle_memory() {
    let config = tidemill_rt::runtime::RuntimeConfig {
        engine: EngineChoice::Auto,
        shards: 2,
        pin: true,
    };
    let shards = tidemill_rt::runtime::start(&config, |_| async {
        time::sleep(Duration::from_secs(1)).await;
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status
            .lines()
            .find(|l| l.starts_with("VmRSS"))
            .map(str::to_owned)
    });
    println!("{:?}", shards.unwrap().join());
}
