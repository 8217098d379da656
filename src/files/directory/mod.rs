//! One open synced directory: its tree, its state, the engine over them, and the work of each of its threads.
//!
//! It starts no thread: a daemon and a single pass do, and call the same methods.

mod feed;
mod machine;
mod outcome;
mod pacing;
pub mod rules;
mod wake;
mod work;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use machine::EngineMachine;
use work::{ExtraWorkers, Processors, Workers};

use super::delete_guard::DeleteLimits;
use super::engine::traits::{ContentTransfer, Env, Fault, HubCalls};
use super::engine::{Direction, Engine, Neighbours, Options, QuietTimes};
use super::events::{Event, EventQueue};
use super::moved;
use super::overlap::{self, Mounts};
use super::power_loss;
use super::remote::Remote;
use super::remote::link::Link;
use super::remote::rows::RemoteNames;
use super::remote::s3em::S3em;
use super::remote::traffic::Traffic;
use super::repointed;
use super::state::{self, DiskState};
use super::stats::{Facts, Stats};
use super::tree::{self, DiskTree};
use super::wakeup::Wakeup;
use crate::client::HubClient;
use crate::clock;
use crate::config::limits;
use crate::config::watch::WatchSettings;
use crate::error::{Error, Result};
use crate::transfer::{RequestCount, RequestSlots};

/// Waiting paths are retried after this time, doubled up to the maximum while the retries change
/// nothing.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(60);
/// How often the guard is asked again, because the deletes that it counted expire.
const HELD_RECHECK_INTERVAL: Duration = Duration::from_secs(300);
/// The interval while files may have been moved to another directory.
const HELD_RECHECK_AFTER_MOVES: Duration = Duration::from_secs(1);
/// How long a single delete waits to see whether it is the first of many; several wait for the end of the
/// burst.
const QUIET_AFTER_ONE: Duration = Duration::from_millis(30);
const QUIET_AFTER_MORE: Duration = Duration::from_secs(1);
/// Deletes that were made on the hub arrive with one poll, or with two polls in a row.
const QUIET_AFTER_ONE_OF_HUB: Duration = Duration::from_millis(15);
const QUIET_AFTER_MORE_OF_HUB: Duration = Duration::from_millis(150);
/// Waiting paths that are named in the log at one time, at most; the status names more.
const NAMED_IN_LOG: usize = 10;
/// See the module documentation.
pub struct Directory {
    pub settings: WatchSettings,
    pub tree: Arc<DiskTree>,
    pub state: Arc<DiskState>,
    pub engine: Arc<Engine>,
    pub link: Arc<Link>,
    pub traffic: Arc<Traffic>,
    pub stats: Arc<Stats>,
    pub wakeup: Arc<Wakeup>,
    events: Arc<EventQueue>,
    /// The client of a mesync hub.
    remote: Option<Arc<Remote>>,
    /// The client of any other server: its changes are found by listing all files.
    legacy: Option<Arc<S3em>>,
    /// Work items that have changed something.
    worked: AtomicU64,
    /// A rescan is needed: the epoch changed, or the queue was full.
    rescan_wanted: AtomicBool,
    full_until: Mutex<Option<Instant>>,
    /// A file does not fit into the free space.
    too_large: AtomicBool,
    fatal: Mutex<Option<Error>>,
    again: Mutex<RetrySchedule>,
    /// For [`Direction::Up`] and [`Direction::Down`].
    workers: [Mutex<Workers>; 2],
    process: Arc<ProcessWide>,
}

/// When waiting paths are retried.
struct RetrySchedule {
    at: Instant,
    pause: Duration,
    worked: u64,
    guard: Instant,
    /// How many contents had arrived in other directories when held deletes were last weighed.
    arrivals: u64,
}

/// What the directories of one process share.
#[derive(Default)]
pub struct ProcessWide {
    neighbours: Arc<Neighbours>,
    extra_workers: ExtraWorkers,
    processors: Processors,
    /// Of uploads.
    requests: Arc<RequestCount>,
}

/// Where the state of a directory is stored, and its context.
pub struct DirectoryContext<'a> {
    pub base_dir: &'a Path,
    pub server: &'a str,
    /// Paths that are never synced, wherever they are.
    pub private: &'a [PathBuf],
    pub process: &'a Arc<ProcessWide>,
    /// What happens to the directory is sent there.
    pub events: &'a Arc<EventQueue>,
}

impl DirectoryContext<'_> {
    /// The file of the state; related files begin with the same name.
    pub fn state_file(&self, settings: &WatchSettings) -> PathBuf {
        state::file(self.base_dir, &settings.path, self.server, &settings.remote)
    }
}

/// The result of opening a directory.
pub enum OpenedDirectory {
    Ready(Box<Directory>),
    /// It is not the directory that it was, with the reason.
    Held(String),
}

/// Which state a dry run starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DryRunState {
    Known,
    /// The directory is to be adopted: the stored state does not count.
    Empty,
}

