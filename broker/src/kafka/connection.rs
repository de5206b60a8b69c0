//! One client connection: reads requests and starts them in order; `answers` drives them and writes the answers in
//! order.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use tidemill_rt::chan::mpsc;
use tidemill_rt::chan::notify::Notify;
use tidemill_rt::chan::semaphore::{Permit, Semaphore};
use tidemill_rt::net::{self, ReadHalf, Stream, WriteHalf};
use tidemill_rt::time::{self, Instant};
use tidemill_wire::frame;

use super::answers::{Answers, Running};
use super::dispatch::{self, Received};
use super::memory::FrameRoom;
use crate::config::table::Kafka;
use crate::shard::Shard;

/// How often idling and stalled writing are looked at; oftener where less is allowed.
const WATCH_EVERY: Duration = Duration::from_secs(10);
/// Bytes read at once; smaller requests are copied out of this buffer, larger ones read into their own.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Memory for a request of its own is reserved as its bytes arrive: at most so many times what is there, while that is
/// below [`FAST_GROWTH_BELOW`] bytes, which spares copies ...
const FAST_GROWTH: usize = 4;
const FAST_GROWTH_BELOW: usize = 1 << 20;
/// ... and at most so many times beyond.
const GROWTH: usize = 2;

/// What reader, handlers and writer of one connection share.
#[derive(Debug)]
pub(crate) struct Client {
    last_request: Cell<Instant>,
    /// When the write under way began.
    writing_since: Cell<Option<Instant>>,
    gone: Cell<bool>,
    left: Notify,
}

impl Client {
    fn new() -> Client {
        Client {
            last_request: Cell::new(Instant::now()),
            writing_since: Cell::new(None),
            gone: Cell::new(false),
            left: Notify::new(),
        }
    }

    /// Notes that a write begins, or that nothing is to be written.
    pub(super) fn wrote(&self, now: Option<Instant>) {
        self.writing_since.set(now);
    }

    /// Whether it sends no more requests: nobody is there to wait for what is still to come.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Ready when it is gone.
    pub(super) fn left(&self) -> impl Future<Output = ()> + use<> {
        let (gone, left) = (self.gone.get(), self.left.notified());
        async move {
            if !gone {
                left.await;
            }
        }
    }

    fn leave(&self) {
        self.gone.set(true);
        self.left.notify_all();
    }
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
    #[error("a request came too slowly")]
    Slow,
}

/// Connections a shard serves: what the process may have open, or less where the operator wants less, shared out.
fn connections_max(shard: &Shard) -> i64 {
    let possible = net::connections_max(shard.info.shards) as u64;
    let shards = u64::from(shard.info.shards);
    let wanted = shard.info.settings.kafka.connections_max;
    let allowed = wanted.map_or(possible, |n| n.div_ceil(shards).min(possible));
    i64::try_from(allowed).unwrap_or(i64::MAX)
}

/// Serves a connection to its end. Runs on the shard that owns it.
pub(crate) async fn serve(shard: Rc<Shard>, stream: TcpStream, peer: SocketAddr) {
    let connections = &shard.metrics.connections;
    if connections.get() >= connections_max(&shard) {
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
    let client = Rc::new(Client::new());
    let limits = &shard.info.settings.kafka;
    let (started, to_drive) = mpsc::channel(limits.pipeline_max);
    let watch = Box::pin(watch(shard.clone(), client.clone()));
    let answers = Answers::new(write, to_drive, watch, client.clone(), limits.pipeline_max);
    let reader = Reader {
        shard: shard.clone(),
        read,
        buffer: vec![0; READ_BUFFER_BYTES],
        filled: 0..0,
        in_flight: Semaphore::new(limits.in_flight_max),
        client: client.clone(),
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
                Closed::Slow => {
                    shard.metrics.stalled_connections.add(1);
                    tracing::info!(%peer, "Kafka connection closed: {closed}");
                }
                Closed::Io(_) | Closed::Answers => {
                    tracing::debug!(%peer, "Kafka connection ended: {closed}")
                }
            }
            // What was started is answered at once if the client still listens; then the socket closes.
            client.leave();
            answers.await;
        }
        Either::Right(_) => tracing::debug!(%peer, "Kafka connection ended"),
    }
}

/// Ends when the connection should: it idles, or does not take its answers.
async fn watch(shard: Rc<Shard>, client: Rc<Client>) {
    let limits = &shard.info.settings.kafka;
    let shortest = limits.idle_timeout.min(limits.write_timeout);
    loop {
        time::sleep(WATCH_EVERY.min(shortest)).await;
        let stalled = client
            .writing_since
            .get()
            .is_some_and(|began| began.elapsed() > limits.write_timeout);
        if stalled {
            shard.metrics.stalled_connections.add(1);
            return;
        }
        if client.last_request.get().elapsed() > limits.idle_timeout {
            return;
        }
    }
}

