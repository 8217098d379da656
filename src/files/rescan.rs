//! Finds paths that may be out of sync between the tree, the state and the hub.
//! [`Directory::differences`] is the only such walk: a running client and a single pass offer its
//! results to the engine, and a dry run prints them.
//!
//! The stamp is compared with the base row; the engine reads contents. Deletes wait until a rescan
//! has ended, so that the guard sees all of them.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::conflict::is_copy;
use super::debounce::Hint;
use super::directory::{Directory, rules};
use super::engine::pages::each_below;
use super::engine::traits::{CallResult, Fault, Rows, State, Tree};
use super::engine::{PollResult, Preview};
use super::ignore;
use super::plan::{Action, BaseRow, Stamp, parent};
use super::tree::NameFolding;
use super::tree::scan::{self, Depth, ScanItem, SkippedEntries};
use crate::clock;
use crate::config::limits;
use crate::error::Result;

/// Temporary names left by a crash that one start removes; later starts find the others.
const MAX_TEMPORARY_NAMES: usize = 10_000;
/// Names that a walk remembers, so that it need not look at them again to find the ones that are missing.
const MAX_REMEMBERED_NAMES: usize = 10_000;
/// How long a rescan waits for room in a queue that does not shrink.
const STALLED_OFFER_TIMEOUT: Duration = Duration::from_millis(500);
const OFFER_PAUSE: Duration = Duration::from_millis(10);

/// What a walk found besides the differences.
#[derive(Debug, Default)]
pub struct WalkFindings {
    pub skipped: SkippedEntries,
    /// Names of conflict copies.
    pub copies: u64,
    /// Temporary names that the engine looks for.
    pub temporary: Vec<String>,
}

/// What a pass would do, without doing it.
#[derive(Debug)]
pub struct Plans {
    /// All planned actions, in the order of the paths.
    pub all: Vec<(String, Preview)>,
    /// The guard would hold the deletes.
    pub holds: bool,
    pub skipped: SkippedEntries,
}

/// Offers paths to the engine, and waits while the queue is full.
struct Offerer<'a> {
    d: &'a Directory,
    /// The queue length above which offers wait.
    room: usize,
}

impl Directory {
    /// Passes each path below a directory ("" is the root) that may be out of sync to `found`; a
    /// path may be passed twice. Ends early when the work on the directory ends. Changes and offers
    /// nothing.
    pub fn differences(
        &self,
        dir: &str,
        depth: Depth,
        tell: &mut dyn FnMut(&str) -> CallResult<()>,
    ) -> CallResult<WalkFindings> {
        let (mut copies, mut here, mut temporary) = (0, HashSet::new(), Vec::new());
        let skipped = scan::scan(&self.tree, dir, depth, &mut |found| {
            match found {
                ScanItem::Name { path, is_dir } => {
                    if here.len() < MAX_REMEMBERED_NAMES {
                        here.insert(path.to_string());
                    }
                    copies += u64::from(is_copy(path));
                    if self.differs(path, is_dir)? {
                        tell(path)?;
                    }
                }
                ScanItem::Temporary(path) if self.engine.seeks(path) => {
                    temporary.push(path.to_string());
                }
                ScanItem::Temporary(_) | ScanItem::Unknown { .. } => {}
            }
            Ok(!self.wakeup.is_stopped())
        })?;
        each_below(&*self.state, dir, |path, rows| {
            let is_within = depth == Depth::All || parent(path).unwrap_or("") == dir;
            let is_here = here.contains(path);
            if is_within && (rows.is_pending() || self.has_left(path, &rows.base, is_here)?) {
                tell(path)?;
            }
            Ok::<_, Fault>(!self.wakeup.is_stopped())
        })?;
        // the missing files are only known if this was the right directory all along
        self.tree.check()?;
        Ok(WalkFindings {
            skipped,
            copies,
            temporary,
        })
    }

