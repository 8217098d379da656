//! Chooses the connection to close when another one needs its place: one whose thread waits for its client, without a key first.
//!
//! It does not decide when one must be closed, and never ends a running request of a caller with a valid key.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections whose threads wait for their clients.
#[derive(Debug, Default)]
pub struct IdleConnections {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    idle: BTreeMap<EvictionOrder, Arc<TcpStream>>,
}

/// The order of eviction: first connections without a valid key, oldest first; then the others, least recently used first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EvictionOrder {
    known: bool,
    since: u64,
}

/// The connection may be evicted while its thread holds this.
pub struct IdleEntry<'a> {
    idle: &'a IdleConnections,
    order: EvictionOrder,
}

impl IdleConnections {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last place among the connections of its kind. `known`: it has sent a valid key.
    pub fn order(&self, known: bool) -> EvictionOrder {
        let mut inner = self.lock();
        inner.last += 1;
        EvictionOrder {
            known,
            since: inner.last,
        }
    }

    /// Adds a new connection, whose thread may start late: it is idle from now on, until [`IdleConnections::leave`].
    pub fn enter(&self, stream: &Arc<TcpStream>) -> EvictionOrder {
        let order = self.order(false);
        self.lock().idle.insert(order, Arc::clone(stream));
        order
    }

    pub fn leave(&self, order: EvictionOrder) {
        self.lock().idle.remove(&order);
    }

    pub fn add(&self, stream: &Arc<TcpStream>, order: EvictionOrder) -> IdleEntry<'_> {
        self.lock().idle.insert(order, Arc::clone(stream));
        IdleEntry { idle: self, order }
    }

    /// Shuts down the first connection in that order; its thread ends a moment later. `false`: no connection is idle.
    pub fn evict_one(&self) -> bool {
        let Some((order, stream)) = self.lock().idle.pop_first() else {
            return false;
        };
        // answer a request that has just arrived
        let how = if order.known {
            Shutdown::Read
        } else {
            Shutdown::Both
        };
        let _ = stream.shutdown(how);
        true
    }
}

impl Drop for IdleEntry<'_> {
    fn drop(&mut self) {
        self.idle.leave(self.order);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn strangers_give_way_first_and_the_oldest_of_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (Arc::new(listener.accept().unwrap().0), far)
        };
        let ended = |(near, _): &(Arc<TcpStream>, TcpStream)| {
            near.set_nonblocking(true).unwrap();
            matches!((&**near).read(&mut [0]), Ok(0))
        };
        let waiting = IdleConnections::default();
        let (known, old, new, busy) = (connect(), connect(), connect(), connect());
        let ranks = [
            waiting.order(true),
            waiting.enter(&old.0),
            waiting.order(false),
            waiting.enter(&busy.0),
        ];
        waiting.leave(ranks[3]);
        let _new = waiting.add(&new.0, ranks[2]);
        let _known = waiting.add(&known.0, ranks[0]);
        for wants in [
            [false, true, false, false],
            [false, true, true, false],
            [true, true, true, false],
        ] {
            assert!(waiting.evict_one());
            assert_eq!([&known, &old, &new, &busy].map(ended), wants);
        }
        assert!(!waiting.evict_one());
    }
}
