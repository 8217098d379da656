//! The server's limits: the numbers, the objects counted against them, and the resources that the process may have. Callers refuse
//! and answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::limits::WAITING_HANDSHAKES;
use crate::hub::memory::Room;

/// Connections that the kernel queues before they are accepted.
pub const BACKLOG: i32 = 1024;
/// Bytes of a body that is read before the route sees the head.
pub const SHORT_BODY: u64 = 64 * 1024;
/// Bytes of a body that is held in memory; longer uploads are passed on in pieces, and not counted as memory.
pub const BUFFERED_BODY: u64 = 4 * 1024 * 1024;
/// Bytes of memory for all bodies and answers in transit.
pub const MEMORY: u64 = 16 * 1024 * 1024;
/// Bodies and answers up to this length are not counted: the stack of their thread is larger.
pub const SMALL_BODY_BYTES: usize = 8 * 1024;
/// One connection in this many is kept free for new clients, as long as an idle one can be closed for them.
pub const NEWCOMERS: u64 = 8;
/// For an evicted connection to end.
pub const LEAVING: Duration = Duration::from_millis(50);
pub const TRANSFERS: u64 = 64;
/// Bytes of buffers of one long transfer.
pub const TRANSFER: u64 = 256 * 1024;
/// Bytes of memory that one client uses of its stack, for its heads and for TLS.
const CLIENT_MEMORY: u64 = 64 * 1024;
/// Bytes of memory of one event stream, with TLS and a piece that its reader has not taken.
const STREAM_MEMORY: u64 = 16 * 1024;
/// For a whole head, from its first byte (on a new connection: from the start).
pub const HEAD_TIME: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// Between two requests on a connection.
pub const IDLE_TIME: Duration = Duration::from_secs(60);
/// The minimum rate: this many bytes in this time, in each direction.
pub const RATE_BYTES: u64 = 30 * 1024;
pub const RATE_TIME: Duration = Duration::from_secs(30);
/// For one piece of an event stream.
pub const PIECE_TIME: Duration = Duration::from_secs(30);
/// After a refusal, further bytes of the client are discarded, so that it reads the answer before a reset.
pub const DRAIN_BYTES: usize = 256 * 1024;
pub const DRAIN_TIME: Duration = Duration::from_millis(500);
/// For a free connection to the workers.
pub const POOL_TIME: Duration = Duration::from_secs(5);
/// For the answer of a worker or the committer.
pub const ANSWER_TIME: Duration = Duration::from_secs(60);
/// Connections to tiny_http: kept open, and at most.
pub const POOL_LEAST: usize = 4;
pub const POOL_MOST: usize = 64;
/// Surplus connections to tiny_http are closed after this long.
pub const POOL_SHRINK: Duration = Duration::from_secs(60);
/// For the gate's hashes and parsers, 64 header slots, and jobs that read the store's tables and parse JSON; unoptimised code
/// needs several times as much. Untouched pages cost only address space.
pub const CLIENT_STACK: usize = if cfg!(debug_assertions) {
    512 * 1024
} else {
    256 * 1024
};
/// Parsers of nested JSON run here.
pub const WORKER_STACK: usize = 512 * 1024;

/// A counted resource with a maximum.
#[derive(Debug)]
pub struct Quota {
    most: u64,
    used: AtomicU64,
}

/// A part of a [`Quota`], returned when dropped.
#[derive(Debug)]
pub struct Lease {
    quota: Arc<Quota>,
    amount: u64,
}

impl Quota {
    pub fn new(most: u64) -> Arc<Quota> {
        Arc::new(Quota {
            most,
            used: AtomicU64::new(0),
        })
    }

    /// `None`: not enough is left. A lease larger than the whole quota is granted while no other is out, so that no size is
    /// refused permanently.
    pub fn take(self: &Arc<Quota>, amount: u64) -> Option<Lease> {
        let fits = |used: u64| {
            used.checked_add(amount)
                .filter(|sum| *sum <= self.most || used == 0)
        };
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .ok()?;
        Some(Lease {
            quota: self.clone(),
            amount,
        })
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Less than a `part`-th of the quota is left.
    pub fn is_scarce(&self, part: u64) -> bool {
        self.used() >= self.most - self.most.div_ceil(part)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.quota.used.fetch_sub(self.amount, Ordering::AcqRel);
    }
}

/// Connections by address; a /64 of IPv6 counts as one address, because one customer gets a whole one.
#[derive(Debug)]
pub struct Addresses {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of an address, returned when dropped.
#[derive(Debug)]
pub struct AddressSlot {
    addresses: Arc<Addresses>,
    /// `None`: this machine, which has no limit.
    key: Option<IpAddr>,
}

impl Addresses {
    pub fn new(most: usize) -> Arc<Addresses> {
        Arc::new(Addresses {
            most,
            open: Mutex::default(),
        })
    }

