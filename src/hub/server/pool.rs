//! The connections to tiny_http: opened one by one, each tested by a first request, replaced when they break.
//!
//! One by one, because tiny_http may leave one of several simultaneous connections waiting until another closes. The pool
//! forwards every request that it is given.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::backend::{Backend, BackendConfig, TICKET};
use super::counters::Counters;
use super::limits::{ANSWER_TIME, POOL_LEAST, POOL_SHRINK};
use super::tickets::PROBE;
use crate::clock;
use crate::error::{Error, Result};
use crate::hub::http::Reply;

const PROBE_TIME: Duration = Duration::from_secs(2);
/// Bytes of an answer's head at most; the routes write few and short headers.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 32;

/// An answer, as received from a worker or about to be sent to a client.
#[derive(Debug)]
pub struct WorkerResponse {
    pub status: u16,
    /// Including Content-Type, without the headers of one connection.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl From<Reply> for WorkerResponse {
    fn from(reply: Reply) -> WorkerResponse {
        let own = reply
            .headers
            .into_iter()
            .filter(|(_, v)| v.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        let own = own.map(|(name, value)| (name.to_string(), value));
        let headers = [("Content-Type".to_string(), reply.content_type.to_string())]
            .into_iter()
            .chain(own)
            .collect();
        WorkerResponse {
            status: reply.status,
            headers,
            body: reply.body,
        }
    }
}

/// The pool. A thread, the opener, runs [`Pool::keep_open`].
pub struct Pool {
    plan: BackendConfig,
    most: usize,
    counters: Arc<Counters>,
    state: Mutex<PoolState>,
    /// A connection became free.
    free: Condvar,
    /// A thread waits for a connection, one broke, or the pool stops.
    work: Condvar,
}

struct PoolState {
    /// `None` after the stop.
    backend: Option<Arc<Backend>>,
    servers: u64,
    idle: Vec<BackendConnection>,
    /// Idle and lent.
    open: usize,
    /// Lower than the pool's own for a while after a server could not be started.
    most: usize,
    waiting: usize,
    /// The fewest idle connections since the last check: so many are not needed.
    surplus: usize,
    stopping: bool,
}

/// One connection to tiny_http, which keeps its server alive.
struct BackendConnection {
    stream: UnixStream,
    backend: Arc<Backend>,
}

/// A connection for one exchange; it counts as broken until it is returned.
pub struct PooledConnection<'a> {
    pool: &'a Pool,
    line: Option<BackendConnection>,
}

