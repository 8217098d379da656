//! Finds what may be out of sync between the tree, the state and the hub. [`Directory::differences`] is the only such walk: what
//! it finds is offered to the engine by a running client and by a single pass, and told by a dry run.
//!
//! `stat` against the base row decides; contents are read by the engine. Deletes wait until a rescan is over, so that the guard
//! sees all of them.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::conflict::is_copy;
use super::debounce::Hint;
use super::directory::{Directory, rules};
use super::engine::pages::each_below;
use super::engine::traits::{Called, Fault, Rows, State, Tree};
use super::engine::{Polled, Preview};
use super::ignore;
use super::plan::{Action, BaseRow, Stamp, parent};
use super::tree::Folds;
use super::tree::scan::{self, Depth, Found, Skipped};
use crate::clock;
use crate::config::limits;
use crate::error::Result;

/// Temporary names that a crash has left and that are cleared at a start; later starts find the others.
const MAX_TEMPORARY_NAMES: usize = 10_000;
/// How long a rescan waits for room in the queue before it gives up that there will be any.
const STALLED_OFFER_TIMEOUT: Duration = Duration::from_millis(500);
const OFFER_PAUSE: Duration = Duration::from_millis(10);

/// What a walk has met besides the differences.
#[derive(Debug, Default)]
pub struct Met {
    pub skipped: Skipped,
    /// Names of conflict copies.
    pub copies: u64,
}

/// What a pass would do, without doing it.
#[derive(Debug)]
pub struct Plans {
    /// With their paths, in order.
    pub all: Vec<(String, Preview)>,
    /// The guard would hold the deletes.
    pub holds: bool,
    pub skipped: Skipped,
}

/// Offers paths to the engine, and waits while the queue is full.
struct Offers<'a> {
    d: &'a Directory,
    /// So much may be under way before more is offered.
    room: usize,
}

impl Directory {
    /// Tells each path below a directory ("" is the root) that may be out of sync; one may be told twice. Ends early when the work
    /// on the directory ends. Nothing is changed, nor offered.
    pub fn differences(
        &self,
        dir: &str,
        depth: Depth,
        tell: &mut dyn FnMut(&str) -> Called<()>,
    ) -> Called<Met> {
        let mut copies = 0;
        let skipped = scan::scan(&self.tree, dir, depth, &mut |found| {
            if let Found::Name { path, is_dir } = found {
                copies += u64::from(is_copy(path));
                if self.differs(path, is_dir)? {
                    tell(path)?;
                }
            }
            Ok(!self.wakeup.is_stopped())
        })?;
        each_below(&*self.state, dir, |path, rows| {
            let is_within = depth == Depth::All || parent(path).unwrap_or("") == dir;
            if is_within && (rows.is_pending() || self.has_left(path, &rows.base)?) {
                tell(path)?;
            }
            Ok::<_, Fault>(!self.wakeup.is_stopped())
        })?;
        // what is missing is only known if this was the directory all along
        self.tree.check()?;
        Ok(Met { skipped, copies })
    }

