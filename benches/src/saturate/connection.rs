//! One connection of a load.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::Requests;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Small requests are gathered to writes of about so many bytes.
const GATHER_BYTES: usize = 64 << 10;

/// Why a load ended early.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The socket failed, or the broker closed it.
    #[error("connection to the broker: {0}")]
    Io(#[from] io::Error),
    /// The broker refused a batch.
    #[error("the broker answered error {0}; a load needs every batch to be taken")]
    Refused(i16),
    /// The answer is not one to Produce v9.
    #[error("an answer to Produce could not be read")]
    Answer,
}

/// A connection, what is to be sent on it and what was sent.
#[derive(Debug)]
pub(super) struct Driven {
    stream: TcpStream,
    requests: Requests,
    topic: String,
    /// The request that is next, and how far the connections' requests lie apart.
    next: usize,
    step: usize,
    /// Requests started and not yet handed to the kernel.
    to_send: usize,
    /// Bytes gathered or a large request that is partly sent.
    out: Out,
    /// When the requests without an answer were started.
    started: VecDeque<Instant>,
    buffer: Vec<u8>,
    filled: usize,
}

#[derive(Debug, Default)]
struct Out {
    gathered: Vec<u8>,
    /// A request sent from where it is.
    large: Option<usize>,
    sent: usize,
}

impl Driven {
    pub(super) fn open(
        address: &str,
        (registry, number): (&Registry, usize),
        (requests, step): (Requests, usize),
        topic: &str,
    ) -> io::Result<Driven> {
        let mut addresses = address.to_socket_addrs()?;
        let address = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(number), both)?;
        Ok(Driven {
            stream,
            topic: topic.to_owned(),
            next: number % requests.len(),
            step,
            requests,
            to_send: 0,
            out: Out::default(),
            started: VecDeque::new(),
            buffer: vec![0; READ_BYTES],
            filled: 0,
        })
    }

    pub(super) fn under_way(&self) -> usize {
        self.started.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.started.is_empty()
    }

    /// Starts a request at `intended`; it goes out with the next [`Driven::send`].
    pub(super) fn start(&mut self, intended: Instant) {
        self.started.push_back(intended);
        self.to_send += 1;
    }

    /// Sends what was started, as far as the socket takes it.
    pub(super) fn send(&mut self) -> Result<(), LoadError> {
        loop {
            let bytes = match self.out.large {
                Some(request) => self.requests[request].as_slice(),
                None => self.out.gathered.as_slice(),
            };
            if self.out.sent < bytes.len() {
                match self.stream.write(&bytes[self.out.sent..]) {
                    Ok(n) => self.out.sent += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e.into()),
                }
                continue;
            }
            if self.to_send == 0 {
                return Ok(());
            }
            self.gather();
        }
    }

    /// Takes up what goes out with the next write.
    fn gather(&mut self) {
        self.out.gathered.clear();
        self.out.large = None;
        self.out.sent = 0;
        while self.to_send > 0 {
            let bytes = &self.requests[self.next];
            let large = bytes.len() >= GATHER_BYTES / 4;
            if large && !self.out.gathered.is_empty() {
                return;
            }
            if large {
                self.out.large = Some(self.next);
            } else {
                self.out.gathered.extend_from_slice(bytes);
            }
            self.to_send -= 1;
            self.next = (self.next + self.step) % self.requests.len();
            if large || self.out.gathered.len() >= GATHER_BYTES {
                return;
            }
        }
    }

    /// Reads answers until there are no more; adds how long each took.
    pub(super) fn receive(&mut self, latencies_us: &mut Vec<u32>) -> Result<(), LoadError> {
        loop {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            }
            self.answers(latencies_us)?;
        }
    }

    fn answers(&mut self, latencies_us: &mut Vec<u32>) -> Result<(), LoadError> {
        let now = Instant::now();
        let mut at = 0;
        while let Some(length) = self.buffer[at..self.filled].first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            let Some(answer) = self.buffer[at + 4..self.filled].get(..length) else {
                break;
            };
            match tidemill_tests::raw::produced(answer, &self.topic) {
                Some((0, _)) => {}
                Some((error, _)) => return Err(LoadError::Refused(error)),
                None => return Err(LoadError::Answer),
            }
            let started = self.started.pop_front().ok_or(LoadError::Answer)?;
            let took = now.saturating_duration_since(started).as_micros();
            latencies_us.push(u32::try_from(took).unwrap_or(u32::MAX));
            at += 4 + length;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        if self.filled == self.buffer.len() {
            return Err(LoadError::Answer); // no answer to Produce is so long
        }
        Ok(())
    }
}
