//! One client connection: reads requests and starts them in order; `answers` drives them and writes the answers in
//! order.

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
use super::client::{Client, Pace, Verdict};
use super::dispatch::{self, Received};
use super::limits;
use super::memory::FrameRoom;
use crate::config::table::Kafka;
use crate::shard::Shard;

/// Bytes read at once; smaller requests are copied out of this buffer, larger ones read into their own.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Bytes of that buffer while a connection has sent no larger request lately: most do nothing most of the time.
const QUIET_BUFFER_BYTES: usize = 4 << 10;
/// A connection that has sent nothing for so long is quiet.
const QUIET_AFTER: Duration = Duration::from_secs(5);
/// Bytes read at once where a long request is expected.
const PEEK_BYTES: usize = 512;
/// Memory for a request of its own is reserved as its bytes arrive: at most so many times what is there, while that is
/// below [`FAST_GROWTH_BELOW`] bytes, which spares copies ...
const FAST_GROWTH: usize = 4;
const FAST_GROWTH_BELOW: usize = 1 << 20;
/// ... and at most so many times beyond.
const GROWTH: usize = 2;

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

/// Serves a connection to its end. Runs on the shard that owns it.
pub(crate) async fn serve(shard: Rc<Shard>, stream: TcpStream, peer: SocketAddr) {
    let silent_max = shard.info.settings.kafka.peer_timeout;
    let made = Stream::from_std(stream).and_then(|stream| {
        stream.end_when_silent(silent_max)?;
        Ok(stream)
    });
    let (read, write) = match made {
        Ok(stream) => stream.split(),
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection was gone before it was served");
            return;
        }
    };
    let connections = &shard.metrics.connections;
    connections.set(connections.get() + 1);
    run(&shard, read, write, peer).await;
    let connections = &shard.metrics.connections;
    connections.set(connections.get() - 1);
}

