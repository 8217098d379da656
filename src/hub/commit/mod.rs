//! The committer: takes submitted operations, commits all that wait as one group, and answers each when it is on the disk.
//!
//! The store decides about messages. The committer never waits for a client, and does not start its own thread: its owner
//! runs [`Work::run`] in a thread called `commit`.

mod work;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::commit_log::{HubClock, Log, LogFault, Uploader};
use super::memory::Room;
use super::store::Store;
use super::store::files;
use super::store::ops::{Limits, Op, Outcome};
use super::subscribers::Subscribers;
use crate::config::{Reserve, limits};
use crate::error::Error;
use crate::wire;
pub use work::Work;

/// Called once with the outcome of the operation, on the committer's thread: it must not block.
pub type OnCommitted = Box<dyn FnOnce(Outcome) + Send>;

/// The counts of the committer since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metrics {
    pub commits: u64,
    /// Operations in all commits.
    pub operations: u64,
    pub largest_group: u64,
    /// Microseconds in all commits, in the longest and in the latest.
    pub micros: u64,
    pub longest_micros: u64,
    pub latest_micros: u64,
    /// Operations refused because too many waited.
    pub turned_away: u64,
    /// Operations that currently wait.
    pub waiting: u64,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    heartbeat: AtomicU64,
    full: AtomicBool,
    bytes: AtomicUsize,
    /// The maximum of these bytes.
    most_bytes: AtomicUsize,
    turned_away: AtomicU64,
    metrics: Mutex<Metrics>,
    fatal: Mutex<Option<Error>>,
    /// A new start of the hub makes its tables again.
    start_again: AtomicBool,
    polls: PollRequests,
    settings: Mutex<Option<(Limits, Reserve)>>,
}

/// Requests to poll for what other hubs have written; each is served by a poll that begins after it.
#[derive(Default)]
struct PollRequests {
    wanted: AtomicU64,
    done: Mutex<u64>,
    changed: Condvar,
}

/// A part of the bytes that may wait for the disk, returned when dropped.
pub struct Permit {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

struct Submission {
    op: Op,
    /// Hub time.
    submitted: u64,
    answer: OnCommitted,
    _permit: Option<Permit>,
}

/// The handle for other threads.
pub struct Committer {
    queue: Sender<Submission>,
    stop: Sender<()>,
    poll: Sender<()>,
    /// Threads that upload what submissions bring; `None`: nothing is to be uploaded.
    uploads: Option<Sender<Submission>>,
    shared: Arc<Shared>,
    clock: HubClock,
}

impl Committer {
    pub fn new(
        store: Arc<Store>,
        log: Box<dyn Log>,
        events: Arc<Subscribers>,
        settings: Limits,
        reserve: Reserve,
    ) -> (Arc<Committer>, Work) {
        let (queue, submissions) = bounded(limits::WAITING_COMMITS);
        let (stop, stopped) = bounded(limits::WAKEUPS);
        let (ask, poll) = bounded(limits::WAKEUPS);
        let shared = Arc::new(Shared::default());
        let uploads = (log.uploader()).map(|uploader| start_uploads(&uploader, &queue, &shared));
        let committer = Committer {
            queue,
            stop,
            poll: ask,
            uploads,
            shared: Arc::clone(&shared),
            clock: log.clock(),
        };
        committer.set(settings, reserve);
        committer.set_room(Room::UNLIMITED);
        let work = Work {
            store,
            clock: log.clock(),
            log,
            events,
            queue: submissions,
            stopped,
            poll,
            shared,
            swept: (committer.clock)(),
            sweep_again: false,
        };
        work.look_at_disk();
        (Arc::new(committer), work)
    }

    /// Applies new settings from the next group on.
    pub fn set(&self, settings: Limits, reserve: Reserve) {
        *lock(&self.shared.settings) = Some((settings, reserve));
    }

    /// Limits the waiting bytes if memory is limited; one whole request is always allowed.
    pub fn set_room(&self, room: Room) {
        let most = room.part(
            16,
            wire::MAX_BATCH_BYTES as u64,
            limits::COMMIT_BYTES as u64,
        );
        self.shared.most_bytes.store(most as usize, Relaxed);
    }

    /// Hub time in milliseconds.
    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Waits until the tables have all that was in the log when this was called. `false`: not within `patience`.
    pub fn catch_up(&self, patience: Duration) -> bool {
        let polls = &self.shared.polls;
        let wanted = polls.wanted.fetch_add(1, Relaxed) + 1;
        self.poll();
        let done = lock(&polls.done);
        let waited = polls
            .changed
            .wait_timeout_while(done, patience, |done| *done < wanted);
        waited.is_ok_and(|(done, _)| *done >= wanted)
    }

