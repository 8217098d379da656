//! The committer: takes submitted operations, commits all that wait as one group, and answers each when it is on the disk.
//!
//! The store decides about messages. The committer never waits for a client, and does not start its own thread: its owner
//! runs [`Work::run`] in a thread called `commit`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use uuid::Uuid;

use super::memory::Room;
use super::store::Store;
use super::store::ops::files::Changed;
use super::store::ops::{Group, Limits, Op, Outcome, Wake};
use super::subscribers::Subscribers;
use crate::clock;
use crate::config::{Reserve, limits};
use crate::error::{Error, Kind, Result};
use crate::wire::revision::Tag;
use crate::{disk, wire};

/// The interval at which the idle committer wakes up, and its heartbeat advances.
const COMMITTER_TICK: Duration = Duration::from_secs(1);
/// Milliseconds of hub time after which acks are written even without another operation.
const FLUSH_INTERVAL_MILLIS: u64 = 600_000;
/// Between two sweeps that are added to a group; an idle hub sweeps six times less often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

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
    settings: Mutex<Option<(Limits, Reserve)>>,
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
    answer: OnCommitted,
    _permit: Option<Permit>,
}

/// The handle for other threads.
pub struct Committer {
    queue: Sender<Submission>,
    stop: Sender<()>,
    shared: Arc<Shared>,
    started: Instant,
    resumed_at: u64,
}

/// The state of the thread `commit`, which runs [`Work::run`].
pub struct Work {
    store: Arc<Store>,
    events: Arc<Subscribers>,
    queue: Receiver<Submission>,
    stopped: Receiver<()>,
    shared: Arc<Shared>,
    started: Instant,
    swept: Instant,
    sweep_again: bool,
}

