//! Serves one client's connection: reads a head, asks the gate, sends the request through the pool, writes the answer,
//! runs jobs. It knows no route, nor how requests reach the routes.

use std::io::{self, Read};
use std::net::{IpAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::body::{self, UnreadBody};
use super::counters::Reason;
use super::evict::EvictionOrder;
use super::forward::{ask, request};
use super::head::{self, Head, Refusal};
use super::limits::{BUFFERED_BODY, HEAD_TIME, IDLE_TIME, Lease, SHORT_BODY, SMALL_BODY_BYTES};
use super::pool::WorkerResponse;
use super::render::{busy, head_of, render};
use super::socket::{Pace, Socket, WaitEnd};
use super::streams::StreamParts;
use super::{Admission, Shared, Wire, tls};
use crate::clock;
use crate::hub::http::{Caller, Job, Pieces, Reply, UploadJob};

/// Bytes of buffer that an idle connection may keep.
const MAX_KEPT_BUFFER_BYTES: usize = 4096;
/// Serves a connection until either side closes it, or it becomes an event stream, which is returned.
pub fn serve(
    shared: &Shared,
    stream: &Arc<TcpStream>,
    peer: IpAddr,
    order: EvictionOrder,
) -> Option<StreamParts> {
    let mut client = Connection {
        shared,
        socket: Socket::new(stream, &shared.halted, &shared.idle, order),
        peer,
        known: false,
    };
    let mut patience = match client.begin() {
        Ok(Some(patience)) => patience,
        Ok(None) => return None,
        Err(e) => {
            shared.counters.refuse(Reason::Handshake);
            log::debug!("{peer}: cannot begin TLS: {e}");
            return None;
        }
    };
    loop {
        match client.request(patience) {
            Ok(AfterReply::Next) => patience = IDLE_TIME,
            Ok(AfterReply::Close) => return None,
            Ok(AfterReply::Linger) => {
                client.socket.linger();
                return None;
            }
            Ok(AfterReply::Stream(writer, lease)) => {
                return Some(StreamParts {
                    stream: Arc::clone(stream),
                    session: client.socket.take_session(),
                    writer,
                    lease,
                });
            }
            Err(e) => {
                log::debug!("{peer}: {e}");
                return None;
            }
        }
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    socket: Socket<'a>,
    peer: IpAddr,
    /// A request of this connection had a valid key.
    known: bool,
}

/// What happens to the connection after an answer.
enum AfterReply {
    Next,
    Close,
    /// The connection is an event stream from here on.
    Stream(Box<dyn Pieces>, Lease),
    /// Close, but let the client read the answer before it notices that the connection is closed.
    Linger,
}

enum HeadArrival {
    Head(Head),
    Refused(Refusal),
    /// Closed by the client, idle for too long, or the hub is stopping.
    Nothing,
}

/// How one request is to be answered.
#[derive(Clone, Copy)]
struct ReplyOptions {
    keep_alive: bool,
    /// The method is HEAD: answer with the head of GET and no body.
    head_only: bool,
    /// The request changes nothing, so it can be refused even after a worker carried it out.
    safe: bool,
}

impl Connection<'_> {
    /// Waits for the first byte, and does the handshake if that is TLS. Returns the time left for the first head; `None`: no
    /// byte arrived.
    fn begin(&mut self) -> io::Result<Option<Duration>> {
        let until = clock::monotonic() + HEAD_TIME;
        if self
            .socket
            .wait_readable(until, Some(&self.shared.stopping))?
            != WaitEnd::Ready
        {
            return Ok(None);
        }
        let until = clock::monotonic() + HEAD_TIME;
        if let Some(acceptor) = &self.shared.tls
            && self.socket.begins_tls()?
        {
            let Some(_space) = self.shared.room.claim(tls::SESSION_BYTES) else {
                return Err(io::ErrorKind::OutOfMemory.into());
            };
            self.socket
                .encrypt(acceptor, &self.shared.handshakes, until)?;
        }
        Ok(Some(until.saturating_duration_since(clock::monotonic())))
    }

    fn request(&mut self, patience: Duration) -> io::Result<AfterReply> {
        let head = match self.arrival(patience)? {
            HeadArrival::Nothing => return Ok(AfterReply::Close),
            HeadArrival::Head(head) => head,
            HeadArrival::Refused(refusal) => {
                let options = ReplyOptions {
                    keep_alive: false,
                    head_only: false,
                    safe: true,
                };
                self.refuse(
                    refusal.reason,
                    Reply::error(refusal.status, refusal.words),
                    &options,
                    true,
                )?;
                return Ok(AfterReply::Linger);
            }
        };
        let safe = matches!(head.method.as_str(), "GET" | "HEAD");
        let options = ReplyOptions {
            keep_alive: head.keep_alive,
            head_only: head.method == "HEAD",
            safe,
        };
        let wire = if self.socket.is_encrypted() {
            Wire::Tls
        } else {
            Wire::Plain
        };
        match self.shared.gate.admit(&head, self.peer, wire) {
            Admission::Refuse(reply) => self.refuse(Reason::Gate, reply, &options, head.length > 0),
            Admission::Admit { body_limit, .. } if head.length > body_limit => {
                let words = format!(
                    "the body has {} bytes; the limit here is {body_limit}",
                    head.length
                );
                self.refuse(Reason::BodySize, Reply::error(413, words), &options, true)
            }
            Admission::Admit {
                caller, streamed, ..
            } => {
                if matches!(
                    caller,
                    Caller::Admin | Caller::Host(..) | Caller::Viewer | Caller::Hub
                ) {
                    (self.known, self.socket.order) = (true, None);
                }
                let then = self.admitted(head, caller, streamed, &options)?;
                if self.known {
                    self.socket.order = Some(self.shared.idle.order(true));
                }
                Ok(then)
            }
        }
    }

    /// Waits for a head: `patience` for its first byte, then [`HEAD_TIME`] for the rest.
    fn arrival(&mut self, patience: Duration) -> io::Result<HeadArrival> {
        let begun = !self.socket.buffer.is_empty();
        if !begun && self.socket.buffer.capacity() > MAX_KEPT_BUFFER_BYTES {
            // hundreds of connections may be idle
            self.socket.buffer = Vec::new();
        }
        let mut until = clock::monotonic() + if begun { HEAD_TIME } else { patience };
        let mut seen = 0;
        loop {
            match head::end(&self.socket.buffer, seen) {
                Ok(None) => seen = self.socket.buffer.len(),
                Ok(Some(n)) => {
                    let head = head::parse(&self.socket.buffer[..n]);
                    self.socket.buffer.drain(..n);
                    return Ok(head.map_or_else(HeadArrival::Refused, HeadArrival::Head));
                }
                Err(refusal) => return Ok(HeadArrival::Refused(refusal)),
            }
            // a stop ends a connection between two requests, not within one
            let latch = if seen == 0 {
                Some(&self.shared.stopping)
            } else {
                None
            };
            match self.socket.wait_readable(until, latch)? {
                WaitEnd::Ready => {}
                WaitEnd::TimedOut if seen > 0 => {
                    let words = "the head did not arrive within 10 seconds";
                    return Ok(HeadArrival::Refused(Refusal {
                        status: 408,
                        words,
                        reason: Reason::HeadTime,
                    }));
                }
                WaitEnd::TimedOut | WaitEnd::Woken => return Ok(HeadArrival::Nothing),
            }
            if !self.socket.fill()? {
                return Ok(HeadArrival::Nothing);
            }
            // TLS records without content do not begin a head
            if seen == 0 && !self.socket.buffer.is_empty() {
                until = clock::monotonic() + HEAD_TIME;
            }
        }
    }

    fn admitted(
        &mut self,
        head: Head,
        caller: Caller,
        streamed: bool,
        options: &ReplyOptions,
    ) -> io::Result<AfterReply> {
        let is_long = head.length > SHORT_BODY;
        let _transfer = match self.take_transfer(is_long) {
            Ok(transfer) => transfer,
            Err(busy) => return self.refuse(Reason::Transfers, busy, options, true),
        };
        // a login must succeed under any load
        let most = if streamed { SHORT_BODY } else { BUFFERED_BODY };
        let buffered = if (SMALL_BODY_BYTES as u64..=most).contains(&head.length) {
            head.length
        } else {
            0
        };
        let Some(_memory) = self.shared.memory.take(buffered) else {
            return self.refuse(
                Reason::Memory,
                busy("too many requests with long bodies"),
                options,
                true,
            );
        };
        // a body is in memory several times: read, parsed, and queued for the disk
        let Some(space) = self.shared.room.claim(4 * buffered.max(SHORT_BODY)) else {
            return self.refuse(Reason::Memory, busy("memory is short"), options, true);
        };
        // the job of a long body claims what it needs, and may take hours
        let _space = (!is_long).then_some(space);
        let mut body = UnreadBody::new(&head);
        let bytes = match if is_long {
            Ok(Vec::new())
        } else {
            body.whole(&mut self.socket)
        } {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                return self.refuse(
                    Reason::Slow,
                    Reply::error(408, "the body came too slowly"),
                    options,
                    true,
                );
            }
            Err(e) => return Err(e),
        };
        match ask(self.shared, request(head, caller, self.peer), &bytes) {
            Ok((answer, job)) => self.conclude(answer, job, &mut body, options),
            Err(reply) => self.refuse(Reason::Workers, reply, options, body.unread()),
        }
    }

    /// Runs the job that the route returned, and answers.
    fn conclude(
        &mut self,
        mut answer: WorkerResponse,
        job: Option<Job>,
        body: &mut UnreadBody,
        options: &ReplyOptions,
    ) -> io::Result<AfterReply> {
        match job {
            None => {
                let counted = answer.body.len() > SMALL_BODY_BYTES && options.safe;
                let Some(_memory) =
                    self.shared
                        .memory
                        .take(if counted { answer.body.len() as u64 } else { 0 })
                else {
                    return self.refuse(
                        Reason::Memory,
                        busy("too many long answers at the same time"),
                        options,
                        body.unread(),
                    );
                };
                self.finish(&answer, body.unread(), options)
            }
            Some(Job::Bytes(bytes)) => {
                let _transfer = match self.take_transfer(true) {
                    Ok(transfer) => transfer,
                    Err(busy) => {
                        return self.refuse(Reason::Transfers, busy, options, body.unread());
                    }
                };
                let Some(_memory) = self.shared.memory.take(bytes.len() as u64) else {
                    return self.refuse(
                        Reason::Memory,
                        busy("too many long answers at the same time"),
                        options,
                        body.unread(),
                    );
                };
                answer.body = bytes;
                self.finish(&answer, body.unread(), options)
            }
            Some(Job::Upload(job)) => {
                let mut reply = self.upload(job, body);
                let next = reply.job.take();
                match next {
                    Some(Job::Upload(_)) => {
                        log::error!("upload handler returned another upload");
                        self.finish(
                            &Reply::error(500, "internal error; see the log of the hub").into(),
                            true,
                            options,
                        )
                    }
                    next => self.conclude(reply.into(), next, body, options),
                }
            }
            Some(Job::Send { length, reader }) => {
                self.send(&answer, length, reader, body.unread(), options)
            }
            Some(Job::Stream(writer)) => self.stream(answer, writer, options),
        }
    }

    fn upload(&mut self, job: UploadJob, body: &mut UnreadBody) -> Reply {
        let mut reader = body.on(&mut self.socket);
        catch_unwind(AssertUnwindSafe(|| job(&mut reader))).unwrap_or_else(|_| {
            log::error!("upload panicked; answered 500");
            Reply::error(500, "internal error; see the log of the hub")
        })
    }

    /// Writes an answer while it is read. Its head is sent before the first byte is read, so a failing reader can only end the
    /// connection early.
    fn send(
        &mut self,
        answer: &WorkerResponse,
        length: u64,
        reader: Box<dyn Read + Send>,
        unread: bool,
        options: &ReplyOptions,
    ) -> io::Result<AfterReply> {
        let _transfer = match self.take_transfer(length > SHORT_BODY && !options.head_only) {
            Ok(transfer) => transfer,
            Err(busy) => return self.refuse(Reason::Transfers, busy, options, unread),
        };
        let keep_alive = options.keep_alive && !unread && !self.shared.stopping.is_raised();
        let mut pace = Pace::default();
        self.socket
            .write_all(&head_of(answer, Some(length), keep_alive), &mut pace)?;
        if !options.head_only {
            match catch_unwind(AssertUnwindSafe(|| {
                body::copy(reader, length, &mut self.socket, &mut pace)
            })) {
                Ok(copied) => copied.inspect_err(|e| self.count_slow(e))?,
                Err(_) => {
                    log::error!("download panicked; disconnected the client");
                    return Ok(AfterReply::Close);
                }
            }
        }
        Ok(self.next(keep_alive, unread))
    }

    /// Writes the head of an event stream.
    fn stream(
        &mut self,
        mut answer: WorkerResponse,
        writer: Box<dyn Pieces>,
        options: &ReplyOptions,
    ) -> io::Result<AfterReply> {
        let Some(lease) = self.shared.stream_places.take(1) else {
            return self.refuse(
                Reason::Streams,
                busy("too many event streams are open"),
                options,
                false,
            );
        };
        answer
            .headers
            .push(("Cache-Control".into(), "no-store".into()));
        // nginx and other proxies buffer an answer, which would delay each event until later ones fill the buffer
        answer
            .headers
            .push(("X-Accel-Buffering".into(), "no".into()));
        self.socket
            .write_all(&head_of(&answer, None, false), &mut Pace::default())?;
        // a pipelined request is not answered after an event stream
        Ok(if options.head_only {
            AfterReply::Close
        } else {
            AfterReply::Stream(writer, lease)
        })
    }

    /// A place among the long transfers, which a short one does not need. The error: all are taken.
    fn take_transfer(&self, is_long: bool) -> Result<Option<Lease>, Reply> {
        if !is_long {
            return Ok(None);
        }
        let place = self.shared.transfers.take(1);
        place
            .map(Some)
            .ok_or_else(|| busy("too many long transfers at the same time"))
    }

    /// Answers a request that no route has completed. `unread`: the client may still send a body.
    fn refuse(
        &mut self,
        reason: Reason,
        reply: Reply,
        options: &ReplyOptions,
        unread: bool,
    ) -> io::Result<AfterReply> {
        self.shared.counters.refuse(reason);
        self.finish(&reply.into(), unread, options)
    }

    fn finish(
        &mut self,
        answer: &WorkerResponse,
        unread: bool,
        options: &ReplyOptions,
    ) -> io::Result<AfterReply> {
        let keep_alive = options.keep_alive && !unread && !self.shared.stopping.is_raised();
        let (text, body) = render(answer, keep_alive, options.head_only);
        let mut pace = Pace::default();
        let written = self
            .socket
            .write_all(&text, &mut pace)
            .and_then(|()| self.socket.write_all(body, &mut pace));
        written.inspect_err(|e| self.count_slow(e))?;
        Ok(self.next(keep_alive, unread))
    }

    fn next(&self, keep_alive: bool, unread: bool) -> AfterReply {
        match (keep_alive, unread || !self.socket.buffer.is_empty()) {
            (true, _) => AfterReply::Next,
            (false, true) => AfterReply::Linger,
            (false, false) => AfterReply::Close,
        }
    }

    fn count_slow(&self, e: &io::Error) {
        if e.kind() == io::ErrorKind::TimedOut {
            self.shared.counters.refuse(Reason::Slow);
        }
    }
}
