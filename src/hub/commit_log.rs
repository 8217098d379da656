//! The log of groups of operations: the one place in which everything that changes the hub's tables is put in order.
//!
//! A hub of its own writes to its disk ([`DiskLog`]); hubs that share a bucket write to the bucket and read what the others have
//! written ([`super::bucket`]). Neither decides about operations: the store does.

use std::sync::Arc;
use std::time::Duration;

use super::store::Store;
use super::store::ops::{Group, Op, Outcome};
use crate::clock;
use crate::error::{Error, Kind};

/// What a call has brought into the tables.
#[derive(Debug, Default)]
pub struct Committed {
    /// The outcomes of the call's own operations, in order.
    pub outcomes: Vec<Outcome>,
    /// The outcomes of operations of other hubs, and of earlier ones of this hub whose outcome was not known.
    pub others: Vec<Outcome>,
}

/// Why there is no outcome.
#[derive(Debug)]
pub enum LogFault {
    /// The operations may be repeated: nothing was done, or the outcome is not known.
    Busy(Error),
    /// The tables are of no use any more; a new start makes them again.
    StartAgain(Error),
    /// Nothing can be written any more.
    Final(Error),
}

/// Milliseconds of hub time for which an operation may wait for its group. A later one is refused: a hub that has slept for days
/// must not carry out what its callers have given up and perhaps done again since, when their ids may be forgotten.
pub const LONGEST_WAIT_MILLIS: u64 = 600_000;

/// Tells hub time.
pub type HubClock = Arc<dyn Fn() -> u64 + Send + Sync>;

pub trait Log: Send {
    /// Hub time in milliseconds, for any thread; see [`super::store::ops::resume`].
    fn clock(&self) -> HubClock;

    /// Waits until it is this hub's turn. What is submitted meanwhile belongs to the next group.
    fn await_turn(&mut self) {}

    /// Puts a group at the end of the log. When it returns, its effects are durable.
    fn commit(&mut self, group: Group) -> Result<Committed, LogFault>;

    /// Applies what other hubs have written since the last call.
    fn follow(&mut self) -> Result<Committed, LogFault> {
        Ok(Committed::default())
    }

    /// How soon to call [`Log::follow`] again; `None`: there are no other hubs.
    fn next_poll(&self) -> Option<Duration> {
        None
    }

    /// Milliseconds of hub time after which acks, and times of pulls, are written even without another operation.
    fn flush_intervals(&self) -> [u64; 2] {
        [600_000; 2]
    }

    /// Makes the received bytes of an operation available to all hubs that will apply it. Called by any thread before the operation
    /// is submitted.
    fn uploader(&self) -> Option<Arc<dyn Uploader>> {
        None
    }
}

/// See [`Log::uploader`].
pub trait Uploader: Send + Sync {
    fn upload(&self, op: &Op) -> Result<(), Error>;
}

/// The log of one hub: each group is a transaction on its disk, and is not kept.
pub struct DiskLog {
    store: Arc<Store>,
    started: std::time::Instant,
}

impl DiskLog {
    pub fn new(store: Arc<Store>) -> DiskLog {
        DiskLog {
            store,
            started: clock::monotonic(),
        }
    }
}

impl Log for DiskLog {
    fn clock(&self) -> HubClock {
        let (resumed_at, started) = (self.store.resumed_at(), self.started);
        Arc::new(move || resumed_at + started.elapsed().as_millis() as u64)
    }

    fn commit(&mut self, group: Group) -> Result<Committed, LogFault> {
        match self.store.apply(&group) {
            Ok(outcomes) => Ok(Committed {
                outcomes,
                others: Vec::new(),
            }),
            // no space even for acks: it may be freed later
            Err(e) if e.kind == Kind::Busy => Err(LogFault::Busy(e)),
            Err(e) => Err(LogFault::Final(e)),
        }
    }
}