impl Committer {
    pub fn new(
        store: Arc<Store>,
        events: Arc<Subscribers>,
        settings: Limits,
        reserve: Reserve,
    ) -> (Arc<Committer>, Work) {
        let (queue, submissions) = bounded(limits::COMMITS);
        let (stop, stopped) = bounded(limits::WAKEUPS);
        let (shared, started) = (Arc::new(Shared::default()), clock::monotonic());
        let resumed_at = store.resumed_at();
        let committer = Committer {
            queue,
            stop,
            shared: Arc::clone(&shared),
            started,
            resumed_at,
        };
        committer.set(settings, reserve);
        committer.set_room(Room::UNLIMITED);
        let work = Work {
            store,
            events,
            queue: submissions,
            stopped,
            shared,
            started,
            swept: started,
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
        self.resumed_at + self.started.elapsed().as_millis() as u64
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
    /// If too many operations wait, it is called immediately with `Outcome::Busy`; if the hub ends first, it is dropped uncalled.
    pub fn submit(&self, op: Op, permit: Option<Permit>, answer: OnCommitted) {
        let submission = Submission {
            op,
            answer,
            _permit: permit,
        };
        if self.shared.stopping.load(Relaxed) {
            return (submission.answer)(Outcome::Busy);
        }
        if let Err(back) = self.queue.try_send(submission) {
            self.shared.turned_away.fetch_add(1, Relaxed);
            (back.into_inner().answer)(Outcome::Busy);
        }
    }

    /// Why nothing can be written any more; the process must then end with this error's exit status.
    pub fn fatal(&self) -> Option<Error> {
        lock(&self.shared.fatal).clone()
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

impl Work {
    /// Runs until [`Committer::stop`], or until every handle is dropped.
    pub fn run(mut self) {
        loop {
            crossbeam_channel::select! {
                recv(self.queue) -> first => match first {
                    Ok(first) => self.take(Some(first)),
                    Err(_) => break,
                },
                recv(self.stopped) -> _ => break,
                default(if self.sweep_again { Duration::ZERO } else { COMMITTER_TICK }) => self.idle(),
            }
            self.shared.heartbeat.fetch_add(1, Relaxed);
        }
        while let Ok(first) = self.queue.try_recv() {
            self.take(Some(first));
        }
        self.commit(self.store.due(), Vec::new());
    }

    /// Collects and commits one group: the waiting operations, acks, and sometimes a sweep.
    fn take(&mut self, first: Option<Submission>) {
        let mut submissions = Vec::from_iter(first);
        submissions.extend(self.queue.try_iter().take(limits::GROUP - 1));
        let mut riding = self.store.due();
        if self.sweep_again || self.swept.elapsed() >= SWEEP_INTERVAL {
            riding.push(Op::Sweep);
        }
        self.commit(riding, submissions);
    }

    fn idle(&mut self) {
        self.look_at_disk();
        self.store.reopen();
        if self.store.sync_failed() || !self.store.is_in_place() {
            // no group depends on the sync of a body, so an empty one reports its failure
            let _ = self.apply(Vec::new());
        }
        let now = self.now();
        let flush = self
            .store
            .waits_since()
            .is_some_and(|since| now.saturating_sub(since) >= FLUSH_INTERVAL_MILLIS);
        let sweep = self.sweep_again
            || (self.swept.elapsed() >= SWEEP_INTERVAL * 6 && self.wants_sweep(now));
        if self.swept.elapsed() >= SWEEP_INTERVAL * 6 {
            self.swept = clock::monotonic();
            self.store.hold_reserve();
        }
        if flush || sweep || self.store.has_found_losses() {
            let mut ops = self.store.due();
            ops.extend(sweep.then_some(Op::Sweep));
            self.commit(ops, Vec::new());
        }
    }

    /// Commits `riding`, whose outcomes nothing waits for, and `submissions`; then wakes event streams and answers.
    fn commit(&mut self, riding: Vec<Op>, submissions: Vec<Submission>) {
        if riding.is_empty() && submissions.is_empty() {
            return;
        }
        self.look_at_disk();
        let (mut ops, mut answers) = (riding, Vec::with_capacity(submissions.len()));
        let first = ops.len();
        for Submission {
            op,
            answer,
            _permit,
        } in submissions
        {
            ops.push(op);
            answers.push((answer, _permit));
        }
        let (began, wanted) = (clock::monotonic(), self.store.wanted_changes());
        let says_losses = self.store.has_found_losses();
        let outcomes = self.apply(ops);
        self.measure(first + answers.len(), began.elapsed());
        let mut outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(e) => {
                self.sweep_again = false;
                return answers
                    .into_iter()
                    .for_each(|(answer, _permit)| answer(Outcome::Failed(e.clone())));
            }
        };
        if let Some(more) = outcomes.iter().find_map(|o| {
            if let Outcome::Swept { more } = o {
                Some(*more)
            } else {
                None
            }
        }) {
            self.sweep_again = more;
            self.swept = clock::monotonic();
        }
        // wake receivers before answering senders
        let mut wakes: BTreeSet<Wake> = (outcomes.iter_mut())
            .flat_map(|o| match o {
                Outcome::Posted { wakes, .. } => std::mem::take(wakes),
                Outcome::Changed(changed) if changed.iter().any(Changed::is_change) => {
                    vec![Wake::Files]
                }
                _ => Vec::new(),
            })
            .collect();
        if says_losses || wanted != self.store.wanted_changes() {
            wakes.insert(Wake::Files);
        }
        self.events.wake(&wakes);
        for ((answer, permit), outcome) in answers.into_iter().zip(outcomes.into_iter().skip(first))
        {
            // the bytes are on the disk: free them before the answer, for the caller's next request
            drop(permit);
            answer(outcome);
        }
    }

    fn apply(&self, ops: Vec<Op>) -> Result<Vec<Outcome>> {
        if let Some(e) = &*lock(&self.shared.fatal) {
            return Err(e.clone());
        }
        let Some((limits, _)) = *lock(&self.shared.settings) else {
            return Err(Error::new(Kind::Failed, "no limits are set"));
        };
        let full = self.shared.full.load(Relaxed);
        let group = Group {
            now: self.now(),
            wall: clock::millis(clock::now()),
            full,
            tag: tag(),
            opened: self.store.opened(),
            limits,
            ops,
        };
        let applied =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.store.apply(&group)));
        let error = match applied {
            Ok(Ok(outcomes)) => return Ok(outcomes),
            // no space even for acks: it may be freed later
            Ok(Err(e)) if e.kind == Kind::Busy => {
                log::warn!("{e}");
                return Err(e);
            }
            Ok(Err(e)) => e,
            Err(_) => Error::new(
                Kind::Damaged,
                "cannot write the hub's tables: they are damaged, or mesync has a bug",
            ),
        };
        Err(self.end(error))
    }

    /// Records the fatal error: nothing is written any more, and the process must end.
    fn end(&self, error: Error) -> Error {
        log::error!("{error}");
        *lock(&self.shared.fatal) = Some(error.clone());
        error
    }

    fn now(&self) -> u64 {
        self.store.resumed_at() + self.started.elapsed().as_millis() as u64
    }

    fn wants_sweep(&self, now: u64) -> bool {
        let Some((limits, _)) = *lock(&self.shared.settings) else {
            return false;
        };
        self.store
            .wants_sweep(now, self.shared.full.load(Relaxed), limits.files)
            .unwrap_or(false)
    }

    fn look_at_disk(&self) {
        let reserve =
            lock(&self.shared.settings).map_or(Reserve::default(), |(_, reserve)| reserve);
        // an unknown amount counts as enough: a write will fail if it is not
        let space = disk::free_space(self.store.dir()).ok();
        self.store
            .keep_free(space.map_or(0, |(_, total, _)| wanted(total, reserve)));
        let full = space.is_some_and(|space| is_full(space, reserve));
        if self.shared.full.swap(full, Relaxed) != full {
            if full {
                log::warn!(
                    "disk is almost full; refusing new data until there is space dir={}",
                    self.store.dir().display()
                )
            } else {
                log::info!("disk has space again dir={}", self.store.dir().display())
            }
        }
    }

    fn measure(&self, operations: usize, took: Duration) {
        let (mut m, micros) = (lock(&self.shared.metrics), took.as_micros() as u64);
        m.commits += 1;
        m.operations += operations as u64;
        m.largest_group = m.largest_group.max(operations as u64);
        m.micros += micros;
        m.longest_micros = m.longest_micros.max(micros);
        m.latest_micros = micros;
    }
}

/// Also uses the clock, because a machine that resumes from a snapshot of its memory may draw the same number again.
fn tag() -> Tag {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    let at = clock::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    Tag((high ^ low ^ at).max(1))
}

/// `space`: free and total bytes, free inodes.
fn is_full(space: (u64, u64, u64), reserve: Reserve) -> bool {
    let (free, total, inodes) = space;
    free < wanted(total, reserve) || inodes < limits::LEAST_INODES
}

/// Bytes of `total` that must stay free.
fn wanted(total: u64, reserve: Reserve) -> u64 {
    let wanted = match reserve {
        Reserve::Bytes(bytes) => bytes,
        Reserve::Percent(percent) => (total as f64 * percent / 100.0) as u64,
    };
    wanted.max(limits::LEAST_FREE)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
