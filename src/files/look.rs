//! Looks at the tree and offers what may be out of sync to the engine.
//!
//! `stat` against the base row decides what is offered; contents are read by the engine. A look at much makes deletes wait
//! until it is over, so that the guard sees all of them.

use std::time::Duration;

use super::conflict::is_copy;
use super::debounce::Hint;
use super::directory::Directory;
use super::engine::traits::{Called, Fault, Rows, State, Tree};
use super::ignore;
use super::plan::{Stamp, parent};
use super::scan::{self, Depth, Found, Skipped};
use super::state::DiskState;
use super::stats::Stats;
use super::tree::{DiskTree, Folds};
use crate::clock;
use crate::config::limits;

/// Rows that are read from the state at once.
const PATHS_PER_READ: usize = 256;
/// Temporary names that a crash has left and that are cleared at a start; later starts find the others.
const MOST_LEFT: usize = 10_000;
/// For how long room is waited for before it is given up that there will be any.
const STALLED_OFFER_TIMEOUT: Duration = Duration::from_millis(500);
const OFFER_PAUSE: Duration = Duration::from_millis(10);
/// The note in the state that keeps the rules that were read last.
const RULES: &str = "rules";

/// One look.
struct Looker<'a> {
    d: &'a Directory,
    /// So much may be under way before more is offered.
    room: usize,
    /// Names of conflict copies.
    copies: u64,
}

impl Directory {
    /// Offers what a hint says. Errors: `Fatal` when the directory is not what it was.
    pub fn look(&self, hint: &Hint) -> Called<()> {
        match hint {
            Hint::Path(path) => {
                if ignore::is_file(path) {
                    return self.rules_changed(path);
                }
                // what never travels is counted at the next look at everything; where a file stood before, it is in the way
                if self.tree.is_special(path) && self.state.rows(path)?.base.entry.is_none() {
                    return Ok(());
                }
                self.engine.offer(path);
                self.room_perhaps(path);
                self.twins_perhaps(path);
                let looked = self.look_at_emptied(parent(path));
                self.wakeup.wake();
                looked
            }
            Hint::Entries(dir) => self
                .look_below(dir, Depth::Entries)
                .and_then(|_| self.look_at_emptied(Some(dir))),
            Hint::Tree(dir) if dir.is_empty() => self.look_at_all(),
            Hint::Tree(dir) => {
                self.engine.offer(dir);
                self.look_below(dir, Depth::All)
                    .and_then(|_| self.look_at_emptied(parent(dir)))
            }
        }
    }

    /// What is gone has made room, if that is what is waited for.
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

