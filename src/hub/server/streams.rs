//! The event streams of all clients, on one thread: it writes to each connection as much as its reader takes, and waits in
//! epoll(7) for readers, and for writers that have something new.
//!
//! A stream costs its socket, its writer, and what its reader has not taken yet; with TLS a session too. It knows no event: an
//! [`Pieces`] has them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::OwnedFd;

use super::limits::{Latch, Lease, PIECE_TIME};
use super::socket::{read_some, write_some};
use super::tls::Session;
use super::{ConnectionResources, Shared};
use crate::clock;
use crate::hub::http::{AfterPiece, Pieces};
use crate::hub::subscribers::StreamWakeup;
use crate::wire::KEEP_ALIVE;

/// Events of epoll(7) that are read at once.
const EVENTS_PER_READ: usize = 256;
/// Pieces that are written before epoll(7) is asked again.
const PIECES_PER_READ: usize = 64;
/// The numbers of the descriptors that are no stream.
const WAKE_NUMBER: u64 = 0;
const STOP_NUMBER: u64 = 1;

/// A connection whose head of an event stream was written: its thread hands it over, and ends.
pub struct StreamParts {
    pub stream: Arc<TcpStream>,
    pub session: Option<Session>,
    pub writer: Box<dyn Pieces>,
    /// Its place among the streams.
    pub lease: Lease,
}

/// Takes over streams from the threads of connections.
pub struct StreamServer {
    inbox: Mutex<NewStreams>,
    wake: Arc<WakeDescriptor>,
}

#[derive(Default)]
struct NewStreams {
    /// The thread has ended.
    closed: bool,
    new: Vec<(StreamParts, ConnectionResources)>,
}

/// Wakes the thread, once for any number of wake-ups until it has read them.
struct WakeDescriptor {
    fd: OwnedFd,
    is_raised: AtomicBool,
}

impl WakeDescriptor {
    fn raise(&self) {
        if !self.is_raised.swap(true, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// To be called before the state is read that others change before they raise it.
    fn lower(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.is_raised.store(false, Ordering::SeqCst);
    }
}

impl StreamServer {
    pub fn new() -> io::Result<StreamServer> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(StreamServer {
            inbox: Mutex::default(),
            wake: Arc::new(WakeDescriptor {
                fd,
                is_raised: AtomicBool::new(false),
            }),
        })
    }

    /// Closes the connection if the server has stopped.
    pub fn take_over(&self, parts: StreamParts, resources: ConnectionResources) {
        let mut inbox = self.inbox();
        if !inbox.closed {
            inbox.new.push((parts, resources));
            drop(inbox);
            self.wake.raise();
        }
    }

    fn inbox(&self) -> MutexGuard<'_, NewStreams> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves all streams until the server stops. After a panic, which closes them, it begins anew.
    pub fn run(&self, shared: &Shared) {
        loop {
            let served = catch_unwind(AssertUnwindSafe(|| {
                OpenStreams::new(self, &shared.stopping)?.serve()
            }));
            match served {
                Ok(Ok(())) => break,
                Ok(Err(e)) => log::error!("cannot wait for event streams: {e}; closed all of them"),
                Err(_) => log::error!("event streams panicked; closed all of them"),
            }
            if shared.stopping.is_raised() {
                break;
            }
            super::wait(&[&shared.stopping.fd], super::ACCEPT_RETRY_PAUSE);
        }
        let mut inbox = self.inbox();
        inbox.closed = true;
        let left = std::mem::take(&mut inbox.new);
        drop(inbox);
        drop(left);
    }
}

struct OpenStreams<'a> {
    epoll: OwnedFd,
    streams: &'a StreamServer,
    stopping: &'a Latch,
    wakeup: StreamWakeup,
    last: u64,
    open: BTreeMap<u64, OpenStream>,
    /// Streams that may have something to write, each once.
    ready: VecDeque<u64>,
    /// No stream is due before.
    next_due: Instant,
}

struct OpenStream {
    stream: Arc<TcpStream>,
    session: Option<Session>,
    writer: Box<dyn Pieces>,
    /// The part of a piece that its reader has not taken.
    unsent: Vec<u8>,
    /// When its reader must have taken the piece; if there is none, when a keep-alive is written.
    due: Instant,
    /// It is in the queue of ready streams.
    is_ready: bool,
    /// epoll(7) also reports when its reader takes more.
    awaits_reader: bool,
    /// It is closed when all is sent.
    is_ending: bool,
    _lease: Lease,
    _resources: ConnectionResources,
}

