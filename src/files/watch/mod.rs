//! Thread `inotify`: watches a tree, and sends what it reads to the thread `debounce`
//! ([`debouncer`]).
//!
//! It decides nothing and waits for nothing but events: what finds no room in the channel becomes a
//! rescan, and a change that it misses is found by the next one. The thread is started elsewhere.

pub mod debouncer;
mod directories;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use inotify::{EventMask, Inotify, WatchDescriptor};
use rustix::event::PollFlags;

use super::debounce::{ChangeKind, Hint};
use super::ignore;
use super::overlap::Mounting;
use super::tree::DiskTree;
use crate::clock;
use crate::error::{Error, Result};
use crate::relpath;
use crate::wait::{self, readable};
use debouncer::{WatchEvent, WatchEvents};
use directories::reason;

/// How often unwatched directories are rescanned, and watching them is tried again.
const UNWATCHED_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Events that follow others are read together after this time: a read and a wake-up of `debounce` for each would cost more
/// than all else that is done for it.
const GATHERING_PAUSE: Duration = Duration::from_millis(1);
/// After this time a rescan that found no room in the channel is sent again.
const FULL_CHANNEL_PAUSE: Duration = Duration::from_millis(200);

/// The watcher of one directory.
pub struct Watch<'a> {
    pub tree: &'a DiskTree,
    /// The interval between two full rescans.
    pub rescan: Duration,
    pub counters: &'a WatchCounters,
    /// Called for each name that is removed.
    pub removed: &'a (dyn Fn() + Sync),
    /// Whether to end, asked when something can be read from `wake`.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
}

/// For the status.
#[derive(Debug, Default)]
pub struct WatchCounters {
    /// Directories that are watched.
    pub watched: AtomicU64,
    /// Directories that are not watched, nor anything below them.
    pub unwatched: AtomicU64,
    /// Why they are not watched, and the remedy.
    why: Mutex<String>,
}

impl WatchCounters {
    pub fn why(&self) -> String {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum ActiveWatchEnd {
    Stopped,
    /// All watches must be created again: events since then are lost. With the reason.
    Lost(Option<String>),
}

impl Watch<'_> {
    /// Runs until it is stopped, or the receiver is gone. `wake`: an eventfd; without an order to
    /// stop, it means that the ignore rules have changed. Errors: only if waiting fails; a tree that
    /// cannot be watched is rescanned every minute.
    pub fn run(&self, wake: BorrowedFd<'_>, batches: &Sender<WatchEvents>) -> Result<()> {
        let mut said = BTreeSet::new();
        loop {
            let ended = ActiveWatch::begin(self, wake, batches, &mut said)
                .and_then(|mut running| running.run());
            self.counters.watched.store(0, Relaxed);
            let why = match ended {
                Ok(ActiveWatchEnd::Stopped) => return Ok(()),
                Ok(ActiveWatchEnd::Lost(None)) => continue,
                Ok(ActiveWatchEnd::Lost(Some(why))) => why,
                Err(e) => reason(&e),
            };
            self.counters.lock().clone_from(&why);
            self.counters.unwatched.store(1, Relaxed);
            let path = self.tree.root().path().display().to_string();
            if said.insert(why.clone()) {
                log::warn!(
                    "cannot watch {path}: {why}; rescanning it every {} s instead",
                    self.unwatched_pause().as_secs()
                );
            }
            let rescan = WatchEvent::Rescan(Hint::Tree(String::new()));
            let batch = WatchEvents {
                at: clock::monotonic(),
                seen: vec![rescan],
            };
            // one that finds no room is made soon anyway
            if let Err(TrySendError::Disconnected(_)) = batches.try_send(batch) {
                return Ok(());
            }
            if wait::ready([readable(wake)], Some(self.unwatched_pause()))?[0] && self.woken(wake) {
                return Ok(());
            }
        }
    }

    /// Takes a wake-up. `true`: stop.
    fn woken(&self, wake: BorrowedFd<'_>) -> bool {
        // another read may have taken it
        let _ = rustix::io::read(wake, &mut [0; 8]);
        (self.stopped)()
    }

    /// The interval between two rescans of unwatched directories.
    fn unwatched_pause(&self) -> Duration {
        UNWATCHED_RETRY_INTERVAL.min(self.rescan)
    }
}

/// The state while the watches are valid.
struct ActiveWatch<'a> {
    watch: &'a Watch<'a>,
    wake: BorrowedFd<'a>,
    batches: &'a Sender<WatchEvents>,
    said: &'a mut BTreeSet<String>,
    inotify: Inotify,
    mounts: Mounting,
    dirs: HashMap<WatchDescriptor, String>,
    watches: BTreeMap<String, WatchDescriptor>,
    /// Directories that could not be watched, nor anything below them.
    unwatched: BTreeSet<String>,
    /// Events that were not sent yet.
    seen: Vec<WatchEvent>,
    /// Something found no room in the channel: the whole tree is to be rescanned.
    lost: bool,
    /// [`DiskTree::rules_changed`] at the beginning.
    rules: u64,
    next_try: Instant,
}

