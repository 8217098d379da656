//! Brings paths into sync one by one, over the traits of [`traits`]; any number of threads may do so at once.
//!
//! It starts no thread and waits for nothing but its environment. No lock is held over a transfer or a change of the tree: only
//! one poll at a time, and the count of a delete, which is committed before the next one is weighed.
//!
//! * `queue`: which paths are due, and which is next; `gather`: when a burst of deletes has ended
//! * `remote_changes`: what the hub reports; `path`: one path from examination to result
//! * `send`: changes that go to the hub; `apply`: changes of the tree; `traits`: what both are carried out on
//! * `type_conflict`: a file against a directory of its name; `directories`: modes, and what makes a directory be
//! * `neighbours`: moves between two directories; `respell`: names that the disk takes for one; `pages`: rows of the state
//!
//! Everything that must survive is in the state before it is relied on; what is in memory here is found again by a rescan. So
//! an engine may be dropped at any moment, and a new one over the same environment goes on.

pub mod pages;
pub mod rows;
pub mod traits;

mod apply;
mod deletes;
mod directories;
mod gather;
mod neighbours;
mod path;
mod queue;
mod recover;
mod remote_changes;
mod respell;
mod send;
mod type_conflict;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crate::error::Error;

use super::delete_guard::{self, Limits, Standing};
use super::plan::{self, Action, BaseRow, DIR_MODE, DIR_READABLE, Entry, Local, Plan, RemoteRow};
use crate::clock;
use crate::config::watch::Mode;
use crate::wire::files::Hash;
use crate::wire::revision::Revision;
use queue::{Task, WorkEnd, WorkQueue};
use traits::{Called, Env, Fault, Feed, Look, Rows, Token, Write};

pub use gather::Quiet;
pub use neighbours::Neighbours;
pub use queue::Direction;
pub use remote_changes::Polled;

const LOCAL_CHANGED: &str = "the file here changed meanwhile";
const PLAN_CHANGED: &str = "the plan no longer fits the file";
const NO_FREE_NAME: &str = "no free name for a conflict copy";
/// See [`queue::WorkQueue::ended`].
const PARKED: &str = "the hub repeatedly confirms the change but does not have it";

/// See the module.
pub struct Engine {
    env: Env,
    options: Options,
    queue: Mutex<WorkQueue>,
    /// [`Feed::generation`], 0 before the first poll ever, that what is written belongs to; written to only while nobody commits.
    generation: RwLock<u64>,
    /// The latest revision that was heard of, of the history that all rows are of.
    newest: Mutex<Revision>,
    /// One poll at a time.
    polling: Mutex<()>,
    /// The deletes that have come lately.
    burst: Mutex<gather::Burst>,
    /// One delete at a time is weighed and counted.
    weighing: Mutex<()>,
    /// The feed has said that this is all.
    drained: Mutex<bool>,
    /// Deletes wait until a look at many names is over: only then is it known how many there are.
    looking: AtomicUsize,
    /// Engines of other directories of this process.
    neighbours: OnceLock<neighbours::Place>,
    /// Steps of new contents, here or to the hub.
    arrivals: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub limits: Limits,
    /// The guard lets everything through.
    pub allow_deletes: bool,
    /// When a burst of deletes has ended.
    pub quiet: Quiet,
    /// Which way changes go.
    pub mode: Mode,
    /// A time alone is no change: the server would get the bytes again.
    pub times_alone_stay: bool,
}

/// What was done about a path, for the log and the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub path: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was looked at, and waits for its turn.
    Looked,
    /// Work on it has gone one step further.
    Progress,
    /// Nothing is left to do about it.
    Settled,
    /// Something else comes first; it is done after [`Engine::wake`]. Why.
    Waits(String),
    /// By the guard.
    Held,
    /// The environment could not do it now; due again after [`Engine::wake`].
    Later(Error),
    NoSpace(Error),
    /// Due again after [`Engine::wake`].
    TooLarge(Error),
    /// Not before the file or the hub's row changes.
    Refused(Error),
    /// Stop.
    Fatal(Error),
}

/// What would be done about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preview {
    pub plan: Plan,
    /// It is a delete that the guard counts.
    pub counted: bool,
    /// What travels, or goes.
    pub entry: Option<plan::Entry>,
}

/// A piece of work that was taken.
#[derive(Debug)]
pub struct WorkItem {
    path: String,
    task: Task,
}

/// See [`Engine::look_around`].
pub struct Rescanning<'a>(&'a Engine);

impl Drop for Rescanning<'_> {
    fn drop(&mut self) {
        self.0.looking.fetch_sub(1, SeqCst);
    }
}

