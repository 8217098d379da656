//! The server: owns the TCP port and lets only well-formed, bounded and authenticated requests through to the workers. It
//! knows no route and no key; a [`Gate`] decides, a [`Serve`] answers.
//!
//! tiny_http 0.12 hands requests to the workers, but must not face a network: one packet with a huge Content-Length ends
//! the process, an early reset makes it panic, any accept error ends its accept loop permanently, and it has no limits. So
//! it listens on a private Unix socket, and reads only bytes that were written here:
//!
//! ```text
//! client --TCP--> client thread --pool of Unix-socket connections--> tiny_http --> worker-N --> Serve
//!                 head, Gate, body     head and body as HTTP;                                    |
//!                 answer, jobs         request and job under a ticket      <-- Responder <-------+
//! ```
//!
//! An event stream leaves its thread once its head is written: one thread serves all of them (`streams`).
//!
//! Reading order: `listener`, `head`, `connection`, `forward`, `render`, `body`, `streams`, `socket`, `tls`, `tickets`, `pool`, `backend`,
//! `limits`, `evict`, `counters`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::clock;
use crate::disk;
use crate::error::{Error, Result, is_shortage};
use crate::hub::http::{Caller, Reply, Request};
use crate::hub::memory::Room;
use evict::{EvictionOrder, IdleConnections};
use limits::{
    AddressSlot, Addresses, HandshakeTurns, Latch, SHORT_BODY, ThreadGroup, ThreadGroupMember,
};

// public for fuzz/checks only
mod connection;
pub mod head;

mod listener;

mod body;
mod forward;
mod render;
mod socket;
mod streams;
mod tickets;
pub mod tls;

mod backend;
mod pool;

mod counters;
mod evict;
mod limits;

#[cfg(test)]
mod tests;

pub use counters::{Counters, Reason};
pub use head::Head;
pub use limits::{Lease, Quota, block};
pub use tls::Wire;

/// The longest wait of the accept loop for a connection.
const ACCEPT_WAIT: Duration = Duration::from_secs(1);
/// After accept(2) failed for want of descriptors or memory.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Between two attempts to start a thread.
const THREAD_RETRY_PAUSE: Duration = Duration::from_millis(1);
/// For threads to end after a stop.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// TCP: a peer that vanished is noticed within a minute, on idle connections and on full ones.
const KEEP_IDLE: Duration = Duration::from_secs(30);
const KEEP_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_COUNT: u32 = 3;
const USER_TIMEOUT_MS: u32 = 60_000;

/// The configuration of the server.
#[derive(Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// An existing directory of mode 0700 for the private socket.
    pub socket_dir: PathBuf,
    /// Simultaneous clients; fewer if the process may not have as many descriptors.
    pub connections: usize,
    /// Simultaneous event streams, which do not count as clients; fewer likewise.
    pub streams: usize,
    /// Simultaneous clients of one address; this machine is exempt.
    pub per_address: usize,
    /// Threads that call [`Serve`].
    pub workers: usize,
    /// The memory for the work of all requests.
    pub room: Room,
    /// `None`: plain HTTP only.
    pub tls: Option<tls::Acceptor>,
}

/// The decision of a [`Gate`].
pub enum Admission {
    Admit {
        caller: Caller,
        /// Bytes of body that this route accepts.
        body_limit: u64,
        /// A long body is processed while it arrives, and does not count as memory.
        streamed: bool,
    },
    Refuse(Reply),
}

/// Decides before a request uses any resource: keys, protected mode, limits of routes. Called on many threads with small
/// stacks at once.
pub trait Gate: Send + Sync + 'static {
    fn admit(&self, head: &Head, peer: IpAddr, wire: Wire) -> Admission;
}

/// Answers one request from any thread: a worker, or the committer after its sync. Dropped unused, it answers 500.
pub struct Responder(Option<Box<dyn FnOnce(Reply) + Send>>);

impl Responder {
    /// `answer` is called exactly once.
    pub fn new(answer: impl FnOnce(Reply) + Send + 'static) -> Responder {
        Responder(Some(Box::new(answer)))
    }

    pub fn send(mut self, reply: Reply) {
        if let Some(answer) = self.0.take() {
            answer(reply);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer(Reply::error(500, "internal error; see the log of the hub"));
        }
    }
}

/// Answers requests, immediately or later; called on the `worker-N` threads. A panic is logged and answered with 500.
pub type Serve = Arc<dyn Fn(Request, Responder) + Send + Sync>;

/// State that all threads of the server share.
struct Shared {
    gate: Arc<dyn Gate>,
    tls: Option<tls::Acceptor>,
    pool: Arc<pool::Pool>,
    tickets: Arc<tickets::Tickets>,
    counters: Arc<Counters>,
    heartbeat: AtomicU64,
    connections: Arc<Quota>,
    addresses: Arc<Addresses>,
    idle: IdleConnections,
    stream_places: Arc<Quota>,
    streams: streams::StreamServer,
    transfers: Arc<Quota>,
    memory: Arc<Quota>,
    handshakes: HandshakeTurns,
    room: Room,
    /// No new requests are accepted.
    stopping: Latch,
    /// No bytes are read or written any more.
    halted: Latch,
    clients: Arc<ThreadGroup>,
    /// Accept loop, opener and workers.
    service: Arc<ThreadGroup>,
}