    /// A directory counts by itself once nothing is in it. What was in it may never have been known, so that nobody says so.
    fn look_at_emptied(&self, dir: Option<&str>) -> Called<()> {
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

    /// Offers everything that differs from its base, and everything that is pending.
    pub fn look_at_all(&self) -> Called<()> {
        let looking = self.engine.look_around();
        self.stats.looks_at_all();
        self.tree.forget_names();
        self.read_rules()?;
        let (skipped, copies) = self.look_below("", Depth::All)?;
        self.stats.looked_at_all(skipped, copies);
        self.sweep()?;
        drop(looking);
        self.wakeup.wake();
        Ok(())
    }

    /// Offers what the state has open or pending.
    pub fn sweep(&self) -> Called<()> {
        let mut looker = Looker {
            d: self,
            room: limits::UNDER_WAY,
            copies: 0,
        };
        let mut after = String::new();
        while let Some(last) = self.engine.sweep(&after)? {
            after = last;
            looker.wait_for_room();
        }
        self.wakeup.wake();
        Ok(())
    }

    /// Removes what a crash has left under temporary names; before anything else is done.
    pub fn clear_left_over(&self) -> Called<()> {
        let mut left = Vec::new();
        scan::scan(&self.tree, "", Depth::All, &mut |found| {
            if let Found::Temporary(path) = found {
                left.push(path.to_string());
            }
            Ok(left.len() < MOST_LEFT)
        })?;
        left.iter().try_for_each(|temp| self.engine.clear(temp))
    }

    fn rules_changed(&self, path: &str) -> Called<()> {
        self.engine.offer(path);
        if self.read_rules()? {
            return self.look_at_all();
        }
        self.wakeup.wake();
        Ok(())
    }

    fn read_rules(&self) -> Called<bool> {
        read_rules(&self.tree, &self.state, &self.stats)
    }

    fn look_below(&self, dir: &str, depth: Depth) -> Called<(Skipped, u64)> {
        let looking = self.engine.look_around();
        let mut looker = Looker {
            d: self,
            room: limits::UNDER_WAY,
            copies: 0,
        };
        let skipped = scan::scan(&self.tree, dir, depth, &mut |found| {
            if let Found::Name { path, is_dir } = found {
                looker.found(path, is_dir)?;
            }
            Ok(!self.wakeup.is_stopped())
        })?;
        looker.missing(dir, depth)?;
        self.stats
            .refused_below(dir)
            .iter()
            .for_each(|path| looker.offer(path));
        // what is missing is only known if this was the directory all along
        self.tree.check()?;
        drop(looking);
        self.wakeup.wake();
        Ok((skipped, looker.copies))
    }
}

/// Reads the ignore rules again; whether they have changed. The last ones that could be read apply until the file can be read
/// again, also after a restart.
pub(super) fn read_rules(tree: &DiskTree, state: &DiskState, stats: &Stats) -> Called<bool> {
    match tree.read_rules() {
        Ok(changed) => {
            let text = tree.rules_text();
            if state.note(RULES)?.as_deref() != Some(&text) {
                state.set_note(RULES, &text)?;
            }
            stats.rules(None);
            Ok(changed)
        }
        Err(e) => {
            let (file, known) = (tree.root().path().join(ignore::FILE), state.note(RULES)?);
            let until = if known.is_some() {
                "the last rules that were read apply"
            } else {
                "only this file is synced"
            };
            let why = format!(
                "cannot read {}: {}; until it is mended, {until}",
                file.display(),
                crate::error::plain(&e)
            );
            if stats.rules(Some(why.clone())) {
                log::warn!("{why}");
            }
            Ok(known.is_some_and(|known| tree.use_rules(&known)))
        }
    }
}

impl Looker<'_> {
    fn found(&mut self, path: &str, is_dir: bool) -> Called<()> {
        self.copies += u64::from(is_copy(path));
        let d = self.d;
        let Rows { base, .. } = d.state.rows(path)?;
        let known = base.entry.is_some();
        let differs = match is_dir {
            _ if d.tree.ignored(path) => known,
            true if !known => {
                self.is_empty(path)?
                    || self
                        .stamp(path)?
                        .is_some_and(|s| d.engine.has_own_mode(s.mode))
            }
            true => {
                base.entry.is_some_and(|e| !e.is_dir())
                    || self.stamp(path)?.map(|s| s.mode) != base.seen.map(|s| s.mode)
            }
            false => {
                !known
                    || base
                        .seen
                        .is_none_or(|seen| seen.ctime == 0 || d.tree.doubts(&seen))
                    || self.stamp(path)? != base.seen
            }
        };
        if differs {
            self.offer(path);
        }
        Ok(())
    }

    /// What the base has and the tree has not, or ignores by now.
    fn missing(&mut self, dir: &str, depth: Depth) -> Called<()> {
        let mut after = String::new();
        loop {
            let rows = self.d.state.below(dir, &after, PATHS_PER_READ)?;
            for (path, rows) in &rows {
                if depth == Depth::Entries && parent(path).unwrap_or("") != dir {
                    continue;
                }
                // what was refused there, say, may be possible by now; in the root a sweep follows
                if rows.base.rev != rows.remote.rev && !dir.is_empty() {
                    self.offer(path);
                    continue;
                }
                if rows.base.entry.is_none() {
                    continue;
                }
                let gone = match self.d.tree.stamp(path) {
                    // a pipe or device has no inode here: it stands where a file was, and that is to be said
                    Ok(stamp) => stamp.is_none_or(|s| s.inode == 0),
                    // it is not known, so nothing is said about it
                    Err(Fault::Later(_) | Fault::Refused(_)) => false,
                    Err(fault) => return Err(fault),
                };
                if gone || self.d.tree.ignored(path) {
                    self.offer(path);
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == PATHS_PER_READ && !self.d.wakeup.is_stopped() => {
                    after = last.clone()
                }
                _ => return Ok(()),
            }
        }
    }

    /// What cannot be read is left alone, and the look goes on.
    fn is_empty(&self, dir: &str) -> Called<bool> {
        match self.d.tree.is_empty(dir) {
            Err(Fault::Later(_) | Fault::Refused(_)) => Ok(false),
            other => other,
        }
    }

    fn stamp(&self, path: &str) -> Called<Option<Stamp>> {
        match self.d.tree.stamp(path) {
            Err(Fault::Later(_) | Fault::Refused(_)) => Ok(None),
            other => other,
        }
    }

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
