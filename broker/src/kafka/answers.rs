//! The answering side of a connection: drives every request that was started, whatever its place in line, and writes
//! the answers in the order of the requests.
//!
//! Requests are driven while an answer is being written: a client that does not read must not leave a request half
//! done that holds room others wait for.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, Stream};
use tidemill_rt::chan::mpsc;
use tidemill_rt::chan::semaphore::{Permit, Semaphore};
use tidemill_rt::net::WriteHalf;
use tidemill_rt::time::Instant;
use tidemill_wire::bounded::Flexible;
use tidemill_wire::header;

use super::connection::Client;
use crate::metrics::ApiCounters;

/// Bytes of small parts that are gathered into one write.
const GATHER_BYTES: usize = 64 << 10;
/// Parts of this size and more are written from where they are ...
const OWN_WRITE_BYTES: usize = 16 << 10;
/// ... so many bytes at once: what a client must take within `kafka.write_timeout`.
const WRITE_BYTES: usize = 256 << 10;

/// What a handler answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A response body.
    Body(Body),
    /// Nothing is sent (Produce with `acks=0`).
    Nothing,
    /// The connection is closed, for this reason.
    Close(String),
}

/// A response body, in parts, and the room that was reserved for it.
#[derive(Debug)]
pub(crate) struct Body {
    parts: Vec<Bytes>,
    room: Option<Permit>,
}

impl Body {
    /// A body for which nothing was reserved: in proportion to its request, or small.
    pub(crate) fn unreserved(part: Bytes) -> Body {
        Body {
            parts: vec![part],
            room: None,
        }
    }

    /// A body that was made within `room`.
    pub(crate) fn within(room: Permit, parts: Vec<Bytes>) -> Body {
        Body {
            parts,
            room: Some(room),
        }
    }
}

/// A request under way.
pub(crate) type Pending = Pin<Box<dyn Future<Output = Answer>>>;

/// A request under way, and what its response header needs.
pub(crate) struct Running {
    pending: Pending,
    correlation_id: i32,
    header: Flexible,
    budget: Semaphore,
    counted: Counted,
    in_flight: Option<Permit>,
}

/// What a request is counted in, and when it was complete.
pub(crate) struct Counted {
    /// The counters of its API.
    pub(crate) counters: Rc<ApiCounters>,
    /// When it was complete.
    pub(crate) at: Instant,
}

impl Running {
    /// A started request, whose answer is charged to `budget`.
    pub(crate) fn new(
        pending: Pending,
        correlation_id: i32,
        header: Flexible,
        budget: Semaphore,
        counted: Counted,
    ) -> Running {
        Running {
            pending,
            correlation_id,
            header,
            budget,
            counted,
            in_flight: None,
        }
    }

    /// Keeps `in_flight` until the answer is written.
    pub(crate) fn holding(mut self, in_flight: Permit) -> Running {
        self.in_flight = Some(in_flight);
        self
    }
}

impl Future for Running {
    type Output = Reply;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        self.pending.as_mut().poll(cx).map(|answer| {
            let in_flight = self.in_flight.take();
            let Counted { counters, at } = &self.counted;
            counters.latency.observe(at.elapsed());
            match answer {
                Answer::Body(Body { parts, room }) => {
                    let bytes = parts.iter().map(Bytes::len).sum();
                    counters.answer_bytes.add(bytes as u64);
                    let head = header::response(self.correlation_id, self.header, bytes);
                    let room = match room {
                        Some(mut room) => {
                            room.settle(bytes as u64);
                            room
                        }
                        None => self.budget.charge(bytes as u64),
                    };
                    Reply::Send {
                        head,
                        body: parts,
                        _room: room,
                        _in_flight: in_flight,
                    }
                }
                Answer::Nothing => Reply::Nothing,
                Answer::Close(reason) => Reply::Close(reason),
            }
        })
    }
}

/// An answer ready to be written.
pub(crate) enum Reply {
    /// Bytes to write.
    Send {
        head: Vec<u8>,
        body: Vec<Bytes>,
        _room: Permit,
        _in_flight: Option<Permit>,
    },
    /// Nothing to write.
    Nothing,
    /// The connection is to be closed.
    Close(String),
}

type Writing = Pin<Box<dyn Future<Output = (WriteHalf, io::Result<()>)>>>;

enum Socket {
    Idle(WriteHalf),
    Busy(Writing),
    Gone,
}

/// The future that drives and answers. Ends when the reader is gone and everything is answered, when writing fails,
/// when a handler asks for the connection to be closed, or when `watch` ends. The socket
/// closes when this and the reader are dropped.
pub(crate) struct Answers {
    socket: Socket,
    started: mpsc::Receiver<Running>,
    reader_gone: bool,
    running: FuturesOrdered<Running>,
    ready: VecDeque<Reply>,
    watch: Pin<Box<dyn Future<Output = ()>>>,
    client: Rc<Client>,
    pipeline_max: usize,
}

