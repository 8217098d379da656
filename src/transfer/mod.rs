//! Transfers files to the hub and back: chunk by chunk if the server can, whole if it cannot
//! (`s3em`), and resumes after failures.
//!
//! The caller chooses the files and their names. It prints nothing. It keeps a buffer for each request
//! in memory, and of several small files at most [`upload::GROUP_BYTES`].

mod batch;
mod chunk_sender;
mod concurrent;
pub mod download;
mod early;
pub mod find;
mod partial;
mod parts;
mod small;
pub mod source_file;
pub mod upload;
pub mod walk;

pub use concurrent::{MAX_REQUESTS, RequestCount, RequestSlots};
pub use early::{BegunFile, EarlyEnd};
pub use parts::ReplacedRevision;

use std::cell::Cell;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::client::{Failure, HubClient, HubResult};
use crate::error::Error;

/// Bytes that are read and written at a time.
const COPY_BUFFER_BYTES: usize = 64 * 1024;
/// Consecutive failures without progress, after which a transfer is given up: about half a minute.
const MAX_ATTEMPTS: u32 = 7;
/// Maximum pause between two attempts.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(15);
/// Maximum pause that the hub may ask for.
const ASKED_PAUSE: Duration = Duration::from_secs(60);

/// The progress of a transfer, for its observer.
#[derive(Debug)]
pub enum TransferStep<'a> {
    /// This many bytes are to be transferred, in addition to those announced before.
    Expect(u64),
    /// Bytes were transferred.
    Passed(u64),
    /// Bytes need not be transferred: the other side has them.
    Spared(u64),
    /// Bytes must be transferred again.
    Lost(u64),
    /// An attempt failed, and is repeated after a pause.
    Again(&'a Error),
}

/// Called by several threads, see [`concurrent`].
pub type Observer<'a> = &'a (dyn Fn(TransferStep<'_>) + Sync);

/// A hub, its features, and the observer.
pub struct Transfer<'a> {
    hub: &'a HubClient,
    /// The server is a mesync hub: it has chunks, revisions, conditions and kinds.
    ours: bool,
    watch: Observer<'a>,
    /// Consecutive failures after which it gives up.
    attempts: u32,
    /// `None`: one request at a time.
    slots: Option<&'a RequestSlots>,
}

impl<'a> Transfer<'a> {
    /// Asks the server for its kind. An unreachable server fails at once: only transfers that have
    /// begun are retried.
    pub fn new(hub: &'a HubClient, watch: Observer<'a>) -> HubResult<Transfer<'a>> {
        Ok(Transfer {
            hub,
            ours: hub.is_ours()?,
            watch,
            attempts: MAX_ATTEMPTS,
            slots: None,
        })
    }

    /// For a caller that knows the kind of the server, and has its own way to retry.
    pub fn once(hub: &'a HubClient, ours: bool, watch: Observer<'a>) -> Transfer<'a> {
        Transfer {
            hub,
            ours,
            watch,
            attempts: 1,
            slots: None,
        }
    }

    /// Lets the chunks of a file be sent at the same time. The caller has entered the slots.
    pub fn with_slots(self, slots: &'a RequestSlots) -> Transfer<'a> {
        Transfer {
            slots: Some(slots),
            ..self
        }
    }

    /// Whether the server has records of directories.
    pub fn keeps_directories(&self) -> bool {
        self.ours
    }

    /// Repeats a call until it succeeds, is refused, or has failed too often. `once` reports the
    /// bytes that it sends.
    fn persist<T>(&self, mut once: impl FnMut(&dyn Fn(u64)) -> HubResult<T>) -> HubResult<T> {
        let mut patience = RetryBudget::new(self.attempts);
        loop {
            let sent = Cell::new(0);
            let passed = |bytes| {
                sent.set(sent.get() + bytes);
                (self.watch)(TransferStep::Passed(bytes));
            };
            match once(&passed) {
                Ok(done) => return Ok(done),
                Err(failure) => {
                    (self.watch)(TransferStep::Lost(sent.get()));
                    patience.wait(failure, self.watch)?;
                }
            }
        }
    }
}

/// How many failures are still tolerated.
struct RetryBudget {
    backoff: Backoff,
    failures: u32,
    attempts: u32,
}

impl RetryBudget {
    fn new(attempts: u32) -> RetryBudget {
        RetryBudget {
            backoff: Backoff::new(MAX_RETRY_PAUSE),
            failures: 0,
            attempts,
        }
    }

    /// Pauses before the next attempt; returns the failure if there is none.
    fn wait(&mut self, failure: Failure, watch: Observer<'_>) -> HubResult<()> {
        self.failures += 1;
        if !failure.is_transient() || self.failures >= self.attempts {
            return Err(failure);
        }
        watch(TransferStep::Again(&failure.error));
        let pause = self.backoff.next(uuid::Uuid::new_v4().as_u64_pair().0);
        std::thread::park_timeout(
            failure
                .retry_after
                .map_or(pause, |asked| asked.clamp(pause, ASKED_PAUSE)),
        );
        Ok(())
    }

    /// Records progress.
    fn reset(&mut self) {
        *self = RetryBudget::new(self.attempts);
    }
}