impl Pool {
    /// Starts the first server and opens the permanent connections: later, clients may have used up the threads and
    /// descriptors that these need.
    pub fn start(plan: BackendConfig, most: usize, counters: Arc<Counters>) -> Result<Arc<Pool>> {
        let first = new_server(&plan, 1)?;
        let backend = first.backend.clone();
        let mut idle = vec![first];
        idle.extend((1..POOL_LEAST).map_while(|_| BackendConnection::open(backend.clone()).ok()));
        let open = idle.len();
        let state = PoolState {
            backend: Some(backend),
            servers: 1,
            idle,
            open,
            most,
            waiting: 0,
            surplus: 0,
            stopping: false,
        };
        Ok(Arc::new(Pool {
            plan,
            most,
            counters,
            state: Mutex::new(state),
            free: Condvar::new(),
            work: Condvar::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: no connection became free in time.
    pub fn take(&self, within: Duration) -> Option<PooledConnection<'_>> {
        let until = clock::monotonic() + within;
        loop {
            let mut state = self.lock();
            if state.idle.is_empty() {
                state.waiting += 1;
                self.work.notify_one();
                let none = |s: &mut PoolState| s.idle.is_empty() && !s.stopping;
                let left = until.saturating_duration_since(clock::monotonic());
                state = self
                    .free
                    .wait_timeout_while(state, left, none)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                state.waiting -= 1;
            }
            let lent = PooledConnection {
                pool: self,
                line: Some(state.idle.pop()?),
            };
            state.surplus = state.surplus.min(state.idle.len());
            drop(state);
            if lent.line.as_ref().is_some_and(BackendConnection::silent) {
                return Some(lent);
            }
        }
    }

    /// (open connections, their maximum).
    #[cfg(test)]
    pub fn size(&self) -> (usize, usize) {
        let state = self.lock();
        (state.open, state.most)
    }

    /// Closes idle connections; a lent one is closed when it is returned. The workers end with the last one.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.backend = None;
        state.open -= state.idle.len();
        state.idle.clear();
        drop(state);
        self.free.notify_all();
        self.work.notify_all();
    }

    /// The opener: runs until [`Pool::stop`].
    pub fn keep_open(&self) {
        let mut failures = 0;
        let mut state = self.lock();
        while !state.stopping {
            if !state.lacks() {
                // not after each success: a server that dies again and again must not be replaced at full speed
                failures = 0;
                state = self.rest(state);
                continue;
            }
            let Some(backend) = state.backend.clone() else {
                return;
            };
            drop(state);
            let opened = BackendConnection::open(backend);
            let refused = opened
                .as_ref()
                .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            state = if refused { self.restart() } else { self.lock() };
            match opened {
                Ok(_) if state.stopping => return,
                Ok(line) => {
                    state.add(line);
                    self.free.notify_one();
                }
                Err(e) => {
                    failures += 1;
                    log::debug!("cannot connect to the workers: {e}");
                    let pause = Duration::from_millis(50 << failures.min(4));
                    let going = |s: &mut PoolState| !s.stopping;
                    state = self
                        .work
                        .wait_timeout_while(state, pause, going)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
            }
        }
    }

    /// Waits for work; closes connections that were idle all the time.
    fn rest<'a>(&self, mut state: MutexGuard<'a, PoolState>) -> MutexGuard<'a, PoolState> {
        let idle = |s: &mut PoolState| !s.lacks() && !s.stopping;
        if state.open <= POOL_LEAST && state.most == self.most {
            return self
                .work
                .wait_while(state, idle)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.surplus = state.idle.len();
        let (mut state, time) = self
            .work
            .wait_timeout_while(state, POOL_SHRINK, idle)
            .unwrap_or_else(PoisonError::into_inner);
        if time.timed_out() {
            state.most = self.most;
            let close = state.surplus.min(state.open.saturating_sub(POOL_LEAST));
            state.open -= close;
            // the last ones were used most recently
            state.idle.drain(..close);
        }
        state
    }

    /// Replaces a server that refuses connections: tiny_http's accept loop ends permanently at the first error, and when it
    /// cannot start a thread. The new one is tested first; the connections of the old one keep working.
    fn restart(&self) -> MutexGuard<'_, PoolState> {
        let number = self.lock().servers + 1;
        let line = new_server(&self.plan, number);
        let mut state = self.lock();
        state.servers = number;
        match line {
            Ok(_) if state.stopping => {}
            Ok(line) => {
                self.counters.restarts.fetch_add(1, Relaxed);
                log::warn!("restarted the workers' server: it had stopped accepting");
                state.most = self.most;
                state.open -= state.idle.len();
                state.idle.clear();
                state.backend = Some(line.backend.clone());
                state.add(line);
                self.free.notify_one();
            }
            Err(e) => {
                state.most = state.open.max(POOL_LEAST).min(self.most);
                log::error!(
                    "cannot restart the workers' server, which stopped accepting: {e}; continuing with {} connections",
                    state.open
                );
            }
        }
        state
    }

    #[cfg(test)]
    pub fn backend(&self) -> Arc<Backend> {
        self.lock().backend.clone().unwrap()
    }

    /// Shuts down every idle connection without telling the pool.
    #[cfg(test)]
    pub fn break_idle(&self) -> usize {
        let state = self.lock();
        state
            .idle
            .iter()
            .for_each(|line| line.stream.shutdown(std::net::Shutdown::Both).unwrap());
        state.idle.len()
    }
}

/// A new server, with a first connection that has been tested.
fn new_server(plan: &BackendConfig, number: u64) -> Result<BackendConnection> {
    let backend = Backend::start(plan, number)?;
    BackendConnection::open(backend).map_err(|e| Error::io("reach the workers", &e))
}

impl PoolState {
    fn add(&mut self, line: BackendConnection) {
        self.open += 1;
        self.idle.push(line);
    }

