//! The answering side of a connection: drives every request that was started, whatever its place in line, and writes
//! the answers in the order of the requests.
//!
//! Requests are driven while an answer is being written: a client that does not read must not leave a request half
//! done that holds room others wait for.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, Stream};
use tidemill_rt::chan::mpsc;
use tidemill_rt::chan::semaphore::Permit;
use tidemill_rt::net::WriteHalf;
use tidemill_wire::bounded::Flexible;
use tidemill_wire::header;

/// Bytes of small parts that are gathered into one write.
const GATHER_BYTES: usize = 64 << 10;
/// Parts of this size and more are written from where they are.
const OWN_WRITE_BYTES: usize = 16 << 10;

/// What a handler answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A response body, in parts.
    Body(Vec<Bytes>),
    /// Nothing is sent (Produce with `acks=0`).
    Nothing,
    /// The connection is closed, for this reason.
    Close(String),
}

/// A request under way.
pub(crate) type Pending = Pin<Box<dyn Future<Output = Answer>>>;

/// A request under way, and what its response header needs.
pub(crate) struct Running {
    pending: Pending,
    correlation_id: i32,
    header: Flexible,
    memory: Option<Permit>,
    in_flight: Option<Permit>,
}

impl Running {
    /// A started request.
    pub(crate) fn new(pending: Pending, correlation_id: i32, header: Flexible) -> Running {
        Running {
            pending,
            correlation_id,
            header,
            memory: None,
            in_flight: None,
        }
    }

    /// Keeps `memory` until the request is done, so that a client that does not read holds nothing of the shard's
    /// budget, and `in_flight` until the answer is written.
    pub(crate) fn holding(mut self, memory: Permit, in_flight: Permit) -> Running {
        self.memory = Some(memory);
        self.in_flight = Some(in_flight);
        self
    }
}

impl Future for Running {
    type Output = Reply;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        self.pending.as_mut().poll(cx).map(|answer| {
            self.memory = None;
            let in_flight = self.in_flight.take();
            match answer {
                Answer::Body(body) => {
                    let bytes = body.iter().map(Bytes::len).sum();
                    let head = header::response(self.correlation_id, self.header, bytes);
                    Reply::Send {
                        head,
                        body,
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
}

impl Answers {
    /// Answers what comes through `started` on `socket`.
    pub(crate) fn new(
        socket: WriteHalf,
        started: mpsc::Receiver<Running>,
        watch: Pin<Box<dyn Future<Output = ()>>>,
    ) -> Answers {
        Answers {
            socket: Socket::Idle(socket),
            started,
            reader_gone: false,
            running: FuturesOrdered::new(),
            ready: VecDeque::new(),
            watch,
        }
    }

    /// Takes in what was started, as long as no more than a pipeline is under way.
    fn take_started(&mut self, cx: &mut Context<'_>) {
        while !self.reader_gone
            && self.running.len() + self.ready.len() < super::connection::PIPELINE_MAX
        {
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
                    self.socket = Socket::Busy(Box::pin(write_all(socket, batch)))
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
            let done = this.reader_gone
                && this.running.is_empty()
                && this.ready.is_empty()
                && matches!(this.socket, Socket::Idle(_));
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
async fn write_all(mut socket: WriteHalf, batch: Vec<Reply>) -> (WriteHalf, io::Result<()>) {
    let result = write_parts(&mut socket, &batch).await;
    (socket, result)
}

async fn write_parts(socket: &mut WriteHalf, batch: &[Reply]) -> io::Result<()> {
    let mut gathered = Vec::new();
    for reply in batch {
        let Reply::Send { head, body, .. } = reply else {
            continue;
        };
        gathered.extend_from_slice(head);
        for part in body {
            if part.len() >= OWN_WRITE_BYTES {
                socket.write_all(&gathered).await?;
                gathered.clear();
                socket.write_all(part).await?;
            } else {
                gathered.extend_from_slice(part);
            }
            if gathered.len() >= GATHER_BYTES {
                socket.write_all(&gathered).await?;
                gathered.clear();
            }
        }
    }
    if gathered.is_empty() {
        Ok(())
    } else {
        socket.write_all(&gathered).await
    }
}