/// How an attempt to write ended.
enum WriteEnd {
    /// All was written; there may be more.
    More,
    /// All was written.
    All,
    /// The reader has not taken all.
    Blocked,
    End,
}

impl OpenStreams<'_> {
    fn new<'a>(streams: &'a StreamServer, stopping: &'a Latch) -> io::Result<OpenStreams<'a>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (fd, number) in [(&streams.wake.fd, WAKE_NUMBER), (&stopping.fd, STOP_NUMBER)] {
            let number = epoll::EventData::new_u64(number);
            epoll::add(&epoll, fd, number, epoll::EventFlags::IN)?;
        }
        let wake = Arc::clone(&streams.wake);
        Ok(OpenStreams {
            epoll,
            streams,
            stopping,
            wakeup: Arc::new(move || wake.raise()),
            last: STOP_NUMBER,
            open: BTreeMap::new(),
            ready: VecDeque::new(),
            next_due: clock::monotonic() + keep_alive_time(),
        })
    }

    /// Returns when the server stops.
    fn serve(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_PER_READ);
        while !self.stopping.is_raised() {
            self.wait(&mut events)?;
            let mut is_woken = false;
            for event in events.drain(..) {
                match event.data.u64() {
                    WAKE_NUMBER => is_woken = true,
                    STOP_NUMBER => {}
                    number => self.reader_acts(number, event.flags),
                }
            }
            if is_woken {
                self.streams.wake.lower();
                self.take_new();
                self.find_woken();
            }
            for _ in 0..PIECES_PER_READ {
                let Some(number) = self.ready.pop_front() else {
                    break;
                };
                self.advance(number, |stream| stream.piece());
            }
            self.write_due();
        }
        Ok(())
    }

    fn wait(&self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        let time = if self.ready.is_empty() {
            self.next_due.saturating_duration_since(clock::monotonic())
        } else {
            Duration::ZERO
        };
        let time = Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn take_new(&mut self) {
        let new = std::mem::take(&mut self.streams.inbox().new);
        for (parts, resources) in new {
            self.last += 1;
            let data = epoll::EventData::new_u64(self.last);
            if let Err(e) = epoll::add(&self.epoll, &*parts.stream, data, epoll::EventFlags::IN) {
                log::warn!("cannot wait for the reader of an event stream: {e}; closed it");
                continue;
            }
            let mut stream = OpenStream {
                stream: parts.stream,
                session: parts.session,
                writer: parts.writer,
                unsent: Vec::new(),
                due: clock::monotonic() + keep_alive_time(),
                is_ready: true,
                awaits_reader: false,
                is_ending: false,
                _lease: parts.lease,
                _resources: resources,
            };
            stream.writer.begin(Arc::clone(&self.wakeup));
            self.open.insert(self.last, stream);
            self.ready.push_back(self.last);
        }
    }

    /// Queues the streams whose writers were woken; one that is blocked asks its writer when it is not any more.
    fn find_woken(&mut self) {
        for (number, stream) in &mut self.open {
            if !stream.is_ready && !stream.awaits_reader && stream.writer.is_woken() {
                stream.is_ready = true;
                self.ready.push_back(*number);
            }
        }
    }

    /// The reader of a stream takes more, sends something, or is gone.
    fn reader_acts(&mut self, number: u64, flags: epoll::EventFlags) {
        let Some(stream) = self.open.get_mut(&number) else {
            return;
        };
        if flags != epoll::EventFlags::OUT && stream.is_gone() {
            return self.close(number);
        }
        if flags.contains(epoll::EventFlags::OUT) && !stream.is_ready {
            stream.is_ready = true;
            self.ready.push_back(number);
        }
    }

    /// Writes what `act` appends, and waits for the reader or for the writer.
    fn advance(&mut self, number: u64, act: impl FnOnce(&mut OpenStream) -> io::Result<WriteEnd>) {
        let Some(stream) = self.open.get_mut(&number) else {
            return;
        };
        stream.is_ready = false;
        let attempt = catch_unwind(AssertUnwindSafe(|| act(stream)));
        self.next_due = self.next_due.min(stream.due);
        let written = match attempt {
            Ok(Ok(written)) => written,
            Ok(Err(e)) => {
                log::debug!("event stream ended: {e}");
                return self.close(number);
            }
            Err(_) => {
                log::error!("event stream panicked; disconnected the client");
                return self.close(number);
            }
        };
        match written {
            WriteEnd::More => {
                stream.is_ready = true;
                self.ready.push_back(number);
            }
            WriteEnd::All | WriteEnd::Blocked => {}
            WriteEnd::End => return self.close(number),
        }
        let is_blocked = matches!(written, WriteEnd::Blocked);
        if is_blocked != stream.awaits_reader {
            let flags = if is_blocked {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            let data = epoll::EventData::new_u64(number);
            stream.awaits_reader = is_blocked;
            if let Err(e) = epoll::modify(&self.epoll, &*stream.stream, data, flags) {
                log::warn!("cannot wait for the reader of an event stream: {e}; closed it");
                self.close(number);
            }
        }
    }

    /// Closes the streams whose readers have not taken a piece in time, and writes keep-alives to the silent ones.
    fn write_due(&mut self) {
        let now = clock::monotonic();
        if now < self.next_due {
            return;
        }
        // one in the queue writes soon
        let is_due = |(number, stream): (&u64, &OpenStream)| {
            (stream.due <= now && !stream.is_ready).then_some(*number)
        };
        let due: Vec<u64> = self.open.iter().filter_map(is_due).collect();
        for number in due {
            self.advance(number, |stream| stream.overdue());
        }
        let dues = self.open.values().map(|stream| stream.due);
        self.next_due = dues.min().unwrap_or(now + keep_alive_time());
    }

    fn close(&mut self, number: u64) {
        let Some(mut stream) = self.open.remove(&number) else {
            return;
        };
        let _ = epoll::delete(&self.epoll, &*stream.stream);
        if let Some(session) = &mut stream.session {
            session.close(&stream.stream);
        }
    }
}

impl Drop for OpenStreams<'_> {
    fn drop(&mut self) {
        let numbers: Vec<u64> = self.open.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.close(number));
    }
}