    pub fn enter(self: &Arc<Addresses>, peer: IpAddr) -> Option<AddressSlot> {
        if peer.is_loopback() {
            return Some(AddressSlot {
                addresses: self.clone(),
                key: None,
            });
        }
        let key = block(peer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(key).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(AddressSlot {
            addresses: self.clone(),
            key: Some(key),
        })
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut open = self
            .addresses
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&key);
            }
        }
    }
}

/// The unit that counts as one address: an IPv4 address, or a /64 of IPv6.
pub fn block(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V6(a) => IpAddr::V6((a.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// A flag that also wakes threads that poll its descriptor; it is never lowered.
#[derive(Debug)]
pub struct Latch {
    raised: AtomicBool,
    pub fd: OwnedFd,
}

impl Latch {
    pub fn new() -> std::io::Result<Latch> {
        Ok(Latch {
            raised: AtomicBool::new(false),
            fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        // never read, so the descriptor stays readable; a write of one cannot fail
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }
}

/// Turns at the costly part of a TLS handshake: threads that wait for one leave the processors to requests.
#[derive(Debug)]
pub struct HandshakeTurns {
    queue: Mutex<TurnQueue>,
    freed: Condvar,
}

#[derive(Debug)]
struct TurnQueue {
    free: usize,
    waiting: usize,
}

/// One turn, over when dropped.
#[derive(Debug)]
pub struct HandshakeTurn<'a>(&'a HandshakeTurns);

impl HandshakeTurns {
    /// Half of the processors, at least one.
    pub fn of_processors() -> HandshakeTurns {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        HandshakeTurns::new((processors / 2).max(1))
    }

    fn new(free: usize) -> HandshakeTurns {
        HandshakeTurns {
            queue: Mutex::new(TurnQueue { free, waiting: 0 }),
            freed: Condvar::new(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, TurnQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn; `None`: too many wait already, or none became free in time.
    pub fn take(&self, most: Duration) -> Option<HandshakeTurn<'_>> {
        let mut queue = self.queue();
        if queue.waiting >= WAITING_HANDSHAKES {
            return None;
        }
        queue.waiting += 1;
        let (mut queue, _) = self
            .freed
            .wait_timeout_while(queue, most, |queue| queue.free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        queue.waiting -= 1;
        if queue.free == 0 {
            return None;
        }
        queue.free -= 1;
        Some(HandshakeTurn(self))
    }
}

impl Drop for HandshakeTurn<'_> {
    fn drop(&mut self) {
        self.0.queue().free += 1;
        self.0.freed.notify_one();
    }
}

/// Counts threads, so that another thread can wait for their end.
#[derive(Debug, Default)]
pub struct ThreadGroup {
    count: Mutex<usize>,
    left: Condvar,
}

/// Held by one thread of a [`ThreadGroup`] to its end.
#[derive(Debug)]
pub struct ThreadGroupMember(Arc<ThreadGroup>);

impl ThreadGroup {
    pub fn join(self: &Arc<ThreadGroup>) -> ThreadGroupMember {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        ThreadGroupMember(self.clone())
    }

    pub fn count(&self) -> usize {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all threads have left; `false`: not in time.
    pub fn wait(&self, most: Duration) -> bool {
        self.wait_below(1, most)
    }

    /// Waits until fewer than `enough` threads remain; `false`: not in time.
    pub fn wait_below(&self, enough: usize, most: Duration) -> bool {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, _) = self
            .left
            .wait_timeout_while(count, most, |n| *n >= enough)
            .unwrap_or_else(PoisonError::into_inner);
        *count < enough
    }
}

impl Drop for ThreadGroupMember {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.left.notify_all();
    }
}

/// The numbers of connections that the process can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionBudget {
    /// From clients, each with a thread.
    pub clients: usize,
    pub streams: usize,
    /// To tiny_http.
    pub lines: usize,
}

/// Raises the soft limit of descriptors to the hard one, and returns the possible numbers of connections.
pub fn budget(clients: usize, streams: usize, room: Room) -> ConnectionBudget {
    let files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: files.maximum,
                maximum: files.maximum,
            },
        );
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let budget = divide(clients, streams, files, room.space);
    ConnectionBudget {
        clients: budget
            .clients
            .min(by_memory(room.memory / 2, CLIENT_MEMORY)),
        streams: budget
            .streams
            .min(by_memory(room.memory / 8, STREAM_MEMORY)),
        ..budget
    }
}

/// Clients get half of the memory, event streams an eighth; bodies, jobs and the store share the rest.
fn by_memory(memory: u64, each: u64) -> usize {
    (memory / each).clamp(8, u32::MAX.into()) as usize
}

/// Descriptors: some for the store and the log, three for each connection to tiny_http (both ends, one of them twice), one
/// for each client and each event stream; if there are too few for both, streams get at most half of them. The 2 MiB stacks of
/// tiny_http's threads get a quarter of the free address space, those of clients another.
fn divide(clients: usize, streams: usize, files: u64, space: u64) -> ConnectionBudget {
    const RESERVED_DESCRIPTORS: u64 = 64;
    const TINY_HTTP_THREAD: u64 = (2 * 1024 + 64) * 1024;
    let files = files.saturating_sub(RESERVED_DESCRIPTORS.min(files / 3));
    let lines = (POOL_MOST as u64)
        .min(files / 12)
        .min(space / 4 / TINY_HTTP_THREAD)
        .max(POOL_LEAST as u64);
    let files = files.saturating_sub(3 * lines);
    let spare = files.saturating_sub(clients as u64);
    let streams = (streams as u64).min(spare.max(files / 2)).max(8);
    let clients = (clients as u64)
        .min(files.saturating_sub(streams))
        .min(space / 4 / (CLIENT_STACK as u64 + 32 * 1024))
        .max(8);
    ConnectionBudget {
        clients: clients as usize,
        streams: streams as usize,
        lines: lines as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_returned_and_one_giant_may_pass_alone() {
        let quota = Quota::new(10);
        let six = quota.take(6).unwrap();
        assert!(quota.take(5).is_none() && quota.take(100).is_none());
        drop(six);
        let giant = quota.take(100).unwrap();
        assert!(quota.take(1).is_none());
        drop(giant);
        assert!(quota.take(10).is_some());
    }

    #[test]
    fn a_turn_is_over_when_it_is_dropped() {
        let turns = HandshakeTurns::new(1);
        let turn = turns.take(Duration::ZERO).unwrap();
        assert!(turns.take(Duration::from_millis(1)).is_none());
        drop(turn);
        assert!(turns.take(Duration::ZERO).is_some());
    }

    #[test]
    fn an_ipv6_line_is_one_address_and_this_machine_is_none() {
        let addresses = Addresses::new(1);
        let enter = |text: &str| addresses.enter(text.parse().unwrap());
        let place = enter("2001:db8::1").unwrap();
        assert!(enter("2001:db8::2").is_none());
        assert!(enter("2001:db8:0:1::2").is_some());
        let _here = [
            enter("127.0.0.1").unwrap(),
            enter("127.0.0.1").unwrap(),
            enter("::1").unwrap(),
        ];
        drop(place);
        assert!(enter("2001:db8::2").is_some());
    }

    #[test]
    fn a_small_machine_gets_fewer_connections() {
        // in a cgroup of 64 MiB
        assert!((400..=512).contains(&by_memory((52 << 20) / 2, CLIENT_MEMORY)));
        assert!((400..=512).contains(&by_memory((52 << 20) / 8, STREAM_MEMORY)));
        assert_eq!(by_memory(0, CLIENT_MEMORY), 8);
        let check = |files, space, wants: [usize; 3]| {
            let got = divide(512, 1000, files, space);
            assert_eq!([got.clients, got.streams, got.lines], wants, "{files}");
            assert!(got.clients + got.streams + 3 * got.lines + 64 <= (files as usize).max(256));
        };
        check(1 << 20, u64::MAX, [512, 1000, 64]);
        check(4096, u64::MAX, [512, 1000, 64]);
        check(1024, u64::MAX, [384, 384, 64]);
        check(256, u64::MAX, [72, 72, 16]);
        let few = divide(512, 1000, 1024, 64 << 20);
        assert!(few.lines == 7 && few.clients >= 25, "{few:?}");
    }
}
