//! Brings paths into sync one by one, over the traits of [`traits`]; any number of threads may do so at once.
//!
//! It starts no thread, and waits only for its environment. No lock is held during a transfer or a change of the tree, with two
//! exceptions: only one poll runs at a time, and a delete is counted and committed before the next one is weighed.
//!
//! * `queue`: which paths are due, and which is next; `gather`: when a burst of deletes has ended
//! * `remote_changes`: what the hub reports; `path`: one path from examination to result
//! * `report`: how work on a path ended
//! * `send`: changes that go to the hub; `apply`: changes of the tree; `traits`: what both are carried out on
//! * `recover`: what became of a change of the tree; `temporary_names`: staged files, and what a crash left of them
//! * `type_conflict`: a file against a directory of its name; `directories`: modes, and what makes a directory be
//! * `renames`: files that a user has renamed; `directory_moves`: a directory that was renamed on the hub, as a whole
//! * `neighbours`: moves between two directories; `respell`: names that the disk takes for one; `pages`: rows of the state
//!
//! Everything that must survive is in the state before it is relied on; a rescan rebuilds the rest. So an
//! engine may be dropped at any moment, and a new one over the same environment continues.

pub mod pages;
pub mod rows;
pub mod traits;

mod apply;
mod base_rows;
mod deletes;
mod directories;
mod directory_moves;
mod gather;
mod group;
mod neighbours;
mod path;
mod queue;
mod recover;
mod remote_changes;
mod renames;
mod report;
mod respell;
mod send;
mod step;
mod temporary_names;
mod type_conflict;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::delete_guard::{self, DeleteLimits, GuardInput};
use super::plan::{
    self, Action, BaseRow, DIR_MODE, DIR_READABLE, Entry, LocalEntry, Plan, RemoteRow,
};
use crate::clock;
use crate::config::watch::SyncMode;
use crate::wire::revision::Revision;
use deletes::DeleteEffect;
use queue::{Precedence, WorkQueue};
use renames::OldNames;
use report::{Interrupted, PathResult};
use traits::{CallResult, DeleteToken, Env, Feed, Presence, Rows, State, Write};

pub use gather::QuietTimes;
pub use neighbours::Neighbours;
pub use queue::{Direction, GroupSize};
pub use remote_changes::PollResult;
pub use report::{WorkOutcome, WorkReport};

const LOCAL_CHANGED: &str = "the file here changed meanwhile";
const PLAN_CHANGED: &str = "the plan no longer fits the file";
const SET_BACK: &str = "the hub was set back; all files are being compared";
const NO_FREE_NAME: &str = "no free name for a conflict copy";
/// See [`queue::WorkQueue::ended`].
const PARKED: &str = "the hub repeatedly confirms the change but does not have it";

/// See the module.
pub struct Engine {
    env: Env,
    options: Options,
    queue: Mutex<WorkQueue>,
    /// The [`Feed::generation`] of the rows that are written, 0 before the first poll. The write lock keeps all threads from
    /// committing.
    generation: RwLock<u64>,
    /// The newest revision of the current history that this client knows.
    newest: Mutex<Revision>,
    own: Mutex<remote_changes::OwnChanges>,
    /// Only one poll runs at a time.
    polling: Mutex<()>,
    /// The recent deletes.
    burst: Mutex<gather::Burst>,
    /// Directories that may be moved as a whole.
    expected_moves: Mutex<directory_moves::ExpectedMoves>,
    missing: Mutex<temporary_names::MissingNames>,
    /// Only one delete at a time is weighed and counted.
    weighing: Mutex<()>,
    /// The feed has reported that there are no more changes.
    drained: Mutex<bool>,
    /// Rescans that run now. Deletes wait for them: only a finished rescan knows how many deletes
    /// there are.
    rescans: AtomicUsize,
    /// Engines of other directories of this process.
    neighbours: OnceLock<neighbours::NeighbourPlace>,
    /// New contents synced so far, to the tree or to the hub.
    arrivals: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub limits: DeleteLimits,
    /// The guard lets every delete through.
    pub allow_deletes: bool,
    /// When a burst of deletes has ended.
    pub quiet: QuietTimes,
    /// In which directions changes are synced.
    pub mode: SyncMode,
    /// Ignore changes of the time alone: the server would receive all bytes again.
    pub times_alone_stay: bool,
}

/// The planned action for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preview {
    pub plan: Plan,
    /// It is a delete that the guard counts.
    pub counted: bool,
    /// The entry that is transferred or removed.
    pub entry: Option<plan::Entry>,
}

/// See [`Engine::begin_rescan`].
pub struct Rescanning<'a>(&'a Engine);

impl Drop for Rescanning<'_> {
    fn drop(&mut self) {
        self.0.rescans.fetch_sub(1, SeqCst);
    }
}

/// Everything known about one path at one moment.
struct PathState {
    generation: u64,
    rows: Rows,
    /// The local entry.
    node: Option<LocalEntry>,
    /// The local entry, except that a directory outside the base counts only while it is empty.
    local: Option<LocalEntry>,
}