impl Directory {
    /// Opens a directory and its state. Errors: `Settings` if it does not exist, `Busy` if another process keeps it
    /// in sync, `Unreachable` while the kind of the server is unknown.
    pub fn open(
        context: &DirectoryContext<'_>,
        settings: &WatchSettings,
        hub: Arc<HubClient>,
        allow_deletes: bool,
    ) -> Result<OpenedDirectory> {
        let file = context.state_file(settings);
        if let Some(why) = repointed::check(context.base_dir, settings)? {
            return Ok(OpenedDirectory::Held(why));
        }
        moved::take_over(context.base_dir, &file, settings, &hub)?;
        let state = Arc::new(DiskState::open_or_renew(&file)?);
        let known = state.marker()?;
        check_overlap(settings, known.is_none())?;
        let opened = DiskTree::open(
            &settings.path,
            known,
            Uuid::new_v4(),
            &settings.ignore,
            context.private,
        )?;
        let tree: Arc<DiskTree> = match opened {
            tree::OpenedTree::Held(why) => return Ok(OpenedDirectory::Held(why)),
            tree::OpenedTree::Ready(tree) => Arc::from(tree),
        };
        tree.root().is_named(&settings.named);
        if let Some(why) = tree.root().repointed() {
            return Ok(OpenedDirectory::Held(why));
        }
        if let (None, Some(id)) = (known, tree.id()) {
            state.set_note("marker", &id.to_string())?;
        }
        let directory = Directory::assemble(context, settings, state, tree, hub, allow_deletes)?;
        directory.engine.join(
            &context.process.neighbours,
            &settings.path.to_string_lossy(),
        );
        Ok(OpenedDirectory::Ready(directory))
    }

    /// Opens a directory and a copy of its state for a dry run. It leaves no trace, and another process may sync
    /// the directory meanwhile.
    pub fn open_to_look(
        context: &DirectoryContext<'_>,
        settings: &WatchSettings,
        hub: Arc<HubClient>,
        start: DryRunState,
    ) -> Result<OpenedDirectory> {
        let state = match start {
            DryRunState::Known => DiskState::copy_of(&context.state_file(settings))?,
            DryRunState::Empty => DiskState::copy_of(Path::new(""))?,
        };
        let known = state.marker()?;
        check_overlap(settings, known.is_none() && start == DryRunState::Known)?;
        if let Some(why) =
            repointed::check(context.base_dir, settings)?.filter(|_| start == DryRunState::Known)
        {
            return Ok(OpenedDirectory::Held(why));
        }
        match DiskTree::open_to_look(&settings.path, known, &settings.ignore, context.private)? {
            tree::OpenedTree::Held(why) => Ok(OpenedDirectory::Held(why)),
            tree::OpenedTree::Ready(tree) => Directory::assemble(
                context,
                settings,
                Arc::new(state),
                Arc::from(tree),
                hub,
                false,
            )
            .map(OpenedDirectory::Ready),
        }
    }

    fn assemble(
        context: &DirectoryContext<'_>,
        settings: &WatchSettings,
        state: Arc<DiskState>,
        tree: Arc<DiskTree>,
        hub: Arc<HubClient>,
        allow_deletes: bool,
    ) -> Result<Box<Directory>> {
        let wakeup = Arc::new(Wakeup::new(context.events.clone()));
        let stats = Arc::<Stats>::default();
        let (link, traffic) = (
            Arc::new(Link::new(wakeup.clone())),
            Arc::new(Traffic::new(settings.bandwidth_limit)),
        );
        let names = RemoteNames::below(&settings.remote);
        let (remote, legacy, hub, transfer): (_, _, Arc<dyn HubCalls>, Arc<dyn ContentTransfer>) =
            if is_ours(&hub, &state)? {
                let remote = Arc::new(Remote::new(
                    hub,
                    names,
                    state.clone(),
                    tree.clone(),
                    link.clone(),
                    traffic.clone(),
                    RequestSlots::new(settings.concurrency, context.process.requests.clone()),
                ));
                (Some(remote.clone()), None, remote.clone(), remote)
            } else {
                let legacy = S3em::new(
                    hub,
                    names,
                    state.clone(),
                    tree.clone(),
                    link.clone(),
                    traffic.clone(),
                )?;
                let legacy = Arc::new(legacy);
                (None, Some(legacy.clone()), legacy.clone(), legacy)
            };
        rules::read(&tree, &state, &stats)?;
        tree.forget_twins(&state)?;
        power_loss::opened(&state, &tree, &clock::boot_id().unwrap_or_default())?;
        let ambient = Arc::new(EngineMachine(
            stats.clone(),
            settings.path.clone(),
            clock::monotonic(),
        ));
        let env = Env {
            hub,
            transfer,
            tree: tree.clone(),
            state: state.clone(),
            ambient,
        };
        let quiet = QuietTimes {
            after_one: QUIET_AFTER_ONE,
            after_more: QUIET_AFTER_MORE,
            after_one_of_hub: QUIET_AFTER_ONE_OF_HUB,
            after_more_of_hub: QUIET_AFTER_MORE_OF_HUB,
        };
        let limits = DeleteLimits::of(settings);
        let options = Options {
            limits,
            allow_deletes: allow_deletes || limits.are_off(),
            quiet,
            mode: settings.mode,
            times_alone_stay: legacy.is_some(),
        };
        let now = clock::monotonic();
        Ok(Box::new(Directory {
            engine: Arc::new(Engine::new(env, options)?),
            settings: settings.clone(),
            tree,
            state,
            link,
            traffic,
            stats,
            wakeup,
            events: context.events.clone(),
            remote,
            legacy,
            worked: AtomicU64::new(0),
            rescan_wanted: AtomicBool::new(false),
            full_until: Mutex::new(None),
            too_large: AtomicBool::new(false),
            fatal: Mutex::new(None),
            again: Mutex::new(RetrySchedule {
                at: now,
                pause: RETRY_PAUSE,
                worked: 0,
                guard: now + HELD_RECHECK_INTERVAL,
                arrivals: 0,
            }),
            workers: Default::default(),
            process: context.process.clone(),
        }))
    }