    /// What would be done about all differences. `allow_deletes`: the guard would hold none.
    pub fn preview(&self, allow_deletes: bool) -> Result<Plans> {
        while self.engine.poll()? != Polled::Drained {}
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

    /// Offers what a hint says. Errors: `Fatal` when the directory is not what it was.
    pub fn rescan(&self, hint: &Hint) -> Called<()> {
        match hint {
            Hint::Path(path) => {
                if ignore::is_file(path) {
                    return self.rules_changed(path);
                }
                // what never travels is counted at the next rescan; where a file stood before, it is in the way
                if self.tree.is_special(path) && self.state.rows(path)?.base.entry.is_none() {
                    return Ok(());
                }
                self.engine.offer(path);
                self.room_perhaps(path);
                self.twins_perhaps(path);
                let offered = self.offer_emptied(parent(path));
                self.wakeup.wake();
                offered
            }
            Hint::Entries(dir) => self
                .rescan_below(dir, Depth::Entries)
                .and_then(|_| self.offer_emptied(Some(dir))),
            Hint::Tree(dir) if dir.is_empty() => self.rescan_all(),
            Hint::Tree(dir) => {
                self.engine.offer(dir);
                self.rescan_below(dir, Depth::All)
                    .and_then(|_| self.offer_emptied(parent(dir)))
            }
        }
    }

    /// Offers everything that differs.
    pub fn rescan_all(&self) -> Called<()> {
        let looking = self.engine.look_around();
        self.stats.rescan_begins();
        self.tree.forget_names();
        self.read_rules()?;
        let Met { skipped, copies } = self.rescan_below("", Depth::All)?;
        self.stats.rescanned(skipped, copies);
        drop(looking);
        self.wakeup.wake();
        Ok(())
    }

    fn rescan_below(&self, dir: &str, depth: Depth) -> Called<Met> {
        let looking = self.engine.look_around();
        let mut offers = Offers {
            d: self,
            room: limits::UNDER_WAY,
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

    /// A deleted file has made room, if downloads wait for some.
    fn room_perhaps(&self, path: &str) {
        if self.is_full() && self.tree.stamp(path).is_ok_and(|stamp| stamp.is_none()) {
            self.try_again();
        }
    }

    /// A name that is free makes way for another one that the disk takes for the same.
    fn twins_perhaps(&self, path: &str) {
        if self.tree.folds() != Folds::Nowhere
            && self.tree.stamp(path).is_ok_and(|stamp| stamp.is_none())
        {
            self.stats
                .refused_below(parent(path).unwrap_or(""))
                .iter()
                .for_each(|path| {
                    self.engine.offer(path);
                });
        }
    }

    /// A directory counts by itself once it is empty. If its files were never known, no event tells that.
    fn offer_emptied(&self, dir: Option<&str>) -> Called<()> {
        let Some(dir) = dir.filter(|dir| !dir.is_empty()) else {
            return Ok(());
        };
        match self.tree.is_empty(dir) {
            // `true` also for what is no directory
            Ok(true) => drop(self.engine.offer(dir)),
            Ok(false) | Err(Fault::Later(_) | Fault::Refused(_)) => {}
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Removes what a crash has left under temporary names; before anything else is done.
    pub fn clear_left_over(&self) -> Called<()> {
        let mut temporary = Vec::new();
        scan::scan(&self.tree, "", Depth::All, &mut |found| {
            if let Found::Temporary(path) = found {
                temporary.push(path.to_string());
            }
            Ok(temporary.len() < MAX_TEMPORARY_NAMES)
        })?;
        self.engine.clear(&temporary)
    }

    fn rules_changed(&self, path: &str) -> Called<()> {
        self.engine.offer(path);
        if self.read_rules()? {
            return self.rescan_all();
        }
        self.wakeup.wake();
        Ok(())
    }

    fn read_rules(&self) -> Called<bool> {
        rules::read(&self.tree, &self.state, &self.stats)
    }

    /// Whether what is in the tree under a name differs from the base.
    fn differs(&self, path: &str, is_dir: bool) -> Called<bool> {
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

    /// Whether what the base has is no longer in the tree, or ignored by now.
    fn has_left(&self, path: &str, base: &BaseRow) -> Called<bool> {
        if base.entry.is_none() {
            return Ok(false);
        }
        let is_missing = match self.tree.stamp(path) {
            // a pipe or device has no inode here: it stands where a file was, and that is to be said
            Ok(stamp) => stamp.is_none_or(|s| s.inode == 0),
            // it is not known, so nothing is said about it
            Err(Fault::Later(_) | Fault::Refused(_)) => false,
            Err(fault) => return Err(fault),
        };
        Ok(is_missing || self.tree.ignored(path))
    }

    /// A directory that cannot be read is left alone, and the walk continues.
    fn is_empty(&self, dir: &str) -> Called<bool> {
        match self.tree.is_empty(dir) {
            Err(Fault::Later(_) | Fault::Refused(_)) => Ok(false),
            other => other,
        }
    }

    fn stamp(&self, path: &str) -> Called<Option<Stamp>> {
        match self.tree.stamp(path) {
            Err(Fault::Later(_) | Fault::Refused(_)) => Ok(None),
            other => other,
        }
    }
}

impl Offers<'_> {
    fn offer(&mut self, path: &str) {
        self.d.engine.offer(path);
        self.wait_for_room();
    }

    /// Memory is for what is under way. What waits for a hub that is not there, or for something that was not offered yet, gets
    /// more room: up to that of the queue, and beyond that it is found by another look.
    fn wait_for_room(&mut self) {
        let d = self.d;
        // the workers need not wait for the end of a long look
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
