//! One client connection: reads requests and starts them in order; `answers` drives them and writes the answers in
//! order.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
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
/// Where requests hold half of their memory, so much beyond what has arrived, and a quarter of that.
const SPARING_BYTES: usize = 64 << 10;
/// While others wait for memory, it is looked at so often whether a request arrives as fast as it must.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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

/// Memory for a request of `size` bytes of which `there` have arrived, in bytes; little more than that where it must be
/// `sparing`.
fn capacity(size: usize, there: usize, sparing: bool) -> usize {
    let room = match sparing {
        true => there.saturating_add(SPARING_BYTES + there / 4),
        false if there < FAST_GROWTH_BELOW => there.saturating_mul(FAST_GROWTH),
        false => there.saturating_mul(GROWTH),
    };
    size.min(room)
}

/// How a request arrives.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// Bytes that were announced.
    size: usize,
    /// When all of them must be there.
    due: Instant,
    /// When it was last looked at how fast they come, and how many were there.
    seen: (Instant, usize),
}

impl Arrival {
    /// Whether it came too slowly since it was last looked at, which is not done all the time.
    fn is_slow(&mut self, now: Instant, there: usize, rate_min: u64) -> bool {
        let (at, before) = self.seen;
        let time = now.since(at);
        if time < LOOK_EVERY {
            return false;
        }
        self.seen = (now, there);
        ((there - before) as u128) * 1000 < u128::from(rate_min) * time.as_millis()
    }

    /// Leaves out a time in which it was not read.
    fn pause(&mut self, time: Duration) {
        self.due = self.due + time;
        self.seen.0 = self.seen.0 + time;
    }
}

/// What `read` brings a request of which `there` bytes have arrived. While others wait for memory, bytes must keep coming
/// at the least rate; else all of them must have come when they are due.
async fn arrives(
    shard: &Shard,
    arrival: &mut Arrival,
    there: usize,
    read: impl Future<Output = io::Result<usize>>,
) -> Result<usize, Closed> {
    let mut read = pin!(read);
    let rate_min = shard.info.settings.kafka.request_rate_min;
    loop {
        // Bytes that came long ago must not excuse that none come now.
        let slow = arrival.is_slow(Instant::now(), there, rate_min);
        if slow && shard.kafka_memory.is_waited_for(arrival.size) {
            return Err(Closed::Slow);
        }
        let look = (Instant::now() + LOOK_EVERY).min(arrival.due);
        match time::timeout_at(look, read.as_mut()).await {
            Ok(read) => return Ok(read?),
            Err(_) if look == arrival.due => return Err(Closed::Slow),
            Err(_) => {}
        }
    }
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
            let now = Instant::now();
            let seen = (now, self.filled.len());
            let arrival = Arrival { size, due, seen };
            let body = self.long_body(arrival, &mut memory).await?;
            let decoded = size * (factor - 1);
            let budgets = &self.shard.kafka_memory;
            budgets.grow(&mut memory, size, decoded).await;
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

    /// The body of a long request, read straight into its own memory. Memory is reserved for what has arrived and some times
    /// as much, not for what was announced, nor for what decoding will make of it. Waiting for memory does not count as the
    /// client's time.
    async fn long_body(
        &mut self,
        mut arrival: Arrival,
        memory: &mut FrameRoom,
    ) -> Result<Bytes, Closed> {
        self.long_requests = true;
        let (size, shard) = (arrival.size, self.shard.clone());
        let budgets = &shard.kafka_memory;
        let mut body = Vec::new();
        let mut there = self.filled.len();
        while there < size {
            let sparing = budgets.is_half_full(size);
            let room = capacity(size, there + self.read.arrived(), sparing);
            // What is there is filled first.
            if room > body.capacity() && (there == body.capacity() || !sparing || body.is_empty()) {
                let waits = Instant::now();
                budgets.grow(memory, size, room - body.capacity()).await;
                arrival.pause(waits.elapsed());
                body.reserve_exact(room - body.len());
            }
            if body.is_empty() {
                body.extend_from_slice(&self.buffer[self.filled.clone()]);
                self.filled = 0..0;
            }
            let more = self.read.read_more(&mut body, size - there);
            if arrives(&shard, &mut arrival, there, more).await? == 0 {
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
            let next = capacity(size, there, false);
            assert!(next > there && next <= there * FAST_GROWTH);
            let sparing = capacity(size, there, true);
            assert!(
                sparing > there && sparing <= next && sparing <= there + SPARING_BYTES + there / 4
            );
            (there, steps) = (next, steps + 1);
        }
        assert!(steps < 12);
        let last = READ_BUFFER_BYTES + 1;
        assert_eq!(capacity(last, READ_BUFFER_BYTES, false), last);
        assert_eq!(capacity(last, READ_BUFFER_BYTES, true), last);
    }

    #[test]
    fn request_is_slow_whose_bytes_do_not_keep_coming_and_not_one_that_was_not_read() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut arrival = Arrival {
            size: 1 << 20,
            due: at(14_000),
            seen: (start, 65_536),
        };
        assert!(
            !arrival.is_slow(at(900), 65_536, 256 << 10),
            "too early to say"
        );
        assert!(!arrival.is_slow(at(1_000), 65_536 + (256 << 10), 256 << 10));
        arrival.pause(Duration::from_secs(5));
        assert!(!arrival.is_slow(at(6_500), 65_536 + (256 << 10), 256 << 10));
        assert!(arrival.is_slow(at(7_000), 65_537 + (256 << 10), 256 << 10));
        assert_eq!(arrival.due, at(19_000));
    }
}