    /// How many work items have changed something.
    pub fn worked(&self) -> u64 {
        self.worked.load(Relaxed)
    }

    /// Whether a rescan is needed, and the queue has room for its results.
    pub fn wants_rescan(&self) -> bool {
        if self.engine.take_overflow() {
            self.rescan_wanted.store(true, Relaxed);
        }
        self.rescan_wanted.load(Relaxed) && self.engine.active() < limits::OFFERED_PATHS
    }

    /// Like `wants_rescan`, and clears the request.
    pub fn take_rescan_wanted(&self) -> bool {
        self.wants_rescan() && self.rescan_wanted.swap(false, Relaxed)
    }

    /// Requests another rescan because one failed or could not be requested.
    pub fn rescan_later(&self) {
        self.rescan_wanted.store(true, Relaxed);
        self.events.send(Event::Rescan);
    }

    /// Records the failure of a rescan.
    pub fn rescan_failed(&self, fault: Fault) {
        if let Fault::Fatal(e) = fault {
            return self.fail(e);
        }
        let e = Error::from(fault);
        log::debug!("cannot rescan {}: {e}", self.settings.path.display());
        self.stats.rescan_failed(e);
        self.rescan_later();
    }

    /// Whether workers wait for the hub, or for free space.
    pub fn is_paused(&self) -> bool {
        !self.link.pause().is_zero() || !self.disk_pause(Direction::Down).is_zero()
    }

    fn disk_pause(&self, way: Direction) -> Duration {
        let until = lock(&self.full_until).filter(|_| way == Direction::Down);
        until.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(clock::monotonic())
        })
    }

    /// Whether a download, or all of them, wait for free space.
    pub fn is_full(&self) -> bool {
        self.too_large.load(Relaxed) || !self.disk_pause(Direction::Down).is_zero()
    }

    /// Ends the pause of downloads.
    pub fn try_again(&self) {
        *lock(&self.full_until) = None;
        self.too_large.store(false, Relaxed);
        self.wake_now();
    }

    /// Ends all work on the directory, which must be examined before it is reopened.
    pub fn fail(&self, e: Error) {
        lock(&self.fatal).get_or_insert(e);
        self.wakeup.stop();
    }

    pub fn fatal(&self) -> Option<Error> {
        lock(&self.fatal).clone()
    }

    /// Makes all waiting paths pending now.
    pub fn wake_now(&self) {
        lock(&self.again).pause = RETRY_PAUSE;
        self.engine.wake(false);
        self.wakeup.wake();
    }

    /// Whether tree, state and hub agree as far as is known: for the status, the hooks, and a single pass.
    pub fn is_in_sync(&self, facts: &Facts) -> bool {
        self.engine.due() == 0
            && self.engine.is_drained()
            && self.link.trouble().is_none()
            && !self.wants_rescan()
            && facts.looked
            && facts.rules.is_none()
            && facts.rescan.is_none()
            && facts.refused() == 0
            && facts.skipped.unknown.count == 0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.fatal().is_none()
            && let Err(fault) = power_loss::closed(&self.state)
        {
            // handled like a crash
            log::debug!("{}", Error::from(fault));
        }
    }
}

/// Whether the server is a mesync hub. If it was one before, it is not asked: so an unreachable hub does not keep the
/// directory from being watched.
fn is_ours(hub: &HubClient, state: &DiskState) -> Result<bool> {
    const NOTE: (&str, &str) = ("server", "mesync");
    if state.note(NOTE.0)?.as_deref() == Some(NOTE.1) {
        return Ok(true);
    }
    let ours = hub.is_ours()?;
    if ours {
        state.set_note(NOTE.0, NOTE.1)?;
    }
    Ok(ours)
}

/// Refuses a directory within another synced one, and a new one that contains a synced one.
fn check_overlap(settings: &WatchSettings, is_new: bool) -> Result<()> {
    let dir = settings
        .path
        .canonicalize()
        .unwrap_or_else(|_| settings.path.clone());
    Mounts::read().check_above(&dir)?;
    if is_new {
        overlap::check_below(&dir)
    } else {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