/// Why work on a path ends before it is in sync.
#[derive(Debug)]
enum Interrupted {
    Fault(Fault),
    /// Something is not as it was planned on: plan again, at the next wake-up. Why.
    Again(&'static str),
    /// Another path goes first.
    WaitFor(String),
    Held,
    /// It cannot be told what is here: leave it alone.
    Unknown(Error),
}

impl From<Fault> for Interrupted {
    fn from(fault: Fault) -> Interrupted {
        Interrupted::Fault(fault)
    }
}

/// Done so far: `true` if something was done, `false` if there was nothing to do.
type PathResult = Result<bool, Interrupted>;

/// A delete as the guard sees it.
enum DeleteEffect {
    /// Of nothing that is counted: of a directory, or of what stands here under its new name.
    Free,
    /// Of a file or link with these bytes.
    Counts(Hash),
    /// The same, but the hub says that it goes on under another name, where it is not yet.
    Renamed(Hash, String),
}

/// All that is known of one path at one moment.
struct PathState {
    generation: u64,
    rows: Rows,
    /// What stands under the name.
    node: Option<Local>,
    /// The same, but a directory that is not in the base counts only while it is empty.
    local: Option<Local>,
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
    /// Takes up what an earlier one has left: intents and open keys become due at the next rescan.
    pub fn new(env: Env, options: Options) -> Called<Engine> {
        let Feed { generation, .. } = env.state.feed()?;
        let newest = Mutex::new(env.state.points()?.last().copied().unwrap_or_default());
        Ok(Engine {
            env,
            options,
            queue: Mutex::default(),
            generation: RwLock::new(generation),
            newest,
            polling: Mutex::new(()),
            burst: Mutex::default(),
            weighing: Mutex::new(()),
            drained: Mutex::new(false),
            looking: AtomicUsize::new(0),
            neighbours: OnceLock::new(),
            arrivals: AtomicU64::new(0),
        })
    }

    /// Says that a path may be out of sync. `false`: no room now; a later rescan finds it.
    pub fn offer(&self, path: &str) -> bool {
        self.queue().offer(path)
    }

    /// Removes temporary names that a crash has left, and the directories that were made for them; but those that an intent
    /// is about stay, and where one of them was moved with its directory, the intent follows. For names that a scan has found
    /// before any work began: later ones may be in use.
    pub fn clear(&self, temps: &[String]) -> Called<()> {
        match self.clear_all(temps) {
            Err(Interrupted::Fault(fault)) => Err(fault),
            _ => Ok(()),
        }
    }

    /// Until what it returns is dropped, no delete goes on: for who offers much.
    pub fn look_around(&self) -> Rescanning<'_> {
        self.looking.fetch_add(1, SeqCst);
        Rescanning(self)
    }

    /// The next piece of work that goes `way`, or any, which must be carried out; `None`: there is none now. There is none
    /// before the first poll either: what the hub is comes before what it has.
    pub fn take(&self, way: Option<Direction>) -> Option<WorkItem> {
        if self.generation() == 0 {
            return None;
        }
        let may_delete = self.may_delete();
        let (path, task) = self.queue().next(may_delete, way)?;
        Some(WorkItem { path, task })
    }

    pub fn carry_out(&self, WorkItem { path, task }: WorkItem) -> Report {
        let done = match task {
            Task::Examine => self.examine(&path),
            Task::CarryOut => self.turn(&path).map(|progress| {
                if progress {
                    WorkEnd::Progress
                } else {
                    WorkEnd::Settled
                }
            }),
        };
        let (end, outcome) = outcome(done);
        if matches!(&end, WorkEnd::Examined(found) if found.counted.is_some())
            && !self.queue().is_counted(&path)
        {
            // before it may be taken
            self.burst_grows();
        }
        if end == WorkEnd::Progress && self.queue().is_fresh(&path) {
            self.arrivals.fetch_add(1, SeqCst);
        }
        let parked = self.queue().ended(&path, end);
        Report {
            path,
            outcome: if parked {
                Outcome::Waits(PARKED.into())
            } else {
                outcome
            },
        }
    }

    /// Whether there may be something to do that way.
    pub fn has_work(&self, way: Direction) -> bool {
        let may_delete = self.may_delete();
        self.generation() != 0 && self.queue().has_work(may_delete, way)
    }

    /// Nothing is being done, and nothing can be before something happens.
    pub fn is_quiet(&self) -> bool {
        let (drained, queue) = (self.is_drained(), self.queue());
        queue.is_idle()
            && !queue.has_work(drained, Direction::Up)
            && !queue.has_work(drained, Direction::Down)
    }

    /// What waits is due again: after a poll, from time to time (transient failures), and when there is room on the disk again.
    /// `held`: also what the guard holds, since time has passed.
    pub fn wake(&self, held: bool) {
        self.queue().wake(held);
    }

    /// Deletes that the guard counts as due. Held are all of them or none.
    pub fn deletes(&self) -> Vec<Token> {
        self.queue().deletes().collect()
    }

    /// How many paths the guard holds.
    pub fn held(&self) -> usize {
        self.queue().held()
    }

    /// Approves exactly these deletes, in place of all that was approved before.
    pub fn approve(&self, listed: Vec<Token>) -> Called<()> {
        self.env.state.commit(&[Write::Approve(listed)])?;
        self.wake(true);
        Ok(())
    }

    /// The feed has said that this is all, and no look around is under way.
    pub fn is_drained(&self) -> bool {
        *lock(&self.drained) && self.looking.load(SeqCst) == 0
    }

    /// Paths that are due, waiting and held ones included.
    pub fn due(&self) -> usize {
        self.queue().count()
    }