impl Answers {
    /// Answers what comes through `started` on `socket`, at most `pipeline_max` requests at a time.
    pub(crate) fn new(
        socket: WriteHalf,
        started: mpsc::Receiver<Running>,
        watch: Pin<Box<dyn Future<Output = ()>>>,
        client: Rc<Client>,
        pipeline_max: usize,
    ) -> Answers {
        Answers {
            socket: Socket::Idle(socket),
            started,
            reader_gone: false,
            running: FuturesOrdered::new(),
            ready: VecDeque::new(),
            watch,
            client,
            pipeline_max,
        }
    }

    /// Takes in what was started, as long as no more than a pipeline is under way.
    fn take_started(&mut self, cx: &mut Context<'_>) {
        while !self.reader_gone && self.running.len() + self.ready.len() < self.pipeline_max {
            match self.started.poll_recv(cx) {
                Poll::Ready(Some(running)) => self.running.push_back(running),
                Poll::Ready(None) => self.reader_gone = true,
                Poll::Pending => return,
            }
        }
    }

    /// Begins to write what is ready. Whether the connection must be closed.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Socket::Busy(writing) = &mut self.socket {
                let Poll::Ready((socket, result)) = writing.as_mut().poll(cx) else {
                    return Poll::Pending;
                };
                self.socket = Socket::Idle(socket);
                if result.is_err() {
                    return Poll::Ready(());
                }
            }
            let mut batch = Vec::new();
            while let Some(Reply::Send { .. } | Reply::Nothing) = self.ready.front() {
                batch.extend(self.ready.pop_front());
            }
            if let Some(Reply::Close(reason)) = self.ready.front()
                && batch.is_empty()
            {
                tracing::info!("Kafka connection closed: {reason}");
                return Poll::Ready(());
            }
            if batch.is_empty() {
                return Poll::Pending;
            }
            match std::mem::replace(&mut self.socket, Socket::Gone) {
                Socket::Idle(socket) => {
                    self.socket =
                        Socket::Busy(Box::pin(write_all(socket, batch, self.client.clone())))
                }
                Socket::Busy(_) | Socket::Gone => return Poll::Ready(()),
            }
        }
    }
}

impl Future for Answers {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            this.take_started(cx);
            let mut moved = false;
            while let Poll::Ready(Some(reply)) = Pin::new(&mut this.running).poll_next(cx) {
                this.ready.push_back(reply);
                moved = true;
            }
            let waiting = this.ready.len();
            let writing = this.write(cx);
            // What went out made room in the pipeline.
            moved |= this.ready.len() != waiting;
            let quiet = this.running.is_empty()
                && this.ready.is_empty()
                && matches!(this.socket, Socket::Idle(_));
            this.client.set_busy(!quiet);
            let done = this.reader_gone && quiet;
            if writing.is_ready() || done || this.watch.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }
}

/// Writes replies, small parts gathered. Memory held for them is given back as this ends.
async fn write_all(
    socket: WriteHalf,
    batch: Vec<Reply>,
    client: Rc<Client>,
) -> (WriteHalf, io::Result<()>) {
    let bytes = |reply: &Reply| match reply {
        Reply::Send { body, .. } => body.iter().map(|part| part.len() as u64).sum(),
        Reply::Nothing | Reply::Close(_) => 0,
    };
    client.answers(batch.iter().map(bytes).sum());
    let mut writing = Progress { socket, client };
    let result = writing.replies(&batch).await;
    writing.client.answered();
    (writing.socket, result)
}

/// A socket of which it is noted when something was last written.
struct Progress {
    socket: WriteHalf,
    client: Rc<Client>,
}

impl Progress {
    async fn replies(&mut self, batch: &[Reply]) -> io::Result<()> {
        let mut gathered = Vec::new();
        for reply in batch {
            let Reply::Send { head, body, .. } = reply else {
                continue;
            };
            gathered.extend_from_slice(head);
            for part in body {
                if part.len() >= OWN_WRITE_BYTES {
                    self.bytes(&gathered).await?;
                    gathered.clear();
                    self.bytes(part).await?;
                } else {
                    gathered.extend_from_slice(part);
                }
                if gathered.len() >= GATHER_BYTES {
                    self.bytes(&gathered).await?;
                    gathered.clear();
                }
            }
        }
        self.bytes(&gathered).await
    }

    async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(WRITE_BYTES) {
            self.client.writes();
            self.socket.write_all(piece).await?;
        }
        Ok(())
    }
}