impl OpenStream {
    /// The peer has closed, or sends unrequested bytes, which no reader of an event stream does.
    fn is_gone(&mut self) -> bool {
        !matches!(read_some(&self.stream, &mut self.session, &mut [0; 64]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes the rest of the last piece, and then the next one.
    fn piece(&mut self) -> io::Result<WriteEnd> {
        if self.awaits_reader {
            if !self.flush()? {
                return Ok(WriteEnd::Blocked);
            }
            self.due = clock::monotonic() + keep_alive_time();
        }
        if self.is_ending {
            return Ok(WriteEnd::End);
        }
        let after = self.writer.write(&mut self.unsent)?;
        self.send(after)
    }

    fn overdue(&mut self) -> io::Result<WriteEnd> {
        if self.awaits_reader {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the reader takes nothing",
            ));
        }
        let after = self.writer.keep_alive(&mut self.unsent)?;
        self.send(after)
    }

    fn send(&mut self, after: AfterPiece) -> io::Result<WriteEnd> {
        self.is_ending = after == AfterPiece::End;
        if !self.unsent.is_empty() {
            self.due = clock::monotonic() + PIECE_TIME;
            if !self.flush()? {
                return Ok(WriteEnd::Blocked);
            }
            self.due = clock::monotonic() + keep_alive_time();
        }
        Ok(match after {
            AfterPiece::More => WriteEnd::More,
            AfterPiece::Idle => WriteEnd::All,
            AfterPiece::End => WriteEnd::End,
        })
    }

    /// `false`: the reader has not taken all.
    fn flush(&mut self) -> io::Result<bool> {
        let mut sent = 0;
        while sent < self.unsent.len() || self.session.as_ref().is_some_and(Session::is_unsent) {
            match write_some(&self.stream, &mut self.session, &self.unsent[sent..]) {
                Ok((taken, _)) => sent += taken,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.drain(..sent);
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        // thousands of streams may be idle
        self.unsent = Vec::new();
        Ok(true)
    }
}

fn keep_alive_time() -> Duration {
    Duration::from_secs(KEEP_ALIVE)
}
