//! Who gives way when there is no room for another connection: whoever only keeps the hub waiting, strangers first.
//!
//! It does not decide when that is so, and never ends a request under way of somebody who has shown a key.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections whose threads wait for their clients.
#[derive(Debug, Default)]
pub struct Waiting {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    seats: BTreeMap<Rank, Arc<TcpStream>>,
}

/// The order of giving way: strangers by when they came, then the others by when they were last of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    known: bool,
    since: u64,
}

/// Held while a thread waits.
pub struct Seat<'a> {
    waiting: &'a Waiting,
    rank: Rank,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last one to give way of its kind. `known`: a key was shown.
    pub fn rank(&self, known: bool) -> Rank {
        let mut inner = self.lock();
        inner.last += 1;
        Rank { known, since: inner.last }
    }

    /// For a new connection, whose thread may take its time to begin: it waits from now on, until [`Waiting::leave`].
    pub fn enter(&self, stream: &Arc<TcpStream>) -> Rank {
        let rank = self.rank(false);
        self.lock().seats.insert(rank, Arc::clone(stream));
        rank
    }

    pub fn leave(&self, rank: Rank) {
        self.lock().seats.remove(&rank);
    }

    pub fn sit(&self, stream: &Arc<TcpStream>, rank: Rank) -> Seat<'_> {
        self.lock().seats.insert(rank, Arc::clone(stream));
        Seat { waiting: self, rank }
    }

    /// Ends the wait of whoever is to give way first; its thread ends a moment later. `false`: nobody waits.
    pub fn make_room(&self) -> bool {
        let Some((rank, stream)) = self.lock().seats.pop_first() else { return false };
        // a request that has just come is still answered
        let how = if rank.known { Shutdown::Read } else { Shutdown::Both };
        let _ = stream.shutdown(how);
        true
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.waiting.leave(self.rank);
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
        let waiting = Waiting::default();
        let (known, old, new, busy) = (connect(), connect(), connect(), connect());
        let ranks = [waiting.rank(true), waiting.enter(&old.0), waiting.rank(false), waiting.enter(&busy.0)];
        waiting.leave(ranks[3]);
        let _new = waiting.sit(&new.0, ranks[2]);
        let _known = waiting.sit(&known.0, ranks[0]);
        for wants in [[false, true, false, false], [false, true, true, false], [true, true, true, false]] {
            assert!(waiting.make_room());
            assert_eq!([&known, &old, &new, &busy].map(ended), wants);
        }
        assert!(!waiting.make_room());
    }
}