async fn run(shard: &Rc<Shard>, read: ReadHalf, write: WriteHalf, peer: SocketAddr) {
    let settings = &shard.info.settings;
    let client = Rc::new(Client::new(peer, settings.memory.answers));
    let limits = &settings.kafka;
    let (started, to_drive) = mpsc::channel(limits.pipeline_max);
    let watch = Box::pin(watch(shard.clone(), client.clone(), peer));
    let answers = Answers::new(write, to_drive, watch, client.clone(), limits.pipeline_max);
    let reader = Reader {
        shard: shard.clone(),
        read,
        buffer: vec![0; QUIET_BUFFER_BYTES],
        filled: 0..0,
        long_requests: false,
        in_flight: Semaphore::new(limits.in_flight_max),
        client: client.clone(),
        begun: 0,
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

/// Ends when the connection should: it says nothing, or does not take its answers.
async fn watch(shard: Rc<Shard>, client: Rc<Client>, peer: SocketAddr) {
    let limits = &shard.info.settings.kafka;
    let (mut pace, mut waits) = (Pace::default(), 0);
    loop {
        time::sleep(limits::watch_every(limits)).await;
        let memory = &shard.kafka_memory;
        let waits_before = std::mem::replace(&mut waits, memory.answer_waits());
        let crowded = memory.answers_are_crowded() || waits != waits_before;
        let slow = pace.is_slow(&client, Instant::now(), limits.write_timeout);
        let Some(verdict) = client.verdict(limits, slow && crowded) else {
            continue;
        };
        match verdict {
            Verdict::Idle => shard.metrics.idle_connections.add(1),
            Verdict::Silent | Verdict::Stalled => shard.metrics.stalled_connections.add(1),
        }
        tracing::debug!(%peer, ?verdict, "Kafka connection closed");
        return;
    }
}

/// How long beyond `kafka.request_timeout` a request of `bytes` bytes may take to arrive.
fn time_of(bytes: usize, limits: &Kafka) -> Duration {
    Duration::from_millis(bytes as u64 * 1000 / limits.request_rate_min)
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
    /// Whether the last request did not fit into the buffer: the next one probably will not either.
    long_requests: bool,
    in_flight: Semaphore,
    client: Rc<Client>,
    /// Requests that were begun.
    begun: u64,
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
                    number: self.begun,
                    at: Instant::now(),
                };
                self.begun += 1;
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
        self.begin().await?;
        self.client.begins_request();
        let mut due = Instant::now() + self.shard.info.settings.kafka.request_timeout;
        self.fill_up(4, due).await?;
        let at = self.filled.start;
        let size = self.buffer[at..]
            .first_chunk()
            .expect("four bytes are there");
        let size = frame::check_size(*size, self.shard.info.settings.kafka.request_size_max)?;
        self.filled.start += 4;
        due = due + time_of(size, &self.shard.info.settings.kafka);
        self.fill_up(2, due).await?;
        let at = self.filled.start;
        let api_key = i16::from_be_bytes([self.buffer[at], self.buffer[at + 1]]);
        let waits = Instant::now();
        let in_flight = self.in_flight.acquire(self.weight(api_key, size)).await;
        due = due + waits.elapsed();
        let mut memory = FrameRoom::default();
        let factor = dispatch::memory_factor(api_key);
        if size > READ_BUFFER_BYTES {
            let body = self.long_body((size, factor), due, &mut memory).await?;
            return Ok((body, memory, in_flight));
        }
        self.long_requests = false;
        if size > self.buffer.len() {
            self.buffer.resize(READ_BUFFER_BYTES, 0);
        }
        self.fill_up(size, due).await?;
        let needed = size * factor;
        self.shard
            .kafka_memory
            .grow(&mut memory, size, needed)
            .await;
        let at = self.filled.start;
        self.filled.start += size;
        let body = Bytes::copy_from_slice(&self.buffer[at..at + size]);
        Ok((body, memory, in_flight))
    }

    /// The part of what the connection may have under way that a request takes: all of it where small answers have used up
    /// their memory and it holds some of that.
    fn weight(&self, api_key: i16, size: usize) -> u64 {
        let limits = &self.shard.info.settings.kafka;
        if self.client.is_behind() && self.shard.kafka_memory.answers_are_over() {
            return limits.in_flight_max;
        }
        dispatch::answer_weight(api_key, limits) + size as u64
    }

    /// Waits for the first bytes of a request. While they do not come, the buffer is a small one.
    async fn begin(&mut self) -> Result<(), Closed> {
        if self.filled.is_empty() && self.buffer.len() > QUIET_BUFFER_BYTES {
            match time::timeout(QUIET_AFTER, self.fill()).await {
                Ok(filled) => filled?,
                Err(_) => self.buffer = vec![0; QUIET_BUFFER_BYTES],
            }
        }
        while self.filled.is_empty() {
            self.fill().await?;
        }
        Ok(())
    }

    /// The body, of so many bytes, of a long request, read straight into its own memory; for each byte so many are reserved. Memory is
    /// reserved for what has arrived and some times as much, not for what was announced. Waiting for memory does not count
    /// as the client's time.
    async fn long_body(
        &mut self,
        (size, factor): (usize, usize),
        mut due: Instant,
        memory: &mut FrameRoom,
    ) -> Result<Bytes, Closed> {
        self.long_requests = true;
        let mut body = Vec::new();
        let mut there = self.filled.len();
        while there < size {
            let room = capacity(size, there + self.read.arrived());
            if room > body.capacity() {
                let waits = Instant::now();
                let more = (room - body.capacity()) * factor;
                self.shard.kafka_memory.grow(memory, size, more).await;
                due = due + waits.elapsed();
                body.reserve_exact(room - body.len());
            }
            if body.is_empty() {
                body.extend_from_slice(&self.buffer[self.filled.clone()]);
                self.filled = 0..0;
            }
            let more = self.read.read_more(&mut body, size - there);
            let read = time::timeout_at(due, more).await;
            if read.map_err(|_| Closed::Slow)?? == 0 {
                return Err(Closed::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            there = body.len();
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
        // Of a long request only the beginning goes through the buffer: the rest would be copied once more.
        let end = match self.long_requests {
            true => self.buffer.len().min(self.filled.end + PEEK_BYTES),
            false => self.buffer.len(),
        };
        match self
            .read
            .read(&mut self.buffer[self.filled.end..end])
            .await?
        {
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