    /// The planned actions for all differences. `allow_deletes`: the guard would hold none.
    pub fn preview(&self, allow_deletes: bool) -> Result<Plans> {
        while self.engine.poll()? != PollResult::Drained {}
        let mut all = BTreeMap::new();
        let met = self.differences("", Depth::All, &mut |path| {
            if let Some(preview) = self.engine.preview(path)? {
                all.insert(path.to_string(), preview);
            }
            Ok(())
        })?;
        let new: HashSet<_> = all
            .values()
            .filter(|p| p.plan.action == Action::Upload)
            .filter_map(|p| p.entry.map(|e| e.hash))
            .collect();
        let renamed = |p: &Preview| {
            p.plan.action == Action::Delete && p.entry.is_some_and(|e| new.contains(&e.hash))
        };
        let deletes = all.values().filter(|p| p.counted && !renamed(p)).count() as u64;
        let holds = deletes > 0 && !allow_deletes && self.engine.would_hold(deletes)?;
        all.retain(|_, p| !matches!(p.plan.action, Action::Forget | Action::Adopt));
        Ok(Plans {
            all: all.into_iter().collect(),
            holds,
            skipped: met.skipped,
        })
    }

    /// Offers the paths that a hint covers; the caller wakes the workers. Errors: `Fatal` if the directory was replaced.
    pub fn rescan(&self, hint: &Hint) -> CallResult<()> {
        match hint {
            Hint::Path(path) => {
                if ignore::is_file(path) {
                    return self.rules_changed(path);
                }
                let stamp = self.tree.stamp(path);
                if let Ok(Some(stamp)) = &stamp
                    && self.needs_nothing(path, stamp)?
                {
                    return Ok(());
                }
                self.engine.offer(path);
                match stamp {
                    // so its directory is not empty
                    Ok(Some(_)) => return Ok(()),
                    Ok(None) => {
                        self.room_perhaps();
                        self.twins_perhaps(path);
                    }
                    Err(_) => {}
                }
                self.offer_emptied(parent(path))
            }
            Hint::Entries(dir) => self
                .rescan_below(dir, Depth::Entries)
                .and_then(|_| self.offer_emptied(Some(dir))),
            // status names what a scan of everything leaves out
            Hint::Tree(dir) if dir.is_empty() || self.tree.find_nested(dir) => self.rescan_all(),
            Hint::Tree(dir) => {
                self.engine.offer(dir);
                self.rescan_below(dir, Depth::All)
                    .and_then(|_| self.offer_emptied(parent(dir)))
            }
        }
    }

    /// Offers everything that differs.
    pub fn rescan_all(&self) -> CallResult<()> {
        let looking = self.engine.begin_rescan();
        self.stats.rescan_begins();
        self.tree.forget_names();
        self.read_rules()?;
        let sought = self.engine.sought();
        let found = self.rescan_below("", Depth::All)?;
        let is_whole = found.skipped.unknown.count == 0 && !self.wakeup.is_stopped();
        self.engine.walked(&sought, &found.temporary, is_whole);
        self.stats.rescanned(found.skipped, found.copies);
        drop(looking);
        self.wakeup.wake();
        Ok(())
    }

    fn rescan_below(&self, dir: &str, depth: Depth) -> CallResult<WalkFindings> {
        let looking = self.engine.begin_rescan();
        let mut offers = Offerer {
            d: self,
            room: limits::OFFERED_PATHS,
        };
        let met = self.differences(dir, depth, &mut |path| {
            offers.offer(path);
            Ok(())
        })?;
        self.stats
            .refused_below(dir)
            .iter()
            .for_each(|path| offers.offer(path));
        drop(looking);
        self.wakeup.wake();
        Ok(met)
    }

    /// Retries downloads that wait for free space: a deleted file may have made some.
    fn room_perhaps(&self) {
        if self.is_full() {
            self.try_again();
        }
    }

    /// Offers the other names that the disk folds into a free one.
    fn twins_perhaps(&self, path: &str) {
        if self.tree.folds() != NameFolding::Nowhere {
            self.stats
                .refused_below(parent(path).unwrap_or(""))
                .iter()
                .for_each(|path| {
                    self.engine.offer(path);
                });
        }
    }

