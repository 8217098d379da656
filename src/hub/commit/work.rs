//! The committer's thread: collects groups, puts them into the log, wakes and answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam_channel::Receiver;
use uuid::Uuid;

use super::{Shared, Submission, lock};
use crate::config::{Reserve, limits};
use crate::error::{Error, Kind, Result};
use crate::hub::commit_log::{Committed, HubClock, LONGEST_WAIT_MILLIS, Log, LogFault};
use crate::hub::store::Store;
use crate::hub::store::ops::files::Changed;
use crate::hub::store::ops::{Group, Op, Outcome, Wake};
use crate::hub::subscribers::Subscribers;
use crate::wire::revision::Tag;
use crate::{clock, disk};

/// The interval at which the idle committer wakes up, and its heartbeat advances.
const COMMITTER_TICK: Duration = Duration::from_secs(1);
/// Between two sweeps that are added to a group; an idle hub sweeps six times less often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// The state of the thread `commit`, which runs [`Work::run`].
pub struct Work {
    pub(super) store: Arc<Store>,
    pub(super) log: Box<dyn Log>,
    pub(super) events: Arc<Subscribers>,
    pub(super) queue: Receiver<Submission>,
    pub(super) stopped: Receiver<()>,
    pub(super) poll: Receiver<()>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: HubClock,
    /// Hub time of the last sweep.
    pub(super) swept: u64,
    pub(super) sweep_again: bool,
}

impl Work {
    /// Runs until [`Committer::stop`](super::Committer::stop), or until every handle is dropped.
    pub fn run(mut self) {
        loop {
            crossbeam_channel::select! {
                recv(self.queue) -> first => match first {
                    Ok(first) => self.take(Some(first)),
                    Err(_) => break,
                },
                recv(self.stopped) -> _ => break,
                recv(self.poll) -> _ => self.follow(),
                default(self.pause()) => self.idle(),
            }
            self.shared.heartbeat.fetch_add(1, Relaxed);
        }
        while let Ok(first) = self.queue.try_recv() {
            self.take(Some(first));
        }
        self.commit(self.store.due(), Vec::new());
    }

    /// What [`Work::run`] does once, without a wait: for tests with a clock of their own.
    #[cfg(test)]
    pub fn turn(&mut self) {
        match self.queue.try_recv() {
            Ok(first) => self.take(Some(first)),
            Err(_) => self.idle(),
        }
    }

    /// How long nothing needs to be done.
    pub fn pause(&self) -> Duration {
        if self.sweep_again {
            Duration::ZERO
        } else {
            self.log
                .next_poll()
                .unwrap_or(COMMITTER_TICK)
                .min(COMMITTER_TICK)
        }
    }

    /// Collects and commits one group: the waiting operations, acks, and sometimes a sweep.
    fn take(&mut self, first: Option<Submission>) {
        self.log.await_turn();
        let now = self.now();
        let (mut submissions, mut inline) = (Vec::new(), 0);
        for one in first.into_iter().chain(self.queue.try_iter()) {
            if now.saturating_sub(one.submitted) > LONGEST_WAIT_MILLIS {
                (one.answer)(Outcome::Busy);
                continue;
            }
            inline += one.op.inline_bytes();
            submissions.push(one);
            if submissions.len() >= limits::GROUP_OPERATIONS || inline >= limits::GROUP_INLINE_BYTES
            {
                break;
            }
        }
        let mut riding = self.store.due();
        if self.sweep_again || self.since_sweep() >= SWEEP_INTERVAL {
            riding.push(Op::Sweep);
        }
        self.commit(riding, submissions);
    }

    /// Applies what other hubs have written.
    fn follow(&mut self) {
        let wanted = self.shared.polls.wanted.load(Relaxed);
        match self.log.follow() {
            Ok(committed) => {
                self.note_sweeps(&committed.others);
                self.events.wake(&wakes(&committed.others));
                *lock(&self.shared.polls.done) = wanted;
                self.shared.polls.changed.notify_all();
            }
            Err(fault) => drop(self.shared.fail(fault)),
        }
    }

    /// A sweep of any hub is one for all of them.
    fn note_sweeps(&mut self, outcomes: &[Outcome]) {
        if outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Swept { .. }))
        {
            self.swept = self.now();
        }
    }

    fn idle(&mut self) {
        self.look_at_disk();
        if self.log.next_poll().is_some_and(|in_| in_.is_zero()) {
            self.follow();
        }
        self.store.reopen();
        if self.store.sync_failed() || !self.store.is_in_place() {
            // no group depends on the sync of a body, so an empty one reports its failure
            let _ = self.apply(Vec::new());
        }
        let now = self.now();
        let waits_for = |acks, most| {
            let since = self.store.waits_since(acks);
            since.is_some_and(|since| now.saturating_sub(since) >= most)
        };
        let [acks, times] = self.log.flush_intervals();
        let flush = waits_for(true, acks) || waits_for(false, times);
        let sweep =
            self.sweep_again || (self.since_sweep() >= SWEEP_INTERVAL * 6 && self.wants_sweep(now));
        if self.since_sweep() >= SWEEP_INTERVAL * 6 {
            self.swept = self.now();
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
            ..
        } in submissions
        {
            ops.push(op);
            answers.push((answer, _permit));
        }
        let (began, wanted) = (clock::monotonic(), self.store.wanted_changes());
        let says_losses = self.store.has_found_losses();
        let outcomes = self.apply(ops);
        self.measure(first + answers.len(), began.elapsed());
        let committed = match outcomes {
            Ok(committed) => committed,
            Err(e) => {
                self.sweep_again = false;
                return answers
                    .into_iter()
                    .for_each(|(answer, _permit)| answer(Outcome::Failed(e.clone())));
            }
        };
        let outcomes = committed.outcomes;
        if let Some(more) = outcomes.iter().find_map(|o| {
            if let Outcome::Swept { more } = o {
                Some(*more)
            } else {
                None
            }
        }) {
            self.sweep_again = more;
            self.swept = self.now();
        }
        self.note_sweeps(&committed.others);
        // wake receivers before answering senders
        let mut wakes = wakes(outcomes.iter().chain(&committed.others));
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

    fn apply(&mut self, ops: Vec<Op>) -> Result<Committed> {
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
        let log = &mut self.log;
        let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| log.commit(group)));
        let fault = match applied {
            Ok(Ok(committed)) => return Ok(committed),
            Ok(Err(fault)) => fault,
            Err(_) => LogFault::Final(Error::new(
                Kind::Damaged,
                "cannot write the hub's tables: they are damaged, or mesync has a bug",
            )),
        };
        Err(self.shared.fail(fault))
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }

    fn since_sweep(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.swept))
    }

    fn wants_sweep(&self, now: u64) -> bool {
        let Some((limits, _)) = *lock(&self.shared.settings) else {
            return false;
        };
        self.store
            .wants_sweep(now, self.shared.full.load(Relaxed), limits.files)
            .unwrap_or(false)
    }

    pub(super) fn look_at_disk(&self) {
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

/// Whom the outcomes concern.
fn wakes<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> BTreeSet<Wake> {
    let mut wakes = BTreeSet::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Posted { wakes: woken, .. } => wakes.extend(woken.iter().cloned()),
            Outcome::Changed(changed) if changed.iter().any(Changed::is_change) => {
                wakes.insert(Wake::Files);
            }
            _ => {}
        }
    }
    wakes
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
    wanted.max(limits::LEAST_FREE_BYTES)
}