/// How long a request of `bytes` bytes may take to arrive.
fn frame_time(bytes: usize, limits: &Kafka) -> Duration {
    limits.request_timeout + Duration::from_millis(bytes as u64 * 1000 / limits.request_rate_min)
}

/// Memory for a request of `size` bytes of which `there` have arrived, in bytes.
fn capacity(size: usize, there: usize) -> usize {
    let growth = if there < FAST_GROWTH_BELOW {
        FAST_GROWTH
    } else {
        GROWTH
    };
    size.min(there.saturating_mul(growth))
}

struct Reader {
    shard: Rc<Shard>,
    read: ReadHalf,
    buffer: Vec<u8>,
    /// The part of `buffer` that was read and not used yet.
    filled: std::ops::Range<usize>,
    in_flight: Semaphore,
    client: Rc<Client>,
    started: mpsc::Sender<Running>,
}

impl Reader {
    /// Reads requests and starts them, one after the other, until the connection ends.
    async fn requests(mut self) -> Closed {
        loop {
            let next = async {
                let (frame, memory, in_flight) = self.frame().await?;
                let received = Received {
                    frame,
                    memory,
                    client: self.client.clone(),
                    at: Instant::now(),
                };
                let running = dispatch::start(&self.shard, received).await;
                Ok::<_, Closed>(running.map_err(Closed::Request)?.holding(in_flight))
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

    /// The next request, the memory reserved for it, and its part of what the connection may have under way.
    async fn frame(&mut self) -> Result<(Bytes, FrameRoom, Permit), Closed> {
        while self.filled.len() < 4 {
            self.fill().await?;
        }
        self.client.last_request.set(Instant::now());
        let at = self.filled.start;
        let size = self.buffer[at..]
            .first_chunk()
            .expect("four bytes are there");
        let size = frame::check_size(*size, self.shard.info.settings.kafka.request_size_max)?;
        self.filled.start += 4;
        let mut due = Instant::now() + frame_time(size, &self.shard.info.settings.kafka);
        self.fill_up(2, due).await?;
        let at = self.filled.start;
        let api_key = i16::from_be_bytes([self.buffer[at], self.buffer[at + 1]]);
        let weight =
            dispatch::answer_weight(api_key, &self.shard.info.settings.kafka) + size as u64;
        let waits = Instant::now();
        let in_flight = self.in_flight.acquire(weight).await;
        due = due + waits.elapsed();
        let mut memory = FrameRoom::default();
        if size > self.buffer.len() {
            let body = self.long_body(size, due, &mut memory).await?;
            return Ok((body, memory, in_flight));
        }
        self.fill_up(size, due).await?;
        self.shard.kafka_memory.grow(&mut memory, size, size).await;
        let at = self.filled.start;
        self.filled.start += size;
        let body = Bytes::copy_from_slice(&self.buffer[at..at + size]);
        Ok((body, memory, in_flight))
    }

    /// The body of a request that does not fit into the buffer. Memory is reserved for what has arrived and as much
    /// again, not for what was announced. Waiting for memory does not count as the client's time.
    async fn long_body(
        &mut self,
        size: usize,
        mut due: Instant,
        memory: &mut FrameRoom,
    ) -> Result<Bytes, Closed> {
        self.fill_up(self.buffer.len(), due).await?;
        let mut body = Vec::new();
        let (mut there, mut reserved) = (self.filled.len(), 0);
        while there < size {
            let room = capacity(size, there);
            let waits = Instant::now();
            let more = room - reserved;
            self.shard.kafka_memory.grow(memory, size, more).await;
            due = due + waits.elapsed();
            reserved = room;
            body.reserve_exact(room - body.len());
            if body.is_empty() {
                body.extend_from_slice(&self.buffer[self.filled.clone()]);
                self.filled = 0..0;
            }
            body.resize(room, 0);
            let rest = self.read.read_exact(&mut body[there..]);
            time::timeout_at(due, rest)
                .await
                .map_err(|_| Closed::Slow)??;
            there = room;
        }
        Ok(Bytes::from(body))
    }

    /// Reads until `bytes` bytes are in the buffer, into which they fit.
    async fn fill_up(&mut self, bytes: usize, due: Instant) -> Result<(), Closed> {
        while self.filled.len() < bytes {
            time::timeout_at(due, self.fill())
                .await
                .map_err(|_| Closed::Slow)??;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_the_bytes_that_have_arrived() {
        let size = frame::FRAME_BYTES_MAX;
        let (mut there, mut steps) = (READ_BUFFER_BYTES, 0);
        while there < size {
            let next = capacity(size, there);
            assert!(next > there && next <= there * FAST_GROWTH);
            (there, steps) = (next, steps + 1);
        }
        assert!(steps < 12);
        assert_eq!(
            capacity(READ_BUFFER_BYTES + 1, READ_BUFFER_BYTES),
            READ_BUFFER_BYTES + 1
        );
    }
}