impl PathState {
    fn base(&self) -> &BaseRow {
        &self.rows.base
    }

    fn remote(&self) -> &RemoteRow {
        &self.rows.remote
    }

    fn plan(&self) -> Plan {
        plan::plan(&self.rows.base, self.local.as_ref(), &self.rows.remote)
    }
}

impl Engine {
    /// Creates an engine. Intents and open keys of an earlier engine become pending at the next
    /// rescan.
    pub fn new(env: Env, options: Options) -> CallResult<Engine> {
        let Feed { generation, .. } = env.state.feed()?;
        let newest = Mutex::new(env.state.points()?.last().copied().unwrap_or_default());
        Ok(Engine {
            env,
            options,
            queue: Mutex::default(),
            generation: RwLock::new(generation),
            newest,
            own: Mutex::default(),
            polling: Mutex::new(()),
            burst: Mutex::default(),
            expected_moves: Mutex::default(),
            missing: Mutex::default(),
            weighing: Mutex::new(()),
            drained: Mutex::new(false),
            rescans: AtomicUsize::new(0),
            neighbours: OnceLock::new(),
            arrivals: AtomicU64::new(0),
        })
    }

    /// Marks a path as possibly out of sync. `false`: the queue is full; a later rescan finds the
    /// path.
    pub fn offer(&self, path: &str) -> bool {
        self.queue().offer(path)
    }

