//! A load generator for Produce that costs next to nothing: requests are encoded once, one thread drives all
//! connections, answers are checked for errors and nothing else.

mod connection;
mod target;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use connection::Driven;
pub use connection::LoadError;
pub use target::{create_topic, delete_topic};

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// What load is put on a broker.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where the broker listens, `HOST:PORT`.
    pub address: String,
    /// The topic, which exists.
    pub topic: String,
    /// Its partitions.
    pub partitions: u32,
    /// Connections.
    pub connections: usize,
    /// Requests each of them has under way at most.
    pub in_flight: usize,
    /// Records in the one batch of a request.
    pub records: usize,
    /// Bytes of a record's value.
    pub record_bytes: usize,
    /// Requests per second in all, at fixed intended times (open loop); `None`: as many as are answered.
    pub rate: Option<f64>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Requests answered without error.
    pub requests: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// From (intended) start to answer, in microseconds, one for each request.
    pub latencies_us: Vec<u32>,
}

/// One encoded request for each partition.
pub(crate) type Requests = Rc<Vec<Vec<u8>>>;

/// A load on open connections.
#[derive(Debug)]
pub struct Session {
    poll: Poll,
    connections: Vec<Driven>,
    batch_bytes: u64,
    in_flight: usize,
    rate: Option<f64>,
}

impl Session {
    /// Encodes the requests and connects.
    ///
    /// # Errors
    /// When the broker does not listen.
    pub fn open(load: &Load) -> io::Result<Session> {
        let batch = batch(load.records, load.record_bytes);
        let partitions = 0..i32::try_from(load.partitions).expect("there are few partitions");
        let requests: Requests = Rc::new(
            partitions
                .map(|p| tidemill_tests::raw::produce(&load.topic, p, &batch))
                .collect(),
        );
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            connections.push(Driven::open(
                &load.address,
                (poll.registry(), number),
                (requests.clone(), load.connections),
                &load.topic,
            )?);
        }
        Ok(Session {
            poll,
            connections,
            batch_bytes: batch.len() as u64,
            in_flight: load.in_flight,
            rate: load.rate,
        })
    }

    /// Puts the load on for `time`, then waits for the answers that are due.
    ///
    /// # Errors
    /// When the broker answers an error or closes a connection.
    pub fn run(&mut self, time: Duration) -> Result<Outcome, LoadError> {
        let mut outcome = Outcome::default();
        let mut events = Events::with_capacity(EVENTS);
        let began = Instant::now();
        let mut pace = self.rate.map(|rate| Pace::new(began, rate));
        let mut queue: VecDeque<Instant> = VecDeque::new();
        loop {
            let now = Instant::now();
            let over = now - began >= time;
            if let Some(pace) = &mut pace
                && !over
            {
                pace.due(now, &mut queue);
            }
            self.submit(now, &mut queue, pace.is_some(), over)?;
            if over && queue.is_empty() && self.connections.iter().all(Driven::is_idle) {
                break;
            }
            let wait = match &pace {
                Some(pace) if !over => pace.wait(Instant::now()),
                _ => Duration::from_millis(100),
            };
            self.poll.poll(&mut events, Some(wait))?;
            for event in &events {
                let connection = &mut self.connections[event.token().0];
                if event.is_readable() {
                    connection.receive(&mut outcome.latencies_us)?;
                }
            }
        }
        outcome.elapsed = began.elapsed();
        outcome.requests = outcome.latencies_us.len() as u64;
        outcome.bytes = outcome.requests * self.batch_bytes;
        Ok(outcome)
    }

    /// Gives every connection what it may send, and sends.
    fn submit(
        &mut self,
        now: Instant,
        queue: &mut VecDeque<Instant>,
        paced: bool,
        over: bool,
    ) -> Result<(), LoadError> {
        loop {
            let mut moved = false;
            for connection in &mut self.connections {
                if connection.under_way() >= self.in_flight {
                    continue;
                }
                match (paced, queue.pop_front()) {
                    (true, Some(intended)) => connection.start(intended),
                    (false, _) if !over => connection.start(now),
                    _ => continue,
                }
                moved = true;
            }
            if !moved {
                break;
            }
        }
        self.connections.iter_mut().try_for_each(Driven::send)
    }
}

/// Intended start times.
#[derive(Debug)]
struct Pace {
    next: Instant,
    step: Duration,
}

impl Pace {
    fn new(began: Instant, rate: f64) -> Pace {
        Pace {
            next: began,
            step: Duration::from_secs_f64(1.0 / rate),
        }
    }

    /// How long the kernel may be asked to wait: it rounds up to milliseconds, so what is shorter is spent looking.
    fn wait(&self, now: Instant) -> Duration {
        let left = self.next.saturating_duration_since(now);
        match left > Duration::from_millis(2) {
            true => left - Duration::from_millis(1),
            false => Duration::ZERO,
        }
    }

    /// Adds the starts that are due by `now` to `queue`.
    fn due(&mut self, now: Instant, queue: &mut VecDeque<Instant>) {
        while self.next <= now {
            queue.push_back(self.next);
            self.next += self.step;
        }
    }
}

/// A batch of `records` records of `bytes` bytes that nothing compresses.
fn batch(records: usize, bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    let values: Vec<Vec<u8>> = (0..records)
        .map(|_| (0..bytes).map(|_| byte()).collect())
        .collect();
    let records: Vec<(&[u8], &[u8])> = values.iter().map(|v| (&b""[..], v.as_slice())).collect();
    tidemill_tests::raw::batch(&records, tidemill_tests::raw::now_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paced_starts_that_were_missed_are_made_up_with_their_intended_times() {
        let began = Instant::now();
        let mut pace = Pace::new(began, 1_000.0);
        let mut queue = VecDeque::new();
        pace.due(began + Duration::from_micros(3_500), &mut queue);
        assert_eq!(queue.len(), 4);
        assert_eq!(queue[3] - began, Duration::from_millis(3));
        pace.due(began + Duration::from_micros(3_900), &mut queue);
        assert_eq!(queue.len(), 4);
    }
}
