//! One client connection: reads requests and starts them in order; `answers` drives them and writes the answers in
//! order.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use tidemill_rt::chan::mpsc;
use tidemill_rt::chan::semaphore::{Permit, Semaphore};
use tidemill_rt::net::{ReadHalf, Stream, WriteHalf};
use tidemill_rt::time::{self, Instant};
use tidemill_wire::frame;

use super::answers::{Answers, Running};
use super::dispatch::{self, Received};
use super::listener::CONNECTIONS_PER_SHARD_MAX;
use crate::shard::Shard;

/// Requests of one connection that may be under way; the next is read when the first is answered.
pub(crate) const PIPELINE_MAX: usize = 64;
/// Bytes of requests, and of the answers they may bring, that one connection may have under way.
const IN_FLIGHT_BYTES_MAX: u64 = 256 << 20;
/// A connection without a request for so long is closed (Kafka's `connections.max.idle.ms`).
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(600);
/// A request must arrive whole within this time, since memory is held for it.
const FRAME_READ_MAX: Duration = Duration::from_secs(60);
/// How often the two limits above are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(15);
/// Bytes read at once; smaller requests are copied out of this buffer, larger ones read into their own.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// What reader and watch of one connection share.
#[derive(Debug)]
struct State {
    last_request: Cell<Instant>,
    frame_began: Cell<Option<Instant>>,
}

/// Why a connection is closed by the broker.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Size(#[from] frame::FrameSizeError),
    #[error("{0}")]
    Request(String),
    #[error("the answering side is gone")]
    Answers,
}

/// Serves a connection to its end. Runs on the shard that owns it.
pub(crate) async fn serve(shard: Rc<Shard>, stream: TcpStream, peer: SocketAddr) {
    let connections = &shard.metrics.connections;
    if connections.get() >= CONNECTIONS_PER_SHARD_MAX {
        shard.metrics.connections_refused.add(1);
        return;
    }
    let (read, write) = match Stream::from_std(stream) {
        Ok(stream) => stream.split(),
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection was gone before it was served");
            return;
        }
    };
    connections.set(connections.get() + 1);
    run(&shard, read, write, peer).await;
    let connections = &shard.metrics.connections;
    connections.set(connections.get() - 1);
}

async fn run(shard: &Rc<Shard>, read: ReadHalf, write: WriteHalf, peer: SocketAddr) {
    let state = Rc::new(State {
        last_request: Cell::new(Instant::now()),
        frame_began: Cell::new(None),
    });
    let (started, to_drive) = mpsc::channel(PIPELINE_MAX);
    let answers = Answers::new(write, to_drive, Box::pin(watch(state.clone())));
    let reader = Reader {
        shard: shard.clone(),
        read,
        buffer: vec![0; READ_BUFFER_BYTES],
        filled: 0..0,
        in_flight: Semaphore::new(IN_FLIGHT_BYTES_MAX),
        state,
        started,
    };
    // Both in one task: glommio keeps some memory of every task that made and joined others.
    match select(Box::pin(reader.requests()), answers).await {
        Either::Left((closed, answers)) => {
            match &closed {
                Closed::Size(_) | Closed::Request(_) => {
                    shard.metrics.malformed_requests.add(1);
                    tracing::warn!(%peer, "Kafka connection closed: {closed}");
                }
                Closed::Io(_) | Closed::Answers => {
                    tracing::debug!(%peer, "Kafka connection ended: {closed}")
                }
            }
            // What was started is answered if the client still listens; then the socket closes.
            answers.await;
        }
        Either::Right(_) => tracing::debug!(%peer, "Kafka connection ended"),
    }
}

/// Ends when the connection should: it idles, or trickles a request.
async fn watch(state: Rc<State>) {
    loop {
        time::sleep(WATCH_EVERY).await;
        let trickles = state
            .frame_began
            .get()
            .is_some_and(|began| began.elapsed() > FRAME_READ_MAX);
        if trickles || state.last_request.get().elapsed() > IDLE_MAX {
            return;
        }
    }
}

struct Reader {
    shard: Rc<Shard>,
    read: ReadHalf,
    buffer: Vec<u8>,
    /// The part of `buffer` that was read and not used yet.
    filled: std::ops::Range<usize>,
    in_flight: Semaphore,
    state: Rc<State>,
    started: mpsc::Sender<Running>,
}

impl Reader {
    /// Reads requests and starts them, one after the other, until the connection ends.
    async fn requests(mut self) -> Closed {
        loop {
            let next = async {
                let (frame, memory) = self.frame().await?;
                let weight = dispatch::answer_weight(&frame) + frame.len() as u64;
                let in_flight = self.in_flight.acquire(weight).await;
                let received = Received {
                    frame,
                    at: Instant::now(),
                };
                let running = dispatch::start(&self.shard, received).await;
                Ok::<_, Closed>(running.map_err(Closed::Request)?.holding(memory, in_flight))
            };
            match next.await {
                Ok(running) => {
                    if self.started.send(running).await.is_err() {
                        return Closed::Answers;
                    }
                }
                Err(closed) => return closed,
            }
        }
    }

    /// The next request, with the memory reserved for it before its body was read.
    async fn frame(&mut self) -> Result<(Bytes, Permit), Closed> {
        while self.filled.len() < 4 {
            self.fill().await?;
        }
        let now = Instant::now();
        self.state.last_request.set(now);
        let at = self.filled.start;
        let size = self.buffer[at..]
            .first_chunk()
            .expect("four bytes are there");
        let size = frame::check_size(*size)?;
        self.filled.start += 4;
        let memory = self.shard.request_memory.acquire(size as u64).await;
        self.state.frame_began.set(Some(Instant::now()));
        let frame = if size <= self.buffer.len() {
            while self.filled.len() < size {
                self.fill().await?;
            }
            let at = self.filled.start;
            self.filled.start += size;
            Bytes::copy_from_slice(&self.buffer[at..at + size])
        } else {
            let mut body = vec![0; size];
            let have = self.filled.len();
            body[..have].copy_from_slice(&self.buffer[self.filled.clone()]);
            self.filled = 0..0;
            self.read.read_exact(&mut body[have..]).await?;
            Bytes::from(body)
        };
        self.state.frame_began.set(None);
        Ok((frame, memory))
    }

    /// Reads some more bytes behind those that are there.
    async fn fill(&mut self) -> Result<(), Closed> {
        if self.filled.is_empty() {
            self.filled = 0..0;
        } else if self.filled.start > 0 {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        match self.read.read(&mut self.buffer[self.filled.end..]).await? {
            0 => Err(Closed::Io(io::ErrorKind::UnexpectedEof.into())),
            n => {
                self.filled.end += n;
                Ok(())
            }
        }
    }
}