    /// Holds all deletes back until the returned value is dropped; a rescan holds it while it
    /// offers paths.
    pub fn begin_rescan(&self) -> Rescanning<'_> {
        self.rescans.fetch_add(1, SeqCst);
        Rescanning(self)
    }

    /// Whether there may be work in this direction, for so many paths.
    pub fn has_work(&self, way: Direction, least: usize) -> bool {
        let last = self.last_precedence();
        self.generation() != 0
            && (way == Direction::Down && self.has_move()
                || self.queue().has_work(last, way, least))
    }

    /// Whether no work is running and none can start before an event.
    pub fn is_quiet(&self) -> bool {
        let last = if self.is_drained() {
            Precedence::Delete
        } else {
            Precedence::Moved
        };
        let queue = self.queue();
        queue.is_idle()
            && !queue.has_work(last, Direction::Up, 1)
            && !queue.has_work(last, Direction::Down, 1)
    }

    /// Makes waiting paths pending again: after a poll, at intervals (transient failures), and when the disk has room again.
    /// `held`: also the deletes that the guard holds, because its window has moved.
    pub fn wake(&self, held: bool) {
        self.queue().wake(held);
    }

    /// Pending deletes that the guard counts. Either all of them are held or none.
    pub fn deletes(&self) -> Vec<DeleteToken> {
        self.queue().deletes().collect()
    }

    /// How many paths the guard holds.
    pub fn held(&self) -> usize {
        self.queue().held()
    }

    /// Approves exactly these deletes, in place of all that was approved before.
    pub fn approve(&self, listed: Vec<DeleteToken>) -> CallResult<()> {
        self.env.state.commit(&[Write::Approve(listed)])?;
        self.wake(true);
        Ok(())
    }

    /// Whether the feed has reported all changes and no rescan is running.
    pub fn is_drained(&self) -> bool {
        *lock(&self.drained) && !self.is_rescanning()
    }

    pub fn is_rescanning(&self) -> bool {
        self.rescans.load(SeqCst) > 0
    }

    /// Pending paths, including waiting and held ones.
    pub fn due(&self) -> usize {
        self.queue().count()
    }

    /// Pending paths that can be worked on now or after a wake-up: without those that the guard holds, and without deletes
    /// that wait for a rescan to end.
    pub fn active(&self) -> usize {
        self.queue().active()
    }

    /// Returns the action planned for a path; `None`: nothing is known to be out of sync. Changes nothing.
    pub fn preview(&self, path: &str) -> CallResult<Option<Preview>> {
        if self.env.tree.ignored(path) {
            return Ok(None);
        }
        let known = match self.know(path, &mut OldNames::default()) {
            Ok(known) => known,
            Err(Interrupted::Fault(fault)) => return Err(fault),
            Err(_) => return Ok(None),
        };
        if known.base().lost {
            return Ok(None);
        }
        let plan = self.plan(&known);
        let counted = takes_away(plan.action)
            && plan.action != Action::Forget
            && matches!(
                self.delete_effect(path, &known),
                Ok(DeleteEffect::Counts(_)) | Err(_)
            );
        let entry = if takes_away(plan.action) {
            known.base().entry
        } else {
            known.local.map(|l| l.entry).or(known.remote().entry)
        };
        let theirs = if plan.action == Action::Download {
            known.remote().entry
        } else {
            entry
        };
        Ok((plan.action != Action::Nothing).then_some(Preview {
            plan,
            counted,
            entry: theirs,
        }))
    }

    /// Whether the guard would hold so many deletes.
    pub fn would_hold(&self, pending: u64) -> CallResult<bool> {
        Ok(!self.options.allow_deletes
            && pending > delete_guard::most_pending(self.options.limits, self.standing()?))
    }

    /// What the guard knows.
    fn standing(&self) -> CallResult<GuardInput> {
        // a delete that was counted and is running must not count as a file as well
        let passing = self.queue().passing() as u64;
        let files = self.env.state.files()?.saturating_sub(passing);
        Ok(GuardInput {
            files,
            counted: delete_guard::counted(&self.env.state.deletes()?, self.minute()),
        })
    }

    /// Minutes since 1970.
    fn minute(&self) -> u64 {
        clock::millis(self.env.ambient.now()) / 60_000
    }

    fn plan(&self, known: &PathState) -> Plan {
        let (base, remote) = (known.base(), known.remote());
        plan::one_way(
            known.plan(),
            self.options.mode,
            base,
            known.local.as_ref(),
            remote,
        )
    }

    /// Whether paths were rejected since the last call; if so, rescan as soon as the queue has
    /// room.
    pub fn take_overflow(&self) -> bool {
        self.queue().take_overflow()
    }

    fn generation(&self) -> u64 {
        *self
            .generation
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, WorkQueue> {
        lock(&self.queue)
    }

    /// Reads everything that is known about a path.
    fn know(&self, path: &str, old_names: &mut OldNames) -> Result<PathState, Interrupted> {
        let generation = self.generation();
        let rows = self.env.state.rows(path)?;
        self.examine_rows(path, generation, rows, old_names)
    }

    fn examine_rows(
        &self,
        path: &str,
        generation: u64,
        rows: Rows,
        old_names: &mut OldNames,
    ) -> Result<PathState, Interrupted> {
        let node = self.examine_entry(path, &rows.base)?;
        let mut local = self.explicit_entry(path, &rows.base, node)?;
        if let (true, Some(local), Some(base)) =
            (self.options.times_alone_stay, &mut local, rows.base.entry)
            && local.entry.same_body(&base)
        {
            local.entry.mtime = rows.base.seen.map_or(base.mtime, |seen| seen.mtime);
        }
        let mut known = PathState {
            generation,
            rows,
            node,
            local,
        };
        if self.is_another_file(&known, old_names)? || self.is_renamed_to(path, &known)? {
            known.rows.base = BaseRow::default();
        }
        Ok(known)
    }

    fn examine_entry(&self, path: &str, base: &BaseRow) -> Result<Option<LocalEntry>, Interrupted> {
        match self
            .env
            .tree
            .examine(path, base.seen.as_ref().zip(base.entry.as_ref()))?
        {
            Presence::Absent => Ok(None),
            Presence::Here(mut local) => {
                if local.entry.is_dir() && local.entry.mode & DIR_READABLE != DIR_READABLE {
                    let was = base.entry.filter(Entry::is_dir);
                    local.entry.mode =
                        was.map_or(DIR_MODE, |was| base.seen.map_or(was.mode, |seen| seen.mode));
                }
                Ok(Some(local))
            }
            Presence::Unknown(why) => Err(Interrupted::Unknown(why)),
        }
    }

    /// Commits writes that are based on `generation`; writes nothing if all rows were forgotten
    /// since.
    fn commit(&self, generation: u64, writes: &[Write]) -> Result<(), Interrupted> {
        self.commit_by(generation, writes, |state| state.commit(writes))
    }

    /// As [`Engine::commit`], by [`traits::State::commit_soon`].
    fn commit_soon(&self, generation: u64, writes: &[Write]) -> Result<(), Interrupted> {
        self.commit_by(generation, writes, |state| state.commit_soon(writes))
    }

    fn commit_by(
        &self,
        generation: u64,
        writes: &[Write],
        write: impl FnOnce(&dyn State) -> CallResult<()>,
    ) -> Result<(), Interrupted> {
        let now = self
            .generation
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if *now != generation {
            return Err(Interrupted::Again(SET_BACK));
        }
        // a commit that fails may have taken effect
        self.heard(writes);
        Ok(self.written(write(self.env.state.as_ref()))?)
    }

    /// After a failed commit, a rescan finds the rows whose writes were lost with it.
    fn written(&self, done: CallResult<()>) -> CallResult<()> {
        if done.is_err() {
            self.queue().overflowed();
        }
        done
    }

    /// Records the newest revision among the writes.
    fn heard(&self, writes: &[Write]) {
        let points = writes.iter().flat_map(|write| {
            if let Write::Points(points) = write {
                points.as_slice()
            } else {
                &[]
            }
        });
        let mut newest = lock(&self.newest);
        *newest = points.copied().fold(*newest, Revision::max);
    }

    fn newest(&self) -> Revision {
        *lock(&self.newest)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether something other than a directory is there.
fn is_file(entry: Option<&plan::Entry>) -> bool {
    entry.is_some_and(|e| !e.is_dir())
}

/// Whether an action leaves nothing under the name.
fn takes_away(action: Action) -> bool {
    matches!(action, Action::Delete | Action::Trash | Action::Forget)
}

#[cfg(test)]
mod sim;