impl<'a> ActiveWatch<'a> {
    fn begin(
        watch: &'a Watch<'a>,
        wake: BorrowedFd<'a>,
        batches: &'a Sender<WatchEvents>,
        said: &'a mut BTreeSet<String>,
    ) -> std::io::Result<ActiveWatch<'a>> {
        Ok(ActiveWatch {
            watch,
            wake,
            batches,
            said,
            inotify: Inotify::init()?,
            mounts: Mounting::watch(watch.tree.root().path()),
            dirs: HashMap::new(),
            watches: BTreeMap::new(),
            unwatched: BTreeSet::new(),
            seen: Vec::new(),
            lost: false,
            rules: watch.tree.rules_changed(),
            next_try: clock::monotonic() + watch.unwatched_pause(),
        })
    }

    fn run(&mut self) -> std::io::Result<ActiveWatchEnd> {
        let other = |e: Error| std::io::Error::other(e.what);
        self.add("")?;
        if self.watches.is_empty() && self.unwatched.is_empty() {
            return Ok(ActiveWatchEnd::Lost(Some("it is not there".into())));
        }
        self.add_below("");
        // changes from before the watches
        self.add_rescan("");
        if !self.flush(clock::monotonic()) {
            return Ok(ActiveWatchEnd::Stopped);
        }
        let (mut buffer, mut read) = ([0; 16 * 1024], None);
        loop {
            let mounts = self.mounts.fd().map(|fd| (fd, PollFlags::PRI));
            let wanted = [readable(self.wake), readable(self.inotify.as_fd()), mounts];
            let [woken, events, mounts] = wait::ready(wanted, self.pause()).map_err(other)?;
            if woken && self.watch.woken(self.wake) {
                return Ok(ActiveWatchEnd::Stopped);
            }
            if mounts && self.mounts.has_changed() {
                // no event reports entries that a mount hides or reveals
                return Ok(ActiveWatchEnd::Lost(None));
            }
            let mut found = Vec::new();
            if events {
                let is_more = |read: Instant| clock::monotonic() < read + GATHERING_PAUSE;
                if read.is_some_and(is_more) {
                    std::thread::park_timeout(GATHERING_PAUSE);
                }
                match self.inotify.read_events(&mut buffer) {
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    batch => found.extend(
                        batch?.map(|e| (e.wd.clone(), e.mask, e.name.map(|n| n.to_os_string()))),
                    ),
                }
            }
            // both halves of a rename have the same time, however long it takes to watch a new
            // directory
            let at = clock::monotonic();
            read = events.then_some(at);
            for (wd, mask, name) in found {
                if let Some(ended) = self.event(&wd, mask, name.as_deref()).map_err(other)? {
                    return Ok(ended);
                }
            }
            self.try_unwatched();
            if !self.flush(at) {
                return Ok(ActiveWatchEnd::Stopped);
            }
            // the rules may now include other directories
            if self.watch.tree.rules_changed() != self.rules {
                return Ok(ActiveWatchEnd::Lost(None));
            }
        }
    }

    /// The time until there is work without an event.
    fn pause(&self) -> Option<Duration> {
        if self.lost {
            Some(FULL_CHANNEL_PAUSE)
        } else if self.unwatched.is_empty() {
            None
        } else {
            Some(self.next_try.saturating_duration_since(clock::monotonic()))
        }
    }

    fn try_unwatched(&mut self) {
        let now = clock::monotonic();
        if self.unwatched.is_empty() || now < self.next_try {
            return;
        }
        self.next_try = now + self.watch.unwatched_pause();
        for dir in std::mem::take(&mut self.unwatched) {
            if self.add(&dir).is_ok() && !self.unwatched.contains(&dir) {
                self.add_below(&dir);
            }
            self.add_rescan(&dir);
        }
        self.count();
    }

    fn add_rescan(&mut self, dir: &str) {
        self.seen.push(WatchEvent::Rescan(Hint::Tree(dir.into())));
    }

    /// Sends what was seen. `false`: the receiver is gone.
    fn flush(&mut self, at: Instant) -> bool {
        let mut seen = std::mem::take(&mut self.seen);
        if self.lost {
            seen = vec![WatchEvent::Rescan(Hint::Tree(String::new()))];
        }
        if seen.is_empty() {
            return true;
        }
        let told = self.batches.try_send(WatchEvents { at, seen });
        self.lost = matches!(told, Err(TrySendError::Full(_)));
        !matches!(told, Err(TrySendError::Disconnected(_)))
    }

    fn event(
        &mut self,
        wd: &WatchDescriptor,
        mask: EventMask,
        name: Option<&std::ffi::OsStr>,
    ) -> Result<Option<ActiveWatchEnd>> {
        if mask.contains(EventMask::Q_OVERFLOW) {
            // directories may have been created without being watched
            return Ok(Some(ActiveWatchEnd::Lost(None)));
        }
        let Some(dir) = self.dirs.get(wd).cloned() else {
            return Ok(None);
        };
        // while the root is open here, its removal causes no event of its own
        let own = name.is_some_and(|n| n.as_encoded_bytes() == relpath::OWN_DIR.as_bytes());
        if dir.is_empty() && own && mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
            return Ok(Some(ActiveWatchEnd::Lost(Some(format!(
                "its {} is gone",
                relpath::OWN_DIR
            )))));
        }
        if mask.intersects(
            EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::UNMOUNT | EventMask::MOVE_SELF,
        ) {
            if dir.is_empty() {
                return Ok(Some(ActiveWatchEnd::Lost(Some(
                    "it was removed, moved or unmounted".into(),
                ))));
            }
            // the old and the new parent directory report a directory that is moved
            if !mask.contains(EventMask::MOVE_SELF) {
                self.forget(wd);
            }
            return Ok(None);
        }
        if own
            && !dir.is_empty()
            && mask.intersects(
                EventMask::CREATE | EventMask::MOVED_TO | EventMask::DELETE | EventMask::MOVED_FROM,
            )
        {
            // another synced directory begins or ends here
            self.watch.tree.find_nested(&dir);
            self.add_rescan("");
            return Ok(None);
        }
        // names that are not UTF-8 are not synced
        let Some(name) = name
            .and_then(|n| n.to_str())
            .filter(|n| !relpath::is_own(n))
        else {
            return Ok(None);
        };
        let path = if dir.is_empty() {
            name.to_string()
        } else {
            format!("{dir}/{name}")
        };
        let is_dir = mask.contains(EventMask::ISDIR);
        if relpath::check(&path).is_err() || self.watch.tree.ignores(&path, is_dir) {
            return Ok(None);
        }
        if mask.intersects(EventMask::MOVED_FROM | EventMask::DELETE) {
            (self.watch.removed)();
            if is_dir {
                self.forget_below(&path);
            }
        }
        // it may be readable now
        let opened = is_dir && mask.contains(EventMask::ATTRIB) && self.unwatched.remove(&path);
        if is_dir && mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) || opened {
            self.add(&path)
                .map_err(|e| Error::io(format!("watch {path}"), &e))?;
            let files = self.add_below(&path);
            if mask.contains(EventMask::CREATE) {
                let found = |path| WatchEvent::Path(path, ChangeKind::Found);
                self.seen.extend(files.into_iter().map(found));
            }
        }
        if opened {
            // a full rescan records that the directory cannot be read
            self.add_rescan("");
        }
        let happened = change(mask, is_dir);
        self.seen.push(WatchEvent::Path(path, happened));
        Ok(None)
    }
}