    /// Has the log polled soon for what other hubs have written.
    pub fn poll(&self) {
        let _ = self.poll.try_send(());
    }

    /// A permit for bytes of messages until they are on the disk; `None`: too many bytes wait already.
    pub fn room(&self, bytes: usize) -> Option<Permit> {
        let most = self.shared.most_bytes.load(Relaxed);
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= most);
        self.shared
            .bytes
            .fetch_update(Relaxed, Relaxed, fits)
            .ok()?;
        Some(Permit {
            shared: Arc::clone(&self.shared),
            bytes,
        })
    }

    /// Submits an operation and returns at once; `answer` is called when it is on the disk or has been refused.
    ///
    /// If too many operations wait, it is called immediately with `Outcome::Busy`, and later with the same if this one has waited
    /// for longer than [`LONGEST_WAIT_MILLIS`](super::commit_log::LONGEST_WAIT_MILLIS); if the hub ends first, it is dropped uncalled.
    pub fn submit(&self, op: Op, permit: Option<Permit>, answer: OnCommitted) {
        let submission = Submission {
            op,
            submitted: self.now(),
            answer,
            _permit: permit,
        };
        if self.shared.stopping.load(Relaxed) {
            return (submission.answer)(Outcome::Busy);
        }
        match &self.uploads {
            Some(uploads) if files::brings_files(&submission.op) => {
                self.shared.enqueue(uploads, submission)
            }
            _ => self.shared.enqueue(&self.queue, submission),
        }
    }

    /// Ends the hub because of a fault that another thread than the committer's has found; [`LogFault::Busy`] is logged only.
    pub fn fail(&self, fault: LogFault) {
        self.shared.fail(fault);
    }

    /// Why nothing can be written any more; the process must then end with this error's exit status.
    pub fn fatal(&self) -> Option<Error> {
        lock(&self.shared.fatal).clone()
    }

    /// A new start of the hub would end the fatal error.
    pub fn wants_new_start(&self) -> bool {
        self.shared.start_again.load(Relaxed)
    }

    /// The disk has less than its reserve free: posts are refused.
    pub fn disk_is_full(&self) -> bool {
        self.shared.full.load(Relaxed)
    }

    /// Advances at least once a second while the committer works, except during a longer commit.
    pub fn heartbeat(&self) -> u64 {
        self.shared.heartbeat.load(Relaxed)
    }

    pub fn metrics(&self) -> Metrics {
        let metrics = *lock(&self.shared.metrics);
        Metrics {
            turned_away: self.shared.turned_away.load(Relaxed),
            waiting: self.queue.len() as u64,
            ..metrics
        }
    }

    /// Accepts no more operations; [`Work::run`] commits the waiting ones, including acks, and returns.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Relaxed);
        let _ = self.stop.try_send(());
    }
}

impl Shared {
    fn fail(&self, fault: LogFault) -> Error {
        match fault {
            LogFault::Busy(e) => {
                log::warn!("{e}");
                e
            }
            LogFault::StartAgain(e) => {
                self.start_again.store(true, Relaxed);
                self.end(e)
            }
            LogFault::Final(e) => self.end(e),
        }
    }

    /// Records the fatal error: nothing is written any more, and the process must end.
    fn end(&self, error: Error) -> Error {
        log::error!("{error}");
        *lock(&self.fatal) = Some(error.clone());
        error
    }

    fn enqueue(&self, queue: &Sender<Submission>, submission: Submission) {
        if let Err(back) = queue.try_send(submission) {
            self.turned_away.fetch_add(1, Relaxed);
            (back.into_inner().answer)(Outcome::Busy);
        }
    }
}

/// Threads that upload what a submission brings, and then put it into the committer's queue. They end with the sender.
fn start_uploads(
    uploader: &Arc<dyn Uploader>,
    queue: &Sender<Submission>,
    shared: &Arc<Shared>,
) -> Sender<Submission> {
    let (sender, submissions) = bounded::<Submission>(limits::WAITING_COMMITS);
    for number in 1..=limits::UPLOADERS {
        let (uploader, queue, shared) = (Arc::clone(uploader), queue.clone(), Arc::clone(shared));
        let submissions = submissions.clone();
        let work = move || {
            for submission in submissions {
                match uploader.upload(&submission.op) {
                    Ok(()) => shared.enqueue(&queue, submission),
                    Err(e) => (submission.answer)(Outcome::Failed(e)),
                }
            }
        };
        if let Err(e) = std::thread::Builder::new()
            .name(format!("bucket-{number}"))
            .spawn(work)
        {
            log::warn!("cannot start a thread for uploads to the bucket: {e}");
        }
    }
    sender
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