    fn lacks(&self) -> bool {
        self.open < POOL_LEAST.min(self.most)
            || (self.waiting > self.idle.len() && self.open < self.most)
    }
}

impl PooledConnection<'_> {
    /// Sends a request and reads its whole answer; afterwards the connection is free again.
    pub fn exchange(mut self, request: &[u8], ticket: u64) -> io::Result<WorkerResponse> {
        let Some(line) = &mut self.line else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        line.stream.write_all(request)?;
        let answer = line.read_answer(ticket)?;
        self.give_back();
        Ok(answer)
    }

    fn give_back(mut self) {
        let Some(line) = self.line.take() else { return };
        let mut state = self.pool.lock();
        if !state
            .backend
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, &line.backend))
        {
            state.open -= 1;
            drop(state);
            self.pool.work.notify_one();
            return;
        }
        state.idle.push(line);
        if state.waiting > 0 {
            self.pool.free.notify_one();
        }
    }
}

impl Drop for PooledConnection<'_> {
    fn drop(&mut self) {
        if self.line.take().is_some() {
            self.pool.counters.replaced.fetch_add(1, Relaxed);
            self.pool.lock().open -= 1;
            self.pool.work.notify_one();
        }
    }
}

impl BackendConnection {
    fn open(backend: Arc<Backend>) -> io::Result<BackendConnection> {
        let mut line = BackendConnection {
            stream: backend.connect()?,
            backend,
        };
        line.stream.set_write_timeout(Some(PROBE_TIME))?;
        line.stream.set_read_timeout(Some(PROBE_TIME))?;
        line.stream.write_all(&head("GET", "/", PROBE, 0))?;
        line.read_answer(PROBE)?;
        line.stream.set_read_timeout(Some(ANSWER_TIME))?;
        Ok(line)
    }

    /// The connection is open and has no unrequested byte.
    fn silent(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(
            poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&now)),
            Ok(0)
        )
    }

    /// Reads exactly one answer: further bytes would become the next client's answer.
    fn read_answer(&mut self, ticket: u64) -> io::Result<WorkerResponse> {
        let mut bytes = Vec::new();
        let (mut answer, begin, length) = loop {
            self.more(&mut bytes)?;
            if let Some(head) = parse(&bytes, ticket)? {
                break head;
            }
        };
        while bytes.len() < begin + length {
            self.more(&mut bytes)?;
        }
        if bytes.len() > begin + length {
            return Err(bad("an answer is longer than announced"));
        }
        bytes.drain(..begin);
        answer.body = bytes;
        Ok(answer)
    }

    fn more(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let had = bytes.len();
        bytes.resize(had + 4096, 0);
        let got = loop {
            match self.stream.read(&mut bytes[had..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        bytes.truncate(had + *got.as_ref().unwrap_or(&0));
        match got? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The head of an answer, the start of its body, and the length of the body. `None`: the head is incomplete.
fn parse(bytes: &[u8], ticket: u64) -> io::Result<Option<(WorkerResponse, usize, usize)>> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut lines);
    let begin = match response.parse(bytes) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        _ => return Err(bad("an answer has no proper head")),
    };
    let status = response.code.unwrap_or(500);
    let (mut length, mut number, mut headers) = (None, None, Vec::with_capacity(4));
    for line in response.headers {
        let value =
            std::str::from_utf8(line.value).map_err(|_| bad("an answer's header is not text"))?;
        match line.name {
            "Content-Length" => length = value.parse().ok(),
            "Server" | "Date" => {}
            name if name == TICKET => number = value.parse().ok(),
            name => headers.push((name.to_string(), value.to_string())),
        }
    }
    let length = match (status, length) {
        // for these tiny_http announces the length of a body that it does not send
        (204 | 304, _) => 0,
        (_, Some(length)) if length <= Reply::INLINE => length,
        _ => return Err(bad("an answer has no proper length")),
    };
    if number != Some(ticket) {
        return Err(bad("an answer belongs to another request"));
    }
    Ok(Some((
        WorkerResponse {
            status,
            headers,
            body: Vec::new(),
        },
        begin,
        length,
    )))
}

/// The head that tiny_http reads; the checked request is passed under the ticket.
pub fn head(method: &str, target: &str, ticket: u64, length: u64) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nHost: hub\r\n{TICKET}: {ticket}\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}