/// The running server. Dropped without [`Server::stop`], it stops at once.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Server {
    /// Listens, and answers requests from here on.
    pub fn start(config: Config, gate: Arc<dyn Gate>, serve: Serve) -> Result<Server> {
        let listener = listener::listen(config.listen)?;
        let doing = |what: &str| format!("{what} for {}", config.listen);
        let address = listener
            .local_addr()
            .map_err(|e| Error::io(doing("look up the port"), &e))?;
        let latch = || Latch::new().map_err(|e| Error::io(doing("make an event descriptor"), &e));
        disk::create_dir(&config.socket_dir)?;
        std::fs::set_permissions(&config.socket_dir, std::fs::Permissions::from_mode(0o700))
            .map_err(|e| {
                Error::io(
                    format!("change the mode of {}", config.socket_dir.display()),
                    &e,
                )
            })?;
        let budget = limits::budget(config.connections, config.streams, config.room);
        for (what, most, wanted) in [
            ("connections", budget.clients, config.connections),
            ("event streams", budget.streams, config.streams),
        ] {
            if most < wanted {
                log::warn!(
                    "accepting {most} {what} instead of {wanted}: descriptors or memory are limited (RLIMIT_NOFILE, RLIMIT_AS, cgroup)"
                );
            }
        }

        let (service, counters, tickets) = (
            Arc::new(ThreadGroup::default()),
            Arc::default(),
            Arc::default(),
        );
        let plan = backend::BackendConfig {
            dir: config.socket_dir,
            workers: config.workers.max(1),
            tickets: Arc::clone(&tickets),
            serve,
            crew: service.clone(),
        };
        let shared = Arc::new(Shared {
            gate,
            tls: config.tls,
            pool: pool::Pool::start(plan, budget.lines, Arc::clone(&counters))?,
            tickets,
            counters,
            heartbeat: AtomicU64::new(0),
            connections: Quota::new(budget.clients as u64),
            addresses: Addresses::new(config.per_address),
            idle: IdleConnections::default(),
            stream_places: Quota::new(budget.streams as u64),
            streams: streams::StreamServer::new()
                .map_err(|e| Error::io(doing("make an event descriptor"), &e))?,
            transfers: Quota::new(
                config.room.part(
                    16,
                    4 * limits::TRANSFER,
                    limits::TRANSFERS * limits::TRANSFER,
                ) / limits::TRANSFER,
            ),
            memory: Quota::new(config.room.part(16, SHORT_BODY, limits::MEMORY)),
            handshakes: HandshakeTurns::of_processors(),
            room: config.room,
            stopping: latch()?,
            halted: latch()?,
            clients: Arc::default(),
            service,
        });
        // from here on, a failure stops the threads that have been started
        let server = Server { shared, address };
        server.spawn("opener", |shared| shared.pool.keep_open())?;
        server.spawn("streams", |shared| shared.streams.run(&shared))?;
        server.spawn("accept", move |shared| accept_loop(&shared, &listener))?;
        Ok(server)
    }

    fn spawn(&self, name: &str, run: impl FnOnce(Arc<Shared>) + Send + 'static) -> Result<()> {
        let (shared, hand) = (self.shared.clone(), self.shared.service.join());
        let thread = std::thread::Builder::new()
            .name(name.into())
            .stack_size(limits::WORKER_STACK);
        let body = move || {
            let _hand = hand;
            run(shared);
        };
        thread
            .spawn(body)
            .map(drop)
            .map_err(|e| Error::io(format!("start the thread {name}"), &e))
    }

    /// The address that it listens on, with the chosen port if the configured one was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Advances at least once a second while the accept loop runs.
    pub fn heartbeat(&self) -> u64 {
        self.shared.heartbeat.load(Relaxed)
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Accepts no more connections, closes event streams, lets running requests finish within `grace`, then ends every
    /// connection.
    pub fn stop(self, grace: Duration) {
        self.shared.stop(grace);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop(Duration::ZERO);
    }
}

impl Shared {
    fn stop(&self, grace: Duration) {
        if self.halted.is_raised() {
            return;
        }
        self.stopping.raise();
        let calm = self.clients.wait(grace);
        self.halted.raise();
        if !calm && !self.clients.wait(STOP_GRACE) {
            log::warn!("some connections did not end in time");
        }
        self.pool.stop();
        if !self.service.wait(STOP_GRACE) {
            log::warn!("some workers did not end in time");
        }
    }
}

fn accept_loop(shared: &Arc<Shared>, listener: &TcpListener) {
    while !shared.stopping.is_raised() {
        shared.heartbeat.fetch_add(1, Relaxed);
        match listener.accept() {
            Ok((stream, peer)) => {
                shared.counters.accepted.fetch_add(1, Relaxed);
                // a socket for both families shows an IPv4 client as a mapped address
                start_or_refuse(shared, stream, peer.ip().to_canonical());
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait(&[listener, &shared.stopping.fd], ACCEPT_WAIT)
            }
            Err(e) if is_shortage(&e) => {
                shared.counters.refuse(Reason::Descriptors);
                evict_one(shared);
                wait(&[&shared.stopping.fd], ACCEPT_RETRY_PAUSE);
            }
            // an error of the connection, not of the socket: accept(2), "Error handling"
            Err(e) => log::debug!("connection closed before it was accepted: {e}"),
        }
    }
}

