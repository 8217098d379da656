//! Files to the hub and back: chunk by chunk where the server can, whole where it cannot (`s3em`), gone on with after what
//! went wrong on the way.
//!
//! It does what it is told: which files, and what they are called, is for the caller. It prints nothing. What is in memory
//! of a file is one buffer, of several small files at most [`upload::GROUP_BYTES`].

mod batch;
pub mod download;
pub mod find;
mod partial;
mod small;
pub mod source_file;
pub mod upload;
pub mod walk;

use std::cell::Cell;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::client::{Called, Failure, HubClient};
use crate::error::Error;

/// Bytes that are read and written at a time.
const COPY_BUFFER_BYTES: usize = 64 * 1024;
/// Failures in a row without a byte in between, after which a transfer is given up: about half a minute.
const MAX_ATTEMPTS: u32 = 7;
/// Pause between two attempts, at most.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(15);
/// A pause that the hub asks for, at most.
const ASKED_PAUSE: Duration = Duration::from_secs(60);

/// What a transfer reports to its observer.
#[derive(Debug)]
pub enum Step<'a> {
    /// There is so much to do, more than was said before.
    Expect(u64),
    /// Bytes have travelled.
    Passed(u64),
    /// Bytes need not travel: the other side has them.
    Spared(u64),
    /// What had travelled has to do so again.
    Lost(u64),
    /// It did not work, and is tried again after a pause.
    Again(&'a Error),
}

pub type Watch<'a> = &'a dyn Fn(Step<'_>);

/// A hub, its features, and the observer.
pub struct Transfer<'a> {
    hub: &'a HubClient,
    /// It has chunks, revisions, conditions and kinds: it is a mesync hub.
    ours: bool,
    watch: Watch<'a>,
    /// Failures in a row after which it gives up.
    attempts: u32,
}

impl<'a> Transfer<'a> {
    /// Asks the server what it is. If it is not there, that is said at once: only what has begun is tried again.
    pub fn new(hub: &'a HubClient, watch: Watch<'a>) -> Called<Transfer<'a>> {
        Ok(Transfer {
            hub,
            ours: hub.is_ours()?,
            watch,
            attempts: MAX_ATTEMPTS,
        })
    }

    /// For a caller that knows the kind of the server, and has its own way to try again.
    pub fn once(hub: &'a HubClient, ours: bool, watch: Watch<'a>) -> Transfer<'a> {
        Transfer {
            hub,
            ours,
            watch,
            attempts: 1,
        }
    }

    /// Whether the server has records of directories.
    pub fn keeps_directories(&self) -> bool {
        self.ours
    }

    /// Tries until it succeeds, is refused, or has failed too often in a row. `once` tells the bytes that it sends.
    fn persist<T>(&self, mut once: impl FnMut(&dyn Fn(u64)) -> Called<T>) -> Called<T> {
        let mut patience = Patience::new(self.attempts);
        loop {
            let sent = Cell::new(0);
            let passed = |bytes| {
                sent.set(sent.get() + bytes);
                (self.watch)(Step::Passed(bytes));
            };
            match once(&passed) {
                Ok(done) => return Ok(done),
                Err(failure) => {
                    (self.watch)(Step::Lost(sent.get()));
                    patience.wait(failure, self.watch)?;
                }
            }
        }
    }
}

/// How often something may still fail.
struct Patience {
    backoff: Backoff,
    failures: u32,
    attempts: u32,
}

impl Patience {
    fn new(attempts: u32) -> Patience {
        Patience {
            backoff: Backoff::new(MAX_RETRY_PAUSE),
            failures: 0,
            attempts,
        }
    }

    /// Pauses before the next attempt; gives the failure back if there is to be none.
    fn wait(&mut self, failure: Failure, watch: Watch<'_>) -> Called<()> {
        self.failures += 1;
        if !failure.is_transient() || self.failures >= self.attempts {
            return Err(failure);
        }
        watch(Step::Again(&failure.error));
        let pause = self.backoff.next(uuid::Uuid::new_v4().as_u64_pair().0);
        std::thread::park_timeout(
            failure
                .retry_after
                .map_or(pause, |asked| asked.clamp(pause, ASKED_PAUSE)),
        );
        Ok(())
    }

    /// There was progress.
    fn reset(&mut self) {
        *self = Patience::new(self.attempts);
    }
}
