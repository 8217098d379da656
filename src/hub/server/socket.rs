//! A client's TCP connection, plain or with TLS, with a time limit on each operation: buffered reads, whole writes, a minimum
//! rate. It knows nothing of HTTP.
//!
//! The socket does not block; threads wait in poll(2), so that a stop wakes all of them and each wait has its own deadline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::evict::{EvictionOrder, IdleConnections};
use super::limits::{DRAIN_BYTES, DRAIN_TIME, HandshakeTurns, Latch, RATE_BYTES, RATE_TIME};
use super::tls::{self, Acceptor, Session};
use crate::clock;

/// Bytes that one read of a head asks for.
const READ_STEP_BYTES: usize = 2048;

/// Enforces a minimum rate on the peer. Only time spent waiting for the peer counts, not that of a slow disk here.
#[derive(Debug, Default)]
pub struct Pace {
    waited: Duration,
    moved: u64,
}

impl Pace {
    fn left(&self) -> Duration {
        RATE_TIME.saturating_sub(self.waited)
    }

    /// Fails if too few bytes were moved during a period of waiting.
    fn waited(&mut self, time: Duration) -> io::Result<()> {
        self.waited += time;
        if self.waited < RATE_TIME {
            return Ok(());
        }
        if std::mem::take(self).moved < RATE_BYTES {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client is too slow",
            ))
        } else {
            Ok(())
        }
    }
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum WaitEnd {
    Ready,
    TimedOut,
    /// The latch was raised.
    Woken,
}

pub struct Socket<'a> {
    stream: &'a Arc<TcpStream>,
    /// `None`: plain HTTP.
    session: Option<Session>,
    /// Bytes received and not used yet.
    pub buffer: Vec<u8>,
    /// Raised when every connection must end at once.
    halted: &'a Latch,
    idle: &'a IdleConnections,
    /// Its place in the order of eviction while it waits, if it may be evicted.
    pub order: Option<EvictionOrder>,
}