    /// Paths that somebody could work on now or after a wake-up: those are left out that the guard holds, and deletes that
    /// wait for a look around to end.
    pub fn active(&self) -> usize {
        self.queue().active()
    }

    /// What would be done about a path; `None`: nothing is known to be out of sync there. Changes nothing.
    pub fn preview(&self, path: &str) -> Called<Option<Preview>> {
        if self.env.tree.ignored(path) {
            return Ok(None);
        }
        let known = match self.know(path) {
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
                self.going(path, &known),
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
    pub fn would_hold(&self, pending: u64) -> Called<bool> {
        Ok(!self.options.allow_deletes
            && !delete_guard::passes(
                self.options.limits,
                Standing {
                    pending,
                    ..self.standing()?
                },
            ))
    }

    /// What the guard knows, but for what is pending.
    fn standing(&self) -> Called<Standing> {
        // what was counted and is under way is not to be counted as a file as well
        let passing = self.queue().passing() as u64;
        let files = self.env.state.files()?.saturating_sub(passing);
        Ok(Standing {
            files,
            counted: delete_guard::counted(&self.env.state.deletes()?, self.minute()),
            pending: 0,
        })
    }

    /// Since 1970.
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

    /// Whether paths were turned away since the last call: rescan once there is room.
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

    /// Reads all about a path.
    fn know(&self, path: &str) -> Result<PathState, Interrupted> {
        let generation = self.generation();
        let rows = self.env.state.rows(path)?;
        let node = self.look(path, &rows.base)?;
        let mut local = self.counts(path, &rows.base, node)?;
        if let (true, Some(local), Some(base)) =
            (self.options.times_alone_stay, &mut local, rows.base.entry)
            && local.entry.same_body(&base)
        {
            local.entry.mtime = rows.base.seen.map_or(base.mtime, |seen| seen.mtime);
        }
        Ok(PathState {
            generation,
            rows,
            node,
            local,
        })
    }

    fn look(&self, path: &str, base: &BaseRow) -> Result<Option<Local>, Interrupted> {
        match self
            .env
            .tree
            .look(path, base.seen.as_ref().zip(base.entry.as_ref()))?
        {
            Look::Absent => Ok(None),
            Look::Here(mut local) => {
                if local.entry.is_dir() && local.entry.mode & DIR_READABLE != DIR_READABLE {
                    let was = base.entry.filter(Entry::is_dir);
                    local.entry.mode =
                        was.map_or(DIR_MODE, |was| base.seen.map_or(was.mode, |seen| seen.mode));
                }
                Ok(Some(local))
            }
            Look::Unknown(why) => Err(Interrupted::Unknown(why)),
        }
    }

    /// Writes what belongs to what was known at `generation`; nothing, if all was forgotten since.
    fn commit(&self, generation: u64, writes: &[Write]) -> Result<(), Interrupted> {
        let now = self
            .generation
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if *now != generation {
            return Err(Interrupted::Again(
                "the hub was set back; all files are being compared",
            ));
        }
        // a commit that fails may have happened
        self.heard(writes);
        Ok(self.env.state.commit(writes)?)
    }

    /// Takes note of the points among what is written.
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

fn outcome(done: Result<WorkEnd, Interrupted>) -> (WorkEnd, Outcome) {
    match done {
        Ok(WorkEnd::Settled) => (WorkEnd::Settled, Outcome::Settled),
        Ok(end @ WorkEnd::Examined(_)) => (end, Outcome::Looked),
        Ok(end) => (end, Outcome::Progress),
        Err(Interrupted::Again(why)) => (WorkEnd::Wait(None), Outcome::Waits(why.into())),
        Err(Interrupted::WaitFor(other)) => {
            let why = format!("{other:?} is synced first");
            (WorkEnd::Wait(Some(other)), Outcome::Waits(why))
        }
        Err(Interrupted::Held) => (WorkEnd::Held, Outcome::Held),
        Err(Interrupted::Unknown(e)) => (WorkEnd::Dropped, Outcome::Refused(e)),
        Err(Interrupted::Fault(Fault::Later(e))) => (WorkEnd::Wait(None), Outcome::Later(e)),
        Err(Interrupted::Fault(Fault::NoSpace(e))) => (WorkEnd::Wait(None), Outcome::NoSpace(e)),
        Err(Interrupted::Fault(Fault::TooLarge(e))) => (WorkEnd::Wait(None), Outcome::TooLarge(e)),
        Err(Interrupted::Fault(Fault::Refused(e))) => (WorkEnd::Dropped, Outcome::Refused(e)),
        Err(Interrupted::Fault(Fault::Fatal(e))) => (WorkEnd::Wait(None), Outcome::Fatal(e)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether something other than a directory is there.
fn is_file(entry: Option<&plan::Entry>) -> bool {
    entry.is_some_and(|e| !e.is_dir())
}

/// Whether a plan ends with nothing under the name.
fn takes_away(action: Action) -> bool {
    matches!(action, Action::Delete | Action::Trash | Action::Forget)
}

#[cfg(test)]
mod sim;