    /// Offers a directory that may have become empty: it is an entry of its own then. If its files
    /// were never known, no event says so.
    fn offer_emptied(&self, dir: Option<&str>) -> CallResult<()> {
        let Some(dir) = dir.filter(|dir| !dir.is_empty()) else {
            return Ok(());
        };
        match self.tree.is_empty(dir) {
            // also `true` for anything that is not a directory
            Ok(true) => drop(self.engine.offer(dir)),
            Ok(false) | Err(Fault::Later(_) | Fault::Refused(_)) => {}
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Removes temporary names left by a crash; called before anything else.
    pub fn clear_left_over(&self) -> CallResult<()> {
        let mut temporary = Vec::new();
        scan::scan(&self.tree, "", Depth::All, &mut |found| {
            if let ScanItem::Temporary(path) = found {
                temporary.push(path.to_string());
            }
            Ok(temporary.len() < MAX_TEMPORARY_NAMES)
        })?;
        self.engine.clear(&temporary)
    }

    fn rules_changed(&self, path: &str) -> CallResult<()> {
        self.engine.offer(path);
        if self.read_rules()? {
            return self.rescan_all();
        }
        self.wakeup.wake();
        Ok(())
    }

    fn read_rules(&self) -> CallResult<bool> {
        rules::read(&self.tree, &self.state, &self.stats)
    }

    /// Whether an entry that an event has named is never synced, or is a file in sync: most events are about changes that
    /// this program has made. `stamp`: of the entry.
    fn needs_nothing(&self, path: &str, stamp: &Stamp) -> CallResult<bool> {
        let rows = self.state.rows(path)?;
        let Some(entry) = rows.base.entry else {
            // a pipe or device has no inode here. It is counted at the next full rescan; in place of a file it blocks the path
            return Ok(stamp.inode == 0);
        };
        Ok(!entry.is_dir()
            && rows.base.seen == Some(*stamp)
            && stamp.ctime != 0
            && !rows.is_pending()
            && !self.stats.is_refused(path)
            && !self.tree.doubts(stamp)
            && !self.tree.ignored(path))
    }

    /// Whether an entry of the tree differs from the base.
    fn differs(&self, path: &str, is_dir: bool) -> CallResult<bool> {
        let Rows { base, .. } = self.state.rows(path)?;
        let known = base.entry.is_some();
        if self.tree.ignored(path) {
            return Ok(known);
        }
        Ok(match (is_dir, known) {
            (true, false) => {
                self.is_empty(path)?
                    || self
                        .stamp(path)?
                        .is_some_and(|s| self.engine.has_own_mode(s.mode))
            }
            (true, true) => {
                base.entry.is_some_and(|e| !e.is_dir())
                    || self.stamp(path)?.map(|s| s.mode) != base.seen.map(|s| s.mode)
            }
            (false, false) => true,
            (false, true) => {
                base.seen
                    .is_none_or(|seen| seen.ctime == 0 || self.tree.doubts(&seen))
                    || self.stamp(path)? != base.seen
            }
        })
    }

    /// Whether an entry of the base is no longer in the tree, or is ignored now. `is_here`: the walk has just met it.
    fn has_left(&self, path: &str, base: &BaseRow, is_here: bool) -> CallResult<bool> {
        if base.entry.is_none() {
            return Ok(false);
        }
        if is_here {
            return Ok(self.tree.ignored(path));
        }
        let is_missing = match self.tree.stamp(path) {
            // a pipe or device has no inode here: it took the place of a file, which is reported
            Ok(stamp) => stamp.is_none_or(|s| s.inode == 0),
            // the state of the path is unknown, so nothing is reported
            Err(Fault::Later(_) | Fault::Refused(_)) => false,
            Err(fault) => return Err(fault),
        };
        Ok(is_missing || self.tree.ignored(path))
    }

    /// A directory that cannot be read is skipped, and the walk continues.
    fn is_empty(&self, dir: &str) -> CallResult<bool> {
        match self.tree.is_empty(dir) {
            Err(Fault::Later(_) | Fault::Refused(_)) => Ok(false),
            other => other,
        }
    }

    fn stamp(&self, path: &str) -> CallResult<Option<Stamp>> {
        match self.tree.stamp(path) {
            Err(Fault::Later(_) | Fault::Refused(_)) => Ok(None),
            other => other,
        }
    }
}

impl Offerer<'_> {
    fn offer(&mut self, path: &str) {
        self.d.engine.offer(path);
        self.wait_for_room();
    }

    /// Keeps memory for running work. Paths that wait for an unreachable hub, or for a path that
    /// was not offered yet, may fill the queue; a later rescan finds the paths that do not fit.
    fn wait_for_room(&mut self) {
        let d = self.d;
        // the workers need not wait for the end of a long rescan
        d.wakeup.wake();
        if d.engine.active() < self.room {
            return;
        }
        let mut before = (d.worked(), clock::monotonic());
        while d.engine.active() >= self.room - self.room / 4 && d.wakeup.pause(OFFER_PAUSE) {
            let worked = d.worked();
            if worked != before.0 {
                before = (worked, clock::monotonic());
            } else if before.1.elapsed() > STALLED_OFFER_TIMEOUT {
                self.room *= 2;
            }
        }
    }
}