impl<'a> Socket<'a> {
    /// `stream` does not block.
    pub fn new(
        stream: &'a Arc<TcpStream>,
        halted: &'a Latch,
        idle: &'a IdleConnections,
        order: EvictionOrder,
    ) -> Socket<'a> {
        Socket {
            stream,
            session: None,
            buffer: Vec::new(),
            halted,
            idle,
            order: Some(order),
        }
    }

    pub fn is_encrypted(&self) -> bool {
        self.session.is_some()
    }

    /// Whether the peer begins with TLS. To be called once a byte is readable.
    pub fn begins_tls(&self) -> io::Result<bool> {
        let mut first = [0];
        match self.stream.peek(&mut first) {
            Ok(n) => Ok(n == 1 && first[0] == tls::FIRST_BYTE),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Does the TLS handshake; all later reads and writes are encrypted.
    pub fn encrypt(
        &mut self,
        acceptor: &Acceptor,
        turns: &HandshakeTurns,
        until: Instant,
    ) -> io::Result<()> {
        self.session = Some(acceptor.session()?);
        while self.session.as_ref().is_some_and(Session::is_handshaking) {
            if clock::monotonic() >= until || self.wait_readable(until, None)? == WaitEnd::TimedOut
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = until.saturating_duration_since(clock::monotonic());
            let Some(_turn) = turns.take(left) else {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "too many handshakes at the same time",
                ));
            };
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Waits for readable bytes, `until` or the latch; fails when the server is halted.
    pub fn wait_readable(&self, until: Instant, latch: Option<&Latch>) -> io::Result<WaitEnd> {
        if self.session.as_ref().is_some_and(Session::is_pending) {
            return Ok(WaitEnd::Ready);
        }
        self.wait(PollFlags::IN, until, latch)
    }

    fn wait(
        &self,
        mut flags: PollFlags,
        until: Instant,
        latch: Option<&Latch>,
    ) -> io::Result<WaitEnd> {
        if self.is_unsent() {
            flags |= PollFlags::OUT;
        }
        let _seat = self.order.map(|order| self.idle.add(self.stream, order));
        loop {
            let left = until.saturating_duration_since(clock::monotonic());
            let time = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let halted = PollFd::new(&self.halted.fd, PollFlags::IN);
            let latch_fd = latch.map_or(halted.clone(), |l| PollFd::new(&l.fd, PollFlags::IN));
            let mut fds = [PollFd::new(&**self.stream, flags), halted, latch_fd];
            match poll(&mut fds, Some(&time)) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(0) => return Ok(WaitEnd::TimedOut),
                Ok(_) => {}
            }
            if !fds[1].revents().is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the hub is stopping",
                ));
            }
            // received bytes take precedence over a stop
            return Ok(if fds[0].revents().is_empty() {
                WaitEnd::Woken
            } else {
                WaitEnd::Ready
            });
        }
    }

    /// Reads the available bytes into the buffer, if any. `false`: the peer has closed.
    pub fn fill(&mut self) -> io::Result<bool> {
        let had = self.buffer.len();
        self.buffer.resize(had + READ_STEP_BYTES, 0);
        let got = read_some(self.stream, &mut self.session, &mut self.buffer[had..]);
        self.buffer.truncate(had + *got.as_ref().unwrap_or(&0));
        match got {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            other => Ok(!matches!(other, Ok(0))),
        }
    }

    /// Reads part of a body, from the buffer first, then from the socket. 0: the peer has closed.
    pub fn read(&mut self, into: &mut [u8], pace: &mut Pace) -> io::Result<usize> {
        if !self.buffer.is_empty() {
            let n = into.len().min(self.buffer.len());
            into[..n].copy_from_slice(&self.buffer[..n]);
            self.buffer.drain(..n);
            return Ok(n);
        }
        loop {
            match read_some(self.stream, &mut self.session, into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_at_pace(PollFlags::IN, pace)?
                }
                Ok(n) => {
                    pace.moved += n as u64;
                    return Ok(n);
                }
                other => return other,
            }
        }
    }

    /// Encrypted bytes are left that the peer has not accepted yet.
    fn is_unsent(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_unsent)
    }

    pub fn write_all(&mut self, mut bytes: &[u8], pace: &mut Pace) -> io::Result<()> {
        while !bytes.is_empty() || self.is_unsent() {
            match write_some(self.stream, &mut self.session, bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_at_pace(PollFlags::OUT, pace)?
                }
                Err(e) => return Err(e),
                Ok((taken, sent)) => {
                    pace.moved += sent as u64;
                    bytes = &bytes[taken..];
                }
            }
        }
        Ok(())
    }

    fn wait_at_pace(&self, flags: PollFlags, pace: &mut Pace) -> io::Result<()> {
        let from = clock::monotonic();
        self.wait(flags, from + pace.left(), None)?;
        pace.waited(clock::monotonic() - from)
    }

    /// The TLS session, for one that serves the connection from here on.
    pub fn take_session(&mut self) -> Option<Session> {
        self.session.take()
    }

    /// Ends a connection on which the peer may still send: an immediate close would reset it, and the client would lose the
    /// answer.
    pub fn linger(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.close(self.stream);
        }
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let until = clock::monotonic() + DRAIN_TIME;
        let mut left = DRAIN_BYTES;
        let mut waste = [0; 4096];
        while left > 0 {
            match read_some(self.stream, &mut None, &mut waste) {
                Ok(0) => return,
                Ok(n) => left = left.saturating_sub(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match self.wait_readable(until, None) {
                        Ok(WaitEnd::Ready) => {}
                        _ => return,
                    }
                }
                Err(_) => return,
            }
            if clock::monotonic() >= until {
                return;
            }
        }
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        if let Some(session) = &mut self.session {
            session.close(self.stream);
        }
    }
}

/// Reads once; `WouldBlock`: nothing has arrived.
pub fn read_some(
    mut stream: &TcpStream,
    session: &mut Option<Session>,
    into: &mut [u8],
) -> io::Result<usize> {
    loop {
        let read = match session {
            Some(session) => session.read(stream, into),
            None => stream.read(into),
        };
        match read {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Writes once. Returns the number of bytes accepted, and of bytes sent to the peer, possibly of earlier writes.
pub fn write_some(
    mut stream: &TcpStream,
    session: &mut Option<Session>,
    bytes: &[u8],
) -> io::Result<(usize, usize)> {
    if let Some(session) = session {
        return session.write(stream, bytes);
    }
    loop {
        match stream.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            other => return other.map(|n| (n, n)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_trickles_is_cut_off_and_one_that_waits_for_the_hub_is_not() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        for n in 0..30 {
            pace.moved += 10;
            assert_eq!(pace.waited(second).is_err(), n == 29);
        }
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.moved += 1024;
            pace.waited(second).unwrap();
        }
    }
}
