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
use tidemill_rt::chan::semaphore::Permit;
use tidemill_rt::net::WriteHalf;
use tidemill_rt::time::Instant;
use tidemill_wire::bounded::Flexible;
use tidemill_wire::header;

use super::client::Client;
use super::memory::AnswerRoom;
use crate::metrics::ApiCounters;
use crate::shard::Shard;

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
    room: Option<AnswerRoom>,
}

impl Body {
    /// A small body, for which nothing was reserved.
    pub(crate) fn unreserved(part: Bytes) -> Body {
        Body {
            parts: vec![part],
            room: None,
        }
    }

    /// A body that was made within `room`.
    pub(crate) fn within(room: AnswerRoom, parts: Vec<Bytes>) -> Body {
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
    whose: Whose,
    counted: Counted,
    in_flight: Option<Permit>,
}

/// Whose answer it is.
pub(crate) struct Whose {
    /// The shard of the connection, whose budget for answers it is charged to.
    pub(crate) shard: Rc<Shard>,
    /// Who asked.
    pub(crate) client: Rc<Client>,
}

/// What a request is counted in, and when it was complete.
pub(crate) struct Counted {
    /// The counters of its API.
    pub(crate) counters: Rc<ApiCounters>,
    /// When it was complete.
    pub(crate) at: Instant,
}

impl Running {
    /// A started request.
    pub(crate) fn new(
        pending: Pending,
        correlation_id: i32,
        header: Flexible,
        whose: Whose,
        counted: Counted,
    ) -> Running {
        Running {
            pending,
            correlation_id,
            header,
            whose,
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
                    let Some(head) = header::response(self.correlation_id, self.header, bytes)
                    else {
                        return Reply::Close(format!(
                            "an answer would have {bytes} bytes, more than any client reads"
                        ));
                    };
                    counters.answer_bytes.add(bytes as u64);
                    let Whose { shard, client } = &self.whose;
                    let room = match room {
                        Some(mut room) => {
                            room.settle(bytes as u64);
                            room
                        }
                        None => shard.kafka_memory.small_answer(bytes as u64),
                    };
                    let bytes = (head.len() + bytes) as u64;
                    client.makes(bytes);
                    Reply::Send(Made {
                        head,
                        body: parts,
                        bytes,
                        room,
                        _in_flight: in_flight,
                    })
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
    Send(Made),
    /// Nothing to write.
    Nothing,
    /// The connection is to be closed.
    Close(String),
}

/// An answer, and what it holds until it is written.
pub(crate) struct Made {
    head: Vec<u8>,
    body: Vec<Bytes>,
    /// Those of head and body.
    bytes: u64,
    room: AnswerRoom,
    _in_flight: Option<Permit>,
}

impl Reply {
    fn bytes(&self) -> u64 {
        match self {
            Reply::Send(made) => made.bytes,
            Reply::Nothing | Reply::Close(_) => 0,
        }
    }
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
            while let Some(Reply::Send(_) | Reply::Nothing) = self.ready.front() {
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
                this.client.lines_up(reply.bytes());
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

/// Writes replies, small parts gathered. Memory held for them is given back as they are written.
async fn write_all(
    socket: WriteHalf,
    batch: Vec<Reply>,
    client: Rc<Client>,
) -> (WriteHalf, io::Result<()>) {
    let mut writing = Progress {
        socket,
        client,
        gathered: Vec::new(),
        gathered_of: Vec::new(),
    };
    let result = writing.replies(batch).await;
    writing.client.answered();
    (writing.socket, result)
}

/// A socket of which it is noted when something was last written, and what is to be written next.
struct Progress {
    socket: WriteHalf,
    client: Rc<Client>,
    /// Small parts.
    gathered: Vec<u8>,
    /// What is held for answers that end in them.
    gathered_of: Vec<Made>,
}

impl Progress {
    async fn replies(&mut self, batch: Vec<Reply>) -> io::Result<()> {
        for reply in batch {
            let Reply::Send(mut made) = reply else {
                continue;
            };
            self.gathered.extend_from_slice(&made.head);
            for part in std::mem::take(&mut made.body) {
                if part.len() >= OWN_WRITE_BYTES {
                    self.flush().await?;
                    self.bytes(&part, Some(&mut made.room)).await?;
                } else {
                    self.gathered.extend_from_slice(&part);
                }
                if self.gathered.len() >= GATHER_BYTES {
                    self.flush().await?;
                }
            }
            self.gathered_of.push(made);
        }
        self.flush().await
    }

    /// Writes what was gathered.
    async fn flush(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.bytes(&gathered, None).await?;
        self.gathered = gathered;
        self.gathered.clear();
        self.gathered_of.clear();
        Ok(())
    }

    /// Writes `bytes`, and gives back what they hold of `room`.
    async fn bytes(&mut self, bytes: &[u8], mut room: Option<&mut AnswerRoom>) -> io::Result<()> {
        for piece in bytes.chunks(WRITE_BYTES) {
            self.client.writes();
            self.socket.write_all(piece).await?;
            self.client.takes(piece.len() as u64);
            if let Some(room) = &mut room {
                room.shrink(piece.len() as u64);
            }
        }
        Ok(())
    }
}