fn wait(fds: &[&dyn std::os::fd::AsFd], time: Duration) {
    let mut fds: Vec<PollFd> = fds
        .iter()
        .map(|fd| PollFd::new(fd, PollFlags::IN))
        .collect();
    let time = Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    };
    // a signal only ends the wait early
    let _ = poll(&mut fds, Some(&time));
}

/// The resources of a connection, returned when it ends for any reason.
struct ConnectionResources {
    shared: Arc<Shared>,
    order: EvictionOrder,
    _slot: AddressSlot,
    /// `None`: it is an event stream now, which has no thread.
    client: Option<(Lease, ThreadGroupMember)>,
}

impl Drop for ConnectionResources {
    fn drop(&mut self) {
        self.shared.idle.leave(self.order);
        self.shared.counters.open.fetch_sub(1, Relaxed);
    }
}

/// Closes an idle connection; its resources are free a moment later.
fn evict_one(shared: &Shared) -> bool {
    let room = shared.idle.evict_one();
    if room {
        shared.counters.refuse(Reason::GaveWay);
    }
    room
}

/// Starts a thread for a connection, or refuses it without one.
fn start_or_refuse(shared: &Arc<Shared>, stream: TcpStream, peer: IpAddr) {
    if let Err(e) = prepare(&stream) {
        return log::debug!("{peer}: {e}");
    }
    // shared, so that it can still be answered when no thread can be started
    let stream = Arc::new(stream);
    let (mut refused, crowd) = (try_start(shared, &stream, peer), shared.clients.count());
    if matches!(
        refused,
        Err((Reason::Connections | Reason::Thread | Reason::Memory, ..))
    ) && evict_one(shared)
    {
        let until = clock::monotonic() + limits::LEAVING;
        shared.clients.wait_below(crowd, limits::LEAVING);
        refused = try_start(shared, &stream, peer);
        // the kernel counts a thread until some time after its last instruction
        while matches!(refused, Err((Reason::Thread | Reason::Memory, ..)))
            && clock::monotonic() < until
        {
            wait(&[&shared.stopping.fd], THREAD_RETRY_PAUSE);
            refused = try_start(shared, &stream, peer);
        }
    }
    if let Err((reason, status, words)) = refused {
        refuse_unserved(shared, &stream, reason, status, words);
    }
}

fn try_start(
    shared: &Arc<Shared>,
    stream: &Arc<TcpStream>,
    peer: IpAddr,
) -> std::result::Result<(), (Reason, u16, &'static str)> {
    // checked first, so that no connection is closed for a client that has too many already
    let slot = shared.addresses.enter(peer).ok_or((
        Reason::Address,
        429,
        "too many connections from your address",
    ))?;
    if shared.connections.is_scarce(limits::NEWCOMERS) {
        evict_one(shared);
    }
    let connection =
        shared
            .connections
            .take(1)
            .ok_or((Reason::Connections, 503, "too many connections"))?;
    let Some(space) = shared.room.claim_stack(limits::CLIENT_STACK as u64) else {
        return Err((Reason::Memory, 503, "no memory for another connection"));
    };
    shared.counters.open.fetch_add(1, Relaxed);
    let order = shared.idle.enter(stream);
    let resources = ConnectionResources {
        shared: shared.clone(),
        order,
        _slot: slot,
        client: Some((connection, shared.clients.join())),
    };
    let stream = stream.clone();
    let thread = std::thread::Builder::new()
        .name("client".into())
        .stack_size(limits::CLIENT_STACK);
    let started = thread.spawn(move || {
        // a thread that cannot allocate its signal stack ends the process
        drop(space);
        let (shared, order) = (Arc::clone(&resources.shared), resources.order);
        let streamed = connection::serve(&shared, &stream, peer, order);
        if let Some(parts) = streamed {
            let mut resources = resources;
            // counted as a client until this thread ends
            let _client = resources.client.take();
            shared.streams.take_over(parts, resources);
        }
    });
    started
        .map(drop)
        .map_err(|_| (Reason::Thread, 503, "no thread for another connection"))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_COUNT)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    Ok(())
}

/// Sends a short answer from the accept loop: one write that does not block.
fn refuse_unserved(
    shared: &Shared,
    mut stream: &TcpStream,
    reason: Reason,
    status: u16,
    words: &str,
) {
    shared.counters.refuse(reason);
    let reply = Reply {
        status,
        ..render::busy(words)
    };
    let _ = stream.write(&render::render(&reply.into(), false, false).0);
    let _ = stream.shutdown(Shutdown::Write);
    // with unread bytes, close would send a reset, which overtakes the answer
    let _ = stream.read(&mut [0; 4096]);
}