fn change(mask: EventMask, is_dir: bool) -> ChangeKind {
    if mask.contains(EventMask::ATTRIB) {
        ChangeKind::Mode
    } else if mask.contains(EventMask::DELETE) {
        if is_dir {
            ChangeKind::RemovedTree
        } else {
            ChangeKind::Removed
        }
    } else if mask.contains(EventMask::MOVED_FROM) {
        if is_dir {
            ChangeKind::MovedAwayTree
        } else {
            ChangeKind::MovedAway
        }
    } else if mask.contains(EventMask::MOVED_TO) {
        if is_dir {
            ChangeKind::CompleteTree
        } else {
            ChangeKind::Complete
        }
    } else if is_dir {
        ChangeKind::Tree
    } else if mask.contains(EventMask::CLOSE_WRITE) {
        ChangeKind::Complete
    } else {
        ChangeKind::Touched
    }
}

/// Reads the ignore rules if a hint may concern them; wakes `inotify` if they have changed, because
/// other directories may have to be watched.
pub fn read_rules(tree: &DiskTree, hint: &Hint, wake: BorrowedFd<'_>) {
    let (Hint::Path(path) | Hint::Entries(path) | Hint::Tree(path)) = hint;
    // the rescan reports errors in the rules
    if (ignore::is_file(path) || path.is_empty()) && tree.read_rules().unwrap_or(false) {
        let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests;
